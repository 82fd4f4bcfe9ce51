"""What went wrong once in a driver where writing, giving up and ending meet, and may not again."""

import asyncio
import errno
import itertools
import os
import socket
import threading
import time
import tty
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import pytest
import trio
import trio.testing

from ctrl_c import bytecode_of_3_11, interrupted
from guest_harness import descriptors
from stereos_proto import (
    Ack,
    ConnectError,
    ConnectionLost,
    GetHealth,
    Lifecycle,
    MalformedLine,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    SetConfig,
    StereosError,
    encode,
)
from stereos_proto_io import (
    TCP,
    HybridVsock,
    UnixSocket,
    VirtioSerial,
    _asyncio_dial,
    _blocking_link,
    _blocking_wire,
    _trio_wire,
    blocking,
)
from stereos_proto_io._dial import Device
from stereos_proto_io.testing import simulated_guest

from .harness import (
    ASYNCIO,
    BLOCKING,
    DRIVERS,
    PATIENCE,
    TRIO,
    UVLOOP,
    attached,
    each_driver,
    entered,
    lines,
    result,
    scripted,
)
from .test_conformance import Wrapped
from .test_gaps import DONE, LONG, PING, PONG, rest, small_buffers
from .test_vanish import Counting

MOUNT = Mount("work", "/work", "virtiofs")


def run(driver, main):
    """Run `main`; whoever hangs in it is told so."""

    async def guarded():
        if driver is BLOCKING:
            await main()
        elif driver is TRIO:
            with trio.fail_after(PATIENCE):
                await main()
        else:
            async with asyncio.timeout(PATIENCE):
                await main()

    driver.run(guarded)


async def until(driver, condition):
    """Let others go on until `condition` holds."""
    pause = {BLOCKING: time.sleep, TRIO: trio.sleep}.get(driver, asyncio.sleep)
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await result(pause(0.001))


async def some_turns(driver):
    """Let the event loop do what it has to do."""
    if driver is not BLOCKING:
        for _ in range(100):
            await (trio if driver is TRIO else asyncio).sleep(0)


@asynccontextmanager
async def company(driver):
    """A function that begins a call in a thread or task of its own, and returns the list that gets its outcome.

    All calls have ended when the block is left.
    """

    async def ask(found, call):
        try:
            found.append(await result(call()))
        except (StereosError, TimeoutError) as exc:
            found.append(exc)

    def begin(call):
        found = []
        start(lambda: ask(found, call))
        return found

    if driver is TRIO:
        async with trio.open_nursery() as nursery:
            start = nursery.start_soon
            yield begin
    elif driver is BLOCKING:
        threads = []

        def start(work):
            threads.append(threading.Thread(target=driver.run, args=(work,)))
            threads[-1].start()

        yield begin
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    else:
        async with asyncio.TaskGroup() as tasks:

            def start(work):
                tasks.create_task(work())

            yield begin


# ------------------------------------------------------------------------------------------------ torn lines

#: asyncio's transports take whole lines: giving up tears none.
TORN = [(BLOCKING, "given up"), (TRIO, "given up"), *[(driver, "broken") for driver in DRIVERS]]


@pytest.mark.parametrize(("driver", "how"), TORN, ids=str)
def test_nobody_sleeps_on_after_a_torn_line(driver, how):
    """Neither who reads for all, and waits for an earlier reply, nor who waits behind it."""

    async def main():
        async with attached(driver, ours) as client, company(driver) as begin:
            leader = begin(client.ping)
            await until(driver, lambda: client._link._leader if driver is BLOCKING else client.connection.pending)
            if how == "broken":
                torn = begin(lambda: client.request(LONG))
            else:
                torn = begin(lambda: driver.within(client, LONG, 0.2))
            await until(driver, lambda: len(client.connection.pending) == 2 or torn)
            behind = begin(lambda: client.request(MOUNT))
            if how == "broken":
                await until(driver, lambda: client._session._waiting or len(client.connection.pending) == 3)
                ours.shutdown(socket.SHUT_WR)
                written = rest(theirs)
        assert type(leader[0]) is ConnectionLost
        assert "while ping was unanswered" in str(leader[0])
        assert type(behind[0]) is ConnectionLost
        assert "mount was not sent" in str(behind[0])
        if how == "broken":
            assert type(torn[0]) is OutcomeUnknown
            assert isinstance(torn[0].__cause__, BrokenPipeError)
        else:
            assert isinstance(torn[0], TimeoutError)
            written = rest(theirs)
        assert len(PING) < len(written)
        assert (PING + encode(LONG)).startswith(written)

    ours, theirs = small_buffers()
    with theirs:
        run(driver, main)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
