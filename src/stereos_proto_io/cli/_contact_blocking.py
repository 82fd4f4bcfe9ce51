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
from stereos_proto_io.blocking import Client, connect, connect_when_ready

from ._contact import Contact, OnProgress, tracing
from ._deadline import ASK_SECONDS, Deadline
from ._redact import Redactor
from ._signals import hold
from ._targets import Target

Result = TypeVar("Result")


def dial(target: Target, deadline: Deadline, redactor: Redactor | None = None, *, trace: bool = False) -> Client:
    """Connect before the deadline. Raises ConnectError."""
    options = tracing(target, redactor or Redactor(), trace=trace, many=False)
    return connect(target.reached(), timeout=deadline.left, **options)


class BlockingContact(Contact):
    """A conversation in which nothing is awaited."""

    side_by_side = False
    interrupts = KeyboardInterrupt

    _client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection."""
        if self._client is None:
            raise AssertionError("dial first")
        return self._client

    async def _dial(self, deadline: Deadline) -> None:
        await self.close()
        self._client = dial(self.target, deadline, self.redactor, trace=self.trace)

    async def _dial_when_ready(self, states: Collection[str] | None, agents: Collection[str], note: OnProgress) -> None:
        await self.close()
        self._client = connect_when_ready(
            self.target.reached(),
            timeout=self.deadline.tenths,
            states=states,
            agents=agents,
            on_progress=note,
            request_timeout=ASK_SECONDS,
            **tracing(self.target, self.redactor, trace=self.trace, many=False),
        )

    async def _ask(self, request: Request, seconds: float) -> Reply:
        return self.client.request(request, timeout=seconds)

    async def _provision(
        self, plan: ProvisionPlan, on_step: Callable[[ProvisionStep], None], options: dict[str, Any]
    ) -> ProvisionReport:
        # Ctrl-C is not to lose the report. A client that is closed returns it at once.
        hold(self._interrupt)
        return self.client.provision(plan, on_step=on_step, timeout=self.deadline.left, **options)

    def _interrupt(self) -> None:
        self.interrupted = True
        self.client.close()

    async def _shutdown(self, reason: str) -> Ack | None:
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
