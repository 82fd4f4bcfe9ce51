"""A character device as an asyncio transport, for both ends.

asyncio's own pipe transports want two descriptors for one device, and take "the other end is away" for the end of the
stream; uvloop's do not take a device at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ._device import AWAY_PAUSE, Device
from ._streams import READ_SIZE

#: Bytes that may wait to be written before the protocol is told to pause.
_HIGH_WATER: Final = 64 * 1024


class DeviceTransport(asyncio.Transport):
    """Moves the bytes of a device to and from `protocol`, which is told `connection_made` at once.

    With `waits_for_peer` (the guest's end) the stream has no end: while the other end is away, reading and writing are
    tried again by the clock, and only `close` and `abort` end it. Without it (the host's end) the stream ends when the
    other end is away: the transport closes and calls `connection_lost(None)`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        device: Device,
        protocol: asyncio.BaseProtocol,
        *,
        waits_for_peer: bool,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._device = device
        self._protocol: Any = protocol
        self._waits_for_peer = waits_for_peer
        self._unwritten = bytearray()  # what the device has not taken yet
        self._reading = False  # whether the loop watches the device for us
        self._wants_to_read = True  # whether the protocol wants data
        self._paused = False  # whether the protocol was told to write no more
        self._closing = False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}  # tries again while the other end is away
        protocol.connection_made(self)
        self._watch()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `default`: a device has no socket."""
        return super().get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that gets the bytes."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the bytes to `protocol` from now on."""
        self._protocol = protocol

    def is_reading(self) -> bool:
        """Whether the protocol gets data."""
        return self._wants_to_read and not self._closing

    def resume_reading(self) -> None:
        """Read from now on."""
        self._wants_to_read = True
        self._watch()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._wants_to_read = False
        self._unwatch()

    def _watch(self) -> None:
        if self._wants_to_read and not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._device.fileno(), self._read)

    def _unwatch(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._device.fileno())

    def _read(self) -> None:
        try:
            data = self._device.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            self.abort(exc)
            return
        if data:
            self._hand_over(data)
        elif self._waits_for_peer:
            # The loop would call back at once, again and again, for as long as the other end is away.
            self._unwatch()
            self._later(self._watch)
        else:
            self.abort()

    def _hand_over(self, data: bytes) -> None:
        if not isinstance(self._protocol, asyncio.BufferedProtocol):
            self._protocol.data_received(data)
            return
        while data and not self._closing:
            buffer = memoryview(self._protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self._protocol.buffer_updated(size)
            data = data[size:]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, and keep what the device does not take yet. Dropped once it is closed, or about to be."""
        if self._closing:
            return
        idle = not self._unwritten
        self._unwritten += data
        if idle:
            self._write()
        if len(self._unwritten) > _HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _write(self) -> None:
        self._loop.remove_writer(self._device.fileno())
        try:
            while self._unwritten:
                with memoryview(self._unwritten) as view:
                    written = self._device.send(view)
                del self._unwritten[:written]
        except BlockingIOError:
            self._write_later()
            return
        except OSError as exc:
            self.abort(exc)
            return
        if self._closing:
            self.abort()
        elif self._paused:
            # Only after a pause: the protocol then writes more, and would come back here from within each write.
            self._paused = False
            self._protocol.resume_writing()

    def _write_later(self) -> None:
        if self._device.is_away:
            self._later(self._write)
        else:
            self._loop.add_writer(self._device.fileno(), self._write)

    def _later(self, work: Callable[[], None]) -> None:
        self._timers[work] = self._loop.call_later(AWAY_PAUSE, work)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the device has not taken yet."""
        return len(self._unwritten)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Close the device once all is written."""
        self._unwatch()
        self._closing = True
        if not self._unwritten:
            self.abort()

    def abort(self, cause: OSError | None = None) -> None:
        """Close the device now, and tell `connection_lost(cause)` soon. Twice is fine."""
        self._unwatch()
        self._closing = True
        if self._device.fileno() < 0:
            return
        self._loop.remove_writer(self._device.fileno())
        for timer in self._timers.values():
            timer.cancel()
        self._device.close()
        self._loop.call_soon(self._protocol.connection_lost, cause)
