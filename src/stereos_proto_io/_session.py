"""What the three drivers have in common, without IO: who waits for which reply, and why the connection ended.

A driver does four things: it reads bytes into `receive`, writes what `next_write` returns, wakes the waiters
that `wake` tells it to, and keeps deadlines. Everything that could be got wrong three times is here.

**A call keeps its place.** Replies carry no number; the oldest unanswered request gets the next one
(`docs/protocol.md` §3). A caller that gives up leaves its `Call` in the queue, where its reply, if it comes, is
swallowed. That is what makes "off by one for ever after" impossible.

**Every call settles once**: with its reply, with an error when the connection ends, or by `abandon`.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypedDict, TypeVar

import attrs

from stereos_proto import (
    NEED_DATA,
    Ack,
    Connection,
    ConnectionClosed,
    ConnectionLost,
    IncompleteLine,
    LocalProtocolError,
    NotificationReceived,
    OutcomeUnknown,
    RemoteProtocolError,
    Reply,
    ReplyReceived,
    Request,
    RequestFailed,
    RequestTimeout,
    Role,
    StereosError,
    UnknownMessage,
    UnknownReceived,
)
from stereos_proto._codec import write
from stereos_proto._constants import MAX_LINE_SIZE, MAX_PENDING
from stereos_proto._messages import Notification
from stereos_proto._registry import BY_CLASS

#: Notifications that are kept for a reader that is slower than the guest; older ones are dropped and counted.
MAX_NOTIFICATIONS: Final = 1024

#: Bytes of the lines of notifications that are kept: as much as one line may have. The objects take more.
MAX_NOTIFICATION_BYTES: Final = MAX_LINE_SIZE

#: Bytes that one read asks for.
READ_SIZE: Final = 64 * 1024

#: Bytes of requests that are joined into one write.
_JOIN: Final = 64 * 1024


Error = TypeVar("Error", bound=Exception)


def _ignore() -> None:
    """Nobody waits."""


def _size(message: Notification) -> int:
    """The bytes of its line, written again; those of the longest line where that is too long now."""
    line = write(message)
    return len(line) if isinstance(line, bytes) else MAX_LINE_SIZE


def _bare(error: Error) -> Error:
    """`error` without its traceback, whose frames hold the bytes that were read or written, secrets among them."""
    return error.with_traceback(None)


class Limits(TypedDict, total=False):
    """What bounds a client: the requests in flight, and the notifications kept for a reader that is slow."""

    max_pending: int
    max_notifications: int


@attrs.define(eq=False)
class Waiting:
    """Somebody who waits: `wake` is called when it is `done`, and may be called for nothing."""

    wake: Callable[[], None] = attrs.field(default=_ignore, kw_only=True, repr=False)
    done: bool = attrs.field(default=False, kw_only=True, repr=False)

    def finish(self) -> None:
        """Let it go on."""
        self.done = True
        self.wake()


@attrs.define(eq=False)
class Call(Waiting):
    """One request and what becomes of it. It is `done` when `outcome` is there; `wake` is called, too, when there
    may be something to write for it.

    `sent` turns true when the request is handed to the wire, and may from then on be carried out. `start` and
    `end` are the place of its line in all that the session has written, in bytes.
    """

    request: Request
    outcome: Reply | StereosError | None = None
    sent: bool = False
    start: int = 0
    end: int = 0

    @property
    def settled(self) -> bool:
        """Whether the outcome is there."""
        return self.outcome is not None

    def settle(self, outcome: Reply | StereosError) -> None:
        """Give the outcome to whoever waits. Only the first one counts."""
        if self.outcome is None:
            self.outcome = outcome
        if not self.done:
            # Apart from the outcome: a KeyboardInterrupt may have come in between, the last time.
            self.finish()

    def ended_in(self) -> Reply | StereosError:
        """Return the reply, a refusal included, or the error that the call ended in."""
        if self.outcome is None:
            raise RuntimeError("the call has not settled yet")
        return self.outcome

    def reply(self) -> Reply:
        """Return the reply, a refusal included. Raises what the call ended in instead."""
        outcome = self.ended_in()
        if isinstance(outcome, StereosError):
            raise outcome
        return outcome


def accepted(request: Request, reply: Reply) -> Reply:
    """Return `reply`. Raises RequestFailed when it refuses `request`."""
    if isinstance(reply, Ack) and not reply.ok:
        error = RequestFailed(request, reply.error)
        del reply  # it may quote a secret, which is blotted out in the error alone
        raise error
    return reply


def replies(outcomes: Iterable[Reply | StereosError]) -> list[Reply]:
    """Return `outcomes`, when they are replies. Raises the first error among them."""
    found: list[Reply] = []
    for outcome in outcomes:
        if isinstance(outcome, StereosError):
            raise outcome
        found.append(outcome)
    return found


def check_sendable(requests: Sequence[Request]) -> None:
    """Raise the LocalProtocolError that sending one of `requests` would raise."""
    trial = Connection(Role.HOST, max_pending=len(requests) + 1)
    for request in requests:
        trial.send(request)


class Session:
    """One connection to one guest, as seen by everybody who asks something over it. Not thread-safe.

    Who is woken in `receive` or `end` may at once `start`, `abandon`, `close` or write; only `receive` is not to
    be entered again.

    `label` names the guest in errors. `closed` tells that its own user ended it; `heard` counts the
    notifications that came, `dropped_notifications` those of them that nobody took in time.
    """

    def __init__(
        self,
        label: str,
        *,
        max_pending: int = MAX_PENDING,
        max_notifications: int = MAX_NOTIFICATIONS,
    ) -> None:
        """Raises ValueError when there may be less than 1 request in flight, or less than 0 notifications kept."""
        if max_notifications < 0:
            raise ValueError("max_notifications must be at least 0")
        self.label = label
        self.connection = Connection(Role.HOST, max_pending=max_pending)
        self.dropped_notifications = 0
        self.heard = 0
        self.closed = False
        self._on_end: Callable[[], None] = _ignore
        self._max_pending = max_pending
        self._sent: deque[Call] = deque()  # in step with connection.pending
        self._waiting: deque[Call] = deque()  # not yet given to the connection
        self._outgoing = b""
        self._queued = 0  # bytes that were ever put into _outgoing
        self._written = 0  # bytes that were ever written
        self._max_notifications = max_notifications
        self._notifications: deque[tuple[Notification, int]] = deque()
        self._kept = 0  # bytes of their lines
        self._listening: list[Waiting] = []
        self._mourning: list[Waiting] = []
        self._end: StereosError | None = None

    def at_end(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` when the session ends: at once, when it has ended already."""
        self._on_end = on_end
        if self._end is not None:
            on_end()

    # -- asking ------------------------------------------------------------------------------------------

    def start(self, request: Request, wake: Callable[[], None] = _ignore) -> Call:
        """Take a request. Write what `next_write` returns, then wait for `wake`.

        Raises LocalProtocolError when it cannot be sent as it is, ConnectionLost when the session has ended;
        either way nothing was sent.
        """
        if self._end is not None:
            raise self._not_sent(request)
        call = Call(request, wake=wake)
        if self._waiting or self._outgoing or len(self._sent) >= self._max_pending:
            # Its turn comes later; what is wrong with it is said now.
            check_sendable([request])
            self._waiting.append(call)
        else:
            self._outgoing = self._line(call)
        return call

    def start_many(self, requests: Sequence[Request], wake: Callable[[], None] = _ignore) -> list[Call]:
        """Take several requests at once, or none of them. See `start`."""
        check_sendable(requests)
        return [self.start(request, wake) for request in requests]

    def abandon(self, call: Call) -> RequestTimeout:
        """The caller gives up; return the error that says so.

        A request that has not been given to the wire is withdrawn. One that is partly written ends the
        session: the rest of it can neither be sent, as it is no longer wanted, nor left out (§1).
        """
        request, what = call.request, ""
        if BY_CLASS[type(request)].has_effect:
            what = "; it may still be carried out" if call.sent else "; it was not carried out"
        error = RequestTimeout(
            f"{self.label} did not answer {request.type} in time{what}", request=request, sent=call.sent
        )
        call.wake = _ignore
        if call.settled:
            # A reply may be read before a driver comes round to say that the request is written.
            return error
        call.settle(error)
        if not call.sent:
            self._waiting.remove(call)
        elif call.start < self._written < call.end:
            self.connection.send_failed()
            self.end(ConnectionLost(f"the connection to {self.label} was ended in the middle of writing a request"))
        return error

    def _line(self, call: Call) -> bytes:
        line = self.connection.send(call.request)
        call.sent = True
        call.start = self._queued
        call.end = self._queued = call.start + len(line)
        self._sent.append(call)
        return line

    # -- writing -----------------------------------------------------------------------------------------

    def broken(self, cause: OSError) -> None:
        """Take note that reading or writing failed."""
        if self._outgoing:
            self.connection.send_failed()
        lost = ConnectionLost(f"the connection to {self.label} broke ({cause.strerror or cause})")
        lost.__cause__ = _bare(cause)
        self.end(lost)

    def interrupted(self) -> None:
        """Take note that nobody knows what was read or written: an exception came between doing and counting."""
        self.connection.send_failed()
        # Rather "nobody knows" than "not sent", which invites to send it again.
        self._written = self._queued
        self.end(ConnectionLost(f"the connection to {self.label} was interrupted in the middle of reading or writing"))
        # It may have come while somebody else was ending it.
        self._tell_of_the_end()

    @property
    def wants_write(self) -> bool:
        """Whether `next_write` would return bytes."""
        return bool(self._outgoing) or (bool(self._waiting) and len(self._sent) < self._max_pending)

    def is_written(self, call: Call) -> bool:
        """Whether the whole line of `call` is written."""
        return call.sent and call.end <= self._written

    def next_write(self) -> bytes | memoryview:
        """Return the bytes to write next, b"" when there are none. Say `wrote` before asking again."""
        if not self._outgoing and self._waiting:
            self._fill()
        left = self._queued - self._written
        return self._outgoing if left == len(self._outgoing) else memoryview(self._outgoing)[-left:]

    def wrote(self, size: int) -> None:
        """Take note that the first `size` bytes of `next_write` are written."""
        self._written += size
        if self._written == self._queued:
            self._outgoing = b""

    def _fill(self) -> None:
        lines: list[bytes] = []
        size = 0
        while self._waiting and len(self._sent) < self._max_pending and size < _JOIN:
            # In one queue or the other at any moment: a KeyboardInterrupt may come between any two.
            call = self._waiting[0]
            try:
                lines.append(self._line(call))
            except LocalProtocolError as exc:
                call.settle(_bare(exc))
            else:
                size += len(lines[-1])
            if self._end is not None:
                return  # who was woken has ended it
            self._waiting.popleft()
        self._outgoing = b"".join(lines)

    # -- reading -----------------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the guest and settle what they settle. b"" is the end of the stream."""
        if self._end is not None:
            return
        connection = self.connection
        if data:
            connection.receive_data(data)
        else:
            connection.receive_eof()
        try:
            while (event := connection.next_event()) is not NEED_DATA:
                if type(event) is ReplyReceived:
                    # Settled first: were a KeyboardInterrupt to come in between, the call would be in no queue.
                    self._sent[0].settle(event.message)
                    self._sent.popleft()
                elif isinstance(event, ConnectionClosed):
                    self.end(ConnectionLost(f"{self.label} closed the connection"))
                elif isinstance(event, NotificationReceived):
                    self._notify(event.message)
                elif isinstance(event, UnknownReceived):
                    self._notify(UnknownMessage(event.type, event.payload))
        except IncompleteLine as exc:
            # Half a reply tells no more than none: the guest, or what is between us, went away.
            lost = ConnectionLost(f"{self.label} closed the connection in the middle of a line")
            lost.__cause__ = _bare(exc)
            self.end(lost)
        except RemoteProtocolError as exc:
            self.end(_bare(exc))
        if self._waiting and len(self._sent) < self._max_pending:
            # There is room in flight again; whoever waits for it may have to write by itself.
            self._waiting[0].wake()

    def _notify(self, message: Notification) -> None:
        self.heard += 1
        size = _size(message)
        self._notifications.append((message, size))
        self._kept += size
        while len(self._notifications) > self._max_notifications or self._kept > MAX_NOTIFICATION_BYTES:
            self.take_notification()
            self.dropped_notifications += 1
        self._tell_listeners()

    def listen(self, heard: int | None = None) -> Waiting:
        """Return what is done at the next notification, or the end of the session. See `take_notification`.

        With `heard`, a notification counts that came since that was their number.
        """
        waiting = Waiting(done=self._end is not None or (heard is not None and self.heard > heard))
        self._listening.append(waiting)
        return waiting

    def until_end(self) -> Waiting:
        """Return what is done at the end of the session."""
        waiting = Waiting(done=self._end is not None)
        self._mourning.append(waiting)
        return waiting

    def ignore(self, waiting: Waiting) -> None:
        """Forget what `listen` or `until_end` returned."""
        for waitings in (self._listening, self._mourning):
            if waiting in waitings:
                waitings.remove(waiting)

    def _tell_listeners(self) -> None:
        # They stay until they say that they have left: a KeyboardInterrupt may come before all are told.
        for waiting in tuple(self._listening):
            waiting.finish()

    @property
    def has_notification(self) -> bool:
        """Whether `take_notification` would return one."""
        return bool(self._notifications)

    def take_notification(self) -> Notification | None:
        """Return the oldest notification that nobody took, None when there is none."""
        if not self._notifications:
            return None
        message, size = self._notifications.popleft()
        self._kept -= size
        return message

    def hear(self) -> Notification | Waiting | None:
        """Return the oldest notification that nobody took; what to wait for, where there is none yet; None when
        the session's own user has closed it. Raises what it ended in when it ended otherwise.
        """
        if self._notifications:
            return self.take_notification()
        if self._end is None:
            return self.listen()
        if self.closed:
            return None
        raise copy.copy(self._end)

    # -- ending ------------------------------------------------------------------------------------------

    @property
    def ended(self) -> StereosError | None:
        """Why the session has ended; None while it goes on."""
        return self._end

    def close(self) -> None:
        """End the session because its user wants to."""
        self.closed = self._end is None or self.closed
        self.end(ConnectionLost(f"the connection to {self.label} was closed"))

    def end(self, reason: StereosError) -> None:
        """End the session: settle every call with the error that fits it. Saying it twice is fine."""
        if self._end is None:
            self._end = reason
            self._tell_of_the_end()

    def _tell_of_the_end(self) -> None:
        # Before anybody is woken: who is woken may look for something to write.
        self._sent.extend(self._waiting)
        self._waiting.clear()
        self._outgoing = b""
        self._queued = self._written
        # A line of which only a part is written may be complete but for its newline, and then it counts (§1).
        lost = [call for call in self._sent if call.sent and call.start < self._written]
        unanswered = tuple(call.request for call in lost if not call.settled)
        for call in lost:
            call.settle(self._lost(call.request, unanswered))
        for call in tuple(self._sent):
            call.settle(self._not_sent(call.request))
        self._tell_listeners()
        for waiting in tuple(self._mourning):
            waiting.finish()
        self._on_end()

    def _not_sent(self, request: Request) -> ConnectionLost:
        reason = self._end
        text = f"{request.type} was not sent: {reason or 'the connection has ended'}"
        error = ConnectionLost(text)
        error.__cause__ = None if type(reason) is ConnectionLost else reason
        return error

    def _lost(self, request: Request, unanswered: tuple[Request, ...]) -> StereosError:
        """The error for a request that may have been carried out, and whose reply will not come."""
        reason = self._end
        if isinstance(reason, RemoteProtocolError):
            # What the guest did wrong tells more than that the connection ended over it.
            return copy.copy(reason)
        error: ConnectionLost
        if BY_CLASS[type(request)].has_effect:
            text = f"{reason} while {request.type} was unanswered: it may or may not have been carried out"
            error = OutcomeUnknown(text, request=request, unanswered=unanswered)
        else:
            error = ConnectionLost(f"{reason} while {request.type} was unanswered", unanswered=unanswered)
        error.__cause__ = reason.__cause__ if reason else None
        return error
