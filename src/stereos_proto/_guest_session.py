"""One connection seen from the guest, without IO: requests come out, replies go in (`docs/protocol.md` §1, §3).

`Connection` knows lines and their order. What a guest needs beyond it is here: which request still waits for its
reply, how much may wait, when the reply's bytes leave, and when the connection is over. The shape is that of the host's
session: bytes in, events pulled out, bytes to send peeked at and counted. Nothing here calls the code that uses it.

**Order.** Handlers may finish in any order; replies carry no number, so they leave in the order of the requests (§3). A
reply that is ready early waits in its `PendingRequest` until all before it have left.

**Backpressure.** A host can ask faster than it reads the answers. The session bounds what waits in two places: requests
that have no reply yet, and bytes that are not yet written. Over either bound `next_event` hands out no further request,
although it may have been received, and `wants_data` is False, so that the driver stops reading and the kernel's window
closes. The rest of what was received already waits as bytes. After a reply, or after bytes were sent, pull again.

**The end.** A host that shuts its writing side down still reads (§1), so the end of its stream only stops reading:
the replies that are owed go out first, and then the session says `SessionEnded`. An acknowledged `Shutdown` ends the
session with its `Ack` as the last line (§6).

**Streams without connections** (a virtio-serial port, §8) have no end. There `receive_eof` and `write_failed` change
nothing, because the next host continues the same stream, half lines included. What would close a connection (a line
that is too long) starts the session anew instead.

**An exception in the middle ends the session**, or starts a stream without connections anew. A signal handler may raise
at any place, such as KeyboardInterrupt. By then a request may be taken from the connection and not yet handed out, so
that each later reply would answer the wrong request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, Literal

import attrs

from ._connection import REFUSED_DATA, Connection
from ._constants import MAX_LINE_SIZE
from ._errors import ConnectionLost, IncompleteLine, LocalProtocolError, RemoteProtocolError, StereosError, reason_of
from ._events import NEED_DATA, ConnectionClosed, MalformedReceived, Need, RequestReceived, SessionEnded
from ._frames import forget_locals
from ._messages import Ack, Lifecycle, Reply, Request, Shutdown, with_article
from ._registry import Role

#: Requests without a reply, per connection. A host keeps at most 128 in flight, and 64 handlers at work for one host
#: are more than a small guest wants.
MAX_UNANSWERED: Final = 64
#: Bytes of replies that wait to be written, per connection: more than a socket buffer takes at once, so that the writer
#: is never idle, and little enough for thousands of hosts that do not read.
MAX_UNSENT: Final = 256 * 1024
#: Bytes of replies that are joined into one write.
_JOIN: Final = 64 * 1024


@attrs.define(eq=False, slots=True)
class PendingRequest:
    """A request that is owed a reply (§3): give it to `GuestSession.reply`."""

    #: What the host asks for.
    request: Request
    #: What will answer it, once that is known; None before.
    reply: Reply | None = attrs.field(default=None, repr=False)
    # The session that handed it out.
    _owner: Any = attrs.field(default=None, repr=False, alias="owner")


@attrs.frozen
class ReplyReplaced:
    """The reply to `pending` could not be sent, because of `error`; the host gets a refusal that says so.

    It was of the wrong type, too long (§1), or could not be written faithfully (§5): a mistake of the handler.
    """

    pending: PendingRequest
    error: LocalProtocolError


GuestEvent = PendingRequest | MalformedReceived | ReplyReplaced | SessionEnded


class GuestSession:
    """One connection from a host, or with `has_connections=False` one stream without connections (§8).

    After `receive_data`, `receive_eof`, `reply` and `data_sent`, pull `next_event` until it returns NEED_DATA, then
    write what `data_to_send` returns. Not thread-safe: one thread at a time.

    `connection` is the `Connection` below; a stream without connections gets a new one when it starts anew.
    """

    connection: Connection

    def __init__(
        self,
        *,
        has_connections: bool = True,
        max_unanswered: int = MAX_UNANSWERED,
        max_unsent: int = MAX_UNSENT,
        max_line_size: int = MAX_LINE_SIZE,
    ) -> None:
        """`max_unanswered` bounds the requests without a reply (the default is what a small guest works on for one
        host), `max_unsent` the bytes that wait to be written (the default keeps a fast host busy), `max_line_size` a
        line in bytes (§1).

        Raises ValueError when a bound is below 1, or a line below 64 bytes.
        """
        if max_unanswered < 1 or max_unsent < 1:
            raise ValueError("max_unanswered and max_unsent must be at least 1")
        self.has_connections = has_connections
        self._max_unanswered = max_unanswered
        self._max_unsent = max_unsent
        self._max_line_size = max_line_size
        self.restart()

    def restart(self) -> None:
        """Forget everything, as a reboot does: half lines, requests, replies that were not sent."""
        self._lines: deque[bytes] = deque()  # encoded, not yet in the chunk
        self._chunk = b""  # handed out by data_to_send, so it goes out before anything else
        self._offset = 0  # bytes of the chunk that are sent
        self._unsent = 0  # bytes of lines and chunk that are not sent
        self._shut_down = False
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Start reading anew. What is encoded already still goes out."""
        self.connection = Connection(Role.GUEST, max_line_size=self._max_line_size)
        self._pending: deque[PendingRequest] = deque()
        self._replaced: deque[ReplyReplaced] = deque()
        self._reading = True
        self._said_end = False
        self._error: StereosError | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return self.connection.__reduce__()

    def __repr__(self) -> str:
        return f"<GuestSession pending={len(self._pending)} unsent={self._unsent} ended={self.ended}>"

    # -- state ---------------------------------------------------------------------------------------------

    @property
    def pending(self) -> tuple[PendingRequest, ...]:
        """The requests and refused lines whose reply has not been encoded yet, oldest first."""
        return tuple(self._pending)

    @property
    def wants_data(self) -> bool:
        """Whether to read on. False while too much waits to be answered or written, and after the end."""
        return self._reading and len(self._pending) < self._max_unanswered and self._unsent < self._max_unsent

    @property
    def wants_write(self) -> bool:
        """Whether `data_to_send` would return bytes."""
        return self._unsent > 0

    @property
    def ended(self) -> bool:
        """Whether the session is over: all replies that were owed are written, or the connection was lost or closed."""
        return not (self._reading or self._pending or self._unsent)

    @property
    def shut_down(self) -> bool:
        """Whether the session has ended because a `Shutdown` was acknowledged: the guest powers off now (§6)."""
        return self._shut_down and not self._unsent

    # -- reading -------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the host. They are dropped once nothing more is read.

        Raises TypeError when `data` is not bytes, RuntimeError after `receive_eof`; nothing was taken then.
        """
        if self._reading:
            try:
                self.connection.receive_data(data)
            except BaseException as exc:
                data = b""
                if not isinstance(exc, REFUSED_DATA):
                    self._interrupted()
                forget_locals(exc)
                raise

    def receive_eof(self) -> None:
        """Record that the host sends no more. It still gets the replies that it is owed (§1)."""
        if self._reading and self.has_connections:
            self.connection.receive_eof()

    def events(self) -> Iterator[GuestEvent]:
        """Yield events until there are none. Reply within the loop as you like: that makes room for the next."""
        while (event := self.next_event()) is not NEED_DATA:
            yield event

    def next_event(self) -> GuestEvent | Literal[Need.DATA]:
        """Return what happened next, or NEED_DATA. Raises nothing of its own.

        A `PendingRequest` is to be carried out and given back to `reply`. A `MalformedReceived` has already been
        refused; the event is for logs. A `ReplyReplaced` reports a mistake of the handler. `SessionEnded` is the last
        event, and comes when all replies that are owed are written: close the connection then. Its `error` is None if
        the host ended the stream properly or `close` was called.
        """
        try:
            if self._replaced:
                # Not `popleft`: an interrupt right after it would lose the event.
                replaced = self._replaced[0]
                del self._replaced[0]
                return replaced
            while self._reading:
                # The condition of `wants_data`, written out because this runs for every request.
                if len(self._pending) >= self._max_unanswered or self._unsent >= self._max_unsent:
                    return NEED_DATA
                try:
                    event = self.connection.next_event()
                except RemoteProtocolError as exc:
                    return self._stop_reading(exc)
                if type(event) is RequestReceived:
                    pending = PendingRequest(event.message, owner=self)
                    self._pending.append(pending)
                    return pending
                if type(event) is MalformedReceived:
                    self._refuse(event)
                    return event
                if type(event) is not ConnectionClosed:
                    return NEED_DATA
                self._reading = False
            return self._end()
        except BaseException:
            self._interrupted()
            raise

    def _stop_reading(self, error: RemoteProtocolError) -> GuestEvent | Literal[Need.DATA]:
        self._reading = False
        self._error = error.with_traceback(None)  # its frames hold bytes of the host
        if isinstance(error, IncompleteLine):
            # The reference also answers a partial last line: the host may have closed only its own direction, and still
            # read (§1).
            event = MalformedReceived(error)
            self._refuse(event)
            return event
        return self._end()

    def _refuse(self, event: MalformedReceived) -> None:
        reply = event.reply
        self._pending.append(PendingRequest(self.connection.pending[-1], reply, owner=self))
        self._flush()

    def _end(self) -> SessionEnded | Literal[Need.DATA]:
        if self._reading or self._said_end or self._pending:
            return NEED_DATA
        if not self.has_connections and not self._shut_down and not self._closed:
            self._begin()
            return NEED_DATA
        if self._unsent:
            return NEED_DATA
        self._said_end = True
        return SessionEnded(self._error)

    # -- replying ------------------------------------------------------------------------------------------

    def reply(self, pending: PendingRequest, message: Any) -> None:
        """Answer `pending`. The reply leaves once all before it have (§3).

        What cannot be sent is replaced by a refusal, and `next_event` tells it (`ReplyReplaced`). A second reply is
        dropped, and so is one to a request of before `restart` or after the end.

        Raises ValueError for a request of another session, TypeError when `pending` is no `PendingRequest`.
        """
        if not isinstance(pending, PendingRequest):
            raise TypeError(f"reply takes the PendingRequest of the event, not {with_article(type(pending))}")
        if pending._owner is not self:
            raise ValueError("this request belongs to another session")
        if pending.reply is None:
            try:
                pending.reply = message if isinstance(message, Reply) else self._no_reply(pending, message)
                if self._pending and self._pending[0] is pending:
                    self._flush()
            except BaseException:
                self._interrupted()
                raise

    def push(self, lifecycle: Lifecycle) -> bool:
        """Queue a notification. Returns False, and sends nothing, when too many bytes wait to be written or the
        session ends.

        Raises LocalProtocolError, and sends nothing, when it cannot be sent as it is (§1, §5).
        """
        if self._unsent >= self._max_unsent or self._shut_down or self._said_end or self.ended:
            return False
        try:
            self._enqueue(self.connection.send(lifecycle))
        except LocalProtocolError:
            raise
        except BaseException:
            self._interrupted()
            raise
        return True

    def _enqueue(self, line: bytes) -> None:
        self._lines.append(line)
        self._unsent += len(line)

    def _no_reply(self, pending: PendingRequest, result: object) -> Ack:
        text = f"the handler returned {with_article(type(result))}, which is not a reply"
        self._replaced.append(ReplyReplaced(pending, LocalProtocolError(text)))
        return Ack(pending.request.type, False, f"internal error: {text}")

    def _flush(self) -> None:
        """Encode the replies whose turn it is."""
        while self._pending and (reply := self._pending[0].reply) is not None:
            pending = self._pending.popleft()
            self._enqueue(self._line(pending, reply))
            if type(pending.request) is Shutdown and isinstance(pending.reply, Ack) and pending.reply.ok:
                self._shut_down = True
                self._stop()

    def _line(self, pending: PendingRequest, reply: Reply) -> bytes:
        try:
            return self.connection.send(reply)
        except LocalProtocolError as exc:
            error = exc.with_traceback(None)
        self._replaced.append(ReplyReplaced(pending, error))
        text = f"internal error: {error}"
        # A host may have chosen a type that is as long as a line.
        for refusal in (Ack(pending.request.type, False, text), Ack("", False, text)):
            pending.reply = refusal
            with suppress(LocalProtocolError):
                return self.connection.send(refusal)
        pending.reply = Ack("", False)
        return self.connection.send(pending.reply)

    def _stop(self) -> None:
        self._reading = False
        self._pending.clear()

    # -- writing -------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes | memoryview:
        """Return the bytes to write next, b"" when there are none. Say `data_sent` before you ask again.

        These bytes are committed: every call returns them again until `data_sent` has counted them.
        """
        if not self._chunk and self._lines:
            try:
                self._chunk = self._lines.popleft()
                if self._lines and len(self._chunk) < _JOIN:
                    self._join()
            except BaseException:
                self._interrupted()
                raise
        return memoryview(self._chunk)[self._offset :] if self._offset else self._chunk

    def _join(self) -> None:
        lines, size = [self._chunk], len(self._chunk)
        while self._lines and size < _JOIN:
            line = self._lines.popleft()
            lines.append(line)
            size += len(line)
        self._chunk = b"".join(lines)

    def data_sent(self, size: int) -> None:
        """Record that the first `size` bytes of `data_to_send` are written; more than there are count as all of them.

        Raises ValueError when that is below 0.
        """
        if size < 0:
            raise ValueError(f"{size} bytes cannot have been written")
        # A thread may have been writing when the session was restarted or closed: those bytes are forgotten.
        size = min(size, len(self._chunk) - self._offset)
        self._unsent -= size
        self._offset += size
        if self._offset == len(self._chunk):
            self._chunk = b""
            self._offset = 0

    # -- ending --------------------------------------------------------------------------------------------

    def write_failed(self, exc: BaseException) -> None:
        """Record that the host cannot be written to any more: the session ends, and drops what it owes.

        On a stream without connections nothing changes: what was not written is for the next host (§8).
        """
        if self.has_connections and not self._said_end:
            lost = ConnectionLost(f"the connection to the host broke ({reason_of(exc)})")
            lost.__cause__ = exc.with_traceback(None)
            self._error = lost
            self._drop()

    def close(self) -> None:
        """End the session now: nothing more is read or written. Closing twice is fine."""
        self._closed = True
        self._drop()

    def _interrupted(self) -> None:
        """End the session, or start a stream without connections anew: the state of an interrupted step is unknown."""
        if not self.has_connections:
            self.restart()
        elif not self._said_end:
            self._error = ConnectionLost("the session was interrupted", closed_here=True)
            self._drop()

    def _drop(self) -> None:
        self._stop()
        self._lines.clear()
        self._chunk = b""
        self._offset = self._unsent = 0
