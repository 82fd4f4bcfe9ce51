"""A StereOS guest without a machine: what the reference does with each request (`docs/protocol.md` §6)."""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    AgentStatus,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    LifecycleState,
    LocalProtocolError,
    Mount,
    Ping,
    Pong,
    Reply,
    Request,
    SetConfig,
    Shutdown,
    encode,
)
from stereos_proto_io._old_names import OldNames, old_name
from stereos_proto_io._ssh_keys import KEY_TYPES

from ._agents import Age, Agent, AgentDaemon
from ._dialects import FORK_TYPES, OLD_TYPES, REFERENCE_TYPES
from ._go import base_name, clean_path, os_error, quote
from .faults import Fault, FaultPlan

#: Users of a stock image, whose keys can be set (§6).
STOCK_USERS: Final = ("admin", "agent")
SECRETS_FOLDER: Final = "/run/stereos/secrets"
CONFIG_FILE: Final = "/etc/stereos/jcard.toml"

_SYSTEM_FOLDERS: Final = ("/nix", "/etc", "/bin", "/boot", "/dev", "/proc", "/sys", "/run")
_DEFAULT_MODE: Final = 0o600
_JOURNAL_LINES: Final = 1000
#: Characters of a line of the journal. A host chooses what is quoted there.
MAX_JOURNAL_LINE: Final = 4096

#: Requests that are kept for tests to look at, where a simulator is not told otherwise.
KEPT_REQUESTS: Final = 1000
#: Bytes of the lines of those requests, at most: four configs of the largest size.
KEPT_BYTES: Final = 4 * MAX_LINE_SIZE
#: Shown instead of the value of a secret that the guest no longer has.
NOT_KEPT: Final = "(not kept)"

__all__ = ["FORK_TYPES", "OLD_TYPES", "REFERENCE_TYPES", "Effects", "GuestSimulator", "RequestRefused", "Secret"]


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


_EFFECTS: Final = tuple(name for name in vars(Effects) if not name.startswith("_"))


@attrs.define(eq=False)
class _Kept:
    """A request that is kept, but for the value of a secret: that is kept as long as the guest has it."""

    #: The request, with NOT_KEPT for a secret's value.
    message: Request
    #: Bytes of its line.
    size: int
    #: The secret that it stored, which may have been replaced or lost since.
    secret: weakref.ref[Secret] | None = None

    @property
    def request(self) -> Request:
        """The request as it came, or with NOT_KEPT for the value."""
        secret = self.secret() if self.secret is not None else None
        return self.message if secret is None else attrs.evolve(self.message, value=secret.value)  # type: ignore[call-arg]


class _Daemon(AgentDaemon):
    """An agent daemon whose agents may exit."""

    def __init__(self, journal: Callable[[str], object], *, age: Age, has_file: Callable[[str], bool]) -> None:
        super().__init__(journal, age=age, has_file=has_file)
        #: The agents that have exited since they were started → with which error.
        self.exited: dict[str, str] = {}

    @property
    def agents(self) -> tuple[AgentStatus, ...]:
        """What health reports: one that has exited stays (§10)."""
        return tuple(
            attrs.evolve(agent, running=False, error=self.exited[agent.name]) if agent.name in self.exited else agent
            for agent in super().agents
        )

    def _start(self, agent: Agent, said: str) -> None:
        self.exited.pop(agent.name, None)
        super()._start(agent, said)


