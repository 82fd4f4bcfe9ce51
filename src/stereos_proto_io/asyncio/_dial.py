"""Dialling for programs on asyncio, and taking over what is connected already."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from stereos_proto_io.addresses import Address, Attempt
from stereos_proto_io.driver import READ, Device, Dialling, begin_lookup, connect_error, open_stream
from stereos_proto_io.driver._asyncio_reading import drain
from stereos_proto_io.driver._device_transport import DeviceTransport
from stereos_proto_io.driver._streams import check_stream, make_raw, one_pair

from ._transport import SessionProtocol, fulfil


async def dial(address: Address, protocol: SessionProtocol) -> None:
    """Connect `protocol` to a guest. Raises ConnectError; TypeError when a `Dial` gave no stream."""
    clock = asyncio.get_running_loop().time
    stream, early = await open_stream(address, now=clock, lookup=_lookup, next_moment=_next_moment)
    try:
        protocol.session.receive_data(early)
        await adopt(stream, protocol)
        protocol.pump()
    except BaseException as exc:
        protocol.abort()
        if protocol.transport is None and isinstance(stream, socket.socket):
            stream.close()
        if isinstance(exc, OSError):
            raise connect_error(address, exc) from exc
        raise


async def _lookup(host: str, port: int) -> list[Attempt] | OSError:
    """Look a host up. asyncio's own threads would keep the loop from ending while the resolver is at work."""
    future: Future[list[Attempt] | OSError] = Future()
    # The future cannot be cancelled from now on: the thread may set its result after the caller has gone.
    future.set_running_or_notify_cancel()
    begin_lookup(host, port, future.set_result)
    return await asyncio.wrap_future(future)


async def _next_moment(dialling: Dialling) -> None:
    """Wait for one of the streams that a dial watches, or for its next deadline.

    asyncio's own `sock_connect` is for IP and unix sockets only under uvloop (§8).
    """
    loop = asyncio.get_running_loop()
    moment = loop.create_future()
    # Descriptor → the function of the loop that lets go of it.
    watched: dict[int, Callable[[int], object]] = {}

    def ready(stream: Any) -> None:
        # Once: the stream may not be watched in the state that follows.
        if remove := watched.pop(stream.fileno(), None):
            remove(stream.fileno())
            dialling.ready(stream, loop.time())
            fulfil(moment)

    for stream, mask in dialling.watch():
        watched[stream.fileno()] = loop.remove_reader if mask & READ else loop.remove_writer
        (loop.add_reader if mask & READ else loop.add_writer)(stream.fileno(), ready, stream)
    deadline = dialling.next_deadline()
    timer = None if deadline is None else loop.call_at(deadline, fulfil, moment)
    try:
        await moment
    finally:
        for descriptor, remove in watched.items():
            remove(descriptor)
        if timer is not None:
            timer.cancel()


async def adopt(stream: Any, protocol: SessionProtocol) -> None:
    """Connect `protocol` to a socket, a device, a transport, or a `(StreamReader, StreamWriter)`, connected already."""
    loop = asyncio.get_running_loop()
    if isinstance(stream, Device):
        DeviceTransport(loop, stream, protocol, waits_for_peer=False)
        return
    if isinstance(stream, socket.socket):
        make_raw(stream)
        # Unix sockets are refused by the one call, and all other families by the other.
        is_unix = stream.family == getattr(socket, "AF_UNIX", None)
        create: Any = loop.create_unix_connection if is_unix else loop.create_connection
        await create(lambda: protocol, sock=stream)
        return
    reader = None
    if isinstance(stream, tuple):
        reader, writer = one_pair(stream)
        stream = writer.transport
        # The writer closes its transport when it is collected.
        protocol.lost.add_done_callback(lambda _future: writer)
    check_stream(stream, "set_protocol")
    error = None if reader is None else reader.exception()
    early = drain(reader) if reader and error is None else []
    stream.set_protocol(protocol)
    protocol.connection_made(stream)
    for data in early:
        protocol.data_received(data) if data else protocol.eof_received()
    if stream.is_closing():
        # It may have told its last protocol already, and tells that only once.
        protocol.connection_lost(error)
    protocol.change_reading("resume_reading")
