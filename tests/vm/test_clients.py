"""The client suite with each client, and the conformance suite with each server, over every transport."""

import json
from types import SimpleNamespace

import pytest

from stereos_proto import Health, Role, decode, encode
from stereos_proto_io._check_client import _check
from stereos_proto_io.guest.conformance import Outcome
from stereos_proto_io.guest.conformance import run as examine
from stereos_proto_io.testing import client_cases

from .guest.hosts import HOSTS
from .moments import PATIENCE, RUNTIMES

FROM_HERE = ("tcp", "serial", "hybrid")


class GuestThere:
    """What a case asks of the simulator that it talks to, asked of one that runs in a guest."""

    def __init__(self, machine):
        self._machine = machine

    def _seen(self, name):
        return json.loads(self._machine.run("cat", "/run/agent.json"))[name]

    @property
    def config(self):
        return self._seen("config")

    @property
    def shutdown_reason(self):
        return self._seen("shutdown_reason")

    @property
    def secrets(self):
        return {name: SimpleNamespace(value=value) for name, value in self._seen("secrets").items()}

    @property
    def mounts(self):
        return [decode(line.encode(), sender=Role.HOST) for line in self._seen("mounts")]

    @property
    def requests(self):
        return [decode(line.encode(), sender=Role.HOST) for line in self._seen("requests")]


@pytest.mark.parametrize("transport", FROM_HERE)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_client(machine, address_of, count, runtime, transport):
    host = HOSTS[runtime]()
    address = address_of(transport)
    for case in client_cases(ends=transport != "serial"):
        assert set(case.options) <= {"agents"}
        agents = case.options.get("agents")
        health = encode(Health("ready", agents)).decode() if agents else ""
        machine.start_agent("blocking", *case.faults, stays=True, health=health)
        try:
            host.loop(lambda: _check(case, host.connect(address), GuestThere(machine), host.ask))  # noqa: B023
        except Exception as exc:
            exc.add_note(f"in the case {case.name}")
            raise
        count("client", transport, runtime, 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_client_over_vsock_in_the_guest(machine, count, runtime):
    """AF_VSOCK is dialled in the guest alone, by loopback: out here, CID 2 is this machine's own hypervisor."""
    results = machine.call("inside", "check", runtime, "vsock://1:1025", timeout=200)
    assert len(results) == len(client_cases())
    assert not "\n".join(f"{name}: {text}" for name, text in results.items() if text)
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
