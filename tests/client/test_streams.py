"""What a stream is made ready for, and what TLS means for one that does not block."""

import socket
import ssl
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from interrupts import interrupt_after, locals_of
from stereos_proto import ConnectionLost, HostSession, InjectSecret, Ping, Role
from stereos_proto_io.driver import as_stream
from stereos_proto_io.driver._streams import Encrypted, closed_on_error, make_raw, read, write

from .guests import PING, PONG, anonymous


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


def test_a_read_says_whether_there_were_bytes():
    ours, theirs = socket.socketpair()
    session = HostSession()
    call = session.request(Ping())
    with ours, theirs:
        ours.setblocking(False)
        assert write(session, ours) is False
        assert theirs.recv(100) == PING
        assert read(session, ours) is False, "there was nothing"
        theirs.sendall(PONG)
        assert read(session, ours, len(PONG) - 1) is True
        assert read(session, ours) is True
        session.next_event()
        assert call.done
        theirs.close()
        assert read(session, ours) is False, "that was the end"
        session.next_event()
        assert session.ended is not None
        assert write(session, ours) is False


def test_a_stream_that_fails_is_read_and_written_no_more():
    ours, theirs = socket.socketpair()
    session = HostSession()
    session.request(Ping())
    with ours, theirs:
        theirs.sendall(PONG)
        assert write(session, ours) is False
        theirs.close()  # with unread bytes: a reset
        session.request(Ping())
        assert write(session, ours) is False
        assert read(session, ours) is True, "what came before"
        assert read(session, ours) is False
    assert not session.wants_write


@pytest.mark.parametrize("move", [read, write])
def test_an_interrupt_between_stream_and_session_ends_the_session(move):
    ours, theirs = socket.socketpair()
    session = HostSession()
    session.request(InjectSecret("NAME", "s3nt1nel"))
    with ours, theirs:
        theirs.sendall(b'{"type":"s3nt1nel')
        with pytest.raises(KeyboardInterrupt) as caught:
            move(session, SimpleNamespace(recv=interrupt_after(ours.recv), send=interrupt_after(ours.send)))
    assert isinstance(session.ended, ConnectionLost)
    assert session.data_to_send() == b""
    assert "s3nt1nel" not in locals_of(caught.value)


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, BlockingIOError])
@pytest.mark.parametrize(("role", "move"), [(Role.GUEST, read), (Role.HOST, write)])
def test_what_the_trace_raises_is_no_error_of_the_stream(error, role, move):
    def trace(sender, _data):
        assert sender is role
        raise error("a full disk")

    ours, theirs = socket.socketpair()
    session = HostSession(trace=trace)
    session.request(Ping())
    with ours, theirs:
        theirs.sendall(PONG)
        with pytest.raises(error, match="a full disk"):
            move(session, ours)
    assert isinstance(session.ended, ConnectionLost)


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
    fileno = shutdown = close = do_handshake = version = recv


@pytest.fixture
def over_tls():
    """Both ends of a connection by TLS that takes little at a time: ours is a stream, `drain` reads theirs."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(20)
    theirs.settimeout(20)
    guest = anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=guest.do_handshake)
    thread.start()
    with anonymous(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(ours) as sock, guest:
        thread.join(20)
        guest.setblocking(False)
        yield as_stream(sock), guest


def drain(guest):
    """All that has come wholly."""
    found = b""
    with suppress(ssl.SSLWantReadError):
        while True:
            found += guest.recv(1 << 16)
    return found


def test_what_tls_has_encrypted_counts_as_sent(over_tls):
    """Also where what comes after it changes, such as by a request that is withdrawn."""
    stream, guest = over_tls
    data, taken, received, rounds = b"\0" * 300_000, b"", b"", 0
    while len(taken) < len(data):
        with suppress(BlockingIOError):
            while size := stream.send(memoryview(data)[len(taken) :]):
                taken += data[len(taken) : len(taken) + size]
        # The rest of a request that has begun stays as it is.
        rounds += 1
        begun = len(taken) + 1
        data = data[:begun] + bytes([rounds % 256]) * (len(data) - begun)
        received += drain(guest)
        assert taken.startswith(received)
    assert rounds > 10
    assert received + drain(guest) == taken


def test_a_record_of_one_byte_is_not_counted_before_it_left():
    tls = TLS(ssl.SSLWantWriteError(), "TLSv1.3", ssl.SSLWantWriteError(), 1)
    stream = Encrypted(tls)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            stream.send(b"a")
    assert stream.send(b"abc") == 1
    assert not tls.outcomes


def test_of_a_record_of_two_bytes_the_first_is_counted_at_once():
    stream = Encrypted(TLS(ssl.SSLWantWriteError(), "TLSv1.3", 2))
    assert stream.send(b"ab") == 1
    assert stream.send(b"b") == 1


def test_a_write_of_tls_may_have_to_read_first():
    during = (ssl.SSLWantReadError(), None, ssl.SSLWantReadError(), b"x", ssl.SSLWantWriteError(), None)
    stream = Encrypted(TLS(*during, 3))
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
