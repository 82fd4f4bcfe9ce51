"""`make fuzz`: every harness in turn, each for SECONDS; `--keep` puts what is new into the kept corpus afterwards.

Names of harnesses as arguments choose some of them. The exit code is 1 when one of them found something.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from fuzz import harnesses  # noqa: E402


def run(name: str, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run a harness, and return what it wrote."""
    return subprocess.run(
        (sys.executable, "-m", "fuzz.run", name, "--seconds", str(seconds)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def fuzz(name: str, seconds: int) -> bool:
    """Run one harness and say how it went; return whether nothing was found."""
    done = run(name, seconds)
    executions = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stdout)
    figures = f"{executions[1] if executions else '?'} executions"
    if coverage:
        figures += ", {} edges, {} features, corpus of {}".format(*coverage[-1])
    print(f"{'ok' if done.returncode == 0 else 'FOUND':5}  {name:10}  {figures}", flush=True)
    if done.returncode:
        print(done.stdout[-4000:], flush=True)
    return done.returncode == 0


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Throw random input at the core and at both ends.")
    parser.add_argument("names", nargs="*", choices=[*harnesses.NAMES, "properties", []], help="default: all")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="renew the kept corpus")
    options = parser.parse_args()
    names = options.names or [*harnesses.NAMES, "properties"]
    found = [name for name in names if not fuzz(name, options.seconds)]
    if options.keep:
        for name in set(names) - {"properties"}:
            subprocess.run((sys.executable, "-m", "fuzz.keep", name), cwd=ROOT, check=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
