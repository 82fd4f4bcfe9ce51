"""Streams that a client reads and writes by itself: sockets, sockets of TLS, character devices.

A stream has `fileno`, `recv`, `send` and `close`, as sockets have, and never blocks: `recv` and `send` raise
BlockingIOError where they would have to wait.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from stereos_proto import HostSession, forget_locals
from stereos_proto_io._errors import connect_error
from stereos_proto_io.addresses import Address

if TYPE_CHECKING:
    import asyncio

#: Bytes that one read asks for.
READ_SIZE: Final = 64 * 1024

#: Bytes of a TLS record. OpenSSL takes longer data one record after the other, and says only at the end of all of them
#: how much it took.
_RECORD: Final = 16 * 1024

#: Events that are worked through before other callers, and other guests, have their turn.
EVENTS_PER_TURN: Final = 64


class Stream(Protocol):
    """What a driver that waits for descriptors reads and writes (§8): a socket, or an object with its four methods.

    The rules for an object of your own:

    * It never waits. `recv` and `send` raise BlockingIOError where they would have to.
    * One descriptor stands for both directions: the driver waits until it is readable, or until it is writable. So two
      pipes are no stream. Give a child process one end of `socket.socketpair()` as its stdin and its stdout.
    * `recv` keeps no bytes back that it could return, since the descriptor does not report them. It returns all of
      them, even if they are more than `size`.
    * `send` does not count bytes that it still holds: once all bytes are counted, the driver stops waiting until the
      descriptor is writable. A stream that packs its bytes counts the last byte of a packet when the whole packet has
      left. Until then the driver goes on calling `send`, with data that begins with that byte.
    * `reads_to_write` is an attribute that it may have. While it is true, `send` first has to read something, as during
      a handshake: the driver waits until the descriptor is readable, and then calls `recv` and `send`.
    * `setblocking` and `shutdown` are called as those of a socket, if it has them.
    * It is hashable, and equal to itself only.
    """

    def fileno(self) -> int:
        """Return the descriptor, to wait on; -1 when it is closed."""
        ...

    def recv(self, size: int, /) -> bytes:
        """Read about `size` bytes, b"" at the end. Raises BlockingIOError when there are none yet, OSError."""
        ...

    def send(self, data: bytes | memoryview, /) -> int:
        """Write, and return how many bytes have left. Raises BlockingIOError when none can, OSError."""
        ...

    def close(self) -> None:
        """Close it. Twice is fine."""
        ...


def read(session: HostSession, stream: Stream, size: int = READ_SIZE) -> bool:
    """Read once without waiting, and tell the session: bytes, the end, or an error. Return whether there were bytes.

    An exception between `recv` and the session, such as a KeyboardInterrupt, ends the session: bytes are lost, so later
    replies would be taken for those of other requests. `write` does the same: otherwise a caller that goes on would
    write the same bytes again.
    """
    data = b""
    try:
        try:
            data = stream.recv(size)
        except BlockingIOError:
            return False
        except OSError as exc:
            session.read_failed(exc)
            return False
        if data:
            session.receive_data(data)
            return True
        session.receive_eof()
    except BaseException as exc:
        data = b""  # which a traceback with local variables would show
        session.abort()
        forget_locals(exc)
        raise
    return False


def write(session: HostSession, stream: Stream) -> bool:
    """Write what the stream takes without waiting. Return whether there is more, for when it is writable."""
    data: bytes | memoryview = b""
    try:
        while data := session.data_to_send():
            try:
                size = stream.send(data)
            except BlockingIOError:
                return not getattr(stream, "reads_to_write", False)
            except OSError as exc:
                session.write_failed(exc)
                return False
            # What `trace` raises here is not an error of the stream.
            if not session.data_sent(size):
                return False
    except BaseException as exc:
        data = b""  # as in `read`
        session.abort()
        forget_locals(exc)
        raise
    return False


class Encrypted:
    """A socket of TLS as a stream (§8). `send` may have to read first: while it does, `reads_to_write` is True.

    Waiting until such a socket is writable would return at once, again and again, for as long as the peer of an
    unfinished handshake is silent.

    `send` counts what may reach the guest. A record that OpenSSL has encrypted goes out even if the socket is full now:
    OpenSSL wants the same data again, and says that it has taken nothing. So such a record is kept here and given to
    OpenSSL again, and all of it but its last byte is counted as taken at once. Otherwise its requests would be reported
    as not sent if the connection ended then; and after a cancelled one was withdrawn, the bytes of the next request
    would be counted while those of the cancelled one left. The last byte is not counted, so that the caller goes on.
    """

    def __init__(self, sock: Any) -> None:
        import ssl  # noqa: PLC0415  (a caller with such a socket has loaded it; others need not)

        self._want_read, self._want_write = ssl.SSLWantReadError, ssl.SSLWantWriteError
        self._recv, self._send, self._version = sock.recv, sock.send, sock.version
        # A record that OpenSSL has encrypted, and that has not left wholly.
        self._begun = b""
        self.reads_to_write: bool = False
        self.fileno: Callable[[], int] = sock.fileno
        self.shutdown: Callable[[int], None] = sock.shutdown
        self.close: Callable[[], None] = sock.close

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        try:
            data: bytes = self._recv(size)
        except (self._want_read, self._want_write) as exc:
            self.reads_to_write = False  # what it waited for has come; `send` is to try again
            raise BlockingIOError from exc
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Write some of `data`, at most a record."""
        self.reads_to_write = False
        # Not bytes, which a traceback with local variables would show.
        record = memoryview(self._begun or data)[:_RECORD]
        try:
            self._send(record)
        except (self._want_read, self._want_write) as exc:
            self.reads_to_write = isinstance(exc, self._want_read)
            # During the handshake nothing is encrypted yet.
            if not self._begun and self._version() is not None:
                self._begun = bytes(record)
                if len(record) > 1:
                    return len(record) - 1
            raise BlockingIOError from exc
        if self._begun:
            self._begun = b""
            return 1
        return len(record)


