"""Numbers that come from a file or a guest: what no float holds is refused, or null."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> float:
    """`value` as a float. Raises ValueError and TypeError where it is none, or not finite."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("it must be a finite number")
    return number


def writable(value: Any) -> Any:
    """A JSON value with null in the place of numbers that JSON cannot write: `1e400` is read as infinite."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: writable(each) for name, each in value.items()}
        case list():
            return [writable(each) for each in value]
        case _:
            return value
