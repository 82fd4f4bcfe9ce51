"""Closing, waiting, sharing, resynchronising and giving up, where two things happen at once."""

import asyncio
import os
import socket
import struct
import threading
import tty
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from stereos_proto import (
    Ack,
    ConnectionLost,
    CustomRequest,
    Lifecycle,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    SetConfig,
    encode,
)
from stereos_proto.dialogues import Backoff
from stereos_proto_io import UnixSocket, VirtioSerial, _dial
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.testing import simulated_guest

from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, attached, each_driver, entered, lines, result, scripted
from .test_many import echo
from .test_vanish import many

PONG = b'{"type":"pong"}\n'
PING = encode(Ping())
DONE = b'{"type":"ack","payload":{"reply_to":"set_config","ok":true}}\n'

asyncio_drivers = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
async_drivers = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO], ids=str)


async def together(driver, *functions):
    """Await or call all `functions` at the same time."""
    if driver is TRIO:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(function() for function in functions))


# ------------------------------------------------------------------------------------------------ closing


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


# ------------------------------------------------------------------------------------------------ waiting


@each_driver
@pytest.mark.parametrize("moment", ["before the report", "with the report", "in the pause"])
def test_news_of_a_guest_that_is_waited_for(driver, moment):
    """News end the pause, also when they come with the report that the guest still boots, or before it."""
    paused = threading.Event()

    def script(sock):
        asked = lines(sock)
        next(asked)
        news = encode(Lifecycle("ready"))
        report = b'{"type":"health","payload":{"state":"booting","uptime_seconds":0}}\n'
        sock.sendall({"before the report": news + report, "with the report": report + news}.get(moment, report))
        if moment == "in the pause":
            assert paused.wait(PATIENCE)
            sock.sendall(news)
        next(asked)
        sock.sendall(b'{"type":"health","payload":{"state":"ready","uptime_seconds":1}}\n')
        assert list(asked) == []

    async def main():
        backoff = Backoff(first=3600, maximum=3600, answering=3600)
        async with attached(driver, ours) as client:
            health = await result(
                client.wait_ready(backoff=backoff, timeout=PATIENCE, on_progress=lambda _progress: paused.set())
            )
            assert (health.state, health.uptime_seconds) == ("ready", 1)

    with scripted(script) as ours:
        driver.run(main)


# ------------------------------------------------------------------------------------------------ sharing


@async_drivers
def test_fifty_tasks_on_one_client(driver):
    async def main():
        async def ask(task):
            for number in range(100):
                name = f"{task}-{number}"
                assert (await client.request(CustomRequest(name))).reply_to == name
                answered.append(name)

        answered = []
        async with attached(driver, ours) as client:
            await together(driver, *[lambda task=task: ask(task) for task in range(50)])
            assert client.connection.pending == ()
        assert len(set(answered)) == 5000

    with scripted(echo) as ours:
        driver.run(main)


@async_drivers
def test_a_loop_in_each_of_several_threads(driver, tmp_path):
    """Each with a client of its own, to the same guest."""
    answered = []

    async def main(thread):
        async with entered(driver.module.connect(guest.address)) as client:
            for number in range(25):
                names = [f"{thread}-{number}-{step}" for step in range(4)]
                replies = await client.request_many([CustomRequest(name) for name in names])
                assert [reply.reply_to for reply in replies] == names
                answered.extend(names)

    with simulated_guest(UnixSocket(tmp_path / "guest")) as guest:
        threads = [
            threading.Thread(target=driver.run, args=(lambda thread=thread: main(thread),)) for thread in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(set(answered)) == 400


# ---------------------------------------------------------------------------------------- resynchronising


@contextmanager
def port(path, script):
    """A serial port that leads to a guest that is a function of its socket."""
    failed = []

    def run():
        try:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(PATIENCE)
                script(sock)
        except (AssertionError, OSError, StopIteration) as exc:
            failed.append(exc)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=run)
        thread.start()
        yield VirtioSerial(path)
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert failed == []


def ack(name):
    return b'{"type":"ack","payload":{"reply_to":"%b","ok":false,"error":"unknown message type: %b"}}\n' % (name, name)


#: What an earlier host left in the stream, before the answer to our own nonce.
STALE = {
    "nothing": b"",
    "the answer to half a line": ack(b"")[:-1] + b"\n",
    "replies": PONG + ack(b"mount") + b'{"type":"health","payload":{"state":"stale","uptime_seconds":9}}\n',
    "half a reply": b'ype":"pong"}\n',
    "news": encode(Lifecycle("stale")),
    "an old nonce": ack(b"sync:0123456789abcdef"),
    "a nonce that starts as ours": None,
    "no message": b"\x00\xff kernel: hello\n\n\r\n",
}


