"""One way to dial per kind of address, for programs that block."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from typing import Any

from stereos_proto import Preamble, PreambleError

from ._dial import Device, is_device, preambles, socket_target, tune
from ._errors import connect_error
from ._session import READ_SIZE
from .addresses import TCP, Address, Dial


def dial(address: Address, deadline: float) -> tuple[Any, bytes]:
    """Connect to a guest before `deadline` (`time.monotonic`). Return the stream, and the bytes that came early.

    Raises ConnectError.
    """
    stream = reach(address, deadline)
    try:
        return stream, begin(address, stream, deadline)
    except BaseException:
        stream.close()
        raise


def reach(address: Address, deadline: float) -> Any:
    """Return a stream that is connected, and does not block. Raises ConnectError."""
    try:
        return _connect(address, deadline)
    except OSError as exc:
        raise connect_error(address, exc) from exc


def begin(address: Address, stream: Any, deadline: float) -> bytes:
    """Run what the transport wants before the protocol; return the bytes that came early. Raises ConnectError."""
    try:
        return _open(address, stream, deadline)
    except (OSError, PreambleError) as exc:
        raise connect_error(address, exc) from exc


def _left(deadline: float) -> float:
    """The seconds until `deadline`, a day at most. Raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, 86400)


def _connect(address: Address, deadline: float) -> Any:
    _left(deadline)
    if isinstance(address, Dial):
        return tune(address.function())
    if is_device(address):
        return Device(socket_target(address)[1])
    family, target = socket_target(address)
    if not isinstance(address, TCP):
        return _connected(family, target, deadline)
    failure: OSError | None = None
    for family, _, _, _, target in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        try:
            return _connected(family, target, deadline)
        except OSError as exc:
            failure = failure or exc
    raise failure or OSError("the name has no address")


def _connected(family: int, target: Any, deadline: float) -> Any:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(deadline))
        sock.connect(target)
        return tune(sock)
    except BaseException:
        sock.close()
        raise


def _open(address: Address, stream: Any, deadline: float) -> bytes:
    """Run what the transport wants before the protocol; return the bytes that belong to the protocol."""
    for preamble, patience in preambles(address):
        # A pipe that is full already will take the next try's opening, or the one after.
        with suppress(BlockingIOError):
            stream.send(preamble.data_to_send())
        _feed(preamble, stream, time.monotonic() + min(patience, _left(deadline)))
        if preamble.done:
            return preamble.trailing_data
    return b""


def _feed(preamble: Preamble, stream: Any, until: float) -> None:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    late = False
    while not (preamble.done or late):
        left = until - time.monotonic()
        # One look more, and no further: who never stops talking is no reason to stay.
        late = left <= 0
        if not poll.poll(max(left, 0) * 1000):
            continue
        if data := stream.recv(READ_SIZE):
            preamble.receive_data(data)
        else:
            preamble.receive_eof()