@pytest.mark.parametrize("when", ["meanwhile", "later"])
def test_a_line_whose_writer_gave_up_is_written_by_the_next(driver, when):
    """None of it was written, so it keeps its place. A line that had no place yet is withdrawn."""
    got = []

    def guest():
        with theirs:
            for line in lines(theirs):
                if line != b"\n":
                    got.append(line)
                    theirs.sendall(PONG if line == PING else DONE)

    async def main():
        async with attached(driver, ours) as client:
            async with company(driver) as begin:
                first = begin(lambda: driver.within(client, SetConfig("in line"), 0.2))
                await until(driver, lambda: client.connection.pending)
                second = begin(lambda: driver.within(client, SetConfig("withdrawn"), 0.2))
                if when == "meanwhile":
                    await until(driver, lambda: client._session._waiting or second)
                    third = begin(client.ping)
                await until(driver, lambda: first and second)
                reading.start()
                if when == "later":
                    third = begin(client.ping)
            assert third == [Pong()]
            assert client.connection.pending == ()
        assert [isinstance(found[0], TimeoutError) for found in (first, second)] == [True, True]

    ours, theirs = small_buffers()
    reading = threading.Thread(target=guest)
    fill(ours)
    run(driver, main)
    reading.join(PATIENCE)
    assert got == [encode(SetConfig("in line")), PING]


def fill(sock):
    """Write empty lines, which mean nothing, until there is room for no more."""
    sock.setblocking(False)
    try:
        while True:
            sock.send(b"\n" * 1000)
    except BlockingIOError:
        pass


@each_driver
@pytest.mark.parametrize("how", ["ends", "resets"])
def test_a_guest_that_goes_while_a_write_is_blocked(driver, how):
    """It took a part of the line, and takes no more."""
    over = threading.Event()

    def guest():
        with theirs:
            assert theirs.recv(1) == encode(LONG)[:1]
            if how == "ends":
                theirs.shutdown(socket.SHUT_WR)
                assert over.wait(PATIENCE)
            # Closing what has unread data is a reset.

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await result(client.request(LONG))
            assert caught.value.request is LONG
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                await result(client.ping())
        over.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    theirs.settimeout(PATIENCE)
    thread = threading.Thread(target=guest)
    thread.start()
    run(driver, main)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@each_driver
def test_a_reply_that_came_before_a_write_failed(driver):
    """The guest has answered and gone, and the next request is written before anybody reads the answer."""

    async def main():
        async with attached(driver, ours) as client:
            async with company(driver) as begin:
                first = begin(lambda: client.request(MOUNT))
                await until(driver, lambda: client.connection.pending)
                assert theirs.recv(1000) == encode(MOUNT)
                theirs.sendall(b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n')
                theirs.close()
                second = begin(lambda: client.request(SetConfig("x")))
            assert first == [Ack("mount", True)]
            assert isinstance(second[0], ConnectionLost)

    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    run(driver, main)


# ------------------------------------------------------------------------------------------ streams of trio


class Failing(Wrapped):
    """A stream that takes one byte and fails."""

    def __init__(self, stream, error):
        super().__init__(stream)
        self.error = error

    async def send_all(self, data):
        await self.stream.send_all(data[:1])
        raise self.error


def wrapped(sock, *more, wrap=Wrapped):
    return wrap(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), *more)


@pytest.mark.parametrize(
    "error",
    [trio.BrokenResourceError("the wire is cut"), OSError(errno.EIO, "Input/output error")],
    ids=lambda error: type(error).__name__,
)
def test_what_a_stream_of_trio_fails_with_is_no_group(error):
    """Writing needs a nursery, and what leaves a nursery is a group of errors."""

    async def main():
        async with attached(TRIO, wrapped(ours, error, wrap=Failing)) as client, company(TRIO) as begin:
            torn = begin(lambda: client.request(MOUNT))
            await until(TRIO, lambda: client.connection.pending)
            behind = begin(client.ping)
        assert [type(found[0]) for found in (torn, behind)] == [OutcomeUnknown, ConnectionLost]
        assert isinstance(torn[0].__cause__, OSError)
        assert error.args[-1] in str(torn[0])

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