class GuestSimulator:
    """A guest in memory that behaves and replies like the reference (§6). Pass it to a `serve` function.

    What it got can be read at any time, also after a shutdown: `requests`, `secrets`, `ssh_keys`, `mounts`, `config`,
    `shutdown_reason`. A reboot loses `secrets`, `mounts` and `shutdown_reason`.

    The simulator does no IO of its own, and takes its time from `clock` alone. Several threads may use it: what changes
    the guest is done one at a time, and questions (`ping`, `get_health`) do not wait for it.
    """

    def __init__(
        self,
        *,
        boot_time: float = 0.0,
        uptime: float = 0.0,
        agents: Iterable[AgentStatus] | None = None,
        types: Collection[str] = REFERENCE_TYPES,
        users: Collection[str] = STOCK_USERS,
        effects: Effects | None = None,
        faults: Iterable[Fault | str] = (),
        clock: Callable[[], float] = time.monotonic,
        poll_interval: float = 5.0,
        age: Age | str = Age.TODAY,
        files: Collection[str] = (),
        keep_requests: int = KEPT_REQUESTS,
    ) -> None:
        """Start the guest now, by `clock`.

        * `boot_time`: for how many seconds it says `booting`; `math.inf` is for ever.
        * `uptime`: for how many seconds it has been up already, until it reboots: what it would have done in that time,
          such as booting, it has done.
        * `agents`: the agents that it reports. With None it runs the agents that its config names, by the guest's own
          rules (§10): it reads a new config at its next poll.
        * `types`: the message types that it knows. A type that it knows and that has no class is acked.
        * `users`: the users whose keys can be set.
        * `effects`: what it does to its machine. The default does nothing.
        * `faults`: what goes wrong. The server carries them out (see `stereos_proto_io.guest.faults`).
        * `clock`: returns the time in seconds.
        * `poll_interval`: seconds between two polls of config and agents.
        * `age`: "today", or "older" for a guest from before March 2026, which reads `[agent]` instead of `[[agents]]`.
        * `files`: paths of the files in the guest that a `prompt_file` may name.
        * `keep_requests`: how many requests `requests` shows at most; 0 keeps none. Their lines come to 4 MiB at most.
          Older requests are dropped, and counted in `dropped_requests`.

        Raises ValueError when `boot_time` or `keep_requests` is below 0, `uptime` is below 0 or not finite,
        `poll_interval` is not above 0, `age` is not one of the two, an agent cannot be reported (§5), or a text is not
        that of a fault; TypeError for an argument of a wrong type, such as one string for several.
        """
        if not isinstance(keep_requests, int) or isinstance(keep_requests, bool) or keep_requests < 0:
            raise ValueError(f"keep_requests must be a whole number, at least 0, not {keep_requests!r}")
        for name, number in (("boot_time", boot_time), ("uptime", uptime), ("poll_interval", poll_interval)):
            _check_number(name, number)
        if not boot_time >= 0:
            raise ValueError(f"boot_time must be at least 0, not {boot_time!r}")
        if not 0 <= uptime < inf:
            raise ValueError(f"uptime must be at least 0, and finite, not {uptime!r}")
        if not 0 < poll_interval < inf:
            raise ValueError(f"poll_interval must be more than 0, and finite, not {poll_interval!r}")
        if not callable(clock):
            raise TypeError(f"clock takes a function that returns the time in seconds, not {type(clock).__name__}")
        self._types = _texts("types", types)
        self._users = _texts("users", users)
        self._files = _texts("files", files)
        self._lock = threading.RLock()  # held while the guest changes
        # Held while it looks at its config. An effect runs under the other lock and may set `agents` or reboot, so this
        # one is taken second, and what is done under it takes no lock.
        self._poll_lock = threading.RLock()
        self.faults: FaultPlan = FaultPlan(faults, types=FORK_TYPES | self._types)
        self._boot_time = boot_time + self.faults.boot_time
        self._fixed_agents = None if agents is None else _reportable(agents)
        self._effects = Effects() if effects is None else _checked_effects(effects)
        self._clock = clock
        self._poll_interval = poll_interval
        self._age = Age(age)
        self._journal: deque[str] = deque(maxlen=_JOURNAL_LINES)
        self._keep_requests = keep_requests
        self._requests: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._keeping = threading.Lock()  # held while requests are kept or shown
        self.dropped_requests: int = 0
        self._ssh_keys: dict[str, str] = {}
        self._config: str | None = None
        self._start(uptime)

    def __repr__(self) -> str:
        if not hasattr(self, "_shutdown_reason"):  # set last: an option was refused, and a traceback shows this
            return "<GuestSimulator, not made>"
        return f"<GuestSimulator {self.state} requests={len(self._requests)}>"

    def _start(self, uptime: float = 0.0) -> None:
        self._started = self._clock() - uptime
        self._next_poll = self._boot_time + self._poll_interval
        self._secrets: dict[str, Secret] = {}
        self._mounts: list[Mount] = []
        self._unmounted = 0  # how many of them were unmounted, by a power-off
        self._daemon = _Daemon(self._write_down, age=self._age, has_file=self._files.__contains__)
        self._agents = self._fixed_agents or ()
        self._forced_state: str | None = None
        self._seen_agents = False
        self._shutdown_reason: str | None = None

    # ------------------------------------------------------------------------------------ what it got

    @property
    def requests(self) -> tuple[Request, ...]:
        """The last requests, of all connections, in the order in which they came. A reboot keeps them.

        The value of a secret is shown as long as the guest has the secret. When the secret was refused, replaced or
        lost by a reboot, "(not kept)" stands in the place of its value.
        """
        with self._keeping:
            return tuple(kept.request for kept in self._requests)

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
        """The mounts, the first one first, with clean paths. Two at one place lie over each other.

        A guest that powers off unmounts them, and they can still be read here. A reboot loses them.
        """
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
        """The guest's own journal, which no host sees: what became of the config and of each agent (§10).

        Its last 1,000 lines, and 4,096 characters of each; a line that is cut says how many more it had.
        """
        return tuple(self._journal)

    # --------------------------------------------------------------------------------- what it says

    @property
    def uptime(self) -> float:
        """Seconds since it started or rebooted, by its clock."""
        return self._clock() - self._started

    @property
    def state(self) -> str:
        """The lifecycle state now (§6). Set it to force one, such as `degraded`, until the next reboot.

        Setting it raises TypeError when it is not a string, ValueError when it cannot be sent (§5).
        """
        self._look()
        if self._shutdown_reason is not None:
            return LifecycleState.SHUTDOWN
        forced = self._forced_state
        if forced is not None:
            return forced
        if self.uptime < self._boot_time:
            return LifecycleState.BOOTING
        return LifecycleState.HEALTHY if self._seen_agents else LifecycleState.READY

    @state.setter
    def state(self, state: str) -> None:
        if not isinstance(state, str):
            raise TypeError(f"state takes a string, such as 'degraded', not {type(state).__name__}")
        _check_sendable("state", Health(state))
        self._forced_state = state

    @property
    def agents(self) -> tuple[AgentStatus, ...]:
        """The agents that it reports. When they are set, it reports these until they are set again, whatever its config
        says. `end_agent` lets a single one exit.

        Setting them raises TypeError and ValueError as the argument `agents` does.
        """
        self._look()
        return self._agents

    @agents.setter
    def agents(self, agents: Iterable[AgentStatus]) -> None:
        fixed = _reportable(agents)
        with self._poll_lock:
            self._poll()
            self._agents = self._fixed_agents = fixed

    def end_agent(self, name: str, error: str = "") -> None:
        """Let the agent called `name` exit, at once: it stays in the health, with `running` false and `error` (§10).

        It runs again after a reboot, and where the guest runs the agents of its config, when its entry or any secret
        changes. The `restart` of its entry is not carried out.

        Raises ValueError when no agent of that name has started, or `error` cannot be sent (§5).
        """
        with self._poll_lock:
            self._poll()
            names = [agent.name for agent in self._agents]
            if name not in names:
                started = f"those that have started: {', '.join(map(repr, names))}"
                none = f"none has started, and the config is read every {self._poll_interval:g} s"
                raise ValueError(f"there is no agent {name!r}; {started if names else none}")
            self._agents = _reportable(
                attrs.evolve(agent, running=False, error=error) if agent.name == name else agent
                for agent in self._agents
            )
            self._daemon.exited[name] = error
            self._write_down(f"agent {name} exited" + (f": {error}" if error else ""))

    def _write_down(self, line: str) -> None:
        cut = len(line) - MAX_JOURNAL_LINE
        self._journal.append(line if cut <= 0 else f"{line[:MAX_JOURNAL_LINE]}… ({cut} more characters)")

    def _look(self) -> None:
        """Poll, where that is due. Reading a config may take long, so only one thread does: the others go on with what
        was seen last, as a guest does whose agent daemon is a process of its own. No request waits for it.
        """
        if self._poll_lock.acquire(blocking=False):
            try:
                self._poll()
            finally:
                self._poll_lock.release()

    def _poll(self) -> None:
        """Look at config and agents as often as should have been done by now."""
        if self.uptime < self._next_poll:
            return
        self._next_poll += self._poll_interval * (1 + (self.uptime - self._next_poll) // self._poll_interval)
        if self._fixed_agents is None:
            # Read without the lock: this takes a copy of the secrets, and secrets come before the config.
            config, secrets = self._config, self.secrets
            self._daemon.look(config, {name: secret.value for name, secret in secrets.items()})
            self._agents = self._daemon.agents
        # Never reset to False: in the reference only a shutdown ends `healthy`.
        self._seen_agents = self._seen_agents or any(agent.running for agent in self._agents)

    def reboot(self) -> None:
        """Start anew: booting, no secrets, no mounts, uptime 0. Config and keys are on disk, and stay.

        This changes the simulator alone: connections stay open, and the guest answers on. To end them too, as a reboot
        does, call `reboot` of what serves it: the `SimulatedGuest`, or the server.
        """
        with self._lock, self._poll_lock:
            try:
                self._effects.forget()
            finally:
                self._start()

    def power_off(self) -> None:
        """Lose power, after an orderly shutdown or not. The effects unmount; `mounts` stays until the next reboot.

        This changes the simulator alone: connections stay open, and the guest answers on. To end them too, call
        `power_off` of what serves it: the `SimulatedGuest`, or the server.
        """
        with self._lock:
            mounted = self.mounts[self._unmounted :]
            self._unmounted = len(self._mounts)
            self._effects.power_off(mounted)

    # --------------------------------------------------------------------------------- what it does

    def handle(self, request: Request) -> Reply:
        """Carry `request` out and return the reply, which may be a refusal. Raises nothing of its own."""
        kept = self._keep(request)
        if request.type not in self._types:
            return Ack(request.type, False, f"unknown message type: {request.type}")
        action = _ACTIONS.get(type(request), _accept)
        if type(request) in _QUESTIONS:
            answer = action(self, request)
        else:
            self._look()  # a look that was due before the request saw nothing of it
            with self._lock:
                try:
                    answer = action(self, request)
                except RequestRefused as exc:
                    return Ack(request.type, False, str(exc))
                if isinstance(request, InjectSecret):
                    kept.secret = weakref.ref(self._secrets[request.name])
        return answer or Ack(request.type, True)

    def deny(self, request: Request, text: str) -> Reply:
        """Refuse `request` with `text` and carry nothing out, as the fault `deny` does. It is kept in `requests`."""
        self._keep(request)
        return Ack(request.type, False, text)

    def _keep(self, request: Request) -> _Kept:
        message = attrs.evolve(request, value=NOT_KEPT) if isinstance(request, InjectSecret) else request
        kept = _Kept(message, _size(request))
        with self._keeping:
            self._requests.append(kept)
            self._kept_bytes += kept.size
            while len(self._requests) > self._keep_requests or self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._requests.popleft().size
                self.dropped_requests += 1
        return kept

    def _ping(self, _request: Ping) -> Pong:
        return Pong()

    def _get_health(self, _request: GetHealth) -> Health:
        agents: Any = self.agents  # mypy reads `converter=tuple` as a tuple of a free type variable
        state = self.state
        if state == LifecycleState.BOOTING and self._forced_state is None:
            self.faults.on_booting()
        return Health(state, agents, int(self.uptime))

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
        if not key.startswith(KEY_TYPES):
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


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} takes a number, such as 2.5, not {type(value).__name__}")


