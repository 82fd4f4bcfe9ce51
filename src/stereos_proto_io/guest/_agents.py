"""The guest's agent daemon: what it makes of a jcard.toml, and which agents it reports (`docs/protocol.md` §10).

The rules are the guest's own, written down here from what the reference guest was seen to do. They share no code with
`stereos_proto`, where the host's side of §10 lives: if both ends took their rules from one place, a simulated guest
would agree with the client about anything, mistakes included. Both are held to the same recorded facts instead.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from itertools import chain
from typing import Any, Final

import attrs

from stereos_proto import MAX_LINE_SIZE, AgentStatus

from ._go import quote


class Age(StrEnum):
    """How old a guest is, by the form of agents that it reads (§10)."""

    #: Since March 2026: `[[agents]]` only.
    TODAY = "today"
    #: Before: one `[agent]` only, which is called by its harness.
    OLDER = "older"


class ConfigDropped(Exception):
    """The guest drops the whole config. The text is what it writes in its own journal."""


@attrs.frozen
class Agent:
    """An agent as the guest understands it (§10)."""

    name: str
    harness: str
    type: str = "sandboxed"
    workdir: str = "/home/agent/workspace"
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    restart: str = "no"
    max_restarts: int = 0
    timeout: str = ""
    grace_period: str = "30s"
    session: str = ""
    memory: str = "2GiB"
    pid_limit: int = 512
    prompt: str = ""
    prompt_file: str = ""
    extra_packages: tuple[str, ...] = ()

    @property
    def reported_session(self) -> str:
        """The session that health names: a sandboxed agent has one called after itself."""
        return self.session if self.type == "native" else f"agent-{self.name}"

    def environment(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """Its variables: the secrets without trailing newlines, then those of its own, which win."""
        given = {name: value.rstrip("\n") for name, value in secrets.items() if not name.startswith(".")}
        return {**given, **self.env}


# ----------------------------------------------------------------------------------------------- reading a config

_MEMBERS: Final[dict[str, type]] = {
    **dict.fromkeys(("name", "harness", "type", "workdir", "restart", "timeout", "grace_period"), str),
    **dict.fromkeys(("session", "memory", "prompt", "prompt_file"), str),
    **dict.fromkeys(("max_restarts", "pid_limit", "replicas"), int),
    "extra_packages": list,
    "env": dict,
}
_HARNESSES: Final = ("claude-code", "opencode", "gemini-cli", "custom")
_TYPES: Final = ("sandboxed", "native")
_RESTARTS: Final = ("no", "on-failure", "always")

#: As many as fit into a health report. The reference would go on until its memory is full.
_MOST_AGENTS: Final = MAX_LINE_SIZE // len('{"name":"a-0","running":true},')
#: Characters that a config may have with its replicas written out, as the reference host writes them.
MAX_WRITTEN_OUT: Final = 64 * MAX_LINE_SIZE

_UNITS: Final = {"ns": 0, "us": 3, "µs": 3, "μs": 3, "ms": 6, "s": 9, "m": 9, "h": 9}
_TIMES: Final = {"m": 60, "h": 3600}
#: A number and what stands behind it, one of which may be empty.
_PART: Final = re.compile(r"(?=.)([0-9]*+\.?[0-9]*+)([^.0-9]*+)", re.DOTALL)

# Strings and comments, in which dots mean nothing. A string without an end reaches to the end of the text.
_ASIDE: Final = re.compile(
    r'"""(?:[^"\\]++|\\.|""?(?!"))*+(?:"{3,5}|\\?\Z)'
    r"|'''(?:[^']++|''?(?!'))*+(?:'{3,5}|\Z)"
    r'|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
    r"|'[^']*+(?:'|\Z)"
    r"|#[^\n]*+",
    re.DOTALL,
)
#: A dotted key of more than a hundred names, for which tomllib takes a time that grows with the square of their number.
#: The reference reads these. Here, a host could stall the guest by them.
_LONG_KEY: Final = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){100}")


