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
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from fuzz import digests, harnesses  # noqa: E402
from fuzz.__main__ import NAMES, Ran, run  # noqa: E402

STATE: Final = ROOT / "fuzz" / "executions.json"
#: Slices that run beside each other begin and end when they like.
WRITING: Final = Lock()
#: Seconds of a slice: short enough that little is lost when a run is stopped.
SLICE: Final = 120


def digest(name: str) -> str:
    """A name for the code that a harness executes, as it is now."""
    return digests.digest(harnesses.sources(name))


def read() -> dict[str, Any]:
    """What was made so far."""
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def made(name: str, source: str) -> dict[str, Any]:
    """What a harness has made of a source so far."""
    row: dict[str, Any] = read().get(name, {})
    if row.get("source") == source:
        return row
    return {"source": source, "executions": 0, "guided": 0, "seconds": 0, "slices": 0}


def is_guided(slices: int) -> bool:
    """Whether the slice after so many others is one under atheris."""
    return slices % 4 == 0


def slice_of(name: str, slices: int, runs: int) -> Ran:
    """Run the slice of a harness that comes after so many others."""
    bounds = ("--runs", str(runs))
    if is_guided(slices):
        return run(name, SLICE, *bounds, *(() if slices % 8 else ("--short",)))
    return run(name, SLICE, *bounds, module="fuzz.unguided")


def add(name: str, source: str, ran: Ran, seconds: float, *, guided: bool) -> dict[str, Any]:
    """Add a slice up, and return what the harness has made so far."""
    with WRITING:
        new = dict(made(name, source))
        if guided:
            new["guided"] += ran.executions
            new |= {"edges": ran.edges, "features": ran.features, "corpus": ran.corpus}
        new["executions"] += ran.executions
        new["seconds"] += round(seconds)
        new["slices"] += 1
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
    """Run slices, `jobs` at a time, until each harness has reached the goal; return whether nothing was found."""
    sources = {name: digest(name) for name in names}
    under_way: Counter[str] = Counter()
    broken: list[str] = []

    def choose() -> tuple[str, int, int] | None:
        """The next slice: its harness, how many come before it, how many executions are left to make."""
        with WRITING:
            rows = {name: made(name, sources[name]) for name in names}
            short = [name for name in names if rows[name]["executions"] < goal]
            if broken or not short:
                return None
            # The first of those that fewest are at work on: the last harness gets all of them.
            name = min(short, key=lambda name: under_way[name])
            slices = rows[name]["slices"] + under_way[name]
            under_way[name] += 1
        return name, slices, goal - rows[name]["executions"]

    def work() -> None:
        while chosen := choose():
            name, slices, runs = chosen
            start = time.monotonic()
            ran = slice_of(name, slices, runs)
            with WRITING:
                # CPython 3.11 parses in one thread at a time, or raises SystemError.
                is_the_same = digest(name) == sources[name]
            if not ran.clean:
                print(f"FOUND  {name}\n{ran.output[-4000:]}", flush=True)
                broken.append(name)
            elif not is_the_same:
                print(f"{name}: the code has changed; this slice is not counted", flush=True)
                broken.append(name)
            else:
                row = add(name, sources[name], ran, time.monotonic() - start, guided=is_guided(slices))
                print(f"{name}: {row['executions']:,} so far; {ran}", flush=True)
            with WRITING:
                under_way[name] -= 1

    with ThreadPoolExecutor(jobs) as pool:
        for worker in [pool.submit(work) for _ in range(jobs)]:
            worker.result()
    return not broken


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="fuzz.campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all")
    parser.add_argument("--runs", type=int, default=10_000_000, help="executions for each harness")
    parser.add_argument("--jobs", type=int, default=2, help="slices at a time")
    options = parser.parse_args()
    clean = campaign(options.names or NAMES, options.runs, options.jobs)
    print(*table(), sep="\n")
    return int(not clean)


if __name__ == "__main__":
    sys.exit(main())
