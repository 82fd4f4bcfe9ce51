"""Closing: twice, from several callers at once, and while others wait."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import tty

import pytest

from stereos_proto import ConnectionLost, CustomRequest, Lifecycle, OutcomeUnknown, Pong, StereosError, encode
from stereos_proto_io import UnixSocket, blocking
from stereos_proto_io.driver import Device
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest import asyncio as asyncio_guest

from .guests import PING, PONG, Hooked, echo, scripted
from .harness import (
    BLOCKING,
    PATIENCE,
    async_drivers,
    asyncio_drivers,
    attached,
    company,
    each_driver,
    result,
    run,
    together,
    until,
)


@each_driver
def test_closing_twice(driver):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(driver, ours) as client:
                for _ in range(2):
                    await result(client.close() if driver is BLOCKING else client.aclose())
            assert theirs.recv(1) == b""
            assert ours.fileno() == -1
            with pytest.raises(ConnectionLost, match="not sent"):
                await result(client.ping())

    driver.run(main)


@async_drivers
def test_tasks_close_at_once_while_one_asks(driver):
    async def main():
        ours, theirs = socket.socketpair()

        async def ask():
            with pytest.raises(ConnectionLost):
                await client.ping()
            lost.append(True)

        with theirs:
            lost = []
            async with attached(driver, ours) as client:
                await together(driver, ask, *[client.aclose] * 8)
            assert theirs.recv(100) in (b"", PING)
            assert lost == [True]

    driver.run(main)


def test_threads_close_at_once():
    ours, theirs = socket.socketpair()
    barrier = threading.Barrier(8)
    failed = []

    def close():
        barrier.wait(PATIENCE)
        try:
            client.close()
        except Exception as exc:
            failed.append(exc)
            raise

    with theirs, BLOCKING.Client.attach(ours) as client:
        threads = [threading.Thread(target=close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert failed == []
        assert theirs.recv(1) == b""


@asyncio_drivers
@pytest.mark.parametrize("turns", range(6))
def test_a_guest_and_its_host_close_at_once(driver, turns, tmp_path):
    """The guest in whatever it is at: in taking the host in, too, where uvloop closes and does not tell."""

    async def main():
        async with (
            asyncio.timeout(PATIENCE),
            asyncio_guest.serve(UnixSocket(tmp_path / "g"), GuestSimulator()) as guest,
        ):
            client = await driver.module.connect(guest.address)
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.gather(client.aclose(), guest.aclose())
            assert guest.connections == ()
            with pytest.raises(ConnectionLost):
                await client.ping()

    driver.run(main)


def test_closing_wakes_every_thread_at_once():
    ours, theirs = socket.socketpair()
    with theirs:
        client = blocking.Client.attach(ours, timeout=600)
        found = []

        def ask():
            try:
                client.ping()
            except ConnectionLost as exc:
                found.append(type(exc).__name__)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        size = 0
        while size < 8 * len(b'{"type":"ping"}\n'):
            size += len(theirs.recv(65536))
        client.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert found == ["ConnectionLost"] * 8
        assert ours.fileno() == -1


@pytest.mark.parametrize("waiting", ["a request", "notifications"])
def test_a_thread_that_reads_a_terminal_is_woken(waiting):
    """Closing a descriptor wakes nobody who waits for it, and it must not be closed before they have left."""
    found = []

    def wait():
        try:
            if waiting == "a request":
                client.ping()
            else:
                found.extend(client.notifications(timeout=PATIENCE))
                found.append("the end")
        except StereosError as exc:
            found.append(exc)

    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        device = Device(os.ttyname(slave))
        with BLOCKING.Client.attach(device, timeout=PATIENCE) as client:
            thread = threading.Thread(target=wait)
            thread.start()
            run(BLOCKING, lambda: until(BLOCKING, lambda: client._turns._leader))
            client.close()
            thread.join(PATIENCE)
            assert device.fileno() == -1
    finally:
        os.close(master)
        os.close(slave)
    if waiting == "notifications":
        assert found == ["the end"]
    else:
        assert [type(exc) for exc in found] == [ConnectionLost]


# ------------------------------------------------------------------------- from a signal handler, from a finalizer


@pytest.mark.parametrize("name", ["send", "recv"])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "with others"])
def test_closing_from_a_signal_handler_while_the_lock_is_held(name, others):
    """Waiting for the lock would be waiting for the very code that was interrupted."""
    ours, theirs = socket.socketpair()
    armed, found = [], []

    def handle():
        if armed:
            armed.clear()
            client.close()

    def ask(_number):
        try:
            client.ping()
        except ConnectionLost as exc:
            found.append(exc)

    with theirs, BLOCKING.Client.attach(Hooked(ours, name, handle), timeout=PATIENCE) as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3 * others)]
        for thread in threads:
            thread.start()
        run(BLOCKING, lambda: until(BLOCKING, lambda: len(client.connection.pending) == len(threads)))
        armed.append(True)
        if name == "recv":
            theirs.sendall(encode(Lifecycle("ready")))
        ask(0)
        for thread in threads:
            thread.join(PATIENCE)
        assert len(found) == len(threads) + 1
        assert ours.fileno() == -1


def ask_for_ever(client):
    while True:
        client.request(CustomRequest("x"))


@pytest.mark.parametrize("end", ["close", "close twice"])
def test_closing_from_a_real_signal_handler_at_any_time(end):
    """Wherever the main thread is: it gets an error of ours, and goes on."""
    came = []

    def handle(*_):
        came.append(True)
        for _ in range(2 if end == "close twice" else 1):
            client.close()

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        for number in range(60):
            came.clear()
            with scripted(echo) as ours, BLOCKING.Client.attach(ours, timeout=PATIENCE) as client:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 * (number % 20 + 1))
                with pytest.raises(ConnectionLost):
                    ask_for_ever(client)
                assert came
                assert ours.fileno() == -1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


INTERRUPTED_WAIT = """
    import socket, sys, threading
    from stereos_proto import ConnectionLost, RequestTimeout
    from stereos_proto_io.blocking import Client

    def closed_at(place):
        left = place

        def trace(frame, event, _argument):
            nonlocal left
            if event == "line" and any(code == "wait" for code in names(frame)):
                left -= 1
                if not left:
                    sys.settrace(None)
                    client.close()
            return trace

        ours, theirs = socket.socketpair()
        client = Client.attach(ours, timeout=0.5)
        leader = threading.Thread(target=lambda: list(client.notifications()))
        leader.start()
        while client._turns._leader is None:
            pass
        sys.settrace(trace)
        try:
            client.ping()
        except (ConnectionLost, RequestTimeout):
            sys.settrace(None)
        client.close()
        leader.join()
        theirs.close()
        return left <= 0

    def names(frame):
        while frame is not None:
            yield frame.f_code.co_name
            frame = frame.f_back

    place = 1
    while closed_at(place):
        place += 1
    print(place - 1)
