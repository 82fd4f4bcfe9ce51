"""A dial, and a close, that are cancelled at every checkpoint leave nothing behind."""

import asyncio
import itertools
import socket

import pytest
import trio

from guest_harness import descriptors
from stereos_proto import ConnectionLost, Ping, Pong
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest import trio as trio_guest

from .harness import ASYNCIO, TRIO, UVLOOP, attached
from .test_conformance import ADDRESSES, Wrapped
from .test_regressions import run, some_turns, until

async_drivers = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO], ids=str)

#: The most turns of an event loop that anything here takes.
MANY = 500


async def cancelled_after(driver, turns, work):
    """Whether `work` was done when it was cancelled after so many turns of the event loop."""
    done = False

    async def do():
        nonlocal done
        await work()
        done = True

    if driver is TRIO:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(do)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    else:
        task = asyncio.ensure_future(do())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    return done


async def at_every_turn(driver, work):
    """Cancel `work` after every number of turns, until it is done before that."""
    turns = 0
    while not await cancelled_after(driver, turns, work):
        # A port takes one host after another, and is told that one has gone.
        await some_turns(driver)
        turns += 1
        assert turns < MANY
    return turns


@async_drivers
@pytest.mark.parametrize("transport", ADDRESSES)
@pytest.mark.parametrize("how", ["connect", "connect_when_ready"])
def test_a_dial_that_is_cancelled_at_every_turn(driver, transport, how, tmp_path):
    module = trio_guest if driver is TRIO else asyncio_guest

    async def dial_and_ask():
        async with getattr(driver.module, how)(address) as client:
            assert await client.ping() == Pong()

    async def main():
        nonlocal address
        async with module.serve(ADDRESSES[transport](tmp_path), GuestSimulator()) as guest:
            address = guest.address
            # What is made once, and kept, is there now.
            await dial_and_ask()
            await until(driver, lambda: not guest.connections)
            before = len(descriptors())
            assert await at_every_turn(driver, dial_and_ask) > 3
            await dial_and_ask()
            await until(driver, lambda: not guest.connections and len(descriptors()) <= before)

    address = None
    run(driver, main)


@async_drivers
@pytest.mark.parametrize("stream", ["socket", "stream"])
def test_a_close_that_is_cancelled_at_every_turn(driver, stream):
    """The connection is closed all the same, and whoever waits for a reply is told."""

    async def close(turns):
        ours, theirs = socket.socketpair()
        if stream == "stream":
            ours = (
                Wrapped(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
                if driver is TRIO
                else await asyncio.open_unix_connection(sock=ours)
            )
        with theirs:
            async with attached(driver, ours) as client:
                call = client._session.start(Ping())
                done = await cancelled_after(driver, turns, client.aclose)
                if turns:
                    assert isinstance(call.outcome, ConnectionLost)
            with pytest.raises(ConnectionLost):
                await client.ping()
            theirs.setblocking(False)
            assert theirs.recv(100) == b""
        return done and turns

    async def main():
        for turns in itertools.count():
            if await close(turns):
                return
            assert turns < MANY

    run(driver, main)
