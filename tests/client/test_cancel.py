"""A caller gives up: at every step, and in the middle of a line."""

import asyncio
import itertools
import select
import socket
import threading

import pytest
import trio
import trio.testing

from stereos_proto import ConnectionLost, GetHealth, OutcomeUnknown, Ping, Pong, SetConfig, encode

from .guests import DONE, LONG, MOUNT, PING, PONG, Counting, fill, lines, rest, small_buffers, wrapped
from .harness import (
    ASYNCIO,
    BLOCKING,
    DRIVERS,
    PATIENCE,
    TRIO,
    UVLOOP,
    asyncio_drivers,
    attached,
    company,
    each_driver,
    result,
    run,
    until,
)


async def _asyncio_guest(guest, sock):
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 65536):
        await loop.sock_sendall(sock, guest.answer(data))


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
@pytest.mark.parametrize("number", [1, 3])
def test_an_asyncio_caller_goes_after_every_step(driver, number):
    async def trial(steps):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        guest = Counting()
        serving = asyncio.ensure_future(_asyncio_guest(guest, theirs))
        async with attached(driver, ours, max_pending=2) as client:
            asked = asyncio.ensure_future(client.request_many([GetHealth()] * number))
            for _ in range(steps):
                await asyncio.sleep(0)
            finished = asked.done()
            asked.cancel()
            await asyncio.wait([asked])
            for _ in range(3):
                assert (await client.get_health()).uptime_seconds == guest.asked
            if finished:
                assert [health.uptime_seconds for health in asked.result()] == list(range(1, number + 1))
            assert client.connection.pending == ()
        await serving
        theirs.close()
        return finished

    async def main():
        steps = itertools.count()
        while not await trial(next(steps)):
            assert next(steps) < 500

    driver.run(main)


@pytest.mark.parametrize("number", [1, 3])
def test_a_trio_caller_goes_after_every_step(number):
    async def trial(steps):
        ours, theirs = socket.socketpair()
        guest = Counting()
        finished = False

        async def serve():
            with trio.socket.from_stdlib_socket(theirs) as sock:
                while data := await sock.recv(65536):
                    await sock.send(guest.answer(data))

        async def ask(scope):
            nonlocal finished
            with scope:
                replies = await client.request_many([GetHealth()] * number)
                assert [health.uptime_seconds for health in replies] == list(range(1, number + 1))
                finished = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with attached(TRIO, ours, max_pending=2) as client:
                async with trio.open_nursery() as asking:
                    scope = trio.CancelScope()
                    asking.start_soon(ask, scope)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                for _ in range(3):
                    assert (await client.get_health()).uptime_seconds == guest.asked
                assert client.connection.pending == ()
        return finished

    async def main():
        steps = itertools.count()
        while not await trial(next(steps)):
            assert next(steps) < 500

    trio.run(main)


#: asyncio's transports take whole lines: giving up tears none.


@each_driver
def test_a_line_that_cannot_be_finished_wakes_all_callers(driver):
    """The one that reads for all and waits for an earlier reply, and the one that waits behind it."""

    async def main():
        async with attached(driver, ours) as client, company(driver) as begin:
            leader = begin(client.ping)
            await until(driver, lambda: client.connection.pending)
            torn = begin(lambda: client.request(LONG))
            await until(driver, lambda: len(client.connection.pending) == 2 or torn)
            behind = begin(lambda: client.request(MOUNT))
            await until(driver, lambda: len(client._session.pending) == 3)
            ours.shutdown(socket.SHUT_WR)
            written = rest(theirs)
            await until(driver, lambda: behind)
            if driver in (BLOCKING, TRIO):
                # What was written can still be answered. (Transports of asyncio close by themselves.)
                theirs.sendall(PONG)
                theirs.close()
        assert leader == [Pong()] or "while ping was unanswered" in str(leader[0])
        assert (type(behind[0]), type(torn[0])) == (ConnectionLost, OutcomeUnknown)
        assert "mount was not sent" in str(behind[0])
        assert isinstance(behind[0].__cause__, BrokenPipeError)
        assert len(PING) < len(written)
        assert (PING + encode(LONG)).startswith(written)

    ours, theirs = small_buffers()
    with theirs:
        run(driver, main)


def answering(sock, got):
    """Answer pings and configs, and keep the lines, less empty ones."""
    with sock:
        for line in lines(sock):
            if line != b"\n":
                got.append(line)
                sock.sendall(PONG if line == PING else DONE)


