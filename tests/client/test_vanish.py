"""The guest goes after every byte, the caller after every step, and nobody gets another's reply."""

import asyncio
import itertools
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

import pytest
import trio

import vectors
from ctrl_c import Interrupt, bytecode_of_3_11, interrupted
from stereos_proto import (
    NEED_DATA,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    OutcomeUnknown,
    Reply,
    ReplyReceived,
    RequestReceived,
    Role,
    StereosError,
    decode,
)
from stereos_proto import Connection as Protocol
from stereos_proto._registry import BY_CLASS
from stereos_proto_io import _blocking_link, blocking

from .harness import ASYNCIO, PATIENCE, TRIO, UVLOOP, attached, each_driver
from .test_conformance import Wrapped


def requests_of(name):
    """The requests of a transcript; None where it has lines that no client of ours would send."""
    try:
        found = [decode(line, sender=Role.HOST) for line in vectors.stream(name, "c2s").splitlines() if line.strip()]
        replies = expected(found, vectors.stream(name, "s2c"))
    except StereosError:
        return None
    return found if len(replies) == len(found) else None


def expected(requests, data):
    """The replies that `data` has for `requests`, with the end of the stream behind it."""
    connection = Protocol(Role.HOST)
    for request in requests:
        connection.send(request)
    connection.receive_data(data)
    connection.receive_eof()
    found = []
    try:
        while (event := connection.next_event()) is not NEED_DATA:
            if isinstance(event, ReplyReceived):
                found.append(event.message)
    except StereosError:
        pass
    return found


TRANSCRIPTS = [name for name in vectors.TRANSCRIPTS if requests_of(name)]


def many(client, requests):
    if isinstance(client, blocking.Client):
        return client._many(requests, time.monotonic() + PATIENCE, lambda *_: None)
    return client._many(requests, lambda *_: None)


def pair(how):
    """A connection that ends, or is reset, when its other end is closed."""
    if how == "ends":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return ours, theirs


async def outcomes(driver, requests, data, how="ends"):
    ours, theirs = pair(how)
    with theirs:
        async with attached(driver, ours) as client:
            if driver in (ASYNCIO, UVLOOP):
                asked = asyncio.ensure_future(many(client, requests))
                # The requests leave first: a reply to nothing would be an error.
                await asyncio.sleep(0)
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR) if how == "ends" else theirs.close()
            if driver in (ASYNCIO, UVLOOP):
                found = await asked
            elif driver is TRIO:
                found = await many(client, requests)
            else:
                found = many(client, requests)
            assert client.connection.pending == () or client._session.ended
            with pytest.raises(ConnectionLost):
                await client.ping() if driver.name != "blocking" else client.ping()
            return found


@each_driver
@pytest.mark.parametrize(("name", "how"), [*[(name, "ends") for name in TRANSCRIPTS], ("bringup", "resets")])
def test_the_guest_goes_after_every_byte(driver, name, how):
    requests = requests_of(name)
    data = vectors.stream(name, "s2c")

    async def main():
        for size in range(len(data) + 1):
            found = await outcomes(driver, requests, data[:size], how)
            replies = expected(requests, data[:size])
            if how == "resets":
                # What a reset leaves of the bytes before it, and whether there was time to write, is the system's.
                replies = replies[: sum(isinstance(outcome, Reply) for outcome in found)]
            assert found[: len(replies)] == replies
            assert len(found) == len(requests)
            for request, outcome in zip(requests[len(replies) :], found[len(replies) :], strict=True):
                sent = how == "ends" or "was not sent" not in str(outcome)
                effect = sent and BY_CLASS[type(request)].has_effect
                assert type(outcome) is (OutcomeUnknown if effect else ConnectionLost)

    driver.run(main)


def test_most_transcripts_are_replayed():
    assert len(TRANSCRIPTS) >= 5


# ------------------------------------------------------------------------------------------ the caller goes


