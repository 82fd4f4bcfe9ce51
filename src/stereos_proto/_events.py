"""What `Connection.next_event` hands out. An event wraps a message, or says what happened to the stream."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Literal

import attrs

from ._call import Call
from ._errors import InvalidMessage, MalformedLine, StereosError
from ._messages import Ack, Message, Notification, Reply, Request
from ._registry import BY_TYPE, Role


class Need(Enum):
    """The type of `NEED_DATA` (§3). An enum, so that type checkers can tell it from an event."""

    DATA = "data"

    def __repr__(self) -> str:
        return "NEED_DATA"


#: No complete event is buffered: receive more bytes, then ask again.
NEED_DATA: Final[Literal[Need.DATA]] = Need.DATA


# Created for every message that is read: filling an instance dictionary is faster than filling frozen slots.
@attrs.frozen(slots=False)
class ReplyReceived:
    """Host role: `message` answers `request`, which was the oldest unanswered one (§3).

    An `Ack` with `ok=False` is an answer too: the guest said no.
    """

    message: Reply
    request: Request


@attrs.frozen(slots=False)
class NotificationReceived:
    """Host role: the guest sent a notification. It answers no request (§3)."""

    message: Notification


@attrs.frozen
class UnknownReceived:
    """Host role: a message of a type that this library does not know. No request was settled (§2)."""

    type: str
    payload: Any


@attrs.frozen(slots=False)
class RequestReceived:
    """Guest role: the host asks for `message`. It is owed exactly one reply, in order (§3)."""

    message: Request


@attrs.frozen
class MalformedReceived:
    """Guest role: a line that could not be read. It is owed exactly one reply, in order (§3).

    `reply` is the refusal that the reference sends.
    """

    # Exceptions compare by identity, but two events with the same error text must be equal.
    error: MalformedLine | InvalidMessage = attrs.field(eq=lambda error: (type(error), str(error)))

    @property
    def reply(self) -> Ack:
        """The refusal that is owed (§3, §4).

        For JSON that cannot be read only the prefix `malformed JSON:` is the reference's: its versions differ in
        the rest, so nothing may match on it (§6).
        """
        if isinstance(self.error, InvalidMessage):
            return Ack(self.error.type, False, _refusal_of_payload(self.error))
        return Ack("", False, f"malformed JSON: {self.error.reason}")


def _refusal_of_payload(error: InvalidMessage) -> str:
    row = BY_TYPE[Role.HOST].get(error.type)
    reason = f"envelope {error.type} has no payload" if error.missing else f"{error.path} {error.reason}"
    return f"decode {row.noun if row else error.type} payload: {reason}"


@attrs.frozen
class ConnectionClosed:
    """The peer will send no more. Handed out once, after everything that came before it.

    `unanswered` are the requests without a reply, oldest first. In the guest role they can still be answered:
    the host may have closed its own direction only (§1).
    """

    unanswered: tuple[Message, ...] = ()


@attrs.frozen(slots=False)
class CallDone:
    """Event of a session: `call` has settled (§3). Handed out once for each call that was not cancelled."""

    call: Call[Any]


@attrs.frozen
class SessionEnded:
    """Event of a session: it has ended (§1). The last event, handed out once.

    `error` says why; after `close`, a ConnectionLost with `closed_here`. None only for a guest's session that ended in
    order.
    """

    error: StereosError | None = None


Event = ReplyReceived | NotificationReceived | UnknownReceived | RequestReceived | MalformedReceived | ConnectionClosed
