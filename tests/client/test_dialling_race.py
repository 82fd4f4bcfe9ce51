"""Which place of a name is tried when, and what becomes of the streams that are not needed: `driver.Dialling` alone."""

import errno
import logging
import select
import socket
from types import SimpleNamespace

import pytest

from stereos_proto import ConnectError, Pong
from stereos_proto_io import TCP, HybridVsock, VirtioSerial
from stereos_proto_io.driver import Dialling, _dialling
from stereos_proto_io.testing import simulated_guest

from .harness import each_driver, entered, result, run

NOWHERE = (socket.AF_UNIX, "/nonexistent/socket")


@pytest.fixture
def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def full():
    """A place that lets a host wait: a listener whose queue is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        select.select([], [first], [], 10)
        yield (socket.AF_INET, listener.getsockname())


@pytest.fixture
def own_port(monkeypatch):
    """A local port that nobody listens on, and that the system chooses for our end of the next dial."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    names = dict(vars(socket), socket=lambda *_kind: sock)
    monkeypatch.setattr(_dialling, "socket", SimpleNamespace(**names))
    yield sock.getsockname()[1]
    sock.close()


@pytest.fixture
def listening():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield (socket.AF_INET, listener.getsockname())


def settle(dialling, now):
    """Let it go on with what is ready, for as long as something is within ten seconds."""
    while dialling.outcome is None:
        watched = [sock for sock, _mask in dialling.watch()]
        _, ready, _ = select.select([], watched, [], 10)
        assert ready
        for sock in ready:
            dialling.ready(sock, now)


@each_driver
def test_a_dial_that_reaches_itself_is_refused(driver, own_port):
    async def main():
        with pytest.raises(ConnectError, match="nobody listens there yet") as caught:
            async with entered(driver.module.connect(TCP("127.0.0.1", own_port))):
                pass
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        assert caught.value.retryable
        # The guest that starts now can have the port.
        socket.create_server(("127.0.0.1", own_port)).close()

    run(driver, main)


def test_the_first_place_that_failed_is_named(closed_port):
    dialling = Dialling(TCP("localhost", 1), [NOWHERE, (socket.AF_INET, ("127.0.0.1", closed_port))], now=0.0)
    settle(dialling, 0.0)
    assert isinstance(dialling.outcome.__cause__, FileNotFoundError)
    for stream in dialling.discarded:
        stream.close()


@pytest.fixture
def no_ipv6(monkeypatch):
    """A kernel without IPv6, or a process that has no descriptor left."""

    class Socket(socket.socket):
        def __init__(self, family=-1, *args, **more):
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *args, **more)

    monkeypatch.setattr(socket, "socket", Socket)


IPV6 = (socket.AF_INET6, ("::1", 9, 0, 0))


def test_a_place_for_which_there_is_no_socket_is_passed(no_ipv6, listening):
    dialling = Dialling(TCP("localhost", 1), [IPV6, listening], now=0.0)
    settle(dialling, 0.0)
    dialling.outcome.close()


def test_a_place_for_which_there_is_no_socket_may_be_the_last(no_ipv6, closed_port):
    dialling = Dialling(TCP("localhost", 1), [(socket.AF_INET, ("127.0.0.1", closed_port)), IPV6], now=0.0)
    settle(dialling, 0.0)
    assert isinstance(dialling.outcome.__cause__, ConnectionRefusedError)
    for stream in dialling.discarded:
        stream.close()


@each_driver
def test_no_driver_minds_a_family_that_is_not_there(driver, no_ipv6, monkeypatch):
    """asyncio waited for ever, and trio raised a group."""

    async def main():
        async with entered(driver.module.connect(TCP("both.example", 1))) as client:
            assert await result(client.ping()) == Pong()

    with simulated_guest(TCP("127.0.0.1", 0)) as guest:
        places = [IPV6, (socket.AF_INET, ("127.0.0.1", guest.address.port))]
        found = [(family, socket.SOCK_STREAM, 6, "", target) for family, target in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
        run(driver, main)


def test_a_slow_place_is_passed_and_given_back(full, listening):
    """The second place is tried long before a deadline, and wins; the socket of the first is to be closed."""
    dialling = Dialling(TCP("localhost", 1), [full, listening], now=0.0)
    (slow, _mask), *others = dialling.watch()
    assert not others
    assert 0 < dialling.next_deadline() <= 1
    dialling.expire(dialling.next_deadline())
    assert dialling.outcome is None or dialling.outcome is not slow
    settle(dialling, 1.0)
    assert dialling.outcome is not slow
    assert dialling.discarded == [slow]
    slow.close()
    dialling.outcome.close()


def test_a_stream_whose_preamble_fails_is_given_back():
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        dialling = Dialling(HybridVsock("/nowhere"), now=0.0, stream=ours)
        ((stream, _mask),) = dialling.watch()
        theirs.recv(100)
        theirs.sendall(b"NO\n")
        dialling.ready(stream, 0.0)
        assert isinstance(dialling.outcome, Exception)
        assert dialling.discarded == [stream]
        stream.close()


def test_what_comes_with_the_answer_of_a_preamble_is_kept():
    ours, theirs = socket.socketpair()
    with theirs, ours:
        ours.setblocking(False)
        dialling = Dialling(HybridVsock("/nowhere"), now=0.0, stream=ours)
        ((stream, _mask),) = dialling.watch()
        theirs.recv(100)
        theirs.sendall(b'OK 1024\n{"type":"pong"}\n')
        dialling.ready(stream, 0.0)
        assert dialling.outcome is stream
        assert dialling.early == b'{"type":"pong"}\n'


def test_a_dial_whose_time_is_over_has_failed():
    for now in (5.0, 6.0):
        dialling = Dialling(TCP("vm"), [NOWHERE], now=now, deadline=5.0)
        assert isinstance(dialling.outcome, ConnectError)
        assert dialling.outcome.timed_out
        assert dialling.watch() == []
    dialling = Dialling(TCP("vm"), [], now=4.9, deadline=5.0)
    assert "the name has no address" in str(dialling.outcome)


def test_a_device_that_another_program_has_open(monkeypatch):
    def busy(path):
        raise OSError(errno.EBUSY, "Device or resource busy", path)

    monkeypatch.setattr(_dialling, "Device", busy)
    dialling = Dialling(VirtioSerial("/dev/null"), now=0.0)
    assert isinstance(dialling.outcome, ConnectError)
    assert dialling.outcome.__cause__.errno == errno.EBUSY
    assert dialling.discarded == []


def test_each_place_that_is_dialled_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    dialling = Dialling(TCP("vm"), [NOWHERE], now=0.0)
    dialling.cancel()
    for sock in dialling.discarded:
        sock.close()
    assert f"dialling {NOWHERE[1]}" in caplog.text
