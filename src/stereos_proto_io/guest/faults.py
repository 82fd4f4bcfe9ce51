"""What can go wrong with a guest, as data: give a list of these to a simulator or a server.

A fault has a text form, for command lines: `NAME[:ARGUMENT][@TYPE][#NUMBER]`. `parse_fault` reads it and `str`
writes it.

* `late:2s@ping` - every reply to a `ping` leaves 2 seconds late
* `drop@mount#2` - the second `mount` gets no reply
* `reset#1` - the first connection is accepted and reset
* `garbage#3` - a line of garbage comes before the reply to the third request, of whatever type

Numbers count from 1 over the whole life of the guest, all its connections together: requests for a fault of a
request, connections for a fault of a connection. A line that could not be read is a request of the type "".
Faults that meet at one request apply in the order of the list.

A fault is only data. `_faulty_session` carries faults out, around a session that knows nothing of them.
"""

from __future__ import annotations

import difflib
import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

import attrs

from stereos_proto import Request

from ._dialects import FORK_TYPES

__all__ = [
    "FAULTS",
    "Blank",
    "CloseAfter",
    "ConnectionFault",
    "Cut",
    "Delay",
    "Drop",
    "Duplicate",
    "Fail",
    "Fault",
    "FaultPlan",
    "Garbage",
    "GuestFault",
    "Half",
    "HangUp",
    "Late",
    "NeverReady",
    "Omit",
    "OverLong",
    "PowerLoss",
    "Push",
    "Refuse",
    "RequestFault",
    "Reset",
    "Restart",
    "SlowBoot",
    "Stall",
    "Swap",
    "WrongType",
    "parse_fault",
]

#: What stands unescaped in a fault's text: all but its own marks.
_PLAIN: Final = " !\"$&'()*+,-./:;<=>?[]^_`{|}~"


@attrs.frozen(kw_only=True)
class Fault:
    """Base of all faults. `type` and `number` say where it strikes; None is everywhere."""

    #: The fault's name in its text form.
    name: ClassVar[str] = ""
    #: The type of the requests that it strikes.
    type: str | None = None
    #: Which of them it strikes, counted from 1.
    number: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))

    def __str__(self) -> str:
        """The text that `parse_fault` reads."""
        values = [getattr(self, field.name) for field in _arguments(self.__class__)]
        defaults = [field.default for field in _arguments(self.__class__)]
        while values and values[-1] == defaults[-1]:
            del values[-1], defaults[-1]
        argument = ":".join(_written(value) for value in values)
        return (
            self.name
            + (f":{quote(argument, safe=_PLAIN)}" if argument else "")
            + ("" if self.type is None else f"@{quote(self.type, safe=_PLAIN)}")
            + ("" if self.number is None else f"#{self.number}")
        )


class GuestFault(Fault):
    """A fault of the guest as a whole. It strikes when the guest starts."""


class ConnectionFault(Fault):
    """A fault of a connection. `number` counts connections."""


class RequestFault(Fault):
    """A fault around one request."""


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{text!r} is no time; one looks like 2s or 0.25s")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number of bytes")
    return int(text)


def _not_negative(_fault: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value!r}")


#: Key of a field's metadata: the function that reads its text.
_READ: Final = "read"


def _argument(read: Callable[[str], Any] = str, default: Any = attrs.NOTHING) -> Any:
    """A field that stands in the fault's text, after the name."""
    numeric = read is not str
    return attrs.field(
        default=default,
        metadata={_READ: read},
        converter=float if read is _seconds else None,
        validator=_not_negative if numeric else None,
    )


def _arguments(cls: type[Fault]) -> list[attrs.Attribute[Any]]:
    return [field for field in attrs.fields(cls) if _READ in field.metadata]


def _written(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}s" if float(f"{value:g}") == value else f"{value!r}s"


# ------------------------------------------------------------------------------------------- of the guest


@attrs.frozen(kw_only=True)
class Refuse(GuestFault):
    """`refuse:SECONDS` - the guest does not listen for so long: connections are refused."""

    name = "refuse"
    seconds: float = _argument(_seconds)


