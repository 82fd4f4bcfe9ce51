"""What the asynchronous clients have in common: everything but waiting, writing and dialling.

A driver brings, in the words of its runtime: `_wait`, `_hang_up`, `_closed`, `bounded` and `sleep`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import attrs

from stereos_proto import Connection, Health, Reply, Request, RequestTimeout, StereosError
from stereos_proto._messages import Notification
from stereos_proto.dialogues import ReadyWait

from ._session import Call, Session, Waiting, accepted, replies
from ._verbs import AsyncActor, AsyncVerbs, Dialogue, Outcome, Report, Result

Client = TypeVar("Client", bound="AsyncClient")


class AsyncClient(AsyncVerbs):
    """A connection to a guest. Any number of tasks of one event loop may share it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        session.at_end(self._hang_up)

    @abstractmethod
    async def _wait(self, waiting: Waiting) -> None:
        """Return when `waiting` is done, and let other tasks run. Write meanwhile what the session wants written."""

    @abstractmethod
    def _hang_up(self) -> None:
        """Close the stream at once. Twice is fine."""

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
        self._hang_up()
        await self._closed()

    async def request(self, message: Request) -> Reply:
        """Send `message` and return its reply (§3). Raises what all verbs raise."""
        return accepted(message, await self._ask(message))

    async def _ask(self, message: Request) -> Reply:
        call = self._session.start(message)
        try:
            await self._wait(call)
        except BaseException:
            self._abandon((call,))
            raise
        return call.reply()

    async def request_many(self, messages: Iterable[Request]) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        return replies(await self._many(tuple(messages), lambda _index, _outcome: None))

    def notifications(self) -> AsyncIterator[Notification]:
        """Yield what the guest tells unasked, as it comes, until the client is closed.

        Raises what the connection ended in when it was not closed from here.
        """
        return _Notifications(self)

    async def _many(self, messages: Sequence[Request], report: Report) -> list[Outcome]:
        if not messages:
            await self._wait(_DONE)
        calls = self._session.start_many(messages)
        try:
            for index, call in enumerate(calls):
                await self._wait(call)
                report(index, call.ended_in())
        except BaseException:
            self._abandon(calls)
            raise
        return [call.ended_in() for call in calls]

    def _abandon(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if not call.done:
                self._session.abandon(call)

    async def _listen(self, waiting: Waiting) -> None:
        try:
            await self._wait(waiting)
        finally:
            self._session.ignore(waiting)

    async def _run(self, dialogue: Dialogue[Result]) -> Result:
        return await Actor(type(self), self).run(dialogue)

    async def _wait_within(self, wait: ReadyWait, timeout: float | None) -> Health:  # noqa: ASYNC109
        return await Actor(type(self), self).wait(wait, timeout, redial=False)


#: Waiting for this is no more than a chance for others to run, in a runtime that wants one.
_DONE: Final = Waiting(done=True)


@attrs.frozen
class _Notifications(AsyncIterator[Notification]):
    """An iterator that needs no closing, as an unfinished generator would."""

    client: AsyncClient

    async def __anext__(self) -> Notification:
        client = self.client
        await client._wait(_DONE)
        while isinstance(news := client._session.hear(), Waiting):
            await client._listen(news)
        if news is None:
            raise StopAsyncIteration
        return news


@attrs.define
class Actor(AsyncActor):
    """Runs a dialogue over one client, or over one after another that `dial` makes."""

    driver: type[AsyncClient]
    client: AsyncClient | None = None
    dial: Callable[[], Awaitable[AsyncClient]] | None = None
    heard: int = 0  # notifications, when it asked last: what came since ends a pause

    async def wait(self, wait: ReadyWait, timeout: float | None, *, redial: bool) -> Health:  # noqa: ASYNC109
        """Wait for a guest to be ready. Raises NotReady after `timeout` seconds."""
        dialogue = wait.run(redial=redial)
        try:
            return await self.driver.bounded(math.inf if timeout is None else timeout, lambda: self.run(dialogue))
        except RequestTimeout as exc:
            with suppress(RequestTimeout):
                dialogue.throw(exc)  # the try that was under way counts, too
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
        self.heard = client._session.heard
        return await client.bounded(timeout, client._ask, message)

    async def _exchange_many(self, messages: Sequence[Request], report: Report) -> list[Outcome]:
        return await self._current()._many(messages, report)

    async def _pause(self, seconds: float) -> None:
        if self.client is None or self.client._session.ended:
            await self.driver.sleep(seconds)
            return
        with suppress(RequestTimeout):
            await self.driver.bounded(seconds, self.client._listen, self.client._session.listen(self.heard))

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
