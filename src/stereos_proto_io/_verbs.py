"""The client's verbs, twice: for callers that block, and for callers that await. Drivers add the IO.

Below the verbs is the loop that runs a dialogue (`stereos_proto.dialogues`), twice for the same reason.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Final, TypeVar, cast

import attrs

from stereos_proto import (
    Ack,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    Mount,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Reply,
    Request,
    SetConfig,
    StereosError,
)
from stereos_proto._constants import SECRET_MODE
from stereos_proto.dialogues import (
    READY_STATES,
    Action,
    Backoff,
    Connect,
    ReadyWait,
    Send,
    SendMany,
    Sleep,
    WaitProgress,
    provision,
    shut_down,
)

#: Seconds that a wait for a guest lasts unless told otherwise.
READY_TIMEOUT: Final = 60.0

Result = TypeVar("Result")
Dialogue = Generator[Action, Any, Result]
Outcome = Reply | StereosError
Report = Callable[[int, Outcome], None]


def ready_wait(
    states: Collection[str],
    agents: Collection[str],
    backoff: Backoff | None,
    on_progress: Callable[[WaitProgress], None] | None,
) -> ReadyWait:
    """The wait that the arguments of `wait_ready` and `connect_when_ready` describe."""
    for name, value in (("states", states), ("agents", agents)):
        if isinstance(value, str):
            raise TypeError(f"{name} takes several strings, such as a tuple, not one string")
    return ReadyWait(states, agents, backoff or Backoff(), on_progress=on_progress)


@attrs.frozen
class _Step:
    """How a dialogue is resumed: with a result, or with an error."""

    value: Any = None
    error: StereosError | None = None

    def resume(self, dialogue: Dialogue[Any]) -> Action:
        return dialogue.send(self.value) if self.error is None else dialogue.throw(self.error)


class SyncActor(ABC):
    """What a blocking driver can do for a dialogue. `timeout` is in seconds, infinity for none."""

    @abstractmethod
    def _connect(self, timeout: float) -> None: ...

    @abstractmethod
    def _exchange(self, message: Request, timeout: float) -> Reply: ...

    @abstractmethod
    def _exchange_many(self, messages: Sequence[Request], report: Report) -> list[Outcome]: ...

    @abstractmethod
    def _pause(self, seconds: float) -> None: ...

    def run(self, dialogue: Dialogue[Result]) -> Result:
        """Carry out `dialogue` and return its result. Raises what it raises."""
        step = _Step()
        while True:
            try:
                action = step.resume(dialogue)
            except StopIteration as stop:
                return cast("Result", stop.value)
            try:
                step = _Step(self._perform(action))
            except StereosError as exc:
                step = _Step(error=exc)

    def _perform(self, action: Action) -> Any:
        match action:
            case Send(message=message, timeout=timeout):
                return self._exchange(message, math.inf if timeout is None else timeout)
            case Sleep(seconds=seconds):
                return self._pause(seconds)
            case SendMany(messages=messages, on_outcome=report):
                return self._exchange_many(messages, report)
            case Connect(timeout=timeout):
                return self._connect(timeout)


class AsyncActor(ABC):
    """What an asynchronous driver can do for a dialogue. `timeout` is in seconds, infinity for none."""

    @abstractmethod
    async def _connect(self, timeout: float) -> None: ...  # noqa: ASYNC109  (each runtime has its own scope for it)

    @abstractmethod
    async def _exchange(self, message: Request, timeout: float) -> Reply: ...  # noqa: ASYNC109

    @abstractmethod
    async def _exchange_many(self, messages: Sequence[Request], report: Report) -> list[Outcome]: ...

    @abstractmethod
    async def _pause(self, seconds: float) -> None: ...

    async def run(self, dialogue: Dialogue[Result]) -> Result:
        """Carry out `dialogue` and return its result. Raises what it raises."""
        step = _Step()
        while True:
            try:
                action = step.resume(dialogue)
            except StopIteration as stop:
                return cast("Result", stop.value)
            try:
                step = _Step(await self._perform(action))
            except StereosError as exc:
                step = _Step(error=exc)

    async def _perform(self, action: Action) -> Any:
        match action:
            case Send(message=message, timeout=timeout):
                return await self._exchange(message, math.inf if timeout is None else timeout)
            case Sleep(seconds=seconds):
                return await self._pause(seconds)
            case SendMany(messages=messages, on_outcome=report):
                return await self._exchange_many(messages, report)
            case Connect(timeout=timeout):
                return await self._connect(timeout)


class SyncVerbs(ABC):
    """The verbs of the blocking client. Each takes a `timeout` in seconds; None is the client's own.

    Each raises RequestFailed when the guest refuses, RequestTimeout when its reply is late, ConnectionLost
    when the connection is gone (OutcomeUnknown where the request may have been carried out),
    RemoteProtocolError when the guest broke the protocol, and LocalProtocolError, before a byte is sent, when
    the request cannot be sent as it is.
    """

    @abstractmethod
    def request(self, message: Request, *, timeout: float | None = None) -> Reply:
        """Send `message` and return its reply (§3)."""

    @abstractmethod
    def _run_within(self, dialogue: Dialogue[Result], timeout: float | None) -> Result: ...

    @abstractmethod
    def _wait_within(self, wait: ReadyWait, timeout: float) -> Health: ...

    def ping(self, *, timeout: float | None = None) -> Pong:
        """Ask whether the guest is there (§2)."""
        return cast("Pong", self.request(Ping(), timeout=timeout))

    def get_health(self, *, timeout: float | None = None) -> Health:
        """Return the guest's state, its agents and its uptime (§6)."""
        return cast("Health", self.request(GetHealth(), timeout=timeout))

    def set_config(self, content: str, *, timeout: float | None = None) -> Ack:
        """Replace the guest's jcard.toml (§6)."""
        message = SetConfig(content)
        del content  # a traceback shows variables, but not what a message hides
        return cast("Ack", self.request(message, timeout=timeout))

    def inject_secret(self, name: str, value: str, mode: int = SECRET_MODE, *, timeout: float | None = None) -> Ack:
        """Store a secret in the guest, in a file of the given mode (§6)."""
        message = InjectSecret(name, value, mode)
        del value
        return cast("Ack", self.request(message, timeout=timeout))

    def inject_ssh_key(self, user: str, public_key: str, *, timeout: float | None = None) -> Ack:
        """Replace the authorized keys of a user of the guest (§6)."""
        return cast("Ack", self.request(InjectSSHKey(user, public_key), timeout=timeout))

    def mount(
        self, tag: str, guest_path: str, fs_type: str, read_only: bool = False, *, timeout: float | None = None
    ) -> Ack:
        """Mount a shared folder in the guest (§6). Not idempotent: a second mount lies over the first."""
        return cast("Ack", self.request(Mount(tag, guest_path, fs_type, read_only), timeout=timeout))

    def shutdown(self, reason: str = "", *, timeout: float | None = None) -> Ack | None:
        """Power the guest off (§6). None: the connection ended before the ack; most likely accepted."""
        return self._run_within(shut_down(reason), timeout)

    def provision(
        self,
        plan: ProvisionPlan,
        *,
        on_step: Callable[[ProvisionStep], None] | None = None,
        timeout: float | None = None,
    ) -> ProvisionReport:
        """Carry out a plan and report on each step; `on_step` is called as they settle (§7)."""
        return self._run_within(provision(plan, on_step=on_step), timeout)

    def wait_ready(
        self,
        states: Collection[str] = READY_STATES,
        *,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        timeout: float = READY_TIMEOUT,
    ) -> Health:
        """Wait until the guest is in one of `states`, or until the named `agents` run, and return its health (§6).

        Raises NotReady, with the last state and error, when `timeout` seconds have passed or the guest shuts
        down, ConnectionLost when the connection ends: see `connect_when_ready` for a guest that still boots.
        """
        return self._wait_within(ready_wait(states, agents, backoff, on_progress), timeout)