@pytest.mark.parametrize("when", ["meanwhile", "later"])
@pytest.mark.parametrize(
    # Only trio has streams that cannot be written to without waiting.
    ("driver", "stream"),
    [*[(driver, "socket") for driver in DRIVERS], (TRIO, "stream")],
    ids=str,
)
def test_a_line_that_was_given_up_in_the_middle_is_finished_by_the_next(driver, when, stream):
    """One long call that is given up costs the others nothing; its reply is swallowed."""
    got = []

    async def main():
        async with (
            attached(driver, wrapped(ours) if stream == "stream" else ours) as client,
            company(driver) as begin,
        ):
            torn = begin(lambda: driver.within(client, LONG, 0.2))
            await until(driver, lambda: client.connection.pending)
            if when == "meanwhile":
                behind = begin(client.ping)
                await until(driver, lambda: len(client._session.pending) == 2)
            await until(driver, lambda: torn)
            reading.start()
            if when == "later":
                behind = begin(client.ping)
            await until(driver, lambda: behind)
            assert behind == [Pong()]
            assert isinstance(torn[0], TimeoutError)
            assert client.connection.pending == ()

    ours, theirs = small_buffers()
    reading = threading.Thread(target=answering, args=(theirs, got))
    run(driver, main)
    reading.join(PATIENCE)
    assert got == [encode(LONG), PING]


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
@pytest.mark.parametrize("when", ["meanwhile", "later"])
def test_a_line_whose_writer_gave_up_is_written_by_the_next(driver, when):
    """None of it was written, but it was handed out: it keeps its place."""
    got = []

    async def main():
        async with attached(driver, ours, max_pending=1) as client:
            async with company(driver) as begin:
                first = begin(lambda: driver.within(client, SetConfig("in line"), 0.2))
                await until(driver, lambda: client.connection.pending)
                second = begin(lambda: driver.within(client, SetConfig("withdrawn"), 0.2))
                if when == "meanwhile":
                    await until(driver, lambda: len(client._session.pending) == 2 or second)
                    third = begin(client.ping)
                await until(driver, lambda: first and second)
                reading.start()
                if when == "later":
                    third = begin(client.ping)
            assert third == [Pong()]
            assert client.connection.pending == ()
        assert [isinstance(found[0], TimeoutError) for found in (first, second)] == [True, True]

    ours, theirs = small_buffers()
    reading = threading.Thread(target=answering, args=(theirs, got))
    fill(ours)
    run(driver, main)
    reading.join(PATIENCE)
    assert got == [encode(SetConfig("in line")), PING]


@asyncio_drivers
def test_asyncio_finishes_the_lines_that_its_wire_has_and_withdraws_the_others(driver):
    """A transport takes whole lines: giving up costs nobody the connection, and the replies are swallowed."""
    given_up = [LONG, SetConfig("next in line"), SetConfig("withdrawn")]
    got = []

    def guest():
        with theirs:
            for line in lines(theirs):
                got.append(line)
                theirs.sendall(PONG if line == PING else DONE)

    async def main():
        async with attached(driver, ours) as client:
            tasks = [asyncio.ensure_future(client.request(request)) for request in given_up]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            reading.start()
            assert await client.request(Ping()) == Pong()
            assert client.connection.pending == ()

    ours, theirs = small_buffers()
    reading = threading.Thread(target=guest)
    driver.run(main)
    reading.join(PATIENCE)
    assert got == [encode(LONG), PING]


@each_driver
def test_giving_up_the_last_call_after_a_failed_write_ends_the_connection_for_all(driver):
    """Writing has failed, and the session waits for the reply to what was written. Without it, it is over."""
    ours, theirs = socket.socketpair()

    async def listen(client):
        news = client.notifications()
        return next(news) if driver is BLOCKING else await anext(news)

    async def main():
        async with attached(driver, ours) as client, company(driver) as begin:
            heard = begin(lambda: listen(client))
            asked = begin(lambda: driver.within(client, Ping(), 0.2))
            await until(driver, lambda: select.select([theirs], [], [], 0)[0])
            theirs.shutdown(socket.SHUT_RD)
            with pytest.raises(ConnectionLost):
                await result(client.get_health())
            await until(driver, lambda: heard and asked)
            # A transport of asyncio ends altogether when writing fails.
            assert isinstance(asked[0], TimeoutError if driver in (BLOCKING, TRIO) else ConnectionLost)
            assert type(heard[0]) is ConnectionLost
            assert "broke" in str(heard[0])
            await until(driver, lambda: ours.fileno() == -1)

    with theirs:
        run(driver, main)
