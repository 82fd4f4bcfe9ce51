"""A guest that reboots, is turned off, or is killed, with requests under way: each ends in its documented error."""

import pytest

from . import parts
from .guest.hosts import together
from .guest.remote import wait_for_pings
from .guest.scenarios import (
    IMPATIENCE,
    PATIENCE,
    SLOW,
    be_there_when_it_ends,
    dial_and_ping,
    go_through_a_reboot,
    in_step,
    shut_down,
)
from .machine import BOOT_TIME
from .moments import LOST, NO_ANSWER, RUNTIMES, all_hosts, one_host

#: What a client says over a muxer that has lost its machine, or only the connection.
MUTE = (*NO_ANSWER, *LOST)


def hybrid_of(machine):
    """The address of the muxer; skips where its package has gone."""
    if "hybrid" not in machine.addresses:
        pytest.skip(f"NO HYBRID VSOCK: {parts.missing_muxer()}")
    return machine.addresses["hybrid"]


# ---------------------------------------------------------------------------------------- pause, resume


async def go_through_a_pause(host, address, connected, paused, waited, resumed):
    client = await host.within(PATIENCE, host.dial, address)
    connected.wait(PATIENCE)
    paused.wait(PATIENCE)
    during = (await host.see(IMPATIENCE, client.ping)).kind
    waited.wait(PATIENCE)
    resumed.wait(PATIENCE)
    health = (await host.see(PATIENCE, client.get_health)).kind
    return during, health, (await host.see(PATIENCE, client.ping)).kind


async def outlast_a_pause(host, address, connected, paused, waited, resumed):
    client = await host.within(PATIENCE, host.dial, address)
    connected.wait(PATIENCE)
    paused.wait(PATIENCE)
    during = (await host.see(IMPATIENCE, client.ping)).kind, (await host.see(IMPATIENCE, host.dial, address)).kind
    waited.wait(PATIENCE)
    resumed.wait(PATIENCE)
    after = (await host.see(IMPATIENCE, client.ping)).kind, (await host.see(IMPATIENCE, host.dial, address)).kind
    return during, after


def test_pause_and_resume_of_a_muxed_machine(doomed):
    """The muxer does not always come back from a pause, and no error tells: each step ends by its deadline."""
    hosts = all_hosts(outlast_a_pause, hybrid_of(doomed))
    for during, after in in_step(hosts, doomed.pause, doomed.resume).values():
        assert during[0] == "Timeout"
        assert during[1] in NO_ANSWER
        assert after[0] in ("Pong", *MUTE)
        assert after[1] in ("Client", *MUTE)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pause_and_resume(plain_machine, runtime):
    """A pause is silence, which only a deadline ends. The late reply is not taken for another's afterwards."""
    hosts = {
        transport: one_host(runtime, go_through_a_pause, address)
        for transport, address in plain_machine.addresses.items()
    }
    try:
        seen = in_step(hosts, plain_machine.pause, plain_machine.resume)
    finally:
        plain_machine.resume()
    assert seen == dict.fromkeys(("tcp", "serial"), ("Timeout", "Health", "Pong"))


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


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_reboot_in_mid_request(plain_machine, runtime):
    """Silence. Then, over TCP, what is sent next ends the connection, and a new one is fine.

    On the port there is no end: the same stream goes on with the next guest, which knows nothing of the request.
    """
    machine = plain_machine
    machine.start_agent("blocking", SLOW, health="")

    def reboot():
        wait_for_pings(machine, 2)
        machine.reset()
        machine.wait_up()

    hosts = {
        transport: one_host(runtime, go_through_a_reboot, address, BOOT_TIME, PATIENCE)
        for transport, address in machine.addresses.items()
    }
    seen = in_step(hosts, reboot)
    during, old, new = seen["tcp"]
    assert (during, new) == ("Timeout", "Pong")
    assert old in LOST
    # The reply to the request after the reboot comes first, and is no answer to the one before.
    assert seen["serial"] == ("Timeout", "UnexpectedReply", "Pong")


def end(machine, runtime, how):
    """What hosts saw when `how` ended the machine: all of them, and one on the port. By host, request and new dial."""
    machine.start_agent("blocking", SLOW)
    shared = {transport: address for transport, address in machine.addresses.items() if transport != "serial"}
    hosts = all_hosts(be_there_when_it_ends, shared)
    hosts["the port"] = one_host(runtime, be_there_when_it_ends, {"serial": machine.addresses["serial"]})
    return in_step(hosts, how)


def check_gone(seen, of_the_port):
    """Every request lost its connection; every new dial says that there is nobody, and may be tried again."""
    for last, redialled in seen.values():
        assert set(last.values()) <= set(LOST)
        assert {(kind, retryable) for kind, _, retryable in redialled.values()} == {("ConnectError", True)}
    assert of_the_port in seen["the port"][1]["serial"][1]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_power_off(doomed, runtime):
    """A guest that is shut down acknowledges, and all its connections end; the port's socket is removed."""

    def power_off():
        # Its acknowledgement may be overtaken by the end.
        assert one_host(runtime, shut_down, doomed.addresses["tcp"])() in ("Ack", "NoneType")
        doomed.wait_off(PATIENCE)

    check_gone(end(doomed, runtime, power_off), "there is no such socket yet")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_kill(doomed, runtime):
    """QEMU dies: connections end; its sockets refuse, and the muxer has no machine any more."""
    check_gone(end(doomed, runtime, doomed.kill), "nobody listens there yet")


async def outlast_a_reboot(host, address, asking, rebooted):
    client = await host.within(PATIENCE, host.dial, address)
    asking.wait(PATIENCE)
    during = (await host.see(IMPATIENCE, client.ping)).kind
    rebooted.wait(2 * BOOT_TIME)
    after = (await host.see(IMPATIENCE, client.ping)).kind
    return during, after, (await host.see(IMPATIENCE, host.dial, address)).kind


def test_a_muxer_whose_machine_reboots_and_that_dies(doomed):
    """The muxer does not always come back from a reboot, and no error tells: each step ends by its deadline.

    Its own death is an end, and a socket file that refuses.
    """
    address = hybrid_of(doomed)
    doomed.start_agent("blocking", SLOW, health="")

    def reboot():
        wait_for_pings(doomed, len(RUNTIMES))
        doomed.reset()
        doomed.wait_up()

    for during, after, redialled in in_step(all_hosts(outlast_a_reboot, address), reboot).values():
        assert during == "Timeout"
        assert after in MUTE
        assert redialled in ("Client", *MUTE)
    doomed.kill_muxer()
    for kind, text, retryable in together(dial_and_ping, address, within=4 * PATIENCE).values():
        assert (kind, retryable) == ("ConnectError", True)
        assert "nobody listens there yet" in text
