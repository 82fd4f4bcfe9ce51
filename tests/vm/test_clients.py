"""The client suite with each client, and the conformance suite with each server, over every transport."""

import pytest

from stereos_proto_io.testing import client_cases

from .guest import conformance, remote
from .guest.hosts import HOSTS
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
    assert len(results) == len(remote.cases(ends=ends))
    assert not failures(results)
    count("client", transport, runtime, len(results))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_client_over_vsock_in_the_guest(machine, count, runtime):
    """AF_VSOCK is dialled in the guest alone, by loopback: out here, CID 2 is this machine's own hypervisor."""
    results = machine.call("inside", "check", runtime, "vsock://1:1025", timeout=200)
    assert len(results) == len(client_cases(without=["when_ready"]))
    assert not failures(results)
    count("client", "vsock loopback", runtime, len(results))


def check_report(report):
    """Check that nothing failed, and little was skipped; return how many cases passed."""
    assert report["failed"] == []
    assert len(report["skipped"]) <= 6
    return report["passed"]


@pytest.mark.parametrize("transport", FROM_HERE)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_conformance(machine, address_of, count, runtime, transport):
    address = address_of(transport)
    machine.start_agent(runtime, stays=True)
    # When the agent has gone the port says nothing, as long as the machine is on: `test_power_off` turns it off.
    report = conformance.examine(str(address), shutdown=transport != "serial")
    count("conformance", transport, runtime, check_report(report))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_conformance_over_vsock_in_the_guest(machine, count, runtime):
    machine.start_agent(runtime, stays=True)
    report = machine.call("conformance", "examine", "vsock://1:1024", timeout=200)
    count("conformance", "vsock loopback", runtime, check_report(report))
