"""A guest that reboots, is turned off, or is killed, with requests under way: each ends in its documented error."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import parts
from .guest.hosts import HOSTS, together
from .machine import BOOT_TIME
from .moments import IMPATIENCE, LOST, NO_ANSWER, PATIENCE, RUNTIMES, dial_and_ping, meanwhile

#: What a client says over a muxer that has lost its machine, or only the connection.
MUTE = (*NO_ANSWER, *LOST)
#: An agent that answers a ping after the reboot only.
SLOW = "late:600s@ping"


def hybrid_of(machine):
    """The address of the muxer; skips where its package has gone."""
    if "hybrid" not in machine.addresses:
        pytest.skip(f"NO HYBRID VSOCK: {parts.missing_muxer()}")
    return machine.addresses["hybrid"]


# ---------------------------------------------------------------------------------------- pause, resume


async def go_through_a_pause(host, address, barrier):
    client = await host.within(PATIENCE, host.dial, address)
    barrier.wait(PATIENCE)  # connected
    barrier.wait(PATIENCE)  # paused
    during = (await host.see(IMPATIENCE, client.ping)).kind
    barrier.wait(PATIENCE)  # waited
    barrier.wait(PATIENCE)  # resumed
    health = (await host.see(PATIENCE, client.get_health)).kind
    return during, health, (await host.see(PATIENCE, client.ping)).kind


async def outlast_a_pause(host, address, barrier):
    client = await host.within(PATIENCE, host.dial, address)
    barrier.wait(PATIENCE)  # connected
    barrier.wait(PATIENCE)  # paused
    during = (await host.see(IMPATIENCE, client.ping)).kind, (await host.see(IMPATIENCE, host.dial, address)).kind
    barrier.wait(PATIENCE)  # waited
    barrier.wait(PATIENCE)  # resumed
    after = (await host.see(IMPATIENCE, client.ping)).kind, (await host.see(IMPATIENCE, host.dial, address)).kind
    return during, after


def paused_for_all(machine, address, run, scenario=go_through_a_pause):
    """Run the scenario around a pause of the machine."""
    barrier = threading.Barrier(2 if run is not together else 1 + len(HOSTS))
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, scenario, address, barrier, within=4 * PATIENCE)
        barrier.wait(PATIENCE)
        machine.pause()
        try:
            barrier.wait(PATIENCE)
            barrier.wait(PATIENCE)
        finally:
            machine.resume()
        barrier.wait(PATIENCE)
        return running.result(4 * PATIENCE)


def test_pause_and_resume_of_a_muxed_machine(doomed):
    """The muxer does not always come back from a pause, and no error tells: each step ends by its deadline."""
    for during, after in paused_for_all(doomed, hybrid_of(doomed), together, outlast_a_pause).values():
        assert during[0] == "Timeout"
        assert during[1] in NO_ANSWER
        assert after[0] in ("Pong", *MUTE)
        assert after[1] in ("Client", *MUTE)


def test_pause_and_resume(plain_machine):
    """A pause is silence, which only a deadline ends. The late reply is not taken for another's afterwards."""
    for seen in paused_for_all(plain_machine, plain_machine.addresses["tcp"], together).values():
        assert seen == ("Timeout", "Health", "Pong")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pause_and_resume_on_the_port(plain_machine, runtime):
    def run(scenario, *args, within):
        return HOSTS[runtime]().run(scenario, *args)

    assert paused_for_all(plain_machine, plain_machine.addresses["serial"], run) == ("Timeout", "Health", "Pong")


async def dial_and_ping_impatiently(host, address):
    dialled = await host.see(IMPATIENCE, host.dial, address)
    return dialled.kind if dialled.error else (await host.see(IMPATIENCE, dialled.result.ping)).kind


def test_dialling_a_paused_machine(plain_machine):
    """TCP connects, and all is silence: no step goes on for longer than its deadline."""
    plain_machine.pause()
    try:
        seen = together(dial_and_ping_impatiently, plain_machine.addresses["tcp"], within=PATIENCE)
    finally:
        plain_machine.resume()
    assert set(seen.values()) == {"Timeout"}


# ------------------------------------------------------------------------------------------------ reboot


async def go_through_a_reboot(host, machine, transport):
    client = await host.within(PATIENCE, host.dial, machine.addresses[transport])
    with meanwhile(0.5, machine.reset):
        during = (await host.see(IMPATIENCE * 2, client.ping)).kind
    machine.wait_up()
    old = (await host.see(IMPATIENCE, client.get_health)).kind
    await host.close(client)
    new = (await host.see(BOOT_TIME, host.ready, machine.addresses[transport])).result
    return during, old, (await host.see(PATIENCE, new.ping)).kind


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_reboot_in_mid_request(plain_machine, runtime):
    """Silence, until something is sent: then the connection is lost. A new one is fine."""
    plain_machine.start_agent("blocking", SLOW)
    during, old, new = HOSTS[runtime]().run(go_through_a_reboot, plain_machine, "tcp")
    assert during == "Timeout"
    assert old in LOST
    assert new == "Pong"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_reboot_in_mid_request_on_the_port(plain_machine, runtime):
    """There is no end: the same stream goes on with the next guest, which knows nothing of the request."""
    plain_machine.start_agent("blocking", SLOW)
    during, old, new = HOSTS[runtime]().run(go_through_a_reboot, plain_machine, "serial")
    assert during == "Timeout"
    # The reply to this request comes first, and is no answer to the one before.
    assert old == "UnexpectedReply"
    assert new == "Pong"


