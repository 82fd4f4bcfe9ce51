"""Run one harness without coverage: `python -m fuzz.unguided HARNESS [--seconds S] [--runs N] [--seed X]`.

Each input is a kept one, or one that `fuzz.run` has found, changed by what it is. Nothing is instrumented, so several
times as many are made in a second as under atheris, which this does not need: what runs is the code as it is shipped.
An input that breaks an invariant is written to build/fuzz/HARNESS and ends the run.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Final

from . import harnesses, seeds
from .mutate import mutate

#: Executions between two looks at the clock, and the seconds after which these count as a hang.
ROUND: Final = 500
PATIENCE: Final = 60
#: One input in so many may be as long as `harnesses.LONGEST`; all others are as long as the harness asks for.
LONG: Final = 16


def inputs(name: str, harness: Any, seed: int) -> Iterator[bytes]:
    """New inputs without end, the same for the same seed and corpus."""
    rng = random.Random(seed)
    known = {*seeds.seeds(harness.HEAD, harness.BODY), *harnesses.kept(name), *harnesses.found(name), b""}
    every = sorted(data for data in known if len(data) <= harnesses.LONGEST)
    short = [data for data in every if len(data) <= harness.LONGEST]
    body = harness.BODY or "bytes"
    while True:
        long = rng.random() * LONG < 1
        start = rng.choice(every if long else short)
        size = harnesses.LONGEST if long else harness.LONGEST
        made = mutate(start, size, rng.getrandbits(32), head=harness.HEAD, body=body)
        # The head picks a property test, and no test is to be executed more often because of what is known of it.
        yield made if harness.BODY else rng.randbytes(harness.HEAD) + made[harness.HEAD :]


def hung(_signal: int, _frame: Any) -> None:
    """What the alarm does."""
    raise TimeoutError(f"{ROUND} executions took more than {PATIENCE} seconds")


def run(name: str, *, seconds: float, runs: int, seed: int) -> tuple[int, bytes | None]:
    """Execute new inputs until one of the bounds is reached; return how many, and the one that broke an invariant."""
    check = harnesses.load(name).check
    made = inputs(name, harnesses.load(name), seed)
    before = signal.signal(signal.SIGALRM, hung)
    executions = 0
    data = b""
    end = time.monotonic() + seconds
    try:
        while executions < runs and time.monotonic() < end:
            signal.alarm(PATIENCE)
            for data in (next(made) for _ in range(min(ROUND, runs - executions))):
                check(data)
                executions += 1
    except Exception:  # noqa: BLE001  (whatever it is, it should not be)
        traceback.print_exc()
        return executions + 1, data
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return executions, None


def main() -> int:
    """Run what the arguments name; the exit code is 1 when something was found."""
    parser = argparse.ArgumentParser(prog="fuzz.unguided", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("harness", choices=(*harnesses.NAMES, harnesses.PROPERTIES))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, help="default: a new one each time")
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    executions, broken = run(options.harness, seconds=options.seconds, runs=options.runs, seed=seed)
    print(f"executed_units: {executions}, with seed {seed}")
    if broken is None:
        return 0
    folder = harnesses.BUILD / options.harness
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{harnesses.file_name(broken)}"
    path.write_bytes(broken)
    print(f"{path} breaks an invariant of {options.harness}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
