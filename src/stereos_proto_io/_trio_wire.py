"""Between trio's sockets and streams and a session: two wires, and one way to dial per kind of address.

A wire reads and writes so that being cancelled loses nothing. `read` returns bytes or leaves them where they
are. `write` says how many bytes it wrote, or wrote none.
"""

from __future__ import annotations

import inspect
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import trio

from stereos_proto import Preamble, PreambleError

from ._dial import Device, check_connected, is_device, preambles, socket_target, start_connecting, tune
from ._errors import connect_error
from ._session import READ_SIZE, Session
from .addresses import TCP, Address, Dial


class Wire(ABC):
    """A stream of bytes to a guest."""

    @abstractmethod
    async def read(self, take: Callable[[bytes], None]) -> None:
        """Give `take` what comes next, b"" at the end. Being cancelled loses nothing: no checkpoint comes between.

        Raises OSError when the stream breaks.
        """

    @abstractmethod
    def write_now(self, session: Session) -> None:
        """Write what can be written without waiting."""

    @abstractmethod
    async def write(self, session: Session) -> None:
        """Wait until some of what `session` wants written is written. For one task at a time."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once. Whoever waits is woken."""

    async def closed(self) -> None:
        """Return when it is closed, and all that belongs to it."""
        await trio.lowlevel.checkpoint()


class SocketWire(Wire):
    """A wire over anything with a descriptor and a socket's `recv`, `send` and `close`.

    It waits for the descriptor and reads it itself: trio's own socket methods do the same with several more
    checkpoints.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = tune(sock)

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Give `take` what comes next."""
        await trio.lowlevel.wait_readable(self._sock)
        self._read(take)

    def _read(self, take: Callable[[bytes], None]) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        take(data)

    async def send(self, data: bytes) -> None:
        """Write a few bytes, before there is a session. Raises OSError when the stream breaks."""
        await trio.lowlevel.wait_writable(self._sock)
        self._sock.send(data)

    def write_now(self, session: Session) -> None:
        """Write what can be written without waiting."""
        try:
            while data := session.next_write():
                session.wrote(self._sock.send(data))
        except BlockingIOError:
            return
        except OSError as exc:
            # Replies to earlier requests may have arrived before the connection broke.
            with suppress(OSError):
                while not session.ended:
                    session.receive(self._sock.recv(READ_SIZE))
            session.broken(exc)

    async def write(self, session: Session) -> None:
        """Wait until something can be written, and write it."""
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_writable(self._sock)
            self.write_now(session)

    def abort(self) -> None:
        """Close at once."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class StreamWire(Wire):
    """A wire over a `trio.abc.Stream`, whose writes cannot be told how far they got when they are cancelled."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._aborted = False

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Give `take` what comes next."""
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _reset(exc) from exc
        take(bytes(data))

    def write_now(self, session: Session) -> None:
        """Write nothing: a stream has no way to write without waiting."""

    async def write(self, session: Session) -> None:
        """Write all. Being cancelled in the middle ends the session: nobody knows what was written."""
        await trio.lowlevel.checkpoint_if_cancelled()
        data = session.next_write()
        # Counted before: should the session end meanwhile, nobody is told that it was not sent.
        session.wrote(len(data))
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            session.broken(_reset(exc))
        except OSError as exc:
            session.broken(exc)
        except BaseException:
            session.interrupted()
            raise

    def abort(self) -> None:
        """Close at once, as far as that goes without waiting."""
        if not self._aborted:
            self._aborted = True
            trio.lowlevel.spawn_system_task(self._close)

    async def closed(self) -> None:
        """Close it, and wait for that."""
        await self._close()
        await trio.lowlevel.checkpoint()

    async def _close(self) -> None:
        # However it says goodbye, it is closed. A task of the system that fails takes all of trio with it.
        with suppress(Exception):
            await trio.aclose_forcefully(self._stream)


def _reset(error: Exception) -> OSError:
    return ConnectionResetError(str(error) or "the stream broke")


async def dial(address: Address) -> tuple[Wire, bytes]:
    """Connect to a guest; return the wire, and the bytes on it that came early. Raises ConnectError."""
    try:
        wire = await _connect(address)
        try:
            return wire, await _open(address, wire)
        except BaseException:
            wire.abort()
            raise
    except (OSError, PreambleError) as exc:
        raise connect_error(address, exc) from exc


async def _connect(address: Address) -> Wire:
    if isinstance(address, Dial):
        stream = address.function()
        return adopt(await stream if inspect.isawaitable(stream) else stream)
    if is_device(address):
        return SocketWire(Device(socket_target(address)[1]))
    if isinstance(address, TCP):
        return adopt(await trio.open_tcp_stream(address.host, address.port))
    sock = start_connecting(*socket_target(address))
    try:
        await trio.lowlevel.wait_writable(sock)
        check_connected(sock)
    except BaseException:
        sock.close()
        raise
    return SocketWire(sock)


def adopt(stream: Any) -> Wire:
    """Return a wire over a socket (trio's or the standard library's) or a stream, which is its own then."""
    if isinstance(stream, trio.SocketStream):
        stream = stream.socket
    if isinstance(stream, trio.socket.SocketType):
        # trio does not give its socket away, but another descriptor of it can be had.
        family, descriptor = stream.family, os.dup(stream.fileno())
        stream.close()
        stream = socket.socket(family, socket.SOCK_STREAM, fileno=descriptor)
    return StreamWire(stream) if isinstance(stream, trio.abc.Stream) else SocketWire(stream)


async def _open(address: Address, wire: Wire) -> bytes:
    """Run what the transport wants before the protocol; return the bytes that belong to the protocol."""
    for preamble, patience in preambles(address):
        # Only addresses that lead to a socket have any.
        sock = cast("SocketWire", wire)
        with trio.move_on_after(patience):
            await sock.send(preamble.data_to_send())
            while not preamble.done:
                await sock.read(partial(_advance, preamble))
        if preamble.done:
            return preamble.trailing_data
    return b""


def _advance(preamble: Preamble, data: bytes) -> None:
    if data:
        preamble.receive_data(data)
    else:
        preamble.receive_eof()
