"""One connection to one guest: who waits for which reply. All interleavings are explored in `tests/explore`."""

import copy
import gc
import json
import pickle
import traceback
import weakref
from collections import OrderedDict
from math import inf, nan

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interrupts import every_place, interrupt, interrupt_after, locals_of
from stereos_proto import (
    NEED_DATA,
    REDACTED,
    Ack,
    CallDone,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    HostSession,
    IncompleteLine,
    InjectSecret,
    InjectSSHKey,
    Kind,
    Lifecycle,
    LocalProtocolError,
    MalformedLine,
    Mount,
    NotificationReceived,
    OutcomeUnknown,
    Ping,
    Pong,
    RequestFailed,
    RequestTimeout,
    Role,
    SessionEnded,
    SetConfig,
    State,
    StereosError,
    UnexpectedReply,
    UnknownMessage,
    UnknownReceived,
    _host_session,
    decode,
    encode,
)
from stereos_proto.testing import strategies as stereos

MOUNT = Mount("share0", "/workspace", "9p")
BROKEN = OSError(32, "Broken pipe")


def asked(*requests, written=True, **options):
    """A session with calls whose lines are handed out, and written."""
    session = HostSession(**options)
    calls = session.request_many(requests)
    data = session.data_to_send()
    if written:
        session.data_sent(len(data))
    return session, calls


def heard(session, *messages):
    session.receive_data(b"".join(map(encode, messages)))
    return list(session.events())


# The guest in errors, and what is refused


@pytest.mark.parametrize(
    "end",
    [
        lambda session: session.receive_data(encode(Ack("ping", False, "no"))),
        lambda session: session.receive_data(b"oops\n"),
        lambda session: session.receive_data(encode(Health("ready"))),
        lambda session: session.receive_eof(),
        lambda session: session.read_failed(BROKEN),
        lambda session: session.write_failed(BROKEN),
        lambda session: session.expire(5),
        lambda session: session.cancel(session.pending[0]),
        lambda session: session.close(),
        lambda session: session.abort(),
        lambda session: session.end(RequestTimeout("late")),
    ],
)
@pytest.mark.parametrize("written", [True, False])
def test_every_error_names_the_guest(end, written):
    """One of twenty in a group of exceptions is of no use without."""
    session = HostSession("web-5")
    call = session.request(Ping(), deadline=5)
    if written:
        session.data_sent(len(session.data_to_send()))
    end(session)
    list(session.events())
    if not call.done:
        session.close()
    with pytest.raises(StereosError) as caught:
        call.result()
    assert caught.value.guest == "web-5"
    assert "web-5" in "".join(traceback.format_exception_only(caught.value))
    assert session.ended is None or session.ended.guest == "web-5"


def test_a_call_that_a_timer_gave_up_was_not_cancelled():
    session, (one, two) = asked(Ping(), Ping())
    session.cancel(one)
    session.cancel(two, timed_out=True)
    assert str(one.outcome) == "the guest did not answer ping before it was cancelled"
    assert str(two.outcome) == "the guest did not answer ping in time"


def test_more_cannot_be_written_than_there_was():
    session, _ = asked(Ping(), written=False)
    size = len(session.data_to_send())
    for wrong in (-1, size + 1):
        with pytest.raises(ValueError, match=f"{wrong} bytes cannot have been written: {size} were handed out"):
            session.data_sent(wrong)
    assert session.data_sent(1) is True
    with pytest.raises(ValueError, match=f"{size} bytes cannot have been written: {size - 1} were handed out"):
        session.data_sent(size)
    assert session.data_sent(size - 1) is False
    assert heard(session, Pong())
    # A write that was under way when the session ended says so late.
    session.close()
    assert session.data_sent(5) is False


def test_there_is_more_to_write_while_there_is_room_in_flight():
    session = HostSession(max_pending=2)
    big = SetConfig("x" * 70_000)
    session.request_many([big] * 3)
    assert session.data_sent(len(session.data_to_send())) is True
    assert session.data_sent(len(session.data_to_send())) is False
    assert session.data_to_send() == b""
    assert heard(session, Ack("set_config", True))
    assert session.data_sent(len(session.data_to_send())) is False
    assert session.connection.pending == (big, big)


def test_the_repr_of_a_call_tells_what_kind_of_outcome_it_has():
    session, (call,) = asked(Ping())
    assert repr(call) == "Call(request=Ping(), context=None, deadline=None, outcome=None, done=False, sent=True)"
    heard(session, Pong())
    assert "outcome=<Pong>" in repr(call)


# Properties


