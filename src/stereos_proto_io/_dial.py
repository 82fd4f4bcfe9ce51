"""What the drivers have in common when they dial: socket families, and the bytes before the protocol (§8, §9)."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from stereos_proto import HybridVsockPreamble, Preamble, ResyncPreamble

from ._errors import no_vsock
from .addresses import TCP, Address, HybridVsock, UnixSocket, VirtioSerial, Vsock

SocketAddress = TCP | Vsock | UnixSocket | VirtioSerial | HybridVsock

#: Seconds after which a hybrid-vsock host that does not answer CONNECT is given up (§8).
HYBRID_VSOCK_PATIENCE: Final = 5.0

#: Seconds after which a resynchronisation is repeated: what was written before the guest opened its port may
#: be lost (§9).
RESYNC_PATIENCE: Final = 1.0


def socket_target(address: SocketAddress) -> tuple[int, Any]:
    """The family and the address to hand to `connect`. A TCP host is not looked up.

    Raises ConnectError where this Python has no AF_VSOCK.
    """
    if isinstance(address, TCP):
        return socket.AF_INET, (address.host, address.port)
    if isinstance(address, Vsock):
        family = getattr(socket, "AF_VSOCK", None)
        if family is None:
            raise no_vsock(address)
        return family, (address.cid, address.port)
    return socket.AF_UNIX, address.path


def start_connecting(family: int, target: Any) -> socket.socket:
    """Return a socket that does not block, and is connected when it is writable and `check_connected` is content.

    A unix socket whose listener's queue is full says EAGAIN and stays as it is. asyncio and trio take that for
    "in progress" when they connect by themselves, and hand out a socket that never gets connected.

    Raises OSError.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _raise_unless(sock.connect_ex(target), 0, errno.EINPROGRESS)
    except BaseException:
        sock.close()
        raise
    return sock


def check_connected(sock: socket.socket) -> None:
    """Raise the OSError that connecting ended in, if it did."""
    _raise_unless(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)


def _raise_unless(code: int, *fine: int) -> None:
    if code not in fine:
        raise OSError(code, os.strerror(code))


class Device:
    """A character device with the four methods of a socket that the client needs."""

    def __init__(self, path: str) -> None:
        # A file, as that is closed, and complained of, when it is collected unclosed. It reads and writes in words
        # of its own where it would have to wait.
        self._file = open(path, "r+b", buffering=0, opener=_open)  # noqa: SIM115

    def fileno(self) -> int:
        """The descriptor, -1 when it is closed."""
        return -1 if self._file.closed else self._file.fileno()

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes. Raises BlockingIOError when there are none."""
        return os.read(self.fileno(), size)

    def send(self, data: bytes | memoryview) -> int:
        """Write, and return how many bytes were taken. Raises BlockingIOError when none can be."""
        return os.write(self.fileno(), data)

    def close(self) -> None:
        """Close it. Closing twice is fine."""
        self._file.close()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK)


class Encrypted:
    """A socket of TLS, whose words for "not now" are its own, with the methods of a socket that the client needs."""

    def __init__(self, sock: Any) -> None:
        import ssl  # noqa: PLC0415  (whoever has such a socket has loaded it; nobody else needs to)

        self._not_now = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._recv, self._send = sock.recv, sock.send
        self.fileno, self.shutdown, self.close = sock.fileno, sock.shutdown, sock.close

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes. Raises BlockingIOError when there are none."""
        try:
            data: bytes = self._recv(size)
        except self._not_now as exc:
            raise BlockingIOError from exc
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Write, and return how many bytes were taken. Raises BlockingIOError when none can be."""
        try:
            size: int = self._send(data)
        except self._not_now as exc:
            raise BlockingIOError from exc
        return size


def tune(stream: Any) -> Any:
    """Make a socket fit for one small request after another, and return it, or what reads and writes it."""
    if hasattr(stream, "setblocking"):
        stream.setblocking(False)
    if isinstance(stream, socket.socket) and stream.family in (socket.AF_INET, socket.AF_INET6):
        # A request is one write: there is nothing to wait for that would fill the segment.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Encrypted(stream) if hasattr(stream, "do_handshake") else stream


def is_device(address: Address) -> bool:
    """Whether the address is a character device, as a virtio-serial port is in a guest."""
    if not isinstance(address, VirtioSerial):
        return False
    try:
        return stat.S_ISCHR(Path(address.path).stat().st_mode)
    except OSError:
        return False


def preambles(address: Address) -> Iterator[tuple[Preamble, float]]:
    """Yield the preambles to try on a fresh stream, each with the seconds to wait for it. Most need none.

    The stream stays the same from try to try; a try that is followed by another was only too early. Raises
    TimeoutError when there is nothing left to try.
    """
    if isinstance(address, HybridVsock):
        yield HybridVsockPreamble(address.port), HYBRID_VSOCK_PATIENCE
        raise TimeoutError
    while isinstance(address, VirtioSerial):
        yield ResyncPreamble(secrets.token_hex(8)), RESYNC_PATIENCE
