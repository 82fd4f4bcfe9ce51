"""The guest's session, without a socket: order, bounds and ends under any interleaving."""

import copy
import json
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interrupts import every_place, interrupt, locals_of
from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    ConnectionLost,
    CustomRequest,
    GuestSession,
    Health,
    IncompleteLine,
    InjectSecret,
    Lifecycle,
    LineTooLong,
    LocalProtocolError,
    MalformedReceived,
    PendingRequest,
    Ping,
    Pong,
    ReplyReplaced,
    SessionEnded,
    Shutdown,
    encode,
)
from stereos_proto._guest_session import MAX_UNSENT


def requests(count):
    return b"".join(encode(CustomRequest(f"t{number}")) for number in range(count))


def written(session, size=None):
    """The lines that it wants written now, taken `size` bytes at a time."""
    data = b""
    while peek := session.data_to_send():
        assert session.wants_write
        assert bytes(session.data_to_send()) == bytes(peek)  # looking takes nothing
        part = bytes(peek[:size])
        data += part
        session.data_sent(len(part))
    assert not session.wants_write
    return [json.loads(line) for line in data.splitlines()]


def types(lines):
    return [line["payload"]["reply_to"] for line in lines]


def pull(session):
    """All events that there are now."""
    return list(session.events())


def answer(pending):
    return Pong() if pending.request == Ping() else Ack(pending.request.type, True)


def serve(session):
    """Pull and answer until nothing comes; return the events that are no requests."""
    others = []
    while (event := session.next_event()) is not NEED_DATA:
        if isinstance(event, PendingRequest):
            session.reply(event, answer(event))
        else:
            others.append(event)
    return others


# ------------------------------------------------------------------------------------------------- order


@given(st.permutations(range(8)))
def test_replies_wait_for_those_before_them(order):
    session = GuestSession()
    session.receive_data(requests(8))
    pending = pull(session)
    assert session.pending == tuple(pending)
    said, answered = [], set()
    for index in order:
        session.reply(pending[index], Ack(f"t{index}", True))
        answered.add(index)
        said += types(written(session))
        ready = next((number for number in range(8) if number not in answered), 8)
        assert said == [f"t{number}" for number in range(ready)]
        assert session.pending == tuple(pending[ready:])
    assert not session.ended


@given(st.lists(st.integers(0, 400), max_size=20), st.integers(1, 100))
def test_cuts_do_not_matter(cuts, size):
    data = requests(3) + b"x\n\n" + encode(Ping()) + b'{"type":"tail"'
    points = sorted({min(cut, len(data)) for cut in cuts})
    session = GuestSession()
    others = []
    for start, end in zip([0, *points], [*points, len(data)], strict=True):
        session.receive_data(data[start:end])
        others += serve(session)
    session.receive_eof()
    others += serve(session)
    lines = written(session, size)
    others += serve(session)
    assert [line["type"] for line in lines] == ["ack"] * 4 + ["pong", "ack"]
    assert types(line for line in lines if line["type"] == "ack") == ["t0", "t1", "t2", "", ""]
    assert [type(event) for event in others] == [MalformedReceived, MalformedReceived, SessionEnded]
    assert isinstance(others[-1].error, IncompleteLine)
    assert session.ended


def test_lines_that_cannot_be_read_are_refused_in_their_order():
    session = GuestSession()
    session.receive_data(encode(CustomRequest("a")) + b'[]\n{"type":"mount"}\n' + encode(Ping()))
    first, array, payload, ping = pull(session)
    assert [type(event) for event in (array, payload)] == [MalformedReceived] * 2
    assert [pending.request for pending in session.pending] == [
        CustomRequest("a"),
        CustomRequest(""),
        CustomRequest("mount"),
        Ping(),
    ]
    session.reply(ping, Pong())
    assert written(session) == []
    session.reply(first, Ack("a", True))
    lines = written(session)
    assert types(lines[:3]) == ["a", "", "mount"]
    assert lines[1]["payload"]["error"].startswith("malformed JSON: ")
    assert lines[2]["payload"]["error"] == "decode mount payload: envelope mount has no payload"
    assert lines[3] == {"type": "pong"}


