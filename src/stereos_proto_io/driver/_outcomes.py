"""What the clients have in common: how outcomes are handled, and what is shown of a client."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from stereos_proto import GetHealth, Ping, Reply, StereosError, Turns

from ._streams import Stream, read

Error = TypeVar("Error", bound=StereosError)
Client = TypeVar("Client")


def again(error: Error) -> Error:
    """Return a copy, so that each caller raises an exception with its own traceback."""
    return copy.copy(error)


def replies(outcomes: Iterable[Any]) -> list[Reply]:
    """Return `outcomes`, when they are replies (§3). Raises the first error among them."""
    found: list[Reply] = []
    for outcome in outcomes:
        if isinstance(outcome, StereosError):
            raise outcome
        found.append(outcome)
    return found


def shown(client: Any) -> str:
    """Return the `repr` of a client, also of one that was not finished: an option of it was refused."""
    name = f"{type(client).__module__.rpartition('.')[2]}.{type(client).__qualname__}"
    session = getattr(client, "_session", None)
    if session is None:
        return f"<{name}, not made>"
    return f"<{name} {session.label} {'closed' if session.ended else 'open'}>"


def expect(client: object, wanted: type[Client]) -> Client:
    """Return `client`. Raises TypeError when it is no `wanted`."""
    if isinstance(client, wanted):
        return client
    found, wants = (f"{kind.__module__}.{kind.__qualname__}" for kind in (type(client), wanted))
    raise TypeError(f"the client is a {found}, not a {wants}; dial with the driver that runs the dialogue")


#: What can be asked again, since it changes nothing. A set of classes costs a request no call.
QUESTIONS: Final = frozenset({Ping, GetHealth})
#: Reads before a change at most: a guest that sends without pause must not delay the request, nor other tasks. The
#: second one finds the end behind what the first one has read.
_LOOKS: Final = 2


def look(turns: Turns, stream: Stream) -> None:
    """Read what has come on an idle connection, before a change is written to it.

    The guest may have ended the connection long ago, and its end may be behind notifications. TCP takes what is written
    to such a connection all the same, so the change would be reported as sent. A question can be asked again: it needs
    no look. Nor does one look while a caller waits to read: that caller sees the end for itself, and would sleep on if
    the bytes were taken from it.
    """
    if not turns.idle:
        return
    session = turns.session
    calls = session.pending
    if any(call.sent for call in calls) or all(type(call.request) in QUESTIONS for call in calls):
        return
    for _ in range(_LOOKS):
        if not read(session, stream):
            break
    turns.pump()
