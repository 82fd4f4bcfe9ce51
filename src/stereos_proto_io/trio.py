"""The client for trio. Any number of tasks may share it.

There is no task behind it, and no nursery needed: whoever waits first reads for all, and hands over to the
next who waits when it has its own reply (leader and followers). `notifications()`, run in a nursery of yours,
is simply the standing leader.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

import trio

from stereos_proto import RequestTimeout
from stereos_proto._constants import MAX_PENDING
from stereos_proto.dialogues import READY_STATES, Backoff, WaitProgress

from ._async_client import Actor, AsyncClient
from ._session import MAX_NOTIFICATIONS, Call, Session
from ._trio_wire import Wire, adopt, dial
from ._verbs import Result, ready_wait
from .addresses import Address

__all__ = ["Client", "connect", "connect_when_ready"]


class _Waiter:
    """A parked task. Woken before it waits, it does not wait."""

    __slots__ = ("_task", "_woken")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> None:
        if not self._woken:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._woken = False

    def _abort(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Client(AsyncClient):
    """A connection to a guest. `connect` or `Client.attach` make one; `aclose` it, or use it in `async with`."""

    def __init__(self, wire: Wire, session: Session) -> None:
        super().__init__(session)
        self._wire = wire
        self._leader: _Waiter | None = None
        self._followers: list[_Waiter] = []
        self._writing = trio.Lock()

    @classmethod
    def attach(
        cls,
        stream: Any,
        *,
        label: str = "the guest",
        max_pending: int = MAX_PENDING,
        max_notifications: int = MAX_NOTIFICATIONS,
    ) -> Self:
        """Return a client over what is connected already, and is the client's from then on.

        `stream` is a `trio.abc.Stream`, or a socket of trio or of the standard library.
        """
        session = Session(label, max_pending=max_pending, max_notifications=max_notifications)
        return cls(adopt(stream), session)

    def _waiter(self) -> _Waiter:
        return _Waiter()

    async def _flush(self, call: Call) -> None:
        session = self._session
        while not session.is_written(call) and session.ended is None:
            if session.wants_write:
                async with self._writing:
                    await self._write(call)
            elif call.outcome is None:
                # As many requests are in flight as may be: read until there is room.
                waiter = _Waiter()
                call.wake, wake = waiter.wake, call.wake
                await self._until(lambda: session.wants_write or call.sent or call.outcome is not None, waiter)
                call.wake = wake
            else:
                return

    async def _write(self, call: Call) -> None:
        """Write until the line of `call` is written, reading meanwhile: both ends may be full of replies."""
        session = self._session
        try:
            while not session.is_written(call) and (data := session.next_write()):
                if size := self._wire.try_write(data):
                    session.wrote(size)
                    continue
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until, lambda: False, _Waiter())
                    session.wrote(await self._wire.write(data))
                    nursery.cancel_scope.cancel()
        except OSError as exc:
            session.broken(exc)

    async def _until(self, done: Callable[[], bool], waiter: _Waiter) -> None:
        try:
            while not done() and self._session.ended is None:
                if self._leader is None:
                    self._leader = waiter
                    await self._lead(done)
                else:
                    self._followers.append(waiter)
                    await waiter.wait()
                    self._followers.remove(waiter)
        finally:
            if waiter in self._followers:
                self._followers.remove(waiter)
            if self._leader is waiter:
                self._leader = None
            # Also when this task only followed: it may be the one that was woken to lead.
            if self._leader is None and self._followers:
                self._followers[0].wake()

    async def _lead(self, done: Callable[[], bool]) -> None:
        """Read for everybody. There is no checkpoint between reading bytes and settling calls with them."""
        session = self._session
        while not done() and session.ended is None:
            try:
                session.receive(await self._wire.read())
            except OSError as exc:
                session.broken(exc)
            except trio.ClosedResourceError:
                return

    def _hang_up(self) -> None:
        self._wire.abort()

    async def _closed(self) -> None:
        await trio.lowlevel.checkpoint()

    @staticmethod
    async def bounded(seconds: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout when `seconds` have passed first."""
        with trio.move_on_after(seconds):
            return await function(*args)
        raise RequestTimeout("the time is up")

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Sleep."""
        await trio.sleep(seconds)


def connect(
    address: Address, *, max_pending: int = MAX_PENDING, max_notifications: int = MAX_NOTIFICATIONS
) -> AbstractAsyncContextManager[Client]:
    """Dial a guest, for use with `async with … as client`.

    `max_pending` bounds the requests in flight, `max_notifications` the notifications kept for
    `Client.notifications`. A connection does not mean that the guest is there (§8): see `connect_when_ready`.

    Raises ConnectError.
    """
    return _entered(lambda: _connect(address, max_pending, max_notifications))


def connect_when_ready(
    address: Address,
    *,
    timeout: float = math.inf,
    states: Collection[str] = READY_STATES,
    agents: Collection[str] = (),
    backoff: Backoff | None = None,
    on_progress: Callable[[WaitProgress], None] | None = None,
    max_pending: int = MAX_PENDING,
    max_notifications: int = MAX_NOTIFICATIONS,
) -> AbstractAsyncContextManager[Client]:
    """Dial until there is a guest, and wait until it is ready; for use with `async with … as client`.

    Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again.
    `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`. `timeout` bounds it all,
    in seconds; a scope of your own does as well.

    Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
    RemoteProtocolError when what answers does not speak the protocol.
    """
    wait = ready_wait(states, agents, backoff, on_progress)

    async def make() -> Client:
        actor = Actor(Client, dial=lambda: _connect(address, max_pending, max_notifications))
        try:
            await actor.wait(wait, timeout, redial=True)
        except BaseException:
            await actor.close()
            raise
        return actor.found(Client)

    return _entered(make)


async def _connect(address: Address, max_pending: int, max_notifications: int) -> Client:
    session = Session(str(address), max_pending=max_pending, max_notifications=max_notifications)
    wire, early = await dial(address)
    if early:
        session.receive(early)
    return Client(wire, session)


@asynccontextmanager
async def _entered(make: Callable[[], Awaitable[Client]]) -> AsyncIterator[Client]:
    client = await make()
    try:
        yield client
    finally:
        await client.aclose()
