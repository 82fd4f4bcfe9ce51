"""A StereOS guest without a machine: what the reference does with each request (`docs/protocol.md` §6)."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from stereos_proto import (
    Ack,
    AgentStatus,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    LifecycleState,
    MessageType,
    Mount,
    Ping,
    Pong,
    Reply,
    Request,
    SetConfig,
    Shutdown,
)

from ._agents import Age, AgentDaemon
from ._go import base_name, clean_path, os_error, quote
from .faults import Fault, FaultPlan

#: Message types that today's reference knows (§2).
REFERENCE_TYPES: Final = frozenset(
    {
        MessageType.PING,
        MessageType.GET_HEALTH,
        MessageType.SET_CONFIG,
        MessageType.INJECT_SECRET,
        MessageType.INJECT_SSH_KEY,
        MessageType.MOUNT,
        MessageType.SHUTDOWN,
    }
)
#: What an old guest knows (§2). It refuses the rest as unknown, `get_health` too.
OLD_TYPES: Final = frozenset(
    {MessageType.PING, MessageType.INJECT_SECRET, MessageType.MOUNT, MessageType.SHUTDOWN},
)
#: What a fork adds (§2): types without a class of their own, all acked.
FORK_TYPES: Final = REFERENCE_TYPES | {
    "unmount",
    "stop_agent",
    "force_stop_agent",
    "create_sandbox_user",
    "destroy_sandbox_user",
}

#: Users of a stock image, whose keys can be set (§6).
STOCK_USERS: Final = ("admin", "agent")
SECRETS_FOLDER: Final = "/run/stereos/secrets"
CONFIG_FILE: Final = "/etc/stereos/jcard.toml"

_KEY_TYPES: Final = tuple(
    f"{name} "
    for name in (
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    )
)
_SYSTEM_FOLDERS: Final = ("/nix", "/etc", "/bin", "/boot", "/dev", "/proc", "/sys", "/run")
_DEFAULT_MODE: Final = 0o600
_JOURNAL_LINES: Final = 1000


class RequestRefused(Exception):
    """Raised by a handler to say no: the host gets `Ack(ok=False)` with this text (§3)."""


@attrs.frozen
class Secret:
    """A secret as the guest stores it (§6): `value`, and `mode`, the permission bits of its file."""

    value: str = attrs.field(repr=False)
    mode: int = attrs.field(repr=oct)


class Effects:
    """What a guest does to its machine (§6). This one does nothing; `FolderEffects` writes real files.

    Each method may raise RequestRefused with the text that the host is to see. What was refused is not kept.
    """

    def store_secret(self, name: str, secret: Secret) -> None:
        """Store `secret` under `name`, a simple file name."""

    def store_keys(self, user: str, keys: str) -> None:
        """Replace the authorized keys of `user` by `keys`, which end with one newline."""

    def store_config(self, content: str) -> None:
        """Replace the guest's jcard.toml by `content`."""

    def mount(self, mount: Mount) -> None:
        """Mount a shared folder at `mount.guest_path`, which is absolute and clean."""

    def power_off(self, mounts: tuple[Mount, ...]) -> None:
        """Get ready to lose power: unmount `mounts`, the last one first."""

    def forget(self) -> None:
        """Lose what a reboot loses: the secrets, which live in memory."""


