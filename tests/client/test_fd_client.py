"""What `FdClient` makes of its runtime: trio's, with one function replaced."""

import socket
import time
from functools import partial

import pytest
import trio
import trio.testing

from stereos_proto import ConnectionLost, Ping, Role, encode
from stereos_proto_io import TCP
from stereos_proto_io import trio as trio_driver
from stereos_proto_io.driver import Dialling, FdClient

from .guests import DONE, LONG, PING, PONG, full_port
from .harness import TRIO, run


class RuntimeRefusesError(Exception):
    """A runtime lets only one task wait for a descriptor, say."""


async def refuse(_stream):
    await trio.lowlevel.checkpoint()
    raise RuntimeRefusesError("not in this runtime")


@pytest.mark.parametrize(("function", "request_"), [("readable", Ping()), ("writable", LONG)], ids=["read", "write"])
def test_what_the_runtime_raises_reaches_the_caller(function, request_):
    class Refuses(trio_driver.Client):
        pass

    setattr(Refuses, function, staticmethod(refuse))

    async def main():
        client = Refuses.attach(ours)
        with pytest.raises(RuntimeRefusesError, match="not in this runtime"):
            await client.request(request_)
        # It is not the stream that has failed.
        assert client._session.ended is None
        await client.aclose()

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


def test_what_the_runtime_raises_after_the_end_is_no_news():
    """Another task closes the stream for which this one waits, and each runtime says that in its own words."""

    class Closed(trio_driver.Client):
        closed_error = OSError

        @staticmethod
        async def readable(stream):
            try:
                await trio.lowlevel.wait_readable(stream)
            except trio.ClosedResourceError:
                raise RuntimeRefusesError("closed") from None

    async def main():
        client = Closed.attach(ours)

        async def ask():
            with pytest.raises(ConnectionLost, match="was closed"):
                await client.ping()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


def test_what_the_trace_raises_once_the_stream_has_room_reaches_the_caller():
    """It is no error of the stream, though it may be an OSError."""
    traced = []

    def trace(sender, data):
        traced.append(sender)
        if len(traced) == 2:
            raise OSError("a full disk")

    async def main():
        client = trio_driver.Client.attach(ours, trace=trace)

        async def ask():
            with pytest.raises(OSError, match="a full disk"):
                await client.request(LONG)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert traced == [Role.HOST]
            guest = trio.socket.from_stdlib_socket(theirs)
            while len(traced) < 2:
                assert await guest.recv(1 << 16)
        assert isinstance(client._session.ended, ConnectionLost)
        await client.aclose()

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


def test_the_one_that_reads_waits_for_room_itself_once_the_writer_was_given_up():
    """Two tasks wait for room, one of them for the other, which leaves: only one may wait for a descriptor."""
    replies = []

    async def main():
        client = trio_driver.Client.attach(ours)
        given_up = trio.CancelScope()

        async def store():
            with given_up:
                await client.request(LONG)

        async def ask():
            replies.append(await client.ping())

        guest = trio.socket.from_stdlib_socket(theirs)
        async with trio.open_nursery() as nursery:
            # The first ping reads, the long line waits for room, and the second ping is behind it.
            for task in (ask, store, ask):
                nursery.start_soon(task)
                await trio.testing.wait_all_tasks_blocked()
            # The second ping reads now, and has to write.
            await guest.send(PONG)
            await trio.testing.wait_all_tasks_blocked()
            assert len(replies) == 1
            given_up.cancel()
            await trio.testing.wait_all_tasks_blocked()
            received = b""
            while received.count(b"\n") < 3:
                received += await guest.recv(1 << 16)
            assert received == PING + encode(LONG) + PING
            await guest.send(DONE + PONG)
        assert len(replies) == 2
        await client.aclose()

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


def test_its_clock_is_the_systems_unless_told_otherwise():
    before = time.monotonic()
    assert before <= FdClient.now() <= time.monotonic()


def test_a_dial_is_waited_for_until_its_next_deadline_and_no_longer():
    async def main(address):
        dialling = Dialling(TCP("vm"), [(socket.AF_INET, address)], now=trio.current_time(), deadline=10.0)
        start = trio.current_time()
        await TRIO.Client._next_moment(dialling)
        assert trio.current_time() == start + 0.25
        dialling.expire(trio.current_time())
        # Nothing else is left to try.
        assert dialling.next_deadline() == 10.0
        await TRIO.Client._next_moment(dialling)
        assert trio.current_time() == 10.0
        dialling.cancel()
        for sock in dialling.discarded:
            sock.close()

    with full_port() as address:
        clock = trio.testing.MockClock(autojump_threshold=0.05)
        trio.run(partial(main, (address.host, address.port)), clock=clock)


def test_a_dial_without_a_deadline_waits_for_its_streams_alone():
    async def main():
        dialling = Dialling(TCP("vm"), [(socket.AF_INET, ("127.0.0.1", listener.getsockname()[1]))], now=0.0)
        dialling._next_attempt = None
        await TRIO.Client._next_moment(dialling)
        assert dialling.outcome is not None
        dialling.outcome.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(TRIO, main)


def test_closing_waits_for_nothing_unless_the_runtime_has_more_to_close():
    async def main():
        client = TRIO.Client.attach(ours)
        await FdClient._closed(client)
        assert trio.current_time() == start
        await client.aclose()

    ours, theirs = socket.socketpair()
    clock = trio.testing.MockClock(autojump_threshold=0)
    start = clock.current_time()
    with theirs:
        trio.run(main, clock=clock)
