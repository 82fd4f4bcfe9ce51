"""The session, without a driver: who waits for which reply, and what becomes of it when things end."""

import itertools
import traceback

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ctrl_c import bytecode_of_3_11, interrupted
from stereos_proto import (
    Ack,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    IncompleteLine,
    InjectSecret,
    Lifecycle,
    LocalProtocolError,
    MalformedLine,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    RemoteProtocolError,
    Reply,
    RequestFailed,
    RequestTimeout,
    Role,
    SetConfig,
    Shutdown,
    StereosError,
    UnexpectedReply,
    UnknownMessage,
    decode,
    encode,
)
from stereos_proto_io._session import Session, accepted, replies

SENTINEL = "s3nt1nel"
NO_EFFECT = (Ping, GetHealth)
UNSENDABLE = InjectSecret("A", SENTINEL, -1)


# -- the machine -----------------------------------------------------------------------------------------------


def answer(request):
    """What the guest replies: each reply tells which request it is for."""
    match request:
        case Ping():
            return Pong()
        case GetHealth():
            return Health("ready")
        case InjectSecret(name=name):
            return Ack("inject_secret", len(name) % 2 == 0, name)
        case _:
            return Ack(request.type, True, request.type)


@attrs.define(eq=False)
class Watched:
    """A call, what is known of it, and what was seen of it."""

    request: object
    call: object = None
    wakes: int = 0
    abandoned: bool = False
    withdrawn: bool = False
    expected: object = None
    seen: object = None