def test_small_replies_leave_in_one_write_and_large_ones_alone():
    session = GuestSession(max_unsent=10**7)
    session.receive_data(requests(40))
    pending = pull(session)
    for number in (0, 1):
        session.reply(pending[number], Ack(f"t{number}", True))
    assert bytes(session.data_to_send()).count(b"\n") == 2
    # What was handed out stays as it is: more comes behind it.
    session.reply(pending[2], Ack("t2", True))
    assert bytes(session.data_to_send()).count(b"\n") == 2
    assert types(written(session)) == ["t0", "t1", "t2"]
    for number in range(3, 40):
        session.reply(pending[number], Ack(f"t{number}", False, "x" * 10_000))
    assert bytes(session.data_to_send()).count(b"\n") == 7
    assert types(written(session)) == [f"t{number}" for number in range(3, 40)]


# ------------------------------------------------------------------------------------------------ bounds


def test_no_more_requests_than_there_is_room_for():
    session = GuestSession()
    session.receive_data(requests(69))
    pending = pull(session)
    assert len(pending) == 64
    assert not session.wants_data
    session.reply(pending[0], Ack("t0", True))
    assert session.wants_data
    assert [event.request for event in pull(session)] == [CustomRequest("t64")]


def test_lines_that_cannot_be_read_are_bounded_by_what_they_cost():
    """They are answered without a handler, and yet not without end."""
    session = GuestSession()
    session.receive_data(b"x\n" * 20_000)
    total = 0
    while events := pull(session):
        assert not session.wants_data or total + len(events) == 20_000
        lines = written(session)
        assert len(lines) == len(events)
        assert sum(len(json.dumps(line)) for line in lines) < MAX_UNSENT * 2
        total += len(events)
    assert total == 20_000


def test_no_requests_while_the_host_does_not_read():
    session = GuestSession(max_unsent=1000)
    session.receive_data(requests(3))
    session.reply(session.next_event(), Ack("t0", False, "x" * 1000))
    assert (session.next_event(), session.wants_data) == (NEED_DATA, False)
    assert types(written(session)) == ["t0"]
    assert session.wants_data
    assert session.next_event().request.type == "t1"


def sized(size):
    """A refusal of any request whose line has so many bytes."""
    refusal = Ack("", False, "x" * (size - len(encode(Ack("", False, "x"))) + 1))
    assert len(encode(refusal)) == size
    return refusal


@pytest.mark.parametrize(("size", "is_room"), [(262_143, True), (262_144, False)])
def test_256_kib_wait_to_be_written(size, is_room):
    session = GuestSession()
    session.receive_data(requests(1))
    [asked] = pull(session)
    session.reply(asked, sized(size))
    assert session.wants_data is is_room
    session.receive_data(requests(1))
    assert (session.next_event() is NEED_DATA) is not is_room
    assert session.push(Lifecycle("ready")) is is_room


@pytest.mark.parametrize(("size", "lines"), [(65_535, 2), (65_536, 1)])
def test_a_reply_of_64_kib_leaves_alone(size, lines):
    session = GuestSession()
    session.receive_data(requests(2))
    first, second = pull(session)
    session.reply(first, sized(size))
    session.reply(second, Ack("t1", True))
    assert bytes(session.data_to_send()).count(b"\n") == lines


def test_no_more_is_joined_once_there_are_64_kib():
    session = GuestSession()
    session.receive_data(requests(3))
    first, second, third = pull(session)
    session.reply(first, Ack("t0", True))
    session.reply(second, sized(65_536 - len(encode(Ack("t0", True)))))
    session.reply(third, Ack("t2", True))
    assert bytes(session.data_to_send()).count(b"\n") == 2


@pytest.mark.parametrize("bound", ["max_unanswered", "max_unsent"])
def test_bounds_are_at_least_one(bound):
    with pytest.raises(ValueError, match="at least 1"):
        GuestSession(**{bound: 0})
    session = GuestSession(**{bound: 1})
    session.receive_data(requests(2))
    assert serve(session) == []
    assert types(written(session) + (serve(session) or written(session))) == ["t0", "t1"]


