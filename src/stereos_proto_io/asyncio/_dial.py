"""Dialling for programs on asyncio, and taking over what is connected already."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from stereos_proto import PreambleError
from stereos_proto_io.addresses import Address, Attempt
from stereos_proto_io.driver import (
    READ,
    READ_SIZE,
    Device,
    Dialling,
    attempts,
    begin_lookup,
    connect_error,
    lookup_number,
    names,
)
from stereos_proto_io.driver._device_transport import DeviceTransport

from ._transport import SessionProtocol, fulfil


async def dial(address: Address, protocol: SessionProtocol) -> None:
    """Connect `protocol` to a guest. Raises ConnectError."""
    stream: Any = None
    try:
        stream = address.open()
        if inspect.isawaitable(stream):
            stream = await stream
        early = b""
        if stream is None or (isinstance(stream, socket.socket) and _has_preamble(address)):
            stream, early = await _connect(address, stream)
        if early:
            protocol.session.receive_data(early)
        await adopt(stream, protocol)
        protocol.pump()
    except (OSError, PreambleError) as exc:
        protocol.abort()
        raise connect_error(address, exc) from exc
    except BaseException:
        protocol.abort()
        if protocol.transport is None and isinstance(stream, socket.socket):
            stream.close()
        raise


def _has_preamble(address: Address) -> bool:
    return next(address.preambles(), None) is not None


async def _connect(address: Address, stream: Any) -> tuple[Any, bytes]:
    """Connect a socket and run the preambles; return the stream, and the bytes that came early."""
    loop = asyncio.get_running_loop()
    found: Any = []
    if stream is None and (name := names(address)):
        found = lookup_number(*name) or await _lookup(*name)
    places = attempts(address, found) if stream is None else []
    dialling = Dialling(address, places, now=loop.time(), stream=stream)
    watcher = _Watcher(dialling)
    try:
        while dialling.outcome is None:
            await watcher.next_moment()
    except BaseException:
        dialling.cancel()
        raise
    finally:
        watcher.close()
    if isinstance(dialling.outcome, Exception):
        raise dialling.outcome
    return dialling.outcome, dialling.early


async def _lookup(host: str, port: int) -> list[Attempt]:
    """Look a host up. asyncio's own threads would keep the loop from ending while the resolver is at work."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Attempt]] = loop.create_future()

    def settle(found: list[Attempt] | OSError) -> None:
        if not future.done():
            future.set_exception(found) if isinstance(found, OSError) else future.set_result(found)

    def tell(found: list[Attempt] | OSError) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found)

    begin_lookup(host, port, tell)
    return await future


class _Watcher:
    """Watches the streams of a dial. asyncio's own `sock_connect` is for IP and unix sockets only under uvloop (§8)."""

    def __init__(self, dialling: Dialling) -> None:
        self._dialling = dialling
        self._loop = asyncio.get_running_loop()
        # Descriptor → the function of the loop that lets go of it.
        self._watched: dict[int, Callable[[int], object]] = {}

    async def next_moment(self) -> None:
        """Wait until a stream is ready, or until the next deadline."""
        dialling, loop = self._dialling, self._loop
        moment = loop.create_future()
        for stream, mask in dialling.watch():
            descriptor = stream.fileno()
            self._watched[descriptor] = loop.remove_reader if mask & READ else loop.remove_writer
            (loop.add_reader if mask & READ else loop.add_writer)(descriptor, self._ready, stream, moment)
        deadline = dialling.next_deadline()
        timer = None if deadline is None else loop.call_at(deadline, fulfil, moment)
        try:
            await moment
        finally:
            self._let_go()
            if timer is not None:
                timer.cancel()
        dialling.expire(loop.time())
        self._discard()

    def _ready(self, stream: Any, moment: asyncio.Future[None]) -> None:
        # Once: the stream may not be watched in the state that follows.
        if remove := self._watched.pop(stream.fileno(), None):
            remove(stream.fileno())
        self._dialling.ready(stream, self._loop.time())
        fulfil(moment)

    def _let_go(self) -> None:
        while self._watched:
            descriptor, remove = self._watched.popitem()
            remove(descriptor)

    def _discard(self) -> None:
        while self._dialling.discarded:
            self._dialling.discarded.pop().close()

    def close(self) -> None:
        """Let go of everything but the stream that won."""
        self._let_go()
        self._discard()


async def adopt(stream: Any, protocol: SessionProtocol) -> None:
    """Connect `protocol` to a socket, a device, a transport, or a `(StreamReader, StreamWriter)`, connected already."""
    loop = asyncio.get_running_loop()
    if isinstance(stream, Device):
        DeviceTransport(loop, stream, protocol, waits_for_peer=False)
        return
    if isinstance(stream, socket.socket):
        stream.setblocking(False)
        # Unix sockets are refused by the one call, and all other families by the other.
        create: Any = loop.create_unix_connection if stream.family == _AF_UNIX else loop.create_connection
        await create(lambda: protocol, sock=stream)
        return
    early: list[bytes] = []
    error: Exception | None = None
    if isinstance(stream, tuple):
        reader, writer = stream
        stream = writer.transport
        # The writer closes its transport when it is collected.
        protocol.lost.add_done_callback(lambda _future: writer)
        error = reader.exception()
        early = _drain(reader) if error is None else []
    stream.set_protocol(protocol)
    protocol.connection_made(stream)
    for data in early:
        protocol.data_received(data) if data else protocol.eof_received()
    if stream.is_closing():
        # It may have told its last protocol already, and tells that only once.
        protocol.connection_lost(error)
    with suppress(RuntimeError, AttributeError):
        stream.resume_reading()


_AF_UNIX = getattr(socket, "AF_UNIX", None)


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
