"""Dialling: what is handed to the system, in which order, and what comes before the protocol."""

import asyncio
import errno
import gc
import select
import socket
import ssl
import threading
import warnings
from functools import partial

import pytest
import trio

from guest_harness import descriptors
from stereos_proto import CallDone, ConnectError, ConnectionLost, Lifecycle, NotReady, Ping, Pong, TaskDone, encode
from stereos_proto_io import TCP, Dial, HybridVsock, UnixSocket, VirtioSerial, Vsock, addresses
from stereos_proto_io import trio as trio_driver
from stereos_proto_io.blocking import _dial as blocking_dial
from stereos_proto_io.driver import READ, WRITE, GreenClient, PollClient
from stereos_proto_io.testing import simulated_guest

from .guests import PING, PONG, Broken, Muxer, full_queue, scripted
from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, async_drivers, each_driver, entered, result, run
from .test_ready import when_ready


async def ping(made):
    async with entered(made) as client:
        return await result(client.ping())


@each_driver
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1024", None, ("127.0.0.1", 1024)])
def test_what_is_no_address_is_refused(driver, address):
    for connect in (driver.module.connect, driver.module.connect_when_ready):
        with pytest.raises(TypeError, match=rf"is needed, not {type(address).__name__}; parse_address makes one"):
            driver.run(lambda connect=connect: ping(connect(address)))
    with pytest.raises(TypeError, match=r"^an address such as TCP\('127\.0\.0\.1'\) is needed"):
        PollClient(address)


@each_driver
@pytest.mark.parametrize("family", [None, 40])
def test_af_vsock_gets_the_exact_family_and_address(driver, family, monkeypatch):
    """No socket of that family is ever made here: the family and the address are caught on their way."""
    if family is None:
        monkeypatch.delattr(socket, "AF_VSOCK", raising=False)
        with pytest.raises(ConnectError, match="no AF_VSOCK") as caught:
            driver.run(lambda: ping(driver.module.connect(Vsock(7, 99))))
        assert not caught.value.retryable
        return
    monkeypatch.setattr(socket, "AF_VSOCK", family, raising=False)
    handed = []

    class Socket(socket.socket):
        def __init__(self, family=-1, *args, **more):
            self.asked = family
            super().__init__(socket.AF_UNIX if family == 40 else family, *args, **more)

        def connect(self, target):
            if self.asked != 40:
                return super().connect(target)
            handed.append((self.asked, target))
            raise OSError(19, "No such device")

        def connect_ex(self, target):
            if self.asked != 40:
                return super().connect_ex(target)
            handed.append((self.asked, target))
            return 19

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(ConnectError, match="no virtual machine with this CID"):
        driver.run(lambda: ping(driver.module.connect(Vsock(7, 99))))
    assert handed == [(40, (7, 99))]


@each_driver
@pytest.mark.parametrize("kind", [UnixSocket, HybridVsock, VirtioSerial])
def test_a_queue_that_is_full_is_no_connection(driver, kind, tmp_path):
    """The event loops' own ways to connect take it for one that is in progress."""
    address = kind(tmp_path / "s")
    with full_queue(address.path), pytest.raises(ConnectError, match="queue of waiting connections is full") as caught:
        driver.run(lambda: ping(driver.module.connect(address)))
    assert caught.value.retryable


@each_driver
def test_a_queue_that_was_full_is_tried_again(driver, tmp_path):
    address = UnixSocket(tmp_path / "s")
    tried = threading.Event()
    with full_queue(address.path) as (listener, queue):

        def serve():
            tried.wait(PATIENCE)
            queue.close()
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(PATIENCE)
                    if sock.recv(100):
                        sock.sendall(b'{"type":"health","payload":{"state":"ready","uptime_seconds":1}}\n')
                        assert sock.recv(100) == b'{"type":"ping"}\n'
                        sock.sendall(b'{"type":"pong"}\n')
                        return

        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        found = driver.run(
            lambda: when_ready(driver, address, timeout=PATIENCE, on_progress=lambda _progress: tried.set())
        )
        thread.join(PATIENCE)
    assert found == Pong()


ANSWERS = {
    b"": "nobody listens on vsock port 1024",
    b"OK 10": "in the middle of the answer",
    b"NO WAY\n": "is not OK",
    b"x" * 40: "is longer than 32 bytes",
    None: "no answer in time",
}


@each_driver
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_can_go_wrong_before_the_protocol_is_told_apart(driver, answer, tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "HYBRID_VSOCK_PATIENCE", 0.05 if answer is None else PATIENCE)
    address = HybridVsock(tmp_path / "h")
    with Muxer(address.path, answer), pytest.raises(ConnectError, match=ANSWERS[answer]):
        driver.run(lambda: ping(driver.module.connect(address)))