class Lingering(Wrapped):
    """A stream that has written everything, and does not come back to say so."""

    async def send_all(self, data):
        await self.stream.send_all(data)
        await trio.sleep_forever()


@pytest.mark.parametrize("how", ["the guest ends", "closed from here"])
def test_what_a_stream_has_taken_may_have_been_carried_out(how):
    """Who is told that a mount was not sent will send it again."""

    async def main():
        async with attached(TRIO, wrapped(ours, wrap=Lingering)) as client, company(TRIO) as begin:
            found = begin(lambda: client.request(MOUNT))
            await trio.testing.wait_all_tasks_blocked()
            assert theirs.recv(1000) == encode(MOUNT)
            if how == "the guest ends":
                theirs.shutdown(socket.SHUT_WR)
            else:
                await client.aclose()
        assert type(found[0]) is OutcomeUnknown

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


def test_a_stream_that_is_given_up_in_mid_line_takes_no_more():
    """Nobody knows how far `send_all` came, so a call whose line was in the same write may have been carried out."""
    torn = SetConfig("x" * 50_000)

    def guest(sock):
        # No byte more than these lines: what comes behind them has to stay in the buffers.
        assert go.wait(PATIENCE)
        read = bytearray()
        while size := len(encode(LONG) + PING) - len(read):
            read += sock.recv(size)
        assert read == encode(LONG) + PING
        sock.sendall(DONE + PONG)
        assert over.wait(PATIENCE)
        written = rest(sock)
        assert 0 < len(written) < len(encode(torn))
        assert encode(torn).startswith(written)

    async def main():
        scope = trio.CancelScope()

        async def ask_and_give_up():
            with scope:
                await client.request_many([Ping(), torn])

        async with attached(TRIO, wrapped(ours)) as client:
            pending, waiting = lambda: len(client.connection.pending), client._session._waiting
            async with company(TRIO) as begin, trio.open_nursery() as nursery:
                first = begin(lambda: client.request(LONG))
                await until(TRIO, lambda: pending() == 1)
                nursery.start_soon(ask_and_give_up)
                await until(TRIO, lambda: pending() + len(waiting) == 3)
                last = client._session.start(MOUNT)
                go.set()
                await until(TRIO, lambda: first and pending() == 2 and not waiting)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
            assert scope.cancelled_caught
            assert first == [Ack("set_config", True)]
            assert type(last.outcome) is OutcomeUnknown
            assert "interrupted in the middle" in str(last.outcome)
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                await client.ping()
            over.set()

    go, over = threading.Event(), threading.Event()
    with scripted(guest) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        run(TRIO, main)


# ------------------------------------------------------------------------------------------------ checkpoints

PLAN = ProvisionPlan(mounts=(MOUNT,), config="x = 1\n")

VERBS = {
    "request": lambda client: client.request(Ping()),
    "ping": lambda client: client.ping(),
    "get_health": lambda client: client.get_health(),
    "set_config": lambda client: client.set_config("x = 1\n"),
    "inject_secret": lambda client: client.inject_secret("NAME", "value"),
    "inject_ssh_key": lambda client: client.inject_ssh_key("admin", "ssh-ed25519 AAAA x"),
    "mount": lambda client: client.mount("work", "/work", "virtiofs"),
    "request_many": lambda client: client.request_many([Ping(), Ping()]),
    "wait_ready": lambda client: client.wait_ready(),
    "provision": lambda client: client.provision(PLAN),
    "notifications": lambda client: anext(client.notifications()),
    "shutdown": lambda client: client.shutdown(),
    "aclose": lambda client: client.aclose(),
}

#: What asks nothing, or has its answer at once. Trio wants a checkpoint there, too; asyncio does not.
AT_ONCE = {
    "request_many, of none": lambda client: client.request_many([]),
    "provision, of nothing": lambda client: client.provision(ProvisionPlan()),
    "notifications, one that is there": lambda client: anext(client.notifications()),
    "aclose, again": lambda client: client.aclose(),
}

CHECKPOINTS = [
    (driver, verb)
    for driver in (ASYNCIO, UVLOOP, TRIO)
    for verb in (*VERBS, *AT_ONCE)[: None if driver is TRIO else len(VERBS)]
]


