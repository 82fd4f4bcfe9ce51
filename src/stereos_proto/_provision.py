"""What a guest is given before its agents start: the plan, where it comes from, how it went.

`docs/protocol.md` §6 (what the guest does with it), §7 (what goes wrong when it is done naively), §10 (jcard).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final

import attrs
import cattrs

from ._connection import Connection
from ._errors import OutcomeUnknown, RequestFailed, RequestTimeout, StereosError
from ._messages import Ack, InjectSecret, InjectSSHKey, Mount, Reply, Request, SetConfig
from ._registry import Role
from ._toml import Statement, statements, without_table


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    # The bare type would do, but type checkers cannot follow it as a converter.
    return tuple(values)


def _only(cls: type[Request]) -> Callable[[Any, attrs.Attribute[Any], tuple[Request, ...]], None]:
    def check(_plan: Any, attribute: attrs.Attribute[Any], values: tuple[Request, ...]) -> None:
        for value in values:
            if not isinstance(value, cls):
                raise TypeError(f"{attribute.name} takes {cls.__name__} requests, not {type(value).__name__}")

    return check


@attrs.frozen
class ProvisionPlan:
    """What a guest is to be given. `config` is the text of its jcard.toml, None to leave it alone.

    `agents` are the names of the agents that the config starts: what to wait for afterwards.

    Raises LocalProtocolError when a step could never be sent, before anything is.
    """

    mounts: tuple[Mount, ...] = attrs.field(default=(), converter=_tuple, validator=_only(Mount))
    secrets: tuple[InjectSecret, ...] = attrs.field(default=(), converter=_tuple, validator=_only(InjectSecret))
    ssh_keys: tuple[InjectSSHKey, ...] = attrs.field(default=(), converter=_tuple, validator=_only(InjectSSHKey))
    config: str | None = attrs.field(default=None, repr=False)
    agents: tuple[str, ...] = attrs.field(default=(), converter=_tuple)

    def __attrs_post_init__(self) -> None:
        # A connection that leads nowhere refuses exactly what a real one would.
        trial = Connection(Role.HOST, max_pending=len(self.requests) + 1)
        for request in self.requests:
            trial.send(request)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The steps in the order that is safe: agents start when the config comes, so it comes last (§7)."""
        config = () if self.config is None else (SetConfig(self.config),)
        return (*self.mounts, *self.secrets, *self.ssh_keys, *config)


