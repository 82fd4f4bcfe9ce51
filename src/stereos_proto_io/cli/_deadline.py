"""How long a command may take."""

from __future__ import annotations

import math
import time
from typing import Final

import attrs

#: Seconds that a command has where it only asks, and where it waits for a guest.
ASK_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 60.0
#: The longest duration in seconds, also used for no limit: a clock's arithmetic cannot handle arbitrary numbers.
FOREVER: Final = 365 * 86_400.0


@attrs.frozen
class Deadline:
    """A point in time, by the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The point in time `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def or_in(self, seconds: float) -> Deadline:
        """The point in time `seconds` from now, or this one where that is earlier."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    @property
    def left(self) -> float:
        """Seconds until then, 0 at least."""
        return max(self.at - time.monotonic(), 0.0)

    @property
    def tenths(self) -> float:
        """`left` as a sentence has it: in tenths, rounded up."""
        return math.ceil(self.left * 10) / 10

    def within(self, seconds: float) -> float:
        """`seconds`, or what is left where that is less."""
        return min(seconds, self.left)
