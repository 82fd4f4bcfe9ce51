"""What can go wrong with a guest, as data: give a list of these to a simulator or a server.

A fault has a text form, for command lines: `NAME[:ARGUMENT][@TYPE][#NUMBER]`. `parse_fault` reads it and `str`
writes it; `fault_table` lists all faults.

* `late:2s@ping` - every reply to a `ping` leaves 2 seconds after the `ping` came
* `drop@mount#2` - the second `mount` gets no reply
* `reset#1` - the first connection is accepted and reset
* `garbage#3` - a line of garbage comes before the reply to the third request, of whatever type

Numbers count from 1 over the whole life of the guest, all its connections together: requests for a fault of a
request, connections for a fault of a connection. A line that could not be read is a request of the type "". What a
client asks by itself counts, too: `connect_when_ready` and `wait_ready` send `get_health` until the guest is ready.

Faults that meet at one request all happen, whatever their order in the list. First come those that say what the reply
is (`over-long`, `wrong-type`, `fail`, `deny`), then `omit`, then how much of it is sent (`stall`, `drop`, `half`), what
comes before it or again (`late`, `push`, `garbage`, `blank`, `duplicate`), and what ends after it (`close`,
`power-off`, `reboot`). The order of the list counts among those that come before it or again.

Of faults that exclude each other, the last one of the list happens: what the reply is, how much of it is sent, what
ends after it. The others do not happen there, and neither do faults that change nothing, such as `fail` beside `drop`.
`FaultPlan.unused` are those that have happened nowhere.

In arguments and types, `%40`, `%23` and `%25` stand for `@`, `#` and `%`. A colon ends an argument, but not the last
one of a fault; in the others, `%3A` stands for a colon. An argument counts even when it is empty: `fail:` is a refusal
without a text, and `fail` is one with the default text, "exit status 32".

`deny` and `fail` both answer a request with a refusal. After `deny` the guest has done nothing, as after a refusal of a
real guest. After `fail` it has carried the request out: a `mount` that is sent again is then a second mount.

A fault is only data. `_faulty_session` carries faults out, around a session that knows nothing of them.
"""

from __future__ import annotations

import difflib
import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Final, TypeVar
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
    "Deny",
    "Drop",
    "Duplicate",
    "Fail",
    "Fault",
    "FaultPlan",
    "FaultRow",
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
    "fault_table",
    "parse_fault",
]

#: What stands unescaped in a type, and in the last argument of a fault: all but the marks of a fault's text.
_PLAIN: Final = " !\"$&'()*+,-./:;<=>?[]^_`{|}~"
#: What stands unescaped in the other arguments, which a colon ends.
_PLAIN_BEFORE_COLON: Final = _PLAIN.replace(":", "")


def _is_text(_fault: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, not {type(value).__name__}")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{attribute.name} holds a lone surrogate, which has no UTF-8")


