"""A dialogue that is being run: the part that every runner has in common, without IO and without a clock.

A runner asks for the first action with `resume(None, now)`, carries each action out, and gives back what came of it
with `resume`. The whole time of the dialogue is bounded here: an action that the dialogue yields after its deadline is
not carried out, so nothing is sent too late; TimeUp is thrown into the dialogue at that place instead.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import attrs

from ._errors import RequestTimeout, StereosError
from .dialogues import Action, TimeUp

Result = TypeVar("Result")

#: What a dialogue is, for type checkers: it yields actions and returns its result.
Dialogue = Generator[Action, Any, Result]

#: Seconds that a timer of an event loop may fire too early.
_EARLY: Final = 0.01

#: How often a dialogue may go on after TimeUp before it is closed.
_PATIENCE: Final = 3


@attrs.define(eq=False)
class Running(Generic[Result]):
    """A dialogue and its deadline (§3). `resume` returns the next action, or None when `result` is there."""

    # The generator.
    dialogue: Dialogue[Result]
    # When its time is up, on the runner's clock. None: never.
    deadline: float | None = None
    # The time that it was given, in seconds, for the error.
    seconds: float = 0.0
    # What the dialogue returned.
    result: Any = attrs.field(default=None, init=False)

    def resume(self, value: Any, now: float) -> Action | None:
        """Go on with what came of the last action; None begins. A StereosError is thrown into the dialogue.

        Raises what the dialogue raises.
        """
        if type(value) is RequestTimeout and self.deadline is not None and now >= self.deadline - _EARLY:
            # What was bounded by the time of the whole dialogue.
            value = TimeUp(str(value), seconds=self.seconds, request=value.request, sent=value.sent)
        try:
            failed = isinstance(value, StereosError)
            action = self.dialogue.throw(value) if failed else self.dialogue.send(value)
            for _ in range(_PATIENCE):
                if self.deadline is None or now < self.deadline:
                    return action
                action = self.dialogue.throw(self._time_up())
        except StopIteration as stop:
            self.result = stop.value
            return None
        self.dialogue.close()
        raise self._time_up()

    def fail(self, error: BaseException) -> None:
        """Tell the dialogue that it was ended by `error` from outside, such as a cancellation, and close it.

        It may add a note to the error that says where it stood.
        """
        with suppress(BaseException):
            self.dialogue.throw(error)
        self.dialogue.close()

    def until(self, seconds: float | None, now: float) -> float | None:
        """Return when an action that may take `seconds` has to be over, on the runner's clock. None: no bound."""
        until = None if seconds is None else now + seconds
        if self.deadline is None or until is None:
            return until if self.deadline is None else self.deadline
        return min(self.deadline, until)

    def _time_up(self) -> TimeUp:
        return TimeUp(f"{self.seconds:g} s have passed", seconds=self.seconds, sent=False)
