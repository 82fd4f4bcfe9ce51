"""One way to dial per kind of address, for programs on asyncio."""

from __future__ import annotations

import asyncio
import inspect
import socket
from contextlib import suppress
from typing import Any

from stereos_proto import PreambleError

from ._asyncio_wire import Wire, abort, fulfil
from ._dial import Device, check_connected, is_device, socket_target, start_connecting
from ._errors import connect_error
from ._session import READ_SIZE
from .addresses import TCP, Address, Dial


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

    def get_extra_info(self, _name: str) -> None:
        """Tell nothing: there is no socket."""

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