@given(st.lists(stereos.messages(kind=Kind.REQUEST).filter(stereos.is_sendable), max_size=5), st.data())
@settings(max_examples=25)
def test_each_request_gets_its_own_reply_however_it_is_cut(requests, data):
    session = HostSession(max_pending=data.draw(st.integers(1, 4)))
    calls = session.request_many(requests)
    lines, written, answered = b"".join(map(encode, requests)), b"", 0
    said = [data.draw(stereos.replies_to(request)) for request in requests]
    done = []
    while answered < len(requests):
        piece = bytes(session.data_to_send())
        size = data.draw(st.integers(len(piece) // 3 + 1, len(piece) + 1))
        session.data_sent(min(size, len(piece)))
        written += piece[:size]
        assert lines.startswith(written)
        # The simplest choice, which is also what a fuzzer's input ends with, goes on.
        if answered < written.count(b"\n") and not data.draw(st.booleans()):
            session.receive_data(encode(said[answered]))
            answered += 1
            done += list(session.events())
    assert done == [CallDone(call) for call in calls]
    for call, reply in zip(calls, said, strict=True):
        # A refusal may quote a secret by chance.
        quotes = isinstance(reply, Ack) and reply.error and REDACTED in call.outcome.error
        assert call.outcome == (Ack(reply.reply_to, reply.ok, call.outcome.error) if quotes else reply)
    assert session.pending == ()


@given(st.lists(st.one_of(st.none(), st.floats(0, 5)), min_size=1, max_size=200), st.lists(st.floats(0, 5), max_size=5))
def test_deadlines(deadlines, times):
    session = HostSession(max_pending=1)
    calls = [session.request(Ping(), deadline=deadline) for deadline in deadlines]
    assert session.next_deadline() == min((one for one in deadlines if one is not None), default=None)
    for now in sorted(times):
        session.expire(now)
        over = [call for call in calls if call.deadline is not None and call.deadline <= now]
        assert all(isinstance(call.outcome, RequestTimeout) for call in over)
        left = [call for call in calls if call not in over]
        assert session.pending == tuple(left)
        later = [call.deadline for call in left if call.deadline is not None]
        assert session.next_deadline() == min(later, default=None)
    told = [event.call for event in session.events()]
    assert session.next_deadline() is None or session.next_deadline() > max(times, default=-1)
    assert told == sorted(told, key=lambda call: (call.deadline, calls.index(call)))


def test_a_deadline_of_a_done_call_is_no_deadline():
    session = HostSession()
    first, _ = session.request(Ping(), deadline=1), session.request(Ping(), deadline=2)
    session.cancel(first)
    assert session.next_deadline() == 2


def test_settled_calls_do_not_fill_the_heap_of_deadlines():
    session = HostSession()
    for _ in range(1000):
        session.cancel(session.request(Ping(), deadline=5))
    assert len(session._deadlines) <= _host_session._MAX_STALE + 1


def test_deadlines_are_in_order_after_those_of_settled_calls_are_dropped():
    """The heap of deadlines is made anew then, and not only thinned."""
    session = HostSession()
    calls = [session.request(Ping(), deadline=float(97 * number % 400)) for number in range(400)]
    for call in calls:
        if call.deadline % 7:
            session.cancel(call)
    last = session.request(Ping(), deadline=1000.0)
    assert len(session._deadlines) < 200
    for call in sorted((call for call in calls if not call.done), key=lambda call: call.deadline):
        assert session.next_deadline() == call.deadline
        session.cancel(call)
    assert session.next_deadline() == last.deadline


class Asking(RuleBasedStateMachine):
    """Many calls, given up and answered in any order, against a queue of numbers."""

    def __init__(self):
        super().__init__()
        self.session = HostSession(max_pending=3)
        self.calls = []
        self.waiting, self.sent, self.given_up = [], [], set()
        self.answered = 0

    @rule(message=st.sampled_from([Ping(), MOUNT, GetHealth()]))
    def ask(self, message):
        self.waiting.append(len(self.calls))
        self.calls.append(self.session.request(message, context=len(self.calls)))

    @rule(part=st.floats(0, 1))
    def write(self, part):
        unwritten = self.session._outgoing
        data = self.session.data_to_send()
        if data and not unwritten:
            room = 3 - len(self.sent)
            self.sent += self.waiting[:room]
            del self.waiting[:room]
        self.session.data_sent(int(len(data) * part))

    @precondition(lambda self: self.sent)
    @rule(refuse=st.booleans())
    def answer(self, refuse):
        call = self.calls[self.sent.pop(0)]
        right = {"ping": Pong(), "mount": Ack("mount", True), "get_health": Health("ready")}[call.request.type]
        reply = Ack(call.request.type, False, "no") if refuse else right
        late = call.context in self.given_up
        assert heard(self.session, reply) == ([] if late else [CallDone(call)])
        assert late or call.outcome == reply

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def give_up(self, data):
        number = data.draw(st.integers(0, len(self.calls) - 1))
        call, before = self.calls[number], self.calls[number].outcome
        self.session.cancel(call)
        if before is not None:
            assert call.outcome is before
            return
        self.given_up.add(number)
        assert isinstance(call.outcome, RequestTimeout)
        assert call.outcome.sent is call.sent is (number in self.sent)
        if number in self.waiting:
            self.waiting.remove(number)

    @invariant()
    def the_model_agrees(self):
        still = [number for number in (*self.sent, *self.waiting) if number not in self.given_up]
        assert [call.context for call in self.session.pending] == still
        assert len(self.session.connection.pending) == len(self.sent)


Asking.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAsking = Asking.TestCase


# Asking


def test_a_request_and_its_reply():
    session = HostSession("vm1")
    assert repr(session) == "<HostSession vm1 open pending=0>"
    call = session.request(Ping(), context="mine")
    assert (call.done, call.sent, call.context) == (False, False, "mine")
    with pytest.raises(RuntimeError, match=r"^ping is not done yet$"):
        call.result()
    assert session.wants_write
    assert session.data_to_send() == b'{"type":"ping"}\n'
    assert (call.sent, session.is_written(call)) == (True, False)
    session.data_sent(16)
    assert session.is_written(call)
    assert not session.wants_write
    assert heard(session, Pong()) == [CallDone(call)]
    assert call.result() == Pong()
    assert (session.ended, session.closed, session.pending) == (None, False, ())


def test_a_refusal_is_a_result_that_raises():
    session, (call,) = asked(MOUNT)
    assert heard(session, Ack("mount", False, "no such tag")) == [CallDone(call)]
    with pytest.raises(RequestFailed, match=r"^the guest refused mount: no such tag$"):
        call.result()


@pytest.mark.parametrize("message", [Pong(), Lifecycle("ready"), "ping", None])
def test_a_host_asks(message):
    with pytest.raises(LocalProtocolError, match=r"^a host sends requests, and an? \w+ is not one$"):
        HostSession().request(message)


@pytest.mark.parametrize("bad", [Mount(1, "", ""), InjectSSHKey("a", "b\nc"), SetConfig("x" * 2**20)])
def test_all_or_none(bad):
    session = HostSession()
    with pytest.raises(LocalProtocolError):
        session.request_many([Ping(), bad, Ping()])
    assert session.pending == ()
    assert not session.wants_write


def test_many_requests_that_are_refused_leave_nothing_behind():
    session = HostSession()
    kept = session.request(Ping(), deadline=3.0)
    out = session.request(Ping(), deadline=4.0)
    session.data_to_send()
    waiting = session.request(Ping(), deadline=5.0)
    with pytest.raises(LocalProtocolError):
        session.request_many([SetConfig("x"), Ping(), CustomRequest("a", {1, 2})], deadline=1.0)
    assert session.pending == (kept, out, waiting)
    assert session.next_deadline() == 3.0
    assert session._waiting_bytes == len(encode(Ping()))
    session.expire(4.5)
    assert [event.call for event in session.events()] == [kept, out]
    assert session.next_deadline() == 5.0


def test_a_deadline_is_a_number_or_none():
    session = HostSession()
    with pytest.raises(ValueError, match="NaN"):
        session.request(Ping(), deadline=nan)
    for deadline in ("9", [9.0], b"9"):
        with pytest.raises(TypeError, match=rf"^a deadline is a number or None, not {type(deadline).__name__}$"):
            session.request(Ping(), deadline=deadline)
    assert (session.pending, session.data_to_send()) == ((), b"")
    for never in (inf, 10**400):
        assert session.request(Ping(), deadline=never).deadline is None
    assert session.next_deadline() is None


def test_the_messages_of_a_flight_may_come_from_what_uses_the_session():
    session = HostSession()

    def messages():
        yield Ping()
        session.data_to_send()
        yield SetConfig("x")
        yield CustomRequest("a", {1, 2})

    with pytest.raises(LocalProtocolError):
        session.request_many(messages())
    assert (session.pending, session.data_to_send()) == ((), b"")


def test_a_session_that_is_never_idle_keeps_no_secrets_of_old():
    session = HostSession(max_pending=4)
    for number in range(300):
        call = session.request(InjectSecret("A", f"hunter-{number}-of-many"))
        session.request(Ping())
        session.data_sent(len(session.data_to_send()))
        refusal = Ack("inject_secret", False, f"no hunter-{number}-of-many")
        session.receive_data(b"".join(map(encode, [Pong(), refusal] if number else [refusal])))
        list(session.events())
        assert call.outcome == Ack("inject_secret", False, "no [redacted]")
        assert len(session._in_flight) == 1
    assert len(session._redactor._known) < 100


def test_limits():
    with pytest.raises(ValueError, match="at least 1 request"):
        HostSession(max_pending=0)
    for name in ("trace", "log"):
        with pytest.raises(TypeError, match=rf"^{name} must be a function or None, not int$"):
            HostSession(**{name: 5})
    for label in (("127.0.0.1", 1), None, 5):
        with pytest.raises(TypeError, match=rf"^label must be a text, not {type(label).__name__}$"):
            HostSession(label)


def test_an_error_of_the_caller_names_the_guest():
    session = HostSession("web-5")
    for message in (Pong(), SetConfig("x" * 2**20), CustomRequest("a", {1, 2})):
        with pytest.raises(LocalProtocolError) as caught:
            session.request(message)
        assert caught.value.guest == "web-5"
    with pytest.raises(LocalProtocolError, match=r"^a host sends requests, and Ping is a class: call it"):
        session.request(Ping)


def test_a_call_of_another_session_is_not_cancelled():
    (call,) = asked(Ping())[1]
    waiting = HostSession().request(Ping())
    for one in (call, waiting):
        with pytest.raises(ValueError, match=r"^this call belongs to another session$"):
            HostSession().cancel(one)
        assert not one.done


@pytest.mark.parametrize(
    ("request_", "sent", "text"),
    [
        (Ping(), False, "ping was not sent to the guest before it was cancelled, so it is safe to repeat"),
        (Ping(), True, "the guest did not answer ping before it was cancelled"),
        (MOUNT, False, "mount was not sent to the guest before it was cancelled, so it is safe to repeat"),
        (MOUNT, True, "the guest did not answer mount before it was cancelled; it may still be carried out"),
    ],
)
def test_what_became_of_a_call_that_was_given_up(request_, sent, text):
    session = HostSession()
    call = session.request(request_)
    if sent:
        session.data_to_send()
    session.cancel(call)
    with pytest.raises(RequestTimeout) as caught:
        call.result()
    assert str(caught.value) == text
    assert (caught.value.request, caught.value.sent) == (request_, sent)
    assert session.next_event() is NEED_DATA
    assert bool(session.data_to_send()) is sent
    session.cancel(call)
    assert call.outcome is caught.value


@pytest.mark.parametrize(
    ("happens", "more"),
    [
        (lambda _session: None, False),
        (lambda session: session.receive_data(b'{"type":'), True),
        (lambda session: session.receive_data(b'{"type":"pong"}\n'), True),
        (lambda session: session.receive_eof(), True),
        (lambda session: session.read_failed(OSError(5, "broken")), True),
        (lambda session: session.close(), True),
        (lambda session: session.expire(1.0), True),
    ],
)
def test_whether_there_may_be_events(happens, more):
    session = HostSession()
    session.request_many([Ping()], deadline=1.0)
    session.data_to_send()
    happens(session)
    assert session.may_have_events is more
    list(session.events())
    half = session.ended is None and bool(session.connection.trailing_data)
    assert session.may_have_events is half


# Writing


def test_lines_are_encoded_once_and_joined(monkeypatch):
    encoded = []
    monkeypatch.setattr(_host_session, "write", lambda message: encoded.append(message) or encode(message))
    session = HostSession(max_pending=100)
    session.request_many([Ping()] * 3)
    assert session.data_to_send() == encode(Ping()) * 3
    session.data_sent(20)
    assert bytes(session.data_to_send()) == (encode(Ping()) * 3)[20:]
    assert len(encoded) == 3


def test_joined_lines_are_bounded():
    big = SetConfig("x" * 40_000)
    _, calls = asked(big, big, big, written=False)
    assert [call.sent for call in calls] == [True, True, False]


@pytest.mark.parametrize(("size", "joined"), [(65_535, 2), (65_536, 1)])
def test_lines_of_64_kib_are_joined_to_no_other(size, joined):
    line = SetConfig("x" * (size - len(encode(SetConfig("")))))
    assert len(encode(line)) == size
    _, calls = asked(line, Ping(), written=False)
    assert sum(call.sent for call in calls) == joined


def test_a_mebibyte_of_lines_waits_and_no_more():
    line = SetConfig("x" * (2**19 - len(encode(SetConfig("")))))
    session = HostSession()
    calls = session.request_many([line, line, Ping()])
    assert [call._line is None for call in calls] == [False, False, True]


def test_waiting_lines_are_bounded(monkeypatch):
    big = SetConfig("x" * 300_000)
    session = HostSession(max_pending=1)
    calls = session.request_many([big] * 5)
    assert [call._line is None for call in calls] == [False, False, False, True, True]
    for call in calls:
        session.data_sent(len(session.data_to_send()))
        assert session.is_written(call)
        assert heard(session, Ack("set_config", True)) == [CallDone(call)]
    assert session._waiting_bytes == 0
    # Withdrawn lines make room, too.
    first, *_ = session.request_many([big] * 3)
    session.cancel(first)
    assert session.request(big)._line is not None


def test_a_payload_that_is_changed_after_it_was_checked():
    payload = {"x": "x" * 600_000}
    session = HostSession()
    first, second = session.request(CustomRequest("a", payload)), session.request(CustomRequest("b", payload))
    payload["x"] = object()
    third = session.request(Ping())
    data = session.data_to_send()
    assert data.startswith(b'{"type":"a"')
    session.data_sent(len(data))
    assert session.data_to_send() == encode(Ping())
    assert list(session.events()) == [CallDone(second)]
    with pytest.raises(LocalProtocolError):
        second.result()
    assert (first.sent, second.sent, third.sent) == (True, False, True)
    assert not second.outcome.__traceback__ or "session" not in str(second.outcome)


def test_only_what_cannot_be_sent_is_nothing_to_send():
    payload = ["x" * 2**20]
    session = HostSession(max_pending=1)
    session.request_many([SetConfig("x" * 600_000), CustomRequest("b", {"x": "x" * 600_000})])
    session.data_sent(len(session.data_to_send()))
    (waiting,) = session._waiting
    waiting.request.payload["x"] = payload
    heard(session, Ack("set_config", True))
    assert session.data_to_send() == b""
    assert not session.wants_write
    assert list(session.events()) == [CallDone(waiting)]


# Ends


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (HostSession.close, "the connection to the guest was closed"),
        (HostSession.abort, "the connection to the guest was interrupted while reading or writing"),
        (HostSession.receive_eof, "the guest closed the connection"),
        (lambda session: session.read_failed(OSError(104, "Connection reset by peer")),
         "the connection to the guest broke (Connection reset by peer)"),
        (lambda session: session.end(ConnectionLost("it is gone")), "it is gone"),
    ],
)  # fmt: skip
def test_ends(end, text):
    session, (ping, mount) = asked(Ping(), MOUNT, max_pending=2)
    waiting = session.request(MOUNT)
    end(session)
    events = list(session.events())
    assert events == [CallDone(ping), CallDone(mount), CallDone(waiting), SessionEnded(session.ended)]
    assert (type(session.ended), str(session.ended)) == (ConnectionLost, text)
    assert session.closed is (end is HostSession.close)
    assert repr(session).startswith("<HostSession the guest ended")
    assert (type(ping.outcome), str(ping.outcome)) == (ConnectionLost, f"{text} while ping was unanswered")
    assert type(mount.outcome) is OutcomeUnknown
    assert str(mount.outcome) == f"{text} while mount was unanswered: it may or may not have been carried out"
    assert mount.outcome.unanswered == ping.outcome.unanswered == (Ping(), MOUNT)
    assert (type(waiting.outcome), str(waiting.outcome)) == (ConnectionLost, f"mount was not sent: {text}")
    with pytest.raises(ConnectionLost, match="was not sent"):
        session.request(Ping())
    session.receive_data(b"dropped\n")
    session.close()
    session.write_failed(BROKEN)
    session.abort()
    session.read_failed(BROKEN)
    assert session.next_event() is NEED_DATA
    assert str(session.ended) == text


