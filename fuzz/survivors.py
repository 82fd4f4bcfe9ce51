"""What `fuzz.mutation` has found so far: `survivors.json`.

It has a row for each module that was asked: a digest of its code, the number of its mutants, and those that no test
kills, each with the reason why it may live. A module whose code has changed has to be asked again; the reasons of
mutants that are still there are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from . import digests

STATE: Final = Path(__file__).resolve().parent / "survivors.json"
LIBRARY: Final = STATE.parent.parent / "src"


class Row(NamedTuple):
    """What was found about one module."""

    #: A digest of the code that was asked about. Comments and docstrings do not count.
    code: str
    mutants: int
    #: The survivors by name, each with the reason why it may live, or "".
    alive: dict[str, str]


def digest(module: str) -> str:
    """A name for the code of a module (a path below `src` without .py), as it is now."""
    return digests.digest([LIBRARY / f"{module}.py"])


def read() -> dict[str, Row]:
    """The rows by module, also of code that has changed since."""
    rows = json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}
    return {module: Row(**row) for module, row in rows.items()}


def of_this_code(modules: Iterable[str]) -> dict[str, Row]:
    """The rows of those of `modules` that were asked as they are now."""
    rows = read()
    return {module: rows[module] for module in modules if module in rows and rows[module].code == digest(module)}


def record(module: str, code: str, mutants: int, alive: Iterable[str]) -> Row:
    """Write down what lives, with the reasons that were given before."""
    rows = read()
    reasons = rows[module].alive if module in rows else {}
    row = rows[module] = Row(code, mutants, {name: reasons.get(name, "") for name in alive})
    written = {name: each._asdict() for name, each in sorted(rows.items())}
    new = STATE.with_suffix(".new")
    new.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(STATE)
    return row


def share(rows: Sequence[Row]) -> float:
    """Per cent of the mutants that are killed."""
    return 100 * (1 - sum(len(row.alive) for row in rows) / max(sum(row.mutants for row in rows), 1))


def table(rows: Mapping[str, Row]) -> Iterator[str]:
    """The figures as rows for the page."""
    yield "| module | mutants | killed | |"
    yield "|---|---|---|---|"
    for package in dict.fromkeys(module.partition("/")[0] for module in rows):
        of_package = {module: row for module, row in rows.items() if module.startswith(f"{package}/")}
        for module, row in of_package.items():
            yield _line(f"`{module}`", [row])
        yield _line(f"all of `{package}`", [*of_package.values()])


def _line(name: str, rows: Sequence[Row]) -> str:
    mutants = sum(row.mutants for row in rows)
    killed = mutants - sum(len(row.alive) for row in rows)
    return f"| {name} | {mutants:,} | {killed:,} | {share(rows):.1f} % |"
