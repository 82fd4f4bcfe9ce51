"""Between asyncio's transports and a session: the protocol, and one way to dial per kind of address."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stereos_proto import Preamble, PreambleError

from ._dial import Device, check_connected, is_device, preambles, socket_target, start_connecting
from ._errors import connect_error
from ._session import READ_SIZE, Session
from .addresses import TCP, Address, Dial


class _Scratch(threading.local):
    """What every connection of a thread reads into. It is filled and emptied before anything else runs there."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))


_SCRATCH: Final = _Scratch()


class Wire(asyncio.BufferedProtocol):
    """What a transport calls. It feeds a preamble first, where there is one, and then the session.

    A `BufferedProtocol`, since asyncio makes 256 KiB for every read of the other kind: for a short reply that is
    more work than all the rest. `data_received` is for transports that know that kind only.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.transport: Any = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused = False
        self._take: Callable[[bytes], None] = session.receive
        self._break: Callable[[OSError], None] = session.broken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return the place to read into."""
        return _SCRATCH.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that were read into it."""
        self.data_received(bytes(_SCRATCH.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take bytes from the guest."""
        self._take(data)
        if self.session.wants_write:
            self.flush()

    def eof_received(self) -> None:
        """Take note of the end of the stream; the transport closes by itself then."""
        self._take(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the transport is gone."""
        if isinstance(exc, OSError):
            self._break(exc)
        self._take(b"")
        fulfil(self.lost)

    def pause_writing(self) -> None:
        """Leave what is to be written in the session: the transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on writing, though not in here: were that to fail, asyncio would tell the end of the transport twice."""
        self._paused = False
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Hand whole lines to the transport, which buffers what the system does not take."""
        session = self.session
        while not self._paused and (data := session.next_write()):
            session.wrote(len(data))
            self.transport.write(data)

    async def open(self, address: Address) -> None:
        """Run what the transport wants before the protocol. Raises PreambleError, OSError."""
        for preamble, patience in preambles(address):
            opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # A caller that gives up closes the stream, and asks no more what that did to the preamble.
            opened.add_done_callback(_look_at)
            self._take = partial(_advance, preamble, opened)
            self._break = partial(_fail, opened)
            self.transport.write(preamble.data_to_send())
            await asyncio.wait([opened], timeout=patience)
            if opened.done():
                opened.result()
                self._take, self._break = self.session.receive, self.session.broken
                if trailing := preamble.trailing_data:
                    self.data_received(trailing)
                return


def _advance(preamble: Preamble, opened: asyncio.Future[None], data: bytes) -> None:
    try:
        if data:
            preamble.receive_data(data)
        else:
            preamble.receive_eof()
    except PreambleError as exc:
        _fail(opened, exc)
    if preamble.done:
        fulfil(opened)


def _look_at(opened: asyncio.Future[None]) -> None:
    if not opened.cancelled():
        opened.exception()


def _fail(opened: asyncio.Future[None], error: Exception) -> None:
    if not opened.done():
        opened.set_exception(error)


async def dial(address: Address, wire: Wire) -> None:
    """Connect `wire` to a guest. Raises ConnectError."""
    try:
        await _connect(address, wire)
        await wire.open(address)
    except (OSError, PreambleError) as exc:
        abort(wire)
        raise connect_error(address, exc) from exc
    except BaseException:
        abort(wire)
        raise


def abort(wire: Wire) -> None:
    """Close the transport without waiting for its buffer."""
    if wire.transport is not None:
        wire.transport.abort()


async def _connect(address: Address, wire: Wire) -> None:
    if isinstance(address, Dial):
        stream = address.function()
        await adopt(await stream if inspect.isawaitable(stream) else stream, wire)
    elif is_device(address):
        _DeviceTransport(Device(socket_target(address)[1]), wire)
    elif isinstance(address, TCP):
        await asyncio.get_running_loop().create_connection(lambda: wire, address.host, address.port)
    else:
        await adopt(await _connected(*socket_target(address)), wire)


async def adopt(stream: Any, wire: Wire) -> None:
    """Connect `wire` to a socket, a transport, or a `(StreamReader, StreamWriter)` that is connected already."""
    loop = asyncio.get_running_loop()
    if isinstance(stream, socket.socket):
        stream.setblocking(False)
        # Unix sockets are refused by the one call, and all other families by the other.
        create: Any = loop.create_unix_connection if stream.family == socket.AF_UNIX else loop.create_connection
        await create(lambda: wire, sock=stream)
        return
    early: list[bytes] = []
    error: Exception | None = None
    if isinstance(stream, tuple):
        reader, writer = stream
        stream = writer.transport
        # The writer closes its transport when it is collected.
        wire.lost.add_done_callback(lambda _future: writer)
        error = reader.exception()
        early = _drain(reader) if error is None else []
    stream.set_protocol(wire)
    wire.connection_made(stream)
    for data in early:
        wire.data_received(data) if data else wire.eof_received()
    if stream.is_closing():
        # It may have told its last protocol already, and tells that only once.
        wire.connection_lost(error)
    with suppress(RuntimeError, AttributeError):
        stream.resume_reading()


def _drain(reader: asyncio.StreamReader) -> list[bytes]:
    """What `reader` has read already; the last is b"" where that was the end of the stream."""
    early: list[bytes] = []
    while not early or early[-1]:
        # Run by hand, as far as it comes: it waits where there is nothing more.
        reading = reader.read(READ_SIZE)
        try:
            reading.send(None)
        except StopIteration as stop:
            early.append(stop.value)
        else:
            reading.close()
            break
    return early


async def _connected(family: int, target: Any) -> socket.socket:
    """Connect without `loop.sock_connect`, which uvloop has for IP and unix sockets only (§8)."""
    sock = start_connecting(family, target)
    try:
        await _writable(sock)
        check_connected(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = loop.create_future()
    loop.add_writer(sock.fileno(), fulfil, writable)
    try:
        await writable
    finally:
        loop.remove_writer(sock.fileno())


def fulfil(future: asyncio.Future[None]) -> None:
    """Wake whoever awaits `future`. Twice is fine."""
    if not future.done():
        future.set_result(None)


class _DeviceTransport:
    """A character device as a transport. asyncio's own pipes want two for one device, and uvloop's take none."""

    def __init__(self, device: Device, wire: Wire) -> None:
        self._loop = asyncio.get_running_loop()
        self._device = device
        self._wire = wire
        self._unwritten = b""
        self._full = False
        self._loop.add_reader(device.fileno(), self._read)
        wire.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        """Write, and keep what the device does not take yet."""
        self._unwritten += data
        if not self._full:
            self._write()

    def abort(self, cause: OSError | None = None) -> None:
        """Close the device now. Twice is fine."""
        if self._device.fileno() >= 0:
            self._loop.remove_reader(self._device.fileno())
            self._loop.remove_writer(self._device.fileno())
            self._device.close()
            self._loop.call_soon(self._wire.connection_lost, cause)

    def _read(self) -> None:
        try:
            data = self._device.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            self.abort(exc)
            return
        if data:
            self._wire.data_received(data)
        else:
            self.abort()

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._device.send(self._unwritten) :]
        except BlockingIOError:
            self._full = True
            self._loop.add_writer(self._device.fileno(), self._write)
            self._wire.pause_writing()
        except OSError as exc:
            self.abort(exc)
        else:
            if self._full:
                self._full = False
                self._loop.remove_writer(self._device.fileno())
                self._wire.resume_writing()
