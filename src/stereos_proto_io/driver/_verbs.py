"""The client's verbs, twice: for callers that block, and for callers that await. The clients below add the waiting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar

from stereos_proto import (
    MAX_PENDING,
    SECRET_MODE,
    Ack,
    Dialogue,
    GetHealth,
    Health,
    HostSession,
    InjectSecret,
    InjectSSHKey,
    Mailbox,
    Mount,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Reply,
    Request,
    Role,
    SetConfig,
)
from stereos_proto.dialogues import Backoff, OnRefusal, ReadyWait, WaitProgress, provision, shut_down

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    ReplyT = DefaultTypeVar("ReplyT", bound=Reply, default=Reply)
else:
    ReplyT = TypeVar("ReplyT", bound=Reply)

Result = TypeVar("Result")

#: Seconds that a wait for a guest lasts unless told otherwise.
READY_TIMEOUT: Final = 60.0

#: Neither has a field, so one of each is enough.
_PING: Final = Ping()
_GET_HEALTH: Final = GetHealth()


class Limits(TypedDict, total=False):
    """The options of every client (§3).

    `max_pending` bounds the requests in flight, by default 128. `max_notifications` bounds the notifications kept for a
    slow reader, by default 1,024; they are 1 MiB at most.

    `trace(sender, data)` is shown all bytes, secrets among them (`HostSession`).
    """

    max_pending: int
    max_notifications: int
    trace: Callable[[Role, bytes], object] | None


def check_limits(
    max_pending: int = MAX_PENDING,
    max_notifications: int | None = None,
    trace: Callable[[Role, bytes], object] | None = None,
    **others: object,
) -> None:
    """Refuse bad limits (§3) before anything is dialled. Raises ValueError, TypeError."""
    if "timeout" in others:
        raise TypeError("connect takes no timeout here: put it into asyncio.timeout, trio.fail_after or the like")
    if others:
        raise TypeError(f"there is no option {', '.join(others)}, only {', '.join(Limits.__annotations__)}")
    HostSession(max_pending=max_pending, trace=trace)
    if max_notifications is not None:
        Mailbox(max_notifications)


def ready_wait(
    states: Collection[str] | None,
    agents: Collection[str],
    backoff: Backoff | None,
    on_progress: Callable[[WaitProgress], None] | None,
) -> ReadyWait:
    """The wait that the arguments of `wait_ready` and `connect_when_ready` describe (§6).

    Raises TypeError, ValueError.
    """
    return ReadyWait(states, agents, backoff or Backoff(), on_progress=on_progress)


class SyncVerbs(ABC):
    """The verbs of the blocking client (§3). Each takes a `timeout` in seconds; None, the default, is the client's own.

    `wait_ready` waits 60 s unless told otherwise.

    Each raises RequestFailed when the guest refuses, RequestTimeout when its reply is late, ConnectionLost
    when the connection is gone (OutcomeUnknown where the request may have been carried out),
    RemoteProtocolError when the guest broke the protocol, and LocalProtocolError, before a byte is sent, when
    the request cannot be sent as it is.
    """

    #: The label of the guest, for the errors of steps.
    _label: str | None = None

    @abstractmethod
    def request(self, message: Request[ReplyT], *, timeout: float | None = None) -> ReplyT:
        """Send `message` and return its reply (§3)."""

    @abstractmethod
    def request_many(self, messages: Iterable[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order (§3)."""

    @abstractmethod
    def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None) -> Result:
        """Run a dialogue over this connection and return its result (`stereos_proto.dialogues`, §3).

        Raises what the dialogue raises; TypeError when it is not a generator, ValueError when it was begun before.
        """

    def ping(self, *, timeout: float | None = None) -> Pong:
        """Ask whether the guest is there (§2)."""
        return self.request(_PING, timeout=timeout)

    def get_health(self, *, timeout: float | None = None) -> Health:
        """Return the guest's state, its agents and its uptime (§6)."""
        return self.request(_GET_HEALTH, timeout=timeout)

    def set_config(self, content: str, *, timeout: float | None = None) -> Ack:
        """Replace the guest's jcard.toml (§6)."""
        message = SetConfig(content)
        del content  # a traceback shows variables, but not what a message hides
        return self.request(message, timeout=timeout)

    def inject_secret(self, name: str, value: str, mode: int = SECRET_MODE, *, timeout: float | None = None) -> Ack:
        """Store a secret in the guest, in a file (§6).

        `mode` holds the permission bits of the file, by default 0600; 0 lets the guest choose.
        """
        message = InjectSecret(name, value, mode)
        del value
        return self.request(message, timeout=timeout)

    def inject_ssh_key(self, user: str, public_key: str, *, timeout: float | None = None) -> Ack:
        """Replace the authorized keys of a user of the guest (§6)."""
        return self.request(InjectSSHKey(user, public_key), timeout=timeout)

    def mount(
        self, tag: str, guest_path: str, fs_type: str, read_only: bool = False, *, timeout: float | None = None
    ) -> Ack:
        """Mount a shared folder in the guest (§6). Not idempotent: a second mount lies over the first."""
        return self.request(Mount(tag, guest_path, fs_type, read_only), timeout=timeout)

    def shutdown(self, reason: str = "", *, timeout: float | None = None) -> Ack | None:
        """Power the guest off (§6). None: the guest ended the connection before the ack; most likely accepted.

        A forwarder, such as QEMU's, accepts and ends connections by itself while no guest listens (§8): if this client
        has had no reply yet, `ping` first.

        Raises RequestFailed when the guest refuses, ConnectionLost when the request was not sent, OutcomeUnknown when
        this client was closed after it was sent.
        """
        return self.run(shut_down(reason), timeout=timeout)

    def provision(
        self,
        plan: ProvisionPlan,
        *,
        on_refusal: OnRefusal = "stop",
        on_step: Callable[[ProvisionStep], None] | None = None,
        timeout: float | None = None,
    ) -> ProvisionReport:
        """Carry out a plan and report on each step; `on_step` is called as they settle (§7).

        `timeout` is for the whole plan, by default the client's own. When it has passed, the report says which steps
        are still open. For `on_refusal`, and what is raised, see `stereos_proto.dialogues.provision`.
        """
        dialogue = provision(plan, on_refusal=on_refusal, on_step=on_step, guest=self._label)
        return self.run(dialogue, timeout=timeout)

    def wait_ready(
        self,
        states: Collection[str] | None = None,
        *,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        timeout: float | None = READY_TIMEOUT,
    ) -> Health:
        """Wait until the guest is in one of `states` and the named `agents` run, and return its health (§6).

        By default it is until the guest is ready or, with `agents`, until these run in whatever state.

        Raises NotReady, with the last state and error, when `timeout` seconds have passed (None: the client's
        own timeout) or the guest shuts down; ConnectionLost when the connection ends; RemoteProtocolError when the
        guest breaks the protocol. See `connect_when_ready` for a guest that still boots.
        """
        wait = ready_wait(states, agents, backoff, on_progress)
        return self.run(wait.run(redial=False), timeout=timeout)


