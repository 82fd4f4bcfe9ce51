"""Floods and limits: what a hostile peer sends costs no more than what is stated in SECURITY.md.

Costs are counted in bytes and in function calls, never in seconds: `cost` counts what Python calls (C functions
included), and the highest that memory rises.
"""

import asyncio
import contextlib
import errno
import gc
import json
import socket
import sys
import threading
import tracemalloc

import pytest
import trio
from stereos_proto_io._session import MAX_NOTIFICATIONS, READ_SIZE, Session

import stereos_proto_io.asyncio
import stereos_proto_io.blocking
import stereos_proto_io.guest.asyncio
import stereos_proto_io.trio
from guest_harness import KINDS, Host, running
from stereos_proto import (
    MAX_LINE_SIZE,
    MAX_PENDING,
    NEED_DATA,
    Ack,
    AgentStatus,
    Connection,
    ConnectionLost,
    GetHealth,
    Health,
    IncompleteLine,
    InjectSecret,
    InvalidMessage,
    Lifecycle,
    LineTooLong,
    MalformedLine,
    MalformedReceived,
    NotificationReceived,
    OutcomeUnknown,
    Ping,
    Pong,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestTimeout,
    ResyncPreamble,
    Role,
    UnexpectedReply,
    UnknownMessage,
    decode,
    encode,
)
from stereos_proto._constants import MAX_NESTING
from stereos_proto._guest_session import MAX_UNANSWERED, MAX_UNSENT
from stereos_proto_io import ConnectError, HybridVsock, UnixSocket, VirtioSerial
from stereos_proto_io.guest import GuestSimulator

MIB = 1024 * 1024
#: What reading may cost for each byte of a line, at the worst: calls, and bytes of memory. SECURITY.md states them.
CALLS_PER_BYTE, MEMORY_PER_BYTE = 8, 150
PONG = encode(Pong())
PUSH = encode(Lifecycle("ready", "flood"))


class Cost:
    """What a block has cost: calls of functions, and bytes of memory at the highest."""

    calls = 0
    peak = 0

    def count(self, _frame, event, _argument):
        self.calls += event in ("call", "c_call")


@contextlib.contextmanager
def counted_calls():
    cost = Cost()
    before = sys.getprofile()
    sys.setprofile(cost.count)
    try:
        yield cost
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def counted_bytes():
    cost = Cost()
    gc.collect()
    tracemalloc.start()
    try:
        yield cost
        cost.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def events(connection):
    """All events up to the error that ends them, and the error's class."""
    found = []
    try:
        found.extend(connection.events())
    except RemoteProtocolError as exc:
        return found, type(exc)
    return found, None


# ------------------------------------------------------------------------------------------------- framing


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


# ---------------------------------------------------------------------------------------------------- JSON


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
    # Texts with characters outside the BMP take 4 bytes each, and two copies are there at once.
    assert cost.peak < 16 * MAX_LINE_SIZE


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


# --------------------------------------------------------------------------------------------- conversation


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
    session = Session("the guest")
    calls = [session.start(Ping()) for _ in range(10_000)]
    while data := session.next_write():
        session.wrote(len(data))
    assert sum(call.sent for call in calls) == MAX_PENDING == len(session.connection.pending)


def test_notifications_that_nobody_reads_are_bounded_and_counted():
    session = Session("the guest")
    with counted_bytes() as cost:
        for _ in range(20):
            session.receive(PUSH * 1000)
    assert session.dropped_notifications == 20_000 - MAX_NOTIFICATIONS
    assert cost.peak < MAX_NOTIFICATIONS * 1000 + 200_000