@contextmanager
def closed_on_error(stream: Any) -> Iterator[None]:
    """Close `stream` when the block raises: nothing owns it yet."""
    try:
        yield
    except BaseException:
        # A stream of trio's has `aclose` only, and nothing here can await that.
        getattr(stream, "close", bool)()
        raise


@contextmanager
def handed_over(stream: Any, address: Address) -> Iterator[None]:
    """Close `stream`, which a dial to `address` gave, when the block cannot make a client of it.

    Raises ConnectError for an OSError: the stream broke between the dial and the client.
    """
    try:
        with closed_on_error(stream):
            yield
    except OSError as exc:
        raise connect_error(address, exc) from exc


def make_raw(sock: socket.socket) -> None:
    """Make `sock` ready for asyncio: it does not block. Raises TypeError when it speaks TLS, OSError when it is closed.

    asyncio refuses such a socket, and uvloop would write to the descriptor below it, in the clear.
    """
    if hasattr(sock, "do_handshake"):
        raise TypeError(
            "asyncio takes no socket that speaks TLS already; give it what "
            "`asyncio.open_connection(host, port, ssl=context)` returns"
        )
    _check_open(sock)
    sock.setblocking(False)


def one_pair(streams: tuple[Any, ...]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a reader and its writer. Raises TypeError where they do not belong to one transport of asyncio."""
    from asyncio import StreamReader, StreamWriter  # noqa: PLC0415  (a caller with such a pair has loaded it)

    reader, writer = streams if len(streams) == 2 else (None, None)
    if isinstance(reader, StreamReader) and isinstance(writer, StreamWriter):
        # asyncio has no public way to ask a reader. After `start_tls` it still has the transport below that of TLS.
        source = getattr(reader, "_transport", None)
        if source in (None, writer.transport) or writer.get_extra_info("sslcontext") is not None:
            return reader, writer
    raise TypeError(
        "a pair is the StreamReader and the StreamWriter of one connection; for a child process pass a socket: "
        "one end of `socket.socketpair()`, whose other end is the child's stdin and stdout"
    )


def _check_open(stream: Any) -> None:
    """Raise OSError where a stream is closed."""
    if stream.fileno() < 0:
        raise OSError(errno.EBADF, "the stream is closed already")


def check_stream(stream: Any, *names: str) -> None:
    """Raise TypeError where a stream lacks one of its methods."""
    if missing := [name for name in names if not hasattr(stream, name)]:
        raise TypeError(f"{type(stream).__name__} is no stream: it has no {' and no '.join(missing)}")


def check_usable(stream: Any) -> None:
    """Raise TypeError where `stream` is none that `as_stream` takes, OSError (EBADF) where it is closed."""
    check_stream(stream, "fileno", "recv", "send", "close")
    _check_open(stream)


def as_stream(stream: Any) -> Any:
    """Return `stream`, a connected socket or another `Stream`, made ready: it does not block (§8).

    A socket may be one of TLS, which becomes an `Encrypted`.

    Raises TypeError when it is no stream, OSError (EBADF) when it is closed.
    """
    check_usable(stream)
    if hasattr(stream, "setblocking"):
        stream.setblocking(False)
    if isinstance(stream, socket.socket) and stream.family in (socket.AF_INET, socket.AF_INET6):
        # A request is one write: there is nothing to wait for that would fill the segment.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Encrypted(stream) if hasattr(stream, "do_handshake") else stream
