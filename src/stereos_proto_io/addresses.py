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

Each address class defines what to connect to, which bytes come before the protocol, and whether the stream has
connections. Clients, servers and the command line call its methods and never test its type, so a new transport is one
subclass of `Address`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import quote, unquote

import attrs

from stereos_proto import GUEST_CID, GUEST_PORT, HybridVsockPreamble, Preamble, ResyncPreamble

from ._old_names import OldNames, old_name

__all__ = [
    "HYBRID_VSOCK_PATIENCE",
    "MAX_UNIX_PATH",
    "RESYNC_MAX_PATIENCE",
    "RESYNC_PATIENCE",
    "SCHEMES",
    "TCP",
    "Address",
    "Dial",
    "HybridVsock",
    "UnixSocket",
    "VirtioSerial",
    "Vsock",
    "parse_address",
]

#: Bytes that a unix socket's path may have: the size of `sun_path` less its closing NUL.
MAX_UNIX_PATH: Final = 103 if sys.platform == "darwin" else 107

#: Seconds after which a hybrid-vsock host that does not answer CONNECT is given up (§8).
HYBRID_VSOCK_PATIENCE: Final = 5.0

#: Seconds after which a resynchronisation is first repeated: what was written before the guest opened its port may
#: be lost (§9). The wait doubles each time, for guests that answer later than that, up to `RESYNC_MAX_PATIENCE`.
RESYNC_PATIENCE: Final = 1.0

#: Seconds after which a resynchronisation is repeated at the latest.
RESYNC_MAX_PATIENCE: Final = 4.0

_U32_MAX: Final = 2**32 - 1

#: A socket family and the address to hand to `connect`.
Attempt = tuple[int, Any]


class Address:
    """Where a guest is reached (§8). The base of all addresses; subclass it for a transport of your own.

    A subclass is an immutable value with a `__str__`. Give it a `scheme` and a `parse` to make it readable by
    `parse_address`, and either `attempts` (sockets to connect) or `open` (a stream that is connected already).
    """

    __slots__ = ()

    #: What stands before `://` in its text; "" where it has no text that can be read back.
    scheme: ClassVar[str] = ""

    #: Whether a connection has a beginning and an end that the guest sees. A serial port has none (§9).
    has_connections: ClassVar[bool] = True

    #: Whether our direction can be ended while the guest's goes on (`shutdown(SHUT_WR)`).
    can_half_close: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.scheme:
            # A class of attrs with slots is made twice; the second one is the one to keep.
            SCHEMES[cls.scheme] = cls

    @classmethod
    def parse(cls, rest: str) -> Self:  # noqa: ARG003
        """Return the address whose text is `rest`, without the scheme. Raises ValueError."""
        raise ValueError(f"{cls.__name__} cannot be written as text")

    def name(self) -> tuple[str, int] | None:
        """Return the host and port to look up before `attempts`; None where there is nothing to look up."""
        return None

    def attempts(self, found: Iterable[Attempt] = ()) -> list[Attempt]:
        """Return what to connect to, in the order in which to try. `found` is what the look-up of `name` gave.

        Raises OSError where this system cannot connect to such an address at all.
        """
        return list(found)

    def open(self) -> Any:
        """Return a stream that is connected already, or an awaitable of one; None: connect to the `attempts`."""
        return None

    def preambles(self) -> Iterator[tuple[Preamble, float]]:
        """Yield the preambles to try on a fresh stream, each with the seconds to wait for it. Most need none.

        The stream stays the same from try to try. Raises TimeoutError when there is nothing left to try.
        """
        return iter(())

    def fault(self) -> str:
        """Return what is wrong with the place itself, such as a path that is no socket; "" if nothing is."""
        return ""

    def listeners(self) -> list[Attempt]:
        """Return what a guest binds to, in the order in which to try. Raises OSError, ValueError."""
        raise ValueError(f"a guest cannot listen on {self}")

    def bound(self, _sock: socket.socket) -> Address:
        """Return the address at which `_sock`, bound to one of `listeners`, is reached: port 0 becomes the real one."""
        return self

    @property
    def socket_file(self) -> str:
        """The path of the socket file; "" where there is none."""
        return ""

    @property
    def device(self) -> str:
        """The path of the character device that stands there now; "" where there is none."""
        return ""

    @property
    def hybrid_ports(self) -> frozenset[int] | None:
        """The ports that a hybrid-vsock handshake may ask for; None where there is no such handshake (§8)."""
        return None


