"""`python -m bench [--full] [--only NAME] [--out FOLDER]`: measure, print tables, write JSON and plots."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .harness import Report


def _sections(full: bool) -> dict[str, Callable[[Report], None]]:
    from . import codec, fleet, framing, imports, links, peers, ready, roundtrip, worst

    return {
        "codec": codec.run,
        "worst": worst.run,
        "framing": framing.run,
        "peers": peers.run,
        "roundtrip": roundtrip.run,
        "links": links.run,
        "ready": ready.run,
        "fleet": lambda report: fleet.run(report, full=full),
        "imports": imports.run,
    }


def main() -> int:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the largest fleets")
    parser.add_argument("--only", action="append", metavar="NAME", help="one section; may be given again")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results.json and plots")
    arguments = parser.parse_args()
    report = Report()
    print(f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs; medians of paired turns")
    start = time.perf_counter()
    for name, run in _sections(arguments.full).items():
        if not arguments.only or name in arguments.only:
            run(report)
    report.write(arguments.out)
    try:
        from .plots import draw
    except ImportError as exc:
        print(f"no plots: {exc}", file=sys.stderr)
    else:
        draw(report.curves, arguments.out)
    print(f"\n{time.perf_counter() - start:.0f} s; results in {arguments.out}")
    for title in report.missed:
        print(f"target missed: {title}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
