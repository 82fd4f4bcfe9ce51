"""A dial that fails, or is given up at any turn, leaves nothing behind."""

import asyncio
import gc
import itertools
import os
import socket
import threading
import tty
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from guest_harness import descriptors
from stereos_proto import ConnectError, ConnectionLost, Ping, Pong
from stereos_proto_io import TCP, HybridVsock, VirtioSerial
from stereos_proto_io.asyncio import connect
from stereos_proto_io.asyncio._transport import SessionProtocol
from stereos_proto_io.driver._sync_dial import dial as sync_dial
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest import trio as trio_guest
from stereos_proto_io.testing import simulated_guest

from .guests import ADDRESSES, Wrapped, full_port
from .harness import (
    BLOCKING,
    PATIENCE,
    TRIO,
    Interrupted,
    async_drivers,
    asyncio_drivers,
    attached,
    each_driver,
    entered,
    run,
    some_turns,
    until,
)

ROUNDS = 5


@contextmanager
def closed(folder):
    """A TCP port at which nobody listens, and nobody else can come to."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield TCP(*sock.getsockname())


@contextmanager
def silent(folder):
    """A unix socket that takes connections, and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen(2 * ROUNDS)
        yield HybridVsock(folder / "s")


@contextmanager
def silent_port(folder):
    with silent(folder) as address:
        yield VirtioSerial(address.path)


@contextmanager
def silent_terminal(folder):
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        yield VirtioSerial(os.ttyname(slave))
    finally:
        os.close(master)
        os.close(slave)


@contextmanager
def hanging_up(folder):
    """A muxer that hangs up on each of its hosts."""

    def serve():
        for _ in range(ROUNDS):
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(PATIENCE)
                sock.recv(100)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        yield HybridVsock(folder / "s")
        thread.join(PATIENCE)
    assert not thread.is_alive()


async def give_up(driver, address):
    if driver is BLOCKING:
        with pytest.raises(ConnectError):
            driver.module.connect(address, timeout=0.05)
    elif driver is TRIO:
        with trio.move_on_after(0.05) as scope:
            await fail(driver, address)
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fail(driver, address), 0.05)


async def fail(driver, address):
    with pytest.raises(ConnectError):
        async with entered(driver.module.connect(address)):
            pass


@each_driver
@pytest.mark.parametrize(
    ("place", "end"),
    [
        (full_port, give_up),
        (closed, fail),
        (silent, give_up),
        (silent_port, give_up),
        (silent_terminal, give_up),
        (hanging_up, fail),
    ],
    ids=lambda value: value.__name__,
)
def test_a_dial_that_fails_or_is_given_up_leaves_no_descriptor(driver, place, end, tmp_path):
    with place(tmp_path) as address:
        run(driver, lambda: dial_again_and_again(driver, end, address))


async def dial_again_and_again(driver, end, address):
    await end(driver, address)
    # What is made once, and kept, is there now.
    before = len(descriptors())
    for _ in range(ROUNDS - 1):
        await end(driver, address)
    await until(driver, lambda: len(descriptors()) <= before)


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
                call = client._session.request(Ping())
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


def test_a_preamble_that_is_given_up(tmp_path):
    """Closing the stream ends the preamble in an error that nobody waits for any more."""
    complaints = []

    async def give_up():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connect(HybridVsock(tmp_path / "silent"))
        await asyncio.sleep(0)
        gc.collect()

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        asyncio.run(give_up())
        gc.collect()
    assert complaints == []


def test_a_dial_that_is_over_leaves_no_timer():
    """The next place would have been tried after a quarter of a second."""

    async def main():
        loop = asyncio.get_running_loop()
        timers, call_at = [], loop.call_at
        loop.call_at = lambda *arguments, **options: timers.append(call_at(*arguments, **options)) or timers[-1]
        with simulated_guest() as guest:
            async with connect(guest.address):
                pass
        assert timers
        assert all(timer.cancelled() or timer.when() <= loop.time() for timer in timers)

    asyncio.run(main())


@asyncio_drivers
def test_a_dial_that_waits_for_its_only_place_is_given_up(driver, tmp_path):
    """After a quarter of a second there is nothing left to try, and no time to be woken at."""

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await connect(address)

    with full_port(tmp_path) as address:
        run(driver, main)


@asyncio_drivers
def test_a_dial_that_is_interrupted_at_its_end_closes_the_connection(driver, monkeypatch):
    def interrupted(_protocol):
        raise Interrupted

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE)
            with pytest.raises(Interrupted):
                await connect(TCP(*listener.getsockname()))
            with listener.accept()[0] as theirs:
                theirs.settimeout(PATIENCE)
                assert theirs.recv(1) == b""

    monkeypatch.setattr(SessionProtocol, "pump", interrupted)
    run(driver, main)


def test_a_blocking_dial_that_is_interrupted_closes_its_sockets(tmp_path):
    watched = []

    def interrupted(streams, _limit):
        watched.extend(streams)
        raise KeyboardInterrupt

    with full_port(tmp_path) as address, pytest.raises(KeyboardInterrupt):
        sync_dial(address, PATIENCE, None, interrupted)
    assert [sock.fileno() for sock, _ in watched] == [-1]