async def be_there_when_it_ends(host, addresses, ready, ended):
    """Connect and ask; return what came of the request, and of the next dial, by transport."""
    clients = {transport: await host.within(PATIENCE, host.dial, address) for transport, address in addresses.items()}
    for client in clients.values():
        # The request is under way, and stays so.
        assert (await host.see(0.5, client.ping)).kind == "Timeout"
    ready.wait(PATIENCE)
    ended.wait(PATIENCE)
    last = {transport: (await host.see(PATIENCE, client.ping)).kind for transport, client in clients.items()}
    return last, {transport: await dial_and_ping(host, address) for transport, address in addresses.items()}


def end(machine, addresses, how):
    """What all clients saw when `how` ended the machine."""
    machine.start_agent("blocking", SLOW)
    barriers = threading.Barrier(1 + len(HOSTS)), threading.Barrier(1 + len(HOSTS))
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(together, be_there_when_it_ends, addresses, *barriers, within=4 * PATIENCE)
        barriers[0].wait(PATIENCE)
        how()
        barriers[1].wait(PATIENCE)
        return run.result(4 * PATIENCE)


def check_gone(seen):
    """Every request lost its connection; every new dial says that there is nobody, and may be tried again."""
    for last, redialled in seen.values():
        assert set(last.values()) <= set(LOST)
        assert {(kind, retryable) for kind, _, retryable in redialled.values()} == {("ConnectError", True)}


def test_power_off(plain_machine):
    """A guest that is shut down acknowledges, and all its connections end; the port's socket is removed."""

    def shut_down():
        assert HOSTS["blocking"]().run(shut_down_over_the_port, plain_machine.addresses["serial"]) in (
            "Ack",
            "NoneType",
        )
        plain_machine.wait_off(PATIENCE)

    check_gone(end(plain_machine, {"tcp": plain_machine.addresses["tcp"]}, shut_down))
    for name in RUNTIMES:
        kind, text, retryable = HOSTS[name]().run(dial_and_ping, plain_machine.addresses["serial"])
        assert (kind, retryable) == ("ConnectError", True)
        assert "there is no such socket yet" in text


async def shut_down_over_the_port(host, address):
    client = await host.within(PATIENCE, host.dial, address)
    return (await host.see(PATIENCE, client.shutdown)).kind


def test_kill(doomed):
    """QEMU dies: connections end; its sockets refuse, and the muxer has no machine any more."""
    shared = {transport: address for transport, address in doomed.addresses.items() if transport != "serial"}
    check_gone(end(doomed, shared, doomed.kill))
    for name in RUNTIMES:
        kind, text, retryable = HOSTS[name]().run(dial_and_ping, doomed.addresses["serial"])
        assert (kind, retryable) == ("ConnectError", True)
        assert "nobody listens there yet" in text


async def go_through_a_hybrid_reboot(host, address, ready, rebooted):
    client = await host.within(PATIENCE, host.dial, address)
    ready.wait(PATIENCE)
    during = (await host.see(IMPATIENCE, client.ping)).kind
    rebooted.wait(BOOT_TIME)
    after = (await host.see(IMPATIENCE, client.ping)).kind
    return during, after, (await host.see(IMPATIENCE, host.dial, address)).kind


def test_a_muxer_whose_machine_reboots_and_that_dies(doomed):
    """The muxer does not always come back from a reboot, and no error tells: each step ends by its deadline.

    Its own death is an end, and a socket file that refuses.
    """
    address = hybrid_of(doomed)
    doomed.start_agent("blocking", SLOW)
    barriers = threading.Barrier(1 + len(HOSTS)), threading.Barrier(1 + len(HOSTS))
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(together, go_through_a_hybrid_reboot, address, *barriers, within=2 * BOOT_TIME)
        barriers[0].wait(PATIENCE)
        doomed.reset()
        doomed.wait_up()
        barriers[1].wait(PATIENCE)
        for during, after, redialled in run.result(BOOT_TIME).values():
            assert during == "Timeout"
            assert after in MUTE
            assert redialled in ("Client", *MUTE)
    doomed.kill_muxer()
    for kind, text, retryable in together(dial_and_ping, address, within=PATIENCE).values():
        assert (kind, retryable) == ("ConnectError", True)
        assert "nobody listens there yet" in text