#: The classes that `parse_address` knows, by scheme.
SCHEMES: Final[dict[str, type[Address]]] = {}


def given(address: Address, stream: Any) -> Any:
    """Return `stream`, which the function of a `Dial` gave. Raises TypeError for None: it has no `return`."""
    if stream is None:
        raise TypeError(f"the function of {address} returned None instead of a socket or a stream")
    return stream


def check_address(address: Any) -> Address:
    """Return `address`. Raises TypeError when it is no `Address`, such as the text of one."""
    if not isinstance(address, Address):
        raise TypeError(
            f"an address such as TCP('127.0.0.1') is needed, not {type(address).__name__}; "
            "parse_address makes one of text"
        )
    return address


def _check_text(text: Any, taker: str, example: str) -> str:
    """Return `text`. Raises TypeError when it is no string, such as the None of a variable that is not set."""
    if not isinstance(text, str):
        raise TypeError(f"{taker} takes text such as {example!r}, not {type(text).__name__}")
    return text


def interleaved(found: Iterable[Attempt]) -> list[Attempt]:
    """Return `found` with the socket families taking turns, in the order of the first of each (RFC 8305 §4)."""
    families: dict[int, list[Attempt]] = {}
    for attempt in found:
        families.setdefault(attempt[0], []).append(attempt)
    longest = max(map(len, families.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in families.values() if turn < len(queue)]


def _whole_number(low: int, high: int) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(address: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(
                f"{type(address).__name__}: {attribute.name} must be a whole number from {low} to {high}, not {value!r}"
            )

    return check


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def _readings(host: str) -> set[str]:
    """The host as written, and in the forms that name resolution reads it: to that, a full-width digit is a digit."""
    if host.isascii():
        return {host}
    import unicodedata  # noqa: PLC0415  (few names need it)

    found = {host, unicodedata.normalize("NFKC", host).replace("\u3002", ".")}
    with suppress(UnicodeError):
        # What the standard library itself does with a name. It also leaves out characters that have no width.
        found.add(host.encode("idna").decode())
    return found


def _host(_address: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
    readings = _readings(value) if isinstance(value, str) else {""}
    # The only printable blank is " ".
    if any(not each or not each.isprintable() or set(each) & set(" /[]@?#") for each in readings):
        raise ValueError(f"TCP: host must be a name or an IP address, not {value!r}")
    if _is_ip(value):
        return
    for each in readings:
        if ":" in each:
            raise ValueError(f"TCP: {value!r} is no IPv6 address; pass the port as a separate argument")
        # The system would complete "1.2.3" and "0x7f.1" to addresses that were not meant.
        if _NUMBER.fullmatch(each.rstrip(".").rpartition(".")[2]):
            raise ValueError(f"TCP: {value!r} is no IP address: it needs four numbers from 0 to 255")


def _text(path: str | os.PathLike[str]) -> str:
    try:
        text = os.fspath(path)  # not `str`, which would accept None
    except TypeError:
        raise TypeError(f"a path must be a string or a path object, not {type(path).__name__}") from None
    with suppress(AttributeError, UnicodeError):  # the validator says what is wrong with it
        # One text per file: surrogates may stand for single bytes that are valid UTF-8 together.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text


def _label(_address: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"Dial: label must be a string, not {type(value).__name__}")


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
            f"use a shorter path, or a relative one: {value}"
        )


@attrs.frozen
class TCP(Address):
    """TCP. QEMU's `hostfwd` accepts before the guest listens: "connected" does not mean "there" (§8).

    `port` is 0 to 65535; 0 is for listening only, and lets the system choose.
    """

    scheme = "tcp"

    host: str = attrs.field(validator=_host)
    port: int = attrs.field(default=GUEST_PORT, validator=_whole_number(0, 65535))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """Read `HOST:PORT`. Raises ValueError."""
        # Not urlsplit, which puts the host into small letters and drops tabs and newlines.
        found = _HOST_AND_PORT.fullmatch(_check_text(rest, "TCP.parse", "127.0.0.1:1024").removesuffix("/"))
        if found is None:
            raise ValueError(
                "only HOST:PORT may follow tcp://, and an IPv6 address stands in brackets: tcp://[::1]:1024"
            )
        address, name, port = found.groups("")
        return cls(address or name, _number(port, GUEST_PORT))

    def name(self) -> tuple[str, int]:
        """Return the host and port; numeric ones are "found" without asking any server."""
        return self.host, self.port

    def fault(self) -> str:
        """Return that the port is for listening only, where it is 0."""
        return "" if self.port else "port 0 is for listening only"

    def attempts(self, found: Iterable[Attempt] = ()) -> list[Attempt]:
        """Return the addresses that were found, families taking turns."""
        return interleaved(found)

    def listeners(self) -> list[Attempt]:
        """Return the addresses of the host."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [(family, target) for family, _, _, _, target in found]

    def bound(self, sock: socket.socket) -> TCP:
        """Return the address with the port that the system chose."""
        return TCP(self.host, sock.getsockname()[1])


@attrs.frozen
class Vsock(Address):
    """AF_VSOCK, on Linux (§8). `cid` and `port` are 0 to 4294967295."""

    scheme = "vsock"

    cid: int = attrs.field(default=GUEST_CID, validator=_whole_number(0, _U32_MAX))
    port: int = attrs.field(default=GUEST_PORT, validator=_whole_number(0, _U32_MAX))

    def __str__(self) -> str:
        return f"vsock://{self.cid}:{self.port}"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """Read `CID:PORT`. Raises ValueError."""
        cid, _, port = _check_text(rest, "Vsock.parse", "3:1024").removesuffix("/").partition(":")
        return cls(_number(cid, GUEST_CID), _number(port, GUEST_PORT))

    def attempts(self, found: Iterable[Attempt] = ()) -> list[Attempt]:  # noqa: ARG002
        """Return the one place. Raises OSError where this Python has no AF_VSOCK."""
        return [(_family("AF_VSOCK"), (self.cid, self.port))]

    def listeners(self) -> list[Attempt]:
        """Return the port on any CID of this machine: the CID in an address is what the *host* calls the guest."""
        return [(_family("AF_VSOCK"), (_VMADDR_CID_ANY, self.port))]


#: Any context id of this machine.
_VMADDR_CID_ANY: Final = 2**32 - 1


def _family(name: str) -> int:
    family: int | None = getattr(socket, name, None)
    if family is None:
        raise OSError(errno.EAFNOSUPPORT, _NO_FAMILY.format(name))
    return family


_NO_FAMILY: Final = (
    "this Python has no {}, which only some systems have; use the hypervisor's unix socket or TCP forwarding instead"
)


@attrs.frozen
class _UnixAddress(Address):
    """Base class of addresses that are the path of a unix socket."""

    path: str = attrs.field(converter=_text, validator=_path)

    def attempts(self, found: Iterable[Attempt] = ()) -> list[Attempt]:  # noqa: ARG002
        """Return the path. Raises OSError where this Python has no AF_UNIX."""
        return [(_family("AF_UNIX"), _file(self.path))]

    def fault(self) -> str:
        """Return a sentence if the path exists and is not a socket; else ""."""
        try:
            mode = Path(_file(self.path)).stat().st_mode
        except (OSError, ValueError):
            return ""
        if stat.S_ISSOCK(mode):
            return ""
        return f"{self.path} is a {'directory' if stat.S_ISDIR(mode) else 'file'}, not a socket"

    def listeners(self) -> list[Attempt]:
        """Return the path."""
        return self.attempts()

    @property
    def socket_file(self) -> str:
        """The path of the socket file."""
        return _file(self.path)


@attrs.frozen
class UnixSocket(_UnixAddress):
    """A unix socket that leads straight to the guest's port (libkrun, krunkit, vfkit, socat; §8)."""

    scheme = "unix"

    def __str__(self) -> str:
        return f"unix://{_quoted(self.path)}"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """Read a path. Raises ValueError."""
        return cls(_unquoted(_check_text(rest, "UnixSocket.parse", "/run/vm.sock")))


@attrs.frozen
class VirtioSerial(_UnixAddress):
    """A virtio-serial port: on the host the unix socket of QEMU's chardev, in the guest a device (§8, §9).

    The stream has no connections, so a host resynchronises before its first request.
    """

    scheme = "serial"
    has_connections = False
    can_half_close = False

    def __str__(self) -> str:
        return f"serial://{_quoted(self.path)}"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """Read a path. Raises ValueError."""
        return cls(_unquoted(_check_text(rest, "VirtioSerial.parse", "/run/vm.sock")))

    def preambles(self) -> Iterator[tuple[Preamble, float]]:
        """Yield resynchronisations, each with a nonce of its own, without end (§9).

        Only the ack of the last one counts, so the waits grow: a guest may take longer than the first one to answer.
        """
        patience = RESYNC_PATIENCE
        while True:
            yield ResyncPreamble(os.urandom(8).hex()), patience
            patience = min(patience * 2, RESYNC_MAX_PATIENCE)

    @property
    def device(self) -> str:
        """The path, where a character device stands there now."""
        try:
            return _file(self.path) if stat.S_ISCHR(Path(_file(self.path)).stat().st_mode) else ""
        except (OSError, ValueError):
            return ""

    def fault(self) -> str:
        """Return a sentence if the path exists and is neither a socket nor a device; else ""."""
        return "" if self.device else _UnixAddress.fault(self)

    @property
    def socket_file(self) -> str:
        """The path of the socket file; "" where a device stands there, which is not a socket."""
        return "" if self.device else _file(self.path)


@attrs.frozen
class HybridVsock(_UnixAddress):
    """The unix socket of Firecracker's kind of vsock: CONNECT, OK, then the stream (§8)."""

    scheme = "hvsock"
    can_half_close = False

    port: int = attrs.field(default=GUEST_PORT, validator=_whole_number(0, _U32_MAX))

    def __str__(self) -> str:
        return f"hvsock://{_quoted(self.path)}:{self.port}"

    @classmethod
    def parse(cls, rest: str) -> Self:
        """Read `PATH:PORT`. Raises ValueError."""
        path, colon, port = _check_text(rest, "HybridVsock.parse", "/run/vm.sock:1024").rpartition(":")
        if not (colon and port.isascii() and port.isdigit()):
            path, port = rest, ""
        return cls(_unquoted(path), _number(port, GUEST_PORT))

    def preambles(self) -> Iterator[tuple[Preamble, float]]:
        """Yield the handshake, once."""
        yield HybridVsockPreamble(self.port), HYBRID_VSOCK_PATIENCE
        raise TimeoutError("no answer to CONNECT")

    @property
    def hybrid_ports(self) -> frozenset[int]:
        """The port."""
        return frozenset({self.port})


@attrs.frozen
class Dial(Address):
    """A connect function of yours (§8): `function()` returns a connected socket or stream, or an awaitable of one.

    `label` is what errors and logs call it. The driver says what kinds of stream it takes; all of them take a
    socket of the standard library, and all but asyncio's an `ssl.SSLSocket` (there, open a stream with `ssl=`).
    """

    function: Callable[[], Any] = attrs.field(validator=attrs.validators.is_callable(), repr=False)
    label: str = attrs.field(default="dial", validator=_label)

    def __str__(self) -> str:
        return f"dial://{self.label}"

    def open(self) -> Any:
        """Call the function. Raises TypeError when it returns None."""
        return given(self, self.function())

    def listeners(self) -> list[Attempt]:
        """Raise ValueError."""
        raise ValueError(f"a guest cannot listen on {self}: a Dial can only connect")


def _file(path: str) -> str:
    """The name that calls of the system take for `path`, whose bytes are UTF-8 (§8).

    It is another one where Python reads file names in another encoding, such as ASCII.
    """
    return os.fsdecode(path.encode("utf-8", "surrogateescape"))


def _quoted(path: str) -> str:
    return quote(path, safe="/~@+,=:", errors="surrogateescape")


def _unquoted(path: str) -> str:
    return unquote(path, errors="surrogateescape")


def _number(digits: str, default: int) -> int:
    if not digits:
        return default
    # Python limits the digits that it reads, too, but says so in other words.
    if not (digits.isascii() and digits.isdigit() and len(digits) < 100):
        raise ValueError(f"{digits!r} is no number")
    return int(digits)


_HOST_AND_PORT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:/]*))?")


def parse_address(text: str) -> Address:
    """Return the address that `str` writes as `text` (§8). A port that is left out is 1024, a CID 3.

    Raises ValueError, with the forms that are understood, when there is no such address; TypeError when `text` is
    no string. A `Dial` cannot be written as text.
    """
    scheme, mark, rest = _check_text(text, "parse_address", "tcp://127.0.0.1:1024").partition("://")
    cls = SCHEMES.get(scheme.lower())
    if not mark or cls is None:
        raise ValueError(
            f"{text!r} is no guest address; one looks like tcp://HOST:PORT, vsock://CID:PORT, unix:///PATH, "
            "serial:///PATH or hvsock:///PATH:PORT"
        )
    try:
        return cls.parse(rest)
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None


_OLD_NAMES: Final[OldNames] = {"U32_MAX": (lambda: _U32_MAX, "write 2**32 - 1")}

if not TYPE_CHECKING:  # a checker is to know every name

    def __getattr__(name: str) -> object:
        return old_name(__name__, name, _OLD_NAMES)
