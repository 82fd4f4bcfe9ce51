"""Dialling without waiting: which sockets to watch, until when, and what became of it.

One plan for every driver and every event loop. `Dialling` connects to the places of an address by RFC 8305
("happy eyeballs": the next place is tried a quarter of a second after the last one, or at once when that
failed), and then runs the preambles of the address on the stream that won. It has no clock: `now` comes from the
caller. It waits for nothing: the caller watches what `watch` returns.

    dialling = Dialling(address, attempts(address, found), now=now, deadline=now + 5)
    while dialling.outcome is None:
        ... wait for one of dialling.watch(), until dialling.next_deadline() ...
        dialling.ready(stream, now)   # or, at the deadline, dialling.expire(now)
        ... close dialling.discarded, once they are no longer watched ...
"""

from __future__ import annotations

import errno
import inspect
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from stereos_proto import ConnectError, Preamble, PreambleError
from stereos_proto_io._errors import connect_error
from stereos_proto_io.addresses import Address, Attempt

from ._device import Device
from ._log import logger
from ._streams import READ_SIZE, as_stream

#: To watch a stream until it is readable. Masks are those of the standard library's `selectors`.
READ: Final = 1
#: To watch a stream until it is writable.
WRITE: Final = 2

#: Seconds after which the next place is tried while the last one is silent (RFC 8305 §5).
ATTEMPT_DELAY: Final = 0.25


def names(address: Address) -> tuple[str, int] | None:
    """Return the host and port to look up (`lookup`) before `attempts`; None where nothing is to be looked up."""
    return address.name()


def open_now(address: Address) -> Any:
    """Return what `address.open` gives, for callers that cannot await. Raises TypeError for an awaitable."""
    stream = address.open()
    if inspect.isawaitable(stream):
        if inspect.iscoroutine(stream):
            stream.close()
        raise TypeError(f"the function of {address} has to be awaited, and this client does not await")
    return stream