class GuestSimulator:
    """A guest in memory, which does and says what the reference does (§6). Give it to a `serve`.

    What it got can be read at any time: `requests`, `secrets`, `ssh_keys`, `mounts`, `config`, `shutdown_reason`.
    It does no IO of its own, and has no time but `clock`'s. Several threads may use it.
    """

    def __init__(
        self,
        *,
        boot_time: float = 0.0,
        agents: Iterable[AgentStatus] | None = None,
        types: Collection[str] = REFERENCE_TYPES,
        users: Collection[str] = STOCK_USERS,
        effects: Effects | None = None,
        faults: Iterable[Fault | str] = (),
        clock: Callable[[], float] = time.monotonic,
        poll_interval: float = 5.0,
        age: Age | str = Age.TODAY,
        files: Collection[str] = (),
    ) -> None:
        """Start the guest now, by `clock`.

        `boot_time`: seconds that it says `booting`; `math.inf` for ever. `agents`: those that it reports;
        None runs those that the config names, by the guest's own rules (§10), from the first poll after it came.
        `types`: the message types that it knows; one without a class of its own is acked. `faults`: what goes
        wrong, for the server to do (see `stereos_proto_io.guest.faults`). `poll_interval`: seconds between its looks
        at config and agents. `age`: "today", or "older" for a guest from before March 2026, which reads `[agent]`
        instead of `[[agents]]`. `files`: paths of the files in the guest that a `prompt_file` may name.
        """
        self._lock = threading.RLock()
        self.faults = FaultPlan(faults)
        self._boot_time = boot_time + self.faults.boot_time
        self._fixed_agents = None if agents is None else tuple(agents)
        self._types = frozenset(types)
        self._users = frozenset(users)
        self._effects = effects or Effects()
        self._clock = clock
        self._poll_interval = poll_interval
        self._age = Age(age)
        self._files = frozenset(files)
        self._journal: deque[str] = deque(maxlen=_JOURNAL_LINES)
        self._requests: list[Request] = []
        self._ssh_keys: dict[str, str] = {}
        self._config: str | None = None
        self._start()

    def __repr__(self) -> str:
        return f"<GuestSimulator {self.state} requests={len(self._requests)}>"

    def _start(self) -> None:
        self._started = self._clock()
        self._next_poll = self._boot_time + self._poll_interval
        self._secrets: dict[str, Secret] = {}
        self._mounts: list[Mount] = []
        self._daemon = AgentDaemon(self._journal.append, age=self._age, has_file=self._files.__contains__)
        self._agents = self._fixed_agents or ()
        self._forced_state: str | None = None
        self._seen_agents = False
        self._shutdown_reason: str | None = None

    # ------------------------------------------------------------------------------------ what it got

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests so far, of all connections, in the order in which they were handled. A reboot keeps them."""
        return tuple(self._requests)

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """The stored secrets by name. A reboot loses them: they live in memory."""
        return MappingProxyType(dict(self._secrets))

    @property
    def ssh_keys(self) -> Mapping[str, str]:
        """The content of each user's authorized_keys."""
        return MappingProxyType(dict(self._ssh_keys))

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The mounts, the first one first, with clean paths. Two at one place lie over each other."""
        return tuple(self._mounts)

    @property
    def config(self) -> str | None:
        """The stored jcard.toml, None before the first."""
        return self._config

    @property
    def shutdown_reason(self) -> str | None:
        """The reason of the shutdown that was asked for; None before one, "" when it named none."""
        return self._shutdown_reason

    @property
    def journal(self) -> tuple[str, ...]:
        """The guest's own journal, which no host sees: what became of the config and of each agent (§10)."""
        return tuple(self._journal)

    # --------------------------------------------------------------------------------- what it says

    @property
    def uptime(self) -> float:
        """Seconds since it started or rebooted, by its clock."""
        return self._clock() - self._started

    @property
    def state(self) -> str:
        """The lifecycle state now (§6). Set it to force one, such as `degraded`, until the next reboot."""
        with self._lock:
            self._poll()
            if self._shutdown_reason is not None:
                return LifecycleState.SHUTDOWN
            if self._forced_state is not None:
                return self._forced_state
            if self.uptime < self._boot_time:
                return LifecycleState.BOOTING
            return LifecycleState.HEALTHY if self._seen_agents else LifecycleState.READY

    @state.setter
    def state(self, state: str) -> None:
        with self._lock:
            self._forced_state = state

    @property
    def agents(self) -> tuple[AgentStatus, ...]:
        """The agents that it reports. Set them to say what became of them."""
        with self._lock:
            self._poll()
            return self._agents

    @agents.setter
    def agents(self, agents: Iterable[AgentStatus]) -> None:
        with self._lock:
            self._poll()
            self._agents = self._fixed_agents = tuple(agents)

    def _poll(self) -> None:
        """Look at config and agents as often as should have been done by now."""
        if self.uptime < self._next_poll:
            return
        self._next_poll += self._poll_interval * (1 + (self.uptime - self._next_poll) // self._poll_interval)
        if self._fixed_agents is None:
            self._daemon.look(self._config, {name: secret.value for name, secret in self._secrets.items()})
            self._agents = self._daemon.agents
        # Never back: nothing in the reference leaves `healthy` but a shutdown.
        self._seen_agents = self._seen_agents or any(agent.running for agent in self._agents)

    def reboot(self) -> None:
        """Start anew: booting, no secrets, no mounts, uptime 0. Config and keys are on disk, and stay."""
        with self._lock:
            self._effects.forget()
            self._start()

    def power_off(self) -> None:
        """Lose power, after an orderly shutdown or not."""
        with self._lock:
            self._effects.power_off(self.mounts)
            self._mounts.clear()

    # --------------------------------------------------------------------------------- what it does

    def handle(self, request: Request) -> Reply:
        """Carry `request` out and return the reply, which may be a refusal. Raises nothing of its own."""
        with self._lock:
            self._requests.append(request)
            self._poll()  # a look that was due before the request saw nothing of it
            if request.type not in self._types:
                return Ack(request.type, False, f"unknown message type: {request.type}")
            try:
                answer = _ACTIONS.get(type(request), _accept)(self, request)
            except RequestRefused as exc:
                return Ack(request.type, False, str(exc))
            return answer or Ack(request.type, True)

    def _ping(self, _request: Ping) -> Pong:
        return Pong()

    def _get_health(self, _request: GetHealth) -> Health:
        agents: Any = self.agents  # mypy reads `converter=tuple` as a tuple of a free type variable
        return Health(self.state, agents, int(self.uptime))

    def _set_config(self, request: SetConfig) -> None:
        self._effects.store_config(request.content)
        self._config = request.content

    def _inject_secret(self, request: InjectSecret) -> None:
        name = request.name
        _require(name, "secret name cannot be empty")
        if base_name(name) != name or ".." in name:
            raise RequestRefused(f"invalid secret name: {quote(name)} (must be a simple filename)")
        _check_file_name(name)
        secret = Secret(request.value, request.mode or _DEFAULT_MODE)
        self._effects.store_secret(name, secret)
        self._secrets[name] = secret

    def _inject_ssh_key(self, request: InjectSSHKey) -> None:
        user, key = request.user, request.public_key
        _require(user, "user cannot be empty")
        _require(key, "public_key cannot be empty")
        if not key.startswith(_KEY_TYPES):
            raise RequestRefused(
                "invalid SSH public key format: must start with a recognized key type (e.g., ssh-ed25519)"
            )
        if user not in self._users:
            raise RequestRefused(f"lookup user {quote(user)}: user: unknown user {user}")
        keys = key.rstrip("\n") + "\n"
        self._effects.store_keys(user, keys)
        self._ssh_keys[user] = keys

    def _mount(self, request: Mount) -> None:
        _require(request.tag, "mount tag cannot be empty")
        _require(request.guest_path, "mount guest_path cannot be empty")
        _require(request.fs_type, "mount fs_type cannot be empty")
        if request.fs_type not in ("virtiofs", "9p"):
            raise RequestRefused(f"unsupported filesystem type: {quote(request.fs_type)} (must be virtiofs or 9p)")
        if not request.guest_path.startswith("/"):
            raise RequestRefused(f"guest_path must be absolute: {quote(request.guest_path)}")
        path = clean_path(request.guest_path)
        if path == "/" or any(path == folder or path.startswith(f"{folder}/") for folder in _SYSTEM_FOLDERS):
            raise RequestRefused(f"cannot mount over system directory: {quote(path)}")
        if "\0" in path:
            raise RequestRefused(f"create mount point {quote(path)}: {os_error('mkdir', path, errno.EINVAL)}")
        mount = attrs.evolve(request, guest_path=path)
        self._effects.mount(mount)
        self._mounts.append(mount)

    def _shut_down(self, request: Shutdown) -> None:
        self._shutdown_reason = request.reason


def _accept(_simulator: GuestSimulator, _request: Any) -> None:
    """A type that the guest knows and that has no class of its own."""


_ACTIONS: Final[dict[type[Request], Callable[[GuestSimulator, Any], Reply | None]]] = {
    Ping: GuestSimulator._ping,
    GetHealth: GuestSimulator._get_health,
    SetConfig: GuestSimulator._set_config,
    InjectSecret: GuestSimulator._inject_secret,
    InjectSSHKey: GuestSimulator._inject_ssh_key,
    Mount: GuestSimulator._mount,
    Shutdown: GuestSimulator._shut_down,
}


def _require(value: str, refusal: str) -> None:
    if not value:
        raise RequestRefused(refusal)


def _check_file_name(name: str) -> None:
    """What the file system refuses of the names that the guest lets through."""
    path = f"{SECRETS_FOLDER}/{name}.tmp"
    if "\0" in name:
        code = errno.EINVAL
    elif len(path.rpartition("/")[2].encode()) > 255:
        code = errno.ENAMETOOLONG
    elif name in (".", "/"):
        code = errno.EISDIR
    else:
        return
    raise RequestRefused(f"write secret file: {os_error('open', path, code)}")
