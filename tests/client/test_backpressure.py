"""Peers that are slow: what piles up on our side stays small."""

import gc
import socket
import threading
import tracemalloc
from contextlib import contextmanager

from stereos_proto import MAX_LINE_SIZE, Lifecycle, Pong, SetConfig, encode

from .guests import lines, scripted
from .harness import BLOCKING, PATIENCE, attached, each_driver, result

#: Bytes: half of the twenty megabytes that are moved. Most runs need two; the rest is for asyncio's debug mode,
#: which formats a traceback for whatever a busy machine makes slow.
HALF = 10_000_000

DONE = b'{"type":"ack","payload":{"reply_to":"set_config","ok":true}}\n'


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
