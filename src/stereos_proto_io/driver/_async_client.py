"""What the asynchronous clients have in common: everything but waiting, writing and dialling.

`AsyncClient` is for runtimes with transports of their own, which call back (asyncio). `FdClient` is for runtimes
that wait for descriptors.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Self, TypeVar, Unpack

import attrs

from stereos_proto import (
    MAX_PENDING,
    Call,
    Connection,
    Dialogue,
    HostSession,
    Mailbox,
    Notification,
    Reply,
    Request,
    RequestTimeout,
    Role,
    Running,
    StereosError,
    Turns,
    Waiter,
    forget_locals,
    seconds,
)
from stereos_proto.dialogues import Action, Backoff, Connect, Send, SendMany, Sleep, WaitProgress
from stereos_proto_io._errors import no_answer
from stereos_proto_io.addresses import Address

from ._async_dial import Connecting
from ._log import log_for, logger
from ._outcomes import again, expect, replies, shown
from ._verbs import AsyncVerbs, Limits, ReplyT, Result, check_limits, ready_wait

Client = TypeVar("Client", bound="AsyncClient")


class AsyncClient(AsyncVerbs):
    """A connection to a guest (§3). Any number of tasks of one event loop may share it.

    A driver brings `_dial`, `_wait`, `_hang_up`, `_closed`, `_bounded` and `_sleep`, in the words of its runtime;
    `_current_loop`, where it can tell its loops apart; `_now`, where its clock is not `time.monotonic`.
    """

    def __init__(
        self,
        label: str = "the guest",
        *,
        max_pending: int = MAX_PENDING,
        max_notifications: int | None = None,
        trace: Callable[[Role, bytes], object] | None = None,
    ) -> None:
        log = log_for(label)
        self._label = label
        self._session = session = HostSession(label, max_pending=max_pending, trace=trace, log=log)
        self._mailbox = Mailbox(log=log) if max_notifications is None else Mailbox(max_notifications, log=log)
        self._turns = Turns(session, self._mailbox)
        # The loop that the client belongs to.
        self._loop = self._current_loop()

    # -- what a driver brings ------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    async def _dial(cls, address: Address, limits: Limits) -> Self:
        """Return a client over a new stream to `address`. Raises ConnectError."""

    @abstractmethod
    async def _wait(self, waiter: Waiter | Call[Any]) -> None:
        """Write what there is to write, and return when `waiter` is done. Let other tasks run in any case."""

    @abstractmethod
    def _hang_up(self) -> None:
        """Close the stream at once. Twice is fine."""

    @abstractmethod
    async def _closed(self) -> None:
        """Return when the stream is closed and everything that belongs to it is released."""

    @staticmethod
    def _current_loop() -> Any:
        """Return an object that identifies the running event loop. Raises RuntimeError where none is running."""
        return None

    @classmethod
    @abstractmethod
    async def _bounded(cls, limit: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout when `limit` seconds have passed first."""

    @classmethod
    @abstractmethod
    async def _sleep(cls, limit: float) -> None:
        """Sleep for `limit` seconds; a negative number counts as 0."""

    @classmethod
    def _now(cls) -> float:
        """Return the time of the clock that `_bounded` and `_sleep` go by, in seconds."""
        return time.monotonic()

    # -- for users -----------------------------------------------------------------------------------------

    @classmethod
    def connect(cls, address: Address, **limits: Unpack[Limits]) -> Connecting[Self]:
        """Dial a guest. Await this for a client, or enter it with `async with … as client`.

        `limits` are those of `Client.attach`. A connection does not mean that the guest is there (§8): see
        `connect_when_ready`.

        Raises ConnectError; ValueError and TypeError for a bad limit, before it dials.
        """
        check_limits(**limits)
        return Connecting(lambda: cls._dial(address, limits))

    @classmethod
    def connect_when_ready(
        cls,
        address: Address,
        *,
        timeout: float | None = None,
        states: Collection[str] | None = None,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        **limits: Unpack[Limits],
    ) -> Connecting[Self]:
        """Dial until there is a guest, and wait until it is ready; to be awaited or entered like `connect`.

        Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again (§8).
        `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`. `timeout` bounds it all,
        in seconds (None: no bound). So does a scope of your own: a traceback then says where the wait stood.

        Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
        RemoteProtocolError when what answers does not speak the protocol.
        """
        wait = ready_wait(states, agents, backoff, on_progress)
        limit = seconds(timeout)
        check_limits(**limits)

        async def make() -> Self:
            runner = AsyncRunner(cls, dial=lambda: cls._dial(address, limits), label=str(address))
            try:
                await runner.run(wait.run(redial=True), limit)
            except BaseException:
                await runner.aclose()
                raise
            return runner.found(cls)

        return Connecting(make)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return self._session.__reduce__()

    def __repr__(self) -> str:
        return shown(self)

    @property
    def connection(self) -> Connection:
        """The protocol's state machine, for its states and what is pending. Do not feed it."""
        return self._session.connection

    @property
    def dropped_notifications(self) -> int:
        """How many notifications were dropped because more were waiting than are kept."""
        return self._mailbox.dropped

    async def aclose(self) -> None:
        """Close the connection. Twice is fine.

        Tasks that still wait get a ConnectionLost, or an OutcomeUnknown for a change that was sent. A `provision`
        that is under way returns its report instead: it says which steps are done, unknown, and not sent.
        """
        self._check_loop()
        self._session.close()
        self._turns.pump()
        self._hang_up()
        await self._closed()

    async def request(self, message: Request[ReplyT]) -> ReplyT:
        """Send `message` and return its reply (§3). Bound it with a scope of the runtime's own.

        Raises RequestFailed, ConnectionLost, RemoteProtocolError and LocalProtocolError, as each verb does.
        """
        # Not split into helper methods: function calls dominate the cost of a small request.
        if self._current_loop() is not self._loop:
            self._check_loop()
        call = self._session.request(message)
        try:
            await self._wait(call)
        except BaseException as exc:
            self._give_up((call,))
            forget_locals(exc)
            raise
        return call.result()

    async def request_many(self, messages: Iterable[Request]) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        return replies(await self._ask_many(tuple(messages), lambda _index, _outcome: None))

    def notifications(self) -> AsyncIterator[Notification]:
        """Yield the notifications of the guest as they arrive, until the client is closed.

        That is a `Lifecycle`, or an `UnknownMessage` where its type has no class here (§4): look at the class first.

        Each notification goes to one iterator: several of one client share them. For several consumers, let one task
        iterate and hand each on.

        At most `max_notifications` (1,024 by default) and 1 MiB are kept for it: `dropped_notifications` counts the
        others.

        Raises what the connection ended in, ConnectionLost or RemoteProtocolError, when it was not closed from here.
        """
        return _Notifications(self)

    async def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Run a dialogue over this connection, within `timeout` seconds (None: no bound), and return its result.

        Raises what the dialogue raises; TypeError when it is not a generator, ValueError when it was begun before.
        """
        return await AsyncRunner(type(self), self).run(dialogue, seconds(timeout))

    # -- asking --------------------------------------------------------------------------------------------

    def _check_loop(self) -> None:
        """Raise RuntimeError when the caller runs in another event loop than the client's."""
        if self._current_loop() is not self._loop:
            raise RuntimeError("this client belongs to another event loop; use it in the loop that made it")

    async def _ask_within(self, limit: float, message: Request[ReplyT]) -> Call[ReplyT]:
        """Send `message` and wait for its outcome, for `limit` seconds at most."""
        self._check_loop()
        call = self._session.request(message)
        try:
            if limit > 0:
                await self._bounded(limit, self._wait, call)
            else:
                self._give_up((call,), timed_out=True)
        except RequestTimeout:
            self._give_up((call,), timed_out=True)
        except BaseException as exc:
            self._give_up((call,))
            forget_locals(exc)
            raise
        return call

    def _give_up(self, calls: Iterable[Call[Any]], *, timed_out: bool = False) -> None:
        """Cancel the calls that are not done.

        Where writing has failed, the last written call that is given up ends the session: then the others are told.
        """
        for call in calls:
            self._session.cancel(call, timed_out=timed_out)
        if self._session.ended is not None:
            self._turns.pump()
            self._hang_up()

    async def _ask_many(
        self, messages: Sequence[Request], report: Callable[[int, Any], object], limit: float = inf
    ) -> list[Reply | StereosError]:
        """Send `messages`, wait for all outcomes, for `limit` seconds at most, and report each as it settles."""
        self._check_loop()
        calls = self._session.request_many(messages)
        self._look()
        deadline = self._now() + limit
        late = False
        try:
            if not calls:
                await self._wait(Waiter(done=True))
            for index, call in enumerate(calls):
                if not late and (late := limit <= 0 or not await self._is_done(call, deadline)):
                    self._give_up(calls[index:], timed_out=True)
                report(index, call.outcome)
        except BaseException as exc:
            self._give_up(calls)
            forget_locals(exc)
            raise
        return [call.outcome for call in calls]  # type: ignore[misc]

    def _look(self) -> None:
        """Read what has come on an idle connection before a change is written. For drivers that read only on demand."""

    async def _is_done(self, call: Call[Any], deadline: float) -> bool:
        """Wait for `call` until `deadline` at most; return whether it is done."""
        if deadline == inf:
            await self._wait(call)
        else:
            # Only the wait is bounded: a RequestTimeout that a report raises is not ours.
            with suppress(RequestTimeout):
                await self._bounded(max(deadline - self._now(), 0.0), self._wait, call)
        return call.done

    async def _listen(self, waiter: Waiter, after: int | None = None) -> None:
        self._mailbox.listen(waiter, after=after)
        try:
            await self._wait(waiter)
        finally:
            self._mailbox.ignore(waiter)


