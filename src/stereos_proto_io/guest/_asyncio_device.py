"""A virtio-serial port as an asyncio transport. asyncio's own pipe transports take "no host" for the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ._device import AWAY_PAUSE, Device

_CHUNK: Final = 64 * 1024
_HIGH_WATER: Final = 64 * 1024


class DeviceTransport(asyncio.Transport):
    """What the protocol of a connection writes to. It ends only by `close` or `abort`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, device: Device, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._device = device
        self._protocol = protocol
        self._unwritten = bytearray()
        self._reading = False
        self._paused = False
        self._closing = False
        self._closed = False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        protocol.connection_made(self)
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read from now on."""
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._device.fileno(), self._read)

    def pause_reading(self) -> None:
        """Read no more for now."""
        if not self._reading:
            return
        self._reading = False
        self._loop.remove_reader(self._device.fileno())

    def _read(self) -> None:
        data = self._device.read(_CHUNK)
        if data:
            self._protocol.data_received(data)
        elif data is not None:
            # The loop would call back at once, again and again, for as long as the host is away.
            self.pause_reading()
            self._later(self.resume_reading)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data`."""
        idle = not self._unwritten
        self._unwritten += data
        if idle:
            self._write()
        if len(self._unwritten) > _HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _write(self) -> None:
        self._loop.remove_writer(self._device.fileno())
        while self._unwritten:
            with memoryview(self._unwritten) as view:
                written = self._device.write(view)
            del self._unwritten[:written]
            if not written:
                self._write_on()
                return
        if self._closing:
            self.abort()
        elif self._paused:
            # Only after a pause: who resumes writes more, and would come back here from within each write.
            self._paused = False
            self._protocol.resume_writing()

    def _write_on(self) -> None:
        if self._device.is_away:
            self._later(self._write)
        else:
            self._loop.add_writer(self._device.fileno(), self._write)

    def _later(self, work: Callable[[], None]) -> None:
        self._timers[work] = self._loop.call_later(AWAY_PAUSE, work)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Close the port once all is written."""
        self.pause_reading()
        self._closing = True
        if not self._unwritten:
            self.abort()

    def abort(self) -> None:
        """Close the port now. Twice is fine."""
        self._closing = True
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._device.fileno())
        self._loop.remove_writer(self._device.fileno())
        for timer in self._timers.values():
            timer.cancel()
        self._device.close()
        self._loop.call_soon(self._protocol.connection_lost, None)
