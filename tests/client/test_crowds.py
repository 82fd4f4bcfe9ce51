"""Callers that ask, give up and ask again, all at once, over a stream that is full most of the time."""

import random
import select
import socket
import threading
from contextlib import contextmanager

import pytest

from stereos_proto import ConnectionLost, CustomRequest, Lifecycle, RequestTimeout, encode

from .harness import BLOCKING, PATIENCE, attached, company, each_driver, run

CALLERS, EACH = 6, 25

#: Seconds until a caller gives up: most often before there is a reply.
DEADLINES = [0, 0.0005, 0.003, 0.02, PATIENCE, PATIENCE]


class Guest:
    """It takes a little, says a little, and now and then says something unasked; each ack names its request."""

    def __init__(self, sock, rnd):
        self.sock, self.rnd = sock, rnd
        self.rest, self.unwritten = b"", bytearray()

    def serve(self):
        while True:
            # It reads on only while the host reads, too.
            reads = [self.sock] if len(self.unwritten) < 200_000 else []
            readable, writable, _ = select.select(reads, [self.sock] if self.unwritten else [], [], PATIENCE)
            try:
                if readable and not self.read():
                    return
                if writable:
                    del self.unwritten[: self.sock.send(self.unwritten[: self.rnd.choice([500, 5000, 70_000])])]
            except ConnectionError:
                return

    def read(self):
        data = self.sock.recv(self.rnd.choice([1000, 4096, 65_536]))
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            name = line.split(b'"', 4)[3]
            if self.rnd.random() < 0.05:
                self.unwritten += encode(Lifecycle("busy", "y" * self.rnd.choice([1, 3000])))
            error = b"z" * self.rnd.choice([0, 0, 0, 20_000])
            self.unwritten += b'{"type":"ack","payload":{"reply_to":"%b","ok":false,"error":"%b"}}\n' % (name, error)
        return data


@contextmanager
def crowded(rnd):
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, rnd.choice([4608, 20_000, 200_000]))
    theirs.setblocking(False)
    serving = threading.Thread(target=Guest(theirs, random.Random(rnd.random())).serve)
    serving.start()
    yield ours
    serving.join(PATIENCE)
    theirs.close()
    assert not serving.is_alive()


@each_driver
@pytest.mark.parametrize("seed", range(4))
def test_each_gets_its_own(driver, seed):
    """Until a line is torn where somebody gave up; then each is told."""
    rnd = random.Random(seed)
    got = []

    async def within(client, requests, seconds):
        if driver is BLOCKING:
            return client.request_many(requests, timeout=seconds)
        return await driver.Client._bounded(seconds, client.request_many, requests)

    async def call(client, caller, rnd):
        for number in range(EACH):
            names = [f"{caller}-{number}-{step}" for step in range(rnd.choice([1, 1, 1, 2, 6]))]
            seconds = rnd.choice(DEADLINES)
            # A long line that is given up is most often torn, and that would be the end of the test.
            sizes = [0, 0, 9000, 60_000] if seconds == PATIENCE else [0, 100]
            requests = [CustomRequest(name, {"x": "x" * rnd.choice(sizes)}) for name in names]
            try:
                replies = await within(client, requests, seconds)
            except RequestTimeout:
                continue
            except ConnectionLost:
                return
            assert [reply.reply_to for reply in replies] == names
            got.extend(names)

    async def main():
        bound = rnd.choice([1, 2, 3, 64])
        async with attached(driver, ours, max_pending=bound) as client, company(driver) as begin:
            for caller in range(CALLERS):
                begin(lambda caller=caller: call(client, caller, random.Random(seed * 100 + caller)))

    with crowded(rnd) as ours:
        run(driver, main)
    assert len(got) > EACH
