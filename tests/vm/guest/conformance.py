"""The conformance suite with a guest that is a machine, from wherever its address can be dialled."""

from __future__ import annotations

from stereos_proto_io.addresses import parse_address
from stereos_proto_io.conformance import Outcome, run

PATIENCE = 60


def examine(address, *, shutdown=True):
    """Run the suite, with a shutdown in the end; return how many cases passed, which were skipped, which failed why."""
    report = run(parse_address(address), allow_effects=True, allow_shutdown=shutdown, timeout=PATIENCE)
    return {
        "passed": report.count(Outcome.PASSED),
        "skipped": [(result.name, result.reason) for result in report.results if result.outcome is Outcome.SKIPPED],
        "failed": [(result.name, result.reason) for result in report.failed],
    }
