"""One interface for sockets and devices, for threads. Any thread may call `end`, which wakes the others."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import Final, Protocol

from stereos_proto_io.driver._device import AWAY_PAUSE, Device

from ._listen import reset_on_close

_CHUNK: Final = 64 * 1024


class Transport(Protocol):
    """What a connection reads and writes."""

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end. Raises OSError when the host is gone."""
        ...

    def send(self, data: bytes | memoryview, *, wait: bool) -> int:
        """Write some of `data` and return how much. Raises BlockingIOError when none goes out without waiting,
        and OSError when the host is gone.
        """
        ...

    def end(self, *, reset: bool = False) -> None:
        """Let `receive` and `send` return in every thread."""
        ...

    def close(self) -> None:
        """Give the descriptor back. No thread uses the transport any more."""
        ...


class SocketTransport:
    """A connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end."""
        return self._socket.recv(_CHUNK)

    def send(self, data: bytes | memoryview, *, wait: bool) -> int:
        """Write some of `data` and return how much."""
        return self._socket.send(data, 0 if wait else socket.MSG_DONTWAIT)

    def end(self, *, reset: bool = False) -> None:
        """Let `receive` and `send` return in every thread; the host sees the end now, or a reset at `close`."""
        with suppress(OSError):
            if reset:
                reset_on_close(self._socket)
            # Reading alone: the end of writing would be told to the host before the reset.
            self._socket.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()


class DeviceTransport:
    """A virtio-serial port in the guest. It never ends: a host that is away is waited for."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._over = threading.Event()  # set by `end`
        self._wake, self._waking = socket.socketpair()  # makes poll return at `end`

    def receive(self) -> bytes:
        """Wait for bytes; b"" only after `end`."""
        while not self._over.is_set():
            try:
                data = self._device.recv(_CHUNK)
            except BlockingIOError:
                self._wait(select.POLLIN)
            else:
                if data:
                    return data
                self._over.wait(AWAY_PAUSE)
        return b""

    def send(self, data: bytes | memoryview, *, wait: bool) -> int:
        """Write some of `data` and return how much, 0 only after `end`. A host that is away is waited for."""
        while not self._over.is_set():
            try:
                return self._device.send(data)
            except BlockingIOError:
                if not wait:
                    raise
                self._wait(select.POLLOUT)
        return 0

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
        with suppress(OSError):  # it is closed already, so no thread waits
            self._wake.send(b"!")

    def close(self) -> None:
        """Give the descriptors back."""
        for part in (self._device, self._wake, self._waking):
            part.close()