class Conversations(RuleBasedStateMachine):
    """A session, a guest that answers what arrives, and a wire between them that cuts as it likes."""

    def __init__(self):
        super().__init__()
        self.number = 0
        self.calls = []
        self.wire = b""  # what the guest has
        self.guest_read = 0
        self.to_host = b""
        self.delivered = b""  # what is left of what the session got, behind the last whole line
        self.flight = []  # what the guest has still to answer, as the host will see it
        self.kept = []
        self.heard = self.dropped = 0
        self.reason = None
        self.again = False

    @initialize(
        max_pending=st.integers(1, 4),
        max_notifications=st.integers(0, 3),
        again=st.booleans(),
        patience=st.integers(0, 30),
    )
    def begin(self, max_pending, max_notifications, again, patience):
        self.patience = patience  # requests before anything ends
        self.max_pending, self.max_notifications, self.again = max_pending, max_notifications, again
        self.session = Session("the guest", max_pending=max_pending, max_notifications=max_notifications)

    # -- asking

    def new_request(self, kind):
        self.number += 1
        match kind:
            case "ping":
                return Ping()
            case "health":
                return GetHealth()
            case "secret":
                return InjectSecret(f"name{self.number}", SENTINEL)
            case _:
                return CustomRequest(f"type{self.number}")

    def wake_of(self, watched):
        def wake():
            watched.wakes += 1
            if self.again and watched.call is not None and watched.call.settled and self.number < 60:
                # Whoever is woken may ask the next thing at once.
                self.again = False
                self.ask(["custom"])
                self.again = True

        return wake

    def ask(self, kinds):
        requests = [self.new_request(kind) for kind in kinds]
        if self.session.ended:
            with pytest.raises(ConnectionLost, match="was not sent"):
                self.session.start(requests[0])
            return
        watched = [Watched(request) for request in requests]
        if len(watched) == 1:
            calls = [self.session.start(requests[0], self.wake_of(watched[0]))]
        else:
            calls = self.session.start_many(requests, self.wake_of(watched[0]))
        for each, call in zip(watched, calls, strict=True):
            each.call = call
            if self.reason is not None:
                # Started by one who was woken, between a reply and what ends the session in the same chunk.
                each.expected = "not sent"
        self.calls += watched

    kinds = st.lists(st.sampled_from(["ping", "health", "secret", "custom"]), min_size=1, max_size=4)

    @rule(kinds=kinds)
    def start(self, kinds):
        self.ask(kinds)

    @rule()
    @precondition(lambda self: not self.session.ended)
    def start_what_cannot_be_sent(self):
        before = self.session.wants_write, self.session.connection.pending
        with pytest.raises(LocalProtocolError):
            self.session.start_many([Ping(), UNSENDABLE])
        with pytest.raises(LocalProtocolError):
            self.session.start(UNSENDABLE)
        assert before == (self.session.wants_write, self.session.connection.pending)

    @rule(data=st.data())
    @precondition(lambda self: self.calls)
    def abandon(self, data):
        watched = data.draw(st.sampled_from(self.calls))
        call = watched.call
        place = self.place(watched) if call.sent else None
        torn = place is not None and place[0] < len(self.wire) < place[1] and not call.settled
        was_settled, ended = call.settled, self.session.ended
        error = self.session.abandon(call)
        assert isinstance(error, RequestTimeout)
        assert error.request is watched.request
        if was_settled:
            assert self.session.ended is ended
            return
        assert error.sent is call.sent
        watched.abandoned = True
        watched.withdrawn = not call.sent
        watched.expected = RequestTimeout
        assert call.outcome is error
        if torn:
            self.ends(ConnectionLost)
        else:
            assert self.session.ended is ended

    # -- the wire

    def on_wire(self):
        """The calls whose lines are on the wire, or are to be, in order."""
        return sorted((w for w in self.calls if w.call.sent), key=lambda w: w.call.start)

    def place(self, watched):
        start = 0
        for each in self.on_wire():
            end = start + len(encode(each.request))
            if each is watched:
                return start, end
            start = end
        raise AssertionError

    portions = st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0, 1.0])

    @rule(portion=portions)
    def write_some(self, portion):
        self.write(portion)

    @rule(portion=portions)
    def read_some(self, portion):
        self.read(portion)

    def write(self, portion):
        wanted = self.session.wants_write
        data = bytes(self.session.next_write())
        assert bool(data) is wanted
        size = round(portion * len(data))
        self.wire += data[:size]
        self.session.wrote(size)
        while (end := self.wire.find(b"\n", self.guest_read)) >= 0:
            request = decode(self.wire[self.guest_read : end], sender=Role.HOST)
            self.to_host += encode(answer(request))
            self.guest_read = end + 1

    @rule(line=st.sampled_from([encode(Lifecycle("ready")), b'{"type":"news"}\n', b"\n"]))
    def guest_tells(self, line):
        self.to_host += line

    @precondition(lambda self: self.number > self.patience)
    @rule(line=st.sampled_from([b"nonsense\n", b"[]\n", encode(Ack("mount", True)), b'{"type":"ack"']))
    def guest_errs(self, line):
        self.to_host += line

    def read(self, portion):
        size = max(1, round(portion * len(self.to_host)))
        data, self.to_host = self.to_host[:size], self.to_host[size:]
        if data:
            self.hear(data)

    @rule(kinds=kinds, out=portions, back=portions)
    def exchange(self, kinds, out, back):
        self.ask(kinds)
        self.write(out)
        self.read(back)

    # -- the end

    @precondition(lambda self: self.number > self.patience)
    @rule()
    def guest_goes(self):
        self.hear(b"")

    @precondition(lambda self: self.number > self.patience)
    @rule(kind=st.sampled_from(["close", "broken", "end"]))
    def host_goes(self, kind):
        self.ends(ConnectionLost)
        if kind == "close":
            self.session.close()
        elif kind == "broken":
            self.session.broken(ConnectionResetError(104, "reset"))
        else:
            self.session.end(ConnectionLost("for a reason"))
        self.ends(ConnectionLost)

    # -- what should come of it

    def hear(self, data):
        """Give bytes to the session, and to the model before."""
        if self.reason is None:
            self.delivered += data
            *lines, self.delivered = self.delivered.split(b"\n")
            for line in lines:
                self.take(line, cut=False)
            if not data:
                rest, self.delivered = self.delivered, b""
                self.take(rest, cut=True)
                self.ends(ConnectionLost)
        self.session.receive(data)

    def take(self, line, *, cut):
        if self.reason is not None or not line:
            return
        try:
            message = decode(line, sender=Role.GUEST)
        except MalformedLine:
            self.ends(ConnectionLost if cut else MalformedLine)
            return
        if isinstance(message, Lifecycle | UnknownMessage):
            self.heard += 1
            self.kept.append(message)
            if len(self.kept) > self.max_notifications:
                self.dropped += 1
                del self.kept[0]
            return
        waiting = [w for w in self.on_wire() if w not in self.flight]
        if not waiting or (isinstance(message, Ack) and message.reply_to == "mount"):
            self.ends(UnexpectedReply)
            return
        self.flight.append(waiting[0])
        if not waiting[0].abandoned:
            waiting[0].expected = answer(waiting[0].request)

    def ends(self, kind):
        if self.reason is not None:
            return
        self.reason = kind
        for watched in self.calls:
            if watched.expected is not None:
                continue
            if not watched.call.sent or self.place(watched)[0] >= len(self.wire):
                watched.expected = "not sent"
            elif issubclass(kind, RemoteProtocolError):
                watched.expected = kind
            else:
                watched.expected = ConnectionLost if isinstance(watched.request, NO_EFFECT) else OutcomeUnknown

    @rule()
    def take_notification(self):
        assert self.session.take_notification() == (self.kept.pop(0) if self.kept else None)

    @invariant()
    def holds(self):
        session = self.session
        lines = b"".join(encode(w.request) for w in self.on_wire())
        assert lines.startswith(self.wire)
        assert not any(w.withdrawn and w.call.sent for w in self.calls)
        assert len(session.connection.pending) <= self.max_pending
        assert (session.heard, session.dropped_notifications) == (self.heard, self.dropped)
        assert session.has_notification is bool(self.kept)
        assert (session.ended is None) is (self.reason is None)
        if self.reason is not None:
            assert isinstance(session.ended, self.reason)
            assert not session.wants_write
        for watched in self.calls:
            self.check(watched)

    def check(self, watched):
        outcome = watched.call.outcome
        expected = watched.expected
        if watched.seen is not None:
            assert outcome is watched.seen
        watched.seen = outcome
        assert watched.call.settled is (expected is not None)
        if isinstance(expected, Reply):
            assert outcome == expected
            assert watched.call.reply() is outcome
        elif expected == "not sent":
            assert type(outcome) is ConnectionLost
            assert f"{watched.request.type} was not sent" in str(outcome)
        elif expected is not None:
            assert type(outcome) is expected
            with pytest.raises(expected):
                watched.call.reply()


