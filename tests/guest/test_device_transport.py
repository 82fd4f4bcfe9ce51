"""One asyncio transport for a device, as each of both ends uses it; the guest's end is seen in test_servers, too."""

import asyncio
import errno
import os
import select
import tty

import pytest

from stereos_proto_io.driver._device import LARGEST_WRITE, Device
from stereos_proto_io.driver._device_transport import DeviceTransport

PATIENCE = 20


class Told(asyncio.Protocol):
    """Takes note of what a transport tells."""

    def __init__(self):
        self.transport = None
        self.data = b""
        self.told = []
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        self.changed.set()

    def pause_writing(self):
        self._tell("pause")

    def resume_writing(self):
        self._tell("resume")

    def connection_lost(self, exc):
        self._tell(exc)

    def _tell(self, what):
        self.told.append(what)
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Buffered(asyncio.BufferedProtocol):
    """The other kind of protocol, with room for three bytes."""

    def __init__(self, told):
        self.told, self.room = told, bytearray(3)
        self.connection_made, self.connection_lost = told.connection_made, told.connection_lost

    def get_buffer(self, _sizehint):
        return self.room

    def buffer_updated(self, nbytes):
        self.told.data_received(bytes(self.room[:nbytes]))


class Terminal:
    """A pseudo-terminal: `device` is ours, `master` the other end."""

    def __enter__(self):
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.device = Device(os.ttyname(slave))
        os.close(slave)
        os.set_blocking(self.master, False)
        return self

    def hang_up(self):
        os.close(self.master)
        self.master = -1

    def __exit__(self, *_exc):
        if self.master >= 0:
            os.close(self.master)
        self.device.close()


def run(scene, *, waits_for_peer):
    async def main():
        with Terminal() as terminal:
            told = Told()
            transport = DeviceTransport(
                asyncio.get_running_loop(), terminal.device, told, waits_for_peer=waits_for_peer
            )
            try:
                await scene(terminal, transport, told)
            finally:
                transport.abort()
                await told.until(lambda: told.told and not isinstance(told.told[-1], str))
        return told

    return asyncio.run(main())


both_ends = pytest.mark.parametrize("waits_for_peer", [True, False])


@both_ends
def test_bytes_go_both_ways(waits_for_peer):
    async def scene(terminal, transport, told):
        assert transport.get_extra_info("socket") is None
        assert transport.get_protocol() is told
        transport.write(b"out")
        assert os.read(terminal.master, 10) == b"out"
        os.write(terminal.master, b"in")
        await told.until(lambda: told.data == b"in")

    assert run(scene, waits_for_peer=waits_for_peer).told == [None]


def test_a_host_takes_an_other_end_that_is_away_for_the_end():
    async def scene(terminal, transport, told):
        terminal.hang_up()
        await told.until(lambda: told.told)
        assert transport.is_closing()
        assert not transport.is_reading()
        transport.abort()

    assert run(scene, waits_for_peer=False).told == [None]


@both_ends
@pytest.mark.parametrize("end", ["abort", "close"])
def test_what_is_written_after_the_end_is_dropped(end, waits_for_peer):
    """As transports of asyncio do: who writes may not know of the end yet."""

    async def scene(_terminal, transport, _told):
        getattr(transport, end)()
        transport.write(b"late")
        assert transport.get_write_buffer_size() == 0

    assert run(scene, waits_for_peer=waits_for_peer).told == [None]


def test_a_guest_waits_for_it(monkeypatch):
    receive, looks = Device.recv, []

    async def scene(terminal, transport, told):
        def look(device, size):
            looks.append(receive(device, size))
            told.changed.set()
            return looks[-1]

        monkeypatch.setattr(Device, "recv", look)
        terminal.hang_up()
        await told.until(lambda: len(looks) >= 3)
        assert set(looks) == {b""}
        assert transport.is_reading()
        assert told.told == []

    assert run(scene, waits_for_peer=True).told == [None]


@pytest.mark.parametrize("what", ["recv", "send"])
def test_an_error_of_the_device_ends_it_and_is_told(what, monkeypatch):
    def broken(_device, _what):
        raise OSError(errno.ENXIO, "gone")

    async def scene(terminal, transport, told):
        monkeypatch.setattr(Device, what, broken)
        transport.write(b"x") if what == "send" else os.write(terminal.master, b"x")
        await told.until(lambda: told.told)
        assert transport.is_closing()

    (cause,) = run(scene, waits_for_peer=True).told
    assert cause.errno == errno.ENXIO


def test_silence_is_no_error(monkeypatch):
    looks = []

    async def scene(terminal, _transport, told):
        def nothing(_device, _size):
            looks.append("")
            told.changed.set()
            raise BlockingIOError

        with monkeypatch.context() as patch:
            patch.setattr(Device, "recv", nothing)
            os.write(terminal.master, b"x")
            await told.until(lambda: len(looks) >= 2)
        await told.until(lambda: told.data == b"x")

    run(scene, waits_for_peer=True)


def test_reading_pauses():
    async def scene(terminal, transport, told):
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        os.write(terminal.master, b"x")
        assert select.select([terminal.device], [], [], PATIENCE)[0]
        # The loop looks at what it watches in each of its turns.
        for _ in range(10):
            await asyncio.sleep(0)
        assert told.data == b""
        transport.resume_reading()
        transport.resume_reading()
        await told.until(lambda: told.data == b"x")

    run(scene, waits_for_peer=True)


@pytest.mark.parametrize("close", [True, False])
def test_writing_pauses_and_resumes_while_nothing_is_read(close):
    size = 1_000_000
    taken = []

    async def scene(terminal, transport, told):
        for _ in range(10):
            transport.write(b"x" * (size // 10))
        assert told.told == ["pause"]
        assert transport.get_write_buffer_size() > size // 2
        if close:
            transport.close()
            transport.resume_reading()
            assert transport.is_closing()
        async with asyncio.timeout(PATIENCE):
            while sum(taken) < size:
                try:
                    taken.append(len(os.read(terminal.master, 65536)))
                except BlockingIOError:
                    await asyncio.sleep(0)
        await told.until(lambda: len(told.told) == 2)

    told = run(scene, waits_for_peer=False).told
    assert told == (["pause", None] if close else ["pause", "resume", None])
    assert sum(taken) == size


def test_a_protocol_with_a_buffer_of_its_own():
    async def scene(terminal, transport, told):
        transport.set_protocol(Buffered(told))
        os.write(terminal.master, b"0123456789")
        await told.until(lambda: told.data == b"0123456789")

    run(scene, waits_for_peer=False)


def test_a_device_writes_in_pieces_that_the_driver_takes(monkeypatch):
    sizes = []
    with Terminal() as terminal:
        monkeypatch.setattr(os, "write", lambda _fd, data: sizes.append(len(data)) or len(data))
        assert terminal.device.send(b"x" * (LARGEST_WRITE + 1)) == LARGEST_WRITE
        monkeypatch.setattr(os, "write", lambda _fd, _data: 0)
        with pytest.raises(BlockingIOError):
            terminal.device.send(b"x")
    assert sizes == [LARGEST_WRITE]


def test_a_device_that_fails():
    with Terminal() as terminal:
        terminal.device.close()
        assert terminal.device.fileno() == -1
        with pytest.raises(OSError, match="Bad file"):
            terminal.device.recv(1)