"""


def test_closing_from_a_signal_handler_wherever_a_follower_waits():
    """`threading.Event` has a lock of its own, which the thread that was interrupted may hold: `close` hung."""
    words = (sys.executable, "-c", textwrap.dedent(INTERRUPTED_WAIT))
    assert int(subprocess.run(words, check=True, timeout=60, stdout=subprocess.PIPE).stdout) > 0


def test_closing_from_a_finalizer():
    """The collector may run anywhere, in this thread or another, and finds a client that is in use."""
    ours, theirs = socket.socketpair()

    class Owner:
        def __del__(self):
            client.close()

    def drop():
        owners.clear()

    owners = []
    with theirs, BLOCKING.Client.attach(Hooked(ours, "send", drop), timeout=PATIENCE) as client:
        owners.append(Owner())
        with pytest.raises(ConnectionLost):
            client.ping()
        assert ours.fileno() == -1


def test_asking_from_a_signal_handler_while_the_lock_is_held():
    """It is refused: half of a line may be written. What was interrupted goes on."""
    caught = []

    def handle():
        with pytest.raises(RuntimeError, match="may only close it") as error:
            client.ping()
        caught.append(error)

    def guest(sock):
        assert sock.recv(100) == PING
        sock.sendall(PONG)
        assert sock.recv(100) == b""

    with scripted(guest) as ours, BLOCKING.Client.attach(Hooked(ours, "send", handle)) as client:
        assert client.ping() == Pong()
        assert client.connection.pending == ()
    assert len(caught) == 1


@each_driver
def test_a_shutdown_that_was_sent_before_this_end_closed_has_an_unknown_outcome(driver):
    """That the connection ends means "most likely accepted" only where the guest has ended it."""

    async def main():
        async with attached(driver, ours) as client, company(driver) as begin:
            found = begin(lambda: client.shutdown("now"))
            await until(driver, lambda: client.connection.pending)
            await result(client.close() if driver is BLOCKING else client.aclose())
            await until(driver, lambda: found)
            assert (type(found[0]), found[0].closed_here) == (OutcomeUnknown, True)

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)