# ----------------------------------------------------------------------------------------------- replies


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (None, "the handler returned a NoneType, which is not a reply"),
        (Lifecycle("ready"), "the handler returned a Lifecycle, which is not a reply"),
        (Pong(), "cannot send pong: pong does not answer t0, the oldest unanswered request"),
        (
            Ack("other", True),
            "cannot send ack: ack of an unknown request does not answer t0, the oldest unanswered request",
        ),
        (Ack("t0", False, "\ud800"), "cannot send ack: a text in it holds a lone surrogate, which has no UTF-8"),
        (Ack("t0", False, "x" * MAX_LINE_SIZE), "cannot send ack: the line would be "),
    ],
)
def test_a_reply_that_cannot_be_sent_is_replaced_by_a_refusal(reply, error):
    session = GuestSession()
    session.receive_data(requests(1) + encode(Ping()))
    first = session.next_event()
    session.reply(first, reply)
    replaced = session.next_event()
    assert isinstance(replaced, ReplyReplaced)
    assert replaced.pending is first
    assert str(replaced.error).startswith(error)
    assert serve(session) == []
    refused, pong = written(session)
    assert refused["payload"]["ok"] is False
    assert refused["payload"]["error"].startswith(f"internal error: {error}")
    assert types([refused]) == ["t0"]
    assert pong == {"type": "pong"}


@pytest.mark.parametrize(("limit", "told"), [(MAX_LINE_SIZE, True), (64, False)])
def test_a_type_as_long_as_a_line_is_answered_all_the_same(limit, told):
    session = GuestSession(max_line_size=limit)
    type_ = "x" * (limit - len('{"type":""}\n'))
    session.receive_data(b'{"type":"%b"}\n' % type_.encode())
    pending = session.next_event()
    session.reply(pending, Ack(type_, False, f"unknown message type: {type_}"))
    assert isinstance(session.next_event(), ReplyReplaced)
    (line,) = written(session)
    assert line["payload"]["reply_to"] == ""
    assert ("internal error: cannot send ack" in line["payload"].get("error", "")) is told


def test_a_second_reply_is_dropped():
    session = GuestSession()
    session.receive_data(requests(2))
    first, second = pull(session)
    for pending in (second, first):
        session.reply(pending, Ack(pending.request.type, True))
        session.reply(pending, Ack(pending.request.type, False, "again"))
    assert [line["payload"]["ok"] for line in written(session)] == [True, True]


def test_a_request_of_another_session_is_not_answered():
    one, two = GuestSession(), GuestSession()
    one.receive_data(requests(1))
    two.receive_data(requests(1))
    (mine,), (other,) = pull(one), pull(two)
    with pytest.raises(ValueError, match=r"^this request belongs to another session$"):
        one.reply(other, answer(other))
    assert (other.reply, one.pending, two.pending) == (None, (mine,), (other,))
    two.reply(other, answer(other))
    assert len(written(two)) == 1


def test_pushes_go_out_behind_what_waits():
    session = GuestSession(max_unsent=200)
    session.receive_data(encode(Ping()))
    session.reply(session.next_event(), Pong())
    assert session.push(Lifecycle("ready"))
    assert [line["type"] for line in written(session)] == ["pong", "lifecycle"]
    assert session.push(Lifecycle("ready", "x" * 200))
    assert not session.push(Lifecycle("ready"))
    assert len(written(session)) == 1
    with pytest.raises(LocalProtocolError):
        session.push(Lifecycle("ready", "x" * MAX_LINE_SIZE))
    assert session.push(Lifecycle("ready"))


# ------------------------------------------------------------------------------------------------- ends


def test_a_half_closed_host_gets_what_it_is_owed():
    session = GuestSession()
    session.receive_data(requests(1) + encode(Ping()).rstrip(b"\n"))
    session.receive_eof()
    first, ping = pull(session)
    assert (session.wants_data, session.ended) == (False, False)
    session.reply(first, Ack("t0", True))
    session.reply(ping, Pong())
    assert pull(session) == []  # not before it is written
    session.data_sent(len(session.data_to_send()) - 1)
    assert (pull(session), session.ended) == ([], False)
    session.data_sent(1)
    assert session.ended
    assert not session.push(Lifecycle("ready"))
    assert pull(session) == [SessionEnded(None)]
    assert pull(session) == []
    session.receive_eof()
    session.receive_data(requests(1))
    assert pull(session) == []
    assert not session.shut_down


