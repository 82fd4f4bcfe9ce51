"""What a caller has already, and hands over: streams, TLS, devices, what has only a socket's four methods."""

import asyncio
import errno
import gc
import os
import re
import selectors
import socket
import ssl
import sys
import threading
import tty
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from guest_harness import descriptors
from stereos_proto import (
    Ack,
    ConnectionLost,
    InjectSecret,
    Lifecycle,
    Mount,
    Ping,
    Pong,
    ProvisionPlan,
    SetConfig,
    StepStatus,
    encode,
)
from stereos_proto_io import Dial, blocking
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io import trio as trio_driver
from stereos_proto_io.driver import Device, LoopClient, PollClient

from .guests import DONE, PING, PONG, Wrapped, anonymous, scripted
from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, attached, each_driver, result, run, some_turns, until

TRANSPORTS = Path(__file__).parents[2] / "docs" / "howto" / "transports.md"


@pytest.fixture
def encrypted():
    """A socket at whose other end a guest speaks TLS."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)

    def serve():
        with suppress(OSError), anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(theirs, server_side=True) as guest:
            # Not half of what comes is read before all is answered: both directions fill up.
            rest = b""
            while data := guest.recv(1 << 16):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    guest.sendall(PONG if line + b"\n" == PING else DONE)

    thread = threading.Thread(target=serve)
    thread.start()
    yield ours
    ours.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


CLIENT = anonymous(ssl.PROTOCOL_TLS_CLIENT)

#: How one gets TLS in each runtime, over a socket.
TLS = {
    BLOCKING: CLIENT.wrap_socket,
    ASYNCIO: lambda sock: asyncio.open_connection(sock=sock, ssl=CLIENT, server_hostname=""),
    UVLOOP: lambda sock: asyncio.open_connection(sock=sock, ssl=CLIENT, server_hostname=""),
    TRIO: lambda sock: trio.SSLStream(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), CLIENT),
}


@pytest.mark.parametrize("driver", TLS, ids=str)
def test_tls(driver, encrypted):
    requests = [Ping(), SetConfig("x" * 1_000_000), *[Ping()] * 3000, SetConfig("y"), Ping()]

    async def main():
        stream = await result(TLS[driver](encrypted))
        async with attached(driver, stream) as client:
            for _ in range(3):
                assert await result(client.ping()) == Pong()
            replies = await result(client.request_many(requests))
            assert replies == [Pong() if request == Ping() else Ack("set_config", True) for request in requests]

    run(driver, main)


def test_tls_on_a_socket_in_trio(encrypted):
    async def main():
        async with attached(TRIO, CLIENT.wrap_socket(encrypted)) as client:
            assert await client.request_many([Ping(), SetConfig("x" * 1_000_000)]) == [Pong(), Ack("set_config", True)]

    run(TRIO, main)


class Four:
    """What has the four methods of a socket that the client needs, and nothing else."""

    def __init__(self, sock):
        self.fileno, self.recv, self.send, self.close = sock.fileno, sock.recv, sock.send, sock.close
        sock.setblocking(False)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_what_has_four_methods(driver):
    def guest(sock):
        assert sock.recv(100) == PING
        sock.sendall(PONG)
        assert sock.recv(100) == b""

    async def main():
        async with attached(driver, Four(ours)) as client:
            assert await result(client.ping()) == Pong()

    with scripted(guest) as ours:
        run(driver, main)


def framed(sock):
    """A stream of the class that the documentation shows."""
    blocks = re.findall(r"^```python\n(.*?)^```$", TRANSPORTS.read_text(), re.DOTALL | re.MULTILINE)
    [block] = [block for block in blocks if "class Framed" in block]
    namespace = {}
    exec(block.partition("def answer")[0], namespace)
    return namespace["Framed"](sock)


def in_one_frame(flights):
    """A guest that reads each of `flights` wholly, with pauses, and then sends its replies in one frame."""

    def guest(sock):
        for count, reply in flights:
            received = b""
            while received.count(b"\n") < count:
                size = int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "big")
                received += sock.recv(size, socket.MSG_WAITALL)
            data = reply * count
            sock.sendall(len(data).to_bytes(4, "big") + data)
        assert sock.recv(1) == b""

    return guest


LONG_PONG = b'{"type":"pong","payload":{"more":"' + b"x" * 4000 + b'"}}\n'
LARGE = [InjectSecret(f"KEY_{number}", "v" * 300_000) for number in range(8)]
INJECTED = encode(Ack("inject_secret", True))


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_a_stream_that_sends_frames(driver):
    """`recv` returns more than it is asked for, and `send` holds what has not left, as `driver.Stream` says."""

    async def main():
        async with attached(driver, framed(ours)) as client:
            assert len(await result(client.request_many([Ping()] * 100))) == 100
            assert await result(client.request_many(LARGE)) == [Ack("inject_secret", True)] * len(LARGE)
            assert await result(client.ping()) == Pong()

    with scripted(in_one_frame([(100, LONG_PONG), (len(LARGE), INJECTED), (1, PONG)])) as ours:
        run(driver, main)


def test_a_stream_that_sends_frames_in_a_loop():
    def ask(*requests):
        calls = client.request_many(requests, timeout=PATIENCE)
        while not all(call.done for call in calls):
            for _ in client.events():
                """Its calls say the same."""
            client.expire()
            for stream, mask in client.changes():
                if stream in selector.get_map():
                    selector.unregister(stream)
                if mask:
                    selector.register(stream, mask)
            for key, mask in selector.select(0 if all(call.done for call in calls) else 1):
                client.ready(key.fileobj, mask)
        return {call.result() for call in calls}

    flights = [(100, LONG_PONG), (len(LARGE), INJECTED), (1, PONG)]
    with scripted(in_one_frame(flights)) as ours, selectors.DefaultSelector() as selector:
        client = PollClient(Dial(lambda: framed(ours)))
        assert len(ask(*[Ping()] * 100)) == 1
        assert ask(*LARGE) == {Ack("inject_secret", True)}
        assert ask(Ping()) == {Pong()}
        client.close()
        for stream, _ in client.changes():
            selector.unregister(stream)


class Graceless(Wrapped):
    """A stream that closes, and fails to say goodbye."""

    async def aclose(self):
        self.stream.socket.close()
        raise self.error


@pytest.mark.parametrize("error", [trio.BrokenResourceError("no goodbye"), OSError("no goodbye"), ValueError("no")])
@pytest.mark.parametrize("who", ["the guest ends", "closed from here"])
def test_a_stream_of_trio_that_fails_to_close(error, who):
    """It is closed all the same. A task of the system that fails would take all of trio with it."""

    async def main():
        stream = Graceless(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        stream.error = error
        async with attached(TRIO, stream) as client:
            if who == "the guest ends":
                theirs.close()
                with pytest.raises(ConnectionLost):
                    await client.ping()
                await until(TRIO, lambda: stream.stream.socket.fileno() == -1)
        assert stream.stream.socket.fileno() == -1

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_a_device_that_nobody_closes_is_closed_when_it_is_collected(driver):
    """And complained of, as a socket is."""

    async def close():
        async with attached(driver, Device(os.ttyname(slave))):
            pass

    async def forget():
        await result(driver.Client.attach(Device(os.ttyname(slave))))

    def run_and_collect(main):
        driver.run(main)
        gc.collect()

    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        run_and_collect(close)
        before = len(descriptors())
        with pytest.warns(ResourceWarning, match="unclosed file"):
            run_and_collect(forget)
        assert len(descriptors()) == before
    finally:
        os.close(master)
        os.close(slave)


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


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
@pytest.mark.parametrize("of", ["connections", "child", "stdio", "three", "files", "no writer", "no reader"])
def test_a_pair_that_is_not_one_connection(driver, of):
    async def main():
        async with AsyncExitStack() as stack:
            made = []
            for ours in [stack.enter_context(end) for end in socket.socketpair()]:
                made.append(await asyncio.open_unix_connection(sock=ours))
                stack.callback(made[-1][1].close)
            (reader, writer), (_, other) = made
            if of == "child":
                child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
                stack.push_async_callback(child.wait)
                reader, other = child.stdout, child.stdin
                stack.callback(other.close)
            elif of == "stdio":
                read_end, write_end = os.pipe()
                os.close(read_end)
                transport, protocol = await asyncio.get_running_loop().connect_write_pipe(
                    asyncio.streams.FlowControlMixin, os.fdopen(write_end, "wb", 0)
                )
                stack.callback(transport.close)
                other = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
            pair = {
                "three": (reader, writer, other),
                "files": (sys.stdin, sys.stdout),
                "no writer": (reader, sys.stdout),
                "no reader": (sys.stdin, writer),
            }.get(of, (reader, other))
            with pytest.raises(TypeError, match="of one connection; for a child process pass a socket"):
                await driver.Client.attach(pair)

    run(driver, main)


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_a_pair_after_start_tls(driver, encrypted):
    """Its reader still knows the transport below."""

    async def main():
        reader, writer = await asyncio.open_unix_connection(sock=encrypted)
        await writer.start_tls(CLIENT, server_hostname="")
        async with attached(driver, (reader, writer)) as client:
            assert await client.ping() == Pong()

    run(driver, main)


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_a_transport_whose_reading_was_paused(driver):
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
        transport.pause_reading()
        async with attached(driver, transport) as client:
            assert await client.ping() == Pong()

    with scripted(lambda sock: sock.recv(1000) and sock.sendall(PONG)) as ours:
        run(driver, main)


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_a_pair_that_only_the_client_knows_any_more(driver):
    """A `StreamWriter` closes its transport when it is collected."""

    async def main():
        client = await driver.Client.attach(await asyncio.open_unix_connection(sock=ours))
        for _ in range(2):
            await some_turns(driver)
            gc.collect()
            assert await client.ping() == Pong()
        await client.aclose()

    def guest(sock):
        for _ in range(2):
            assert sock.recv(1000) == PING
            sock.sendall(PONG)

    with scripted(guest) as ours:
        run(driver, main)


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO, BLOCKING], ids=str)
def test_closing_ends_a_connection_whose_descriptor_another_process_has(driver):
    """A child that was forked has it, too, and keeps it open."""

    async def main():
        async with attached(driver, ours):
            pass
        theirs.settimeout(PATIENCE)
        assert theirs.recv(1) == b""

    ours, theirs = socket.socketpair()
    with theirs, ours.dup():
        run(driver, main)


class Echoing(asyncio.Transport):
    """A transport of another library: it knows no buffered protocols, cannot pause, and answers each ping at once."""

    def __init__(self):
        super().__init__()
        self.closing = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def is_closing(self):
        return self.closing

    def write(self, data):
        asyncio.get_running_loop().call_soon(self.protocol.data_received, PONG * data.count(PING))

    def abort(self):
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_a_transport_of_another_library(driver):
    async def main():
        transport = Echoing()
        async with attached(driver, transport) as client:
            assert await client.ping() == Pong()
            assert await client.request_many([Ping()] * 3) == [Pong()] * 3
        assert transport.closing

    run(driver, main)


class Counted:
    """A socket whose reads and writes are counted."""

    def __init__(self, sock):
        self.sock, self.calls = sock, 0

    def __getattr__(self, name):
        found = getattr(self.sock, name)
        if name not in ("recv", "send"):
            return found

        def call(*arguments):
            self.calls += 1
            return found(*arguments)

        return call


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_tls_whose_handshake_has_not_been_made_with_a_silent_peer(driver):
    """It waits for the peer; a socket that is always writable would keep a CPU busy."""

    async def main():
        async with attached(driver, counted) as client:
            with pytest.raises(TimeoutError):
                await driver.within(client, Ping(), 0.3)

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        counted = Counted(CLIENT.wrap_socket(ours, do_handshake_on_connect=False))
        run(driver, main)
        assert counted.calls < 20
        assert theirs.recv(1 << 16)


def test_a_call_that_is_cancelled_leaves_the_handshake_alone():
    """trio makes it in the first read: cancelled together with that, the connection was of no use any more."""

    def serve():
        with theirs:
            assert cancelled.wait(PATIENCE)
            with suppress(OSError), anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(theirs, server_side=True) as guest:
                for _ in guest.makefile("rb"):
                    guest.sendall(PONG)

    async def main():
        async with attached(TRIO, TLS[TRIO](ours)) as client:
            with trio.move_on_after(0.05) as scope:
                await client.ping()
            assert scope.cancelled_caught
            cancelled.set()
            assert await client.ping() == Pong()
        tasks = trio.lowlevel.current_root_task().child_nurseries[0].child_tasks
        assert not [task for task in tasks if "StreamTransport" in task.name]

    cancelled = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    thread = threading.Thread(target=serve)
    thread.start()
    run(TRIO, main)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("end", [b"", b"no TLS at all"], ids=["gone", "no TLS"])
def test_a_handshake_that_fails_ends_the_connection(end):
    async def main():
        async with attached(TRIO, TLS[TRIO](ours)) as client:
            theirs.sendall(end)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionLost):
                await client.ping()

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


def test_a_stream_of_trio_is_the_callers_when_a_limit_is_refused():
    async def main():
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with pytest.raises(ValueError, match="max_pending"):
            TRIO.Client.attach(stream, max_pending=0)
        await stream.send_all(b"x")
        assert theirs.recv(10) == b"x"
        await stream.aclose()

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_what_has_arrived_over_tls_was_sent(driver):
    """OpenSSL takes several records, and does not say how many have left when the socket is full."""

    async def main():
        async with attached(driver, CLIENT.wrap_socket(ours, do_handshake_on_connect=False)) as client:
            reports.append(await result(client.provision(plan)))

    def serve():
        with suppress(OSError), anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(theirs, server_side=True) as guest:
            while received.count(b"\n") < 2:
                received.extend(guest.recv(1 << 14))

    secrets = [InjectSecret(f"S{number}", "v" * 8000) for number in range(8)]
    plan = ProvisionPlan([Mount("share0", "/work", "9p")], secrets)
    received, reports = bytearray(), []
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.settimeout(PATIENCE)
    guest = threading.Thread(target=serve)
    guest.start()
    run(driver, main)
    guest.join(PATIENCE)
    (report,) = reports
    assert {step.status for step in report.steps[: received.count(b"\n")]} == {StepStatus.UNKNOWN}
    assert report.steps[-1].status is StepStatus.NOT_SENT


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_tls_whose_handshake_is_made_by_the_first_request(driver, encrypted):
    async def main():
        async with attached(driver, CLIENT.wrap_socket(encrypted, do_handshake_on_connect=False)) as client:
            for _ in range(3):
                assert await result(client.ping()) == Pong()

    encrypted.setblocking(False)
    run(driver, main)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (blocking.Client, "<blocking.Client, not made>"),
        (asyncio_driver.Client, "<asyncio.Client, not made>"),
        (trio_driver.Client, "<trio.Client, not made>"),
        (PollClient, "<PollClient, not made>"),
        (LoopClient, "<LoopClient, not made>"),
    ],
    ids=str,
)
def test_a_client_whose_option_was_refused_is_shown_in_a_traceback(make, shown):
    """As `pytest -l` and debuggers show it: the object is not finished."""
    assert repr(make.__new__(make)) == shown


@each_driver
@pytest.mark.parametrize("given", [object(), 5, None, "text"], ids=["object", "int", "None", "str"])
def test_what_is_no_stream_is_refused(driver, given):
    async def main():
        with pytest.raises(TypeError, match=f"^{type(given).__name__} is no stream: it has no "):
            await result(driver.Client.attach(given))

    driver.run(main)


@each_driver
def test_a_socket_that_is_closed_is_refused(driver):
    async def main():
        with socket.socket() as sock:
            pass
        with pytest.raises(OSError, match="the stream is closed already") as caught:
            await result(driver.Client.attach(sock))
        assert caught.value.errno == errno.EBADF

    driver.run(main)
