"""The client for trio. Any number of tasks may share it.

There is no task behind it, and no nursery needed: whoever waits first reads for all, and hands over to the
next who waits when it has its own reply (leader and followers). `notifications()`, run in a nursery of yours,
is simply the standing leader.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self, TypeGuard, Unpack

import trio

from stereos_proto import ConnectionLost, RequestTimeout
from stereos_proto.dialogues import READY_STATES, Backoff, WaitProgress

from ._async_client import Actor, AsyncClient
from ._session import Call, Limits, Session, Waiting
from ._trio_wire import Wire, adopt, dial
from ._verbs import Result, ready_wait
from .addresses import Address

__all__ = ["Client", "connect", "connect_when_ready"]


class Client(AsyncClient):
    """A connection to a guest (§3). `connect` or `Client.attach` make one; `aclose` it, or use it in `async with`."""

    def __init__(self, wire: Wire, session: Session) -> None:
        self._wire = wire
        super().__init__(session)
        self._leader: Waiting | None = None
        self._followers: list[Waiting] = []
        self._writing = trio.Lock()

    @classmethod
    def attach(cls, stream: Any, *, label: str = "the guest", **limits: Unpack[Limits]) -> Self:
        """Return a client over what is connected already, and is the client's from then on.

        `stream` is a `trio.abc.Stream`, or a socket of trio or of the standard library. `max_pending` bounds the
        requests in flight, `max_notifications` the notifications kept for `notifications()`.
        """
        return cls(adopt(stream), Session(label, **limits))

    # Ctrl-C comes at checkpoints only: in between, nobody knew what was asked, read or written, or who leads.
    _ask = trio.lowlevel.enable_ki_protection(AsyncClient._ask)
    _many = trio.lowlevel.enable_ki_protection(AsyncClient._many)

    @trio.lowlevel.enable_ki_protection
    async def _wait(self, waiting: Waiting) -> None:
        session = self._session
        if session.wants_write:
            self._wire.write_now(session)
        if waiting.done:
            await trio.lowlevel.checkpoint()
            return
        try:
            while not waiting.done:
                if self._has_to_write(waiting):
                    self._leave(waiting)
                    await self._write(waiting)
                elif self._leader is None or self._leader is waiting:
                    self._leader = waiting
                    await self._read()
                else:
                    await self._follow(waiting)
        finally:
            self._leave(waiting)

    async def _read(self) -> None:
        """Read for everybody, once."""
        session = self._session
        try:
            await self._wire.read(session.receive)
        except OSError as exc:
            session.broken(exc)
        except trio.ClosedResourceError:
            session.end(ConnectionLost(f"the connection to {session.label} was closed"))
        if session.wants_write:
            # There may be room in flight again.
            self._wire.write_now(session)

    async def _write(self, call: Call) -> None:
        """Write until the line of `call` is written, reading meanwhile: both ends may be full of replies."""
        async with self._writing:
            if call.done or self._session.is_written(call):
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_meanwhile, nursery.cancel_scope)
                while self._session.wants_write and not (call.done or self._session.is_written(call)):
                    await self._wire.write(self._session)
                nursery.cancel_scope.cancel()

    async def _read_meanwhile(self, scope: trio.CancelScope) -> None:
        over = self._session.until_end()
        try:
            await self._wait(over)
            scope.cancel()
        finally:
            self._session.ignore(over)

    async def _follow(self, waiting: Waiting) -> None:
        """Sleep until something happened to `waiting`, or it is its turn to read."""
        task = trio.lowlevel.current_task()

        def wake() -> None:
            waiting.wake = _ignore
            trio.lowlevel.reschedule(task)

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            waiting.wake = _ignore
            return trio.lowlevel.Abort.SUCCEEDED

        waiting.wake = wake
        self._followers.append(waiting)
        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._followers.remove(waiting)

    def _leave(self, waiting: Waiting) -> None:
        """Let others go on. Also when this task only followed: it may be who was woken to lead, or to write."""
        if self._leader is waiting:
            self._leader = None
        if not self._followers:
            return
        if self._leader is None:
            self._followers[0].wake()
        for follower in filter(self._has_to_write, self._followers):
            follower.wake()
            break

    def _has_to_write(self, waiting: Waiting) -> TypeGuard[Call]:
        session = self._session
        return isinstance(waiting, Call) and session.wants_write and not session.is_written(waiting)

    def _hang_up(self) -> None:
        self._wire.abort()

    async def _closed(self) -> None:
        await self._wire.closed()

    @staticmethod
    async def bounded(seconds: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout when `seconds` have passed first."""
        with trio.move_on_after(max(seconds, 0)):
            return await function(*args)
        raise RequestTimeout("there was no answer in time")

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Sleep."""
        await trio.sleep(max(seconds, 0))


def connect(address: Address, **limits: Unpack[Limits]) -> AbstractAsyncContextManager[Client]:
    """Dial a guest, for use with `async with … as client`.

    `limits` are those of `Client.attach`. A connection does not mean that the guest is there (§8): see
    `connect_when_ready`.

    Raises ConnectError.
    """
    return _entered(lambda: _connect(address, limits))


def connect_when_ready(
    address: Address,
    *,
    timeout: float | None = None,
    states: Collection[str] = READY_STATES,
    agents: Collection[str] = (),
    backoff: Backoff | None = None,
    on_progress: Callable[[WaitProgress], None] | None = None,
    **limits: Unpack[Limits],
) -> AbstractAsyncContextManager[Client]:
    """Dial until there is a guest, and wait until it is ready; for use with `async with … as client`.

    Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again (§8).
    `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`. `timeout` bounds it all,
    in seconds; a scope of your own does as well.

    Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
    RemoteProtocolError when what answers does not speak the protocol.
    """
    wait = ready_wait(states, agents, backoff, on_progress)

    async def make() -> Client:
        actor = Actor(Client, dial=lambda: _connect(address, limits))
        try:
            await actor.wait(wait, timeout, redial=True)
        except BaseException:
            await actor.close()
            raise
        return actor.found(Client)

    return _entered(make)


async def _connect(address: Address, limits: Limits) -> Client:
    session = Session(str(address), **limits)
    wire, early = await dial(address)
    if early:
        session.receive(early)
    return Client(wire, session)


def _ignore() -> None:
    """It is awake."""


@asynccontextmanager
async def _entered(make: Callable[[], Awaitable[Client]]) -> AsyncIterator[Client]:
    client = await make()
    try:
        yield client
    finally:
        await client.aclose()
