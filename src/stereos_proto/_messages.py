"""The messages of the wire, as plain frozen values (`docs/protocol.md` §2).

A message is checked when it is sent, not when it is made: validators here would run again on every line that
is read. A class body is the whole definition of a message: its fields in wire order, their types, which are
left out when zero, which are secret. Codec, strategies and documentation are derived from it.

The classes keep their instance dictionary (`slots=False`). That is on purpose: msgspec fills such classes in
three quarters of the time that it needs for slotted ones, and slotted ones make it slower than `json.loads`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Generic, Self, SupportsIndex

import attrs
from msgspec import Meta

from ._constants import I64_MAX, I64_MIN, SECRET_MODE, U32_MAX

U32 = Annotated[int, Meta(ge=0, le=U32_MAX)]
I64 = Annotated[int, Meta(ge=I64_MIN, le=I64_MAX)]

#: Key of a field's metadata: the field is left out of the line when it is zero (§2).
OMIT_ZERO: Final = "omit_zero"
_OMIT: Final = {OMIT_ZERO: True}


class MessageType(StrEnum):
    """The message types of the reference (§2). The set is open: guests of other makes have more."""

    PING = "ping"
    GET_HEALTH = "get_health"
    SET_CONFIG = "set_config"
    INJECT_SECRET = "inject_secret"  # noqa: S105  (a message type, not a secret)
    INJECT_SSH_KEY = "inject_ssh_key"
    MOUNT = "mount"
    SHUTDOWN = "shutdown"
    PONG = "pong"
    ACK = "ack"
    HEALTH = "health"
    LIFECYCLE = "lifecycle"


class LifecycleState(StrEnum):
    """The states that a guest reports (§2). The set is open: a state that is not here stays a plain `str`."""

    BOOTING = "booting"
    READY = "ready"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    SHUTDOWN = "shutdown"


if TYPE_CHECKING:
    StateName = str
else:
    #: A `LifecycleState`, or a plain `str` when the guest has one that is not there. The canonical lane goes by
    #: the enum, and leaves the others to the tolerant lane: msgspec knows no "member of an enum, else a string".
    StateName = LifecycleState

_STATES: Final[dict[str, LifecycleState]] = {state.value: state for state in LifecycleState}


def name_state(state: str) -> str:
    """`state` as the `LifecycleState` that it names, else as it is."""
    return _STATES.get(state, state) if type(state) is str else state


#: Type of a field → the value that an absent or null member has (§4). Lists are empty.
ZERO: Final[dict[Any, Any]] = {str: "", StateName: "", bool: False, U32: 0, I64: 0}


def _octal(mode: object) -> str:
    # A value of a wrong type may be a misplaced secret, so only its type is shown.
    return oct(mode) if isinstance(mode, int) else type(mode).__name__


@attrs.frozen(slots=False)
class Message:
    """What stands on one line (§2). `type` is its name on the wire."""

    if TYPE_CHECKING:
        # Only declared: the open classes have a field of this name instead.
        type: ClassVar[str]


@attrs.frozen(slots=False)
class Reply(Message):
    """A message that the guest sends as the answer to the oldest unanswered request (§3)."""


# The reply to a request: `Request[Pong]` is answered by a `Pong`, and a bare `Request` by any `Reply`. Python knows
# defaults of type variables since 3.13; type checkers know them already.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ReplyT_co = TypeVar("ReplyT_co", bound=Reply, covariant=True, default=Reply)
else:
    from typing import TypeVar

    ReplyT_co = TypeVar("ReplyT_co", bound=Reply, covariant=True)


@attrs.frozen(slots=False)
class Request(Message, Generic[ReplyT_co]):
    """A message that the host sends and the guest answers (§2).

    It is typed by its reply: `Ping` is a `Request[Pong]`. A refusal (`Ack` with `ok=False`) may answer any
    request (§3).
    """


@attrs.frozen(slots=False)
class Notification(Message):
    """A message that the guest sends whenever it likes (§3)."""


@attrs.frozen(slots=False)
class Ping(Request["Pong"]):
    """Ask whether the guest responds. Answered by `Pong` (§2)."""

    type: ClassVar[str] = MessageType.PING


@attrs.frozen(slots=False)
class GetHealth(Request["Health"]):
    """Ask for the guest's state. Answered by `Health` (§2)."""

    type: ClassVar[str] = MessageType.GET_HEALTH


class Redacted(str):
    """Replaces a secret that was removed from a message. A message that contains it cannot be sent."""

    __slots__ = ()


#: What is shown in the place of a secret.
REDACTED: Final = Redacted("[redacted]")


class KeptHere:
    """A value that cannot be pickled while it holds a secret: a pickle would copy the secret to a disk or another
    process.

    Errors and reports pickle what `redacted` makes of it.
    """

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if _secret_fields(self):
            raise TypeError(
                f"{type(self).__name__} may hold a secret, so it is not pickled; make it where it is needed"
            )
        return super().__reduce_ex__(protocol)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self


def _secret_fields(value: Any) -> list[str]:
    """The fields of `value` that its class hides, and that hold something."""
    hidden = [field.name for field in attrs.fields(type(value)) if field.repr is False]
    return [name for name in hidden if not isinstance(getattr(value, name), Redacted | None)]


def redacted(value: Any) -> Any:
    """Return `value`; where it is a message that holds a secret, one without it, which cannot be sent."""
    if not isinstance(value, KeptHere) or not (names := _secret_fields(value)):
        return value
    return attrs.evolve(value, **dict.fromkeys(names, REDACTED))  # type: ignore[misc]


