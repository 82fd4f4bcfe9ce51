"""Floods of a hostile peer, through the core: costs are counted in bytes and function calls, never in seconds."""

import contextlib
import json

import pytest

from costs import CALLS_PER_BYTE, MEMORY_PER_BYTE, MIB, counted_bytes, counted_calls
from stereos_proto import (
    MAX_LINE_SIZE,
    MAX_PENDING,
    NEED_DATA,
    Ack,
    AgentStatus,
    Connection,
    Health,
    HostSession,
    InjectSecret,
    InvalidMessage,
    Lifecycle,
    LineTooLong,
    Mailbox,
    MalformedLine,
    MalformedReceived,
    NotificationReceived,
    Ping,
    Pong,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    ResyncPreamble,
    Role,
    Turns,
    UnexpectedReply,
    UnknownMessage,
    decode,
    encode,
)
from stereos_proto._mailbox import MAX_NOTIFICATIONS
from stereos_proto_io.driver import READ_SIZE

PONG = encode(Pong())

PUSH = encode(Lifecycle("ready", "flood"))


@pytest.fixture(autouse=True, scope="module")
def _the_slow_lane_is_loaded():
    """The first line that needs it loads it, and its regular expressions: these calls are not the line's."""
    with pytest.raises(MalformedLine):
        decode(b'{"', sender=Role.GUEST)


def events(connection):
    """All events up to the error that ends them, and the error's class."""
    found = []
    try:
        found.extend(connection.events())
    except RemoteProtocolError as exc:
        return found, type(exc)
    return found, None


@pytest.mark.parametrize("role", [*Role])
@pytest.mark.parametrize("chunk", [64, 4096, READ_SIZE])
def test_a_flood_without_newlines_is_cut_off_at_the_limit(role, chunk):
    """Of 64 MiB, no more is kept than one line and one chunk, and the error comes at the limit."""
    connection = Connection(role)
    piece = b"x" * chunk
    fed = 0
    with counted_bytes() as cost:
        while fed < 64 * MIB:
            connection.receive_data(piece)
            fed += chunk
            found, error = events(connection)
            assert found == []
            if error:
                break
    assert error is LineTooLong
    assert MAX_LINE_SIZE <= fed <= MAX_LINE_SIZE + chunk
    # A growing buffer is copied into a larger one, an eighth larger, so both are there for a moment.
    assert cost.peak < 2.5 * MAX_LINE_SIZE + 2 * chunk
    kept = len(connection.trailing_data)
    for _ in range(100):
        connection.receive_data(piece)
    assert len(connection.trailing_data) == kept