TestConversations = Conversations.TestCase
TestConversations.settings = settings(stateful_step_count=60, max_examples=150)


# -- one thing at a time ---------------------------------------------------------------------------------------

SECRET = InjectSecret("A", SENTINEL)
MOUNT = Mount("share0", "/a", "9p")


def session_with(*requests, written=None, **options):
    """A session that was asked `requests`, and has written the first `written` bytes (None: all)."""
    session = Session("the guest", **options)
    calls = [session.start(request) for request in requests]
    while written is None and (data := session.next_write()):
        session.wrote(len(data))
    if written:
        assert len(session.next_write()) >= written
        session.wrote(written)
    return session, calls


def shown(error):
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


@pytest.mark.parametrize(
    ("request_", "sent", "end"),
    [
        (Ping(), True, "ping in time"),
        (Ping(), False, "ping in time"),
        (SECRET, True, "inject_secret in time; it may still be carried out"),
        (SECRET, False, "inject_secret in time; it was not carried out"),
    ],
)
def test_what_is_said_of_a_request_that_was_given_up(request_, sent, end):
    session = Session("the guest", max_pending=1)
    if not sent:
        session.start(Ping())
    call = session.start(request_)
    assert str(session.abandon(call)) == f"the guest did not answer {end}"


@pytest.mark.parametrize("written", [1, len(encode(SECRET)) - 1])
def test_a_torn_request_may_be_carried_out(written):
    # All but the newline is a whole line to the guest, once the connection ends.
    session, (call,) = session_with(SECRET, written=written)
    error = session.abandon(call)
    assert error.sent
    assert "may still be carried out" in str(error)
    assert call.outcome is error
    assert "in the middle of writing a request" in str(session.ended)
    assert not session.wants_write