def _texts(name: str, several: Iterable[str]) -> frozenset[str]:
    if isinstance(several, str) or not isinstance(several, Iterable):
        given = "one string" if isinstance(several, str) else type(several).__name__
        raise TypeError(f"{name} takes several strings, such as a tuple of them, not {given}")
    texts = tuple(several)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} takes strings, not {type(text).__name__}")
    return frozenset(texts)


def _reportable(agents: Iterable[AgentStatus]) -> tuple[AgentStatus, ...]:
    if isinstance(agents, str) or not isinstance(agents, Iterable):
        raise TypeError(f"agents takes several AgentStatus, such as a list, not {type(agents).__name__}")
    statuses: Any = tuple(agents)  # mypy reads `converter=tuple` as a tuple of a free type variable
    for status in statuses:
        if not isinstance(status, AgentStatus):
            raise TypeError(
                f"agents takes AgentStatus, such as AgentStatus('coder', running=True), not {type(status).__name__}"
            )
    _check_sendable("agents", Health(LifecycleState.READY, statuses))
    return cast("tuple[AgentStatus, ...]", statuses)


def _check_sendable(name: str, health: Health) -> None:
    try:
        encode(health)
    except LocalProtocolError as exc:
        raise ValueError(f"{name} cannot be reported: {exc}") from None


