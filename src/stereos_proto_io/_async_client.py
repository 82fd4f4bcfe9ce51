"""What the asynchronous clients have in common: everything but waiting, writing and dialling.

A driver brings, in the words of its runtime: a waiter, `_flush`, `_until`, `_hang_up`, `_closed`, `bounded` and
`sleep`.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, Self, TypeVar

import attrs

from stereos_proto import Connection, Health, Reply, Request, RequestTimeout, StereosError
from stereos_proto._messages import Notification
from stereos_proto.dialogues import ReadyWait

from ._session import Call, Session, accepted
from ._verbs import AsyncActor, AsyncVerbs, Dialogue, Outcome, Result

Client = TypeVar("Client", bound="AsyncClient")


class Waiter(Protocol):
    """One task that waits. Being woken for nothing is harmless."""

    def wake(self) -> None:
        """Let the task look again."""
        ...


class AsyncClient(AsyncVerbs):
    """A connection to a guest. Any number of tasks of one event loop may share it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._listeners: list[Waiter] = []
        session.on_notification = self._wake_listeners

    @abstractmethod
    def _waiter(self) -> Waiter:
        """Return a waiter for the current task."""

    @abstractmethod
    async def _flush(self, call: Call) -> None:
        """Write what the session wants written, at least until the line of `call` is under way."""

    @abstractmethod
    async def _until(self, done: Callable[[], bool], waiter: Any) -> None:
        """Return when `done`, or when the session has ended."""

    @abstractmethod
    def _hang_up(self) -> None:
        """Close the stream at once."""

    @abstractmethod
    async def _closed(self) -> None:
        """Return when the stream is closed and everything that belongs to it is released."""

    @staticmethod
    @abstractmethod
    async def bounded(seconds: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout when `seconds` have passed first."""

    @staticmethod
    @abstractmethod
    async def sleep(seconds: float) -> None:
        """Sleep."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        runtime = type(self).__module__.rpartition(".")[2]
        return f"<{runtime}.Client {self._session.label} {'closed' if self._session.ended else 'open'}>"

    @property
    def connection(self) -> Connection:
        """The protocol's state machine, for its states and what is pending. Do not feed it."""
        return self._session.connection

    @property
    def dropped_notifications(self) -> int:
        """How many notifications were dropped because nobody took them in time."""
        return self._session.dropped_notifications

    async def aclose(self) -> None:
        """Close the connection. Whoever still waits gets a ConnectionLost. Closing twice is fine."""
        self._session.close()
        # What is still unwritten belongs to requests that nobody waits for any more.
        self._hang_up()
        await self._closed()

    async def request(self, message: Request) -> Reply:
        """Send `message` and return its reply. See `AsyncVerbs` for the errors."""
        return accepted(message, await self._ask(message))

    async def _ask(self, message: Request) -> Reply:
        waiter = self._waiter()
        call = self._session.start(message, waiter.wake)
        try:
            await self._flush(call)
            if call.outcome is None:
                await self._until(lambda: call.outcome is not None, waiter)
        except BaseException:
            self._abandon([call])
            raise
        return call.reply()

    async def request_many(self, messages: Iterable[Request]) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        replies: list[Reply] = []
        for outcome in await self._many(tuple(messages), lambda _index, _outcome: None):
            if isinstance(outcome, StereosError):
                raise outcome
            replies.append(outcome)
        return replies

    async def notifications(self) -> AsyncIterator[Notification]:
        """Yield what the guest tells unasked, as it comes, until the client is closed.

        Raises what the connection ended in when it was not closed from here.
        """
        session = self._session
        while True:
            while (message := session.take_notification()) is not None:
                yield message
            if session.ended is not None:
                if session.closed:
                    return
                raise copy.copy(session.ended)
            await self._listen(lambda: session.has_notification)

    async def _many(self, messages: Sequence[Request], report: Callable[[int, Outcome], None]) -> list[Outcome]:
        waiter = self._waiter()
        calls = self._session.start_many(messages, waiter.wake)
        outcomes: list[Outcome] = []
        try:
            for index, call in enumerate(calls):
                await self._flush(call)
                await self._until(lambda: call.outcome is not None, waiter)  # noqa: B023  (awaited here)
                if call.outcome is not None:
                    outcomes.append(call.outcome)
                    report(index, call.outcome)
        except BaseException:
            self._abandon(calls)
            raise
        return outcomes

    def _abandon(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.outcome is None:
                self._session.abandon(call)
        if self._session.ended:
            self._hang_up()

    async def _listen(self, done: Callable[[], bool]) -> None:
        waiter = self._waiter()
        self._listeners.append(waiter)
        try:
            await self._until(done, waiter)
        finally:
            self._listeners.remove(waiter)

    def _wake_listeners(self) -> None:
        for waiter in self._listeners:
            waiter.wake()

    async def _run(self, dialogue: Dialogue[Result]) -> Result:
        return await Actor(type(self), self).run(dialogue)

    async def _wait_within(self, wait: ReadyWait, timeout: float | None) -> Health:  # noqa: ASYNC109
        return await Actor(type(self), self).wait(wait, timeout, redial=False)


@attrs.define
class Actor(AsyncActor):
    """Runs a dialogue over one client, or over one after another that `dial` makes."""

    driver: type[AsyncClient]
    client: AsyncClient | None = None
    dial: Callable[[], Awaitable[AsyncClient]] | None = None

    async def wait(self, wait: ReadyWait, timeout: float | None, *, redial: bool) -> Health:  # noqa: ASYNC109
        """Wait for a guest to be ready. Raises NotReady after `timeout` seconds."""
        try:
            return await self.driver.bounded(
                math.inf if timeout is None else timeout, self.run, wait.run(redial=redial)
            )
        except RequestTimeout as exc:
            raise wait.progress.not_ready(f"{timeout:g} s have passed") from (wait.progress.error or exc)
        except BaseException as exc:
            if not isinstance(exc, StereosError):
                # The caller's own scope ended the wait. Its error will show where the wait stood.
                exc.add_note(f"while waiting for the guest to be ready: {wait.progress}")
            raise

    async def close(self) -> None:
        """Close the client that there is."""
        if self.client is not None:
            client, self.client = self.client, None
            await client.aclose()

    async def _connect(self, timeout: float) -> None:  # noqa: ASYNC109
        await self.close()
        if self.dial is None:
            raise RuntimeError("this dialogue has nothing to dial")
        self.client = await self.driver.bounded(timeout, self.dial)

    async def _exchange(self, message: Request, timeout: float) -> Reply:  # noqa: ASYNC109
        client = self._current()
        return await client.bounded(timeout, client._ask, message)

    async def _exchange_many(
        self, messages: Sequence[Request], report: Callable[[int, Outcome], None]
    ) -> list[Outcome]:
        return await self._current()._many(messages, report)

    async def _pause(self, seconds: float) -> None:
        if self.client is None or self.client._session.ended:
            await self.driver.sleep(seconds)
            return
        session = self.client._session
        heard = session.heard
        with suppress(RequestTimeout):
            await self.driver.bounded(seconds, self.client._listen, lambda: session.heard != heard)

    def _current(self) -> AsyncClient:
        if self.client is None:
            raise RuntimeError("the dialogue has not connected yet")
        return self.client

    def found(self, driver: type[Client]) -> Client:
        """The client that the dialogue ended with."""
        client = self._current()
        if not isinstance(client, driver):
            raise TypeError(f"this is no {driver.__name__}")
        return client
