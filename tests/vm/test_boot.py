"""A guest that boots, and what a host meets while it is up: each moment with its stated outcome and a deadline.

The three clients go through a moment together where the transport takes several hosts, and in turn on the
virtio-serial port, which takes one.
"""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest

from stereos_proto import AgentStatus, Health, encode

from .guest.hosts import HOSTS, together
from .guest.scenarios import IMPATIENCE, PATIENCE, dial_and_ping, wait_and_ping
from .machine import BOOT_TIME
from .moments import LOST, NO_ANSWER, RUNTIMES, meanwhile

# ------------------------------------------------------------------------------------------- from power-on


def test_from_power_on(pool, note):
    """`connect_when_ready`, called before the machine is turned on, sees the guest as soon as it is there.

    QEMU takes connections long before the guest does, and on the way there are refusals, missing files, resets
    and ends without a byte. The try that is under way when the agent comes up may be lost; the next one gets
    through.
    """
    machine = pool.fresh()
    waits = [(transport, name) for transport in machine.addresses for name in RUNTIMES if transport != "serial"]
    waits.append(("serial", "blocking"))
    with ThreadPoolExecutor(len(waits)) as threads:
        runs = {
            (transport, name): threads.submit(HOSTS[name]().run, wait_and_ping, machine.addresses[transport], BOOT_TIME)
            for transport, name in waits
        }
        machine.power_on()
        for (transport, name), run in runs.items():
            (lost, uptime), pong = run.result(BOOT_TIME + PATIENCE)
            assert pong == "Pong"
            note(f"{transport:7} {name:9} first seen ready when the guest's agent was up for {uptime} s")
            assert lost <= 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ready_as_soon_as_somebody_listens(machine, runtime):
    """The machine is up and its agent is not: the wait ends when it starts. On the port, the bytes were kept."""
    for address in machine.addresses.values():
        machine.stop_agent()
        with meanwhile(1, machine.start_agent):
            _, pong = HOSTS[runtime]().run(wait_and_ping, address, BOOT_TIME)
        assert pong == "Pong"


# --------------------------------------------------------------------------------------- nobody listens


def test_tcp_while_nobody_listens(machine):
    """A connection succeeds, and proves nothing; the end comes before the first byte."""
    machine.stop_agent()
    for kind, _, _ in together(dial_and_ping, machine.addresses["tcp"], within=PATIENCE).values():
        assert kind in LOST


def test_hybrid_while_nobody_listens(machine, address_of):
    """The end comes instead of an OK: worth another try."""
    machine.stop_agent()
    for kind, text, retryable in together(dial_and_ping, address_of("hybrid"), within=PATIENCE).values():
        assert (kind, retryable) == ("ConnectError", True)
        assert text.endswith("nobody listens on vsock port 1024 of the guest yet")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_vsock_while_nobody_listens(machine, runtime):
    """AF_VSOCK says "reset", not "refused": worth another try."""
    kind, text, retryable = machine.call("inside", "dial", runtime, "vsock://1:4321")
    assert (kind, retryable) == ("ConnectError", True)
    assert "it was reset: nobody listens there yet" in text


async def dial_impatiently(host, address):
    return (await host.see(IMPATIENCE, host.dial, address)).kind


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_serial_while_nobody_listens(machine, runtime):
    """The port takes bytes that nobody reads, so that only a deadline helps; when it opens, all is well."""
    address = machine.addresses["serial"]
    machine.stop_agent()
    assert HOSTS[runtime]().run(dial_impatiently, address) in NO_ANSWER
    machine.start_agent()
    assert HOSTS[runtime]().run(dial_and_ping, address)[0] == "Pong"


# ------------------------------------------------------------------- a port without connections (§9)


@contextmanager
def another_host(address):
    """A connection to the port by somebody who does not care."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address.path)
        yield sock


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_half_a_line_of_a_host_that_died(machine, runtime):
    """It would be glued to the next host's first line."""
    address = machine.addresses["serial"]
    with another_host(address) as other:
        other.sendall(b'{"type":"shutd')
    for _ in range(3):
        assert HOSTS[runtime]().run(dial_and_ping, address)[0] == "Pong"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_replies_for_a_host_that_died(machine, runtime):
    """They reach the next host, which must not take them for its own."""
    address = machine.addresses["serial"]
    with another_host(address) as other:
        other.sendall(b'{"type":"get_health"}\n{"type":"made:up"}\n' * 200)
    assert HOSTS[runtime]().run(dial_and_ping, address)[0] == "Pong"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_large_reply_for_a_host_that_died(machine, runtime):
    """Some of it is lost, in the middle of a line; what is left is not taken for a reply either."""
    address = machine.addresses["serial"]
    machine.start_agent("blocking", health=encode(Health("ready", [AgentStatus("a" * 1_000_000, True)])).decode())
    with another_host(address) as other:
        other.sendall(b'{"type":"get_health"}\n' * 3)
        assert other.recv(100)
    assert HOSTS[runtime]().run(dial_and_ping, address)[0] == "Pong"