def _whole_from(least: int) -> Callable[[Any, attrs.Attribute[Any], int], None]:
    def check(_fault: Any, attribute: attrs.Attribute[Any], value: int) -> None:
        if isinstance(value, bool) or not (isinstance(value, int) and value >= least):
            raise ValueError(f"{attribute.name} must be a whole number from {least} on, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class Fault:
    """Base of all faults. `type` and `number` say where it strikes; None: at any."""

    #: The fault's name in its text form.
    name: ClassVar[str] = ""
    #: A text that `parse_fault` reads as such a fault.
    example: ClassVar[str] = ""
    #: Which of `type` and `number` it may have.
    _places: ClassVar[frozenset[str]] = frozenset({"type", "number"})
    #: The type of the requests that it strikes.
    type: str | None = attrs.field(default=None, validator=attrs.validators.optional(_is_text))
    #: Which of them it strikes, counted from 1.
    number: int | None = attrs.field(default=None, validator=attrs.validators.optional(_whole_from(1)))

    def __attrs_post_init__(self) -> None:
        """Refuse a place where such a fault cannot strike."""
        given = {place for place in ("type", "number") if getattr(self, place) is not None}
        if "type" in given - self._places:
            raise ValueError(f"{self.name} does not strike at a request")
        if given - self._places:
            raise ValueError(f"{self.name} is of the guest as a whole, and takes no number")

    def __str__(self) -> str:
        """The text that `parse_fault` reads."""
        fields = _arguments(self.__class__)
        values = [getattr(self, field.name) for field in fields]
        count = len(fields)
        while count and values[count - 1] == fields[count - 1].default:
            count -= 1
        safe = [_PLAIN_BEFORE_COLON] * (len(fields) - 1) + [_PLAIN]
        written = [quote(_written(value), safe=plain) for value, plain in zip(values[:count], safe, strict=False)]
        return (
            ":".join([self.name, *written])
            + ("" if self.type is None else f"@{quote(self.type, safe=_PLAIN)}")
            + ("" if self.number is None else f"#{self.number}")
        )


class GuestFault(Fault):
    """A fault of the guest as a whole. It strikes when the guest starts, and has no `type` and no `number`."""

    _places: ClassVar[frozenset[str]] = frozenset()


class ConnectionFault(Fault):
    """A fault of a connection. `number` counts connections. It has no `type`."""

    _places: ClassVar[frozenset[str]] = frozenset({"number"})


class RequestFault(Fault):
    """A fault around one request."""


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{text!r} is not a time; one looks like 2s or 0.25s")
    return seconds


#: The longest time of a fault, 31 years. No runtime waits much longer than 292 years.
_LONGEST: Final = 1_000_000_000


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a number of bytes")
    return int(text)


def _not_negative(_fault: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value!r}")
    if value > _LONGEST:
        raise ValueError(f"{attribute.name} must be at most {_LONGEST}, not {value!r}")


#: Key of a field's metadata: the function that reads its text.
_READ: Final = "read"

#: The function that reads an argument → what checks its value.
_CHECKS: Final[dict[Callable[[str], Any], Callable[..., None]]] = {
    str: _is_text,
    _seconds: _not_negative,
    _count: _whole_from(0),
}


def _argument(read: Callable[[str], Any] = str, default: Any = attrs.NOTHING) -> Any:
    """A field that stands in the fault's text, after the name."""
    return attrs.field(
        default=default,
        metadata={_READ: read},
        converter=float if read is _seconds else None,
        validator=_CHECKS[read],
    )


def _arguments(cls: type[Fault]) -> list[attrs.Attribute[Any]]:
    return [field for field in attrs.fields(cls) if _READ in field.metadata]


#: The function that reads an argument → what stands for the argument in the fault's form; else the field's name.
_LABELS: Final[dict[Callable[[str], Any], str]] = {_seconds: "SECONDS", _count: "BYTES"}


def _form(cls: type[Fault]) -> str:
    """How a fault is written, without its place: `push[:STATE[:MESSAGE]]`."""
    form = ""
    for field in reversed(_arguments(cls)):
        label = f":{_LABELS.get(field.metadata[_READ], field.name.upper())}{form}"
        form = label if field.default is attrs.NOTHING else f"[{label}]"
    return cls.name + form


def _written(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}s" if float(f"{value:g}") == value else f"{value!r}s"


# ------------------------------------------------------------------------------------------- of the guest


@attrs.frozen(kw_only=True)
class Refuse(GuestFault):
    """`refuse:SECONDS` - connections are refused for the first SECONDS."""

    name = "refuse"
    example = "refuse:3s"
    seconds: float = _argument(_seconds)


@attrs.frozen(kw_only=True)
class SlowBoot(GuestFault):
    """`slow-boot:SECONDS` - the guest reports the state `booting` for SECONDS longer.

    A guest that has been up for long enough (`uptime`) has booted, and takes so long at its next reboot.
    """

    name = "slow-boot"
    example = "slow-boot:5s"
    seconds: float = _argument(_seconds)


class NeverReady(GuestFault):
    """`never-ready` - the guest reports the state `booting` for ever."""

    name = "never-ready"
    example = "never-ready"


# -------------------------------------------------------------------------------------- of the connection


class Reset(ConnectionFault):
    """`reset` - the connection is accepted and reset."""

    name = "reset"
    example = "reset#1"


class HangUp(ConnectionFault):
    """`hang-up` - the connection is accepted and closed before a byte is sent."""

    name = "hang-up"
    example = "hang-up#1"


@attrs.frozen(kw_only=True)
class Cut(ConnectionFault):
    """`cut:BYTES` - the connection is closed after the guest has sent so many bytes on it."""

    name = "cut"
    example = "cut:100#1"
    size: int = _argument(_count)


# ----------------------------------------------------------------------------------------- of the request


@attrs.frozen(kw_only=True)
class Delay(RequestFault):
    """`delay:SECONDS` - the request is carried out and answered SECONDS later; the requests after it wait.

    Those that are delayed too wait one after the other, so their times add up.
    """

    name = "delay"
    example = "delay:2s@mount"
    seconds: float = _argument(_seconds)


@attrs.frozen(kw_only=True)
class Late(RequestFault):
    """`late:SECONDS` - the request is carried out at once; its reply leaves SECONDS later, and those after it wait.

    The time counts from the request, so replies to requests that came together leave together, as over a slow line.
    """

    name = "late"
    example = "late:2s@ping"
    seconds: float = _argument(_seconds)


class Stall(RequestFault):
    """`stall` - the request is carried out, and nothing more is sent; the connection stays open.

    `stall@shutdown` is a guest that hangs while it shuts down, and so is `half@shutdown`: it does not power off.
    """

    name = "stall"
    example = "stall@mount#1"


class Drop(RequestFault):
    """`drop` - the request is carried out and never answered; the next request is answered."""

    name = "drop"
    example = "drop@mount#2"


class Duplicate(RequestFault):
    """`duplicate` - the reply is sent twice."""

    name = "duplicate"
    example = "duplicate@ping"


class Swap(RequestFault):
    """`swap` - the reply is sent after the next one, or not at all where none follows.

    With each reply struck, pairs are swapped: the second, the first, the fourth, the third.
    """

    name = "swap"
    example = "swap@mount#1"


@attrs.frozen(kw_only=True)
class Push(RequestFault):
    """`push[:STATE[:MESSAGE]]` - a lifecycle notification is sent between the request and its reply."""

    name = "push"
    example = "push:degraded@ping"
    state: str = _argument(default="ready")
    message: str = _argument(default="")


class Half(RequestFault):
    """`half` - half of the reply's line is sent, and then nothing more; the connection stays open."""

    name = "half"
    example = "half@ping#1"


class Garbage(RequestFault):
    """`garbage` - a line that is not JSON is sent before the reply."""

    name = "garbage"
    example = "garbage#3"


class Blank(RequestFault):
    """`blank` - empty lines are sent before the reply."""

    name = "blank"
    example = "blank@ping"


class OverLong(RequestFault):
    """`over-long` - a line longer than 1 MiB is sent instead of the reply."""

    name = "over-long"
    example = "over-long@ping#1"


class WrongType(RequestFault):
    """`wrong-type` - a reply of a type that cannot answer the request is sent."""

    name = "wrong-type"
    example = "wrong-type@ping#1"


@attrs.frozen(kw_only=True)
class Fail(RequestFault):
    """`fail[:TEXT]` - the request is carried out, but the reply is a refusal with TEXT."""

    name = "fail"
    example = "fail:busy@mount"
    text: str = _argument(default="exit status 32")


@attrs.frozen(kw_only=True)
class Deny(RequestFault):
    """`deny[:TEXT]` - the request is refused with TEXT, and is not carried out."""

    name = "deny"
    example = "deny:busy@mount#1"
    text: str = _argument(default="exit status 32")


@attrs.frozen(kw_only=True)
class Omit(RequestFault):
    """`omit:MEMBER` - every member of that name is left out of the reply.

    `omit:restarts@get_health` is an old guest, whose agents have no `restarts` (§2).
    """

    name = "omit"
    example = "omit:restarts@get_health"
    member: str = _argument()


class CloseAfter(RequestFault):
    """`close` - the connection is closed after the reply.

    A serial port has no connections (§8): what the host has sent after the request is lost there.
    """

    name = "close"
    example = "close@ping#1"


class PowerLoss(RequestFault):
    """`power-off` - the guest loses its power after the reply."""

    name = "power-off"
    example = "power-off@mount#1"


@attrs.frozen(kw_only=True)
class Restart(RequestFault):
    """`reboot[:SECONDS]` - the guest reboots after the reply, and listens again SECONDS later."""

    name = "reboot"
    example = "reboot:3s@mount#1"
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
        Deny,
        Omit,
        CloseAfter,
        PowerLoss,
        Restart,
    )
}