def test_a_shutdown_is_the_last_line():
    session = GuestSession()
    session.receive_data(encode(Shutdown()) + requests(2))
    shutdown, first, second = pull(session)
    session.reply(first, Ack("t0", True))
    session.reply(shutdown, Ack("shutdown", True))
    assert not session.push(Lifecycle("shutdown"))
    session.receive_data(requests(1))
    assert not session.shut_down  # the ack is still to be written
    assert pull(session) == []
    assert types(written(session)) == ["shutdown"]
    assert session.shut_down
    assert pull(session) == [SessionEnded()]
    session.reply(second, Ack("t1", True))
    assert (session.data_to_send(), session.wants_data) == (b"", False)


@pytest.mark.parametrize("reply", [Ack("shutdown", False, "not now"), Ack("", False), Pong()])
def test_a_refused_shutdown_ends_nothing(reply):
    session = GuestSession()
    session.receive_data(encode(Shutdown()) + encode(Ping()))
    session.reply(session.next_event(), reply)
    serve(session)
    assert len(written(session)) == 2
    assert (session.shut_down, session.wants_data) == (False, True)


@pytest.mark.parametrize("has_connections", [True, False])
def test_too_long_a_line(has_connections):
    session = GuestSession(has_connections=has_connections)
    session.receive_data(encode(Ping()) + b"x" * MAX_LINE_SIZE)
    (ping,) = pull(session)
    assert not session.wants_data
    session.reply(ping, Pong())
    assert pull(session) == []
    assert written(session) == [{"type": "pong"}]
    if has_connections:
        (ended,) = pull(session)
        assert isinstance(ended.error, LineTooLong)
    assert session.wants_data is not has_connections
    assert session.ended is has_connections


def test_too_long_a_line_at_once():
    session = GuestSession()
    session.receive_data(b"x" * MAX_LINE_SIZE)
    (ended,) = pull(session)
    assert isinstance(ended.error, LineTooLong)


def test_a_write_that_fails_ends_the_session():
    session = GuestSession()
    session.receive_data(requests(2))
    first, second = pull(session)
    session.reply(first, Ack("t0", True))
    cause = BrokenPipeError(32, "Broken pipe")
    session.write_failed(cause)
    assert (session.ended, session.wants_write, session.pending) == (True, False, ())
    (ended,) = pull(session)
    assert isinstance(ended.error, ConnectionLost)
    assert str(ended.error) == "the connection to the host broke (Broken pipe)"
    assert ended.error.__cause__ is cause
    session.reply(second, Ack("t1", True))
    session.write_failed(OSError("again"))
    assert (pull(session), session.data_to_send()) == ([], b"")


def test_closing_drops_what_is_owed():
    session = GuestSession()
    session.receive_data(requests(2))
    session.reply(session.next_event(), Ack("t0", True))
    assert session.data_to_send()
    for _ in range(2):
        session.close()
    session.data_sent(10)  # a thread was still writing
    assert (session.data_to_send(), session.wants_data, session.ended) == (b"", False, True)
    assert pull(session) == [SessionEnded()]


# ------------------------------------------------------------------------- streams without connections


def test_a_stream_without_connections_knows_no_end():
    session = GuestSession(has_connections=False)
    session.receive_data(encode(CustomRequest("stale")) + b'{"type":"pi')
    (stale,) = pull(session)
    session.receive_eof()
    session.receive_data(b'ng"}\n')
    serve(session)
    session.reply(stale, Ack("stale", True))
    assert len(session.data_to_send()) > 10
    session.data_sent(10)
    session.write_failed(OSError("the host has gone"))
    rest = bytes(session.data_to_send())
    assert rest == (encode(Ack("stale", True)) + encode(Pong()))[10:]
    assert not session.ended


def test_a_restart_forgets_everything():
    session = GuestSession(has_connections=False)
    session.receive_data(requests(2) + b'{"type":"ha')
    first, second = pull(session)
    session.reply(first, None)
    old = session.connection
    session.restart()
    assert session.connection is not old
    session.reply(second, Ack("t1", True))
    assert (session.data_to_send(), pull(session)) == (b"", [])
    session.receive_data(encode(Ping()))
    serve(session)
    assert written(session) == [{"type": "pong"}]


@pytest.mark.parametrize("size", [0, 5])
def test_a_restart_forgets_what_was_being_written(size):
    session = GuestSession(has_connections=False)
    session.receive_data(encode(Ping()))
    serve(session)
    session.data_to_send()
    session.data_sent(size)
    session.restart()
    assert not session.wants_write
    assert session.data_to_send() == b""
    session.receive_data(encode(Ping()))
    serve(session)
    assert written(session) == [{"type": "pong"}]


