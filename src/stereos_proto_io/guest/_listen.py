"""Where a guest listens, made ready for all three servers: sockets that are bound, devices that are open."""

from __future__ import annotations

import errno
import logging
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import attrs

from stereos_proto_io.addresses import Address, check_address
from stereos_proto_io.driver._device import Device

_LOG: Final = logging.getLogger("stereos_proto_io.guest")

#: What Linux takes at most, and what thousands of hosts that come at once need.
BACKLOG: Final = 4096

#: The value of SO_LINGER that makes `close` a reset.
_RESET: Final = struct.pack("ii", 1, 0)


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
    #: Whether it could not be listened on when that was last tried, after a reboot or a time of refusing.
    missed: bool = attrs.field(init=False, default=False)
    #: The absolute path of the socket file.
    _path: str = attrs.field(init=False, default="")
    #: Its device and inode.
    _file: tuple[int, int] | None = attrs.field(init=False, default=None)
    _open_device: Device | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.boundless = not self.address.has_connections
        self.ports = self.address.hybrid_ports
        self.device = self.address.device

    def bind(self) -> None:
        """Take the address, again after `close`. Raises OSError when that may not be had, ValueError when a guest
        cannot listen on it.

        The file of a unix socket that is not served any more is replaced.
        """
        if self.device:
            self._open_device = Device(self.device)
            return
        family, target = self.address.listeners()[0]
        self.sock = _bind_unix(self.address.socket_file) if self.address.socket_file else _bound(family, target)
        if self.address.socket_file:
            # The program may change its folder before the file is removed.
            self._path = str(Path(self.address.socket_file).absolute())
            self._file = _identity(self._path)
        self.address = self.address.bound(self.sock)

    @property
    def is_bound(self) -> bool:
        """Whether the address is taken."""
        return self.sock is not None or self._open_device is not None

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
        self.sock.close()
        self.sock = None
        # Another guest may have taken the path meanwhile, whose file this is not to remove.
        if self._file is not None and self._file == _identity(self._path):
            try:
                Path(self._path).unlink(missing_ok=True)
            except OSError as exc:
                _LOG.warning("the socket file %s cannot be removed: %s", self._path, exc)


def bind_all(addresses: Address | Sequence[Address]) -> list[Endpoint]:
    """Bind every address, or none of them; return their endpoints.

    Raises OSError when an address is in use or may not be had, ValueError when a guest cannot listen on it, TypeError
    when it is no `Address`.
    """
    several = [addresses] if isinstance(addresses, (Address, str)) else addresses
    endpoints = [Endpoint(check_address(address)) for address in several]
    if not endpoints:
        raise ValueError("a guest needs an address to listen on")
    with ExitStack() as undo:
        for endpoint in endpoints:
            undo.callback(endpoint.close)
            endpoint.bind()
        undo.pop_all()
    return endpoints


def reset_on_close(sock: Any) -> None:
    """Let closing `sock` be a reset, where that can be had: Python sets only integer options on AF_VSOCK sockets."""
    with suppress(OSError, TypeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _bound(family: int, target: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _bind_unix(path: str) -> socket.socket:
    try:
        return _bound(socket.AF_UNIX, path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
    Path(path).unlink()
    return _bound(socket.AF_UNIX, path)


def _is_stale(path: str) -> bool:
    """Whether `path` is a socket that no process has bound."""
    if not stat.S_ISSOCK(Path(path).stat().st_mode):
        return False
    # The probe has another socket type: connecting to a bound socket then fails with EPROTOTYPE, whether it listens or
    # not, and its owner does not notice. A stream socket would be refused, too, if the guest has bound the path but
    # does not listen yet.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED
