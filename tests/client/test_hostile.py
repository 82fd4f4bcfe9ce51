"""Floods of a hostile guest, through each driver: costs are counted in bytes and function calls, never in seconds."""

import asyncio
import contextlib
import errno
import socket
import threading

import pytest
import trio
import trio.testing

from costs import CALLS_PER_BYTE, MIB, counted_bytes, counted_calls
from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    AgentStatus,
    ConnectError,
    ConnectionLost,
    GetHealth,
    Health,
    IncompleteLine,
    InjectSecret,
    InvalidMessage,
    Lifecycle,
    LineTooLong,
    MalformedLine,
    OutcomeUnknown,
    Pong,
    RequestTimeout,
    UnexpectedReply,
    UnknownMessage,
    encode,
)
from stereos_proto._constants import MAX_NESTING
from stereos_proto._mailbox import MAX_NOTIFICATIONS
from stereos_proto_io import HybridVsock, VirtioSerial, blocking
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io import trio as trio_driver
from stereos_proto_io.driver import READ_SIZE

from .harness import errors_of_the_loop

PONG = encode(Pong())

PUSH = encode(Lifecycle("ready", "flood"))


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
    with blocking.Client.attach(stream, timeout=patience) as client:
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
        return await ask_async(await asyncio_driver.Client.attach(stream), requests, patience)

    return asyncio.run(main())


def ask_trio(stream, *requests, patience=60):
    async def main():
        return await ask_async(trio_driver.Client.attach(stream), requests, patience)

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
    with blocking.connect(address, timeout=patience):
        pytest.fail("there is no guest")


def dial_asyncio(address, patience):
    client = asyncio_driver
    asyncio.run(client.Client._bounded(patience, lambda: client.connect(address)))


def dial_trio(address, patience):
    async def main():
        async with trio_driver.connect(address):
            pytest.fail("there is no guest")

    trio.run(trio_driver.Client._bounded, patience, main)


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
            async with await asyncio_driver.Client.attach(stream) as client:
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
