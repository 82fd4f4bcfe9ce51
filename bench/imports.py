"""What `import` costs, in a fresh interpreter each time."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from .harness import Report

STATEMENTS = {
    "nothing": "pass",
    "json": "import json",
    "attrs, cattrs, msgspec": "import attrs, cattrs, msgspec",
    "stereos_proto": "import stereos_proto",
    "stereos_proto_io.blocking": "import stereos_proto_io.blocking",
    "asyncio": "import asyncio",
    "stereos_proto_io.asyncio": "import stereos_proto_io.asyncio",
    "trio": "import trio",
    "stereos_proto_io.trio": "import stereos_proto_io.trio",
}


def run(report: Report) -> None:
    """Start an interpreter for each statement in turn, and report medians over an empty one."""
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(7):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            samples[name].append(time.perf_counter() - start)
    empty = statistics.median(samples["nothing"])
    figures = {name: (statistics.median(times) - empty) * 1000 for name, times in samples.items()}
    report.curves["imports, ms over an empty interpreter"] = figures
    for name, cost in figures.items():
        report.note("import time", f"{name:28} {cost:7.1f} ms")