@each_driver
def test_bytes_behind_the_ok_are_kept(driver, tmp_path):
    address = HybridVsock(tmp_path / "h")

    async def main():
        async with entered(driver.module.connect(address)) as client:
            news = client.notifications()
            return (await anext(news) if hasattr(news, "__anext__") else next(news)).state

    with Muxer(address.path, b'OK 5\n{"type":"lifecycle","payload":{"state":"early"}}\n'):
        assert driver.run(main) == "early"


@each_driver
@pytest.mark.parametrize("how", ["ends", "resets"])
def test_the_end_right_behind_the_ok_is_not_lost(driver, how, tmp_path):
    def muxer():
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            if how == "ends":
                assert sock.recv(100) == b"CONNECT 1024\n"
            else:
                # Closing what has unread data is a reset.
                assert sock.recv(5) == b"CONNE"
            sock.sendall(b"OK 5\n" + encode(Lifecycle("early")))

    async def main():
        async with entered(driver.module.connect(HybridVsock(tmp_path / "h"))) as client:
            with pytest.raises(ConnectionLost):
                await result(client.ping())
            news = client.notifications()
            assert (next(news) if driver is BLOCKING else await anext(news)) == Lifecycle("early")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "h"))
        listener.listen()
        thread = threading.Thread(target=muxer)
        thread.start()
        driver.run(main)
        thread.join(PATIENCE)


@each_driver
def test_nothing_stays_open(driver, tmp_path):
    async def main():
        before = len(descriptors())
        for _ in range(3):
            for address in (guest.address, UnixSocket(tmp_path / "none"), TCP("127.0.0.1", 1)):
                try:
                    await ping(driver.module.connect(address))
                except ConnectError:
                    continue
            try:
                await when_ready(driver, UnixSocket(tmp_path / "none"), timeout=0.02)
            except NotReady:
                continue
        if driver in (ASYNCIO, UVLOOP):
            await asyncio.sleep(0.01)
        assert len(descriptors()) <= before + 2 * (driver is UVLOOP)

    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        driver.run(main)


@each_driver
@pytest.mark.parametrize("limits", [{"max_pending": 0}, {"max_notifications": -1}, {"no_such": 1}], ids=str)
def test_a_client_that_cannot_be_made_leaves_no_socket(driver, limits, tmp_path):
    async def main():
        with pytest.raises((ValueError, TypeError)):
            await ping(driver.module.connect(guest.address, **limits))
        # A guest that serves one connection at a time would wait for the end of this one.
        assert await ping(driver.module.connect(guest.address)) == Pong()

    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        driver.run(main)
        gc.collect()


def unfinished():
    """A socket that speaks TLS, and its other end."""
    ours, theirs = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context.wrap_socket(ours, do_handshake_on_connect=False, server_hostname="guest"), theirs


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_asyncio_refuses_a_socket_that_speaks_tls_before_it_writes(driver):
    """uvloop takes the descriptor below it, and wrote secrets to it in the clear."""

    async def main():
        with pytest.raises(TypeError, match="takes no socket that speaks TLS already; give it what"):
            await driver.module.connect(Dial(lambda: encrypted))
        assert encrypted.fileno() == -1
        other, end = unfinished()
        with other, end, pytest.raises(TypeError, match="takes no socket that speaks TLS already"):
            await driver.Client.attach(other)

    encrypted, theirs = unfinished()
    with theirs:
        driver.run(main)
        assert theirs.recv(1) == b""


@pytest.mark.parametrize("driver", [ASYNCIO, TRIO], ids=str)
def test_a_connection_is_entered_once_at_a_time(driver):
    """The first to leave closed the client of the other, and its own stayed open."""

    async def main():
        door = driver.module.connect(guest.address)
        async with door as client:
            with pytest.raises(RuntimeError, match="call `connect` for each"):
                await door.__aenter__()
            assert await client.ping() == Pong()
        async with door as client:
            assert await client.ping() == Pong()

    with simulated_guest() as guest:
        driver.run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, trio.Cancelled])
def test_what_ends_a_wait_of_trio_comes_out_by_itself(error):
    """And not in a group, which `except KeyboardInterrupt` does not catch."""

    async def fail():
        if error is trio.Cancelled:
            scope.cancel()
            await trio.sleep_forever()
        raise error

    async def main():
        nonlocal scope
        with trio.CancelScope() as scope:
            with pytest.raises(error):
                await trio_driver.Client.race(fail, trio.sleep_forever)
            await trio.lowlevel.checkpoint()
        ended.append(scope.cancelled_caught)

    scope, ended = None, []
    trio.run(main)
    assert ended == [error is trio.Cancelled]