def test_giving_up_a_call_that_has_its_reply_ends_nothing():
    session, (call,) = session_with(Ping(), written=5)
    session.receive(encode(Pong()))
    session.abandon(call)
    assert call.outcome == Pong()
    assert session.ended is None
    assert bytes(session.next_write()) == encode(Ping())[5:]


def test_giving_up_behind_requests_that_were_answered():
    session, (first, second, third) = session_with(Ping(), GetHealth(), SECRET)
    session.receive(encode(Pong()))
    assert session.abandon(second).sent
    session.receive(encode(Health("ready")) + encode(Ack("inject_secret", True)))
    assert first.reply() == Pong()
    assert third.reply() == Ack("inject_secret", True)
    assert session.ended is None


def test_what_was_not_given_to_the_wire_is_withdrawn():
    session, (first, second, third) = session_with(Ping(), SECRET, MOUNT, max_pending=1)
    assert not session.is_written(second)
    error = session.abandon(second)
    assert not error.sent
    assert "was not carried out" in str(error)
    session.receive(encode(Pong()))
    assert session.next_write() == encode(MOUNT)
    assert (first.settled, second.sent, third.sent) == (True, False, True)


def test_who_is_woken_by_the_end_finds_nothing_to_write():
    session = Session("the guest", max_pending=1)
    found = []
    for _ in range(3):
        session.start(SECRET, lambda: found.append((session.wants_write, bytes(session.next_write()))))
    session.wrote(3)
    session.close()
    assert found == [(False, b"")] * 3


def test_who_is_woken_by_the_end_cannot_ask():
    session = Session("the guest")
    errors = []

    def ask_again():
        with pytest.raises(ConnectionLost, match="ping was not sent") as caught:
            session.start(Ping())
        errors.append(caught.value)

    session.start(Ping(), ask_again)
    session.receive(b"")
    assert len(errors) == 1


def test_room_in_flight_wakes_the_next():
    session, _ = session_with(Ping(), max_pending=1)
    woken = []
    session.start(Ping(), lambda: woken.append(session.wants_write))
    assert not session.wants_write
    session.receive(encode(Pong()))
    assert woken == [True]


def test_lines_of_one_write_are_joined():
    requests = [InjectSecret(f"n{number}", "x" * 1000) for number in range(100)]
    session, calls = session_with(*requests, written=0)
    session.wrote(len(session.next_write()))
    data = session.next_write()
    assert len(encode(requests[0])) < len(data) <= 64 * 1024 + len(encode(requests[-1]))
    session.wrote(10)
    assert bytes(session.next_write()) == data[10:]
    assert [call.sent for call in calls] == [True] * data.count(b"\n") + [True] + [False] * (99 - data.count(b"\n"))


def test_a_payload_that_was_changed_meanwhile_fails_alone():
    payload = {"a": SENTINEL}
    session, (_, custom, last) = session_with(Ping(), CustomRequest("x", payload), SECRET, written=0)
    session.start(SECRET)
    session.wrote(len(session.next_write()))
    payload["a"] = object()
    assert session.next_write() == encode(SECRET) * 2
    assert type(custom.outcome) is LocalProtocolError
    assert SENTINEL not in shown(custom.outcome)
    assert last.sent


