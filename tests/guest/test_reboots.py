"""Reboots of a guest in an event loop that come while it does not listen yet, or while a host is being taken in."""

import asyncio
import os
import socket
import threading

import pytest
import trio

from guest_harness import PATIENCE, PONG, Host, ask, ask_patiently, running, terminal
from stereos_proto import Ping, Pong, encode
from stereos_proto_io import TCP, UnixSocket, VirtioSerial
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest import trio as trio_guest
from stereos_proto_io.guest._orders import Reboot

REFUSING = 0.1
LOOPS = {"asyncio": asyncio.sleep, "trio": trio.sleep}
over_loops = pytest.mark.parametrize("kind", LOOPS)


@pytest.fixture
def refusing(kind):
    """A guest that refuses at first, and what is set when that time is over."""
    over = threading.Event()

    async def sleep(seconds):
        await LOOPS[kind](seconds)
        if seconds == REFUSING:
            over.set()

    with running(kind, None, GuestSimulator(faults=[f"refuse:{REFUSING}s"]), sleep=sleep) as guest:
        yield guest, over


@over_loops
def test_a_guest_that_reboots_is_not_rebooted(kind):
    """The one with threads waits for the first reboot to end."""
    with running(kind, None, GuestSimulator()) as guest:
        guest.reboot(3600)
        with pytest.raises(RuntimeError, match="the guest reboots already"):
            guest.reboot()


@over_loops
def test_a_second_reboot_in_the_time_of_the_first_changes_nothing(kind):
    """A serial port stays open, so that a fault may strike there once more."""
    with running(kind, None, GuestSimulator()) as guest:
        guest._call(lambda: [guest.server._obey(Reboot(0.1)) for _ in range(2)])
        assert ask_patiently(guest.address, Ping()) == [PONG]
        guest.reboot()
        assert ask_patiently(guest.address, Ping()) == [PONG]


@over_loops
def test_a_reboot_in_the_time_of_refusing_listens_once(kind, refusing):
    guest, over = refusing
    guest.reboot()
    assert ask_patiently(guest.address, Ping()) == [PONG]
    assert over.wait(PATIENCE)
    for _ in range(2):
        assert ask(guest.address, Ping()) == [PONG]


@over_loops
def test_a_guest_is_down_while_it_reboots_though_the_time_of_refusing_ends(kind, refusing):
    guest, over = refusing
    guest.reboot(3600)
    assert over.wait(PATIENCE)
    assert guest.connections == 0  # asked in the loop, so that it has done what comes after that time
    with pytest.raises(OSError, match="refused"):
        Host(guest.address)


@over_loops
@pytest.mark.parametrize("what", ["reboot", "power_off"])
def test_a_guest_may_end_before_its_loop_has_turned(kind, what, tmp_path, monkeypatch):
    """trio starts a task also where its scope was cancelled before."""
    monkeypatch.chdir(tmp_path)
    serve, run, in_thread = {
        "asyncio": (asyncio_guest.serve, lambda main: asyncio.run(main()), asyncio.to_thread),
        "trio": (trio_guest.serve, trio.run, trio.to_thread.run_sync),
    }[kind]
    with terminal() as (host, path, _end):
        places = [TCP("127.0.0.1", 0), UnixSocket("guest"), VirtioSerial(path)]

        async def main():
            async with serve(places, GuestSimulator()) as server:
                getattr(server, what)()
                if what == "power_off":
                    await server.wait_off()
                    return
                for address in server.addresses[:2]:
                    assert await in_thread(ask_patiently, address, Ping()) == [PONG]
                os.write(host, encode(Ping()))
                assert await in_thread(os.read, host, 100) == encode(Pong())

        run(main)


def test_a_host_that_is_being_taken_in_does_not_outlive_a_reboot():
    """In trio a task begins a turn later than it is made."""

    async def main():
        async with trio_guest.serve(TCP("127.0.0.1", 0), GuestSimulator()) as server:
            (endpoint,) = server._endpoints
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            with ours:
                server._nursery.start_soon(server._run, server._join(endpoint, theirs))
                assert len(server.connections) == 1
                server.reboot()
                assert await trio.to_thread.run_sync(ours.recv, 1) == b""
            assert server.connections == ()

    trio.run(main)
