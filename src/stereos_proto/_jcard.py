"""From a jcard.toml to a plan (`docs/protocol.md` §10)."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from ._errors import StereosError
from ._messages import InjectSecret, InjectSSHKey, Mount
from ._provision import ProvisionPlan
from ._toml import Path, statements, without_table


class JcardError(StereosError, ValueError):
    """A jcard.toml cannot be used (§10). The text names file, line and key, and never a value.

    `line` is 1-based, 0 where there is none; `key` is the path of the key, "" for the whole file.
    """

    def __init__(self, text: str, *, line: int = 0, key: str = "") -> None:
        super().__init__(text)
        self.line = line
        self.key = key


# ---------------------------------------------------------------------------------------------------------
# What is known of the file. Other keys, and those whose type differs from version to version, pass untouched.
# ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Resources:
    cpus: int = 1


@attrs.frozen
class _Forward:
    host: int = 0
    guest: int = 0
    proto: str = ""


@attrs.frozen
class _Network:
    mode: str = ""
    forwards: list[_Forward] = attrs.field(factory=list)
    egress_allow: list[str] = attrs.field(factory=list)


@attrs.frozen
class _Shared:
    guest: str
    host: str = ""
    readonly: bool = False


@attrs.frozen
class _Agent:
    type: str = ""
    name: str = ""
    harness: str = ""
    prompt: str = ""
    prompt_file: str = ""
    workdir: str = ""
    restart: str = ""
    max_restarts: int = 0
    session: str = ""
    extra_packages: list[str] = attrs.field(factory=list)
    replicas: int = 1
    env: dict[str, str] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class _Jcard:
    mixtape: str = ""
    mixtape_digest: str = ""
    name: str = ""
    resources: _Resources = attrs.field(factory=_Resources)
    network: _Network = attrs.field(factory=_Network)
    shared: list[_Shared] = attrs.field(factory=list)
    secrets: dict[str, str] = attrs.field(factory=dict, repr=False)
    agents: list[_Agent] = attrs.field(factory=list)
    agent: _Agent | None = None


class _Unfit(ValueError):
    """A value of the wrong type. The text never holds the value."""


def _exactly(type_: type, name: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        # Not isinstance, to which a flag is a number.
        if type(value) is not type_:
            raise _Unfit(f"must be {name}")

    return check


def _scalar(type_: type, name: str) -> Callable[[Any, Any], Any]:
    check = _exactly(type_, name)

    def read(value: Any, _type: Any) -> Any:
        check(value)
        return value

    return read


def _table_hook(cls: Any) -> Callable[[Any, Any], Any]:
    check, fill = _exactly(dict, "a table"), make_dict_structure_fn(cls, _converter)

    def read(value: Any, type_: Any) -> Any:
        check(value)
        return fill(value, type_)

    return read


def _array_hook(type_: Any) -> Callable[[Any, Any], list[Any]]:
    item_type = get_args(type_)[0]
    check = _exactly(list, "an array of tables, in [[ ]]" if attrs.has(item_type) else "an array")

    def read(value: Any, _type: Any) -> list[Any]:
        check(value)
        return [_item(type_, item_type, index, item) for index, item in enumerate(value)]

    return read


def _dict_hook(type_: Any) -> Callable[[Any, Any], dict[str, Any]]:
    item_type = get_args(type_)[1]
    check = _exactly(dict, "a table")

    def read(value: Any, _type: Any) -> dict[str, Any]:
        check(value)
        return {name: _item(type_, item_type, name, item) for name, item in value.items()}

    return read


def _item(type_: Any, item_type: Any, place: int | str, value: Any) -> Any:
    try:
        return _converter.structure(value, item_type)
    except (_Unfit, cattrs.BaseValidationError) as exc:
        exc.add_note(cattrs.IterableValidationNote("", place, item_type))
        raise cattrs.IterableValidationError("", [exc], type_) from None  # pyright: ignore[reportCallIssue]


def _is(origin: Any, type_: Any) -> bool:
    return get_origin(type_) is origin


# Stock cattrs coerces: it takes a string for an array, and whatever is true for `true`.
_converter: Final = cattrs.Converter()
for _type, _name in ((str, "a string"), (bool, "true or false"), (int, "a whole number")):
    _converter.register_structure_hook(_type, _scalar(_type, _name))
_converter.register_structure_hook_factory(attrs.has, _table_hook)
for _kind, _factory in ((list, _array_hook), (dict, _dict_hook)):
    _converter.register_structure_hook_factory(functools.partial(_is, _kind), _factory)


def _first_fault(error: Any) -> tuple[str, Path]:
    """The first leaf of cattrs' tree of errors, and where it is."""
    path: Path = ()
    while isinstance(error, cattrs.BaseValidationError):
        error = error.exceptions[0]
        for note in error.__notes__:
            path += (note.name if isinstance(note, cattrs.AttributeValidationNote) else note.index,)
    return "is missing" if isinstance(error, KeyError) else str(error), path


