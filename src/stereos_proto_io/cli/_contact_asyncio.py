"""One guest of many, over asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from stereos_proto import (
    Ack,
    Notification,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Reply,
    Request,
    RequestTimeout,
    raise_for_refusal,
)
from stereos_proto.dialogues import Dialogue, Send, shut_down
from stereos_proto_io.asyncio import Client, connect, connect_when_ready

from ._contact import Contact, OnProgress, tracing
from ._deadline import Deadline
from ._private import no_answer

Result = TypeVar("Result")


class AsyncContact(Contact):
    """A conversation beside others. The library's asyncio client leaves deadlines to its caller, so they are here."""

    side_by_side = True
    interrupts = asyncio.CancelledError
    _client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection."""
        if self._client is None:
            raise AssertionError("dial first")
        return self._client

    async def _dial(self, deadline: Deadline) -> None:
        await self.close()
        address = self.target.reached()
        self._client = await _bounded(lambda: connect(address, **self._tracing()), deadline.left, no_answer(address))

    async def _dial_when_ready(self, states: Collection[str] | None, agents: Collection[str], note: OnProgress) -> None:
        await self.close()
        self._client = await connect_when_ready(
            self.target.reached(),
            timeout=self.deadline.tenths,
            states=states,
            agents=agents,
            on_progress=note,
            **self._tracing(),
        )

    def _tracing(self) -> dict[str, Any]:
        return tracing(self.target, self.redactor, trace=self.trace, many=True)

    async def _ask(self, request: Request, seconds: float) -> Reply:
        return await self.client.run(_asking(request, seconds))

    async def _provision(
        self, plan: ProvisionPlan, on_step: Callable[[ProvisionStep], None], options: dict[str, Any]
    ) -> ProvisionReport:
        work = self.client.provision(plan, on_step=on_step, timeout=self.deadline.left, **options)
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Ctrl-C is not to lose the report. A client that is closed returns it at once.
            self.interrupted = True
            await self.client.aclose()
            return await task

    async def _shutdown(self, reason: str) -> Ack | None:
        return await self.client.run(shut_down(reason), timeout=self.deadline.left)

    async def next_push(self, seconds: float) -> Notification | None:
        """What the guest pushes next, None where nothing came in time."""
        silent = RequestTimeout("nothing was pushed")
        try:
            notifications = self.client.notifications()
            return await _bounded(lambda: anext(notifications, None), self.deadline.within(seconds), silent)
        except RequestTimeout as exc:
            if exc is not silent:
                raise
            return None

    @property
    def dropped(self) -> int:
        """How many pushes of this connection were dropped."""
        return 0 if self._client is None else self._client.dropped_notifications

    async def sleep(self, seconds: float) -> None:
        """Sleep, until the deadline at most."""
        await asyncio.sleep(self.deadline.within(seconds))

    async def close(self) -> None:
        """Close the connection, where there is one."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()


@asynccontextmanager
async def turn(room: asyncio.Semaphore, deadline: Deadline) -> AsyncIterator[None]:
    """Hold a place for the length of an `async with`. Raises RequestTimeout where none is free by the deadline."""
    late = RequestTimeout("the deadline has passed before it was the guest's turn")
    await _bounded(room.acquire, deadline.left, late)
    try:
        yield
    finally:
        room.release()


def _asking(request: Request, seconds: float) -> Dialogue[Reply]:
    reply = yield Send(request, seconds)
    raise_for_refusal(request, reply)
    return reply  # type: ignore[no-any-return]


async def _bounded(begin: Callable[[], Awaitable[Result]], seconds: float, late: Exception) -> Result:
    """Await what `begin` returns. Raises `late` when `seconds` have passed first, and at once where none are left.

    asyncio itself looks at the time only once what was begun waits for something: then a request has left.
    """
    if seconds <= 0:
        raise late
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await begin()
    except TimeoutError:
        if not scope.expired():
            raise
    raise late