@attrs.frozen(kw_only=True)
class SlowBoot(GuestFault):
    """`slow-boot:SECONDS` - the guest says `booting` for so long."""

    name = "slow-boot"
    seconds: float = _argument(_seconds)


class NeverReady(GuestFault):
    """`never-ready` - the guest says `booting` for ever."""

    name = "never-ready"


# -------------------------------------------------------------------------------------- of the connection


class Reset(ConnectionFault):
    """`reset` - the connection is accepted and reset."""

    name = "reset"


class HangUp(ConnectionFault):
    """`hang-up` - the connection is accepted and closed without a byte."""

    name = "hang-up"


@attrs.frozen(kw_only=True)
class Cut(ConnectionFault):
    """`cut:BYTES` - the connection is closed after the guest has written so many bytes on it."""

    name = "cut"
    size: int = _argument(_count)


# ----------------------------------------------------------------------------------------- of the request


@attrs.frozen(kw_only=True)
class Delay(RequestFault):
    """`delay:SECONDS` - the request is carried out, and answered, so much later. What comes after it waits."""

    name = "delay"
    seconds: float = _argument(_seconds)


@attrs.frozen(kw_only=True)
class Late(RequestFault):
    """`late:SECONDS` - the request is carried out at once; its reply, and all behind it, leave so much later."""

    name = "late"
    seconds: float = _argument(_seconds)


class Stall(RequestFault):
    """`stall` - the request is carried out; no byte comes any more. The connection stays open."""

    name = "stall"


class Drop(RequestFault):
    """`drop` - the request is carried out and never answered; the next one is."""

    name = "drop"


class Duplicate(RequestFault):
    """`duplicate` - the reply comes twice."""

    name = "duplicate"


class Swap(RequestFault):
    """`swap` - the reply comes after the next one."""

    name = "swap"


@attrs.frozen(kw_only=True)
class Push(RequestFault):
    """`push:STATE[:MESSAGE]` - a lifecycle notification comes between the request and its reply."""

    name = "push"
    state: str = _argument(default="ready")
    message: str = _argument(default="")


class Half(RequestFault):
    """`half` - half the reply's line, then silence. The connection stays open."""

    name = "half"


class Garbage(RequestFault):
    """`garbage` - a line that is no JSON comes before the reply."""

    name = "garbage"


class Blank(RequestFault):
    """`blank` - empty lines come before the reply."""

    name = "blank"


class OverLong(RequestFault):
    """`over-long` - a line longer than 1 MiB comes instead of the reply (§1)."""

    name = "over-long"


class WrongType(RequestFault):
    """`wrong-type` - a reply comes that cannot answer the request."""

    name = "wrong-type"


@attrs.frozen(kw_only=True)
class Fail(RequestFault):
    """`fail:TEXT` - the host is told that the request failed, with that text. It was carried out."""

    name = "fail"
    text: str = _argument(default="exit status 32")


@attrs.frozen(kw_only=True)
class Omit(RequestFault):
    """`omit:MEMBER` - every member of that name is left out of the reply.

    `omit:restarts@get_health` is an old guest, whose agents have no `restarts` (§2).
    """

    name = "omit"
    member: str = _argument()


class CloseAfter(RequestFault):
    """`close` - the connection is closed after the reply."""

    name = "close"


class PowerLoss(RequestFault):
    """`power-off` - the guest loses its power after the reply."""

    name = "power-off"


@attrs.frozen(kw_only=True)
class Restart(RequestFault):
    """`reboot[:SECONDS]` - the guest reboots after the reply, and listens again so much later."""

    name = "reboot"
    seconds: float = _argument(_seconds, default=0.0)


#: Every fault by its name.
FAULTS: Final[dict[str, type[Fault]]] = {
    cls.name: cls
    for cls in (
        Refuse,
        SlowBoot,
        NeverReady,
        Reset,
        HangUp,
        Cut,
        Delay,
        Late,
        Stall,
        Drop,
        Duplicate,
        Swap,
        Push,
        Half,
        Garbage,
        Blank,
        OverLong,
        WrongType,
        Fail,
        Omit,
        CloseAfter,
        PowerLoss,
        Restart,
    )
}