@pytest.mark.parametrize(("driver", "verb"), CHECKPOINTS, ids=str)
def test_every_verb_lets_others_run(driver, verb, tmp_path):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            # The guest has accepted by then.
            await client.ping()
            if verb.startswith("notifications"):
                assert guest.push(Lifecycle("news")) == 1
            if verb in AT_ONCE:
                # This reads what was pushed.
                await client.ping()
            if verb == "aclose, again":
                await client.aclose()
            call = (VERBS | AT_ONCE)[verb]
            if driver is TRIO:
                with trio.testing.assert_checkpoints():
                    await call(client)
            else:
                others = []
                asyncio.get_running_loop().call_soon(others.append, "ran")
                await call(client)
                assert others

    with simulated_guest(UnixSocket(tmp_path / "guest")) as guest:
        run(driver, main)


# ------------------------------------------------------------------------------- what a reader has already

NEWS = encode(Lifecycle("news"))
LONG_NEWS = encode(Lifecycle("news", "x" * 10_000))

#: What the guest wrote before the client was attached, and after; whether the reader knew of the end before.
READ = {
    "nothing": (b"", NEWS * 2, False),
    "lines": (NEWS * 3, NEWS, False),
    "half a line": (NEWS + NEWS[:9], NEWS[9:], False),
    "all that it takes": (LONG_NEWS * 40, b"", False),
    "the end": (b"", b"", True),
    "lines and the end": (NEWS * 3, b"", True),
    "half a line and the end": (NEWS + NEWS[:9], b"", True),
    "all that it takes, in one read": (LONG_NEWS * 12, b"", True),
}


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
@pytest.mark.parametrize("read", READ)
def test_what_a_reader_has_read_is_not_lost(driver, read):
    before, after, ended = READ[read]

    def guest(sock):
        sock.sendall(before)
        if ended:
            sock.shutdown(socket.SHUT_WR)
        assert attaching.wait(PATIENCE)
        sock.sendall(after)

    async def main():
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        # It stops reading when it has more than twice its limit.
        await until(driver, lambda: len(reader._buffer) >= min(len(before), 2 << 16) and reader._eof is ended)
        news = []

        async def hear():
            async for message in client.notifications():
                news.append(message)

        async with attached(driver, (reader, writer)) as client:
            attaching.set()
            with pytest.raises(ConnectionLost) as caught:
                await hear()
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                await client.ping()
        assert b"".join(map(encode, news)) == (before + after)[: (before + after).rfind(b"\n") + 1]
        assert ("in the middle of a line" in str(caught.value)) is read.startswith("half a line and")

    attaching = threading.Event()
    with scripted(guest) as ours:
        run(driver, main)


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_pair_whose_transport_has_closed_already(driver, how):
    """It told the reader of its end, and tells nobody again."""

    async def main():
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        if how == "closed":
            writer.transport.abort()
        else:
            # Closing what has unread data is a reset.
            writer.write(PING)
            theirs.close()
        await until(driver, lambda: reader.at_eof() or reader.exception())
        client = await driver.Client.attach((reader, writer))
        with pytest.raises(ConnectionLost, match="ping was not sent"):
            await client.ping()
        closing = asyncio.ensure_future(client.aclose())
        await some_turns(driver)
        assert closing.done()

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


# ---------------------------------------------------------------------------------------- protocol errors


@each_driver
def test_a_protocol_error_closes_the_stream(driver):
    """At once, and not when the caller comes round to close the client."""

    def guest(sock):
        assert sock.recv(100) == PING
        sock.sendall(b"login: ")
        sock.sendall(b"\n")
        assert sock.recv(1) == b""
        closed.set()

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(MalformedLine):
                await result(client.ping())
            await until(driver, closed.is_set)

    closed = threading.Event()
    with scripted(guest) as ours:
        run(driver, main)


@each_driver
def test_a_protocol_error_behind_the_opening_closes_the_stream(driver, tmp_path):
    def muxer():
        sock, _ = listener.accept()
        hosts.enter_context(sock)
        assert sock.recv(100) == b"CONNECT 1024\n"
        sock.sendall(b"OK 5\nlogin: \n")
        sock.setblocking(False)
        accepted.append(sock)

    async def main():
        async with entered(driver.module.connect(HybridVsock(tmp_path / "h"))) as client:
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                await result(client.ping())
            thread.join(PATIENCE)
            await some_turns(driver)
            assert accepted[0].recv(1) == b""

    accepted = []
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as hosts:
        listener.bind(str(tmp_path / "h"))
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=muxer)
        thread.start()
        run(driver, main)
        thread.join(PATIENCE)