def test_who_is_told_that_a_payload_was_changed_may_end_the_session():
    payload = {}
    session, calls = session_with(Ping(), SECRET, CustomRequest("x", payload), SECRET, written=0)
    ping, first, custom, last = calls
    session.wrote(len(session.next_write()))
    payload["a"] = object()
    custom.wake = session.close
    assert session.next_write() == b""
    assert not session.wants_write
    assert type(custom.outcome) is LocalProtocolError
    assert [type(call.outcome) for call in (ping, first, last)] == [ConnectionLost] * 3


CUT = b'{"type":"x"}\n{"' + SENTINEL.encode()


@pytest.mark.parametrize(
    ("end", "kind", "cause"),
    [
        (lambda session: session.receive(b""), OutcomeUnknown, type(None)),
        (lambda session: (session.receive(CUT), session.receive(b"")), OutcomeUnknown, IncompleteLine),
        (lambda session: session.receive(b"[" + SENTINEL.encode() + b"\n"), MalformedLine, type(None)),
        (lambda session: session.receive(encode(Ack("mount", True, SENTINEL))), UnexpectedReply, type(None)),
        (lambda session: session.close(), OutcomeUnknown, type(None)),
        (lambda session: session.interrupted(), OutcomeUnknown, type(None)),
    ],
)  # fmt: skip
def test_errors_hold_no_secret(end, kind, cause):
    session, (sent, waits) = session_with(SECRET, SECRET, max_pending=1)
    end(session)
    assert type(sent.outcome) is kind
    assert type(sent.outcome.__cause__) is cause
    assert type(waits.outcome) is ConnectionLost
    for error in (sent.outcome, waits.outcome, session.ended):
        assert SENTINEL not in shown(error)
        assert SENTINEL not in str(error)
    with pytest.raises(ConnectionLost) as caught:
        session.start(SECRET)
    assert SENTINEL not in shown(caught.value)


def test_a_broken_stream_shows_nothing_of_what_was_written():
    session, (call,) = session_with(SECRET, written=7)

    def write(data):
        raise BrokenPipeError(32, "Broken pipe")

    try:
        write(session.next_write())
    except OSError as exc:
        session.broken(exc)
    assert type(call.outcome) is OutcomeUnknown
    assert isinstance(call.outcome.__cause__, BrokenPipeError)
    assert "broke (Broken pipe)" in str(call.outcome)
    assert "inject_secret" not in shown(call.outcome.__cause__)
    session.broken(OSError("again"))
    assert "Broken pipe" in str(session.ended)


def test_interrupted_in_the_middle_nobody_knows_what_was_written():
    session, (call,) = session_with(MOUNT, written=0)
    session.interrupted()
    assert type(call.outcome) is OutcomeUnknown


@bytecode_of_3_11
@pytest.mark.parametrize("end", [b"", b"nonsense\n"])
def test_interrupted_in_the_middle_of_reading_nobody_waits_any_more(end):
    """Wherever it comes: who is told of the end once more is told what it was told before."""
    data = encode(Lifecycle("a")) + encode(Pong()) + encode(Ack("mount", True)) + encode(Lifecycle("b")) + end
    for place in itertools.count(1):
        session, calls = session_with(Ping(), MOUNT, SECRET, max_pending=3)
        calls.append(session.start(SetConfig("waits for room")))
        waiting = [session.listen(), session.listen(), session.until_end(), session.until_end()]
        done = interrupted(place, lambda: session.receive(data))  # noqa: B023
        if not done:
            session.interrupted()
        session.receive(b"")
        assert [*calls, *waiting] == [each for each in [*calls, *waiting] if each.done]
        assert calls[0].outcome == Pong() or isinstance(calls[0].outcome, ConnectionLost)
        assert isinstance(calls[1].outcome, Ack | OutcomeUnknown | MalformedLine)
        assert isinstance(calls[2].outcome, OutcomeUnknown | MalformedLine)
        assert isinstance(calls[3].outcome, ConnectionLost)
        if done:
            break
    assert place > 50


