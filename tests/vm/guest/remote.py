"""The client suite with a guest that is a machine, for whoever holds the machine."""

from __future__ import annotations

import json
import time
import traceback
from types import SimpleNamespace

from stereos_proto import Health, Ping, Role, decode, encode
from stereos_proto_io.conformance._client_check import carry_out
from stereos_proto_io.testing import client_cases


class GuestThere:
    """What a case asks of the simulator that it talks to, asked of one that runs in a machine."""

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


def cases(*, ends=True):
    """The cases that a guest in a machine can be made for: it follows no script, and boots when the machine does."""
    return [case for case in client_cases(ends=ends, scripted=False) if case.options.keys() <= {"agents"}]


def check(host, machine, address, *, ends=True):
    """Run the client suite; return what failed by case, "" for what did not."""
    results = {}
    for case in cases(ends=ends):
        agents = case.options.get("agents")
        health = encode(Health("ready", agents)).decode() if agents else ""
        machine.start_agent("blocking", *case.faults, stays=True, health=health)
        try:
            host.loop(lambda: carry_out(case, host.connect(address), GuestThere(machine), host.ask))  # noqa: B023
            results[case.name] = ""
        except Exception:  # noqa: BLE001  (whoever called reads it)
            results[case.name] = traceback.format_exc()
    return results


def wait_for_pings(machine, number):
    """Wait until so many pings have come to the guest, whose agent is a watched one."""
    deadline = time.monotonic() + 60
    while sum(isinstance(request, Ping) for request in GuestThere(machine).requests) < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {number} pings have come to the guest")
