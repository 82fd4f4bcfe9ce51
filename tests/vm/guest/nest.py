"""What happens in a guest that has a guest itself: AF_VSOCK between a host and its guest, for real."""

from __future__ import annotations

import subprocess
from pathlib import Path

import inside
import remote
from hosts import HOSTS

from stereos_proto_io.addresses import Vsock
from vm.machine import Machine

GUEST = Vsock(3, 1024)
#: Seconds for a machine on a machine on an emulated processor.
BOOT_TIME = 90
PATIENCE = 60
IMPATIENCE = 6


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
        inner.power_on().wait_up(BOOT_TIME)
        found["clients"] = {name: remote.check(host(), inner, GUEST) for name, host in HOSTS.items()}
        found["conformance"] = {}
        for name in HOSTS:
            inner.start_agent(name)
            found["conformance"][name] = inside.examine(str(GUEST))
        found["nobody listens"] = {name: inside.dial(name, "vsock://3:4321") for name in HOSTS}
        inner.pause()
        found["paused"] = {name: inside.dial(name, str(GUEST)) for name in HOSTS}
        inner.resume()
        found["killed"] = HOSTS["blocking"]().run(lose, inner)
        found["gone"] = {name: inside.dial(name, str(GUEST)) for name in HOSTS}
    return found


async def lose(host, machine):
    """What a request that is under way ends in when QEMU is killed."""
    machine.start_agent("blocking", "late:600s@ping")
    client = await host.within(PATIENCE, host.dial, GUEST)
    during = (await host.see(1, client.ping)).kind
    machine.kill()
    return during, (await host.see(PATIENCE, client.get_health)).kind