async def be_the_second_host(host, address, other):
    before = (await host.see(IMPATIENCE, host.dial, address)).kind
    other.close()
    client = (await host.see(PATIENCE, host.ready, address)).result
    return before, (await host.see(PATIENCE, client.ping)).kind


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_hosts_on_one_port(machine, runtime):
    """The second one connects, and hears nothing until the first has gone."""
    address = machine.addresses["serial"]
    with another_host(address) as other:
        other.sendall(b'{"type":"ping"}\n')
        assert other.recv(100)
        before, after = HOSTS[runtime]().run(be_the_second_host, address, other)
    assert before in NO_ANSWER
    assert after == "Pong"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_queue_of_hosts(machine, runtime):
    """With its queue full, the port does not even let connect, and says so: worth another try."""
    address = machine.addresses["serial"]
    with ExitStack() as queue:
        first = queue.enter_context(another_host(address))
        first.sendall(b'{"type":"ping"}\n')
        assert first.recv(100)
        # The first one has been let in, and nobody else is: what is full now stays full.
        with suppress(BlockingIOError):
            while True:
                queue.enter_context(another_host(address))
        kind, text, retryable = HOSTS[runtime]().run(dial_and_ping, address)
        assert (kind, retryable) == ("ConnectError", True)
        assert "its queue of waiting connections is full" in text
    # Those who queued are let in one by one, and found dead, before it is our turn.
    assert HOSTS[runtime]().run(wait_and_ping, address, BOOT_TIME)[1] == "Pong"


# --------------------------------------------------------------------------- the port as the guest has it (§8)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_port_that_somebody_has_open(machine, runtime):
    """A second agent is told so at once, instead of sharing what hosts say with the first one."""
    assert machine.call("inside", "serve_port_too", runtime) == ["OSError", "EBUSY"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_port_whose_host_is_away(machine, runtime):
    """It says "readable" all that time and gives nothing: the agent looks now and then, and does not spin."""
    address = machine.addresses["serial"]
    machine.start_agent(runtime)
    assert HOSTS[runtime]().run(dial_and_ping, address)[0] == "Pong"
    reads, seconds = machine.call("inside", "reads_of", machine.agent_process())
    # 20 times a second, and what little the runtime itself reads.
    assert reads <= 40 * seconds
    assert HOSTS[runtime]().run(dial_and_ping, address)[0] == "Pong"


# ------------------------------------------------------------------------------------------ too many at once


async def come_again_and_again(host, address):
    seen = [await dial_and_ping(host, address) for _ in range(40)]
    client = (await host.see(PATIENCE, host.ready, address)).result
    return seen, (await host.see(PATIENCE, client.ping)).kind


def knock(address, queue):
    """Ask the muxer for a connection, which stays in the queue; return whether the guest has one."""
    sock = queue.enter_context(another_host(address))
    sock.sendall(f"CONNECT {address.port}\n".encode())
    try:
        return sock.recv(100).startswith(b"OK ")
    except ConnectionResetError:
        return False


def test_a_full_queue_behind_a_muxer(machine, address_of):
    """The guest's system resets whom its agent has no place for; to a host it is as if nobody listened yet."""
    address = address_of("hybrid")
    with ExitStack() as queue:
        with machine.deaf_agent(backlog=4):
            while knock(address, queue):
                pass
            for kind, text, retryable in together(dial_and_ping, address, within=PATIENCE).values():
                assert (kind, retryable) == ("ConnectError", True)
                assert text.endswith("nobody listens on vsock port 1024 of the guest yet")
        # Those who queued are let in, and nobody has hung up.
        for _, pong in together(wait_and_ping, address, BOOT_TIME, within=2 * BOOT_TIME).values():
            assert pong == "Pong"


@pytest.mark.parametrize("transport", ["tcp", "hybrid"])
def test_a_backlog_that_overflows(machine, address_of, transport):
    """Hosts that come faster than they are let in get through, or an error after which one may try again."""
    for seen, last in together(come_again_and_again, address_of(transport), within=4 * PATIENCE).values():
        outcomes = {(kind, retryable) for kind, _, retryable in seen}
        assert outcomes <= {("Pong", None), ("ConnectError", True), ("ConnectionLost", None), ("OutcomeUnknown", None)}
        assert last == "Pong"
