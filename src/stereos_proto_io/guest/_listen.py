"""Where a guest listens, made ready for all three servers: sockets that are bound, devices that are open."""

from __future__ import annotations

import errno
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import attrs

from stereos_proto_io.addresses import TCP, Address, Dial, HybridVsock, UnixSocket, VirtioSerial, Vsock
from stereos_proto_io.driver._device import Device

#: What Linux takes at most, and what thousands of hosts that come at once need.
BACKLOG: Final = 4096

#: The value of SO_LINGER that makes `close` a reset.
RESET: Final = struct.pack("ii", 1, 0)

#: Any context id of this machine (VMADDR_CID_ANY). The CID in an address is what the *host* calls the guest, so
#: a guest that binds it would have to know it; it does not.
_ANY_CID: Final = 2**32 - 1
_AF_VSOCK: Final = getattr(socket, "AF_VSOCK", None)


@attrs.define(eq=False)
class Endpoint:
    """An address that is bound, and does not listen yet.

    `address` is the one bound, port 0 resolved. `sock` accepts connections; None for a device, whose path is
    in `device` and which is opened instead. `boundless`: the stream has no connections (§8). `ports` are those of
    a hybrid-vsock muxer.
    """

    address: Address
    boundless: bool = attrs.field(init=False)
    ports: frozenset[int] | None = attrs.field(init=False)
    device: str = attrs.field(init=False, default="")
    sock: socket.socket | None = attrs.field(init=False, default=None)
    #: Whether it could not be bound when it was last tried, after a reboot.
    missed: bool = attrs.field(init=False, default=False)
    _open_device: Device | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        address = self.address
        if isinstance(address, Dial):
            raise ValueError(f"a guest cannot listen on {address}: a dial goes one way")  # noqa: TRY004
        self.boundless = isinstance(address, VirtioSerial)
        self.ports = frozenset({address.port}) if isinstance(address, HybridVsock) else None
        if isinstance(address, VirtioSerial) and _is_device(address.path):
            self.device = address.path

    def bind(self) -> None:
        """Take the address, again after `close`. Raises OSError when that may not be had.

        The file of a unix socket that nobody serves any more is replaced.
        """
        if self.device:
            self._open_device = Device(self.device)
        elif isinstance(self.address, TCP):
            self.sock = _bind_tcp(self.address)
            self.address = TCP(self.address.host, self.sock.getsockname()[1])
        elif isinstance(self.address, Vsock):
            self.sock = _bind_vsock(self.address)
        elif not isinstance(self.address, Dial):
            self.sock = _bind_unix(self.address.path)

    @property
    def listener(self) -> socket.socket:
        """The socket that accepts. Raises RuntimeError for a device, which has none."""
        if self.sock is None:
            raise RuntimeError(f"{self.address} has no socket")
        return self.sock

    def take_device(self) -> Device:
        """Return the open device, which is the caller's to close from now on. Raises RuntimeError for a socket."""
        device, self._open_device = self._open_device, None
        if device is None:
            raise RuntimeError(f"{self.address} has no open device")
        return device

    def listen(self) -> None:
        """Accept connections from now on."""
        if self.sock is not None:
            # A chardev of QEMU serves one host at a time, and lets few more wait.
            self.sock.listen(1 if self.boundless else BACKLOG)

    def close(self) -> None:
        """Stop listening, and remove the socket file. Twice is fine."""
        if self._open_device is not None:
            self.take_device().close()
        if self.sock is None:
            return
        if isinstance(self.address, (UnixSocket, HybridVsock, VirtioSerial)):
            Path(self.address.path).unlink(missing_ok=True)
        self.sock.close()
        self.sock = None


def bind_all(addresses: Address | Sequence[Address]) -> list[Endpoint]:
    """Return a bound endpoint for each address; on failure none.

    Raises OSError when an address is in use or may not be had, ValueError when a guest cannot listen on it.
    """
    endpoints = [Endpoint(address) for address in ([addresses] if isinstance(addresses, Address) else addresses)]
    if not endpoints:
        raise ValueError("a guest needs an address to listen on")
    with ExitStack() as undo:
        for endpoint in endpoints:
            undo.callback(endpoint.close)
            endpoint.bind()
        undo.pop_all()
    return endpoints


def _bind_tcp(address: TCP) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return _bound(socket.socket(family, kind, protocol), place)


def _bind_vsock(address: Vsock) -> socket.socket:
    if _AF_VSOCK is None:
        raise OSError(errno.EAFNOSUPPORT, f"this Python has no AF_VSOCK, so nothing can listen on {address}")
    return _bound(socket.socket(_AF_VSOCK, socket.SOCK_STREAM), (_ANY_CID, address.port))


def _bound(sock: socket.socket, place: Any) -> socket.socket:
    try:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    try:
        return _bound(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
    Path(path).unlink()
    return _bound(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)


def _is_stale(path: str) -> bool:
    """Whether `path` is a socket that nobody serves."""
    if not stat.S_ISSOCK(Path(path).stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # One that is served by somebody busy must not make us wait.
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(Path(path).stat().st_mode)
    except FileNotFoundError:
        return False
