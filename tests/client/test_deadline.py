"""Deadlines hold, and cost nothing but the call that was late."""

import itertools
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import trio

from stereos_proto import (
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Lifecycle,
    Ping,
    Pong,
    RequestTimeout,
    StereosError,
    encode,
)
from stereos_proto_io import blocking
from stereos_proto_io.driver import _sync_client

from .guests import Counting, lines, scripted
from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, attached, company, each_driver, result, run, until

#: Seconds: far beyond the deadlines here, and far below what a guest takes that has its way.
WIDE = 5


class Clock:
    """Real time, until it has been asked for so often: then it is late."""

    def __init__(self, looks):
        self.looks = looks

    def monotonic(self):
        self.looks -= 1
        return time.monotonic() + (1e6 if self.looks < 0 else 0)


@pytest.mark.parametrize("number", [1, 3])
def test_a_blocking_deadline_passes_at_every_look_at_the_clock(number, monkeypatch):
    for looks in itertools.count(1):
        clock = Clock(looks)
        ours, theirs = socket.socketpair()
        guest = Counting()
        thread = threading.Thread(target=guest.serve, args=(theirs,))
        thread.start()
        with theirs, blocking.Client.attach(ours, max_pending=2) as client:
            with monkeypatch.context() as patch:
                patch.setattr(_sync_client, "time", clock)
                try:
                    replies = client.request_many([GetHealth()] * number, timeout=PATIENCE)
                except TimeoutError:
                    pass
                else:
                    assert [health.uptime_seconds for health in replies] == list(range(1, number + 1))
            for _ in range(3):
                assert client.get_health().uptime_seconds == guest.asked
            assert client.connection.pending == ()
            client.close()
            thread.join(PATIENCE)
        if clock.looks >= 0:
            # It was never late.
            break
    assert looks >= 2


@pytest.mark.parametrize("ahead", [0, 1, 2])
@each_driver
def test_half_a_reply_that_takes_for_ever(driver, ahead):
    """A guest that stops in the middle of a line costs its caller the deadline, and the next the same line."""

    def script(sock):
        asked = lines(sock)
        for _ in range(ahead):
            next(asked)
            sock.sendall(b'{"type":"pong"}\n')
        next(asked)
        sock.sendall(b'{"type":"po')
        next(asked)
        sock.sendall(b'ng"}\n{"type":"pong"}\n')
        assert list(asked) == []

    async def main():
        async with attached(driver, ours) as client:
            for _ in range(ahead):
                assert await result(client.ping()) == Pong()
            with pytest.raises(TimeoutError):
                await driver.within(client, Ping(), 0.05)
            assert await result(client.ping()) == Pong()
            assert client.connection.pending == ()

    with scripted(script) as ours:
        driver.run(main)


# ------------------------------------------------------------------------------------- guests that never stop talking


