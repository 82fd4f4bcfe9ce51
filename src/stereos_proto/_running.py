"""A dialogue that is being run: the part that every runner has in common, without IO and without a clock.

A runner asks for the first action with `resume(None, now)`, carries each action out, and gives back what came of it
with `resume`. The whole time of the dialogue is bounded here: an action that the dialogue yields after its deadline is
not carried out, so nothing is sent too late; TimeUp is thrown into the dialogue at that place instead. If a
runner has set `ended`, that error is thrown in the same way.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import suppress
from inspect import GEN_CREATED, getgeneratorstate
from math import inf
from types import GeneratorType
from typing import Any, Final, Generic

import attrs

from ._errors import RequestTimeout, StereosError
from ._messages import with_article
from ._timeouts import in_words, seconds
from .dialogues import Action, Dialogue, Result, TimeUp

#: Seconds that a timer of an event loop may fire too early.
_EARLY: Final = 0.01

#: How often a dialogue may go on after TimeUp, or after the end of its client, before it is closed.
_PATIENCE: Final = 3


def _is_generator(_running: object, _attribute: object, dialogue: object) -> None:
    if not isinstance(dialogue, Generator):
        raise TypeError(f"a dialogue is a generator, not {type(dialogue).__name__}; a function has to be called")
    # Another kind of `Generator` cannot be asked.
    if isinstance(dialogue, GeneratorType) and getgeneratorstate(dialogue) != GEN_CREATED:
        raise ValueError("this dialogue was begun before: call the generator function again for a new one")


@attrs.define(eq=False)
class Running(Generic[Result]):
    """A dialogue and its deadline (§3). `resume` returns the next action, or None when `result` is there.

    Raises TypeError when the dialogue is not a generator, ValueError when it was begun before.
    """

    # The generator.
    dialogue: Dialogue[Result] = attrs.field(validator=_is_generator)
    # When its time is up, on the runner's clock. None: never.
    deadline: float | None = None
    # The time that it was given, in seconds, for the error.
    seconds: float = 0.0
    # Why it cannot begin anything any more, such as that its client was closed. None: it can.
    ended: StereosError | None = attrs.field(default=None, init=False)
    # What the dialogue returned.
    result: Any = attrs.field(default=None, init=False)

    def resume(self, value: Any, now: float) -> Action | None:
        """Go on with what came of the last action; None begins. A StereosError is thrown into the dialogue.

        Raises what the dialogue raises, TypeError when it yields anything but an action.
        """
        if type(value) is RequestTimeout and self.deadline is not None and now >= self.deadline - _EARLY:
            # What was bounded by the time of the whole dialogue.
            value = TimeUp(str(value), seconds=self.seconds, request=value.request, sent=value.sent)
        patience = _PATIENCE
        try:
            failed = isinstance(value, StereosError)
            action = self.dialogue.throw(value) if failed else self.dialogue.send(value)
            while (over := self._over(now)) is not None:
                if not patience:
                    self.dialogue.close()
                    raise over
                patience -= 1
                action = self.dialogue.throw(over)
        except StopIteration as stop:
            self.result = stop.value
            return None
        if not isinstance(action, Action):
            error = TypeError(f"a dialogue must yield actions, not {with_article(type(action))}")
            self.fail(error)
            raise error
        return action

    def fail(self, error: BaseException) -> None:
        """Tell the dialogue that it was ended by `error` from outside, such as a cancellation, and close it.

        It may add a note to the error that says where it stood.
        """
        with suppress(BaseException):
            self.dialogue.throw(error)
        # It may yield once more as it is closed. What ended it counts for more.
        with suppress(RuntimeError):
            self.dialogue.close()

    def until(self, timeout: float | None, now: float) -> float | None:
        """Return when an action that may take `timeout` seconds has to be over, on the runner's clock. None: no bound.

        Raises TypeError, ValueError as `seconds` does.
        """
        ends = now + seconds(timeout)
        if self.deadline is not None:
            ends = min(ends, self.deadline)
        return None if ends == inf else ends

    def _over(self, now: float) -> StereosError | None:
        """Why the dialogue must begin nothing new; None: it may."""
        if self.ended is not None:
            return copy.copy(self.ended)
        if self.deadline is None or now < self.deadline:
            return None
        return TimeUp(f"{in_words(self.seconds)} have passed", seconds=self.seconds, sent=False)
