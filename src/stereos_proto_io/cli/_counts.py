"""Numbers of things, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: "1 guest", "2 guests". `many` is the plural, where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def listed(items: Sequence[Item], most: int, show: Callable[[Item], str] = str) -> str:
    """Name `most` items at most, and say how many more there are: "a, b and 3 more"."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{', '.join(map(show, items[:most]))}{more}"