def read_config(text: str, age: Age = Age.TODAY) -> tuple[Agent, ...]:
    """The agents of a jcard.toml, in the order of the file. Raises ConfigDropped where one of them is bad."""
    text = text.removeprefix("\ufeff")
    if _LONG_KEY.search(_ASIDE.sub(lambda aside: "" if aside[0][0] == "#" else "x", text)):
        raise ConfigDropped("parsing config: toml: a key has more than 100 names")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        # Not the whole sentence: it quotes the text, which may hold a secret.
        place = re.search(r"\(at .*\)$", str(exc))
        raise ConfigDropped(f"parsing config: toml: invalid {place[0] if place else '(somewhere)'}") from None
    if age is Age.OLDER:
        table = _member(document, "agent")
        entries = [] if table is None else [_typed(table, "agent")]
        one = [{**_without(entry, "replicas"), "name": entry.get("harness", "")} for entry in entries]
        return tuple(_checked(entry, "", fault) for entry, fault in _replicated(one))
    tables = _member(document, "agents")
    if tables is not None and not isinstance(tables, list):
        raise _mismatch("agents")
    written = [_typed(table, "agents") for table in tables or ()]
    for size, most, what in _BOUNDS:
        if sum(max(1, entry.get("replicas", 1)) * size(entry) for entry in written) > most:
            raise ConfigDropped(f"more than {most} {what}")
    replicas = [*_replicated(written)]
    _name(entry for entry, _ in replicas)
    agents: dict[str, Agent] = {}
    for index, (entry, fault) in enumerate(replicas):
        agent = _checked(entry, f"agents[{index}]: ", fault)
        if agent.name in agents:
            raise ConfigDropped(f"agents[{index}]: duplicate agent name {quote(agent.name)}")
        agents[agent.name] = agent
    return tuple(agents.values())


def _member(table: Mapping[str, Any], name: str) -> Any:
    """The member called `name`, else the member whose name differs in case alone, else None."""
    if name in table:
        return table[name]
    # Kelvin's sign and the long s are the letters beyond ASCII that fold to one of it, one for one.
    plain = {key: key.replace("\u212a", "k").replace("\u017f", "s") for key in table}
    return next((table[key] for key in table if plain[key].isascii() and plain[key].lower() == name), None)


def _typed(table: Any, place: str) -> dict[str, Any]:
    """The members of an agent that the guest knows. Raises ConfigDropped at one of a wrong type."""
    if not isinstance(table, dict):
        raise _mismatch(place)
    found: dict[str, Any] = {}
    for name, type_ in _MEMBERS.items():
        value = _member(table, name)
        # An empty string counts as missing, and so does an `env` that is no table.
        if value is None or value == "" or (name == "env" and not isinstance(value, dict)):
            continue
        if type(value) is not type_ or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise _mismatch(f"{place}.{name}")
        found[name] = tuple(value) if isinstance(value, list) else value
    if not all(isinstance(value, str) for value in (*found.get("env", {}).values(), *found.get("extra_packages", ()))):
        raise _mismatch(place)
    return found


