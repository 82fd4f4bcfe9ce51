"""`make fuzz`: every harness in turn, each for SECONDS; `--keep` puts what is new into the kept corpus afterwards.

Names of harnesses as arguments choose some of them. The exit code is 1 when one of them found something.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from fuzz import harnesses  # noqa: E402

NAMES: Final = (*harnesses.NAMES, harnesses.PROPERTIES)


class Ran(NamedTuple):
    """What one run of a harness did."""

    clean: bool
    executions: int
    edges: int
    features: int
    corpus: int
    output: str

    def __str__(self) -> str:
        return f"{self.executions:,} executions, {self.edges} edges, {self.features} features, corpus of {self.corpus}"


def run(name: str, seconds: int, *arguments: str, module: str = "fuzz.run") -> Ran:
    """Run a harness in a process of its own, until one of the bounds is reached or something is found."""
    done = subprocess.run(
        (sys.executable, "-m", module, name, "--seconds", str(seconds), *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    executions = re.search(r"executed_units: (\d+)", done.stdout)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stdout)
    reached = map(int, coverage[-1] if coverage else (0, 0, 0))
    return Ran(done.returncode == 0, int(executions[1]) if executions else 0, *reached, done.stdout)


def fuzz(name: str, seconds: int) -> bool:
    """Run one harness and say how it went; return whether nothing was found."""
    ran = run(name, seconds)
    print(f"{'ok' if ran.clean else 'FOUND':5}  {name:10}  {ran}", flush=True)
    if not ran.clean:
        print(ran.output[-4000:], flush=True)
    return ran.clean


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Throw random input at the core and at both ends.")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="renew the kept corpus")
    options = parser.parse_args()
    names = options.names or NAMES
    found = [name for name in names if not fuzz(name, options.seconds)]
    if options.keep:
        for name in set(names) - {harnesses.PROPERTIES}:
            subprocess.run((sys.executable, "-m", "fuzz.keep", name), cwd=ROOT, check=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
