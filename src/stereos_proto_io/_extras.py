"""Error texts for an extra that is not installed or too old."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

#: `NAME>=VERSION; extra == "EXTRA"`, as the metadata has it.
_REQUIREMENT: Final = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)\s*;.*extra\s*==\s*[\"'](\w+)[\"']")


def missing(module: str, needs: str, extra: str) -> ModuleNotFoundError:
    """The error for `module`, which cannot be imported because `needs` is not installed."""
    return ModuleNotFoundError(f"{module} needs {needs}: pip install 'stereos-proto[{extra}]'", name=needs)


def unmet(extra: str) -> str:
    """What `extra` needs and is not there, or too old, in one sentence; "" where nothing is known to be wrong."""
    said = []
    for requirement in _requirements():
        found = _REQUIREMENT.match(requirement)
        if found is None or found[3] != extra:
            continue
        try:
            there = metadata.version(found[1])
        except metadata.PackageNotFoundError:
            said.append(f"{found[1]} is not installed")
            continue
        if _numbers(there) < _numbers(found[2]):
            said.append(f"{found[1]} {there} is too old, {found[2]} is needed")
    return f"{' and '.join(said)}: pip install 'stereos-proto[{extra}]'" if said else ""


def _requirements() -> list[str]:
    try:
        return metadata.requires("stereos-proto") or []
    except metadata.PackageNotFoundError:  # sources that are not installed
        return []


def _numbers(version: str) -> list[int]:
    """The numbers of a version; what follows them, as in `4.17rc1`, does not count."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(number) for number in found[0].split(".")] if found else []
