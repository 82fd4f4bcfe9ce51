"""The agents of a jcard.toml: what either end refuses of them, and what the guest will call them (§10)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import count
from operator import mul
from typing import Any, Final

from ._constants import I64_MAX, MAX_LINE_SIZE
from ._jcard_fields import Findings
from ._toml import Path

#: What the guest takes for these keys. An empty string counts as missing.
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "harness": ("claude-code", "opencode", "gemini-cli", "custom"),
    "type": ("sandboxed", "native"),
    "restart": ("no", "on-failure", "always"),
}

#: A health report that names more agents than this does not fit in a line.
MAX_AGENTS: Final = MAX_LINE_SIZE // len('{"name":"a-0","running":true},')

#: Characters in the names of all agents. Nor does a report with more than these.
MAX_AGENT_NAMES: Final = MAX_LINE_SIZE

# A duration as Go writes it: "1h30m", "1.5s", "-2us", and "0".
_DURATION: Final = re.compile(r"[-+]?(?:0|(?:(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:ns|us|µs|μs|ms|s|m|h))+)")
_PART: Final = re.compile(r"([0-9.]+)([a-zµμ]+)")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
# An amount of memory needs a unit. Which units the guest knows beyond "GiB" was not observed: these are the usual ones.
_MEMORY: Final = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*[KMGT](?:i?B)?\s*", re.IGNORECASE)


def one_of(names: Sequence[str]) -> str:
    """Say what there is to choose from: one of a, b or c."""
    return f"one of {', '.join(names[:-1])} or {names[-1]}"


def is_duration(text: str) -> bool:
    """Whether Go's `time.ParseDuration` accepts `text`: its notation, with at most 64 bits of nanoseconds."""
    if not _DURATION.fullmatch(text):
        return False
    try:
        total = sum((Decimal(number) * _NANOSECONDS[unit] for number, unit in _PART.findall(text)), Decimal(0))
    except ArithmeticError:  # more digits than a decimal has
        return False
    return total <= I64_MAX


def check_agent(agent: Mapping[str, Any], path: Path, findings: Findings) -> None:
    """Note what the guest would refuse the whole file for. Values of the wrong type (None) were noted before."""
    if agent.get("harness", "") == "":
        findings.doubt((*path, "harness"), f"is missing; it must be {one_of(CHOICES['harness'])}")
    for key, names in CHOICES.items():
        if agent.get(key) and agent[key] not in names:
            findings.doubt((*path, key), f"must be {one_of(names)}")
    for key in ("max_restarts", "pid_limit"):
        if (agent.get(key) or 0) < 0:
            findings.doubt((*path, key), "must be 0 or more")
    for key in ("timeout", "grace_period"):
        if agent.get(key) and not is_duration(agent[key]):
            findings.doubt((*path, key), 'must be a duration with its units, such as "90s" or "1h30m"')
    if agent.get("memory") and not _MEMORY.fullmatch(agent["memory"]):
        findings.doubt((*path, "memory"), 'must be an amount with its unit, such as "2GiB"')
    packages = agent.get("extra_packages") or ()
    for index, package in enumerate(packages):
        if package is not None and not package.strip():
            findings.doubt((*path, "extra_packages", index), "must not be blank")
    if packages and agent.get("type") == "native":
        findings.doubt((*path, "extra_packages"), "is not allowed for an agent of type native")


def agent_names(agents: Sequence[tuple[int, Mapping[str, Any]]], findings: Findings) -> tuple[str, ...]:
    """The names that a guest of today reports for `[[agents]]`, in the order of the file.

    `agents` are the entries, each with its index in the file. Replicas first: a named entry with n of them becomes
    NAME-0 to NAME-(n-1), an unnamed one n unnamed ones. Then the unnamed ones of each harness are counted over the
    whole file: a single one is called like its harness, several are numbered in order. Notes names that stand twice,
    for which the guest would drop the file.
    """
    if _too_many(agents):
        findings.fault(("agents",), "asks for more agents than a health report can name")
        return ()
    expanded: list[tuple[int, str, str]] = []
    for index, agent in agents:
        name, harness, replicas = (agent.get(key) or empty for key, empty in _NAMING)
        copies = [f"{name}-{number}" if name else "" for number in range(replicas)] if replicas > 1 else [name]
        expanded += [(index, copy, harness) for copy in copies]
    unnamed = Counter(harness for _, name, harness in expanded if not name)
    numbers = {harness: count() for harness in unnamed}
    seen: set[str] = set()
    noted: set[int] = set()
    names: list[str] = []
    for index, name, harness in expanded:
        if not name:
            name = harness if unnamed[harness] == 1 else f"{harness}-{next(numbers[harness])}"
            if not harness:  # noted already: only a guest of another make could name this agent
                continue
        if name in seen and index not in noted:
            findings.fault(("agents", index), f"starts a second agent named {json.dumps(name, ensure_ascii=False)}")
            noted.add(index)
        seen.add(name)
        names.append(name)
    return tuple(names)


def _too_many(agents: Sequence[tuple[int, Mapping[str, Any]]]) -> bool:
    """Whether a health report could not name them. Their names are not written out to see it."""
    counts = [max(1, agent.get("replicas") or 1) for _, agent in agents]
    sizes = [len(agent.get("name") or agent.get("harness") or "") for _, agent in agents]
    return sum(counts) > MAX_AGENTS or sum(map(mul, counts, sizes)) > MAX_AGENT_NAMES


_NAMING: Final[tuple[tuple[str, Any], ...]] = (("name", ""), ("harness", ""), ("replicas", 1))
