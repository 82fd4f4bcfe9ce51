"""A real guest from power-on to power-off: `make demo-vm`.

It boots, is waited for, is given all that examples/jcard.toml names, is looked into, and is shut down.
"""

from __future__ import annotations

import base64
import secrets
import sys
import tempfile
import time
from pathlib import Path

from stereos_proto import InjectSSHKey, ProvisionPlan, load_jcard
from stereos_proto.dialogues import WaitProgress
from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking import Client, connect_when_ready

from . import image, parts
from .machine import BOOT_TIME, Machine, MachineError

_JCARD = parts.ROOT / "examples" / "jcard.toml"
_SHARES = {"share0": parts.ROOT, "share1": parts.ROOT / "docs"}
#: Seconds for each step, on an emulated processor.
_PATIENCE = 60.0


def main() -> int:
    """Play the demo; return the exit status."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            parts.prepare()
            initramfs = Path(folder) / "initramfs"
            image.write_image(initramfs)
            with Machine(initramfs, shares=_SHARES) as machine:
                play(machine)
    except parts.Unavailable as exc:
        print(f"make demo-vm: there can be no virtual machine here: {exc}", file=sys.stderr)
        return 1
    return 0


def play(machine: Machine) -> None:
    """Play it on a machine that is not turned on yet. Raises AssertionError where the guest has something else."""
    plan = _plan()
    print(f"1  A machine is turned on; its guest will be at {machine.addresses['tcp']}")
    client = _boot(machine, machine.addresses["tcp"])
    with client:
        print(f"\n2  {_JCARD.name} is provisioned, in one flight")
        report = client.provision(
            plan, timeout=_PATIENCE, on_step=lambda step: print(f"   {step.status.value} {step.label}")
        )
        assert report.ok
        print("\n3  What is in the guest now, read there")
        look(machine, plan)
        print("\n4  It is shut down")
        client.shutdown("end of the demo", timeout=_PATIENCE)
        machine.wait_off(_PATIENCE)
        print("   the machine has turned itself off")


def _boot(machine: Machine, address: Address) -> Client:
    start = time.monotonic()
    before = ""

    def show(progress: WaitProgress) -> None:
        nonlocal before
        seen = str(progress.error or progress.state)
        if seen != before:
            print(f"   {time.monotonic() - start:5.1f} s  {seen}", flush=True)
        before = seen

    machine.power_on()
    return connect_when_ready(address, timeout=BOOT_TIME, on_progress=show)


def _plan() -> ProvisionPlan:
    """The plan of the jcard.toml. Its secrets are made up on the spot, as is the key."""
    environment: dict[str, str] = {}
    for name in ("DEMO_API_KEY", "DEMO_GITHUB_TOKEN"):
        environment[name] = secrets.token_hex(20)
    key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + secrets.token_bytes(32)
    line = f"ssh-ed25519 {base64.b64encode(key).decode()} demo"
    text = _JCARD.read_text()
    return load_jcard(text, env=environment, ssh_keys=[InjectSSHKey("agent", line)], source=_JCARD.name)


def look(machine: Machine, plan: ProvisionPlan) -> None:
    """Compare what is in the guest with the plan. No secret is shown."""
    for secret in plan.secrets:
        _file(machine, f"/run/stereos/secrets/{secret.name}", f"{secret.mode:o}", secret.value)
    for key in plan.ssh_keys:
        _file(machine, f"/home/{key.user}/.ssh/authorized_keys", "600", f"{key.public_key}\n")
    _file(machine, "/etc/stereos/jcard.toml", "644", plan.config or "")
    mounted = machine.run("cat", "/proc/mounts")
    for mount in plan.mounts:
        (entry,) = [line for line in mounted.splitlines() if line.startswith(f"{mount.tag} {mount.guest_path} ")]
        assert entry.split()[2] == mount.fs_type
        options = entry.split()[3].split(",")
        assert ("ro" in options) is mount.read_only
        there = set(machine.run("ls", "-A", mount.guest_path).split("\n")) - {""}
        assert there == {path.name for path in _SHARES[mount.tag].iterdir()}
        print(f"   {mount.guest_path}: {entry.split()[2]}, {options[0]}, {len(there)} entries, the same as here")
    assert "name = " in machine.run("cat", "/workspace/pyproject.toml")
    try:
        machine.run("mkdir", "/reference/new")
    except MachineError:
        print("   /reference: a folder cannot be made there")
    else:
        raise AssertionError("/reference can be written to")


def _file(machine: Machine, path: str, mode: str, content: str) -> None:
    found = machine.run("stat", "-c", "%a %u:%g", path).strip()
    assert found == f"{mode} 0:0", f"{path} is {found}"
    # The comparison is an assertion without its values on purpose: they are secrets.
    same = machine.run("cat", path) == content
    assert same, f"{path} has another content"
    print(f"   {path}: mode {mode}, owner root, content as sent")


if __name__ == "__main__":
    sys.exit(main())
