"""A stream of trio's with a socket's methods: `StreamTransport`, over a stream that does what it is told."""

import socket
from collections import deque

import pytest
import trio
import trio.testing

from stereos_proto_io.trio._transport import StreamTransport, adopt


class Stream(trio.abc.Stream):
    """Each read gives the next of `reads`, or waits; each write raises the next of `writes`, or is kept."""

    def __init__(self, *reads, writes=()):
        self.reads, self.writes = deque(reads), deque(writes)
        self.sent = []
        self.is_closed = False

    async def receive_some(self, max_bytes=None):
        if not self.reads:
            await trio.sleep_forever()
        read = self.reads.popleft()
        if isinstance(read, Exception):
            raise read
        return await read() if callable(read) else read

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        if self.writes:
            raise self.writes.popleft()
        self.sent.append(data)

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        self.is_closed = True
        await trio.lowlevel.checkpoint()


BROKEN = trio.BrokenResourceError("the other side is gone")


def run(test, *reads, writes=()):
    """Run a test with a transport and its stream. The clock jumps, so waiting takes no time."""

    async def main():
        stream = Stream(*reads, writes=writes)
        transport = StreamTransport(stream)
        with trio.fail_after(3600):
            await test(transport, stream)
        transport.close()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.is_closed

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_is_read_is_taken_once():
    async def test(transport, _stream):
        with pytest.raises(BlockingIOError):
            transport.recv(10)
        for data in (b"one", b"two", b""):
            await transport.wait_readable()
            await transport.wait_readable()
            assert transport.recv(10) == data
            with pytest.raises(BlockingIOError):
                transport.recv(10)

    run(test, b"one", bytearray(b"two"), b"")


@pytest.mark.parametrize("error", [BROKEN, trio.ClosedResourceError("closed")])
def test_a_read_that_fails_is_an_os_error(error):
    async def test(transport, _stream):
        with pytest.raises(ConnectionResetError, match=str(error)) as caught:
            await transport.wait_readable()
        assert caught.value.__cause__ is error

    run(test, error)


def test_all_is_sent_in_the_background_one_write_after_the_other():
    async def test(transport, stream):
        assert transport.send(b"one") == 3
        with pytest.raises(BlockingIOError):
            transport.send(b"two")
        await transport.wait_writable()
        assert transport.send(memoryview(b"two")) == 3
        await transport.wait_writable()
        await transport.wait_writable()
        assert stream.sent == [b"one", b"two"]

    run(test)


@pytest.mark.parametrize("error", [BROKEN, OSError(32, "Broken pipe"), RuntimeError("the other side is gone")])
def test_a_write_that_fails_is_told_by_the_next(error):
    async def test(transport, stream):
        transport.send(b"one")
        await transport.wait_writable()
        for _ in range(2):
            with pytest.raises(OSError, match=r"the other side is gone|Broken pipe"):
                transport.send(b"two")
        assert stream.sent == []

    run(test, writes=[error])


@pytest.mark.parametrize("reading", [True, False])
def test_what_came_before_a_failed_write_is_read_for_a_second(reading):
    """A reply may be on its way, but a stream that is broken need not end."""

    async def late():
        await trio.sleep(0.9)
        return b"late"

    async def read(transport, found):
        await transport.wait_readable()
        found.append(transport.recv(10))

    async def test(transport, _stream):
        found = []
        async with trio.open_nursery() as nursery:
            if reading:
                nursery.start_soon(read, transport, found)
                await trio.testing.wait_all_tasks_blocked()
            transport.send(b"one")
            await transport.wait_writable()
            if not reading:
                nursery.start_soon(read, transport, found)
        assert found == [b"late"]
        start = trio.current_time()
        with pytest.raises(ConnectionResetError, match="the other side is gone"):
            await transport.wait_readable()
        assert trio.current_time() - start < 1

    run(test, late, writes=[BROKEN])


def test_closing_is_told_at_once():
    async def test(transport, stream):
        assert transport.fileno() >= 0
        transport.close()
        transport.close()
        assert transport.fileno() < 0
        await transport.closed()
        assert stream.is_closed

    run(test)


def test_a_socket_of_trios_is_taken_over():
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            taken = trio.socket.from_stdlib_socket(ours)
            made = adopt(taken)
            assert taken.fileno() == -1
            made.close()
            assert theirs.recv(1) == b""

    trio.run(main)