@pytest.mark.parametrize("length", [100, 30_000, 500_000, MAX_LINE_SIZE - 100])
@pytest.mark.parametrize(
    "make",
    [lambda length: Lifecycle("x", "y" * length), lambda length: UnknownMessage("x", {"y": "z" * length})],
    ids=["known", "unknown"],
)
def test_what_is_kept_of_notifications_is_no_longer_than_one_line_may_be(make, length):
    session = Session("the guest")
    line = encode(make(length))
    times = 3 * MAX_LINE_SIZE // len(line) + 3
    with counted_bytes() as cost:
        for _ in range(times):
            session.receive(line)
    fitting = min(MAX_LINE_SIZE // len(line), MAX_NOTIFICATIONS)
    assert fitting >= 1
    assert session.dropped_notifications == times - fitting
    assert sum(1 for _ in iter(session.take_notification, None)) == fitting
    assert cost.peak < MAX_LINE_SIZE + MAX_NOTIFICATIONS * 1000 + 4 * len(line)


def test_a_notification_that_cannot_be_written_again_counts_as_the_longest():
    session = Session("the guest")
    payload = b'"' + b"\xff" * 500_000 + b'"'  # each of these bytes is read as a character of three
    for _ in range(3):
        session.receive(b'{"type":"x","payload":' + payload + b"}\n")
    assert session.dropped_notifications == 2


# -------------------------------------------------------------------------------------------------- drivers


class Flood:
    """A hostile guest at one end of a socket pair: a thread that answers the first request with a flood."""

    def __init__(self, flood, times=1):
        self.ours, self.theirs = socket.socketpair()
        self.flood, self.times = flood, times
        self.sent = 0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with self.theirs, contextlib.suppress(OSError):
            self.theirs.recv(65536)
            for _ in range(self.times):
                self.theirs.sendall(self.flood)
                self.sent += len(self.flood)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        self.thread.join()


def ask_blocking(stream, *requests, patience=60):
    with stereos_proto_io.blocking.Client.attach(stream, timeout=patience) as client:
        try:
            if len(requests) == 1:
                return client.request(requests[0]), client.dropped_notifications
            return client.request_many(requests), client.dropped_notifications
        except Exception as exc:  # noqa: BLE001  (it is the result)
            return exc, client.dropped_notifications


async def ask_async(client, requests, patience):
    async with client:
        ask = (client.request, requests[0]) if len(requests) == 1 else (client.request_many, requests)
        try:
            return await client._bounded(patience, *ask), client.dropped_notifications
        except Exception as exc:  # noqa: BLE001
            return exc, client.dropped_notifications


def ask_asyncio(stream, *requests, patience=60):
    async def main():
        return await ask_async(await stereos_proto_io.asyncio.Client.attach(stream), requests, patience)

    return asyncio.run(main())


def ask_trio(stream, *requests, patience=60):
    async def main():
        return await ask_async(stereos_proto_io.trio.Client.attach(stream), requests, patience)

    return trio.run(main)


DRIVERS = pytest.mark.parametrize("ask", [ask_blocking, ask_asyncio, ask_trio])
DEEP = b'{"type":"health","x":'
FLOODS = {
    "no newline": (b"x" * 65_536, 200, LineTooLong),
    "brackets without end": (b"[" * 65_536, 200, LineTooLong),
    "a line of brackets": (DEEP + b"[" * 200_000 + b"\n", 1, MalformedLine),
    "a level too many": (DEEP + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}\n", 1, MalformedLine),
    "garbage": (b"garbage\n" * 1000, 200, MalformedLine),
    "replies that nobody asked for": (PONG * 1000, 200, UnexpectedReply),
    "acks": (encode(Ack("get_health", True)) * 1000, 200, UnexpectedReply),
    "half a line": (b'{"type":"health"', 1, (IncompleteLine, ConnectionLost)),
    "a health report that is none": (b'{"type":"health","payload":[]}\n', 1, InvalidMessage),
}


@DRIVERS
@pytest.mark.parametrize("name", [*FLOODS])
def test_a_flood_through_each_driver_ends_in_the_documented_error(ask, name):
    """And soon: no more of it is taken than a line, and what the two sockets' buffers hold."""
    flood, times, expected = FLOODS[name]
    with Flood(flood, times) as guest, counted_bytes() as cost:
        outcome, _ = ask(guest.ours, GetHealth())
    assert isinstance(outcome, expected)
    assert cost.peak < 8 * MIB
    assert guest.sent < 4 * MIB


#: What is large, and a reply all the same.
LARGE = {
    "one string": Health("ready", (AgentStatus("a", True, error="x" * (MAX_LINE_SIZE - 200)),)),
    "one string of wide characters": Health("\N{GRINNING FACE}" * (MAX_LINE_SIZE // 4 - 100)),
    "a thousand agents": Health("healthy", tuple(AgentStatus(f"a{n}", True, f"s{n}", n) for n in range(1000))),
    "as many agents as fit": Health("healthy", (AgentStatus("", False),) * 16_000),
}


@DRIVERS
@pytest.mark.parametrize("name", [*LARGE])
def test_what_is_large_comes_through_each_driver(ask, name):
    report = LARGE[name]
    line = encode(report)
    with Flood(line) as guest, counted_bytes() as cost:
        outcome, _ = ask(guest.ours, GetHealth())
    assert outcome == report
    assert cost.peak < 16 * len(line) + MIB

    with Flood(line) as guest, counted_calls() as cost:
        ask(guest.ours, GetHealth())
    assert cost.calls < CALLS_PER_BYTE * len(line)


@DRIVERS
def test_a_million_blank_lines_through_each_driver(ask):
    flood = b"\n" * 900_000 + b"\r\n" * 100_000 + encode(Health("ready"))
    with Flood(flood) as guest, counted_bytes() as cost:
        outcome, _ = ask(guest.ours, GetHealth())
    assert outcome == Health("ready")
    assert cost.peak < MIB
    with Flood(flood) as guest, counted_calls() as cost:
        ask(guest.ours, GetHealth())
    # One search each, at most, and what the driver does for a read, of which there are at least 18.
    assert cost.calls < 1_000_000 + 100_000


@DRIVERS
def test_notifications_that_nobody_reads_through_each_driver(ask):
    def flooded(number, cost):
        flood = PUSH * number + encode(Health("ready"))
        with Flood(flood) as guest, cost() as counted:
            outcome, dropped = ask(guest.ours, GetHealth())
        assert outcome == Health("ready")
        assert dropped == number - MAX_NOTIFICATIONS
        return counted

    # No more for five times as many.
    assert flooded(20_000, counted_bytes).peak < 1.2 * flooded(4000, counted_bytes).peak + READ_SIZE
    # None of them more often than any other.
    assert flooded(20_000, counted_calls).calls / 20_000 < 1.2 * flooded(4000, counted_calls).calls / 4000


@DRIVERS
def test_a_guest_that_never_stops_talking_takes_no_longer_than_its_caller_waits(ask):
    with Flood(PUSH * 1000, 10**9) as guest:
        outcome, _ = ask(guest.ours, GetHealth(), patience=0.05)
    assert isinstance(outcome, RequestTimeout)


@DRIVERS
def test_an_ack_storm_through_each_driver(ask):
    """Each request has one; the connection ends with the first that is too many."""
    requests = [InjectSecret(f"S{number}", "x") for number in range(100)]
    storm = encode(Ack("inject_secret", True))
    with Flood(storm * 99, 1) as guest:
        outcome, _ = ask(guest.ours, *requests)
    # The guest may have gone before the last of them was written.
    assert isinstance(outcome, ConnectionLost)
    assert outcome.request is requests[99] if isinstance(outcome, OutcomeUnknown) else "was not sent" in str(outcome)
    with Flood(storm * 1000, 200) as guest, counted_bytes() as cost:
        outcome, _ = ask(guest.ours, *requests)
    assert outcome == [Ack("inject_secret", True)] * 100
    assert cost.peak < MIB
    assert guest.sent < 4 * MIB


@DRIVERS
def test_unknown_messages_through_each_driver(ask):
    flood = encode(UnknownMessage("new", {"x": [1, 2, {"y": None}]})) * 5000 + encode(Health("ready"))
    with Flood(flood) as guest:
        outcome, dropped = ask(guest.ours, GetHealth())
    assert outcome == Health("ready")
    assert dropped == 5000 - MAX_NOTIFICATIONS


# --------------------------------------------------------------------------------- before the protocol begins


@contextlib.contextmanager
def babbler(path, flood):
    """What listens at `path` and writes `flood` again and again to whoever comes."""

    def run():
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    while True:
                        sock.sendall(flood)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=run)
        thread.start()
        yield
        # Closing alone does not wake it.
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def dial_blocking(address, patience):
    with stereos_proto_io.blocking.connect(address, timeout=patience):
        pytest.fail("there is no guest")


def dial_asyncio(address, patience):
    client = stereos_proto_io.asyncio
    asyncio.run(client.Client._bounded(patience, lambda: client.connect(address)))


def dial_trio(address, patience):
    async def main():
        async with stereos_proto_io.trio.connect(address):
            pytest.fail("there is no guest")

    trio.run(stereos_proto_io.trio.Client._bounded, patience, main)


DIALS = pytest.mark.parametrize("dial", [dial_blocking, dial_asyncio, dial_trio])


@DIALS
@pytest.mark.parametrize("flood", [b"x" * 65_536, b"OK " * 20_000, b"\n" * 65_536, b"O"], ids=["x", "OK", "blank", "O"])
def test_a_hypervisor_that_babbles(dial, flood, tmp_path):
    """It has said too much, or the wrong thing, by its 33rd byte; how long its caller would wait does not matter."""
    with babbler(tmp_path / "h", flood), counted_bytes() as cost, pytest.raises(ConnectError):
        dial(HybridVsock(tmp_path / "h"), 60)
    assert cost.peak < MIB


@DIALS
@pytest.mark.parametrize("flood", [b"x" * 65_536, PUSH * 1000, b"\n" * 65_536], ids=["no newline", "news", "blank"])
def test_a_serial_port_that_babbles_takes_no_longer_than_its_caller_waits(dial, flood, tmp_path):
    with (
        babbler(tmp_path / "s", flood),
        counted_bytes() as cost,
        pytest.raises((ConnectError, RequestTimeout)),
    ):
        dial(VirtioSerial(tmp_path / "s"), 0.2)
    assert cost.peak < 4 * MIB


# ------------------------------------------------------------------------------------------- the guest's end

SERVERS = pytest.mark.parametrize("kind", KINDS)
#: What a hostile host sends, how often, and whether it ends the connection.
HOST_FLOODS = {
    "no newline": (b"x" * 65_536, 1000, True),
    "brackets without end": (b"[" * 65_536, 1000, True),
    "blank lines": (b"\n" * 65_536, 15, False),
    "lines of brackets": (b"[" * 60_000 + b"\n", 30, False),
    "garbage": (b"garbage\n" * 500, 5, False),
    "pings": (encode(Ping()) * 4000, 20, False),
    "secrets": (encode(InjectSecret("A", "x" * 300_000)), 20, False),
}


@SERVERS
@pytest.mark.parametrize("name", [*HOST_FLOODS])
def test_a_flood_of_a_host_stops_nobody_but_its_own_connection(kind, name):
    """The host reads none of the replies."""
    flood, times, fatal = HOST_FLOODS[name]
    with (
        running(kind, None, lambda request: Pong() if request == Ping() else Ack(request.type, True)) as guest,
        Host(guest.address) as hostile,
        counted_bytes() as cost,
    ):
        hostile.socket.settimeout(0.2)
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(times):
                hostile.socket.sendall(flood)
                sent += 1
        with Host(guest.address) as other:
            other.send(Ping())
            assert other.reply() == {"type": "pong"}
        if fatal:
            assert sent * len(flood) < 16 * MIB
            with contextlib.suppress(ConnectionError):
                assert hostile.read(1) == b""
    # A line as it grows, one that is read, and what is owed.
    assert cost.peak < 3 * MAX_LINE_SIZE + 2 * MAX_UNSENT + MAX_UNANSWERED * 1000 + MIB


@SERVERS
def test_a_host_that_reads_nothing_is_answered_no_further_than_the_bound(kind):
    """A request of sixteen bytes asks for a reply of a hundred kilobytes, a thousand times."""
    handled = []

    def handle(request):
        handled.append(request)
        return Ack(request.type, False, "x" * 100_000)

    with running(kind, None, handle) as guest, Host(guest.address) as host, counted_bytes() as cost:
        host.send(encode(Ping()) * 1000)
        with Host(guest.address) as other:
            other.send(Ping())
            assert other.reply()
        # What the bound lets through, and what the system's buffers take.
        assert len(handled) < 200
    assert cost.peak < 3 * MIB


# --------------------------------------------------------------------------------------------- virtio-serial


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


# ---------------------------------------------------------------------------------------- what the soak found


def errors_of_the_loop():
    """Where asyncio tells what nobody else catches."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    return told


@pytest.mark.parametrize("number", range(3, 9))
def test_a_guest_that_ends_when_its_host_reads_again_ends_once(number, tmp_path):
    """asyncio tells a transport's end twice, when it is closed while it says that it can write again."""

    async def main():
        told = errors_of_the_loop()
        address = UnixSocket(tmp_path / "g")
        refuse = [f"fail:{'x' * 100_000}", f"close#{number}"]
        async with stereos_proto_io.guest.asyncio.serve(address, GuestSimulator(faults=refuse)):
            reader, writer = await asyncio.open_unix_connection(address.path, limit=MIB)
            writer.write(encode(Ping()) * 10)
            # All that can be handled before anything is read.
            for _ in range(20):
                await asyncio.sleep(0)
            replies = (await reader.read()).count(b"\n")
            writer.close()
            await writer.wait_closed()
        assert told == []
        return replies

    assert asyncio.run(main()) == number


class Breaking(socket.socket):
    """A socket that breaks after the first write that takes everything, once `armed`."""

    armed = broken = False

    def send(self, data):
        return self._write(super().send, data, len(data))

    # What asyncio writes with from Python 3.12 on.
    def sendmsg(self, buffers):
        buffers = list(buffers)
        return self._write(super().sendmsg, buffers, sum(map(len, buffers)))

    def _write(self, write, what, size):
        if self.broken:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        written = write(what)
        self.broken = self.armed and written == size
        return written


def test_a_connection_that_breaks_when_the_guest_reads_again_ends_once():
    async def main():
        told = errors_of_the_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            stream = Breaking(fileno=ours.detach())
            async with await stereos_proto_io.asyncio.Client.attach(stream) as client:
                requests = [InjectSecret(f"S{number}", "x" * 300_000) for number in range(20)]
                asking = asyncio.create_task(client.request_many(requests))
                for _ in range(20):
                    await asyncio.sleep(0)
                stream.armed = True
                theirs.setblocking(False)
                async with asyncio.timeout(60):
                    while not asking.done():
                        with contextlib.suppress(BlockingIOError):
                            theirs.recv(MIB)
                        await asyncio.sleep(0)
                assert stream.broken
                with pytest.raises(ConnectionLost):
                    await asking
        assert told == []

    asyncio.run(main())