class Talking:
    """A guest that sends `line` again and again from the first request on, and reads as long as `reads` says."""

    def __init__(self, line, *, reads=True):
        self.ours, self.theirs = socket.socketpair()
        self.line, self.reads = line * (65_536 // len(line)), reads
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with self.theirs, suppress(OSError):
            self.theirs.recv(65_536)
            if not self.reads:
                self.theirs.shutdown(socket.SHUT_RD)
            while True:
                self.theirs.sendall(self.line)

    def __enter__(self):
        self.thread.start()
        return self.ours

    def __exit__(self, *_exc):
        self.ours.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


LINES = {"news": encode(Lifecycle("ready")), "unknown": b"{}\n"}


@each_driver
@pytest.mark.parametrize("line", LINES)
def test_a_guest_that_shuts_down_its_receiving_side_and_talks_on(driver, line):
    """Writing fails then, and reading goes on, within the deadline."""

    async def main():
        async with attached(driver, ours) as client:
            for _ in range(3):
                start = time.monotonic()
                with pytest.raises((TimeoutError, ConnectionLost)):
                    await driver.within(client, Ping(), 0.2)
                assert time.monotonic() - start < WIDE

    with Talking(LINES[line], reads=False) as ours:
        run(driver, main)


@pytest.mark.parametrize("line", LINES)
def test_threads_on_one_client_of_a_guest_that_floods(line):
    """Each has its deadline, and no one of them works through the flood for the others."""
    late = []

    def ask():
        for _ in range(3):
            start = time.monotonic()
            with suppress(StereosError):
                client.ping(timeout=0.3)
            late.append(time.monotonic() - start)

    with Talking(LINES[line]) as ours, BLOCKING.Client.attach(ours) as client:
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(late) == 18
        assert max(late) < WIDE


#: A guest that acknowledges every request, on its standard input.
ACKNOWLEDGING = """
import json, socket
with socket.socket(fileno=0) as sock, sock.makefile("rb") as lines:
    for line in lines:
        ack = {"type": "ack", "payload": {"reply_to": json.loads(line)["type"], "ok": True}}
        sock.sendall(json.dumps(ack).encode() + b"\\n")
"""


@contextmanager
def acknowledging():
    """A socket to a guest in a process of its own: a thread would wait for the interpreter's lock, not for the loop."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", ACKNOWLEDGING], stdin=theirs)
    try:
        yield ours
    finally:
        ours.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO], ids=str)
@pytest.mark.parametrize("line", LINES)
def test_a_guest_that_floods_leaves_the_loop_to_others(driver, line):
    """Beside it, an honest guest of the same loop answers thirty requests in a moment."""

    async def flooded(client):
        with suppress(TimeoutError, StereosError):
            await driver.within(client, Ping(), PATIENCE)

    async def main():
        async with attached(driver, ours) as hostile, attached(driver, other) as honest, company(driver) as begin:
            begin(lambda: flooded(hostile))
            await until(driver, lambda: hostile._mailbox.heard)
            await honest.request(CustomRequest("begin"))
            start = time.monotonic()
            for number in range(30):
                assert (await honest.request(CustomRequest(f"n{number}"))).reply_to == f"n{number}"
            assert time.monotonic() - start < WIDE
            await hostile.aclose()

    with Talking(LINES[line]) as ours, acknowledging() as other:
        run(driver, main)


@each_driver
def test_closing_while_a_guest_floods(driver):
    async def main():
        client = await result(driver.Client.attach(ours))
        with pytest.raises(TimeoutError):
            await driver.within(client, Ping(), 0.1)
        start = time.monotonic()
        await result(client.aclose() if hasattr(client, "aclose") else client.close())
        assert time.monotonic() - start < WIDE

    with Talking(b"{}\n") as ours:
        run(driver, main)


def test_a_scope_of_trio_that_is_cancelled_already_sends_nothing():
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(TRIO, ours) as client:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await client.mount("work", "/work", "virtiofs")
                with trio.move_on_after(0):
                    await client.request_many([Ping(), Ping()])
            assert theirs.recv(1) == b""

    run(TRIO, main)


def test_many_requests_end_together_at_their_deadline_although_the_guest_never_stops_talking():
    """One by one they took a millisecond each: 6,000 of them took six seconds."""
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def talk():
        with suppress(OSError):
            while not stop.is_set():
                theirs.sendall(encode(Lifecycle("ready")) * 100)

    thread = threading.Thread(target=talk)
    with theirs, BLOCKING.Client(ours) as client:
        thread.start()
        polls, poll = [], client._poll
        client._poll = lambda mask, seconds: (polls.append(seconds), poll(mask, seconds))[1]
        settled = []
        client._ask_many([Ping()] * 300, 0.1, lambda index, outcome: settled.append((index, type(outcome), len(polls))))
        stop.set()
    thread.join(PATIENCE)
    assert [(index, kind) for index, kind, _ in settled] == [(index, RequestTimeout) for index in range(300)]
    assert settled[-1][2] == settled[0][2], "none of them had a turn of its own"