@pytest.mark.parametrize("chunk", [64, 1000, 65_536])
def test_the_cost_of_a_long_line_is_linear_in_its_chunks(chunk):
    """No byte is searched or copied again: each chunk costs the same few calls, whatever came before."""

    def calls(size):
        connection = Connection(Role.GUEST)
        with counted_calls() as cost:
            for _ in range(0, size, chunk):
                connection.receive_data(b"x" * chunk)
                connection.next_event()
        return cost.calls / (size / chunk)

    assert calls(MIB // 2) <= calls(MIB // 8) * 1.05


@pytest.mark.parametrize(("role", "ending"), [(Role.HOST, b"\n"), (Role.GUEST, b"\r\n")])
def test_a_million_blank_lines(role, ending):
    connection = Connection(role)
    with counted_calls() as cost:
        connection.receive_data(ending * 1_000_000)
        assert connection.next_event() is NEED_DATA
    # One search each, at most.
    assert cost.calls <= 1_000_100
    assert connection.trailing_data == b""


@pytest.mark.parametrize(
    ("role", "line", "event", "number"),
    [
        (Role.GUEST, b'{"type":"ping"}\n', RequestReceived, 100_000),
        (Role.GUEST, b"1\n", MalformedReceived, 10_000),
        (Role.HOST, PUSH, NotificationReceived, 20_000),
    ],
)
def test_tiny_lines_in_one_chunk(role, line, event, number):
    """They are handed out one by one: memory is the chunk, and what the user keeps."""
    chunk = line * number
    connection = Connection(role, max_pending=1)
    seen = 0
    with counted_bytes() as cost:
        connection.receive_data(chunk)
        for found in connection.events():
            assert type(found) is event
            if role is Role.GUEST:
                connection.send(Ack("", False))
            seen += 1
    assert seen == number
    assert cost.peak < 100_000


def test_the_cost_of_a_line_does_not_grow_with_what_is_behind_it():
    def calls(number):
        connection = Connection(Role.HOST)
        connection.receive_data(PUSH * number)
        with counted_calls() as cost:
            for _ in connection.events():
                pass
        return cost.calls / number

    assert calls(20_000) <= calls(1000) * 1.05


def long_strings():
    size = MAX_LINE_SIZE - 200
    yield "ascii", b"x" * size
    yield "escapes", rb"\u0041" * (size // 6)
    yield "surrogates", rb"\ud800" * (size // 6)
    yield "short escapes", rb"\n" * (size // 2)
    yield "no utf-8", b"\xff" * size
    yield "half characters", b"\xe2\x82" * (size // 2)
    yield "wide", "😀".encode() * (size // 4)
    yield "backslashes", rb"\\" * (size // 2)


@pytest.mark.parametrize("content", [pytest.param(text, id=name) for name, text in long_strings()])
@pytest.mark.parametrize("closed", [True, False])
def test_one_string_of_a_mebibyte(content, closed):
    line = b'{"type":"ack","payload":{"reply_to":"mount","ok":false,"error":"' + content + (b'"}}' if closed else b"")
    with counted_calls() as cost:
        if closed:
            assert len(decode(line, sender=Role.GUEST).error) > 100_000
        else:
            with pytest.raises(MalformedLine) as caught:
                decode(line, sender=Role.GUEST)
            assert len(str(caught.value)) < 200
    # None of them for each character.
    assert cost.calls < 2000
    with counted_bytes() as cost, contextlib.suppress(MalformedLine):
        decode(line, sender=Role.GUEST)
    # Texts with characters outside the BMP take 4 bytes each, and several copies are there at once: most of them on a
    # Python without the global lock, whose allocator cannot make a text longer in its place.
    assert cost.peak < 20 * MAX_LINE_SIZE


def filled(opening, item, closing, separator=b","):
    # Null is for the slower of the two lanes.
    head = b'{"type":"health","payload":{"state":null,%b' % opening
    room = MIB // 8 - len(head) - len(closing)
    return head + separator.join([item] * (room // (len(item) + len(separator)))) + closing + b"}}"


MANY = {
    "agents": filled(b'"agents":[', b'{"name":"a","running":true}', b"]"),
    "agents without names": filled(b'"agents":[', b"{}", b"]"),
    "agents that are null": filled(b'"agents":[', b"null", b"]"),
    "agents that are none": filled(b'"agents":[', b"1", b"]"),
    "one name twice": filled(b"", b'"state":"x"', b""),
    "lists of agents": filled(b"", b'"agents":[{"name":"a","running":true}]', b""),
    "lists of null": filled(b"", b'"agents":[null,null]', b""),
    "unknown members": filled(b"", b'"x":0', b""),
    "unknown lists": filled(b'"x":[', b"[]", b"]"),
    "unknown objects": filled(b'"x":[', b'{"":0}', b"]"),
    "nested lists": filled(b'"x":[', b"[" * 150 + b"]" * 150, b"]"),
    "nested objects": filled(b'"x":[', b'{"":' * 150 + b"0" + b"}" * 150, b"]"),
    "nothing at the end": filled(b'"x":[', b"{}", b"}"),
    "numbers": filled(b'"x":[', b"-0", b"]"),
    "large numbers": filled(b'"x":[', b"9" * 4000, b"]"),
    "larger numbers": filled(b'"x":[', b"9" * 5000, b"]"),
    "exponents": filled(b'"x":[', b"1e999999", b"]"),
}


@pytest.mark.parametrize("name", [*MANY])
def test_many_small_values_cost_in_proportion_to_their_bytes(name):
    """A step that is quadratic would make thousands of calls for each byte."""
    line = MANY[name]
    with counted_calls() as cost, contextlib.suppress(RemoteProtocolError):
        decode(line, sender=Role.GUEST)
    assert cost.calls < CALLS_PER_BYTE * len(line)
    with counted_bytes() as cost, contextlib.suppress(RemoteProtocolError):
        decode(line, sender=Role.GUEST)
    assert cost.peak < MEMORY_PER_BYTE * len(line)


def unexpected_to_a_connection(line):
    connection = Connection(Role.HOST)
    connection.send(SECRET)
    connection.receive_data(line + b"\n")
    return events(connection)


def unexpected_to_a_session(line):
    session = HostSession()
    call = session.request(SECRET)
    session.data_to_send()
    session.receive_data(line + b"\n")
    while session.next_event() is not NEED_DATA:
        pass
    return call.outcome


SECRET = InjectSecret("TOKEN", "0123456789-abcdefgh-ijklmnop")


@pytest.mark.parametrize("receive", [unexpected_to_a_connection, unexpected_to_a_session])
@pytest.mark.parametrize("name", [*MANY, "agents with a text", "agents that quote the secret"])
def test_an_unexpected_reply_of_many_values_costs_in_proportion_to_its_bytes(name, receive):
    """The error holds the reply without the secrets of what was asked: each of its texts is looked at."""
    texts = {"agents with a text": b"text", "agents that quote the secret": SECRET.value.encode()}
    line = MANY.get(name) or filled(b'"agents":[', b'{"name":"%b"}' % texts[name], b"]")
    with counted_calls() as cost:
        outcome = receive(line)
    assert SECRET.value not in repr(outcome)
    assert cost.calls < CALLS_PER_BYTE * len(line)


def test_lists_of_agents_with_ever_new_members():
    """Members that nobody knows do not pile up from list to list."""

    def cost(number):
        lists = b",".join(b'"agents":[{"a%d":0}]' % index for index in range(number))
        line = b'{"type":"health","payload":{%b}}' % lists
        with counted_bytes() as memory:
            decode(line, sender=Role.GUEST)
        with counted_calls() as calls:
            decode(line, sender=Role.GUEST)
        return memory.peak, calls.calls

    (memory, calls), (more_memory, more_calls) = cost(500), cost(2000)
    assert more_memory <= memory * 5
    assert more_calls <= calls * 5


@pytest.mark.parametrize("opening", [b"[", b'{"":', b'{"a":[', b"[{}, "])
@pytest.mark.parametrize("role", [*Role])
def test_deep_nesting(opening, role):
    """A mebibyte of brackets ends in an error of ours, whatever the stack of the interpreter."""
    for line in (opening * (MAX_LINE_SIZE // len(opening) - 2), b'{"type":"x","payload":' + opening * 100_000):
        with pytest.raises((MalformedLine, InvalidMessage)):
            decode(line, sender=role)


def test_a_thousand_agents():
    agents = tuple(AgentStatus(f"agent-{number}", True, f"session-{number}", number) for number in range(1000))
    line = encode(Health("healthy", agents, 5))
    with counted_calls() as cost:
        assert decode(line, sender=Role.GUEST).agents == agents
    # None for each of them: they are made in C. Comparing them is ours.
    assert cost.calls < 5000
    with counted_bytes() as cost:
        decode(line, sender=Role.GUEST)
    assert cost.peak < 12 * len(line)


@pytest.mark.parametrize(
    "reply", [Pong(), Health("ready"), Ack("mount", True), Ack("mount", False, "no"), Ack("", False, "malformed JSON")]
)
def test_a_reply_that_nobody_asked_for_ends_the_connection(reply):
    connection = Connection(Role.HOST)
    connection.receive_data(encode(reply) * 1000)
    found, error = events(connection)
    assert found == []
    assert error is UnexpectedReply


def test_an_ack_storm_settles_what_was_asked_and_no_more():
    connection = Connection(Role.HOST)
    requests = [InjectSecret(f"S{number}", "x") for number in range(5)]
    for request in requests:
        connection.send(request)
    connection.receive_data(encode(Ack("inject_secret", True)) * 100_000)
    found, error = events(connection)
    assert [event.request for event in found] == requests
    assert all(type(event) is ReplyReceived for event in found)
    assert error is UnexpectedReply
    assert connection.pending == ()


def test_requests_in_flight_are_bounded():
    session = HostSession()
    calls = [session.request(Ping()) for _ in range(10_000)]
    while data := session.data_to_send():
        session.data_sent(len(data))
    assert sum(call.sent for call in calls) == MAX_PENDING == len(session.connection.pending)


def kept(lines):
    """A mailbox to which everything went that these lines tell."""
    session, mailbox = HostSession(), Mailbox()
    turns = Turns(session, mailbox)
    for line in lines:
        session.receive_data(line)
        turns.pump()
    return mailbox


def test_notifications_that_are_not_read_are_bounded_and_counted():
    with counted_bytes() as cost:
        mailbox = kept([PUSH * 1000] * 20)
    assert mailbox.dropped == 20_000 - MAX_NOTIFICATIONS
    assert cost.peak < MAX_NOTIFICATIONS * 1000 + 200_000


@pytest.mark.parametrize("length", [100, 30_000, 500_000, MAX_LINE_SIZE - 100])
@pytest.mark.parametrize(
    "make",
    [lambda length: Lifecycle("x", "y" * length), lambda length: UnknownMessage("x", {"y": "z" * length})],
    ids=["known", "unknown"],
)
def test_what_is_kept_of_notifications_is_no_longer_than_one_line_may_be(make, length):
    line = encode(make(length))
    times = 3 * MAX_LINE_SIZE // len(line) + 3
    with counted_bytes() as cost:
        mailbox = kept([line] * times)
    fitting = min(MAX_LINE_SIZE // len(line), MAX_NOTIFICATIONS)
    assert fitting >= 1
    assert mailbox.dropped == times - fitting
    assert sum(1 for _ in iter(mailbox.take, None)) == fitting
    assert cost.peak < MAX_LINE_SIZE + MAX_NOTIFICATIONS * 1000 + 4 * len(line)


def test_a_notification_that_cannot_be_written_again_counts_as_the_longest():
    payload = b'"' + b"\xff" * 500_000 + b'"'  # each of these bytes is read as a character of three
    assert kept([b'{"type":"x","payload":' + payload + b"}\n"] * 3).dropped == 2


def sync_ack(padding):
    return json.dumps({"type": "ack", "payload": {"reply_to": "sync:n", "ok": False}, "x": "x" * padding}).encode()


@pytest.mark.parametrize("cut", [0, 1, 1000, MAX_LINE_SIZE - 1, MAX_LINE_SIZE])
def test_an_over_long_line_does_not_end_a_resynchronisation_however_it_is_cut(cut):
    line = sync_ack(MAX_LINE_SIZE) + b"\n"
    preamble = ResyncPreamble("n")
    preamble.receive_data(line[:cut])
    preamble.receive_data(line[cut:])
    assert not preamble.done


@pytest.mark.parametrize("cut", [0, 1])
def test_the_end_of_an_over_long_line_does_not_end_a_resynchronisation(cut):
    """Be it an answer by itself, or together with the last byte before it."""
    preamble = ResyncPreamble("n")
    preamble.receive_data(b"x" * MAX_LINE_SIZE + sync_ack(0)[:cut])
    preamble.receive_data(sync_ack(0)[cut:] + b"\n")
    assert not preamble.done
    preamble.receive_data(sync_ack(0) + b"\n{")
    assert preamble.done
    assert preamble.trailing_data == b"{"


def test_a_flood_before_the_answer_to_a_resynchronisation_is_bounded():
    preamble = ResyncPreamble("n")
    with counted_bytes() as cost:
        for _ in range(600):
            preamble.receive_data(b"x" * 65_536)
    assert cost.peak < 3 * MAX_LINE_SIZE
    preamble.receive_data(b"\n" + sync_ack(0) + b"\n")
    assert preamble.done


@pytest.mark.parametrize(("size", "done"), [(MAX_LINE_SIZE - 1, True), (MAX_LINE_SIZE, False)])
def test_the_longest_line_that_may_end_a_resynchronisation(size, done):
    line = sync_ack(size - len(sync_ack(0)))
    assert len(line) == size
    preamble = ResyncPreamble("n")
    preamble.receive_data(line + b"\n")
    assert preamble.done is done
