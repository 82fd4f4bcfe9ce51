"""Names: looked up without holding the caller past its deadline, and each of their addresses is tried (RFC 8305)."""

import asyncio
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from queue import SimpleQueue

import pytest
import trio

from stereos_proto import ConnectError, NotReady, Pong
from stereos_proto_io import TCP, UnixSocket
from stereos_proto_io.driver import READ, WRITE, Dialling, attempts, begin_lookup, open_stream
from stereos_proto_io.testing import simulated_guest

from .guests import full_port
from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, each_driver, entered, result

NAME = "several.example"


def sockaddr(address):
    return address.host, address.port


def stands_for(monkeypatch, *targets):
    """Let `NAME` stand for these hosts and ports."""
    real = socket.getaddrinfo

    def lookup(host, port, *more, **options):
        if host != NAME:
            return real(host, port, *more, **options)
        if options.get("flags") == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", target) for target in targets]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


async def ping(made):
    async with entered(made) as client:
        return await result(client.ping())


@each_driver
def test_a_name_whose_first_address_is_silent(driver, monkeypatch):
    """The second one is tried a moment later, and not when the first one is given up by the system."""
    with full_port() as nothing, simulated_guest() as guest:
        stands_for(monkeypatch, sockaddr(nothing), sockaddr(guest.address))
        start = time.monotonic()
        assert driver.run(lambda: ping(driver.module.connect(TCP(NAME, 1)))) == Pong()
        assert time.monotonic() - start < PATIENCE / 2


@each_driver
def test_a_name_at_none_of_whose_addresses_is_anything(driver, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("", 0))
        stands_for(monkeypatch, *[(host, unused.getsockname()[1]) for host in ("127.0.0.1", "127.0.0.2")])
        with pytest.raises(ConnectError, match="nobody listens there yet") as caught:
            driver.run(lambda: ping(driver.module.connect(TCP(NAME, 1))))
        assert caught.value.retryable


@each_driver
def test_a_name_that_has_no_address(driver, monkeypatch):
    stands_for(monkeypatch)
    with pytest.raises(ConnectError, match="has no address"):
        driver.run(lambda: ping(driver.module.connect(TCP(NAME, 1))))


def test_all_addresses_have_one_deadline():
    """Without a clock and without a network: each socket connects to a port that is silent."""
    with full_port() as nothing:
        places = [(socket.AF_INET, sockaddr(nothing))] * 5
        dialling = Dialling(TCP(NAME, 1), places, now=100.0, deadline=101.1)
        now, tried = 100.0, [len(dialling.watch())]
        while dialling.outcome is None:
            now = dialling.next_deadline()
            dialling.expire(now)
            tried.append(len(dialling.watch()))
        assert tried == [1, 2, 3, 4, 5, 0]
        assert now == 101.1
        assert "no answer in time" in str(dialling.outcome)
        assert dialling.outcome.retryable
        assert dialling.outcome.timed_out
        assert len(dialling.discarded) == 5
        for sock in dialling.discarded:
            sock.close()