# ---------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Float(str):
    """A float as it is written: NaN equals nothing, itself included."""

    __slots__ = ()


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
    the hypervisor: "9p" or "virtiofs". `[secrets]` become secrets, with each `${NAME}` taken from `env`. The
    config is `text` less that table and the comments in it; every other byte stays, keys that are unknown here
    included. `source` is what errors call the text.

    Raises JcardError when the text is no TOML, a value is of the wrong type or unusable, or a variable is
    unset; LocalProtocolError when a step could never be sent.
    """
    try:
        return _plan(_Source(source, text), env, fs_type, ssh_keys)
    except (StereosError, TypeError) as exc:
        # What has been seen on the way, secrets among it, stands in the frames of the traceback.
        error = exc.with_traceback(None)
        error.__context__ = None
    del text, env
    raise error


def _plan(where: _Source, env: Mapping[str, str], fs_type: str, ssh_keys: Iterable[InjectSSHKey]) -> ProvisionPlan:
    table = where.parse()
    jcard = where.structure(table)
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
        if not isinstance(text, str):
            raise TypeError(f"the text of a jcard must be a str, not {type(text).__name__}")
        self._name = name
        self._text = text

    def parse(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self._text, parse_float=_Float)
        except ValueError as exc:  # not only TOMLDecodeError: Python limits the digits of a number, too
            reason = str(exc)
        except RecursionError:
            reason = "it nests too deeply"
        line = 0
        if found := re.search(r"at line (\d+)", reason):
            line = int(found[1])
        elif reason.endswith("(at end of document)"):
            line = self._text.count("\n") + 1
        raise self._error(f"no TOML: {_anonymous(reason)}", line)

    def structure(self, table: dict[str, Any]) -> _Jcard:
        try:
            return _converter.structure(table, _Jcard)
        except cattrs.BaseValidationError as exc:
            reason, path = _first_fault(exc)
        raise self.error(reason, path)

    def secret(self, name: str, value: str, env: Mapping[str, str]) -> str:
        place = ("secrets", name)
        if name in ("", ".") or ".." in name or set(name) & set("/\0"):
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
            same = tomllib.loads(config, parse_float=_Float) == rest
        except (ValueError, RecursionError):
            same = False
        if not same:
            raise self.error("cannot be taken out of the text; write it as a table, [secrets]", ("secrets",))
        return config

    def error(self, reason: str, path: Path) -> JcardError:
        """The error about the value at `path`, with the line of the statement that is nearest to it."""
        found = statements(self._text)
        around = [statement for statement in found if statement.path == path[: len(statement.path)]]
        within = [statement for statement in found if statement.path[: len(path)] == path]
        nearest = max(around, key=lambda statement: len(statement.path), default=None) or within[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in path)
        return self._error(f"{key[1:]} {reason}", nearest.line, key[1:])

    def _error(self, what: str, line: int, key: str = "") -> JcardError:
        place = f", line {line}" if line else ""
        return JcardError(f"{self._name}{place}: {what}", line=line, key=key)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _anonymous(reason: str) -> str:
    """A sentence of tomllib's without what it quotes from the text, which may be a secret."""
    return re.sub(r"(?s)'(?![=\]}]').*'|\".*\"", "…", reason)