@pytest.mark.parametrize(
    ("data", "cls"), [(b"nonsense\n", MalformedLine), (b'{"type":"ack","payload":{"reply_to":"x"}}\n', UnexpectedReply)]
)
def test_what_the_guest_did_wrong_tells_more_than_that_it_ended(data, cls):
    session, (ping, mount) = asked(Ping(), MOUNT)
    session.receive_data(data)
    assert list(session.events()) == [CallDone(ping), CallDone(mount), SessionEnded(session.ended)]
    assert type(session.ended) is type(ping.outcome) is type(mount.outcome) is cls
    assert len({id(error) for error in (session.ended, ping.outcome, mount.outcome)}) == 3
    waiting = HostSession()
    call = waiting.request(Ping())
    waiting.receive_data(data)
    list(waiting.events())
    assert call.outcome.__cause__ is waiting.ended


def test_half_a_line_is_a_lost_connection():
    session, (call,) = asked(Ping())
    session.receive_data(b'{"type":')
    session.receive_eof()
    assert list(session.events()) == [CallDone(call), SessionEnded(session.ended)]
    assert str(session.ended) == "the guest closed the connection in the middle of a line"
    assert type(session.ended.__cause__) is IncompleteLine


def test_what_came_before_the_end_counts():
    session, (call,) = asked(Ping())
    session.receive_data(encode(Lifecycle("shutdown")) + encode(UnknownMessage("x", 1)) + encode(Pong()))
    session.read_failed(BROKEN)
    assert list(session.events()) == [
        NotificationReceived(Lifecycle("shutdown")),
        UnknownReceived("x", 1),
        CallDone(call),
        SessionEnded(session.ended),
    ]
    assert call.result() == Pong()
    assert session.ended.__cause__ is BROKEN


