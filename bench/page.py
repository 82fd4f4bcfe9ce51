"""`python -m bench.page [FOLDER]`: put what `make bench` measured into the documentation, as tables and pictures.

Reads `results.json` in FOLDER (default: build/bench) and writes `docs/_figures`, which `docs/performance.md` includes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parent.parent / "docs" / "_figures"


def compared(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A section of comparisons as tables, one for each first contender: its microseconds, and ratios to it."""
    by_base: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_base.setdefault(row["figures"][0]["contender"], []).append(row)
    for base, compared_with_it in by_base.items():
        names = list(dict.fromkeys(figure["contender"] for row in compared_with_it for figure in row["figures"][1:]))
        yield from head("", f"{base}, µs", *(f"{name}, ×" for name in names), "target")
        for row in compared_with_it:
            first, *others = row["figures"]
            ratios = {figure["contender"]: spread(figure) for figure in others}
            target = row["target"]
            met = "" if target is None else f"≤ {target} {'met' if others[-1]['ratio'] <= target else '**missed**'}"
            yield cells(row["title"], f"{first['micros']:.2f}", *(ratios.get(name, "") for name in names), met)
        yield ""


def spread(figure: dict[str, Any]) -> str:
    """A ratio, and between what half of the turns were where that is more than its last digit."""
    low, high = figure["low"], figure["high"]
    return f"{figure['ratio']:.2f}" + (f" ({low:.2f} to {high:.2f})" if high - low > 0.05 else "")


def measured(curve: dict[str, Any], label: str) -> Iterator[str]:
    """A curve as a table: its keys are the first columns, the numbers in its innermost dictionaries the others."""
    rows = list(flat(curve, ()))
    columns = sorted(dict.fromkeys(name for _, figures in rows for name in figures), key=lambda name: name.zfill(9))
    if not columns[0].isdecimal():
        columns = list(rows[0][1])
    yield from head(label, *[""] * (len(rows[0][0]) - 1), *columns)
    for keys, figures in rows:
        yield cells(*keys, *(number(figures[name]) if name in figures else "" for name in columns))


def flat(curve: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """The innermost dictionaries, each with the keys that lead to it. A number alone is one of its own."""
    if not curve or any(isinstance(value, dict) for value in curve.values()):
        for key, value in curve.items():
            yield from flat(value, (*keys, key))
    elif keys:
        yield keys, curve
    else:
        for key, value in curve.items():
            yield (key,), {"": value}


def number(value: float) -> str:
    """A number with about three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def head(*names: str) -> Iterator[str]:
    """The head of a table."""
    yield cells(*names)
    yield "|---" + "|---:" * (len(names) - 1) + "|"


def cells(*values: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(values)} |"


def main() -> None:
    """Write one file for each section and curve, and copy the pictures."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS.parent.parent / "build" / "bench"
    results = json.loads((source / "results.json").read_text())
    DOCS.mkdir(exist_ok=True)
    tables = {name: compared(rows) for name, rows in results["sections"].items() if rows}
    tables |= {name: measured(curve, name.partition(", ")[2]) for name, curve in results["curves"].items()}
    for name, lines in tables.items():
        (DOCS / f"{file_name(name)}.md").write_text("\n".join(lines) + "\n")
    for picture in source.glob("*.svg"):
        shutil.copy(picture, DOCS)


def file_name(name: str) -> str:
    """The name of a section or curve as that of a file."""
    return name.partition(",")[0].partition(":")[0].partition(" (")[0].replace(" ", "-")


if __name__ == "__main__":
    main()
