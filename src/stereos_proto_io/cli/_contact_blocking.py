"""A single guest, over the blocking driver, with a trace of the wire where it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine
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
)
from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking import Client, connect, connect_when_ready

from ._contact import Contact, OnProgress, Row, ShowWait
from ._deadline import ASK_SECONDS, Deadline
from ._targets import Target

Result = TypeVar("Result")


def dial(address: Address, deadline: Deadline, *, trace: bool = False) -> Client:
    """Connect before the deadline. Raises ConnectError."""
    if not trace:
        return connect(address, timeout=deadline.left)
    from ._private import connect_through  # noqa: PLC0415  (only a trace needs it)

    return connect_through(_traced(address), address, deadline.at, ASK_SECONDS)


def _traced(address: Address) -> Callable[[Any], Any]:
    from ._trace import TracedStream  # noqa: PLC0415

    return lambda stream: TracedStream(stream, str(address))


class BlockingContact(Contact):
    """A conversation in which nothing is awaited."""

    side_by_side = False

    def __init__(
        self,
        target: Target,
        deadline: Deadline,
        show_wait: ShowWait,
        on_change: Callable[[Row], None],
        *,
        trace: bool = False,
    ) -> None:
        super().__init__(target, deadline, show_wait, on_change)
        self._trace = trace
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection."""
        if self._client is None:
            raise AssertionError("dial first")
        return self._client

    async def _dial(self, deadline: Deadline) -> None:
        await self.close()
        self._client = dial(self.target.reached(), deadline, trace=self._trace)

    async def _dial_when_ready(self, states: Collection[str], agents: Collection[str], note: OnProgress) -> None:
        await self.close()
        address = self.target.reached()
        wait: dict[str, Any] = {"states": states, "agents": agents, "on_progress": note, "request_timeout": ASK_SECONDS}
        if not self._trace:
            self._client = connect_when_ready(address, timeout=self.deadline.tenths, **wait)
            return
        from ._private import connect_when_ready_through  # noqa: PLC0415  (only a trace needs it)

        self._client = connect_when_ready_through(
            _traced(address), address, self.deadline.at, self.deadline.tenths, **wait
        )

    async def _ask(self, request: Request, seconds: float) -> Reply:
        return self.client.request(request, timeout=seconds)

    async def _provision(
        self, plan: ProvisionPlan, on_step: Callable[[ProvisionStep], None], options: dict[str, Any]
    ) -> ProvisionReport:
        return self.client.provision(plan, on_step=on_step, timeout=self.deadline.left, **options)

    async def shutdown(self, reason: str) -> Ack | None:
        """Power the guest off. None: the connection ended before the ack."""
        self.tell(step="shutdown")
        return self.client.shutdown(reason, timeout=self.deadline.left)

    async def next_push(self, seconds: float) -> Notification | None:
        """What the guest pushes next, None where nothing came in time."""
        try:
            return next(self.client.notifications(timeout=self.deadline.within(seconds)), None)
        except RequestTimeout:
            return None

    @property
    def dropped(self) -> int:
        """How many pushes of this connection were dropped."""
        return 0 if self._client is None else self._client.dropped_notifications

    async def sleep(self, seconds: float) -> None:
        """Sleep, until the deadline at most."""
        time.sleep(self.deadline.within(seconds))  # noqa: ASYNC251  (nothing else is under way)

    async def close(self) -> None:
        """Close the connection, where there is one."""
        if self._client is not None:
            self._client.close()


def finish(conversation: Coroutine[Any, Any, Result]) -> Result:
    """Run a conversation over a `BlockingContact`: it never awaits anything, so one step is all of it."""
    try:
        conversation.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        conversation.close()
    raise AssertionError("something was awaited that blocks nowhere")