def _without(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


def _mismatch(place: str) -> ConfigDropped:
    return ConfigDropped(f"parsing config: toml: (last key {quote(place)}): incompatible types")


def _size(entry: Mapping[str, Any]) -> int:
    """The characters of an entry, and one more for each text."""
    env = entry.get("env", {})
    own = [value for value in entry.values() if isinstance(value, str)]
    texts = (*own, *env, *env.values(), *entry.get("extra_packages", ()))
    return sum(map(len, texts)) + len(texts)


#: What a host could fill the guest's memory with: how much of it an entry has, how much there may be, what it is.
_BOUNDS: Final[tuple[tuple[Callable[[Mapping[str, Any]], int], int, str], ...]] = (
    (lambda _entry: 1, _MOST_AGENTS, "agents"),
    (
        lambda entry: len(entry.get("name", entry.get("harness", ""))),
        MAX_LINE_SIZE,
        "characters in the names of agents",
    ),
    (_size, MAX_WRITTEN_OUT, "characters with its replicas written out"),
)


def _replicated(entries: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """An entry for each replica, and its fault: that of the entry in the file, which is looked at once.

    Replicas of an entry with a name get names of their own, and no session.
    """
    for entry in entries:
        copies = max(1, entry.pop("replicas", 1))
        fault = next(chain(_choice_faults(entry), _value_faults(entry)), "")
        if copies > 1:
            entry.pop("session", None)
        for number in range(copies):
            own = {"name": f"{entry['name']}-{number}"} if copies > 1 and "name" in entry else {}
            yield {**entry, **own}, fault


def _name(entries: Iterable[dict[str, Any]]) -> None:
    """Give the entries without a name that of their harness; several of one harness get a number, too."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if "name" not in entry:
            alike.setdefault(entry.get("harness", ""), []).append(entry)
    for harness, unnamed in alike.items():
        for number, entry in enumerate(unnamed):
            entry["name"] = harness if len(unnamed) == 1 else f"{harness}-{number}"


def _checked(entry: dict[str, Any], place: str, fault: str) -> Agent:
    """The agent of an entry with its defaults. Raises ConfigDropped where there is a fault in it."""
    if fault:
        raise ConfigDropped(place + fault)
    if entry.get("pid_limit") == 0:
        del entry["pid_limit"]
    return Agent(**{"session": entry["name"], **entry})


def _choice_faults(entry: Mapping[str, Any]) -> Iterator[str]:
    if "harness" not in entry:
        yield "agent.harness is required"
    elif entry["harness"] not in _HARNESSES:
        yield f"unknown agent.harness {quote(entry['harness'])}: must be one of {', '.join(_HARNESSES)}"
    if entry.get("type", "sandboxed") not in _TYPES:
        yield f"invalid agent.type {quote(entry['type'])}: must be sandboxed or native"
    if entry.get("restart", "no") not in _RESTARTS:
        yield f"invalid agent.restart {quote(entry['restart'])}: must be no, on-failure, or always"


def _value_faults(entry: Mapping[str, Any]) -> Iterator[str]:
    for name in ("max_restarts", "pid_limit"):
        if entry.get(name, 0) < 0:
            yield f"agent.{name} must not be negative"
    for name in ("timeout", "grace_period"):
        if fault := _duration_fault(entry.get(name, "0")):
            yield f"invalid agent.{name} {quote(entry[name])}: {fault}"
    # Of the units only GiB was observed.
    if not re.fullmatch(r"\s*\d+(\.\d+)?\s*[kmgt]i?b?\s*", entry.get("memory", "2GiB"), re.ASCII | re.IGNORECASE):
        yield f"invalid agent.memory {quote(entry['memory'])}"
    packages = entry.get("extra_packages", ())
    if not all(package.strip() for package in packages):
        yield "agent.extra_packages must not have blank entries"
    if packages and entry.get("type") == "native":
        yield "agent.extra_packages needs type sandboxed"


def _duration_fault(text: str) -> str:
    """What Go's `time.ParseDuration` says is wrong with `text`; "" if nothing is."""
    invalid = f"time: invalid duration {quote(text)}"
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if rest == "0":
        return ""
    if not rest:
        return invalid
    total = Decimal(0)
    for part in _PART.finditer(rest):
        number, unit = part.groups()
        if not number.strip("."):
            return invalid
        if not unit:
            return f"time: missing unit in duration {quote(text)}"
        if unit not in _UNITS:
            return f"time: unknown unit {quote(unit)} in duration {quote(text)}"
        try:
            total += Decimal(number).scaleb(_UNITS[unit]) * _TIMES.get(unit, 1)
        except ArithmeticError:  # more digits than a decimal has
            return invalid
    return invalid if total >= 2**63 else ""


# ---------------------------------------------------------------------------------------------- running the agents


def _no_file(_path: str) -> bool:
    return False


class AgentDaemon:
    """What runs the agents of a simulated guest. It looks at the config and the secrets when told to.

    `journal` takes a line for each thing that happens, as the guest's own journal would: the host never sees it.
    `has_file` says whether the guest has a file of that path, for agents with a `prompt_file`: without theirs, they
    cannot start.
    """

    def __init__(
        self, journal: Callable[[str], object], *, age: Age = Age.TODAY, has_file: Callable[[str], bool] = _no_file
    ) -> None:
        self._journal = journal
        self._age = age
        self._has_file = has_file
        self._wanted: dict[str, Agent] = {}
        # The agents that have started at least once, and whether each runs.
        self._started: dict[str, tuple[Agent, bool]] = {}
        self._secrets: Mapping[str, str] = {}
        self._read: str | None = None

    @property
    def agents(self) -> tuple[AgentStatus, ...]:
        """What health reports: the agents that have started at least once, sorted by name."""
        return tuple(
            AgentStatus(name, running, agent.reported_session)
            for name, (agent, running) in sorted(self._started.items())
        )

    def look(self, config: str | None, secrets: Mapping[str, str]) -> None:
        """Start, restart and stop agents. A bad config changes nothing, and neither does None, which is no config."""
        if config is not None and config != self._read:
            self._read = config
            try:
                self._wanted = {agent.name: agent for agent in read_config(config, self._age)}
            except ConfigDropped as exc:
                self._journal(f"config dropped: {exc}")
        new_secrets = dict(secrets) != self._secrets
        self._secrets = dict(secrets)
        for name in [name for name in self._started if name not in self._wanted]:
            del self._started[name]
            self._journal(f"agent {name} stopped: the config does not name it")
        for name, agent in self._wanted.items():
            before = self._started.get(name)
            if before is None:
                self._start(agent, "started")
            elif not before[1]:
                self._start(agent, "started again")
            elif before[0] != agent:
                self._start(agent, "restarted: its config has changed")
            elif new_secrets:
                self._start(agent, "restarted: the secrets have changed")

    def _start(self, agent: Agent, said: str) -> None:
        # One that ran before stays in health, as an agent that has exited does.
        if not agent.prompt_file or self._has_file(agent.prompt_file):
            self._started[agent.name] = (agent, True)
        else:
            said = f"cannot start: open {agent.prompt_file}: no such file or directory"
            if agent.name in self._started:
                self._started[agent.name] = (agent, False)
        self._journal(f"agent {agent.name} {said}")