class AsyncVerbs(ABC):
    """The verbs of the asynchronous clients. Bound them with the runtime's own timeout or cancel scope.

    Each raises RequestFailed when the guest refuses, ConnectionLost when the connection is gone
    (OutcomeUnknown where the request may have been carried out), RemoteProtocolError when the guest broke the
    protocol, and LocalProtocolError, before a byte is sent, when the request cannot be sent as it is.

    A cancelled request keeps its place: its reply, should it come, is swallowed.
    """

    @abstractmethod
    async def request(self, message: Request) -> Reply:
        """Send `message` and return its reply (§3)."""

    @abstractmethod
    async def _run(self, dialogue: Dialogue[Result]) -> Result: ...

    @abstractmethod
    async def _wait_within(self, wait: ReadyWait, timeout: float | None) -> Health: ...  # noqa: ASYNC109

    async def ping(self) -> Pong:
        """Ask whether the guest is there (§2)."""
        return cast("Pong", await self.request(Ping()))

    async def get_health(self) -> Health:
        """Return the guest's state, its agents and its uptime (§6)."""
        return cast("Health", await self.request(GetHealth()))

    async def set_config(self, content: str) -> Ack:
        """Replace the guest's jcard.toml (§6)."""
        message = SetConfig(content)
        del content
        return cast("Ack", await self.request(message))

    async def inject_secret(self, name: str, value: str, mode: int = SECRET_MODE) -> Ack:
        """Store a secret in the guest, in a file of the given mode (§6)."""
        message = InjectSecret(name, value, mode)
        del value
        return cast("Ack", await self.request(message))

    async def inject_ssh_key(self, user: str, public_key: str) -> Ack:
        """Replace the authorized keys of a user of the guest (§6)."""
        return cast("Ack", await self.request(InjectSSHKey(user, public_key)))

    async def mount(self, tag: str, guest_path: str, fs_type: str, read_only: bool = False) -> Ack:
        """Mount a shared folder in the guest (§6). Not idempotent: a second mount lies over the first."""
        return cast("Ack", await self.request(Mount(tag, guest_path, fs_type, read_only)))

    async def shutdown(self, reason: str = "") -> Ack | None:
        """Power the guest off (§6). None: the connection ended before the ack; most likely accepted."""
        return await self._run(shut_down(reason))

    async def provision(
        self, plan: ProvisionPlan, *, on_step: Callable[[ProvisionStep], None] | None = None
    ) -> ProvisionReport:
        """Carry out a plan and report on each step; `on_step` is called as they settle (§7)."""
        return await self._run(provision(plan, on_step=on_step))

    async def wait_ready(
        self,
        states: Collection[str] = READY_STATES,
        *,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (a scope of the caller's cannot put the last state into its error)
    ) -> Health:
        """Wait until the guest is in one of `states`, or until the named `agents` run, and return its health (§6).

        Raises NotReady, with the last state and error, when `timeout` seconds have passed or the guest shuts
        down, ConnectionLost when the connection ends: see `connect_when_ready` for a guest that still boots.
        """
        return await self._wait_within(ready_wait(states, agents, backoff, on_progress), timeout)