def test_of_several_errors_the_one_that_is_no_exception_comes_out():
    async def fail(error):
        raise error

    async def main():
        await trio_driver.Client.race(partial(fail, OSError()), partial(fail, KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


@pytest.mark.parametrize("error", [ValueError("bad"), OSError(5, "Input/output error")])
def test_a_dial_of_ones_own_that_raises_ends_the_dial_of_a_loop_client(error):
    def dial():
        raise error

    client = PollClient(Dial(dial), clock=lambda: 0.0)
    call = client.request(Ping())
    assert CallDone(call) in list(client.events())
    task = client.connect()
    assert TaskDone(task) in list(client.events())
    assert isinstance(task.error, ConnectError)
    assert str(error) in str(task.error)
    assert task.error.__cause__ is error


def never():
    raise AssertionError("it is dialled")


BAD_LIMITS = [
    ({"max_pending": 0}, ValueError),
    ({"max_pending": "5"}, TypeError),
    ({"max_notifications": -1}, ValueError),
    ({"trace": 5}, TypeError),
    ({"max_requests": 5}, TypeError),
]


@pytest.mark.parametrize("verb", ["connect", "connect_when_ready"])
@pytest.mark.parametrize(("limits", "error"), BAD_LIMITS, ids=str)
@each_driver
def test_bad_limits_are_refused_before_the_dial(driver, limits, error, verb):
    async def main():
        with pytest.raises(error):
            await result(getattr(driver.module, verb)(Dial(never), **limits))

    run(driver, main)


@pytest.mark.parametrize("verb", [GreenClient.connect, GreenClient.connect_when_ready])
@pytest.mark.parametrize(("limits", "error"), BAD_LIMITS, ids=str)
def test_bad_limits_are_refused_before_the_dial_of_a_green_client(limits, error, verb):
    with pytest.raises(error):
        verb(Dial(never), **limits)
    with pytest.raises(ValueError, match="NaN"):
        GreenClient.connect_when_ready(Dial(never), request_timeout=float("nan"))


@async_drivers
def test_a_timeout_belongs_into_a_scope(driver):
    with pytest.raises(
        TypeError, match=r"^connect takes no timeout here: put it into asyncio\.timeout, trio\.fail_after"
    ):
        driver.module.connect(Dial(never), timeout=3)
    with pytest.raises(
        TypeError, match=r"^there is no option max_requests, only max_pending, max_notifications, trace$"
    ):
        driver.module.connect(Dial(never), max_requests=3)


async def later():
    """Return None."""


def closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


@each_driver
@pytest.mark.parametrize(
    ("dial", "error", "words"),
    [
        (lambda: None, TypeError, "returned None instead of a socket or a stream"),
        (later, TypeError, "has to be awaited|returned None instead of a socket or a stream"),
        (lambda: 5, TypeError, "^int is no stream: it has no"),
        (closed_socket, ConnectError, "the stream is closed already"),
    ],
)
def test_a_dial_of_ones_own_that_gives_no_stream(driver, dial, error, words):
    async def main():
        with pytest.raises(error, match=words):
            await result(driver.module.connect(Dial(dial)))
        gc.collect()

    run(driver, main)


def test_a_stream_that_breaks_before_there_is_a_client_is_no_connection():
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ConnectError, match="Invalid argument") as caught:
        BLOCKING.module.connect(Dial(lambda: Broken(ours)))
    assert caught.value.__cause__.errno == errno.EINVAL
    assert ours.fileno() == -1


def test_a_name_that_is_not_looked_up_in_time_is_named(monkeypatch):
    monkeypatch.setattr(blocking_dial, "begin_lookup", lambda *_arguments: None)
    with pytest.raises(ConnectError) as caught:
        BLOCKING.module.connect(TCP("guest.invalid", 1024), timeout=0.05)
    assert str(caught.value.__cause__) == "the name guest.invalid was not looked up in time"


def test_poll_is_asked_in_milliseconds(monkeypatch):
    asked = []

    class Poll:
        def register(self, descriptor, events):
            asked.append((descriptor, events))

        def poll(self, timeout):
            asked.append(timeout)
            return [(one.fileno(), select.POLLIN)]

    monkeypatch.setattr(select, "poll", Poll)
    one, other = socket.socketpair()
    with one, other:
        assert blocking_dial._wait([(one, READ), (other, WRITE)], 0.25) == [(one, READ)]
        assert asked == [(one.fileno(), select.POLLIN), (other.fileno(), select.POLLOUT), 250]


@async_drivers
def test_a_dial_that_has_failed_may_be_entered_again(driver, tmp_path):
    async def main():
        connecting = driver.module.connect(UnixSocket(tmp_path / "guest"))
        for _ in range(2):
            with pytest.raises(ConnectError):
                await connecting.__aenter__()
        with simulated_guest(UnixSocket(tmp_path / "guest")):
            async with connecting as client:
                assert await client.ping() == Pong()

    run(driver, main)


@each_driver
def test_an_address_that_opens_its_stream_may_have_a_preamble(driver):
    class Tunnel(HybridVsock):
        def open(self):
            return ours

    def guest(sock):
        assert sock.recv(100) == b"CONNECT 1024\n"
        sock.sendall(b"OK 5\n")
        assert sock.recv(100) == PING
        sock.sendall(PONG)

    async def main():
        async with entered(driver.module.connect(Tunnel("/nowhere"))) as client:
            assert await result(client.ping()) == Pong()

    with scripted(guest) as ours:
        run(driver, main)
