"""Where a guest is reached, as plain values (`docs/protocol.md` §8).

`str(address)` is what errors and logs show, and `parse_address` reads it back:

=============================== ============================================================
`tcp://HOST:PORT`               `TCP` (an IPv6 host stands in brackets)
`vsock://CID:PORT`              `Vsock`
`unix:///PATH`                  `UnixSocket`
`serial:///PATH`                `VirtioSerial`: a unix socket on the host, a device in the guest
`hvsock:///PATH:PORT`           `HybridVsock`
=============================== ============================================================

An address is checked when it is made, so a bad one never reaches a socket. Where the operating system would
truncate silently (an AF_VSOCK number over 32 bits, a path over `sun_path`), the check is ours.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, unquote

import attrs

from stereos_proto._constants import GUEST_CID, GUEST_PORT, U32_MAX

#: Bytes that a unix socket's path may have: the size of `sun_path` less its closing NUL.
MAX_UNIX_PATH: Final = 103 if sys.platform == "darwin" else 107


def _whole_number(low: int, high: int) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(address: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(
                f"{type(address).__name__}: {attribute.name} must be a whole number from {low} to {high}, not {value!r}"
            )

    return check


def _host(_address: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
    # What is printable holds no blanks but " ".
    if not isinstance(value, str) or not value or not value.isprintable() or set(value) & set(" /[]@?#"):
        raise ValueError(f"TCP: host must be a name or an IP address, not {value!r}")


def _text(path: str | os.PathLike[str]) -> str:
    # Not str, to which None is a fine name.
    return os.fspath(path)


def _path(address: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
    kind = type(address).__name__
    try:
        size = len(value.encode("utf-8", "surrogateescape"))
    except (AttributeError, UnicodeEncodeError):
        size = 0
    if not size or "\0" in value:
        raise ValueError(f"{kind}: path must be the name of a file, not empty and without a NUL, not {value!r}")
    # A serial port in the guest is a device, which no sun_path limits.
    is_device = isinstance(address, VirtioSerial) and value.startswith("/dev/")
    if size > MAX_UNIX_PATH and not is_device:
        raise ValueError(
            f"{kind}: the path is {size} bytes long, and this system's sockets take {MAX_UNIX_PATH}; "
            f"use a shorter folder, or a relative path: {value}"
        )


@attrs.frozen
class TCP:
    """TCP. QEMU's `hostfwd` accepts before the guest listens: "connected" does not mean "there" (§8).

    `port` is 0 to 65535; 0 is for listening only, and lets the system choose.
    """

    host: str = attrs.field(validator=_host)
    port: int = attrs.field(default=GUEST_PORT, validator=_whole_number(0, 65535))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@attrs.frozen
class Vsock:
    """AF_VSOCK, on Linux (§8). `cid` and `port` are 0 to 4294967295."""

    cid: int = attrs.field(default=GUEST_CID, validator=_whole_number(0, U32_MAX))
    port: int = attrs.field(default=GUEST_PORT, validator=_whole_number(0, U32_MAX))

    def __str__(self) -> str:
        return f"vsock://{self.cid}:{self.port}"


@attrs.frozen
class UnixSocket:
    """A unix socket that leads straight to the guest's port (libkrun, krunkit, vfkit, socat; §8)."""

    path: str = attrs.field(converter=_text, validator=_path)

    def __str__(self) -> str:
        return f"unix://{_quoted(self.path)}"


@attrs.frozen
class VirtioSerial:
    """A virtio-serial port: on the host the unix socket of QEMU's chardev, in the guest a device (§8, §9).

    The stream has no connections, so a host resynchronises before its first request.
    """

    path: str = attrs.field(converter=_text, validator=_path)

    def __str__(self) -> str:
        return f"serial://{_quoted(self.path)}"


@attrs.frozen
class HybridVsock:
    """The unix socket of Firecracker's kind of vsock: CONNECT, OK, then the stream (§8)."""

    path: str = attrs.field(converter=_text, validator=_path)
    port: int = attrs.field(default=GUEST_PORT, validator=_whole_number(0, U32_MAX))

    def __str__(self) -> str:
        return f"hvsock://{_quoted(self.path)}:{self.port}"


@attrs.frozen
class Dial:
    """Your own way to the guest (§8): `function()` returns a connected socket or stream, or an awaitable of one.

    `label` is what errors and logs call it. What kind of stream is wanted is the driver's to say; a socket of
    the standard library fits all three.
    """

    function: Callable[[], Any] = attrs.field(validator=attrs.validators.is_callable(), repr=False)
    label: str = "dial"

    def __str__(self) -> str:
        return f"dial://{self.label}"


Address = TCP | Vsock | UnixSocket | VirtioSerial | HybridVsock | Dial


def _quoted(path: str) -> str:
    return quote(path, safe="/~@+,=:", errors="surrogateescape")


def parse_address(text: str) -> Address:
    """Return the address that `str` writes as `text` (§8). A port that is left out is 1024, a CID 3.

    Raises ValueError, with the forms that are understood, when there is no such address. A `Dial` cannot be
    written as text.
    """
    scheme, mark, rest = text.partition("://")
    parser = _PARSERS.get(scheme.lower())
    if not mark or parser is None:
        raise ValueError(
            f"{text!r} is no guest address; one looks like tcp://HOST:PORT, vsock://CID:PORT, unix:///PATH, "
            "serial:///PATH or hvsock:///PATH:PORT"
        )
    try:
        return parser(rest)
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None


def _tcp(rest: str) -> TCP:
    # Not urlsplit, which puts the host into small letters and drops tabs and newlines.
    found = _HOST_AND_PORT.fullmatch(rest.removesuffix("/"))
    if found is None:
        raise ValueError("only HOST:PORT may follow tcp://, and an IPv6 address stands in brackets: tcp://[::1]:1024")
    address, name, port = found.groups("")
    return TCP(address or name, _number(port, GUEST_PORT))


def _vsock(rest: str) -> Vsock:
    cid, _, port = rest.removesuffix("/").partition(":")
    return Vsock(_number(cid, GUEST_CID), _number(port, GUEST_PORT))


def _hybrid(rest: str) -> HybridVsock:
    path, colon, port = rest.rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        path, port = rest, ""
    return HybridVsock(_unquoted(path), _number(port, GUEST_PORT))


def _number(digits: str, default: int) -> int:
    if not digits:
        return default
    # Python limits the digits that it reads, too, but not in these words.
    if not (digits.isascii() and digits.isdigit() and len(digits) < 100):
        raise ValueError(f"{digits!r} is no number")
    return int(digits)


def _unquoted(path: str) -> str:
    return unquote(path, errors="surrogateescape")


_HOST_AND_PORT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:/]*))?")
_PARSERS: Final[dict[str, Callable[[str], Address]]] = {
    "tcp": _tcp,
    "vsock": _vsock,
    "unix": lambda rest: UnixSocket(_unquoted(rest)),
    "serial": lambda rest: VirtioSerial(_unquoted(rest)),
    "hvsock": _hybrid,
}