#: Faults of which only one can happen at a request, or to a connection: the last one of the list.
_EXCLUSIVE: Final[tuple[frozenset[type[Fault]], ...]] = (
    frozenset({OverLong, WrongType, Fail, Deny}),  # what the reply is
    frozenset({Stall, Drop, Half}),  # how much of it is sent
    frozenset({CloseAfter, PowerLoss, Restart}),  # what ends after it
    frozenset({Reset, HangUp}),
)

#: Fault → those that change nothing beside it. `deny` is never among them: what it denies is not carried out.
_MOOT: Final[dict[type[Fault], frozenset[type[Fault]]]] = {
    Stall: frozenset({OverLong, WrongType, Fail, Omit, Duplicate}),
    Drop: frozenset({OverLong, WrongType, Fail, Omit, Duplicate, Swap}),
    Half: frozenset({Duplicate}),
}

#: Faults that may strike and change nothing. Who carries them out says when they do: `FaultPlan.note`.
_NOTED: Final[frozenset[type[Fault]]] = frozenset({Cut, Omit})

#: Faults that change nothing on a stream without connections (§8).
_OF_CONNECTIONS: Final[frozenset[type[Fault]]] = frozenset({Reset, HangUp, CloseAfter})

FaultT = TypeVar("FaultT", bound=Fault)


