"""`make campaign RUNS=10000000`: every harness until it has made so many executions of the code as it is now.

It may be stopped and goes on where it was: what each slice of a run made is added up in `fuzz/executions.json`,
under a digest of the code that the harness executes. Other code starts from nothing, with the corpus kept; other words
in a comment or a docstring are the same code.

The first slice and every fourth after it are guided by coverage, under atheris, every other one of those with long
inputs. Between them the harness is executed as it is shipped, on changes of what the guided slices have found, several
times as often in a second. The exit code is 1 when a slice found something; its input is kept.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from fuzz import harnesses  # noqa: E402
from fuzz.__main__ import NAMES, Ran, run  # noqa: E402

STATE: Final = ROOT / "fuzz" / "executions.json"
#: Harnesses that run beside each other end their slices when they like.
WRITING: Final = Lock()
#: Seconds of a slice: short enough that little is lost when a run is stopped.
SLICE: Final = 120


def code(path: Path) -> str:
    """What a module does, whatever its comments and docstrings say, and wherever its lines are broken."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return ast.dump(tree)


def digest(name: str) -> str:
    """A name for the code that a harness executes, as it is now."""
    summed = hashlib.sha256()
    for path in harnesses.sources(name):
        summed.update(code(path).encode())
    return summed.hexdigest()[:12]


def read() -> dict[str, Any]:
    """What was made so far."""
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def made(name: str, source: str) -> dict[str, Any]:
    """What a harness has made of a source so far."""
    row: dict[str, Any] = read().get(name, {})
    if row.get("source") == source:
        return row
    return {"source": source, "executions": 0, "guided": 0, "seconds": 0, "slices": 0}


def is_guided(row: dict[str, Any]) -> bool:
    """Whether the next slice is one under atheris."""
    return bool(row["slices"] % 4 == 0)


def slice_of(name: str, row: dict[str, Any], goal: int) -> Ran:
    """Run the next slice."""
    bounds = ("--runs", str(goal - row["executions"]))
    if is_guided(row):
        return run(name, SLICE, *bounds, *(() if row["slices"] % 8 else ("--short",)))
    return run(name, SLICE, *bounds, module="fuzz.unguided")


def add(name: str, row: dict[str, Any], ran: Ran, seconds: float) -> dict[str, Any]:
    """Add a slice up, and return what the harness has made so far."""
    new = dict(row)
    if is_guided(row):
        new["guided"] += ran.executions
        new |= {"edges": ran.edges, "features": ran.features, "corpus": ran.corpus}
    new["executions"] += ran.executions
    new["seconds"] += round(seconds)
    new["slices"] += 1
    with WRITING:
        STATE.with_suffix(".new").write_text(json.dumps(read() | {name: new}, indent=1, sort_keys=True) + "\n")
        STATE.with_suffix(".new").replace(STATE)
    return new


def table() -> Iterator[str]:
    """The figures as rows for the page, of the code as it is now."""
    yield "| harness | code | executions | of them guided | in | a second | edges | features | corpus |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in read().items():
        if row["source"] != digest(name):
            continue
        speed = row["executions"] / (row["seconds"] or 1)
        made_in = f"{row['executions']:,} | {row['guided']:,} | {row['seconds'] / 60:.0f} min | {speed:,.0f}"
        yield f"| {name} | {row['source']} | {made_in} | {row['edges']} | {row['features']} | {row['corpus']} |"


def campaign(names: Sequence[str], goal: int, jobs: int) -> bool:
    """Run slices, `jobs` harnesses at a time, until each has reached the goal; return whether nothing was found."""

    def until_done(name: str) -> bool:
        source = digest(name)
        row = made(name, source)
        while row["executions"] < goal:
            start = time.monotonic()
            ran = slice_of(name, row, goal)
            if not ran.clean:
                print(f"FOUND  {name}\n{ran.output[-4000:]}", flush=True)
                return False
            if digest(name) != source:
                print(f"{name}: the code has changed; this slice is not counted", flush=True)
                return False
            row = add(name, row, ran, time.monotonic() - start)
            print(f"{name}: {row['executions']:,} so far; {ran}", flush=True)
        return True

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(until_done, names)))


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="fuzz.campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all")
    parser.add_argument("--runs", type=int, default=10_000_000, help="executions for each harness")
    parser.add_argument("--jobs", type=int, default=2, help="harnesses at a time")
    options = parser.parse_args()
    clean = campaign(options.names or NAMES, options.runs, options.jobs)
    print(*table(), sep="\n")
    return int(not clean)


if __name__ == "__main__":
    sys.exit(main())
