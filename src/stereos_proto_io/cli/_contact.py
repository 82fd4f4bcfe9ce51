"""One guest within its deadline, as the commands talk to it: over the blocking driver, or over asyncio.

A command's conversation with a guest is one coroutine function that takes a `Contact`. With a single guest it runs over
the blocking driver, which loads faster and can be traced; there nothing is ever awaited, so the coroutine ends in its
first step. With many guests each conversation is a task of one asyncio loop. So the conversation is written once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import attrs

from stereos_proto import (
    Ack,
    ConnectionLost,
    GetHealth,
    Health,
    LocalProtocolError,
    Notification,
    OutcomeUnknown,
    Ping,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Reply,
    Request,
    RequestTimeout,
    Shutdown,
    StepStatus,
    StereosError,
    changes_guest,
)
from stereos_proto.dialogues import ReadyWait, WaitProgress

from ._deadline import Deadline
from ._redact import Redactor
from ._targets import Target


@attrs.define(eq=False, repr=False)
class Row:
    """What is known of a guest by now: a line of a live table."""

    #: The guest, as the user named it.
    name: str
    #: What is being done, or was done last.
    step: str = "queued"
    #: Its last report.
    health: Health | None = None
    #: What went wrong last, "" where nothing did.
    error: str = ""
    #: Milliseconds between the last request and its reply, None before there was one.
    rtt_ms: float | None = None
    #: The exit code that it comes to, None while it is at work.
    code: int | None = None
    #: Whether a request that changes the guest has left, or may have. None: only questions have.
    sent: bool | None = False


OnProgress = Callable[[WaitProgress], None]


def tracing(target: Target, redactor: Redactor, *, trace: bool, many: bool) -> dict[str, Any]:
    """The options of a client whose wire is shown, or is not."""
    if not trace:
        return {}
    from ._trace import Tracer  # noqa: PLC0415  (only a trace needs it)

    return {"trace": Tracer(target.name, redactor, many=many)}


#: Shows a wait for something, with a guest, for the length of a `with`; what that yields is told of each try.
ShowWait = Callable[[str, Target], AbstractContextManager[OnProgress]]


class Contact(ABC):
    """The conversation with one guest. Every step ends by the deadline."""

    #: Whether several of them go on side by side.
    side_by_side: ClassVar[bool]
    #: What Ctrl-C raises in it.
    interrupts: ClassVar[type[BaseException]]

    def __init__(
        self,
        target: Target,
        deadline: Deadline,
        show_wait: ShowWait,
        on_change: Callable[[Row], None],
        *,
        trace: bool = False,
    ) -> None:
        self.target = target
        self.deadline = deadline
        #: Whether the wire is shown.
        self.trace = trace
        self.row = Row(target.name)
        #: Takes the secrets out of what the guest sends, on however many connections.
        self.redactor = Redactor()
        #: Shows a wait that the command makes by itself.
        self.show_wait = show_wait
        #: Whether the user has interrupted what returned all the same: a provisioning returns its report.
        self.interrupted = False
        #: Is entered for each dial and each request: one of many guests may have to wait for its turn.
        self.turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        self._on_change = on_change

    def sentence(self, error: BaseException) -> str:
        """The text of an error about this guest, with the name that the user typed, and without secrets."""
        return self.target.sentence(error, lambda text: self.redactor.text(text, self.target.public))

    def without_secrets(self, error: StereosError) -> StereosError:
        """An error about this guest, without secrets. What the user typed is none."""
        return self.redactor.error(error, self.target.public)

    def tell(self, **changes: Any) -> None:
        """Change the guest's row, where it is shown."""
        for name, value in changes.items():
            setattr(self.row, name, value)
        self._on_change(self.row)

    async def dial(self, *, within: float | None = None) -> None:
        """Connect. Raises ConnectError."""
        async with self.turn():
            self.tell(step="dialling")
            await self._dial(self.deadline if within is None else self.deadline.or_in(within))

    async def dial_when_ready(
        self, *, states: Collection[str] | None = None, agents: Collection[str] = (), subject: str = ""
    ) -> Health:
        """Connect to a guest that may still boot, and return the report that ended the wait. Raises NotReady."""
        last = WaitProgress()
        condition = ReadyWait(states, agents)
        self.row.sent = self.row.sent or None
        self.tell(step="waiting")
        with self.show_wait(subject or self.target.name, self.target) as report:

            def note(progress: WaitProgress) -> None:
                nonlocal last
                last = progress
                error = "" if progress.error is None else self.sentence(progress.error)
                over = not error and progress.health is not None and condition.is_met_by(progress.health)
                shown = attrs.evolve(
                    progress,
                    health=progress.health and self.redactor.message(progress.health),
                    error=progress.error and self.without_secrets(progress.error),
                )
                self.tell(step="connected" if over else "waiting", health=shown.health, error=error)
                report(shown)

            await self._dial_when_ready(states, agents, note)
        self.tell(error="")
        if last.health is None:
            raise AssertionError("a wait that succeeds has seen a report")
        return last.health

    async def ask(self, request: Request, *, within: float | None = None) -> Reply:
        """Send a request, return its reply, and note how long that took. Raises what the drivers' verbs raise."""
        async with self.turn():
            self.tell(step=request.type)
            start = time.perf_counter()
            with self._sending(request):
                reply = await self._ask(request, self.deadline.left if within is None else self.deadline.within(within))
        self.tell(rtt_ms=round((time.perf_counter() - start) * 1000, 3))
        return reply

    @contextmanager
    def _sending(self, *requests: Request) -> Iterator[None]:
        """Note in the row that requests may leave, for the length of a `with`, however that ends."""
        before = self.row.sent
        changes = any(map(changes_guest, requests))
        self.row.sent = before or (True if changes else None)
        try:
            yield
        except (ConnectionLost, LocalProtocolError, RequestTimeout) as exc:
            if changes and not isinstance(exc, OutcomeUnknown) and not getattr(exc, "sent", False):
                # The library knows that it did not leave.
                self.row.sent = before
            raise

    async def ping(self, *, within: float | None = None) -> float:
        """Return the milliseconds that a ping took."""
        await self.ask(Ping(), within=within)
        return self.row.rtt_ms or 0.0

    async def get_health(self, *, within: float | None = None) -> Health:
        """Return the guest's report."""
        reply = await self.ask(GetHealth(), within=within)
        if not isinstance(reply, Health):
            raise TypeError("the drivers return a report, or raise")
        self.tell(health=reply, error="")
        return reply

    async def provision(
        self, plan: ProvisionPlan, on_step: Callable[[ProvisionStep], None], **options: Any
    ) -> ProvisionReport:
        """Carry out a plan. Ctrl-C ends it early, and it returns its report all the same."""

        def note(step: ProvisionStep) -> None:
            done = step.status is StepStatus.DONE
            self.tell(step=step.label if done else f"{step.label} {step.status.value}")
            on_step(step)

        try:
            with self._sending(*plan.requests):
                return await self._provision(plan, note, options)
        except ConnectionLost as exc:
            # The connection ended before the first step.
            steps = tuple(ProvisionStep(request, StepStatus.NOT_SENT, exc) for request in plan.requests)
            for step in steps:
                note(step)
            return ProvisionReport(steps, plan.agents)

    async def shutdown(self, reason: str) -> Ack | None:
        """Power the guest off. None: the connection ended before the ack."""
        self.tell(step="shutdown")
        with self._sending(Shutdown(reason)):
            return await self._shutdown(reason)

    @abstractmethod
    async def _dial(self, deadline: Deadline) -> None: ...

    @abstractmethod
    async def _dial_when_ready(
        self, states: Collection[str] | None, agents: Collection[str], note: OnProgress
    ) -> None: ...

    @abstractmethod
    async def _ask(self, request: Request, seconds: float) -> Reply: ...

    @abstractmethod
    async def _provision(
        self, plan: ProvisionPlan, on_step: Callable[[ProvisionStep], None], options: dict[str, Any]
    ) -> ProvisionReport: ...

    @abstractmethod
    async def _shutdown(self, reason: str) -> Ack | None: ...

    @abstractmethod
    async def next_push(self, seconds: float) -> Notification | None:
        """What the guest pushes next, None where nothing came in time."""

    @property
    @abstractmethod
    def dropped(self) -> int:
        """How many pushes of this connection were dropped."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Sleep, until the deadline at most."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection, where there is one."""
