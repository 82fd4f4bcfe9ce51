"""What the clients have in common: how outcomes are handled, and what is shown of a client."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from stereos_proto import Call, GetHealth, HostSession, Ping, Reply, StereosError

from ._streams import READ_SIZE

Error = TypeVar("Error", bound=StereosError)


def again(error: Error) -> Error:
    """Return a copy of `error` with its cause: each caller gets an exception with a traceback of its own."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


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
    name = f"{type(client).__module__.rpartition('.')[2]}.Client"
    session = getattr(client, "_session", None)
    if session is None:
        return f"<{name}, not made>"
    return f"<{name} {session.label} {'closed' if session.ended else 'open'}>"


#: What can be asked again, since it changes nothing. A set of classes costs a request no call.
QUESTIONS: Final = frozenset({Ping, GetHealth})
#: Reads that a look makes at most, so that a guest that never stops sending holds nobody.
_LOOKS: Final = 8


def needs_a_look(calls: Iterable[Call[Any]]) -> bool:
    """Whether to read what has come before `calls`, which are all that are open, are written.

    A guest may have ended a connection on which nothing was asked for long, and TCP takes what is written to it all the
    same: a change would be reported as sent. A question can be asked again, so none needs the look.
    """
    calls = [*calls]
    return any(type(call.request) not in QUESTIONS for call in calls) and not any(call.sent for call in calls)


def look(session: HostSession, receive: Callable[[int], bytes]) -> None:
    """Read what has come on an idle connection: its end may be behind notifications."""
    for _ in range(_LOOKS):
        try:
            data = receive(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            session.read_failed(exc)
            return
        if not data:
            session.receive_eof()
            return
        session.receive_data(data)
