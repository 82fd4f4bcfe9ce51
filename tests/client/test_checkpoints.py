"""Every verb lets other tasks run."""

import asyncio

import pytest
import trio
import trio.testing

from stereos_proto import Lifecycle, Ping, ProvisionPlan
from stereos_proto_io import UnixSocket
from stereos_proto_io.testing import simulated_guest

from .guests import MOUNT
from .harness import ASYNCIO, TRIO, UVLOOP, entered, run

PLAN = ProvisionPlan(mounts=(MOUNT,), config="x = 1\n")

VERBS = {
    "request": lambda client: client.request(Ping()),
    "ping": lambda client: client.ping(),
    "get_health": lambda client: client.get_health(),
    "set_config": lambda client: client.set_config("x = 1\n"),
    "inject_secret": lambda client: client.inject_secret("NAME", "value"),
    "inject_ssh_key": lambda client: client.inject_ssh_key("admin", "ssh-ed25519 AAAA x"),
    "mount": lambda client: client.mount("work", "/work", "virtiofs"),
    "request_many": lambda client: client.request_many([Ping(), Ping()]),
    "wait_ready": lambda client: client.wait_ready(),
    "provision": lambda client: client.provision(PLAN),
    "notifications": lambda client: anext(client.notifications()),
    "shutdown": lambda client: client.shutdown(),
    "aclose": lambda client: client.aclose(),
}

#: What asks nothing, or has its answer at once. Trio wants a checkpoint there, too; asyncio does not.
AT_ONCE = {
    "request_many, of none": lambda client: client.request_many([]),
    "provision, of nothing": lambda client: client.provision(ProvisionPlan()),
    "notifications, one that is there": lambda client: anext(client.notifications()),
    "aclose, again": lambda client: client.aclose(),
}

CHECKPOINTS = [
    (driver, verb)
    for driver in (ASYNCIO, UVLOOP, TRIO)
    for verb in (*VERBS, *AT_ONCE)[: None if driver is TRIO else len(VERBS)]
]


@pytest.mark.parametrize(("driver", "verb"), CHECKPOINTS, ids=str)
def test_every_verb_lets_others_run(driver, verb, tmp_path):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            # The guest has accepted by then.
            await client.ping()
            if verb.startswith("notifications"):
                assert guest.push(Lifecycle("news")) == 1
            if verb in AT_ONCE:
                # This reads what was pushed.
                await client.ping()
            if verb == "aclose, again":
                await client.aclose()
            call = (VERBS | AT_ONCE)[verb]
            if driver is TRIO:
                with trio.testing.assert_checkpoints():
                    await call(client)
            else:
                others = []
                asyncio.get_running_loop().call_soon(others.append, "ran")
                await call(client)
                assert others

    with simulated_guest(UnixSocket(tmp_path / "guest")) as guest:
        run(driver, main)
