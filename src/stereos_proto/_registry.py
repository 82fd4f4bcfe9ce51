"""The one table of the wire: type ↔ class ↔ sender ↔ kind ↔ reply (`docs/protocol.md` §2, §3).

Codec, state machine, strategies, command line and documentation all read it, so a new message is one class
in `_messages` and one row here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import attrs

from ._messages import (
    Ack,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    Lifecycle,
    Message,
    Mount,
    Ping,
    Pong,
    Reply,
    Request,
    SetConfig,
    Shutdown,
    UnknownMessage,
)


class Role(Enum):
    """Which end of the connection: the host asks, the guest answers (§2)."""

    HOST = "host"
    GUEST = "guest"

    # Members are singletons, so identity is their hash; Enum's own is a Python function, and these are keys
    # of the tables on the way of every message.
    if not TYPE_CHECKING:  # a checker sees Enum's own, of the same meaning
        __hash__ = object.__hash__

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.GUEST if self is Role.HOST else Role.HOST

    def __repr__(self) -> str:
        return f"Role.{self.name}"


class Kind(Enum):
    """What a message is for. It settles who sends it (§2)."""

    REQUEST = "request"
    REPLY = "reply"
    NOTIFICATION = "notification"

    if not TYPE_CHECKING:  # a checker sees Enum's own, of the same meaning
        __hash__ = object.__hash__

    @property
    def sender(self) -> Role:
        """The end that sends messages of this kind."""
        return Role.HOST if self is Kind.REQUEST else Role.GUEST

    def __repr__(self) -> str:
        return f"Kind.{self.name}"


@attrs.frozen
class Row:
    """One message type.

    `reply` is the class that answers a request. `needs_payload` says that the guest refuses the message
    without a payload (§4), and `noun` is what the guest calls the payload in its refusal then ("decode mount
    payload: …"). `has_effect` is False if a request can be repeated safely after its reply was lost.
    `ignores_bad_payload`: the guest carries the request out although its payload does not fit, as if it had none (§4).
    `tells_state`: its `state` is the guest's lifecycle state. `fault` returns what makes a message unfit to be sent
    although its values have the right types, or "". `type` is the name on the wire, `sender` the end that sends it.
    """

    cls: type[Message]
    kind: Kind
    reply: type[Reply] | None = None
    needs_payload: bool = False
    noun: str = ""
    has_effect: bool = False
    ignores_bad_payload: bool = False
    tells_state: bool = False
    fault: Callable[[Any], str] | None = None
    type: str = attrs.field(init=False, default=attrs.Factory(lambda row: _type_of(row.cls), takes_self=True))
    sender: Role = attrs.field(init=False, default=attrs.Factory(lambda row: row.kind.sender, takes_self=True))


def _type_of(cls: type[Message]) -> str:
    # The open classes have a field `type` instead, which is not an attribute of the class.
    return str(getattr(cls, "type", ""))


def _acked(cls: type[Message], *, noun: str, fault: Callable[[Any], str] | None = None) -> Row:
    return Row(cls, Kind.REQUEST, reply=Ack, needs_payload=True, noun=noun, has_effect=True, fault=fault)


def _key_fault(message: InjectSSHKey) -> str:
    if "\n" in message.public_key.rstrip("\n"):
        return "the public key has a newline inside, so the guest would store it as two keys"
    return ""


REGISTRY: Final[tuple[Row, ...]] = (
    Row(Ping, Kind.REQUEST, reply=Pong),
    Row(GetHealth, Kind.REQUEST, reply=Health),
    _acked(SetConfig, noun="config"),
    _acked(InjectSecret, noun="secret"),
    _acked(InjectSSHKey, noun="ssh key", fault=_key_fault),
    _acked(Mount, noun="mount"),
    Row(Shutdown, Kind.REQUEST, reply=Ack, has_effect=True, ignores_bad_payload=True),
    Row(Pong, Kind.REPLY),
    Row(Ack, Kind.REPLY),
    Row(Health, Kind.REPLY, tells_state=True),
    Row(Lifecycle, Kind.NOTIFICATION, tells_state=True),
)

#: Rows for types that have no row of their own, by sender. A custom request is answered by an ack, as every guest does
#: with a type that it does not know (§3).
OPEN_ROWS: Final[dict[Role, Row]] = {
    Role.HOST: Row(CustomRequest, Kind.REQUEST, reply=Ack, has_effect=True),
    Role.GUEST: Row(UnknownMessage, Kind.NOTIFICATION),
}

BY_CLASS: Final[dict[type[Message], Row]] = {row.cls: row for row in (*REGISTRY, *OPEN_ROWS.values())}
BY_TYPE: Final[dict[Role, dict[str, Row]]] = {
    role: {row.type: row for row in REGISTRY if row.sender is role} for role in Role
}


def row_of(message: Message) -> Row:
    """Return the row that `message` is treated by. Raises KeyError for what is no message of ours.

    A `CustomRequest` with the name of a request that has a class is treated as that class is: a guest cannot
    tell them apart either.
    """
    row = BY_CLASS[type(message)]
    if type(message) is CustomRequest:
        return BY_TYPE[Role.HOST].get(message.type, row)
    return row


def changes_guest(message: Request) -> bool:
    """Return whether `message` changes something in the guest, so that a lost reply leaves its outcome unknown (§6).

    `ping` and `get_health` can be repeated safely. A type without a class counts as a change.
    """
    return row_of(message).has_effect


def message_class(sender: Role, type_: str) -> type[Message] | None:
    """Return the class of the messages of `type_` that `sender` sends; None for a type without one (§3)."""
    row = BY_TYPE[sender].get(type_)
    return None if row is None else row.cls