def _that_happen(meeting: Iterable[FaultT]) -> tuple[FaultT, ...]:
    """Those of the faults that meet at one place which happen there."""
    happen: list[FaultT] = []
    excluded: set[type[Fault]] = set()
    for fault in reversed([*meeting]):
        if type(fault) not in excluded:
            happen.insert(0, fault)
            excluded.update(*(group for group in _EXCLUSIVE if type(fault) in group))
    moot = {cls for fault in happen for cls in _MOOT.get(type(fault), ())}
    return tuple(fault for fault in happen if type(fault) not in moot)


@attrs.frozen
class FaultRow:
    """What a list of faults says of one of them."""

    #: Its name.
    name: str
    #: What may follow the name and its colon, such as `SECONDS`; "" where it takes no argument.
    #: Square brackets surround what may be left out.
    arguments: str
    #: How it is written without its place: name and arguments, such as `push[:STATE[:MESSAGE]]`.
    form: str
    #: What it strikes: `guest`, `connection`, or `request`. A number counts these; only a request has a type.
    strikes: str
    #: What happens, in one sentence. Backquotes surround words of the protocol.
    effect: str
    #: A text that `parse_fault` reads.
    example: str


#: The base of a fault → what such a fault strikes.
_STRIKES: Final[dict[type[Fault], str]] = {
    GuestFault: "guest",
    ConnectionFault: "connection",
    RequestFault: "request",
}


def fault_table() -> tuple[FaultRow, ...]:
    """Return a row for each fault in the order of `FAULTS`, made from the classes themselves.

    With `python -OO`, which removes docstrings, `effect` is "".
    """
    rows = []
    for name, cls in FAULTS.items():
        form = _form(cls)
        first = (cls.__doc__ or "").partition("\n\n")[0]
        effect = " ".join(first.partition(" - ")[2].split())
        strikes = next(word for base, word in _STRIKES.items() if issubclass(cls, base))
        rows.append(FaultRow(name, form.removeprefix(name).replace(":", "", 1), form, strikes, effect, cls.example))
    return tuple(rows)


def parse_fault(text: str) -> Fault:
    """Return the fault that `str` writes as `text`: `parse_fault(str(fault)) == fault`.

    `%40`, `%23` and `%25` stand for `@`, `#` and `%`; in an argument that another one follows, `%3A` stands for `:`.

    Raises ValueError, which names the faults that there are, when `text` is not that of a fault.
    """
    rest, hash_, number = text.rpartition("#")
    rest, at, type_ = (rest if hash_ else text).rpartition("@")
    name, colon, argument = (rest if at else type_).partition(":")
    cls = FAULTS.get(name)
    if cls is None:
        raise ValueError(f"{text!r} is not a fault; there are {', '.join(FAULTS)}, as in late:2s@ping or drop@mount#2")
    if hash_ and not (number.isascii() and number.isdigit()):
        raise ValueError(f"{text!r}: {number!r} is not a number")
    try:
        return cls(
            type=unquote(type_) if at else None,
            number=int(number) if hash_ else None,
            **_read_arguments(cls, argument if colon else None),
        )
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None


def _read_arguments(cls: type[Fault], text: str | None) -> dict[str, Any]:
    """The values of the arguments in `text`, which is None where no colon stands after the name."""
    fields = _arguments(cls)
    if text and not fields:
        raise ValueError("it takes no argument")
    # The last argument may have colons of its own.
    parts = text.split(":", len(fields) - 1) if fields and text is not None else []
    given = {field.name: field.metadata[_READ](unquote(part)) for field, part in zip(fields, parts, strict=False)}
    missing = [field.name for field in fields if field.default is attrs.NOTHING and field.name not in given]
    if missing:
        raise ValueError(f"it needs {' and '.join(missing)}: `{_form(cls)}`")
    return given