def test_a_broken_stream_without_a_number_and_with_nothing_to_write():
    session, (call,) = session_with(Ping())
    session.broken(OSError("odd"))
    assert "broke (odd) while ping was unanswered" in str(call.outcome)
    assert type(call.outcome) is ConnectionLost
    assert call.outcome.unanswered == (Ping(),)


@pytest.mark.parametrize("limits", [{"max_notifications": -1}, {"max_pending": 0}])
def test_limits_that_mean_nothing_are_refused(limits):
    """To keep less than no notification would take for ever."""
    with pytest.raises(ValueError, match="at least"):
        Session("the guest", **limits)


def test_each_call_gets_an_error_of_its_own():
    session, calls = session_with(SECRET, MOUNT, Ping())
    session.receive(b"nonsense\n")
    assert len({id(call.outcome) for call in calls} | {id(session.ended)}) == 4


def test_only_the_requests_that_still_wait_are_called_unanswered():
    session, (first, second, third) = session_with(MOUNT, SECRET, Shutdown())
    session.abandon(second)
    session.receive(encode(Ack("mount", True)))
    session.receive(b"")
    assert third.outcome.unanswered == (Shutdown(),)
    assert third.outcome.request == Shutdown()
    assert first.reply() == Ack("mount", True)


def test_what_comes_after_the_end_is_dropped():
    session, (call,) = session_with(Ping())
    session.close()
    outcome = call.outcome
    session.receive(encode(Pong()))
    session.receive(b"")
    session.end(ConnectionLost("late"))
    assert call.outcome is outcome
    assert session.closed
    assert str(session.ended) == "the connection to the guest was closed"


def test_who_closes_what_has_ended_has_not_ended_it():
    session, _ = session_with()
    session.receive(b"")
    session.close()
    assert not session.closed
    assert str(session.ended) == "the guest closed the connection"


def test_refusals_are_errors_only_where_they_are_asked_for():
    assert accepted(MOUNT, Ack("mount", True)) == Ack("mount", True)
    assert accepted(Ping(), Pong()) == Pong()
    with pytest.raises(RequestFailed, match="the guest refused mount: no"):
        accepted(MOUNT, Ack("mount", False, "no"))


def test_a_refusal_that_quotes_a_secret_does_not_show_it():
    with pytest.raises(RequestFailed) as caught:
        accepted(SECRET, Ack("inject_secret", False, f"cannot write {SENTINEL}"))
    frames = traceback.TracebackException(RequestFailed, caught.value, caught.tb.tb_next, capture_locals=True)
    assert SENTINEL not in "".join(frames.format())


@pytest.mark.parametrize("closed", [False, True])
def test_who_listens_is_told_once_of_news_and_of_the_end(closed):
    session, _ = session_with()
    first, second = session.hear(), session.hear()
    session.ignore(second)
    session.ignore(second)
    assert not first.done
    session.receive(encode(Lifecycle("ready")))
    assert (first.done, second.done) == (True, False)
    assert session.hear() == Lifecycle("ready")
    third = session.hear()
    session.close() if closed else session.receive(b"")
    assert third.done
    assert session.listen().done
    if closed:
        assert session.hear() is None
    else:
        with pytest.raises(ConnectionLost, match="closed the connection"):
            session.hear()


def test_the_first_error_among_several_outcomes_is_raised():
    assert replies([Pong(), Ack("mount", False)]) == [Pong(), Ack("mount", False)]
    with pytest.raises(OutcomeUnknown):
        replies([Pong(), OutcomeUnknown("gone"), ConnectionLost("gone")])


def test_a_call_that_has_not_settled_has_no_reply():
    _, (call,) = session_with(Ping())
    with pytest.raises(RuntimeError, match="not settled"):
        call.reply()


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20))
def test_whatever_the_guest_sends_every_call_settles(chunks):
    session, calls = session_with(Ping(), SECRET, GetHealth())
    for chunk in chunks:
        session.receive(chunk)
    session.receive(b"")
    assert all(call.settled for call in calls)
    assert isinstance(session.ended, StereosError)
