"""Conversations with many guests on one asyncio loop: at most so many at a time, each within its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Final

import attrs

from stereos_proto import StereosError

from ._contact import Contact, OnProgress, Row
from ._contact_asyncio import AsyncContact, turn
from ._counts import counted
from ._deadline import Deadline
from ._errors import (
    DEADLINE,
    INTERRUPTED,
    REFUSED,
    GuestError,
    Interrupted,
    UsageError,
    code_of,
)
from ._signals import keeping_results
from ._targets import Target

Conversation = Callable[[Contact], Awaitable[Any]]


class NotBegun(Exception):
    """Nothing was done with this guest: enough others had failed, or there was no time left."""

    #: Whether a request that changes the guest may have left.
    sent: Final = False

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        #: The exit code that it comes to.
        self.code = code


@attrs.frozen
class Outcome:
    """What became of one guest."""

    target: Target
    row: Row
    #: What the conversation returned, None where it failed.
    value: Any = None
    #: What it failed with.
    error: Exception | None = None
    #: What is negative about the value: a result with an error in it.
    failure: Exception | None = None

    @property
    def code(self) -> int:
        """The exit code that it comes to."""
        return 0 if self.row.code is None else self.row.code

    @property
    def reason(self) -> Exception | None:
        """Why it is no success, None where it is one."""
        return self.error or self.failure


@attrs.frozen
class Limits:
    """How many, how long, and when to stop."""

    #: Guests that are talked to at the same time.
    parallel: int
    #: Seconds that each guest has, from the moment when it is its turn.
    seconds: float
    #: When all have to be done.
    end: Deadline
    #: After so many guests that failed, no other is begun. None is never.
    max_failures: int | None = None
    #: Whether the wire is shown.
    trace: bool = False
    #: Whether the conversations have no end of their own: `parallel` then counts those that dial or wait for a reply.
    endless: bool = False


OnRow = Callable[[Row], None]
#: Says what is negative about the value of a guest, None where nothing is.
Judge = Callable[[Target, Row, Any], Exception | None]
Beside = Callable[[], AbstractContextManager[None]]


class Fleet:
    """The guests of one command, what is known of each, and their conversations."""

    def __init__(self, targets: Sequence[Target], limits: Limits, judge: Judge, failed: Iterable[Outcome] = ()) -> None:
        self._targets = targets
        self._limits = limits
        self._judge = judge
        self._failures = sum(not isinstance(each.error, NotBegun) for each in failed)
        #: Is told of each change of a row.
        self.on_change: OnRow = lambda _row: None
        #: What has all the conversations, while they last.
        self._task: asyncio.Task[Any] | None = None
        #: Whether the user ended it.
        self.interrupted = False
        self.rows = [Row(target.name) for target in targets]

    def run(self, conversation: Conversation, *, beside: Beside | None = None) -> list[Outcome]:
        """Have one conversation with each guest; return what became of each, in order, however they ended.

        `beside` is entered in the loop, for as long as the conversations last.

        Raises the interruption that ended it, unless the caller keeps the results (`keeping_results`).
        """
        # An exception in the middle of whatever an event loop does may be taken for that of a task, or be lost.
        with keeping_results(self._stop):
            return asyncio.run(self._run(conversation, beside or nullcontext))

    def _stop(self) -> None:
        self.interrupted = True
        if self._task is not None:
            # As asyncio itself does on Ctrl-C.
            self._task.cancel()
            self._task.get_loop().call_soon_threadsafe(lambda: None)

    async def _run(self, conversation: Conversation, beside: Beside) -> list[Outcome]:
        self._task = asyncio.current_task()
        if self.interrupted:
            self._stop()
        try:
            with beside():
                return await self._gathered(conversation)
        finally:
            self._task = None

    async def _gathered(self, conversation: Conversation) -> list[Outcome]:
        room = asyncio.Semaphore(self._limits.parallel)
        outcomes: list[Outcome | None] = [None] * len(self._targets)

        async def settle(index: int) -> None:
            # Kept here and not as the task's result: a task that Ctrl-C finds at its last step ends as cancelled.
            outcomes[index] = await self._one(self._targets[index], self.rows[index], room, conversation)

        tasks = [asyncio.create_task(settle(index)) for index in range(len(self._targets))]
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            # Ctrl-C: what is known of each guest is still to be shown.
            self.interrupted = True
            await asyncio.gather(*tasks, return_exceptions=True)
        return [
            outcome or self._failed(target, row, NotBegun(_INTERRUPTED_BEFORE, INTERRUPTED), INTERRUPTED)
            for outcome, target, row in zip(outcomes, self._targets, self.rows, strict=True)
        ]

    async def _one(self, target: Target, row: Row, room: asyncio.Semaphore, conversation: Conversation) -> Outcome:
        try:
            # A conversation without an end would keep its place for ever.
            async with nullcontext() if self._limits.endless else room:
                value = await self._converse(target, row, room, conversation)
        except NotBegun as exc:
            return self._failed(target, row, exc, exc.code)
        except (GuestError, UsageError) as exc:
            exc.sent = row.sent
            return self._failed(target, row, exc, code_of(exc))
        except asyncio.CancelledError:
            if row.step == _NOT_YET:
                return self._failed(target, row, NotBegun(_INTERRUPTED_BEFORE, INTERRUPTED), INTERRUPTED)
            return self._failed(target, row, Interrupted(row.step, sent=row.sent), INTERRUPTED)
        failure = self._judge(target, row, value)
        if failure is not None:
            self._count(target, row, failure)
        self._settle(row, code_of(failure))
        return Outcome(target, row, value, failure=failure)

    async def _converse(self, target: Target, row: Row, room: asyncio.Semaphore, conversation: Conversation) -> Any:
        limits = self._limits
        if limits.max_failures is not None and self._failures >= limits.max_failures:
            raise NotBegun(f"not begun: {counted(self._failures, 'guest')} had failed", REFUSED)
        if not limits.end.left:
            raise NotBegun("not begun: there was no time left", DEADLINE)
        contact = AsyncContact(
            target, limits.end.or_in(limits.seconds), _silent_wait, self._changed, trace=limits.trace
        )
        contact.row = row
        if limits.endless:
            contact.turn = partial(turn, room, contact.deadline)
        try:
            target.reached()
            return await conversation(contact)
        except StereosError as exc:
            raise GuestError(contact.sentence(exc), exc) from exc
        finally:
            await contact.close()

    def _failed(self, target: Target, row: Row, error: Exception, code: int) -> Outcome:
        self._count(target, row, error)
        self._settle(row, code)
        return Outcome(target, row, error=error)

    def _count(self, target: Target, row: Row, error: Exception) -> None:
        self._failures += not isinstance(error, NotBegun)
        row.error = str(error).removeprefix(f"{target.name}: ")

    def _settle(self, row: Row, code: int) -> None:
        row.code = code
        self._changed(row)

    def _changed(self, row: Row) -> None:
        self.on_change(row)


_NOT_YET: Final = Row("").step
_INTERRUPTED_BEFORE: Final = "interrupted before it was its turn"


@contextmanager
def _silent_wait(_subject: str, _target: Target) -> Iterator[OnProgress]:
    """The table shows the wait."""
    yield lambda _progress: None
