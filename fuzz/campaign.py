"""`make campaign RUNS=10000000`: every harness until it has made so many executions of the code as it is now.

It may be stopped and goes on where it was: what each slice of a run made is added up in `build/fuzz/campaign.json`,
under a digest of the source that the harness executes. Another source starts from nothing, with the corpus kept.
Of four slices three take inputs of the size that the harness calls its `LONGEST`, where faults are found per second
best, and one takes long ones. The exit code is 1 when a slice found something; its input is kept.
"""

from __future__ import annotations

import argparse
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
from fuzz.__main__ import Ran, run  # noqa: E402

STATE: Final = ROOT / "build" / "fuzz" / "campaign.json"
#: What every harness executes (none the dialogues), and what some execute besides.
SOURCES: Final = ("src/stereos_proto/[!d]*.py",)
MORE: Final = {"session": ("src/stereos_proto_io/_session.py",)}
#: Harnesses that run beside each other end their slices when they like.
WRITING: Final = Lock()
#: Seconds of a slice: short enough that little is lost when a run is stopped.
SLICE: Final = 120


def digest(name: str) -> str:
    """A name for the source that a harness executes, as it is now."""
    summed = hashlib.sha256()
    for pattern in (*SOURCES, *MORE.get(name, ())):
        for path in sorted(ROOT.glob(pattern)):
            summed.update(path.read_bytes())
    return summed.hexdigest()[:12]


def read() -> dict[str, Any]:
    """What was made so far."""
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def made(name: str, source: str) -> dict[str, Any]:
    """What a harness has made of a source so far."""
    nothing = {"source": source, "executions": 0, "seconds": 0.0, "slices": 0}
    row: dict[str, Any] = read().get(name, nothing)
    return row if row["source"] == source else nothing


def add(name: str, source: str, ran: Ran, seconds: float) -> dict[str, Any]:
    """Add a slice up, and return what the harness has made so far."""
    with WRITING:
        row = made(name, source)
        row["executions"] += ran.executions
        row["seconds"] += seconds
        row["slices"] += 1
        row |= {"edges": ran.edges, "features": ran.features, "corpus": ran.corpus}
        STATE.parent.mkdir(parents=True, exist_ok=True)
        STATE.with_suffix(".new").write_text(json.dumps(read() | {name: row}, indent=1) + "\n")
        STATE.with_suffix(".new").replace(STATE)
        return row


def table() -> Iterator[str]:
    """The figures as rows for the page, of the source as it is now."""
    yield "| harness | source | executions | in | a second | edges | features | corpus |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in read().items():
        if row["source"] != digest(name):
            continue
        speed = row["executions"] / row["seconds"]
        made_in = f"{row['executions']:,} | {row['seconds'] / 60:.0f} min | {speed:,.0f}"
        yield f"| {name} | {row['source']} | {made_in} | {row['edges']} | {row['features']} | {row['corpus']} |"


def campaign(names: Sequence[str], goal: int, jobs: int) -> bool:
    """Run slices, `jobs` harnesses at a time, until each has reached the goal; return whether nothing was found."""

    def until_done(name: str) -> bool:
        source = digest(name)
        row = made(name, source)
        while row["executions"] < goal:
            start = time.monotonic()
            ran = run(name, SLICE, runs=goal - row["executions"], short=row["slices"] % 4 != 3)
            if not ran.clean:
                print(f"FOUND  {name}\n{ran.output[-4000:]}", flush=True)
                return False
            if digest(name) != source:
                print(f"{name}: the source has changed; this slice is not counted", flush=True)
                return False
            row = add(name, source, ran, time.monotonic() - start)
            print(f"{name}: {row['executions']:,} so far; {ran}", flush=True)
        return True

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(until_done, names)))


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="fuzz.campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*harnesses.NAMES, "properties", []], help="default: all")
    parser.add_argument("--runs", type=int, default=10_000_000, help="executions for each harness")
    parser.add_argument("--jobs", type=int, default=2, help="harnesses at a time")
    options = parser.parse_args()
    clean = campaign(options.names or [*harnesses.NAMES, "properties"], options.runs, options.jobs)
    print(*table(), sep="\n")
    return int(not clean)


if __name__ == "__main__":
    sys.exit(main())
