"""Streams that a client reads and writes by itself: sockets, sockets of TLS, character devices.

A stream has `fileno`, `recv`, `send` and `close`, as sockets have, and never blocks: `recv` and `send` raise
BlockingIOError where they would have to wait.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

#: Bytes that one read asks for.
READ_SIZE: Final = 64 * 1024

#: Events that are worked through before other callers, and other guests, have their turn.
EVENTS_PER_TURN: Final = 64


class Stream(Protocol):
    """What `as_stream` returns (§8)."""

    def fileno(self) -> int:
        """Return the descriptor, to wait on; -1 when it is closed."""
        ...

    def recv(self, size: int, /) -> bytes:
        """Read up to `size` bytes, b"" at the end. Raises BlockingIOError when there are none yet, OSError."""
        ...

    def send(self, data: bytes | memoryview, /) -> int:
        """Write, and return how many bytes were taken. Raises BlockingIOError when none can be, OSError."""
        ...

    def close(self) -> None:
        """Close it. Twice is fine."""
        ...


class Encrypted:
    """A socket of TLS as a stream (§8). `send` may have to read first: while it does, `reads_to_write` is True.

    Waiting until such a socket is writable would return at once, again and again, for as long as the peer of an
    unfinished handshake is silent.
    """

    def __init__(self, sock: Any) -> None:
        import ssl  # noqa: PLC0415  (a caller with such a socket has loaded it; others need not)

        self._want_read, self._want_write = ssl.SSLWantReadError, ssl.SSLWantWriteError
        self._recv, self._send = sock.recv, sock.send
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
        """Write some of `data`."""
        self.reads_to_write = False
        try:
            size: int = self._send(data)
        except self._want_read as exc:
            self.reads_to_write = True
            raise BlockingIOError from exc
        except self._want_write as exc:
            raise BlockingIOError from exc
        return size


@contextmanager
def closed_on_error(stream: Any) -> Iterator[None]:
    """Close `stream` when the block raises: nothing owns it yet."""
    try:
        yield
    except BaseException:
        # A stream of trio's has `aclose` only, and nothing here can await that.
        getattr(stream, "close", bool)()
        raise


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
    """Return `stream`, a connected socket or what reads and writes like one, made ready: it does not block (§8).

    Raises TypeError when it is no stream, OSError (EBADF) when it is closed.
    """
    check_usable(stream)
    if hasattr(stream, "setblocking"):
        stream.setblocking(False)
    if isinstance(stream, socket.socket) and stream.family in (socket.AF_INET, socket.AF_INET6):
        # A request is one write: there is nothing to wait for that would fill the segment.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Encrypted(stream) if hasattr(stream, "do_handshake") else stream
