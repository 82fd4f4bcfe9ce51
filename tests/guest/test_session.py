"""The part below all servers, without a socket: order, bounds and ends under any interleaving."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import MAX_LINE_SIZE, Ack, CustomRequest, Lifecycle, Ping, Pong, Shutdown, encode
from stereos_proto_io.guest import FaultPlan
from stereos_proto_io.guest._actions import Close, PowerOff
from stereos_proto_io.guest._session import MAX_BUFFERED, MAX_OWED, GuestSession


def requests(count):
    return b"".join(encode(CustomRequest(f"t{number}")) for number in range(count))


def written(session):
    """The lines that it wants written now, and what comes last if that is no line."""
    data, last = b"", None
    while (action := session.next_action()) is not None:
        if isinstance(action, bytes):
            data += action
        else:
            last = action
    return [json.loads(line) for line in data.splitlines()], last


def types(lines):
    return [line["payload"]["reply_to"] for line in lines]


@given(st.permutations(range(8)))
def test_answers_wait_for_those_before_them(order):
    session = GuestSession()
    session.receive_data(requests(8))
    owed = [session.next_request() for _ in range(8)]
    said, answered = [], set()
    for index in order:
        session.answer(owed[index], Ack(f"t{index}", True))
        answered.add(index)
        said += types(written(session)[0])
        ready = next((number for number in range(8) if number not in answered), 8)
        assert said == [f"t{number}" for number in range(ready)]


@given(st.lists(st.integers(0, 400), max_size=20))
def test_cuts_do_not_matter(cuts):
    data = requests(3) + b"x\n\n" + encode(Ping()) + b'{"type":"tail"'
    points = sorted({min(cut, len(data)) for cut in cuts})
    session = GuestSession()
    for start, end in zip([0, *points], [*points, len(data)], strict=True):
        session.receive_data(data[start:end])
        answer_all(session)
    session.receive_eof()
    answer_all(session)
    lines, last = written(session)
    assert last == Close()
    assert [line["type"] for line in lines] == ["ack"] * 4 + ["pong", "ack"]
    assert types(line for line in lines if line["type"] == "ack") == ["t0", "t1", "t2", "", ""]
    assert session.ended


def answer_all(session):
    while (owed := session.next_request()) is not None:
        session.answer(owed, Pong() if owed.request == Ping() else Ack(owed.request.type, True))


def test_no_more_requests_than_there_is_room_for():
    session = GuestSession()
    session.receive_data(requests(MAX_OWED + 5))
    owed = []
    while (step := session.next_request()) is not None:
        owed.append(step)
    assert len(owed) == MAX_OWED
    assert not session.wants_data
    session.answer(owed[0], Ack("t0", True))
    assert session.wants_data
    assert session.next_request().request == CustomRequest(f"t{MAX_OWED}")
    assert session.next_request() is None


def test_malformed_lines_are_bounded_by_what_they_cost():
    """They are answered without a handler, and yet not without end."""
    session = GuestSession()
    session.receive_data(b"x\n" * 20_000)
    assert session.next_request() is None
    assert not session.wants_data
    lines, _ = written(session)
    size = sum(len(json.dumps(line)) for line in lines)
    assert MAX_BUFFERED / 2 < size < MAX_BUFFERED * 2
    assert session.wants_data
    total = len(lines)
    while session.next_request() is None and (lines := written(session)[0]):
        total += len(lines)
    assert total == 20_000


def test_no_requests_while_the_host_does_not_read():
    session = GuestSession()
    session.receive_data(requests(3))
    session.answer(session.next_request(), Ack("t0", False, "x" * MAX_BUFFERED))
    assert (session.next_request(), session.wants_data) == (None, False)
    assert types(written(session)[0]) == ["t0"]
    assert session.wants_data
    assert session.next_request().request.type == "t1"


def test_a_second_answer_is_dropped():
    session = GuestSession()
    session.receive_data(requests(1))
    owed = session.next_request()
    session.answer(owed, Ack("t0", True))
    session.answer(owed, Ack("t0", False, "again"))
    assert types(written(session)[0]) == ["t0"]


def test_nothing_follows_the_end():
    session = GuestSession()
    session.receive_data(encode(Shutdown()) + requests(2))
    owed = [session.next_request() for _ in range(3)]
    session.answer(owed[0], Ack("shutdown", True))
    session.answer(owed[1], Ack("t0", True))
    assert not session.push(Lifecycle("shutdown"))
    session.receive_data(requests(1))
    lines, last = written(session)
    assert (types(lines), last) == (["shutdown"], PowerOff())
    session.answer(owed[2], Ack("t1", True))
    assert session.next_action() is None
    assert session.next_request() is None
    assert not session.wants_data


def test_a_restart_forgets_everything():
    session = GuestSession(boundless=True)
    session.receive_data(requests(2) + b'{"type":"ha')
    owed = [session.next_request(), session.next_request()]
    session.answer(owed[0], Ack("t0", True))
    session.restart()
    session.answer(owed[1], Ack("t1", True))
    assert session.next_action() is None
    session.receive_data(encode(Ping()))
    answer_all(session)
    assert written(session) == ([{"type": "pong"}], None)


def test_a_boundless_session_knows_no_end_of_file():
    session = GuestSession(boundless=True)
    session.receive_data(b'{"type":"pi')
    session.receive_eof()
    session.receive_data(b'ng"}\n')
    answer_all(session)
    assert written(session) == ([{"type": "pong"}], None)


@pytest.mark.parametrize("boundless", [False, True])
def test_too_long_a_line(boundless):
    session = GuestSession(boundless=boundless)
    session.receive_data(encode(Ping()) + b"x" * MAX_LINE_SIZE)
    owed = session.next_request()
    assert session.next_request() is None
    session.answer(owed, Pong())
    lines, last = written(session)
    assert lines == [{"type": "pong"}]
    assert last == (None if boundless else Close())
    assert session.wants_data is boundless


def test_its_repr_shows_no_content():
    session = GuestSession()
    session.receive_data(b'{"type":"inject_secret","payload":{"name":"a","value":"hush"}}\n')
    owed = session.next_request()
    assert repr(session) == "<GuestSession owed=1 buffered=0 ended=False>"
    assert "hush" not in repr(owed)


def test_sessions_share_the_plan():
    plan = FaultPlan(["drop#2"])
    for number, heard in enumerate([["t0"], []]):
        session = GuestSession(plan=plan)
        session.receive_data(requests(1))
        answer_all(session)
        assert types(written(session)[0]) == heard, number