# ------------------------------------------------------------------------------------------------- Ctrl-C


@contextmanager
def counted(*, wrap=lambda sock: sock):
    """A client of a guest that numbers its health reports, two requests in flight at most."""
    ours, theirs = socket.socketpair()
    guest = Counting()
    thread = threading.Thread(target=guest.serve, args=(theirs,))
    thread.start()
    with theirs, BLOCKING.Client.attach(wrap(ours), max_pending=2, timeout=PATIENCE) as client:
        yield client, guest
        client.close()
        thread.join(PATIENCE)
    assert not thread.is_alive()


@bytecode_of_3_11
def test_ctrl_c_everywhere_in_request_many():
    """Either the client goes on, and every request gets its own reply, or the connection has ended."""
    went_on = 0
    for number in itertools.count(1):
        with counted() as (client, guest):
            done = interrupted(number, lambda: client.request_many([GetHealth()] * 3))
            try:
                for _ in range(2):
                    assert client.get_health().uptime_seconds == guest.asked
                went_on += 1
            except ConnectionLost:
                assert not done
        if done:
            break
    assert number > went_on > 10


@bytecode_of_3_11
@pytest.mark.parametrize("how", ["closes", "gives up in mid-line"])
def test_ctrl_c_while_the_connection_is_ended_wakes_everybody(how):
    """Whoever ended it was interrupted in telling the others."""

    def ask():
        with pytest.raises(ConnectionLost):
            client.request(MOUNT)

    def hear():
        with suppress(ConnectionLost):
            assert list(client.notifications()) == []

    def end():
        if how == "closes":
            client.close()
        else:
            client._link.abandon(calls)

    for number in itertools.count(1):
        ours, theirs = small_buffers()
        with theirs, BLOCKING.Client.attach(ours, timeout=600) as client:
            calls = client._link.start(client._session.start_many, [LONG])
            threads = [threading.Thread(target=work, daemon=True) for work in (ask, hear)]
            for thread in threads:
                thread.start()
            run(BLOCKING, lambda: until(BLOCKING, lambda: len(client._link._inside) == 2))
            done = interrupted(number, end)
            if done or client._session.ended:
                for thread in threads:
                    thread.join(PATIENCE)
                assert not any(thread.is_alive() for thread in threads)
        for thread in threads:
            thread.join(PATIENCE)
        if done:
            break
    assert number > 10


class Interrupting:
    """A socket, or the module `time`, in which a Ctrl-C comes: after the n-th call of one of its functions."""

    def __init__(self, inner, name, number):
        self.inner, self.name, self.left = inner, name, number

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.name:
            return found

        def call(*args):
            done = found(*args)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return done

        return call


@pytest.mark.parametrize(("name", "least"), [("monotonic", 2), ("recv", 2), ("send", 2)])
def test_request_many_that_is_interrupted(name, least, monkeypatch):
    """While it waits, it is given up. While it reads or writes, nobody knows what was, and the connection ends."""
    for number in itertools.count(1):
        interrupting = Interrupting(time, name, number)

        def wrap(sock):
            interrupting.inner = sock  # noqa: B023
            return interrupting  # noqa: B023

        with monkeypatch.context() as patch:
            if name == "monotonic":
                patch.setattr(_blocking_link, "time", interrupting)
            with counted(wrap=(lambda sock: sock) if name == "monotonic" else wrap) as (client, guest):
                try:
                    client.request_many([GetHealth()] * 3)
                except KeyboardInterrupt:
                    if name == "monotonic":
                        for _ in range(2):
                            assert client.get_health().uptime_seconds == guest.asked
                        assert client.connection.pending == ()
                    else:
                        with pytest.raises(ConnectionLost, match=r"not sent.* interrupted in the middle"):
                            client.get_health()
                else:
                    break
    assert number > least


# ------------------------------------------------------------------------------------------------ one deadline


