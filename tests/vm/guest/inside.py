"""What tests have done inside a guest, by the keeper: there, AF_VSOCK may be dialled."""

from __future__ import annotations

import suite

from stereos_proto_io.addresses import parse_address
from stereos_proto_io.guest.conformance import Outcome
from stereos_proto_io.guest.conformance import run as run_conformance


def examine(address):
    """Run the conformance suite; return how many cases passed, and which failed why."""
    report = run_conformance(parse_address(address), allow_effects=True, timeout=suite.PATIENCE)
    return {
        "passed": report.count(Outcome.PASSED),
        "failed": [(result.name, result.reason) for result in report.failed],
    }