def lookup(host: str, port: int) -> list[Attempt]:
    """Look a host up. Blocks for as long as the system's resolver does; raises OSError (`socket.gaierror`)."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        # A label that is too long for a name.
        raise socket.gaierror(socket.EAI_NONAME, str(exc)) from exc
    return [(family, target) for family, _, _, _, target in found]


def look_up(host: str, port: int) -> list[Attempt] | OSError:
    """Look a host up as `lookup` does. Return its error: what a wait for this raises is a cancellation."""
    try:
        return lookup(host, port)
    except OSError as exc:
        return exc


def begin_lookup(host: str, port: int, tell: Callable[[list[Attempt] | OSError], object]) -> None:
    """Look a host up in a thread of its own, which calls `tell` with the addresses, or with the error.

    The system's resolver can be neither bounded nor cancelled. A daemon thread can be left to itself: neither the
    end of an event loop nor that of the interpreter waits for it.
    """
    threading.Thread(target=lambda: tell(look_up(host, port)), name=f"look up {host}", daemon=True).start()


def lookup_number(host: str, port: int) -> list[Attempt] | None:
    """Return what `lookup` would, at once, where `host` is an IP address; None where it is a name."""
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(family, target) for family, _, _, _, target in found]
    return None


def attempts(address: Address, found: Iterable[Attempt] | OSError = ()) -> list[Attempt]:
    """Return the socket families and targets to connect to, in order (§8). `found` is what a look-up gave.

    Raises ConnectError where that is an error, or where this system cannot connect to such an address.
    """
    with refused(address):
        if isinstance(found, OSError):
            raise found
        return address.attempts(found)


@contextmanager
def refused(address: Address) -> Iterator[None]:
    """Turn what the system raises in the block into a ConnectError for `address`. Wait for nothing in there."""
    try:
        yield
    except (OSError, PreambleError) as exc:
        raise connect_error(address, exc) from exc


class Dialling:
    """One dial (§8). `outcome` is None, then the stream or a ConnectError; `early` are the first bytes of the protocol.

    `stream` is one that is connected already: only the preambles are run. A character device is opened here.
    """

    def __init__(
        self,
        address: Address,
        attempts: Iterable[Attempt] = (),
        *,
        now: float,
        deadline: float | None = None,
        stream: Any = None,
    ) -> None:
        self.address = address
        self.outcome: Any = None
        self.early: bytes = b""
        # Streams that are not needed any more. The caller closes them once its loop has let go of them.
        self.discarded: list[Any] = []
        self._deadline = deadline
        self._attempts = iter(attempts)
        # Sockets that connect, in the order in which they were begun.
        self._connecting: list[socket.socket] = []
        self._next_attempt: float | None = None
        self._failure: Exception | None = None
        # The stream that won, and where its preambles stand.
        self._stream: Any = None
        self._preambles: Iterator[tuple[Preamble, float]] = iter(())
        self._preamble: Preamble | None = None
        self._patience: float | None = None
        try:
            if deadline is not None and now >= deadline:
                raise TimeoutError("no answer in time")
            if stream is None and address.device:
                stream = Device(address.device)
        except OSError as exc:
            self._stream = stream
            self._fail(exc)
        else:
            self._attempt(now) if stream is None else self._connected(as_stream(stream), now)

    def watch(self) -> list[tuple[Any, int]]:
        """Return the streams to watch, each with `READ` or `WRITE`."""
        if self.outcome is not None:
            return []
        return [(self._stream, READ)] if self._stream is not None else [(sock, WRITE) for sock in self._connecting]

    def next_deadline(self) -> float | None:
        """Return when to call `expire` next; None: not at all."""
        if self.outcome is not None:
            return None
        times = (self._deadline, self._next_attempt, self._patience)
        return min((time for time in times if time is not None), default=None)

    def ready(self, stream: Any, now: float) -> None:
        """Handle a stream of `watch` that is ready."""
        if self.outcome is not None:
            return
        if stream is self._stream:
            self._receive(now)
        elif stream in self._connecting:
            self._connecting.remove(stream)
            try:
                connected = _established(stream)
            except OSError as exc:
                self.discarded.append(stream)
                self._failure = self._failure or exc
                self._attempt(now)
            else:
                self._connected(connected, now)

    def expire(self, now: float) -> None:
        """Do what is due at `now`: give up, try the next place, or the next preamble."""
        if self.outcome is not None:
            return
        if self._deadline is not None and now >= self._deadline:
            self._fail(TimeoutError("no answer in time"))
        elif self._next_attempt is not None and now >= self._next_attempt:
            self._attempt(now)
        elif self._patience is not None and now >= self._patience:
            self._open(now)

    def cancel(self) -> None:
        """Give up, even if the dial has just succeeded. All streams become `discarded`."""
        if self.outcome is None or self.outcome is self._stream:
            self._fail(ConnectError(f"the dial to {self.address} was cancelled"))

    def _attempt(self, now: float) -> None:
        """Begin to connect to the next place. Skip places that fail at once; finish with one that connects at once."""
        self._next_attempt = None
        for family, target in self._attempts:
            logger.debug("%s: dialling %s", self.address, target)
            sock = None
            try:
                # Fails where the kernel has no such family, or the process no descriptor left: then the next place.
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                # A unix socket whose listener's queue is full says EAGAIN, and stays unconnected.
                code = sock.connect_ex(target)
                if code == errno.EINPROGRESS:
                    self._connecting.append(sock)
                    self._next_attempt = now + ATTEMPT_DELAY
                    return
                if code:
                    raise OSError(code, os.strerror(code))  # noqa: TRY301  (as what stands before it may)
                stream = _established(sock)
            except OSError as exc:
                if sock is not None:
                    sock.close()
                self._failure = self._failure or exc
            else:
                self._connected(stream, now)
                return
        if not self._connecting:
            self._fail(self._failure or OSError("the name has no address"))

    def _connected(self, stream: Any, now: float) -> None:
        self._stream = stream
        self._next_attempt = None
        self.discarded += self._connecting
        self._connecting = []
        self._preambles = self.address.preambles()
        self._open(now)

    def _open(self, now: float) -> None:
        """Begin the next preamble, or be done where none is left."""
        try:
            self._preamble, patience = next(self._preambles, (None, 0.0))
            if self._preamble is None:
                self._succeed(b"")
                return
            self._patience = now + patience
            logger.debug("%s: sending %s", self.address, type(self._preamble).__name__)
            # If the stream is full, this opening is not sent; the next preamble sends its own.
            with suppress(BlockingIOError):
                self._stream.send(self._preamble.data_to_send())
        except OSError as exc:
            self._fail(exc)

    def _receive(self, now: float) -> None:
        preamble = self._preamble
        if preamble is None:
            self._open(now)
            return
        try:
            data = self._stream.recv(READ_SIZE)
            preamble.receive_data(data) if data else preamble.receive_eof()
        except BlockingIOError:
            return
        except (OSError, PreambleError) as exc:
            self._fail(exc)
            return
        if preamble.done:
            self._succeed(preamble.trailing_data)

    def _succeed(self, early: bytes) -> None:
        self.early = early
        self.outcome = self._stream
        logger.debug("%s: connected", self.address)

    def _fail(self, cause: Exception) -> None:
        self.discarded += self._connecting
        if self._stream is not None:
            self.discarded.append(self._stream)
        self.outcome = connect_error(self.address, cause)
        logger.debug("%s: the dial failed: %s", self.address, self.outcome)


def _established(sock: socket.socket) -> Any:
    """The stream of a socket that was connecting. Raises OSError when it is not connected."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    _check_peer(sock)
    return as_stream(sock)


def _check_peer(sock: socket.socket) -> None:
    """Raise ConnectionRefusedError where `sock` is connected to itself, which is to be closed then.

    TCP allows that ("simultaneous open"). It happens where nobody listens on a local port, and the system chooses that
    very port for our end: one dial in some ten thousand.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        is_itself = sock.getsockname() == sock.getpeername()
    except OSError:
        return  # the peer has gone again, which the first read tells
    if is_itself:
        # Closing it is to free the port at once, for the guest that is to listen there: no TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