def test_all_addresses_of_a_name_have_one_deadline(monkeypatch):
    """Each is dialled with what is left, and none when nothing is."""

    class Clock:
        now = 100.0

        @classmethod
        def monotonic(cls):
            return cls.now

    class Silent(socket.socket):
        def connect(self, target):
            dialled.append((target, self.gettimeout()))
            Clock.now += min(4, self.gettimeout())
            raise TimeoutError

    def lookup(host, port, **_options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"192.0.2.{number}", port)) for number in range(1, 6)]

    dialled = []
    for module in (blocking, _blocking_wire):
        monkeypatch.setattr(module, "time", Clock)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "socket", Silent)
    with pytest.raises(ConnectError, match="no answer in time") as caught:
        blocking.connect(TCP("several.example", 1), timeout=10)
    assert caught.value.retryable
    assert dialled == [(("192.0.2.1", 1), 10), (("192.0.2.2", 1), 6), (("192.0.2.3", 1), 2)]


# ------------------------------------------------------------------------- a stream that cannot be shut down


@pytest.mark.parametrize("end", ["close", "a torn line"])
@pytest.mark.parametrize("waiting", ["a request", "notifications"])
def test_a_thread_that_reads_a_terminal_is_woken(waiting, end):
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
            run(BLOCKING, lambda: until(BLOCKING, lambda: client._link._leader))
            if end == "close":
                client.close()
            else:
                client._link.abandon(client._link.start(client._session.start_many, [LONG]))
            thread.join(PATIENCE)
            assert device.fileno() == -1
    finally:
        os.close(master)
        os.close(slave)
    if waiting == "notifications" and end == "close":
        assert found == ["the end"]
    else:
        assert [type(exc) for exc in found] == [ConnectionLost]


# ------------------------------------------------------------------------------------- dials that are given up

ROUNDS = 5


@contextmanager
def full(folder):
    """A TCP port whose queue is full: who connects waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as queue:
        for _ in range(8):
            sock = queue.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield TCP(*listener.getsockname())


@contextmanager
def closed(folder):
    """A TCP port at which nobody listens, and nobody else can come to."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield TCP(*sock.getsockname())


@contextmanager
def silent(folder):
    """A unix socket that takes connections, and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen(2 * ROUNDS)
        yield HybridVsock(folder / "s")


@contextmanager
def silent_port(folder):
    with silent(folder) as address:
        yield VirtioSerial(address.path)


@contextmanager
def silent_terminal(folder):
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        yield VirtioSerial(os.ttyname(slave))
    finally:
        os.close(master)
        os.close(slave)


@contextmanager
def hanging_up(folder):
    """A muxer that hangs up on each of its hosts."""

    def serve():
        for _ in range(ROUNDS):
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(PATIENCE)
                sock.recv(100)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        yield HybridVsock(folder / "s")
        thread.join(PATIENCE)
    assert not thread.is_alive()


async def give_up(driver, address):
    if driver is BLOCKING:
        with pytest.raises(ConnectError):
            driver.module.connect(address, timeout=0.05)
    elif driver is TRIO:
        with trio.move_on_after(0.05) as scope:
            await fail(driver, address)
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fail(driver, address), 0.05)


async def fail(driver, address):
    with pytest.raises(ConnectError):
        async with entered(driver.module.connect(address)):
            pass


@each_driver
@pytest.mark.parametrize(
    ("place", "end"),
    [
        (full, give_up),
        (closed, fail),
        (silent, give_up),
        (silent_port, give_up),
        (silent_terminal, give_up),
        (hanging_up, fail),
    ],
    ids=lambda value: value.__name__,
)
def test_a_dial_that_fails_or_is_given_up_leaves_no_descriptor(driver, place, end, tmp_path):
    with place(tmp_path) as address:
        run(driver, lambda: dial_again_and_again(driver, end, address))


@each_driver
@pytest.mark.parametrize(("place", "end"), [(full, give_up), (closed, fail)], ids=lambda value: value.__name__)
def test_a_dial_that_a_driver_makes_by_itself_leaves_no_descriptor(driver, place, end, tmp_path, monkeypatch):
    """As for AF_VSOCK. Here, a port of TCP is dialled that way: a unix socket keeps nobody waiting."""
    with place(tmp_path) as address:
        for wire in (_asyncio_dial, _blocking_wire, _trio_wire):
            monkeypatch.setattr(wire, "socket_target", lambda _address: (socket.AF_INET, (address.host, address.port)))
        run(driver, lambda: dial_again_and_again(driver, end, UnixSocket("elsewhere")))


async def dial_again_and_again(driver, end, address):
    await end(driver, address)
    # What is made once, and kept, is there now.
    before = len(descriptors())
    for _ in range(ROUNDS - 1):
        await end(driver, address)
    await until(driver, lambda: len(descriptors()) <= before)
