"""Between trio's sockets and streams and a session: two wires, and one way to dial per kind of address.

A wire reads and writes so that being cancelled loses nothing. `read` returns bytes or leaves them where they
are. `write` says how many bytes it wrote, or wrote none.
"""

from __future__ import annotations

import inspect
import os
import socket
from typing import Any, Protocol

import trio

from stereos_proto import PreambleError

from ._dial import Device, is_device, preambles, socket_target
from ._errors import connect_error
from ._session import READ_SIZE
from .addresses import TCP, Address, Dial


class Wire(Protocol):
    """A stream of bytes to a guest. `read` and `write` raise OSError when it breaks."""

    async def read(self) -> bytes:
        """Return some bytes, b"" at the end of the stream."""
        ...

    def try_write(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting, and return how many bytes that was."""
        ...

    async def write(self, data: bytes | memoryview) -> int:
        """Wait until something is written, and return how many bytes that was."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class SocketWire:
    """A wire over anything with a descriptor and a socket's `recv`, `send` and `close`.

    It waits for the descriptor and reads it itself: trio's own socket methods do the same with several more
    checkpoints.
    """

    def __init__(self, sock: Any) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def read(self) -> bytes:
        """Return some bytes, b"" at the end of the stream."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data: bytes = self._sock.recv(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                continue
            return data

    def try_write(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting, and return how many bytes that was."""
        try:
            size: int = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        return size

    async def write(self, data: bytes | memoryview) -> int:
        """Wait until something is written, and return how many bytes that was."""
        size = 0
        while not size:
            await trio.lowlevel.wait_writable(self._sock)
            size = self.try_write(data)
        return size

    def abort(self) -> None:
        """Close at once. Whoever waits for the descriptor is woken."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class StreamWire:
    """A wire over a `trio.abc.Stream`, whose writes cannot be told how far they got when they are cancelled."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        """Return some bytes, b"" at the end of the stream."""
        try:
            return bytes(await self._stream.receive_some(READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError(str(exc) or "the stream broke") from exc

    def try_write(self, _data: bytes | memoryview) -> int:
        """Write nothing: a stream has no way to write without waiting."""
        return 0

    async def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`. Being cancelled in the middle breaks the stream: nobody knows what was written."""
        finished = False
        try:
            await self._stream.send_all(data)
            finished = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError(str(exc) or "the stream broke") from exc
        finally:
            if not finished:
                self.abort()
        return len(data)

    def abort(self) -> None:
        """Close at once, without the stream's own farewell."""
        trio.lowlevel.spawn_system_task(trio.aclose_forcefully, self._stream)


async def dial(address: Address) -> tuple[Wire, bytes]:
    """Connect to a guest; return the wire, and the bytes on it that came early. Raises ConnectError."""
    wire: Wire | None = None
    try:
        wire = await _connect(address)
        early = await _open(address, wire)
    except BaseException as exc:
        if wire is not None:
            wire.abort()
        if isinstance(exc, (OSError, PreambleError)):
            raise connect_error(address, exc) from exc
        raise
    return wire, early


async def _connect(address: Address) -> Wire:
    if isinstance(address, Dial):
        stream = address.function()
        return adopt(await stream if inspect.isawaitable(stream) else stream)
    if is_device(address):
        return SocketWire(Device(socket_target(address)[1]))
    if isinstance(address, TCP):
        return adopt(await trio.open_tcp_stream(address.host, address.port))
    family, target = socket_target(address)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return adopt(trio.SocketStream(sock))


def adopt(stream: Any) -> Wire:
    """Return a wire over a socket (trio's or the standard library's) or a stream, which is its own then."""
    if isinstance(stream, trio.SocketStream):
        stream = stream.socket
    if isinstance(stream, trio.socket.SocketType):
        # trio does not give its socket away, but another descriptor of it can be had.
        family, descriptor = stream.family, os.dup(stream.fileno())
        stream.close()
        stream = socket.socket(family, socket.SOCK_STREAM, fileno=descriptor)
        if family in (socket.AF_INET, socket.AF_INET6):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return StreamWire(stream) if isinstance(stream, trio.abc.Stream) else SocketWire(stream)


async def _open(address: Address, wire: Wire) -> bytes:
    """Run what the transport wants before the protocol; return the bytes that belong to the protocol."""
    tried = False
    for preamble, patience in preambles(address):
        tried = True
        with trio.move_on_after(patience):
            await wire.write(preamble.data_to_send())
            while not preamble.done:
                data = await wire.read()
                if data:
                    preamble.receive_data(data)
                else:
                    preamble.receive_eof()
        if preamble.done:
            return preamble.trailing_data
    if tried:
        raise TimeoutError
    return b""
