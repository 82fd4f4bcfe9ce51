"""What the explorations have in common: a breadth-first search of all that can happen."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from stereos_proto import Connection


class Found(NamedTuple):
    """How much a search saw."""

    states: int
    transitions: int

    def __str__(self) -> str:
        return f"{self.states:,} states, {self.transitions:,} transitions"


class Broken(AssertionError):
    """A rule that does not hold, with the shortest history that breaks it."""


def shallow(thing: Any) -> Any:
    """Like `copy.copy`, which takes ten times as long."""
    twin = object.__new__(type(thing))
    if hasattr(thing, "__dict__"):
        twin.__dict__.update(thing.__dict__)
    else:
        for name in set(thing.__slots__) - {"__weakref__"}:
            setattr(twin, name, getattr(thing, name))
    return twin


def connection_of_its_own(connection: Connection) -> Connection:
    """A copy of a connection that goes its own way."""
    twin = shallow(connection)
    twin._lines = lines = shallow(connection._lines)
    if isinstance(lines._buffer, bytearray):
        lines._buffer = lines._buffer[:]
    twin._conversation = conversation = shallow(connection._conversation)
    conversation.states, conversation.pending = conversation.states.copy(), conversation.pending.copy()
    twin._feed, twin._next_line, twin._take = lines.feed, lines.next_line, conversation.message
    return twin


def steps(history: tuple[Any, Any] | None) -> list[Any]:
    """The operations of a history, first one first."""
    found = []
    while history is not None:
        history, operation = history
        found.append(operation)
    return found[::-1]


def search(
    first: Any, possible: Callable[[Any], Iterable[tuple[Any, ...]]], step: Callable[[Any, tuple[Any, ...]], Any]
) -> Found:
    """Follow every operation that is `possible` in a world, from `first` on. Raises Broken.

    `step` returns the world after an operation, or None where it is not followed, and raises when a rule is broken.
    Worlds with the same `state` are followed once. `history` is what led to a world, and `config` what it is about.
    """
    known = {first.state()}
    queue = deque([first])
    transitions = 0
    gc.disable()  # it would look through all states again and again
    try:
        while queue:
            world = queue.popleft()
            for operation in possible(world):
                transitions += 1
                try:
                    after = step(world, operation)
                except Exception as exc:
                    history = " ".join(map(str, [*steps(world.history), operation]))
                    raise Broken(f"{exc!r} after {history} in {first.config}") from exc
                if after is None:
                    continue
                state = after.state()
                if state not in known:
                    known.add(state)
                    after.history = (world.history, operation)
                    queue.append(after)
    finally:
        gc.enable()
    return Found(len(known), transitions)


def print_counts(configs: Iterable[Any], explore: Callable[[Any], Found]) -> None:
    """Search them all, and print the counts."""
    for config in configs:
        start = time.monotonic()
        found = explore(config)
        seconds = time.monotonic() - start
        print(f"{config}: {found} in {seconds:.0f} s", flush=True)