@each_driver
@pytest.mark.parametrize("stale", STALE)
def test_what_an_earlier_host_left_is_skipped(driver, stale, tmp_path):
    def script(sock):
        asked = lines(sock)
        assert next(asked) == b"\n"  # it ends what half line there may be of a host that died
        sync = next(asked)[len(b'{"type":"') : -len(b'"}\n')]
        left = ack(sync[:-1]) if STALE[stale] is None else STALE[stale]
        sock.sendall(left)
        sock.sendall(ack(sync) + encode(Lifecycle("fresh")))
        names = []
        for line in asked:
            names.append(line)
            sock.sendall(PONG if line == PING else ack(line[len(b'{"type":"') : -len(b'"}\n')]))
        assert names == [PING, b'{"type":"mine"}\n']

    async def main():
        async with entered(driver.module.connect(address)) as client:
            assert await result(client.ping()) == Pong()
            [mine] = await result(client.request_many([CustomRequest("mine")]))
            assert mine.reply_to == "mine"
            news = client.notifications()
            heard = next(news) if driver is BLOCKING else await anext(news)
            assert heard.state == "fresh"
            assert client.connection.pending == ()

    with port(tmp_path / "port", script) as address:
        driver.run(main)


@each_driver
def test_a_host_that_died_in_the_middle_of_a_line(driver, tmp_path):
    """Its replies are still in the port, and the guest still has half a line of it."""

    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            replies = await result(client.request_many([CustomRequest("a"), Ping(), CustomRequest("b")]))
            assert [replies[0].reply_to, replies[1], replies[2].reply_to] == ["a", Pong(), "b"]
            assert client.connection.pending == ()

    with simulated_guest(VirtioSerial(tmp_path / "port")) as guest:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.settimeout(PATIENCE)
            dead.connect(guest.address.path)
            dead.sendall(PING * 3 + b'{"type":"set_config","payload":{"content":"half')
            assert dead.recv(1) == b"{"
        driver.run(main)
        assert guest.simulator.config in (None, "")


#: What becomes of the first try, when the guest opens its port too late for it, or opens it anew in the middle.
FIRST_TRY = {
    "is lost": lambda first, second: ack(second),
    "is answered with the second": lambda first, second: ack(first) + ack(second),
    "is answered in the middle of the second": lambda first, second: (
        ack(second)[:20] + b"\n" + ack(first) + ack(second)
    ),
    "is half answered": lambda first, second: ack(first)[:20] + b"\n" + ack(second),
}


@each_driver
@pytest.mark.parametrize("becomes", FIRST_TRY)
def test_the_first_try_comes_to_nothing(driver, becomes, tmp_path, monkeypatch):
    """Each try has a nonce of its own, and only what follows the answer to the last is taken."""
    monkeypatch.setattr(_dial, "RESYNC_PATIENCE", 0.05)

    def script(sock):
        asked = lines(sock)
        tries = []
        while len(tries) < 2:
            line = next(asked)
            if line != b"\n":
                tries.append(line[len(b'{"type":"') : -len(b'"}\n')])
        assert len(set(tries)) == 2
        # As long as it takes the host to give up, it sends more of them.
        sock.sendall(FIRST_TRY[becomes](*tries))
        for line in asked:
            if line == PING:
                sock.sendall(encode(Lifecycle("fresh")) + PONG)
            elif line != b"\n":
                sock.sendall(ack(line[len(b'{"type":"') : -len(b'"}\n')]))

    async def main():
        async with entered(driver.module.connect(address)) as client:
            assert await result(client.ping()) == Pong()
            [mine] = await result(client.request_many([CustomRequest("mine")]))
            assert mine.reply_to == "mine"
            assert client.connection.pending == ()

    with port(tmp_path / "port", script) as address:
        driver.run(main)