class StepStatus(Enum):
    """How a step went. `UNKNOWN`: it was sent, and the connection ended before the reply."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_SENT = "not sent"


@attrs.frozen
class ProvisionStep:
    """One request of a plan, how it went, and the error where it did not go well."""

    request: Request
    status: StepStatus
    error: StereosError | None = None

    @classmethod
    def of(cls, request: Request, outcome: Reply | StereosError) -> ProvisionStep:
        """Sort an outcome into a step."""
        if isinstance(outcome, Ack) and not outcome.ok:
            return cls(request, StepStatus.REFUSED, RequestFailed(request, outcome.error))
        if isinstance(outcome, Reply):
            return cls(request, StepStatus.DONE)
        sent = isinstance(outcome, OutcomeUnknown) or (isinstance(outcome, RequestTimeout) and outcome.sent)
        return cls(request, StepStatus.UNKNOWN if sent else StepStatus.NOT_SENT, outcome)

    @property
    def label(self) -> str:
        """What the step is about, without its secret: "mount share0 at /workspace"."""
        match self.request:
            case Mount(tag=tag, guest_path=path):
                return f"mount {tag} at {path}"
            case InjectSecret(name=name):
                return f"secret {name}"
            case InjectSSHKey(user=user):
                return f"SSH key of {user}"
            case _:
                return "config"


@attrs.frozen
class ProvisionReport:
    """How each step of a plan went, in the order of the plan."""

    steps: tuple[ProvisionStep, ...]

    @property
    def ok(self) -> bool:
        """Whether every step is done."""
        return not self.failed

    @property
    def failed(self) -> tuple[ProvisionStep, ...]:
        """The steps that are not done."""
        return tuple(step for step in self.steps if step.status is not StepStatus.DONE)

    def raise_for_failure(self) -> None:
        """Raise the error of the first step that is not done, if there is one."""
        for step in self.failed:
            if step.error is not None:
                raise step.error


# ---------------------------------------------------------------------------------------------------------
# jcard.toml
# ---------------------------------------------------------------------------------------------------------


class JcardError(StereosError, ValueError):
    """A jcard.toml cannot be used. The text names file, line and key, and never a value.

    `line` is 1-based, 0 where there is none; `key` is the path of the key, "" for the whole file.
    """

    def __init__(self, text: str, *, line: int = 0, key: str = "") -> None:
        super().__init__(text)
        self.line = line
        self.key = key


@attrs.frozen
class _Shared:
    guest: str
    host: str = ""
    readonly: bool = False


@attrs.frozen
class _Agent:
    name: str = ""
    harness: str = ""
    type: str = ""


@attrs.frozen
class _Jcard:
    shared: list[_Shared] = attrs.field(factory=list)
    secrets: dict[str, str] = attrs.field(factory=dict, repr=False)
    agents: list[_Agent] = attrs.field(factory=list)
    agent: _Agent | None = None


def _exactly(type_: type, name: str) -> Callable[[Any, Any], Any]:
    def check(value: Any, _type: Any) -> Any:
        if type(value) is not type_:
            raise ValueError(f"must be {name}")
        return value

    return check


_NAMES: Final[tuple[tuple[type, str], ...]] = ((str, "a string"), (bool, "true or false"))
_converter: Final = cattrs.Converter()
for _type, _name in _NAMES:
    _converter.register_structure_hook(_type, _exactly(_type, _name))
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load_jcard(
    text: str,
    *,
    env: Mapping[str, str],
    fs_type: str = "9p",
    ssh_keys: Iterable[InjectSSHKey] = (),
    source: str = "jcard.toml",
) -> ProvisionPlan:
    """Read a jcard.toml (`docs/protocol.md` §10) into a plan.

    `[[shared]]` folders become mounts with the tags `share0`, `share1`, … of type `fs_type`, which depends on
    the hypervisor: "9p" or "virtiofs". `[secrets]` become secrets, with `${NAME}` taken from `env`. The config
    is `text` less its secrets; every other byte stays, keys that are unknown here included. `source` is what
    errors call the text.

    Raises JcardError when the text is no TOML, a value is of the wrong type or unusable, or a variable is
    unset; LocalProtocolError when a step could never be sent.
    """
    where = _Source(source, text)
    table = where.parse()
    jcard = where.structure({name: table[name] for name in ("shared", "secrets", "agents", "agent") if name in table})
    for index, shared in enumerate(jcard.shared):
        if not shared.guest.startswith("/"):
            raise where.error("must be an absolute path", ("shared", index, "guest"))
    mounts = [
        Mount(f"share{index}", shared.guest, fs_type, shared.readonly) for index, shared in enumerate(jcard.shared)
    ]
    secrets = [InjectSecret(name, where.secret(name, value, env)) for name, value in jcard.secrets.items()]
    agents = [*jcard.agents, *([jcard.agent] if jcard.agent else [])]
    names = [agent.name or agent.harness or agent.type for agent in agents]
    return ProvisionPlan(mounts, secrets, ssh_keys, config=where.without_secrets(table), agents=filter(None, names))


class _Source:
    """The text of a jcard.toml, and how to speak of its places."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._statements: tuple[Statement, ...] = ()

    def parse(self) -> dict[str, Any]:
        if not isinstance(self._text, str):
            raise TypeError(f"the text of a jcard must be a str, not {type(self._text).__name__}")
        try:
            table = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as exc:
            reason = str(exc)
        except RecursionError:
            reason = "it nests too deeply"
        else:
            self._statements = statements(self._text)
            return table
        found = re.search(r"at line (\d+)", reason)
        line = int(found[1]) if found else self._text.count("\n") + 1
        raise JcardError(f"{self._name}, line {line}: no TOML: {_anonymous(reason)}", line=line)

    def structure(self, table: dict[str, Any]) -> _Jcard:
        try:
            return _converter.structure(table, _Jcard)
        except cattrs.BaseValidationError as exc:
            reason, path = _first_fault(exc)
        raise self.error(reason, path)

    def secret(self, name: str, value: str, env: Mapping[str, str]) -> str:
        place = ("secrets", name)
        if "/" in name or ".." in name or name in ("", "."):
            raise self.error("must be a simple file name", place)
        unset = next((match[1] for match in _VARIABLE.finditer(value) if match[1] not in env), None)
        if unset is not None:
            raise self.error(f"needs the environment variable {unset}, which is not set", place)
        return _VARIABLE.sub(lambda match: env[match[1]], value)

    def without_secrets(self, table: dict[str, Any]) -> str:
        if "secrets" not in table:
            return self._text
        config = without_table(self._text, "secrets")
        # Rather no config than a leaked secret or a changed setting: what is left must be the rest, exactly.
        rest = {name: value for name, value in table.items() if name != "secrets"}
        try:
            same = tomllib.loads(config) == rest
        except tomllib.TOMLDecodeError:
            same = False
        if not same:
            raise self.error("cannot be taken out of the text; write it as a table, [secrets]", ("secrets",))
        return config

    def error(self, reason: str, path: tuple[str | int, ...]) -> JcardError:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        lines = [s.line for s in self._statements if s.path[: len(path)] == path or path[: len(s.path)] == s.path]
        line = max((s.line for s in self._statements if path[: len(s.path)] == s.path), default=min(lines, default=0))
        place = f", line {line}" if line else ""
        return JcardError(f"{self._name}{place}: {key} {reason}", line=line, key=key)


def _anonymous(reason: str) -> str:
    # Some of tomllib's sentences quote the text; a quoted part may be a secret.
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason)


def _first_fault(error: BaseException, path: tuple[str | int, ...] = ()) -> tuple[str, tuple[str | int, ...]]:
    """The first leaf of cattrs' tree of errors, and where it is."""
    if isinstance(error, cattrs.BaseValidationError):
        inner: Any = error.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, cattrs.AttributeValidationNote):
                path += (note.name,)
            elif isinstance(note, cattrs.IterableValidationNote):
                path += (note.index,)
        return _first_fault(inner, path)
    if isinstance(error, KeyError):
        return "is missing", path
    return str(error) if str(error).startswith("must be") else "is of the wrong type", path
