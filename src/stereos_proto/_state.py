"""Everything that changes the state of a connection is in this file, as data.

This module does not know which end of the connection we are: sent and received messages use the same tables, so the
same rules apply to us and to the peer. (The idea is from h11.)

The docs draw their diagrams from `TRANSITIONS` and `REQUIREMENTS`; a test walks their whole product.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import attrs

from ._messages import REDACTED, Ack, CustomRequest, Message, Reply, Request, named, shortened
from ._redact import Redactor
from ._registry import BY_CLASS, BY_TYPE, Kind, Role, row_of


class State(Enum):
    """The state of one end (§1): it may send, it has finished, or it broke the protocol (or its writes broke)."""

    OPEN = "open"
    CLOSED = "closed"
    ERROR = "error"

    if not TYPE_CHECKING:  # a checker sees Enum's own, of the same meaning
        __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"State.{self.name}"


class Happening(Enum):
    """What can happen to one end: it sends a message, ends its stream, or fails."""

    MESSAGE = "message"
    END = "end"
    FAILURE = "failure"

    if not TYPE_CHECKING:  # a checker sees Enum's own, of the same meaning
        __hash__ = object.__hash__


#: State of one end × what it does → its next state. What is missing is forbidden.
TRANSITIONS: Final[dict[tuple[State, Happening], State]] = {
    (State.OPEN, Happening.MESSAGE): State.OPEN,
    (State.OPEN, Happening.END): State.CLOSED,
    (State.OPEN, Happening.FAILURE): State.ERROR,
    (State.CLOSED, Happening.END): State.CLOSED,
    (State.CLOSED, Happening.FAILURE): State.ERROR,
    (State.ERROR, Happening.END): State.ERROR,
    (State.ERROR, Happening.FAILURE): State.ERROR,
}

#: Kind of message → the states of the *other* end in which it may be sent. A guest that has ended its stream
#: answers no request any more; a host that has ended its own still listens to replies (§1), and the
#: requests that came before its fault are still answered.
REQUIREMENTS: Final[dict[Kind, frozenset[State]]] = {
    Kind.REQUEST: frozenset({State.OPEN}),
    Kind.REPLY: frozenset(State),
    Kind.NOTIFICATION: frozenset(State),
}


# In CPython 3.11, looking up a member of an Enum costs as much as a function call, and these are used for every
# message.
_REQUEST: Final = Kind.REQUEST
_REPLY: Final = Kind.REPLY


class Violation(Exception):
    """A message may not be sent now. Never leaves the package: only the caller knows which end is at fault."""


#: Why an end that is not open may not send.
_ENDED: Final[dict[State, str]] = {
    State.CLOSED: "the {} has closed its side of the connection",
    State.ERROR: "the connection broke on the {}'s side",
}


def answers(reply: Message, request: Request) -> bool:
    """Whether `reply` can be the answer to `request` (§3).

    An ack names the type that it answers. A refusal answers any request; it names "" when the guest could not
    read the line.
    """
    row = BY_CLASS[type(request)] if type(request) is not CustomRequest else row_of(request)
    expected = row.reply
    if type(reply) is not Ack:
        return type(reply) is expected
    if reply.ok:
        return expected is Ack and reply.reply_to == request.type
    return reply.reply_to in (request.type, "")


class Conversation:
    """The state of both ends, the requests that wait for their reply, and what is known of the guest."""

    __slots__ = ("_both_open", "lifecycle", "pending", "states")

    def __init__(self) -> None:
        self.states = dict.fromkeys(Role, State.OPEN)
        self.pending: deque[Request] = deque()
        self.lifecycle: str | None = None
        self._both_open = True

    def end(self, role: Role) -> None:
        """`role` sends no more."""
        self._happen(role, Happening.END)

    def fail(self, role: Role) -> None:
        """`role` broke the protocol, or its writes broke."""
        self._happen(role, Happening.FAILURE)

    def unreadable(self, type_: str) -> None:
        """The host sent a line that the guest could not read, and must refuse. `type_` is "" if it is unknown."""
        self.pending.append(CustomRequest(type_))

    def message(self, sender: Role, message: Any) -> Request | None:
        """`sender` sends `message`; return the request that it answers, if it answers one.

        Raises Violation, and changes nothing, when it may not be sent now.
        """
        row = BY_CLASS.get(type(message))
        if row is None or row.sender is not sender:
            raise Violation(f"the {sender.value} does not send {type(message).__name__}")
        # While both ends are open the tables forbid nothing; looking them up for every message would be the largest
        # cost of a ping.
        if not self._both_open:
            self._permit(sender, row.kind)
        kind, pending = row.kind, self.pending
        if kind is _REQUEST:
            pending.append(message)
            return None
        request = None
        if kind is _REPLY:
            if not pending:
                raise Violation(f"{describe(message)} answers nothing: no request is waiting")
            # Most replies are of the class that the registry names. An ack also names what it answers.
            cls = type(message)
            if (cls is Ack or cls is not BY_CLASS[type(pending[0])].reply) and not answers(message, pending[0]):
                oldest = named(pending[0])
                what = describe(message, pending)
                raise Violation(f"{what} does not answer {oldest}, the oldest unanswered request")
            request = pending.popleft()
        if row.tells_state:
            self.lifecycle = message.state
        return request

    def _happen(self, role: Role, happening: Happening) -> None:
        self.states[role] = TRANSITIONS[self.states[role], happening]
        self._both_open = all(state is State.OPEN for state in self.states.values())

    def _permit(self, sender: Role, kind: Kind) -> None:
        for role, allowed in ((sender, _MAY_SEND), (sender.peer, REQUIREMENTS[kind])):
            if self.states[role] not in allowed:
                raise Violation(_ENDED[self.states[role]].format(role.value))


_MAY_SEND: Final = frozenset(state for state, happening in TRANSITIONS if happening is Happening.MESSAGE)


def describe(reply: Message, pending: Iterable[Request] = ()) -> str:
    """A reply in a few words, without anything that the guest made up."""
    if not isinstance(reply, Ack):
        return reply.type
    return f"ack of {shortened(reply.reply_to)}" if names_request(reply, pending) else "ack of an unknown request"


def names_request(ack: Ack, pending: Iterable[Request]) -> bool:
    """Whether `reply_to` is a type that we know, or that one of `pending` has.

    Any other text is the guest's own, and may be a secret that it was sent.
    """
    known = ack.reply_to in BY_TYPE[Role.HOST] or not ack.reply_to
    return known or any(request.type == ack.reply_to for request in pending)


def unexpected(reply: Reply, pending: Iterable[Request]) -> Reply:
    """`reply`, which answers nothing, as an error may hold it: without the secrets of the requests that wait."""
    clean = Redactor(pending).redact_message(reply)
    if isinstance(clean, Ack) and not names_request(clean, pending):
        return attrs.evolve(clean, reply_to=REDACTED)
    return clean
