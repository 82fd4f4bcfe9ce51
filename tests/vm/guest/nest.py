"""What happens in a guest that has a guest itself: AF_VSOCK between a host and its guest, for real."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import conformance
import inside
import remote
import scenarios
from hosts import HOSTS

from stereos_proto_io.addresses import Vsock
from vm.machine import BOOT_TIME, Machine

GUEST = Vsock(3, 1024)


def everything():
    """Boot the inner machine, put it through all that is of interest, and return what came out."""
    for module in Path("/host-modules/order").read_text().split():
        # Some are loaded already, for our own devices.
        subprocess.run(("insmod", f"/host-modules/{module}.ko"), check=False, stderr=subprocess.DEVNULL)
    found = {"absent": inside.dial("blocking", str(GUEST))}
    arguments = ("-L", "/firmware", "-device", "vhost-vsock-pci,guest-cid=3")
    with Machine(
        Path("/initramfs"), kernel=Path("/vmlinux"), accelerator=("kvm", "host"), arguments=arguments
    ) as inner:
        start = time.monotonic()
        found["power-on"] = wait_from_power_on(inner)
        inner.wait_up()
        found["boot"] = time.monotonic() - start
        found["clients"] = {name: remote.check(host(), inner, GUEST) for name, host in HOSTS.items()}
        found["conformance"] = {}
        for name in HOSTS:
            inner.start_agent(name, stays=True)
            found["conformance"][name] = conformance.examine(str(GUEST))
        inner.start_agent()
        found["nobody listens"] = {name: inside.dial(name, "vsock://3:4321") for name in HOSTS}
        inner.pause()
        found["paused"] = {name: inside.dial(name, str(GUEST)) for name in HOSTS}
        inner.resume()
        found["reboot"] = reboot(inner)
        found["kill"] = kill(inner)
    return found


def all_hosts(scenario, *args):
    """What each of the clients runs, for `in_step`."""
    return {name: partial(host().run, scenario, *args) for name, host in HOSTS.items()}


def wait_from_power_on(inner):
    """Turn the machine on while all clients wait for its guest."""
    with ThreadPoolExecutor(len(HOSTS)) as threads:
        hosts = all_hosts(scenarios.wait_and_ping, GUEST, BOOT_TIME)
        waits = {name: threads.submit(run) for name, run in hosts.items()}
        inner.power_on()
        return {name: wait.result() for name, wait in waits.items()}


def reboot(inner):
    """What comes of requests that are under way when the machine is reset, and of those after it."""
    inner.start_agent("blocking", scenarios.SLOW, health="")

    def reset():
        remote.wait_for_pings(inner, len(HOSTS))
        inner.reset()
        inner.wait_up()

    hosts = all_hosts(scenarios.go_through_a_reboot, GUEST, BOOT_TIME, 2 * scenarios.IMPATIENCE)
    return scenarios.in_step(hosts, reset)


def kill(inner):
    """What comes of requests that are under way when QEMU dies, of the next ones, and of new connections."""
    inner.start_agent("blocking", scenarios.SLOW)
    hosts = all_hosts(scenarios.be_there_when_it_ends, {"vsock": GUEST})
    return scenarios.in_step(hosts, inner.kill)
