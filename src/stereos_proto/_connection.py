"""The protocol for one connection and one end of it: bytes in, events and bytes out (`docs/protocol.md`).

No sockets, no clock, no randomness, no threads. The caller brings bytes and takes bytes, one thread at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, Never, cast

from ._codec import reader, write
from ._constants import MAX_LINE_SIZE, MAX_PENDING
from ._errors import (
    IncompleteLine,
    InvalidMessage,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    Refusal,
    RemoteProtocolError,
    UnexpectedReply,
)
from ._events import (
    NEED_DATA,
    ConnectionClosed,
    Event,
    MalformedReceived,
    Need,
    NotificationReceived,
    ReplyReceived,
    RequestReceived,
    UnknownReceived,
)
from ._frames import forget_locals
from ._framing import TOO_LONG, LineReader
from ._messages import Message, Reply, Request, UnknownMessage, named
from ._registry import BY_CLASS, BY_TYPE, Kind, Role, row_of
from ._state import Conversation, State, Violation, unexpected

#: Kind of message → the event that reports it. `UnknownMessage` has an event of its own.
_BY_KIND: Final[dict[Kind, type[Any]]] = {
    Kind.REQUEST: RequestReceived,
    Kind.REPLY: ReplyReceived,
    Kind.NOTIFICATION: NotificationReceived,
}
_EVENTS: Final[dict[type[Any], type[Any]]] = {
    **{row.cls: _BY_KIND[row.kind] for row in BY_CLASS.values()},
    UnknownMessage: UnknownReceived,
}
_new: Final[Callable[[type[Any]], Any]] = object.__new__

#: What `Connection.receive_data` raises where it has taken nothing.
REFUSED_DATA: Final = (TypeError, ValueError, BufferError, RuntimeError)


class Connection:
    """One end of one connection between a host and a guest.

    Feed it with `receive_data` and `receive_eof`, ask it with `next_event`, and write what `send` returns:
    all of it, in that order, and nothing in between. The same class serves both roles.

    `max_line_size` bounds a line in bytes, its ending included, in both directions (§1). `max_pending` bounds
    the requests that a host has in flight (§1); a guest bounds them by reading no further.
    """

    def __init__(self, our_role: Role, *, max_line_size: int = MAX_LINE_SIZE, max_pending: int = MAX_PENDING) -> None:
        """Raises ValueError when a limit is below 1 request or 64 bytes.

        Raises TypeError when a limit is no whole number, or the role no `Role`.
        """
        if not isinstance(our_role, Role):
            raise TypeError("our_role must be Role.HOST or Role.GUEST")
        if not (isinstance(max_line_size, int) and isinstance(max_pending, int)):
            raise TypeError("max_line_size and max_pending must be whole numbers")
        # 64 bytes hold the acknowledgement of every known request.
        if max_line_size < 64 or max_pending < 1:
            raise ValueError("max_line_size must be at least 64 bytes, and max_pending at least 1 request")
        self.our_role = our_role
        self.their_role: Role = our_role.peer
        self._max_line_size = max_line_size
        self._max_pending = max_pending
        self._lines = lines = LineReader(max_line_size)
        self._conversation = conversation = Conversation()
        # Bound once: these four are called for every message.
        self._feed = lines.feed
        self._next_line = lines.next_line
        self._read = reader(self.their_role)
        self._take = conversation.message
        self._is_host = our_role is Role.HOST
        self._error: RemoteProtocolError | None = None
        self._eof = False
        self._said_closed = False

    def __reduce__(self) -> Never:
        raise TypeError(
            f"a {type(self).__name__} belongs to one stream and may hold secrets, so it is neither copied nor pickled"
        )

    def __repr__(self) -> str:
        return (
            f"<Connection {self.our_role.value} ours={self.our_state.value} theirs={self.their_state.value} "
            f"pending={len(self._conversation.pending)}>"
        )

    @property
    def our_state(self) -> State:
        """Whether we may still send."""
        return self._conversation.states[self.our_role]

    @property
    def their_state(self) -> State:
        """Whether the peer may still send, as far as events were handed out."""
        return self._conversation.states[self.their_role]

    @property
    def pending(self) -> tuple[Request, ...]:
        """The requests without a reply, oldest first. Host role: ours. Guest role: those that we owe.

        In the guest role, a line that could not be read counts as a `CustomRequest` of its type.
        """
        return tuple(self._conversation.pending)

    @property
    def lifecycle(self) -> str | None:
        """The state that the guest told last, in a health report or a notification; None before the first."""
        return self._conversation.lifecycle

    @property
    def trailing_data(self) -> bytes:
        """The bytes that were received and not yet handed out as events."""
        return self._lines.trailing_data

    def send(self, message: Message) -> bytes:
        """Return the bytes that carry `message`, and count it as sent.

        Raises LocalProtocolError, with no bytes and nothing changed, when it may not be sent now (§3), cannot
        be written faithfully (§5), or is longer than the limit (§1).
        """
        line: bytes | LocalProtocolError | None = None
        try:
            line = write(message, self._max_line_size)
            if isinstance(line, bytes):
                self.commit(message)
                return line
        except BaseException as exc:
            line = None
            forget_locals(exc)
            raise
        raise line

    def commit(self, message: Message) -> None:
        """Count `message`, whose line the caller has from `encode`, as sent.

        `send` is `encode` followed by `commit`. Call the two to encode once and send later: `encode` refuses what can
        never be sent, `commit` what cannot be sent now (§3). Raises LocalProtocolError, with nothing changed.
        """
        if len(self._conversation.pending) >= self._max_pending and row_of(message).kind is Kind.REQUEST:
            raise LocalProtocolError(
                f"cannot send {named(message)}: {self._max_pending} requests are waiting for their reply already",
                refusal=Refusal.FULL,
            )
        try:
            self._take(self.our_role, message)
        except Violation as exc:
            refusal = Refusal.MESSAGE if self.our_state is State.OPEN is self.their_state else Refusal.ENDED
            error = LocalProtocolError(f"cannot send {named(message)}: {exc}", refusal=refusal)
        else:
            return
        raise error

    def send_eof(self) -> None:
        """Count our direction as ended: say this when you shut down the writing side of the stream (§1).

        Replies to what was asked before still arrive. Raises nothing; saying it twice is fine.
        """
        self._conversation.end(self.our_role)

    def send_failed(self) -> None:
        """Record that bytes from `send` were not written, or only in part. No more can be sent: the peer would
        see two lines as one (§1).
        """
        self._conversation.fail(self.our_role)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer. They are not parsed before `next_event`; b"" does not mean the end of the stream.

        After a protocol error they are dropped. Raises RuntimeError after `receive_eof`, which is a bug in the caller,
        and TypeError if `data` is not bytes.
        """
        if self._eof:
            raise RuntimeError("receive_data was called after receive_eof")
        if data.__class__ is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"receive_data takes bytes, not {type(data).__name__}")
        if self._error is None:
            try:
                self._feed(data)
            except BaseException as exc:
                data = b""
                forget_locals(exc)
                raise

    def receive_eof(self) -> None:
        """Record that the peer's stream has ended. Saying it twice is fine."""
        self._eof = True
        self._lines.feed_eof()

    def events(self) -> Iterator[Event]:
        """Yield events until more data is needed. The state changes when an event is yielded, not before."""
        while (event := self.next_event()) is not NEED_DATA:
            yield event

    def next_event(self) -> Event | Literal[Need.DATA]:
        """Return the next event, or NEED_DATA when there is none in what has been received.

        Raises RemoteProtocolError when the peer broke the protocol: after every good event before that was
        handed out, and again whenever it is called after that. After any other exception, such as a KeyboardInterrupt,
        an event may be lost: end the connection.
        """
        if self._error is not None:
            raise copy.copy(self._error)
        line: Any = None
        message: Any = None
        try:
            line = self._next_line()
            if line is TOO_LONG:
                limit = self._max_line_size
                self._fail(
                    LineTooLong(f"the {self.their_role.value} sent a line longer than {limit} bytes", limit=limit)
                )
            if line is None:
                return self._ended() if self._eof and not self._said_closed else NEED_DATA
            message = self._read(line)
            cls = _EVENTS.get(type(message))
            if cls is None:
                message = self._unreadable(message)
                if type(message) is MalformedReceived:
                    return message
                cls = RequestReceived
            try:
                request = self._take(self.their_role, message)
            except Violation as exc:
                why = str(exc)
            else:
                if cls is UnknownReceived:
                    return UnknownReceived(message.type, message.payload)
                # Filled by hand: the `__init__` of a frozen attrs class takes twice as long.
                event: Event = _new(cls)
                fields = event.__dict__
                fields["message"] = message
                if request is not None:
                    fields["request"] = request
                return event
            error = self._violation(message, why)
            return self._fail(error)
        except BaseException as exc:
            del line, message
            forget_locals(exc)
            raise

    def _unreadable(self, error: RemoteProtocolError) -> MalformedReceived | Request:
        """Return the event, or the request, that an unreadable line stands for. Raises in host role."""
        if self._lines.ends_open and isinstance(error, MalformedLine):
            self._cut(error)
        if self._is_host:
            # It could have been the reply to the oldest request, so continuing would be a guess.
            self._fail(error)
        # Guest role: what the reference refuses, and goes on after (§3).
        fault = cast("MalformedLine | InvalidMessage", error)
        type_ = fault.type if isinstance(fault, InvalidMessage) else ""
        row = BY_TYPE[Role.HOST].get(type_)
        if row is not None and row.ignores_bad_payload:
            return cast("Request", row.cls())
        self._conversation.unreadable(type_)
        return MalformedReceived(fault)

    def _cut(self, error: MalformedLine) -> Never:
        text = f"the {self.their_role.value} closed the connection in the middle of a line"
        if not self._is_host:
            # The reference answers half a line, too: a host that closed its own direction only may read it.
            self._conversation.unreadable("")
        elif self._conversation.pending:
            text += f" while {named(self._conversation.pending[0])} was unanswered"
        self._fail(IncompleteLine(text, reason=error.reason, column=error.column))

    def _ended(self) -> ConnectionClosed:
        self._said_closed = True
        self._conversation.end(self.their_role)
        return ConnectionClosed(self.pending)

    def _violation(self, message: Message, why: str) -> RemoteProtocolError:
        text = f"the {self.their_role.value} broke the order of the conversation: {why}"
        if not isinstance(message, Reply):
            return RemoteProtocolError(text)
        pending = self._conversation.pending
        return UnexpectedReply(text, reply=unexpected(message, pending), request=pending[0] if pending else None)

    def _fail(self, error: RemoteProtocolError) -> Never:
        self._error = error
        self._conversation.fail(self.their_role)
        raise copy.copy(error)
