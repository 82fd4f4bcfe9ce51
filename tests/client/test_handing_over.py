"""A caller that was to write for others leaves: another one writes."""

import socket

import pytest
import trio
import trio.testing

from stereos_proto import Ack, CustomRequest, Pong, SetConfig, encode

from .guests import DONE, PING, PONG, fill, small_buffers, wrapped
from .harness import TRIO, attached, company, run, until

#: What asks for the next one's turn: a request that waits for room in flight.
NEXT = SetConfig("next")


async def next_line(sock):
    """Read the next line from `sock`, less empty lines before it."""
    found = b""
    while not found.endswith(b"\n"):
        found += await sock.recv(1 << 20)
        found = found.lstrip(b"\n")
    return found


async def got(sock, line):
    assert await next_line(sock) == line


@pytest.mark.parametrize("room", ["is there", "is there, and the wire is full"])
@pytest.mark.parametrize("turn", range(10))  # trio takes tasks in an order of its own
def test_who_waits_behind_one_that_gives_up_is_sent(room, turn):
    """There is room in flight, which one of two who wait is told of, and gives up before it has written."""

    async def main():
        scope = trio.CancelScope()
        peer = trio.socket.from_stdlib_socket(theirs)

        async def ask_and_give_up():
            with scope:
                await client.request(NEXT)

        async def hear():
            async for _ in client.notifications():
                raise AssertionError("there is no news")

        # A stream of trio's cannot be written to without waiting. A socket can, but for when it is full.
        stream = ours if "full" in room else wrapped(ours)
        async with (
            attached(TRIO, stream, max_pending=1) as client,
            company(TRIO) as begin,
            trio.open_nursery() as tasks,
        ):
            # It reads for all, and has nothing to write.
            tasks.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked()
            first = begin(client.ping)
            await until(TRIO, lambda: client.connection.pending)
            tasks.start_soon(ask_and_give_up)
            await until(TRIO, lambda: len(client._session._waiting) == 1)
            last = begin(lambda: client.request(CustomRequest("last")))
            await until(TRIO, lambda: len(client._session._waiting) == 2)
            await got(peer, PING)
            if "full" in room:
                fill(ours)
                await peer.send(PONG)
                await until(TRIO, lambda: first)
                scope.cancel()
                await until(TRIO, lambda: scope.cancelled_caught)
                # It had its place in the line already, and keeps it.
                await got(peer, encode(NEXT))
                await peer.send(DONE)
            else:
                theirs.send(PONG)  # no checkpoint here: nobody is told before the one gives up
                scope.cancel()
            found = await next_line(peer)
            if found == encode(NEXT):
                # The one that reads for all had written it before it was given up: it keeps its place.
                await peer.send(DONE)
                found = await next_line(peer)
            assert found == encode(CustomRequest("last"))
            await peer.send(b'{"type":"ack","payload":{"reply_to":"last","ok":true}}\n')
            await until(TRIO, lambda: last)
            assert [first, last] == [[Pong()], [Ack("last", True)]]
            await client.aclose()

    ours, theirs = small_buffers() if "full" in room else socket.socketpair()
    with theirs:
        run(TRIO, main)
