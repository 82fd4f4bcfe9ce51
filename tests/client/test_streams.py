"""What a stream is made ready for, and what TLS means for one that does not block."""

import socket
import ssl

import pytest

from stereos_proto_io.driver import as_stream
from stereos_proto_io.driver._streams import Encrypted, closed_on_error, make_raw


def test_a_tcp_socket_sends_each_write_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert as_stream(sock) is sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.gettimeout() == 0


@pytest.mark.parametrize("ready", [as_stream, make_raw])
def test_a_stream_does_not_block(ready):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ready(ours)
        assert ours.gettimeout() == 0


def test_what_nothing_owns_yet_is_closed_by_an_error():
    for error in (ZeroDivisionError, KeyboardInterrupt):
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(error), closed_on_error(ours):
            raise error
        assert ours.fileno() == -1
    # A stream of trio's can only be closed by awaiting.
    with pytest.raises(ZeroDivisionError), closed_on_error(object()):
        raise ZeroDivisionError
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with closed_on_error(ours):
            pass
        assert ours.fileno() >= 0


class TLS:
    """A socket of TLS: each call raises or returns what is next."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def recv(self, *_arguments):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    send = recv
    fileno = shutdown = close = do_handshake = recv


def test_a_write_of_tls_may_have_to_read_first():
    stream = Encrypted(TLS(ssl.SSLWantReadError(), ssl.SSLWantReadError(), b"x", ssl.SSLWantWriteError(), 3))
    assert stream.reads_to_write is False
    with pytest.raises(BlockingIOError):
        stream.send(b"abc")
    assert stream.reads_to_write is True
    # What it waited for has come, or not wholly: `send` is to try again.
    with pytest.raises(BlockingIOError):
        stream.recv(10)
    assert stream.reads_to_write is False
    assert stream.recv(10) == b"x"
    with pytest.raises(BlockingIOError):
        stream.send(b"abc")
    assert stream.reads_to_write is False
    assert stream.send(b"abc") == 3


def test_a_read_of_tls_may_have_to_write_first():
    stream = Encrypted(TLS(ssl.SSLWantWriteError(), b"x"))
    with pytest.raises(BlockingIOError):
        stream.recv(10)
    assert stream.recv(10) == b"x"