def test_a_failed_write_does_not_stop_reading():
    session, (whole, part, waiting) = asked(Ping(), MOUNT, MOUNT, max_pending=2, written=False)
    session.data_sent(len(encode(Ping())) + 1)
    session.write_failed(BROKEN)
    session.write_failed(OSError("again"))
    assert list(session.events()) == [CallDone(waiting)]
    assert str(waiting.outcome) == "mount was not sent: the connection to the guest broke (Broken pipe)"
    assert waiting.outcome.__cause__ is BROKEN
    assert session.ended is None
    with pytest.raises(ConnectionLost, match=r"^get_health was not sent: the connection .* broke \(Broken pipe\)$"):
        session.request(GetHealth())
    assert heard(session, Pong()) == [CallDone(whole)]
    assert heard(session, Ack("mount", True)) == [CallDone(part), SessionEnded(session.ended)]


@pytest.mark.parametrize("give_up", [HostSession.cancel, lambda session, call: session.expire(5)])
def test_a_failed_write_ends_it_when_no_reply_is_waited_for(give_up):
    session = HostSession()
    call = session.request(Ping(), deadline=5)
    session.data_sent(len(session.data_to_send()))
    session.write_failed(BROKEN)
    assert session.ended is None
    give_up(session, call)
    assert str(session.ended) == "the connection to the guest broke (Broken pipe)"
    assert list(session.events())[-1] == SessionEnded(session.ended)


