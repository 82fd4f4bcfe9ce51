"""What can go wrong with a guest, as data: give a list of these to a simulator or a server.

A fault has a text form, for command lines: `NAME[:ARGUMENT][@TYPE][#NUMBER]`. `parse_fault` reads it and `str`
writes it.

* `late:2s@ping` - every reply to a `ping` leaves 2 seconds late
* `drop@mount#2` - the second `mount` gets no reply
* `reset#1` - the first connection is accepted and reset
* `garbage#3` - a line of garbage comes before the reply to the third request, of whatever type

Numbers count from 1 over the whole life of the guest, all its connections together: requests for a fault of a
reply, connections for a fault of a connection. A line that could not be read is a request of the type "".
Faults that meet at one request apply in the order of the list.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Self
from urllib.parse import quote, unquote

import attrs

from stereos_proto import MAX_LINE_SIZE, Ack, Health, Lifecycle, Pong, Reply, Request, encode

from ._actions import Action, Close, Pause, PowerOff, Reboot, Silence


@attrs.define
class Outgoing:
    """What a reply, or a new connection, makes the guest do: `actions`, which faults rewrite.

    `hold` keeps them until after the next reply. `cut` ends the connection after so many bytes in all.
    """

    actions: list[Action]
    request: Request | None = None
    reply: Reply | None = None
    hold: bool = False
    cut: int | None = None


@attrs.frozen(kw_only=True)
class Fault:
    """Base of all faults. `type` and `number` say where it strikes; None is everywhere."""

    name: ClassVar[str] = ""
    type: str | None = None
    number: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))

    def __str__(self) -> str:
        """The text that `parse_fault` reads."""
        argument = self._argument()
        return (
            self.name
            + (f":{quote(argument, safe=_PLAIN)}" if argument else "")
            + ("" if self.type is None else f"@{quote(self.type, safe=_PLAIN)}")
            + ("" if self.number is None else f"#{self.number}")
        )

    def _argument(self) -> str:
        return ""

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        if argument:
            raise ValueError("it takes no argument")
        return cls(**where)

    def apply(self, out: Outgoing) -> None:
        """Rewrite what is about to be done."""


#: What stands unescaped in a fault's text: all but its own marks.
_PLAIN: Final = " !\"$&'()*+,-./:;<=>?[]^_`{|}~"


class GuestFault(Fault):
    """A fault of the guest as a whole. It strikes when the guest starts."""


class ConnectionFault(Fault):
    """A fault of a connection. `number` counts connections."""


class RequestFault(Fault):
    """A fault around one request. `delay` is what the guest waits, in seconds, before it carries it out."""

    @property
    def delay(self) -> float:
        """Seconds to wait before the request is carried out."""
        return 0.0


def _seconds(text: str) -> float:
    seconds = float(text.removesuffix("s"))
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{text!r} is no time; one looks like 2s or 0.25s")
    return seconds


def _not_negative(_fault: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value!r}")


@attrs.frozen(kw_only=True)
class _Timed(Fault):
    """A fault with a time, in seconds."""

    seconds: float = attrs.field(validator=_not_negative)

    def _argument(self) -> str:
        return f"{self.seconds:g}s" if float(f"{self.seconds:g}") == self.seconds else f"{self.seconds!r}s"

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        return cls(seconds=_seconds(argument), **where)


@attrs.frozen(kw_only=True)
class _OptionallyTimed(_Timed):
    seconds: float = attrs.field(default=0.0, validator=_not_negative)

    def _argument(self) -> str:
        return super()._argument() if self.seconds else ""

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        return cls(seconds=_seconds(argument or "0"), **where)


# ------------------------------------------------------------------------------------------- of the guest


class Refuse(_Timed, GuestFault):
    """`refuse:SECONDS` - the guest does not listen for so long: connections are refused."""

    name = "refuse"


class SlowBoot(_Timed, GuestFault):
    """`slow-boot:SECONDS` - the guest says `booting` for so long."""

    name = "slow-boot"


class NeverReady(GuestFault):
    """`never-ready` - the guest says `booting` for ever."""

    name = "never-ready"


# -------------------------------------------------------------------------------------- of the connection


class Reset(ConnectionFault):
    """`reset` - the connection is accepted and reset."""

    name = "reset"

    def apply(self, out: Outgoing) -> None:
        """Reset at once."""
        out.actions.append(Close(reset=True))


class HangUp(ConnectionFault):
    """`hang-up` - the connection is accepted and closed without a byte."""

    name = "hang-up"

    def apply(self, out: Outgoing) -> None:
        """Close at once."""
        out.actions.append(Close())


@attrs.frozen(kw_only=True)
class Cut(ConnectionFault):
    """`cut:BYTES` - the connection is closed after the guest has written so many bytes on it."""

    name = "cut"
    size: int = attrs.field(validator=attrs.validators.ge(0))

    def _argument(self) -> str:
        return str(self.size)

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        return cls(size=int(argument), **where)

    def apply(self, out: Outgoing) -> None:
        """Let the session count."""
        out.cut = self.size


# ----------------------------------------------------------------------------------------- of the request


class Delay(_Timed, RequestFault):
    """`delay:SECONDS` - the request is carried out, and answered, so much later. What comes after it waits."""

    name = "delay"

    @property
    def delay(self) -> float:
        """Seconds to wait before the request is carried out."""
        return self.seconds


class Late(_Timed, RequestFault):
    """`late:SECONDS` - the request is carried out at once; its reply, and all behind it, leave so much later."""

    name = "late"

    def apply(self, out: Outgoing) -> None:
        """Pause before the reply."""
        out.actions.insert(0, Pause(self.seconds))


class Stall(RequestFault):
    """`stall` - the request is carried out; no byte comes any more. The connection stays open."""

    name = "stall"

    def apply(self, out: Outgoing) -> None:
        """Be silent instead."""
        out.actions[:] = [Silence()]


class Drop(RequestFault):
    """`drop` - the request is carried out and never answered; the next one is."""

    name = "drop"

    def apply(self, out: Outgoing) -> None:
        """Forget the reply."""
        out.actions.clear()


class Duplicate(RequestFault):
    """`duplicate` - the reply comes twice."""

    name = "duplicate"

    def apply(self, out: Outgoing) -> None:
        """Say it again."""
        out.actions += out.actions


class Swap(RequestFault):
    """`swap` - the reply comes after the next one."""

    name = "swap"

    def apply(self, out: Outgoing) -> None:
        """Hold it back."""
        out.hold = True


@attrs.frozen(kw_only=True)
class Push(RequestFault):
    """`push:STATE[:MESSAGE]` - a lifecycle notification comes between the request and its reply."""

    name = "push"
    state: str = "ready"
    message: str = ""

    def _argument(self) -> str:
        return f"{self.state}:{self.message}" if self.message else self.state

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        state, _, message = argument.partition(":")
        return cls(state=state or "ready", message=message, **where)

    def apply(self, out: Outgoing) -> None:
        """Say it first."""
        out.actions.insert(0, encode(Lifecycle(self.state, self.message)))


class Half(RequestFault):
    """`half` - half the reply's line, then silence. The connection stays open."""

    name = "half"

    def apply(self, out: Outgoing) -> None:
        """Cut the line in its middle."""
        line = b"".join(action for action in out.actions if isinstance(action, bytes))
        out.actions[:] = [line[: len(line) // 2], Silence()]


class Garbage(RequestFault):
    """`garbage` - a line that is no JSON comes before the reply."""

    name = "garbage"

    def apply(self, out: Outgoing) -> None:
        """Say it first."""
        out.actions.insert(0, b"[    0.000000] \xffkernel: not a message\n")


class Blank(RequestFault):
    """`blank` - empty lines come before the reply."""

    name = "blank"

    def apply(self, out: Outgoing) -> None:
        """Say them first."""
        out.actions.insert(0, b"\n\r\n\n")


class OverLong(RequestFault):
    """`over-long` - a line longer than 1 MiB comes instead of the reply (§1)."""

    name = "over-long"

    def apply(self, out: Outgoing) -> None:
        """Blow the reply up: a good message but for its length."""
        out.actions[:] = [b'{"type":"pong","padding":"%b"}\n' % (b"x" * MAX_LINE_SIZE)]


class WrongType(RequestFault):
    """`wrong-type` - a reply comes that cannot answer the request."""

    name = "wrong-type"

    def apply(self, out: Outgoing) -> None:
        """Answer a question that nobody asked."""
        wrong = Health("ready") if isinstance(out.reply, Pong) else Pong()
        out.actions[:] = [encode(wrong)]


@attrs.frozen(kw_only=True)
class Fail(RequestFault):
    """`fail:TEXT` - the host is told that the request failed, with that text. It was carried out."""

    name = "fail"
    text: str = "exit status 32"

    def _argument(self) -> str:
        return self.text

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        return cls(text=argument, **where) if argument else cls(**where)

    def apply(self, out: Outgoing) -> None:
        """Say no."""
        if out.request is not None:
            out.actions[:] = [encode(Ack(out.request.type, False, self.text))]


@attrs.frozen(kw_only=True)
class Omit(RequestFault):
    """`omit:MEMBER` - every member of that name is left out of the reply.

    `omit:restarts@get_health` is an old guest, whose agents have no `restarts` (§2).
    """

    name = "omit"
    member: str

    def _argument(self) -> str:
        return self.member

    @classmethod
    def _from_text(cls, argument: str, **where: Any) -> Self:
        if not argument:
            raise ValueError("it needs the name of a member")
        return cls(member=argument, **where)

    def apply(self, out: Outgoing) -> None:
        """Write the lines again without it."""
        out.actions[:] = [self._without(action) if isinstance(action, bytes) else action for action in out.actions]

    def _without(self, line: bytes) -> bytes:
        try:
            value = json.loads(line, object_pairs_hook=lambda pairs: dict(p for p in pairs if p[0] != self.member))
        except ValueError:
            return line
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class CloseAfter(RequestFault):
    """`close` - the connection is closed after the reply."""

    name = "close"

    def apply(self, out: Outgoing) -> None:
        """Close then."""
        out.actions.append(Close())


class PowerLoss(RequestFault):
    """`power-off` - the guest loses its power after the reply."""

    name = "power-off"

    def apply(self, out: Outgoing) -> None:
        """Everything ends."""
        out.actions.append(PowerOff())


class Restart(_OptionallyTimed, RequestFault):
    """`reboot[:SECONDS]` - the guest reboots after the reply, and listens again so much later."""

    name = "reboot"

    def apply(self, out: Outgoing) -> None:
        """Everything ends, and starts again."""
        out.actions.append(Reboot(self.seconds))


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
        return cls._from_text(
            unquote(argument), type=unquote(type_) if at else None, number=int(number) if hash_ else None
        )
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None


class FaultPlan:
    """The faults of one guest, and how far it has counted. All its sessions share it; threads may."""

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        """`faults` are faults, or their texts."""
        self.faults = tuple(parse_fault(fault) if isinstance(fault, str) else fault for fault in faults)
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
