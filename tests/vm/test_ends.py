"""A guest that reboots, is turned off, or is killed, with requests under way: each ends in its documented error."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from .guest.hosts import HOSTS, together
from .machine import BOOT_TIME
from .moments import IMPATIENCE, LOST, NO_ANSWER, PATIENCE, RUNTIMES, dial_and_ping, meanwhile

#: An agent that answers a ping after the reboot only.
SLOW = "late:600s@ping"


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
def test_reboot_in_mid_request(machine, runtime):
    """Silence, until something is sent: then the connection is lost. A new one is fine."""
    machine.start_agent("blocking", SLOW)
    during, old, new = HOSTS[runtime]().run(go_through_a_reboot, machine, "tcp")
    assert during == "Timeout"
    assert old in LOST
    assert new == "Pong"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_reboot_in_mid_request_on_the_port(machine, runtime):
    """There is no end: the same stream goes on with the next guest, which knows nothing of the request."""
    machine.start_agent("blocking", SLOW)
    during, old, new = HOSTS[runtime]().run(go_through_a_reboot, machine, "serial")
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


def shared(machine):
    """The addresses that take several hosts."""
    return {transport: address for transport, address in machine.addresses.items() if transport != "serial"}


def check_gone(seen):
    """Every request lost its connection; every new dial says that there is nobody, and may be tried again."""
    for last, redialled in seen.values():
        assert set(last.values()) <= set(LOST)
        assert {(kind, retryable) for kind, _, retryable in redialled.values()} == {("ConnectError", True)}


def test_power_off(doomed):
    """A guest that is shut down acknowledges, and all its connections end; the port's socket is removed."""

    def shut_down():
        assert HOSTS["blocking"]().run(shut_down_over_the_port, doomed.addresses["serial"]) in ("Ack", "NoneType")
        doomed.wait_off(PATIENCE)

    check_gone(end(doomed, shared(doomed), shut_down))
    for name in RUNTIMES:
        kind, text, retryable = HOSTS[name]().run(dial_and_ping, doomed.addresses["serial"])
        assert (kind, retryable) == ("ConnectError", True)
        assert "there is no such socket yet" in text


async def shut_down_over_the_port(host, address):
    client = await host.within(PATIENCE, host.dial, address)
    return (await host.see(PATIENCE, client.shutdown)).kind


def test_kill(doomed):
    """QEMU dies: connections end; its sockets refuse, and the muxer has no machine any more."""
    check_gone(end(doomed, shared(doomed), doomed.kill))
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


def test_a_muxer_whose_machine_reboots_and_that_dies(doomed, address_of):
    """After a reboot the muxer is silent for good, without any error: each step ends by its deadline.

    Its own death is an end, and a socket file that refuses.
    """
    address = address_of("hybrid")
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
            assert after in ("Timeout", *LOST)
            assert redialled in NO_ANSWER
    doomed.kill_muxer()
    for kind, text, retryable in together(dial_and_ping, address, within=PATIENCE).values():
        assert (kind, retryable) == ("ConnectError", True)
        assert "nobody listens there yet" in text