@attrs.frozen
class _Notifications(AsyncIterator[Notification]):
    """An iterator that needs no closing, as an unfinished generator would."""

    client: AsyncClient

    async def __anext__(self) -> Notification:
        client = self.client
        client._check_loop()
        await client._wait(Waiter(done=True))
        while (news := client._mailbox.take()) is None:
            ended = client._session.ended
            if ended is None:
                await client._listen(Waiter())
            elif client._session.closed:
                raise StopAsyncIteration
            else:
                raise again(ended)
        return news


class AsyncRunner:
    """Runs dialogues for callers that await: over one client, or over one after another that `dial` makes (§3).

    `label` names the guest in errors.
    """

    def __init__(
        self,
        driver: type[AsyncClient],
        client: AsyncClient | None = None,
        *,
        dial: Callable[[], Awaitable[AsyncClient]] | None = None,
        label: str = "the guest",
    ) -> None:
        self.client = client
        self._label = label if client is None else client._session.label
        self._driver = driver
        self._dial = dial
        # The count of notifications when the last request was sent: later notifications end a Sleep.
        self._heard = 0

    async def run(self, dialogue: Dialogue[Result], limit: float = inf) -> Result:
        """Run `dialogue` within `limit` seconds and return its result. Raises what it raises."""
        running = Running(dialogue, None if limit == inf else self._driver._now() + limit, limit)
        if self.client is not None:
            self._heard = self.client._mailbox.heard
        try:
            action = running.resume(None, self._driver._now())
            if action is None:
                await self._driver._sleep(0)  # a verb lets other tasks run, also where there is nothing to do
            while action is not None:
                action = running.resume(await self._perform(action, running), self._driver._now())
        except BaseException as exc:
            running.fail(exc)
            if isinstance(exc, StereosError):
                exc.about(self._label)
            raise
        result: Result = running.result
        return result

    async def _perform(self, action: Action, running: Running[Any]) -> Any:
        try:
            if isinstance(action, Send):
                client = self._current()
                self._heard = client._mailbox.heard
                return (await client._ask_within(self._left(running, action.timeout), action.message)).outcome
            if isinstance(action, Sleep):
                return await self._pause(action, self._left(running, action.seconds))
            if isinstance(action, SendMany):
                ask = self._current()._ask_many
                return await ask(action.messages, action.on_outcome, self._left(running, None))
            return await self._connect(action, self._left(running, action.timeout))
        except StereosError as exc:
            return exc.with_traceback(None)

    def _left(self, running: Running[Any], limit: float | None) -> float:
        now = self._driver._now()
        until = running.until(limit, now)
        return inf if until is None else until - now

    def _current(self) -> AsyncClient:
        if self.client is None:
            raise RuntimeError("the dialogue has not connected yet")
        return self.client

    async def _connect(self, action: Connect, limit: float) -> None:
        if self._dial is None:
            raise RuntimeError(f"this dialogue cannot dial, but yielded {action}; AsyncRunner(…, dial=…) can")
        if self.client is not None:
            logger.debug("%s: the connection is dropped, to dial again", self.client._session.label)
        await self.aclose()
        try:
            self.client = await self._driver._bounded(limit, self._dial)
        except RequestTimeout as exc:
            raise no_answer(self._label) from exc

    async def _pause(self, action: Sleep, limit: float) -> None:
        client, start = self.client, self._driver._now()
        if client is None or client._session.ended is not None:
            await self._driver._sleep(limit)
            return
        try:
            await self._driver._bounded(limit, client._listen, Waiter(), self._heard)
        except RequestTimeout:
            return
        # A notification ends one Sleep, not all that follow.
        self._heard = client._mailbox.heard
        least = min(action.least, limit)
        await self._driver._sleep(start + least - self._driver._now())

    async def aclose(self) -> None:
        """Close the client that there is."""
        if self.client is not None:
            client, self.client = self.client, None
            await client.aclose()

    def found(self, driver: type[Client]) -> Client:
        """Return the client that the dialogue ended with. Raises TypeError when it is no `driver`."""
        return expect(self._current(), driver)