def test_a_restart_after_a_shutdown():
    session = GuestSession(has_connections=False)
    session.receive_data(encode(Shutdown()))
    serve(session)
    written(session)
    assert pull(session) == [SessionEnded()]
    session.restart()
    assert (session.shut_down, session.wants_data) == (False, True)


def test_its_repr_shows_no_content():
    session = GuestSession()
    session.receive_data(b'{"type":"inject_secret","payload":{"name":"a","value":"hush"}}\n')
    pending = session.next_event()
    assert repr(session) == "<GuestSession pending=1 unsent=0 ended=False>"
    session.reply(pending, Ack("inject_secret", False, "hush"))
    assert "hush" not in repr(pending)


# ------------------------------------------------------------------------------------ any interleaving


@given(st.integers(0, 2**32), st.booleans())
def test_each_request_is_answered_once_whatever_happens_in_between(seed, has_connections):
    """Bytes, replies and writes come in any order; the host sees one reply for each line, in order."""
    rng, count = random.Random(seed), 12
    stream = b"".join(
        b"nonsense\n" if number % 4 == 3 else encode(CustomRequest(f"t{number}")) for number in range(count)
    )
    session = GuestSession(has_connections=has_connections, max_unanswered=3, max_unsent=100)
    open_, said = [], b""
    while stream or open_ or session.wants_write or session.pending:
        step = rng.choice(["receive", "reply", "write"])
        if step == "receive" and session.wants_data:
            size = rng.randint(1, 80)
            session.receive_data(stream[:size])
            stream = stream[size:]
        elif step == "reply" and open_:
            pending = open_.pop(rng.randrange(len(open_)))
            session.reply(pending, Ack(pending.request.type, True))
        elif step == "write" and (peek := session.data_to_send()):
            size = rng.randint(1, len(peek))
            said += bytes(peek[:size])
            session.data_sent(size)
        open_ += [event for event in pull(session) if isinstance(event, PendingRequest)]
        assert len(session.pending) <= 3
    heard = types(json.loads(line) for line in said.splitlines())
    assert heard == ["" if number % 4 == 3 else f"t{number}" for number in range(count)]


def test_health_is_told():
    session = GuestSession()
    session.receive_data(b'{"type":"get_health"}\n')
    session.reply(session.next_event(), Health("ready"))
    assert session.connection.lifecycle == "ready"


