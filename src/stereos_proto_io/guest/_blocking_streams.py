"""Sockets and devices with one face, for threads. `end` may be called by any thread, and wakes the others."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import Final, Protocol

from ._device import AWAY_PAUSE, Device
from ._listen import RESET

_CHUNK: Final = 64 * 1024


class Stream(Protocol):
    """What a connection reads and writes."""

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end. Raises OSError when the host is gone."""
        ...

    def send(self, data: bytes) -> None:
        """Write all of `data`. Raises OSError when the host is gone."""
        ...

    def end(self, *, reset: bool = False) -> None:
        """Let `receive` and `send` return in every thread."""
        ...

    def close(self) -> None:
        """Give the descriptor back. Nobody uses the stream any more."""
        ...


class SocketStream:
    """A connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end."""
        return self._socket.recv(_CHUNK)

    def send(self, data: bytes) -> None:
        """Write all of `data`."""
        self._socket.sendall(data)

    def end(self, *, reset: bool = False) -> None:
        """Let `receive` and `send` return in every thread; the host sees the end now, or a reset at `close`."""
        with suppress(OSError):
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # Reading alone: the end of writing would be told to the host before the reset.
            self._socket.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()


class DeviceStream:
    """A virtio-serial port in the guest. It never ends: a host that is away is waited for."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._over = threading.Event()
        self._wake, self._waking = socket.socketpair()

    def receive(self) -> bytes:
        """Wait for bytes; b"" only after `end`."""
        while not self._over.is_set():
            data = self._device.read(_CHUNK)
            if data:
                return data
            if data is None:
                self._wait(select.POLLIN)
            else:
                self._over.wait(AWAY_PAUSE)
        return b""

    def send(self, data: bytes) -> None:
        """Write all of `data`, also to a host that is away: then wait for it."""
        rest = memoryview(data)
        while rest and not self._over.is_set():
            written = self._device.write(rest)
            rest = rest[written:]
            if not written:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        if self._device.is_away:
            self._over.wait(AWAY_PAUSE)
            return
        poll = select.poll()
        poll.register(self._device.fileno(), event)
        poll.register(self._waking, select.POLLIN)
        poll.poll()

    def end(self, *, reset: bool = False) -> None:  # noqa: ARG002  (a port knows no reset)
        """Let `receive` and `send` return in every thread."""
        self._over.set()
        with suppress(OSError):  # it is closed already, so nobody waits
            self._wake.send(b"!")

    def close(self) -> None:
        """Give the descriptors back."""
        for part in (self._device, self._wake, self._waking):
            part.close()