@attrs.frozen(slots=False)
class SetConfig(KeptHere, Request["Ack"]):
    """Replace the guest's jcard.toml by `content` (§6). Answered by `Ack`.

    The guest stores it readable by everybody. `content` counts as secret all the same: it is kept out of
    reprs and errors.
    """

    type: ClassVar[str] = MessageType.SET_CONFIG
    content: str = attrs.field(repr=False)


@attrs.frozen(slots=False)
class InjectSecret(KeptHere, Request["Ack"]):
    """Store `value` in the file `name` below the guest's secrets folder (§6). Answered by `Ack`.

    `name` is a simple file name. `mode` holds the file's permission bits, 0 to 4294967295; 0 lets the guest
    choose, which is 0600.
    """

    type: ClassVar[str] = MessageType.INJECT_SECRET
    name: str
    value: str = attrs.field(repr=False)
    mode: U32 = attrs.field(default=SECRET_MODE, metadata=_OMIT, repr=_octal)


@attrs.frozen(slots=False)
class InjectSSHKey(Request["Ack"]):
    """*Replace* the authorized keys of `user` by `public_key`, one line in OpenSSH's format (§6).

    Answered by `Ack`. A host does not send a key with a newline inside it: the guest would store two keys.
    """

    type: ClassVar[str] = MessageType.INJECT_SSH_KEY
    user: str
    public_key: str


@attrs.frozen(slots=False)
class Mount(Request["Ack"]):
    """Mount the shared folder `tag` at the absolute path `guest_path` (§6). Answered by `Ack`.

    `fs_type` is `"9p"` or `"virtiofs"`. Mounting is not idempotent: a second mount lies over the first.
    """

    type: ClassVar[str] = MessageType.MOUNT
    tag: str
    guest_path: str
    fs_type: str
    read_only: bool = attrs.field(default=False, metadata=_OMIT)


@attrs.frozen(slots=False)
class Shutdown(Request["Ack"]):
    """Power the guest off (§6). Answered by `Ack`, which may be lost in the race with the power."""

    type: ClassVar[str] = MessageType.SHUTDOWN
    reason: str = attrs.field(default="", metadata=_OMIT)


@attrs.frozen(slots=False)
class CustomRequest(KeptHere, Request[Reply]):
    """A request of any type (§2, §3): for types without a class. Answered by `Ack`.

    `payload` is any JSON value, None for no payload. It may carry a secret, so it is kept out of the repr.
    With the name of a request that has a class it is sent with the payload given, and the checks and the reply
    of that class apply. Names of messages that the guest sends are acked, as all unknown types are.
    """

    type: str  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]
    payload: Any = attrs.field(default=None, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return attrs.evolve(self, payload=copy.deepcopy(self.payload, memo))


@attrs.frozen(slots=False)
class Pong(Reply):
    """The answer to `Ping` (§2)."""

    type: ClassVar[str] = MessageType.PONG


@attrs.frozen(slots=False)
class Ack(Reply):
    """Done (`ok`) or refused, with the guest's reason in `error` (§3).

    `reply_to` is the *type* of the request, or "" when the guest could not read the line.
    """

    type: ClassVar[str] = MessageType.ACK
    reply_to: str
    ok: bool
    error: str = attrs.field(default="", metadata=_OMIT)


@attrs.frozen(slots=False)
class AgentStatus:
    """One agent in a `Health` (§2). `restarts` counts since the guest booted."""

    name: str
    running: bool
    session: str = attrs.field(default="", metadata=_OMIT)
    restarts: I64 = 0
    error: str = attrs.field(default="", metadata=_OMIT)


def _agents(agents: Iterable[AgentStatus]) -> tuple[AgentStatus, ...]:
    # `tuple` itself would do, but type checkers cannot tell what it makes of a converter's argument.
    return tuple(agents)


@attrs.frozen(slots=False)
class Health(Reply):
    """The answer to `GetHealth` (§2, §6). `uptime_seconds` are whole seconds since the daemon started.

    `state` is a `LifecycleState` where it is a known one, else the string that the guest sent.
    """

    type: ClassVar[str] = MessageType.HEALTH
    state: StateName = attrs.field(converter=name_state)
    agents: tuple[AgentStatus, ...] = attrs.field(default=(), metadata=_OMIT, converter=_agents)
    uptime_seconds: I64 = 0


@attrs.frozen(slots=False)
class Lifecycle(Notification):
    """The guest has entered `state` (§3). The current guest never sends it; a host accepts it at any place."""

    type: ClassVar[str] = MessageType.LIFECYCLE
    state: StateName = attrs.field(converter=name_state)
    message: str = attrs.field(default="", metadata=_OMIT)


@attrs.frozen(slots=False)
class UnknownMessage(Notification):
    """A message from the guest of a type that is not in the registry (§2). `payload` is any JSON value."""

    type: str  # type: ignore[misc]  # pyright: ignore[reportIncompatibleVariableOverride]
    payload: Any = None


def wire_fields(cls: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    """The fields of a message class in wire order, with types instead of annotations."""
    return tuple(attrs.fields(attrs.resolve_types(cls, include_extras=True)))


def named(message: Message) -> str:
    """The type of `message` as it stands in a sentence, whatever it is: short, printable, on one line."""
    type_: Any = message.type
    return shortened(type_) if isinstance(type_, str) else type(message).__name__


def with_article(cls: type[Any]) -> str:
    """The name of a class as it stands in a sentence: "an int"."""
    return f"a{'n' * (cls.__name__[:1].lower() in tuple('aeiou'))} {cls.__name__}"


def shortened(text: str) -> str:
    """A text that the peer or the caller chose, as it stands in a sentence."""
    if len(text) > _LONGEST_NAME:
        return f"{text[:_LONGEST_NAME]!a}…"
    return text if text.isprintable() and text else ascii(text)


_LONGEST_NAME: Final = 40