def test_the_next_place_is_tried_at_once_when_one_fails(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, full_port() as nothing:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        places = [
            (socket.AF_UNIX, str(tmp_path / "none")),
            (socket.AF_INET, sockaddr(nothing)),
            (socket.AF_UNIX, str(tmp_path / "s")),
        ]
        dialling = Dialling(UnixSocket(tmp_path / "s"), places, now=0.0)
        [(waiting, mask)] = dialling.watch()
        assert (waiting.family, mask) == (socket.AF_INET, WRITE)
        dialling.expire(0.25)
        assert dialling.outcome is not None
        assert dialling.outcome.family == socket.AF_UNIX
        assert dialling.discarded == [waiting]
        assert dialling.watch() == []
        assert dialling.next_deadline() is None
        # What comes too late does nothing; a cancel takes back what has just succeeded.
        dialling.ready(waiting, 1.0)
        dialling.expire(1.0)
        won = dialling.outcome
        dialling.cancel()
        assert dialling.discarded == [waiting, won]
        for sock in dialling.discarded:
            sock.close()


def test_families_take_turns():
    found = [(10, "a"), (10, "b"), (2, "c"), (10, "d"), (2, "e")]
    assert attempts(TCP(NAME, 1), found) == [(10, "a"), (2, "c"), (10, "b"), (2, "e"), (10, "d")]


def test_masks_are_those_of_selectors():
    import selectors

    assert (READ, WRITE) == (selectors.EVENT_READ, selectors.EVENT_WRITE)


# ---------------------------------------------------------------------------------------------- the resolver


@pytest.fixture
def slow(monkeypatch):
    """A resolver that takes as long as the test."""
    go, left = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def lookup(host, port, *more, **options):
        if host != NAME or options.get("flags") == socket.AI_NUMERICHOST:
            return real(host, port, *more, **options)
        go.wait(PATIENCE)
        left.set()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield go
    go.set()
    left.wait(PATIENCE)


@each_driver
def test_a_resolver_that_is_slow_takes_no_longer_than_its_caller_waits(driver, slow):
    async def main():
        start = time.monotonic()
        if driver is BLOCKING:
            with pytest.raises(ConnectError, match="was not looked up in time; see") as caught:
                driver.module.connect(TCP(NAME, 1), timeout=0.1)
            assert caught.value.timed_out
            assert str(pickle.loads(pickle.dumps(caught.value)).__cause__) == str(caught.value.__cause__)
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await driver.module.connect(TCP(NAME, 1))
        assert time.monotonic() - start < PATIENCE / 2

    async def on_trio():
        with trio.move_on_after(0.1) as scope:
            await ping(driver.module.connect(TCP(NAME, 1)))
        assert scope.cancelled_caught

    start = time.monotonic()
    driver.run(on_trio if driver is TRIO else main)
    # Nor does the end of the event loop wait for it.
    assert time.monotonic() - start < PATIENCE / 2


@each_driver
def test_a_wait_for_a_guest_whose_name_takes_long(driver, slow):
    with pytest.raises(NotReady):
        driver.run(lambda: ping(driver.module.connect_when_ready(TCP(NAME, 1), timeout=0.2)))


@pytest.mark.parametrize("dial", ["connect", "connect_when_ready"])
def test_a_signal_that_ends_a_wait_for_the_resolver(dial, slow, monkeypatch):
    """Its handler raises a TimeoutError, as programs with an alarm do. It is no error of the dial."""
    waiting = socket.getaddrinfo

    def lookup(host, port, *more, **options):
        if threading.current_thread() is not threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        return waiting(host, port, *more, **options)

    def handler(*_arguments):
        raise TimeoutError("the program's own deadline")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(TimeoutError, match="the program's own deadline") as caught:
            getattr(BLOCKING.module, dial)(TCP(NAME, 1), timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert type(caught.value) is TimeoutError


@pytest.mark.parametrize("where", ["lookup", "next_moment"])
def test_an_awaited_dial_lets_pass_what_ends_a_wait(where):
    """A runtime may cancel by an OSError."""

    async def cancelled(*_arguments):
        raise TimeoutError("cancelled")

    async def found(*_arguments):
        return [(socket.AF_INET, sockaddr(nothing))]

    async def main():
        waits = {"lookup": found, "next_moment": cancelled, where: cancelled}
        await open_stream(TCP(NAME, 1), now=time.monotonic, **waits)

    with full_port() as nothing, pytest.raises(TimeoutError, match="cancelled") as caught:
        asyncio.run(main())
    assert type(caught.value) is TimeoutError


def test_look_ups_that_were_given_up_take_no_threads_of_the_program(slow):
    """trio bounds the threads of `to_thread.run_sync` together; the resolver keeps these for as long as it likes."""

    async def main():
        trio.to_thread.current_default_thread_limiter().total_tokens = 1
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await ping(TRIO.module.connect(TCP(NAME, 1)))
            assert scope.cancelled_caught
        with trio.fail_after(PATIENCE / 2):
            assert await trio.to_thread.run_sync(lambda: "mine") == "mine"

    trio.run(main)


@each_driver
def test_a_name_that_cannot_be_looked_up_for_now(driver, slow):
    slow.set()
    with pytest.raises(ConnectError, match="could not be looked up for now") as caught:
        driver.run(lambda: ping(driver.module.connect(TCP(NAME, 1))))
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, socket.gaierror)


@each_driver
def test_a_name_with_a_label_that_is_too_long(driver):
    with pytest.raises(ConnectError, match="not known"):
        driver.run(lambda: ping(driver.module.connect(TCP("a" * 64 + ".example", 1))))


LEFT = """
    import asyncio, socket, threading
    from stereos_proto_io import TCP
    from stereos_proto_io.asyncio import connect

    real = socket.getaddrinfo
    def lookup(host, port, *more, **options):
        if host != "slow.example" or options.get("flags") == socket.AI_NUMERICHOST:
            return real(host, port, *more, **options)
        threading.Event().wait()

    async def main():
        try:
            async with asyncio.timeout(0.1):
                await connect(TCP("slow.example", 1))
        except TimeoutError:
            print("late")

    socket.getaddrinfo = lookup
    asyncio.run(main())
"""


def test_a_resolver_that_never_returns_does_not_keep_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LEFT)], check=True, timeout=60, capture_output=True, text=True
    )
    assert run.stdout == "late\n"


def looking_up():
    return [thread for thread in threading.enumerate() if thread.name.startswith("look up")]


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
@pytest.mark.parametrize("answer", ["addresses", "error"])
def test_an_answer_of_the_resolver_that_comes_when_the_loop_is_closed(driver, answer, slow, monkeypatch):
    """It is dropped, without a complaint."""
    complaints = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await driver.module.connect(TCP(NAME, 1))
        if answer == "error":
            # Within the loop, but after the caller has gone.
            slow.set()
            for thread in looking_up():
                await asyncio.to_thread(thread.join, PATIENCE)
            # What the thread has told the loop is handled in a turn of the loop.
            await asyncio.sleep(0)

    driver.run(main)
    slow.set()
    for thread in looking_up():
        thread.join(PATIENCE)
    assert complaints == []


def test_a_look_up_keeps_no_program_from_ending():
    found = SimpleQueue()
    begin_lookup("127.0.0.1", 5, lambda places: found.put((places, threading.current_thread())))
    places, thread = found.get(timeout=PATIENCE)
    assert places == [(socket.AF_INET, ("127.0.0.1", 5))]
    assert thread.daemon