def parse_fault(text: str) -> Fault:
    """Return the fault that `str` writes as `text`. `%40`, `%23` and `%25` stand for `@`, `#` and `%`.

    Raises ValueError, which names the faults that there are, when `text` is none.
    """
    rest, hash_, number = text.rpartition("#")
    rest, at, type_ = (rest if hash_ else text).rpartition("@")
    name, _, argument = (rest if at else type_).partition(":")
    cls = FAULTS.get(name)
    if cls is None:
        raise ValueError(f"{text!r} is no fault; there are {', '.join(FAULTS)}, as in late:2s@ping or drop@mount#2")
    if (issubclass(cls, GuestFault) and (at or hash_)) or (issubclass(cls, ConnectionFault) and at):
        raise ValueError(f"{text!r}: {name} does not strike at a request")
    if hash_ and not (number.isascii() and number.isdigit()):
        raise ValueError(f"{text!r}: {number!r} is no number")
    try:
        return cls(
            type=unquote(type_) if at else None,
            number=int(number) if hash_ else None,
            **_read_arguments(cls, unquote(argument)),
        )
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None


def _read_arguments(cls: type[Fault], text: str) -> dict[str, Any]:
    fields = _arguments(cls)
    if text and not fields:
        raise ValueError("it takes no argument")
    # The last argument may have colons of its own.
    parts = text.split(":", len(fields) - 1) if fields else []
    given = {field.name: field.metadata[_READ](part) for field, part in zip(fields, parts, strict=False) if part}
    missing = [field.name for field in fields if field.default is attrs.NOTHING and field.name not in given]
    if missing:
        raise ValueError(f"it needs {' and '.join(missing)}: {(cls.__doc__ or '').partition(' - ')[0]}")
    return given


class FaultPlan:
    """The faults of one guest, and how far it has counted. All its sessions share it; threads may."""

    def __init__(self, faults: Iterable[Fault | str] = (), *, types: Collection[str] = FORK_TYPES) -> None:
        """`faults` are faults, or their texts. `types` are the request types that the guest knows: a fault of a type
        that looks like one of them misspelt gets a warning, since it would never strike.
        """
        self.faults: tuple[Fault, ...] = tuple(
            parse_fault(fault) if isinstance(fault, str) else fault for fault in faults
        )
        for fault in self.faults:
            if fault.type and fault.type not in types:
                _warn_of_type(fault, fault.type, types)
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._connections = 0

    def __repr__(self) -> str:
        return f"FaultPlan({[str(fault) for fault in self.faults]})"

    @property
    def refuse_time(self) -> float:
        """Seconds for which the guest does not listen."""
        return math.fsum(fault.seconds for fault in self.faults if isinstance(fault, Refuse))

    @property
    def boot_time(self) -> float:
        """Seconds that booting takes longer; `math.inf` for ever."""
        if any(isinstance(fault, NeverReady) for fault in self.faults):
            return math.inf
        return math.fsum(fault.seconds for fault in self.faults if isinstance(fault, SlowBoot))

    def on_connection(self) -> tuple[ConnectionFault, ...]:
        """Count a connection, and return the faults that strike it."""
        with self._lock:
            self._connections += 1
            number = self._connections
        return tuple(
            fault for fault in self.faults if isinstance(fault, ConnectionFault) and fault.number in (None, number)
        )

    def on_request(self, request: Request) -> tuple[RequestFault, ...]:
        """Count a request, and return the faults that strike it."""
        if not self.faults:
            return ()
        with self._lock:
            self._requests[request.type] += 1
            of_type, of_all = self._requests[request.type], self._requests.total()
        return tuple(
            fault
            for fault in self.faults
            if isinstance(fault, RequestFault)
            and fault.type in (None, request.type)
            and fault.number in (None, of_all if fault.type is None else of_type)
        )


def _warn_of_type(fault: Fault, type_: str, types: Collection[str]) -> None:
    """Warn of a type that looks misspelt. Others are fine: the set is open, and a host may send any (§2)."""
    for close in difflib.get_close_matches(type_, types, 1):
        warnings.warn(
            f"the fault {str(fault)!r} strikes at requests of the type {type_!r}, which the guest does not know: "
            f"did you mean {str(close)!r}?",
            stacklevel=4,
        )
