"""Which place of a name is tried when, and what becomes of the streams that are not needed: `driver.Dialling` alone."""

import select
import socket

import pytest

from stereos_proto_io import TCP, HybridVsock
from stereos_proto_io.driver import Dialling

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


def test_the_first_place_that_failed_is_named(closed_port):
    dialling = Dialling(TCP("localhost", 1), [NOWHERE, (socket.AF_INET, ("127.0.0.1", closed_port))], now=0.0)
    settle(dialling, 0.0)
    assert isinstance(dialling.outcome.__cause__, FileNotFoundError)
    for stream in dialling.discarded:
        stream.close()


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
