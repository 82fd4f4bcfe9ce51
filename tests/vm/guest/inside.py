"""What tests have done inside a guest, by the keeper: there, AF_VSOCK may be dialled."""

from __future__ import annotations

import traceback

from hosts import HOSTS

from stereos_proto_io.addresses import parse_address
from stereos_proto_io.guest.conformance import Outcome
from stereos_proto_io.guest.conformance import run as run_conformance
from stereos_proto_io.testing import check_client, client_cases

PATIENCE = 30


def examine(address):
    """Run the conformance suite; return how many cases passed, and which failed why."""
    report = run_conformance(parse_address(address), allow_effects=True, timeout=PATIENCE)
    return {
        "passed": report.count(Outcome.PASSED),
        "failed": [(result.name, result.reason) for result in report.failed],
    }


def check(name, address):
    """Run the client suite with a guest in this process; return what failed by case, "" for what did not."""
    host = HOSTS[name]()
    results = {}
    for case in client_cases():
        try:
            check_client(host.connect, run=host.loop, within=host.ask, address=parse_address(address), cases=[case])
            results[case.name] = ""
        except AssertionError:
            results[case.name] = traceback.format_exc()
    return results


def dial(name, address):
    """Dial an address of AF_VSOCK where nobody answers; return what the client said, and whether it may try again."""

    async def scenario(host):
        seen = await host.see(PATIENCE, host.dial, parse_address(address))
        return seen.kind, str(seen.error), getattr(seen.error, "retryable", None)

    return HOSTS[name]().run(scenario)