class AsyncVerbs(ABC):
    """The verbs of the asynchronous clients (§3). Each `timeout` is in seconds.

    `wait_ready`, `provision` and `run` take a `timeout`. Bound the others with the runtime's own timeout or cancel
    scope.

    Each raises RequestFailed when the guest refuses, ConnectionLost when the connection is gone
    (OutcomeUnknown where the request may have been carried out), RemoteProtocolError when the guest broke the
    protocol, and LocalProtocolError, before a byte is sent, when the request cannot be sent as it is.

    A cancelled request keeps its place: its reply, if it comes, is swallowed.
    """

    #: The label of the guest, for the errors of steps.
    _label: str | None = None

    @abstractmethod
    async def request(self, message: Request[ReplyT]) -> ReplyT:
        """Send `message` and return its reply (§3)."""

    @abstractmethod
    async def request_many(self, messages: Iterable[Request]) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order (§3)."""

    @abstractmethod
    async def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Run a dialogue over this connection and return its result (`stereos_proto.dialogues`, §3).

        Raises what the dialogue raises; TypeError when it is not a generator, ValueError when it was begun before.
        """

    async def ping(self) -> Pong:
        """Ask whether the guest is there (§2)."""
        return await self.request(_PING)

    async def get_health(self) -> Health:
        """Return the guest's state, its agents and its uptime (§6)."""
        return await self.request(_GET_HEALTH)

    async def set_config(self, content: str) -> Ack:
        """Replace the guest's jcard.toml (§6)."""
        message = SetConfig(content)
        del content
        return await self.request(message)

    async def inject_secret(self, name: str, value: str, mode: int = SECRET_MODE) -> Ack:
        """Store a secret in the guest, in a file (§6).

        `mode` holds the permission bits of the file, by default 0600; 0 lets the guest choose.
        """
        message = InjectSecret(name, value, mode)
        del value
        return await self.request(message)

    async def inject_ssh_key(self, user: str, public_key: str) -> Ack:
        """Replace the authorized keys of a user of the guest (§6)."""
        return await self.request(InjectSSHKey(user, public_key))

    async def mount(self, tag: str, guest_path: str, fs_type: str, read_only: bool = False) -> Ack:
        """Mount a shared folder in the guest (§6). Not idempotent: a second mount lies over the first."""
        return await self.request(Mount(tag, guest_path, fs_type, read_only))

    async def shutdown(self, reason: str = "") -> Ack | None:
        """Power the guest off (§6). None: the guest ended the connection before the ack; most likely accepted.

        A forwarder, such as QEMU's, accepts and ends connections by itself while no guest listens (§8): if this client
        has had no reply yet, `ping` first.

        Raises RequestFailed when the guest refuses, ConnectionLost when the request was not sent, OutcomeUnknown when
        this client was closed after it was sent.
        """
        return await self.run(shut_down(reason))

    async def provision(
        self,
        plan: ProvisionPlan,
        *,
        on_refusal: OnRefusal = "stop",
        on_step: Callable[[ProvisionStep], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (a scope of the caller's would end it without a report)
    ) -> ProvisionReport:
        """Carry out a plan and report on each step; `on_step` is called as they settle (§7).

        When `timeout` seconds have passed, the report says which steps are still open. A scope of your own loses the
        report, and with it what must not be sent twice. For `on_refusal`, and what is raised, see
        `stereos_proto.dialogues.provision`.
        """
        dialogue = provision(plan, on_refusal=on_refusal, on_step=on_step, guest=self._label)
        return await self.run(dialogue, timeout=timeout)

    async def wait_ready(
        self,
        states: Collection[str] | None = None,
        *,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (a scope of the caller's cannot put the last state into its error)
    ) -> Health:
        """Wait until the guest is in one of `states` and the named `agents` run, and return its health (§6).

        By default it is until the guest is ready or, with `agents`, until these run in whatever state.

        Raises NotReady, with the last state and error, when `timeout` seconds have passed (None: no bound) or the
        guest shuts down; ConnectionLost when the connection ends; RemoteProtocolError when the guest breaks the
        protocol. See `connect_when_ready` for a guest that still boots.
        """
        wait = ready_wait(states, agents, backoff, on_progress)
        return await self.run(wait.run(redial=False), timeout=timeout)