def test_a_failure_without_a_system_error():
    session = HostSession()
    session.write_failed(ValueError("TLS alert"))
    assert str(session.ended) == "the connection to the guest broke (TLS alert)"


def test_an_interrupt_counts_as_written():
    session, (call,) = asked(MOUNT, written=False)
    waiting = session.request(MOUNT)
    session.abort()
    assert type(call.outcome) is OutcomeUnknown
    assert call.sent
    assert not waiting.sent
    assert "was not sent" in str(waiting.outcome)


@pytest.mark.parametrize("settled", [0, 1, 2])
def test_an_interrupt_in_the_middle_of_ending(settled, monkeypatch):
    """A KeyboardInterrupt comes after so many calls were settled. None is left without an outcome."""
    session, calls = asked(MOUNT, Ping())
    waiting = session.request(MOUNT)
    settle, left = HostSession._settle, iter([True] * settled)

    def interrupted(session, call, outcome):
        if not next(left, False):
            raise KeyboardInterrupt
        settle(session, call, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(HostSession, "_settle", interrupted)
        session.receive_eof()
        with pytest.raises(KeyboardInterrupt):
            list(session.events())
    session.abort()
    assert [type(call.outcome) for call in (*calls, waiting)] == [OutcomeUnknown, ConnectionLost, ConnectionLost]
    assert list(session.events()) == [*map(CallDone, (*calls, waiting)), SessionEnded(session.ended)]


@pytest.mark.parametrize("end", [HostSession.close, HostSession.receive_eof, HostSession.abort])
def test_a_session_that_has_ended_keeps_no_call(end):
    """Their requests hold secrets. (`connection.pending` tells which were not answered.)"""
    session, (refused, unanswered) = asked(InjectSecret("A", "one"), InjectSecret("B", "two"))
    heard(session, Ack("inject_secret", False, "no one"))
    waiting = session.request(InjectSecret("C", "three"), deadline=5.0)
    kept = [weakref.ref(one) for one in (refused, refused.request, unanswered, waiting, waiting.request)]
    end(session)
    list(session.events())
    del refused, unanswered, waiting
    gc.collect()
    assert [one() for one in kept] == [None] * len(kept)


def test_a_call_of_which_no_byte_was_written_was_not_sent():
    session, (whole, untouched) = asked(Ping(), MOUNT, written=False)
    session.data_sent(len(encode(Ping())))
    session.write_failed(BROKEN)
    assert list(session.events()) == [CallDone(untouched)]
    assert not untouched.sent
    assert not whole.done


@pytest.mark.parametrize(
    "end", [HostSession.close, HostSession.receive_eof, lambda session: session.read_failed(BROKEN)]
)
def test_a_call_of_which_no_byte_was_written_was_not_sent_whatever_ends_the_session(end):
    session, (whole, untouched) = asked(MOUNT, MOUNT, written=False)
    session.data_sent(len(encode(MOUNT)))
    end(session)
    assert list(session.events()) == [CallDone(whole), CallDone(untouched), SessionEnded(session.ended)]
    assert type(whole.outcome) is OutcomeUnknown
    assert type(untouched.outcome) is ConnectionLost
    assert not untouched.sent


@pytest.mark.parametrize(
    ("end", "closed_here"),
    [
        (HostSession.close, True),
        (HostSession.abort, True),
        (HostSession.receive_eof, False),
        (lambda session: session.end(RequestTimeout("late")), False),
    ],
)
def test_errors_say_whether_this_end_has_closed(end, closed_here):
    session, calls = asked(MOUNT, Ping())
    end(session)
    list(session.events())
    assert getattr(session.ended, "closed_here", False) is closed_here
    assert [call.outcome.closed_here for call in calls] == [closed_here] * 2
    with pytest.raises(ConnectionLost) as caught:
        session.request(Ping())
    assert caught.value.closed_here is closed_here


def test_what_waits_is_not_written_after_a_failed_write():
    """A reply is still to come, so the session goes on."""
    session, _ = asked(MOUNT)
    waiting = session.request(Ping())
    session.write_failed(BROKEN)
    assert waiting.done
    assert session.ended is None
    assert not session.wants_write
    assert session.data_to_send() == b""


def test_after_a_failed_write_there_is_nothing_to_write():
    session, (call,) = asked(Ping(), max_pending=1)
    waiting = session.request(MOUNT)
    session.write_failed(BROKEN)
    assert heard(session, Pong())[:2] == [CallDone(waiting), CallDone(call)]
    assert not session.wants_write
    assert session.data_to_send() == b""
    assert session.connection.our_state is State.ERROR


def test_after_an_interrupt_nothing_is_sent_over_the_connection():
    session, _ = asked(Ping())
    session.abort()
    assert session.connection.our_state is State.ERROR


@pytest.mark.parametrize("end", [HostSession.close, HostSession.receive_eof, HostSession.abort])
def test_what_is_owed_after_the_end(end):
    session, (call,) = asked(Ping())
    assert not session.owes_events
    session.receive_data(encode(Pong()))
    assert not session.owes_events
    assert session.next_event() == CallDone(call)
    end(session)
    assert session.owes_events is (end is not HostSession.receive_eof)
    assert session.next_event() == SessionEnded(session.ended)
    assert not session.owes_events


# Secrets

SENTINEL = "s3ntinel-7261"


def shown(error):
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(whole.format()) + repr(error) + repr(error.args)


@pytest.mark.parametrize("end", [HostSession.close, lambda session: session.write_failed(BROKEN)])
def test_no_secret_in_a_refusal(end):
    session = HostSession()
    session.request(Ping())
    end(session)
    with pytest.raises(ConnectionLost) as caught:
        session.request(InjectSecret("a", SENTINEL))
    assert SENTINEL not in shown(caught.value)


def test_no_secret_in_what_a_session_says():
    session = HostSession()
    secret = InjectSecret("a", SENTINEL)
    call = session.request(secret)
    assert SENTINEL not in repr(call) + repr(session)
    session.data_to_send()
    assert heard(session, Ack("inject_secret", False, f"cannot store {SENTINEL}")) == [CallDone(call)]
    with pytest.raises(RequestFailed) as caught:
        call.result()
    assert SENTINEL not in str(caught.value)


def test_what_callers_do_not_see_is_logged_without_a_secret():
    log = []
    session = HostSession("my guest", log=lambda text, *args: log.append(text % args))
    sent = session.request(InjectSecret("a", SENTINEL))
    session.data_sent(len(session.data_to_send()))
    session.cancel(sent)
    session.cancel(session.request(Ping()))
    assert heard(session, Ack("inject_secret", False, f"cannot store {SENTINEL}")) == []
    session.request(Ping())
    session.close()
    assert log == [
        "gave up inject_secret, which was sent",
        "gave up ping, which was not sent",
        "swallowed the late reply to inject_secret",
        "the session ended: the connection to my guest was closed",
    ]


def test_all_bytes_are_traced_when_they_are_written_and_when_they_come():
    traced = []
    session = HostSession(trace=lambda sender, data: traced.append((sender, data)))
    session.request(Ping())
    data = session.data_to_send()
    assert traced == []
    session.data_sent(4)
    session.data_sent(len(session.data_to_send()))
    session.receive_data(encode(Pong()))
    assert [sender for sender, _ in traced] == [Role.HOST, Role.HOST, Role.GUEST]
    assert b"".join(seen for sender, seen in traced if sender is Role.HOST) == data
    assert traced[-1][1] == encode(Pong())


def test_a_ctrl_c_leaves_no_secret_in_the_frames(monkeypatch):
    refusal = encode(Ack("inject_secret", False, "no a secret"))
    places = {
        "write": lambda session: session.request(InjectSecret("TOKEN", "a secret")),
        "_commit": lambda session: session.data_to_send(),
        "_trace": lambda session: session.receive_data(refusal),
        "_redacted": lambda session: session.next_event(),
    }
    for interrupted in places:
        session = HostSession()
        for place, job in places.items():
            if place != interrupted:
                job(session)
                continue
            with monkeypatch.context() as patch:
                patch.setattr(_host_session if place == "write" else session, place, interrupt)
                with pytest.raises(KeyboardInterrupt) as caught:
                    job(session)
            assert "a secret" not in locals_of(caught.value), place
            break


def test_a_ctrl_c_leaves_no_line_in_the_frames(monkeypatch):
    """The interrupted function holds a line, and so does what it was called for."""
    session = HostSession()
    monkeypatch.setattr(_host_session, "write", interrupt_after(_host_session.write))
    with pytest.raises(KeyboardInterrupt) as caught:
        session.request(InjectSecret("TOKEN", "a secret"))
    assert "a secret" not in locals_of(caught.value)
    monkeypatch.undo()
    # Lines that were taken already, and one that is written when its turn comes.
    session.request(InjectSecret("TOKEN", "a secret"))
    session.request(InjectSecret("TOKEN", "another secret"))._line = None
    monkeypatch.setattr(_host_session, "write", interrupt_after(_host_session.write))
    with pytest.raises(KeyboardInterrupt) as caught:
        session.data_to_send()
    assert "secret" not in locals_of(caught.value).replace("InjectSecret", "").replace("inject_secret", "")


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_belongs_to_one_stream(how):
    with pytest.raises(TypeError, match="a Connection belongs to one stream"):
        how(HostSession())


def test_a_cause_without_a_text_is_named_by_its_class():
    session = HostSession("vm-7")
    session.read_failed(EOFError())
    list(session.events())
    assert str(session.ended) == "the connection to vm-7 broke (EOFError)"


def test_a_deadline_that_no_float_holds():
    session = HostSession()
    call = session.request(Ping(), deadline=-(10**400))
    assert session.next_deadline() - 1.0 < 0
    session.expire(0.0)
    assert isinstance(call.outcome, RequestTimeout)
    assert session.request(Ping(), deadline=10**400).deadline is None


def test_a_made_up_type_is_short_in_every_error():
    request = CustomRequest("x\n" * 10**5)
    session = HostSession()
    waits, asked = session.request(request), session.request(request)
    session.cancel(waits)
    session.data_to_send()
    session.close()
    with pytest.raises(ConnectionLost) as caught:
        session.request(request)
    for error in (waits.outcome, asked.outcome, caught.value):
        assert len(str(error)) < 200
        assert str(error).isprintable()


def test_deadlines_of_a_flight_that_is_refused_are_void():
    session = HostSession()
    session.request(Ping(), deadline=5.0)
    with pytest.raises(LocalProtocolError):
        session.request_many([Ping(), Ping(), CustomRequest("\ud800")], deadline=1.0)
    assert session.next_deadline() == 5.0
    assert len(session.pending) == 1


def test_refused_flights_do_not_fill_the_deadlines():
    session = HostSession()
    for _ in range(300):
        with pytest.raises(LocalProtocolError):
            session.request_many([Ping(), CustomRequest("\ud800")], deadline=1.0)
    assert len(session._deadlines) < 100


# -- exceptions of signal handlers. One is raised at each line that the library executes, and the program goes on. It
# does what the documentation asks of it: it ends the session where one comes after bytes were read or written, and
# before the session has counted them.

#: What the guest does. It refuses all else.
DONE = ("b", "d")


def interrupted_host(session, interrupter, *, times_out):
    """Ask four things of a guest, go on after the interrupt, and return the calls and the lines that were written."""
    calls, written, unread, told = {}, bytearray(), bytearray(), []
    asked = iter("abcd")
    for turn in range(12):
        name = next(asked, None)
        with interrupter:
            if name is not None and session.ended is None:
                calls[name] = None
                calls[name] = session.request(InjectSecret(name, f"value-{name}"), deadline=turn)
        data = b""
        with interrupter:
            data = session.data_to_send()
        if data:
            lines = bytes(data)
            written += lines
            with interrupter:
                session.data_sent(len(lines))
            if interrupter.just_hit:
                session.abort()
            for line in lines.splitlines():
                name = decode(line, sender=Role.HOST).name
                unread += encode(Ack("inject_secret", name in DONE, "" if name in DONE else f"no value-{name}"))
        with interrupter:
            session.receive_data(bytes(unread if turn % 2 else b""))
        if interrupter.just_hit:
            session.abort()
        if turn % 2:
            unread.clear()
        with interrupter:
            while (event := session.next_event()) is not NEED_DATA:
                told.append(event)
        if times_out and turn == 2:
            with interrupter:
                session.expire(0.5)
    with interrupter:
        session.close()
    session.close()
    while (event := session.next_event()) is not NEED_DATA:
        told.append(event)
    return calls, bytes(written), told


@pytest.mark.parametrize("times_out", [False, True])
def test_no_reply_answers_another_request(times_out):
    def scene(interrupter):
        session = HostSession()
        calls, written, told = interrupted_host(session, interrupter, times_out=times_out)
        names = [json.loads(line)["payload"]["name"] for line in written.splitlines()]
        assert len(names) == len({*names}), "a line left twice"
        assert set(names) <= {*calls}
        for name, call in calls.items():
            if call is None:
                # The program never got it. It may have been written only if the interrupt came as it was returned.
                continue
            assert call.done
            outcome = call.outcome
            if isinstance(outcome, Ack):
                assert outcome.ok is (name in DONE), name
                assert "value" not in outcome.error
            else:
                assert isinstance(outcome, (ConnectionLost, RequestTimeout))
                if name in names:
                    assert isinstance(outcome, (OutcomeUnknown, RequestTimeout)), "it was written"
        assert isinstance(session.ended, ConnectionLost)
        ends = [event for event in told if isinstance(event, SessionEnded)]
        assert len(ends) <= 1

    every_place(scene)


@pytest.fixture
def in_flight():
    """A session with a call that was sent, and one that waits."""
    session = HostSession(max_pending=1)
    sent = session.request(MOUNT)
    waiting = session.request(Ping())
    session.data_sent(len(session.data_to_send()))
    return session, sent, waiting


def stopped(session, sent, waiting):
    """Check that all is settled, and told once."""
    told = list(session.events())
    assert sorted(map(id, (event.call for event in told[:-1]))) == sorted(map(id, (sent, waiting)))
    assert told[-1] == SessionEnded(session.ended)
    assert session.ended.closed_here
    assert (sent.done, waiting.done) == (True, True)


@pytest.mark.parametrize(
    ("place", "job"),
    [
        ("_settle_late", lambda session, sent: session.cancel(sent)),
        ("_settle_late", lambda session, sent: session.expire(1e9)),
        ("_end_if_idle", lambda session, sent: session.write_failed(BROKEN)),
        ("_trace", lambda session, sent: session.receive_data(b"x")),
    ],
)
def test_an_interrupt_ends_the_session(place, job, in_flight, monkeypatch):
    session, sent, waiting = in_flight
    late = session.request(Ping(), deadline=5)
    with monkeypatch.context() as patch:
        patch.setattr(session, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            job(session, sent)
    told = list(session.events())
    assert {event.call for event in told[:-1]} == {sent, waiting, late}
    assert isinstance(sent.outcome, OutcomeUnknown)
    assert [type(call.outcome) for call in (waiting, late)] == [ConnectionLost] * 2
    assert session.ended.closed_here


def test_an_interrupt_in_a_trace_of_what_was_written(in_flight):
    session, sent, waiting = in_flight
    session.receive_data(encode(Ack("mount", True)))
    assert list(session.events()) == [CallDone(sent)]
    session._trace = interrupt
    size = len(session.data_to_send())
    with pytest.raises(KeyboardInterrupt):
        session.data_sent(size)
    assert not session.data_to_send(), "it is not handed out again"
    assert list(session.events()) == [CallDone(waiting), SessionEnded(session.ended)]


@pytest.mark.parametrize("place", ["_say", "_end_if_idle"])
def test_an_interrupt_after_a_reply_was_matched_loses_no_event(place, in_flight, monkeypatch):
    session, sent, waiting = in_flight
    if place == "_end_if_idle":
        session.write_failed(BROKEN)
        assert list(session.events()) == [CallDone(waiting)]
    else:
        session.cancel(sent)
    session.receive_data(encode(Ack("mount", True)))
    with monkeypatch.context() as patch:
        patch.setattr(session, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.next_event()
    told = list(session.events())
    if place == "_end_if_idle":
        assert told == [CallDone(sent), SessionEnded(session.ended)]
        assert sent.result() == Ack("mount", True)
    else:
        assert told == [CallDone(waiting), SessionEnded(session.ended)]


def test_an_interrupt_while_the_session_ends_is_made_good(in_flight, monkeypatch):
    session, sent, waiting = in_flight
    with monkeypatch.context() as patch:
        patch.setattr(session, "_settle_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.close()
    stopped(session, sent, waiting)


def test_an_interrupt_between_an_outcome_and_its_event_is_made_good(in_flight):
    session, sent, waiting = in_flight
    sent.outcome = ConnectionLost("gone")
    waiting.outcome = ConnectionLost("gone")
    session._events.append(CallDone(waiting))
    session.close()
    stopped(session, sent, waiting)


class Full(OrderedDict):
    def __setitem__(self, key, value):
        raise KeyboardInterrupt


def test_an_interrupt_in_a_request_takes_the_call_back(monkeypatch):
    session = HostSession()
    with monkeypatch.context() as patch:
        patch.setattr(session, "_keep_deadline", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.request(Ping(), deadline=1)
    for place, calls in ((_host_session, "Call"), (session, "_waiting")):
        with monkeypatch.context() as patch:
            patch.setattr(place, calls, interrupt if calls == "Call" else Full())
            with pytest.raises(KeyboardInterrupt):
                session.request(Ping())
    with monkeypatch.context() as patch:
        patch.setattr(session, "request", interrupt_after(session.request))
        with pytest.raises(KeyboardInterrupt):
            session.request_many([Ping(), MOUNT])
    assert (session.pending, session.next_deadline(), session.data_to_send()) == ((), None, b"")
    assert session.ended is None


def test_data_that_is_refused_does_not_end_the_session():
    session = HostSession()
    for wrong in ("text", None):
        with pytest.raises(TypeError, match="receive_data takes bytes"):
            session.receive_data(wrong)
    session.receive_eof()
    with pytest.raises(RuntimeError, match="after receive_eof"):
        session.receive_data(b"x")
    assert session.ended is None


def test_what_was_not_sent_as_this_end_has_closed_says_so(in_flight):
    session, sent, waiting = in_flight
    session.close()
    with pytest.raises(ConnectionLost) as caught:
        session.request(Ping())
    assert [error.closed_here for error in (sent.outcome, waiting.outcome, caught.value)] == [True] * 3
