"""What the clients have in common: how outcomes are handled, and what is shown of a client."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from stereos_proto import Reply, StereosError

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