def _checked_effects(effects: Effects) -> Effects:
    if isinstance(effects, type):
        raise TypeError(f"effects takes an object, such as {effects.__name__}(), not the class")
    for name in _EFFECTS:
        if not callable(getattr(effects, name, None)):
            raise TypeError(f"effects takes an object such as Effects(), and {type(effects).__name__} has no {name}")
    return effects


def _size(request: Request) -> int:
    """The bytes of its line, written again; those of the longest line where it cannot be written."""
    try:
        return len(encode(request))
    except LocalProtocolError:
        return MAX_LINE_SIZE


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
#: What changes nothing, and so waits for nothing.
_QUESTIONS: Final = frozenset({Ping, GetHealth})


def _require(value: str, refusal: str) -> None:
    if not value:
        raise RequestRefused(refusal)


def _check_file_name(name: str) -> None:
    """What the file system refuses of the names that the guest lets through (§6)."""
    if name in (".", "/"):
        # The reference writes `secrets.tmp` beside the folder, and cannot rename it onto the folder.
        draft = f"{SECRETS_FOLDER}.tmp"
        raise RequestRefused(f"rename secret {quote(name)}: rename {draft} {SECRETS_FOLDER}: file exists")
    path = f"{SECRETS_FOLDER}/{name}.tmp"
    if "\0" in name:
        code = errno.EINVAL
    elif len(path.rpartition("/")[2].encode()) > 255:
        code = errno.ENAMETOOLONG
    else:
        return
    raise RequestRefused(f"write secret {quote(name)}: {os_error('open', path, code)}")


def _agents_of(config: str) -> tuple[AgentStatus, ...]:
    """The agents that the guest runs by the jcard.toml `config`; none where it cannot be read."""
    daemon = AgentDaemon(lambda _line: None)
    daemon.look(config, {})
    return daemon.agents


_OLD_NAMES: Final[OldNames] = {
    "agents_of": (lambda: _agents_of, "look at the `agents` of a GuestSimulator that was given the config")
}

if not TYPE_CHECKING:  # a checker is to know every name

    def __getattr__(name: str) -> object:
        return old_name(__name__, name, _OLD_NAMES)