def test_a_ctrl_c_while_bytes_are_taken(monkeypatch):
    session = GuestSession()
    monkeypatch.setattr(session.connection, "_feed", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        session.receive_data(b"a secret")
    assert "a secret" not in locals_of(caught.value)


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_belongs_to_one_stream(how):
    with pytest.raises(TypeError, match="a Connection belongs to one stream"):
        how(GuestSession())


def test_a_closed_stream_without_connections_stays_closed():
    session = GuestSession(has_connections=False)
    session.receive_data(requests(1))
    session.close()
    assert [type(event) for event in session.events()] == [SessionEnded]
    session.receive_data(requests(1))
    assert (pull(session), session.ended) == ([], True)
    session.restart()
    session.receive_data(requests(1))
    assert len(pull(session)) == 1


def test_more_than_there_is_counts_as_all_of_it():
    """A thread may have been writing while the session was closed or restarted."""
    session = GuestSession()
    session.receive_data(requests(2))
    first, second = pull(session)
    session.reply(first, Ack("t0", True))
    assert session.data_to_send()
    session.data_sent(1)
    session.data_sent(1000)
    assert not session.wants_write
    session.reply(second, Ack("t1", True))
    assert types(written(session)) == ["t1"]
    session.receive_eof()
    assert pull(session) == [SessionEnded(None)]
    assert session.ended


def test_requests_are_told_apart_although_they_are_equal():
    session = GuestSession()
    session.receive_data(encode(Ping()) * 2)
    first, second = pull(session)
    assert first != second
    assert len({first, second}) == 2
    assert repr(first) == "PendingRequest(request=Ping())"


def test_what_cannot_have_been_written():
    session = GuestSession()
    serve(session)
    with pytest.raises(ValueError, match=r"^-1 bytes cannot have been written$"):
        session.data_sent(-1)


def test_an_error_of_another_kind_may_end_the_writing():
    session = GuestSession()
    session.write_failed(RuntimeError("the transport is gone"))
    (event,) = session.events()
    assert str(event.error) == "the connection to the host broke (the transport is gone)"


# -- exceptions of signal handlers. One is raised at each line that the library executes, and the program goes on. It
# does what the documentation asks of it: it ends the session where one comes after bytes were read or written, and
# before the session has counted them.


@pytest.mark.parametrize("has_connections", [True, False])
def test_no_guest_gives_a_reply_to_another_request(has_connections):
    lines = [encode(InjectSecret(name, "x")) for name in "abcd"]

    def scene(interrupter):
        session = GuestSession(has_connections=has_connections)
        written, pending = b"", []
        end = (lambda: session.write_failed(OSError("interrupted"))) if has_connections else session.restart
        for line in (*lines, b"", b"", b""):
            with interrupter:
                session.receive_data(line)
            if interrupter.just_hit:
                end()
            with interrupter:
                while (event := session.next_event()) is not NEED_DATA:
                    if isinstance(event, PendingRequest):
                        pending.append(event)
            if len(pending) > bool(line):
                # In another order than they came. Those that were interrupted are answered once more.
                for request in (*reversed(pending), *pending):
                    with interrupter:
                        session.reply(request, Ack("inject_secret", False, request.request.name))
                pending.clear()
            with interrupter:
                session.push(Lifecycle("ready"))
            data = b""
            with interrupter:
                data = bytes(session.data_to_send())
            written += data
            with interrupter:
                session.data_sent(len(data))
            if interrupter.just_hit:
                end()
        answers = [json.loads(line) for line in written.splitlines()]
        said = [each["payload"]["error"] for each in answers if each["type"] == "ack"]
        if has_connections:
            assert said == [*"abcd"][: len(said)]
            assert session.ended or len(said) == 4
        else:
            # A stream without connections starts anew: what was asked before is forgotten, and not answered wrongly.
            assert said == sorted(said)
        assert len(said) == len({*said})

    every_place(scene)


@pytest.mark.parametrize("has_connections", [True, False])
@pytest.mark.parametrize(
    ("place", "job"),
    [
        ("_end", lambda session: session.next_event()),
        ("_flush", lambda session: session.reply(session.pending[0], Pong())),
        ("_enqueue", lambda session: session.push(Lifecycle("ready"))),
        ("_join", lambda session: session.data_to_send()),
    ],
)
def test_an_interrupt_ends_the_session(place, job, has_connections, monkeypatch):
    session = GuestSession(has_connections=has_connections)
    session.receive_data(encode(Ping()) * 2)
    assert len(list(session.events())) == 2
    if place == "_end":
        session._reading = False
        session._pending.clear()
    if place == "_join":
        for _ in range(2):
            session.push(Lifecycle("ready"))
    with monkeypatch.context() as patch:
        patch.setattr(session, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            job(session)
    assert (session.pending, session.data_to_send()) == ((), b"")
    if not has_connections:
        assert session.next_event() is NEED_DATA
        assert session.wants_data
        return
    end = session.next_event()
    assert (type(end), end.error.closed_here) == (SessionEnded, True)
    assert session.ended


def test_an_interrupt_after_the_end_changes_nothing(monkeypatch):
    session = GuestSession()
    session.close()
    assert session.next_event() == SessionEnded(None)
    with monkeypatch.context() as patch:
        patch.setattr(session, "_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.next_event()
    assert session.ended
    assert session.next_event() is NEED_DATA


def test_an_interrupt_while_data_is_taken(monkeypatch):
    session = GuestSession()
    with pytest.raises(TypeError):
        session.receive_data("text")
    assert not session.ended
    monkeypatch.setattr(session.connection, "receive_data", interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.receive_data(b"x")
    assert session.ended


def test_a_reply_to_what_is_no_pending_request():
    session = GuestSession()
    session.receive_data(encode(Ping()))
    (pending,) = session.events()
    with pytest.raises(TypeError, match="reply takes the PendingRequest of the event, not a Ping"):
        session.reply(pending.request, Pong())
    session.reply(pending, Pong())
    assert session.data_to_send() == encode(Pong())
