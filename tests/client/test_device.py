"""A character device and its transport, step by step: with a device and a loop that do what they are told."""

import asyncio
import errno
import os
import select
import tty
from contextlib import contextmanager

import pytest

from stereos_proto import ConnectError
from stereos_proto_io import VirtioSerial
from stereos_proto_io.driver import Device
from stereos_proto_io.driver._device import AWAY_PAUSE
from stereos_proto_io.driver._device_transport import DeviceTransport
from stereos_proto_io.testing import simulated_guest

from .harness import each_driver, entered, run


@contextmanager
def terminal():
    """A device, and the descriptor of its other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    device = Device(os.ttyname(slave))
    os.close(slave)
    try:
        yield device, master
    finally:
        device.close()
        os.close(master)


def test_a_device_whose_other_end_is_there():
    with terminal() as (device, master):
        assert device.is_away is False
        with pytest.raises(BlockingIOError):
            device.recv(10)
        os.write(master, b"abc")
        assert device.recv(2) == b"ab"
        assert device.recv(10) == b"c"
        assert device.send(b"xyz") == 3
        assert os.read(master, 10) == b"xyz"
    assert device.fileno() == -1


def test_a_device_whose_other_end_has_gone():
    master, slave = os.openpty()
    tty.setraw(slave)
    device = Device(os.ttyname(slave))
    os.close(slave)
    os.close(master)
    assert device.is_away is True
    assert device.recv(10) == b""
    device.close()


def test_what_a_terminal_says_instead_of_nothing(monkeypatch):
    def read(_descriptor, _size):
        raise OSError(code, os.strerror(code))

    with terminal() as (device, _):
        monkeypatch.setattr(os, "read", read)
        code = errno.EIO
        assert device.recv(10) == b""
        code = errno.EBADF
        with pytest.raises(OSError, match="Bad file descriptor"):
            device.recv(10)


def test_one_write_hands_over_32_kib(monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "write", lambda _descriptor, data: sizes.append(len(data)) or len(data))
    with terminal() as (device, _):
        assert device.send(b"x" * 100_000) == 32_768
        assert device.send(memoryview(b"x" * 32_768)) == 32_768
    assert sizes == [32_768, 32_768]


# ------------------------------------------------------------------------------------------------ the transport


class Away:
    """A device whose reads and writes are given; an error is raised, and nothing given is silence."""

    def __init__(self):
        self.reads, self.room = [], 0
        self.written = b""
        self.is_away = False
        self.failure = None
        self.descriptor = 7

    def fileno(self):
        return self.descriptor

    def recv(self, _size):
        if self.failure:
            raise self.failure
        if not self.reads:
            raise BlockingIOError
        return self.reads.pop(0)

    def send(self, data):
        if self.failure:
            raise self.failure
        if not self.room:
            raise BlockingIOError
        size = min(self.room, len(data))
        self.room -= size
        self.written += bytes(data[:size])
        return size

    def close(self):
        self.descriptor = -1


class Loop:
    """Keeps what it is to watch and to call."""

    def __init__(self):
        self.reader = self.writer = None
        self.timers = []

    def add_reader(self, _descriptor, function):
        assert self.reader is None
        self.reader = function

    def remove_reader(self, _descriptor):
        self.reader = None

    def add_writer(self, _descriptor, function):
        self.writer = function

    def remove_writer(self, _descriptor):
        self.writer = None

    def call_later(self, delay, function):
        self.timers.append(Timer(delay, function))
        return self.timers[-1]

    def call_soon(self, function, *arguments):
        function(*arguments)


class Timer:
    def __init__(self, delay, function):
        self.delay, self.function = delay, function
        self.is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


class Protocol(asyncio.Protocol):
    def __init__(self):
        self.told = []

    def connection_made(self, transport):
        self.told.append("made")

    def data_received(self, data):
        self.told.append(data)

    def connection_lost(self, exc):
        self.told.append(("lost", exc))

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")


def made(*, waits_for_peer=True):
    loop, device, protocol = Loop(), Away(), Protocol()
    return DeviceTransport(loop, device, protocol, waits_for_peer=waits_for_peer), loop, device, protocol.told


def test_reading():
    transport, loop, device, told = made()
    device.reads = [b"one"]
    loop.reader()
    loop.reader()
    assert told == ["made", b"one"]
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert loop.reader is None
    assert not transport.is_reading()
    transport.resume_reading()
    transport.resume_reading()
    assert loop.reader is not None
    assert transport.get_extra_info("socket", "nothing") == "nothing"


def test_an_end_that_is_away_is_looked_for_by_the_clock():
    """The loop would call at once, again and again."""
    _, loop, device, told = made()
    device.reads = [b""]
    loop.reader()
    assert loop.reader is None
    [timer] = loop.timers
    assert timer.delay == AWAY_PAUSE
    timer.function()
    device.reads = [b"back"]
    loop.reader()
    assert told == ["made", b"back"]


def test_an_end_that_is_away_is_the_end_for_a_host():
    transport, loop, device, told = made(waits_for_peer=False)
    device.reads = [b""]
    loop.reader()
    assert told == ["made", ("lost", None)]
    assert transport.is_closing()
    assert device.descriptor == -1


@pytest.mark.parametrize("what", ["read", "write"])
def test_a_device_that_fails(what):
    transport, loop, device, told = made()
    device.failure = OSError(errno.EIO, "Input/output error")
    loop.reader() if what == "read" else transport.write(b"x")
    assert told == ["made", ("lost", device.failure)]
    assert loop.reader is None


def test_writing_waits_for_the_device():
    transport, loop, device, _ = made()
    device.room = 2
    transport.write(b"abcd")
    assert transport.get_write_buffer_size() == 2
    # What comes later is written behind it, and not tried before the device says that it is ready.
    device.room = 1
    transport.write(b"ef")
    assert device.written == b"ab"
    device.room = 10
    loop.writer()
    assert device.written == b"abcdef"
    assert loop.writer is None
    assert loop.timers == []


def test_writing_to_an_end_that_is_away_is_tried_by_the_clock():
    transport, loop, device, _ = made()
    device.is_away = True
    transport.write(b"abcd")
    assert loop.writer is None
    [timer] = loop.timers
    device.is_away, device.room = False, 10
    timer.function()
    assert device.written == b"abcd"


def test_a_protocol_pauses_beyond_64_kib_and_resumes_when_all_is_written():
    transport, loop, device, told = made()
    transport.write(b"x" * 65_536)
    assert told == ["made"]
    transport.write(b"y")
    transport.write(b"z")
    assert told == ["made", "pause"]
    device.room = 10**6
    loop.writer()
    assert told == ["made", "pause", "resume"]
    transport.write(b"x" * 70_000)
    assert told == ["made", "pause", "resume"]
    device.room = 0
    transport.write(b"x" * 70_000)
    assert told == ["made", "pause", "resume", "pause"]


def test_closing_waits_until_all_is_written():
    transport, loop, device, told = made()
    transport.write(b"abcd")
    transport.close()
    assert loop.reader is None
    assert transport.is_closing()
    transport.write(b"dropped")
    transport.resume_reading()
    assert loop.reader is None
    assert told == ["made"]
    device.room = 10
    loop.writer()
    assert device.written == b"abcd"
    assert told == ["made", ("lost", None)]
    transport.close()
    transport.abort()
    assert told == ["made", ("lost", None)]


def test_closing_what_is_written_already():
    transport, _, device, told = made()
    transport.close()
    assert told == ["made", ("lost", None)]
    assert device.descriptor == -1


def test_aborting_lets_go_of_the_loop():
    transport, loop, device, told = made()
    transport.write(b"abcd")
    assert loop.writer is not None
    device.is_away = True
    loop.writer()
    transport.abort()
    assert loop.reader is None
    assert loop.writer is None
    assert all(timer.is_cancelled for timer in loop.timers)
    assert told == ["made", ("lost", None)]
    # The descriptor 0 is as good as any.
    transport, _, device, told = made()
    device.descriptor = 0
    transport.abort()
    assert told == ["made", ("lost", None)]


def test_aborting_while_the_device_is_watched():
    transport, loop, _, _ = made()
    transport.write(b"abcd")
    transport.abort()
    assert loop.writer is None


def test_what_can_be_read_is_not_away():
    with terminal() as (device, master):
        os.write(master, b"abc")
        assert select.select([device], [], [], 1)[0]
        assert device.is_away is False


@each_driver
@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/full"])
@pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux refuses to wait on them")
def test_a_device_that_cannot_be_waited_on_is_refused(driver, path):
    async def main():
        with pytest.raises(ConnectError, match="only a terminal or a virtio-serial port can be used") as caught:
            async with entered(driver.module.connect(VirtioSerial(path))):
                pass
        assert str(caught.value.__cause__) == f"[Errno {errno.ENOTTY}] not a device that can be waited on: '{path}'"
        assert not caught.value.retryable
        assert not caught.value.timed_out

    run(driver, main)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux refuses to wait on them")
def test_a_guest_refuses_a_device_that_cannot_be_waited_on():
    with pytest.raises(OSError, match="not a device that can be waited on"), simulated_guest(VirtioSerial("/dev/null")):
        pass
