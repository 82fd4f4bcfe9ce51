"""The client suite with each client, and the conformance suite with each server, over every transport."""

import pytest

from stereos_proto_io.guest.conformance import Outcome
from stereos_proto_io.guest.conformance import run as examine
from stereos_proto_io.testing import client_cases

from .guest import remote
from .guest.hosts import HOSTS
from .guest.scenarios import PATIENCE
from .moments import RUNTIMES

FROM_HERE = ("tcp", "serial", "hybrid")


def failures(results):
    """What failed, as text."""
    return "\n".join(f"{name}: {text}" for name, text in results.items() if text)


@pytest.mark.parametrize("transport", FROM_HERE)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_client(machine, address_of, count, runtime, transport):
    ends = transport != "serial"
    results = remote.check(HOSTS[runtime](), machine, address_of(transport), ends=ends)
    assert len(results) == len(client_cases(ends=ends))
    assert not failures(results)
    count("client", transport, runtime, len(results))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_client_over_vsock_in_the_guest(machine, count, runtime):
    """AF_VSOCK is dialled in the guest alone, by loopback: out here, CID 2 is this machine's own hypervisor."""
    results = machine.call("inside", "check", runtime, "vsock://1:1025", timeout=200)
    assert len(results) == len(client_cases())
    assert not failures(results)
    count("client", "vsock loopback", runtime, len(results))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_conformance(machine, address_of, count, runtime):
    machine.start_agent(runtime)
    deviations = {}
    for transport in FROM_HERE:
        if transport in machine.addresses:
            report = examine(machine.addresses[transport], allow_effects=True, timeout=PATIENCE)
            deviations |= {(transport, result.name): result.reason for result in report.failed}
            count("conformance", transport, runtime, report.count(Outcome.PASSED))
    report = machine.call("inside", "examine", "vsock://1:1024", timeout=200)
    deviations |= {("vsock loopback", name): reason for name, reason in report["failed"]}
    count("conformance", "vsock loopback", runtime, report["passed"])
    assert deviations == {}