class Counting:
    """A guest whose health reports tell how many of them were asked for."""

    def __init__(self):
        self.connection = Protocol(Role.GUEST)
        self.asked = 0

    def answer(self, data):
        self.connection.receive_data(data)
        written = b""
        for event in self.connection.events():
            assert isinstance(event, RequestReceived)
            self.asked += 1
            written += self.connection.send(Health("ready", uptime_seconds=self.asked))
        return written

    def serve(self, sock):
        # The host may go while there is a reply on its way.
        with suppress(ConnectionError):
            while data := sock.recv(65536):
                sock.sendall(self.answer(data))


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
                for module in (blocking, _blocking_link):
                    patch.setattr(module, "time", clock)
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


# ------------------------------------------------------------------------------------------------- Ctrl-C


@bytecode_of_3_11
def test_ctrl_c_everywhere():
    for number in itertools.count(1):
        ours, theirs = socket.socketpair()
        guest = Counting()
        thread = threading.Thread(target=guest.serve, args=(theirs,))
        thread.start()
        with theirs, blocking.Client.attach(ours) as client:
            done = interrupted(number, client.get_health)
            try:
                for _ in range(2):
                    assert client.get_health(timeout=PATIENCE).uptime_seconds == guest.asked
            except ConnectionLost:
                # It came where nobody can know what was read or written.
                assert not done
            client.close()
            thread.join(PATIENCE)
        if done:
            break
    assert number > 30


@bytecode_of_3_11
# It may come between making a coroutine and awaiting it, in anybody's code.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stream", ["socket", "stream"])
@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_everywhere_in_trio(number, stream):
    """The client goes on, and every request gets its own reply."""

    async def trial(count):
        ours, theirs = socket.socketpair()
        guest = Counting()
        thread = threading.Thread(target=guest.serve, args=(theirs,))
        thread.start()
        if stream == "stream":
            ours = Wrapped(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        async with attached(TRIO, ours, max_pending=2) as client:
            done = await interrupted_await(count, lambda: client.request_many([GetHealth()] * number))
            with trio.fail_after(PATIENCE):
                for _ in range(2):
                    assert (await client.get_health()).uptime_seconds == guest.asked
            assert client.connection.pending == ()
        thread.join(PATIENCE)
        theirs.close()
        return done

    for count in itertools.count(1):
        if trio.run(trial, count):
            break
    assert count > 5


async def interrupted_await(number, work):
    """Whether `work` was done before the interrupt came. Where it waits in a nursery, that comes out in a group."""
    done = False
    sys.settrace(Interrupt(number))
    try:
        await work()
        done = True
    except* KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return done


@bytecode_of_3_11
def test_ctrl_c_of_the_leader_lets_others_go_on():
    """Wherever it comes, the thread that follows gets its reply, or an error, long before its own deadline."""
    for number in itertools.count(1):
        ours, theirs = socket.socketpair()
        found = []
        with theirs, blocking.Client.attach(ours) as client:

            def follow():
                try:
                    found.append(client.request(CustomRequest("second"), timeout=600))  # noqa: B023
                except StereosError as exc:
                    found.append(exc)  # noqa: B023

            follower = threading.Thread(target=follow)
            answering = threading.Thread(target=_answer_two, args=(theirs, follower))
            answering.start()
            done = interrupted(number, lambda: client.request(CustomRequest("first"), timeout=PATIENCE))
            if not follower.ident:
                # It was interrupted before it asked.
                client.close()
                answering.join(PATIENCE)
                continue
            follower.join(PATIENCE)
            assert not follower.is_alive()
            client.close()
            answering.join(PATIENCE)
        assert isinstance(found[0], Exception) or found[0].reply_to == "second"
        if done:
            break


def _answer_two(sock, follower):
    # Closed here: a socket stays open while a file made from it does.
    with sock.makefile("rb") as reader:
        if not reader.readline():
            return
        follower.start()
        if not reader.readline():
            return
        for name in (b"first", b"second"):
            with suppress(OSError):
                sock.sendall(b'{"type":"ack","payload":{"reply_to":"%b","ok":true}}\n' % name)