@each_driver
@pytest.mark.parametrize("writing", [False, True], ids=["while it reads", "while it writes"])
def test_a_terminal_whose_other_end_goes(driver, writing):
    """What QEMU does to its `-chardev pty` when the machine ends."""

    def machine():
        with os.fdopen(master, "r+b", buffering=0) as port:
            read = b""
            while not read.endswith(b"}\n"):
                read += port.read(1000)
            port.write(ack(read[read.rindex(b'{"type":"') + len(b'{"type":"') : -len(b'"}\n')]))
            # Of a long line it takes the beginning: the rest does not fit.
            assert port.read(1)

    async def main():
        async with entered(driver.module.connect(VirtioSerial(os.ttyname(slave)))) as client:
            with pytest.raises(ConnectionLost, match="unanswered"):
                await result(client.request(LONG if writing else Ping()))
            with pytest.raises(ConnectionLost, match="not sent"):
                await result(client.ping())

    master, slave = os.openpty()
    tty.setraw(slave)
    thread = threading.Thread(target=machine)
    thread.start()
    driver.run(main)
    thread.join(PATIENCE)
    os.close(slave)
    assert not thread.is_alive()


# ----------------------------------------------------------------------------------------------- a reset


@each_driver
@pytest.mark.parametrize("answered", [0, 1])
def test_a_reset_tells_what_may_have_been_done(driver, answered):
    """A reset, not an end of the stream: the replies that came before it still count."""
    requests = [Mount("a", "/a", "virtiofs"), Ping(), Mount("b", "/b", "virtiofs"), Ping()]

    def script():
        sock, _ = listener.accept()
        sock.settimeout(PATIENCE)
        asked = lines(sock)
        for _ in requests:
            next(asked)
        asked.close()
        if answered:
            sock.sendall(b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n')
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    async def main():
        async with attached(driver, ours) as client:
            found = await result(many(client, requests))
            expected = [OutcomeUnknown, ConnectionLost, OutcomeUnknown, ConnectionLost]
            assert [type(outcome) for outcome in found] == [*[Ack] * answered, *expected[answered:]]
            assert [outcome.unanswered for outcome in found[answered:]] == [tuple(requests[answered:])] * (4 - answered)
            with pytest.raises(ConnectionLost, match="not sent") as caught:
                await result(client.ping())
            assert type(caught.value) is ConnectionLost

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=script)
        thread.start()
        ours = socket.create_connection(listener.getsockname())
        driver.run(main)
        thread.join(PATIENCE)
    assert not thread.is_alive()


# -------------------------------------------------------------------------------- giving up while writing

#: Longer than what a socket's buffers take, and no more than a message may be.
LONG = SetConfig("x" * 1_000_000)


def small_buffers():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    theirs.settimeout(PATIENCE)
    return ours, theirs


def rest(sock):
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_giving_up_in_the_middle_of_a_line_ends_the_connection(driver):
    """The rest of the line can neither be sent nor left out."""

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(TimeoutError) as caught:
                await driver.within(client, LONG, 0.1)
            if driver is BLOCKING:
                assert caught.value.sent
                assert "it may still be carried out" in str(caught.value)
            assert isinstance(client._session.ended, ConnectionLost)
            with pytest.raises(ConnectionLost, match=r"not sent.* in the middle of writing"):
                await result(client.ping())
            written = rest(theirs)
            assert encode(LONG).startswith(written)
            assert 0 < len(written) < len(encode(LONG)) - 1

    ours, theirs = small_buffers()
    with theirs:
        driver.run(main)


def test_threads_behind_a_line_that_is_given_up_are_not_sent():
    ours, theirs = small_buffers()
    found = []

    def ask_behind():
        try:
            client.mount("work", "/work", "virtiofs", timeout=PATIENCE)
        except ConnectionLost as exc:
            found.append(exc)

    with theirs, BLOCKING.Client.attach(ours) as client:
        calls = client._link.start(client._session.start_many, [LONG])
        behind = threading.Thread(target=ask_behind)
        behind.start()
        while not client._session._waiting:
            threading.Event().wait(0.001)
        client._link.abandon(calls)
        behind.join(PATIENCE)
        assert [type(exc) for exc in found] == [ConnectionLost]
        assert "mount was not sent" in str(found[0])
        assert b"mount" not in rest(theirs)


def test_tasks_behind_a_line_that_is_given_up_are_not_sent():
    ours, theirs = small_buffers()

    async def main():
        async def ask_behind():
            with pytest.raises(ConnectionLost, match="mount was not sent") as caught:
                await client.mount("work", "/work", "virtiofs")
            assert type(caught.value) is ConnectionLost

        async def ask_long():
            with scope:
                await client.request(LONG)

        scope = trio.CancelScope()
        async with attached(TRIO, ours) as client, trio.open_nursery() as nursery:
            nursery.start_soon(ask_long)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask_behind)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert scope.cancelled_caught
        assert b"mount" not in rest(theirs)

    with theirs:
        trio.run(main)


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
    assert got == [*map(encode, given_up[:2]), PING]