class FaultPlan:
    """The faults of one guest, and how far it has counted. All its sessions share it; threads may."""

    def __init__(self, faults: Iterable[Fault | str] = (), *, types: Collection[str] = FORK_TYPES) -> None:
        """`faults` are faults, or their texts. `types` are the request types that the guest knows: a fault of a type
        that looks like one of them misspelt gets a warning, since it would never strike.

        Raises ValueError when a text is not that of a fault, TypeError when one text is given for several, or what is
        neither a fault nor a text.
        """
        if isinstance(faults, str):
            raise TypeError("faults takes several strings, such as a tuple of them, not one string")
        if not isinstance(faults, Iterable):
            raise TypeError(f"faults takes several faults, such as a tuple of them, not {type(faults).__name__}")
        self.faults: tuple[Fault, ...] = tuple(
            parse_fault(fault) if isinstance(fault, str) else _checked(fault) for fault in faults
        )
        for fault in self.faults:
            if fault.type and fault.type not in types:
                _warn_of_type(fault, fault.type, types)
        self._lock = threading.Lock()
        self._requests = 0
        # Of those types that a fault names. A host chooses types, and what it sends must not fill the memory.
        self._of_type: Counter[str] = Counter({fault.type: 0 for fault in self.faults if fault.type is not None})
        self._connections = 0
        self._struck: set[Fault] = set()

    def __repr__(self) -> str:
        return f"FaultPlan({[str(fault) for fault in self.faults]})"

    @property
    def unused(self) -> tuple[Fault, ...]:
        """The faults that have not happened yet.

        A test that ends with an unused fault did not test it: most often the type is misspelt, or the number is too
        high. A fault is used when its request or its connection comes, with these exceptions:

        * `cut` when it cuts, and `omit` when it leaves something out;
        * `slow-boot` and `never-ready` when a host is told that the guest is booting;
        * `refuse` always, since the guest does not see the hosts that are refused;
        * `reset`, `hang-up` and `close` only on connections, which a serial port has not (§8);
        * a fault that cannot happen beside another one when it happens elsewhere.
        """
        with self._lock:
            return tuple(fault for fault in self.faults if not isinstance(fault, Refuse) and fault not in self._struck)

    def note(self, fault: Fault) -> None:
        """Record that `fault` has changed something. Only for faults that may strike and change nothing."""
        with self._lock:
            self._struck.add(fault)

    def _count(self, struck: Iterable[Fault], *, has_connections: bool) -> None:
        uncounted = _NOTED if has_connections else _NOTED | _OF_CONNECTIONS
        self._struck.update(fault for fault in struck if type(fault) not in uncounted)

    @property
    def refuse_time(self) -> float:
        """Seconds for which the guest does not listen."""
        return sum(fault.seconds for fault in self.faults if isinstance(fault, Refuse))

    @property
    def boot_time(self) -> float:
        """Seconds that booting takes longer; `math.inf` for ever."""
        if any(isinstance(fault, NeverReady) for fault in self.faults):
            return math.inf
        return sum(fault.seconds for fault in self.faults if isinstance(fault, SlowBoot))

    def on_booting(self) -> None:
        """Record that a host was told that the guest is booting."""
        cls = NeverReady if self.boot_time == math.inf else SlowBoot
        with self._lock:
            self._struck.update(fault for fault in self.faults if isinstance(fault, cls))

    def on_connection(self, *, has_connections: bool = True) -> tuple[ConnectionFault, ...]:
        """Count a connection, and return the faults that happen to it. With `has_connections=False` it is a stream
        without connections.
        """
        with self._lock:
            self._connections += 1
            struck = _that_happen(
                fault
                for fault in self.faults
                if isinstance(fault, ConnectionFault) and fault.number in (None, self._connections)
            )
            self._count(struck, has_connections=has_connections)
        return struck

    def on_request(self, request: Request, *, has_connections: bool = True) -> tuple[RequestFault, ...]:
        """Count a request, and return the faults that happen to it. With `has_connections=False` it came on a stream
        without connections.
        """
        if not self.faults:
            return ()
        with self._lock:
            self._requests += 1
            if request.type in self._of_type:
                self._of_type[request.type] += 1
            of_type, of_all = self._of_type[request.type], self._requests
            struck = _that_happen(
                fault
                for fault in self.faults
                if isinstance(fault, RequestFault)
                and fault.type in (None, request.type)
                and fault.number in (None, of_all if fault.type is None else of_type)
            )
            self._count(struck, has_connections=has_connections)
        return struck


def _checked(fault: Fault) -> Fault:
    if not isinstance(fault, Fault):
        raise TypeError(f"faults takes faults and their texts, not {type(fault).__name__}")
    return fault


def _warn_of_type(fault: Fault, type_: str, types: Collection[str]) -> None:
    """Warn of a type that looks misspelt. Others are fine: the set is open, and a host may send any (§2)."""
    for close in difflib.get_close_matches(type_, types, 1):
        warnings.warn(
            f"the fault {str(fault)!r} strikes at requests of the type {type_!r}, which the guest does not know: "
            f"did you mean {str(close)!r}?",
            stacklevel=4,
        )
