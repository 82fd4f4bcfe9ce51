"""Peers that are slow: what piles up on our side stays small."""

import gc
import select
import socket
import threading
import tracemalloc
from contextlib import contextmanager

import pytest

from stereos_proto import MAX_LINE_SIZE, Lifecycle, Ping, Pong, SetConfig, encode
from stereos_proto_io.driver import EVENTS_PER_TURN

from .guests import DONE, LONG, PING, PONG, Hooked, lines, scripted
from .harness import BLOCKING, PATIENCE, TRIO, attached, company, each_driver, result, run, some_turns, until

#: Bytes: half of the twenty megabytes that are moved. Most runs need two; the rest is for asyncio's debug mode,
#: which formats a traceback for whatever a busy machine makes slow.
HALF = 10_000_000


@contextmanager
def peak():
    """A list that gets the most bytes of memory that were in use at once."""
    found = []
    gc.collect()
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@each_driver
def test_a_guest_that_reads_slowly(driver):
    """Twenty mebibytes are asked for at once; the guest takes four kibibytes at a time."""
    requests = [SetConfig("x" * 10_000)] * 2000
    expected = encode(requests[0])

    def script(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        rest, answered = b"", 0
        while answered < len(requests):
            *whole, rest = (rest + sock.recv(4096)).split(b"\n")
            for line in whole:
                assert line + b"\n" == expected
                sock.sendall(DONE)
                answered += 1

    async def main():
        async with attached(driver, ours, **({"timeout": 120} if driver is BLOCKING else {})) as client:
            replies = await result(client.request_many(requests))
            assert len(replies) == len(requests)
            assert all(reply.ok for reply in replies)

    with scripted(script) as ours, peak() as most:
        driver.run(main)
    assert most[0] < HALF


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_what_was_received_is_worked_through_before_more_is_read(driver):
    """It takes several turns. If each read more, a guest that sends without pause would fill the memory."""

    async def main():
        async with attached(driver, Hooked(ours, "recv", lambda: reads.append(1))) as client:
            assert await result(client.ping()) == Pong()
        assert len(reads) == 1

    reads = []
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(encode(Lifecycle("ready")) * 5 * EVENTS_PER_TURN + PONG)
        run(driver, main)


@each_driver
def test_a_host_that_reads_slowly(driver):
    """A guest floods a client that nobody calls; what was kept is there, and so is the next reply."""
    news = encode(Lifecycle("flood", "x" * 10_000))

    def script():
        with theirs:
            for _ in range(2000):
                theirs.sendall(news)
            for _ in lines(theirs):
                theirs.sendall(b'{"type":"pong"}\n')

    async def main():
        async with attached(driver, ours) as client:
            assert await result(client.ping()) == Pong()
            kept = MAX_LINE_SIZE // len(news)
            assert client.dropped_notifications == 2000 - kept
            heard = client.notifications()
            for _ in range(kept):
                assert (next(heard) if driver is BLOCKING else await anext(heard)).state == "flood"
            assert client.dropped_notifications == 2000 - kept

    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    flood = threading.Thread(target=script)
    with peak() as most:
        flood.start()
        driver.run(main)
    flood.join(PATIENCE)
    assert not flood.is_alive()
    assert most[0] < HALF


@pytest.mark.parametrize("given_up", [False, True], ids=["answered", "given up"])
@each_driver
def test_whoever_waits_to_write_reads_once_nobody_else_does(driver, given_up):
    """The one that reads leaves, and the guest writes two megabytes before it reads on: each waited for the other."""
    news = encode(Lifecycle("flood", "x" * 10_000)) * 200

    def script(sock):
        assert sock.recv(len(PING)) == PING
        # Some of the long line is there: the rest waits for room.
        assert select.select([sock], [], [], PATIENCE)[0]
        if given_up:
            assert left.wait(PATIENCE)
            sock.sendall(news)
        else:
            sock.sendall(PONG + news)
        took = sock.makefile("rb").readline()
        assert len(took) == len(encode(LONG))
        sock.sendall((PONG if given_up else b"") + DONE)
        sock.recv(1)

    left = threading.Event()

    async def ping():
        try:
            return await result(driver.within(client, Ping(), 0.5) if given_up else client.request(Ping()))
        finally:
            left.set()

    async def main():
        nonlocal client
        async with attached(driver, ours, **({"timeout": PATIENCE} if driver is BLOCKING else {})) as client:
            async with company(driver) as begin:
                pinged = begin(ping)
                await until(driver, lambda: client.connection.pending)
                stored = begin(lambda: client.request(LONG))
            assert isinstance(pinged[0], TimeoutError) if given_up else pinged == [Pong()]
            assert [reply.ok for reply in stored] == [True]

    client = None
    with scripted(script) as ours:
        run(driver, main)


@each_driver
def test_a_line_is_finished_while_another_caller_reads(driver):
    """The guest takes a long line before it answers the caller that sleeps until there is something to read."""

    def script(sock):
        assert sock.recv(len(PING)) == PING
        assert len(sock.makefile("rb").readline()) == len(encode(LONG))
        sock.sendall(PONG + DONE)
        sock.recv(1)

    async def main():
        async with attached(driver, ours) as client, company(driver) as begin:
            pinged = begin(lambda: client.request(Ping()))
            await until(driver, lambda: client.connection.pending)
            await some_turns(driver)
            stored = begin(lambda: client.request(LONG))
            await until(driver, lambda: pinged and stored)
            assert (pinged, [reply.ok for reply in stored]) == ([Pong()], [True])

    with scripted(script) as ours:
        run(driver, main)
