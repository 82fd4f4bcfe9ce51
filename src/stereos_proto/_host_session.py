"""One connection to one guest, seen from the host, without IO: requests in, outcomes out.

`Connection` knows the protocol; `HostSession` knows who asked. It queues requests, decides when each may be
written, matches replies to calls, keeps deadlines, and says of every request what became of it. It has no
clock and no threads, and it calls no code of the user: what happened is pulled, with `next_event`.

**A call keeps its place.** Replies carry no number: the oldest unanswered request gets the next one
(`docs/protocol.md` §3). A call that was given up stays in the queue if bytes of it were handed out, and its
reply, if it comes, is swallowed. That rules out the classic fault of such clients, in which every reply after
a timeout answers the wrong request.

**`data_to_send` commits.** The lines that it returns count as sent, whatever `data_sent` says later. If
cancelling could withdraw bytes that a waiting writer still holds, those bytes would be written all the same,
and every later reply would be off by one.

**Every call settles once**: with its reply, by `expire` or `cancel`, or with the error that fits it when the
session ends. What was written completely or in part may have been carried out; what was not, was not.

**An exception in the middle ends the session.** A signal handler may raise at any place, such as KeyboardInterrupt, and
the program may go on after it. By then a reply may be taken from the connection and not yet given to its call, so that
each later reply would answer the wrong request. So what changes the state catches every exception, ends the session as
`abort` does, and raises it again. Calls settle in such an order (outcome, event, `done`, place in a queue) that
`_settle_all` can finish what was begun.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any, Final, Literal

from ._call import Call, ReplyT
from ._codec import write
from ._connection import REFUSED_DATA, Connection
from ._constants import MAX_PENDING
from ._errors import (
    GUEST,
    ConnectionLost,
    IncompleteLine,
    LocalProtocolError,
    OutcomeUnknown,
    RemoteProtocolError,
    RequestTimeout,
    StereosError,
    reason_of,
)
from ._events import (
    NEED_DATA,
    CallDone,
    ConnectionClosed,
    Event,
    Need,
    NotificationReceived,
    ReplyReceived,
    SessionEnded,
    UnknownReceived,
)
from ._frames import forget_locals
from ._messages import Ack, Reply, Request, named, with_article
from ._redact import Redactor
from ._registry import Role, changes_guest

SessionEvent = CallDone | NotificationReceived | UnknownReceived | SessionEnded

#: Bytes of requests that are joined into one write.
_JOIN: Final = 64 * 1024

#: Bytes of encoded lines that may wait for room in flight. Lines beyond it are encoded again when their turn
#: comes: 300 waiting requests of 64 KiB would otherwise hold 18 MiB.
_MAX_WAITING_BYTES: Final = 1024 * 1024

_new: Final[Callable[[type[Any]], Any]] = object.__new__

#: How many settled calls the heap of deadlines, and how many messages the redactor, may keep beyond twice the open ones
#: before they are made anew.
_MAX_STALE: Final = 64

#: A later deadline counts as none: an integer too large for a float would fail in the loop's arithmetic.
_LATEST: Final = sys.float_info.max


#: The outcome of a call that its caller never got, because another request of the same flight was refused.
_WITHDRAWN: Final = LocalProtocolError("it was not sent, since another request of its flight was refused")


def _beyond(deadline: float) -> float | None:
    """Convert a deadline beyond the range of floats: None if it never comes. Raises TypeError and ValueError."""
    if not isinstance(deadline, (int, float)):
        raise TypeError(f"a deadline is a number or None, not {type(deadline).__name__}")
    if deadline != deadline:
        raise ValueError("a deadline must not be NaN")
    return None if deadline > 0 else -_LATEST


def _called(message: object) -> str:
    """Describe a value that the caller passed instead of a request."""
    if isinstance(message, type):
        return f"{message.__name__} is a class: call it"
    return f"{with_article(type(message))} is not one"


class HostSession:
    """One connection to one guest: who waits for which reply, until when, and what became of it (§1, §3, §6).

    For one thread at a time. After anything that can settle calls (`receive_*`, `read_failed`, `write_failed`,
    `expire`, `cancel`, `close`, `abort`) pull `next_event` until NEED_DATA. After pulling, write what `data_to_send`
    returns: a reply makes room for a request that waits.

    `label` names the guest in errors. At most `max_pending` requests are in flight (§1); any number may wait
    for their turn.
    """

    def __init__(
        self,
        label: str = GUEST,
        *,
        max_pending: int = MAX_PENDING,
        trace: Callable[[Role, bytes], object] | None = None,
        log: Callable[..., object] | None = None,
    ) -> None:
        """Raises ValueError when `max_pending` is below 1, TypeError when `label` is no text, or when `trace` or `log`
        cannot be called.

        `trace(sender, data)` is called with all bytes: those of the host when they are written, those of the guest
        when they are received. They hold secrets (see `docs/howto/logging.md`). It must not raise, nor use the session.

        `log(text, *args)`, such as the `debug` of a logger, is called for what callers do not see: a call was given up,
        its late reply was swallowed, the session ended and why. No text holds a secret. The same rules hold for it.
        """
        if not isinstance(label, str):
            raise TypeError(f"label must be a text, not {type(label).__name__}")
        for name, function in (("trace", trace), ("log", log)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function or None, not {type(function).__name__}")
        self.label = label
        self._trace = trace
        self._log = log
        self.connection: Connection = Connection(Role.HOST, max_pending=max_pending)
        # `Connection.commit` without its checks: there is room in flight, and the session has not ended.
        self._commit = partial(self.connection._conversation.message, Role.HOST)
        self._max_pending = max_pending
        # Calls of which nothing was handed out, oldest first. Ordered and keyed, so that cancelling is O(1).
        self._waiting: OrderedDict[Call[Any], None] = OrderedDict()
        self._waiting_bytes = 0
        # Calls that were handed out, in step with `connection.pending`; settled ones keep their place.
        self._in_flight: deque[Call[Any]] = deque()
        # The chunk that is handed out, and the numbers of bytes handed out and written since the session began.
        self._outgoing = b""
        self._queued = 0
        self._written = 0
        # (deadline, number, call). Settled calls leave it late.
        self._deadlines: list[tuple[float, int, Call[Any]]] = []
        self._number = 0
        # Calls that settled otherwise than by a reply, and are still to be told.
        self._events: deque[CallDone] = deque()
        # Knows the secrets of the requests in flight, from the first refusal until nothing is in flight.
        self._redactor: Redactor | None = None
        self._read_error: BaseException | None = None
        self._write_error: BaseException | None = None
        #: Why the session has ended; None while it goes on. After `close` it is a ConnectionLost with `closed_here`.
        self.ended: StereosError | None = None
        self._told_end = False
        self._closed = False

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<HostSession {self.label} {state} pending={len(self.pending)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.connection.__reduce__()

    @property
    def closed(self) -> bool:
        """Whether it ended because of `close`."""
        return self._closed

    @property
    def pending(self) -> tuple[Call[Any], ...]:
        """The calls that are not done, oldest first."""
        return tuple(call for call in (*self._in_flight, *self._waiting) if call.outcome is None)

    # -- asking ------------------------------------------------------------------------------------------

    def request(self, message: Request[ReplyT], *, deadline: float | None = None, context: Any = None) -> Call[ReplyT]:
        """Take a request. Then write what `data_to_send` returns; a `CallDone` will tell the outcome.

        `deadline` is a number of your own clock, for `next_deadline` and `expire`; infinity is no deadline.

        Raises LocalProtocolError when the message can never be sent (§5), ConnectionLost when the session has
        ended, ValueError when the deadline is NaN, TypeError when it is no number. Nothing was sent then.
        """
        # Not split into helper methods: function calls dominate the cost of a small request.
        if not isinstance(message, Request):
            raise LocalProtocolError(f"a host sends requests, and {_called(message)}").about(self.label)
        if deadline is not None and not (isinstance(deadline, (int, float)) and -_LATEST <= deadline <= _LATEST):
            deadline = _beyond(deadline)
        line: bytes | LocalProtocolError | None = None
        call: Call[ReplyT] | None = None
        try:
            line = write(message)
            if isinstance(line, bytes):
                if self.ended is None and self._write_error is None:
                    call = Call(message, context, deadline, label=self.label)
                    if self._waiting_bytes + len(line) <= _MAX_WAITING_BYTES:
                        call._line = line
                        self._waiting_bytes += len(line)
                    self._waiting[call] = None
                    if call.deadline is not None:
                        self._keep_deadline(call, call.deadline)
                    return call
                line = None
        except BaseException as exc:
            line = None
            self._take_back([] if call is None else [call])
            forget_locals(exc)
            raise
        raise self._not_sent(message) if line is None else line.about(self.label)

    def request_many(
        self, messages: Iterable[Request[ReplyT]], *, deadline: float | None = None, context: Any = None
    ) -> list[Call[ReplyT]]:
        """Take several requests, or none of them. See `request`."""
        calls: list[Call[ReplyT]] = []
        # All of them first: an iterable may use the session itself.
        messages = tuple(messages)
        waiting = len(self._waiting)
        try:
            for message in messages:
                calls.append(self.request(message, deadline=deadline, context=context))  # noqa: PERF401  (one may raise)
        except BaseException:
            # One more than `calls` has, if an interrupt came before it was appended.
            self._take_back([*self._waiting][waiting:])
            raise
        return calls

    def _take_back(self, calls: Iterable[Call[Any]]) -> None:
        """Withdraw calls that their caller never gets."""
        for call in calls:
            if call in self._waiting:
                self._withdraw(call)
            # An outcome makes its deadline void.
            call.outcome = _WITHDRAWN

    def _keep_deadline(self, call: Call[Any], deadline: float) -> None:
        if len(self._deadlines) > _MAX_STALE + 2 * (len(self._in_flight) + len(self._waiting)):
            self._deadlines = [entry for entry in self._deadlines if entry[2].outcome is None]
            heapify(self._deadlines)
        self._number += 1
        heappush(self._deadlines, (deadline, self._number, call))

    def cancel(self, call: Call[Any], *, timed_out: bool = False) -> None:
        """Give up `call`. It settles at once, with a RequestTimeout and without an event.

        Pass `timed_out=True` if a timer of your own has ended the call, and not its caller: the error's text says so.

        Its place is kept if bytes of it were handed out, and its reply will be swallowed; otherwise it is
        withdrawn, and will not be sent. Other calls are not affected. A call that is done stays as it is.
        Raises ValueError for a call of another session.
        """
        if call.outcome is None:
            if call not in (self._in_flight if call.sent else self._waiting):
                raise ValueError("this call belongs to another session")
            self._give_up(call, "in time" if timed_out else "before it was cancelled")

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of a call that is not done; None when there is none."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].outcome is not None:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def expire(self, now: float) -> None:
        """Settle every call whose deadline is not after `now` with a RequestTimeout; a `CallDone` tells of each.

        Pull events first: a reply that has arrived counts.
        """
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            # Its entry in the heap is void from then on.
            self._time_out(self._deadlines[0][2])

    def _time_out(self, call: Call[Any]) -> None:
        self._give_up(call, "in time", told=True)

    def _give_up(self, call: Call[Any], when: str, *, told: bool = False) -> None:
        """Settle `call` with a RequestTimeout, and with an event where it is `told`."""
        try:
            self._settle_late(call, when, told=told)
            if not call.sent:
                self._withdraw(call)
            elif self._write_error is not None:
                self._end_if_idle()
        except BaseException:
            self.abort()
            raise

    def _settle_late(self, call: Call[Any], when: str, *, told: bool) -> None:
        request = call.request
        self._say("gave up %s, %s", named(request), "which was sent" if call.sent else "which was not sent")
        if call.sent:
            what = "; it may still be carried out" if changes_guest(request) else ""
            text = f"{self.label} did not answer {named(request)} {when}{what}"
        else:
            text = f"{named(request)} was not sent to {self.label} {when}, so it is safe to repeat"
        call.outcome = RequestTimeout(text, request=request, sent=call.sent).about(self.label)
        if told:
            self._events.append(CallDone(call))
        call.done = True

    def _withdraw(self, call: Call[Any]) -> None:
        del self._waiting[call]
        if call._line is not None:
            self._waiting_bytes -= len(call._line)
            call._line = None

    # -- writing -----------------------------------------------------------------------------------------

    @property
    def wants_write(self) -> bool:
        """Whether `data_to_send` would return bytes."""
        return bool(self._outgoing) or (bool(self._waiting) and len(self._in_flight) < self._max_pending)

    def data_to_send(self) -> bytes | memoryview:
        """Return the bytes to write next, b"" when there are none. Until `data_sent` it returns the same again.

        The calls whose lines are in it count as sent from now on. Write the bytes to the end, or end the
        session: two lines glued together would be read as one (§1).
        """
        if self._outgoing or not self._waiting:
            left = self._queued - self._written
            return self._outgoing if left == len(self._outgoing) else memoryview(self._outgoing)[-left:]
        line: bytes | LocalProtocolError | None
        lines: list[bytes] = []
        try:
            waiting, in_flight, size = self._waiting, self._in_flight, 0
            while waiting and len(in_flight) < self._max_pending and size < _JOIN:
                call = next(iter(waiting))
                line = call._line or write(call.request)
                if not isinstance(line, bytes):
                    # The payload of a CustomRequest was changed after it was checked.
                    self._withdraw(call)
                    self._settle(call, line)
                    continue
                self._commit(call.request)
                call.sent = True
                call._start = self._queued
                call._end = self._queued = call._start + len(line)
                in_flight.append(call)
                # What `_withdraw` does, without the call: this is done for each request.
                del waiting[call]
                if call._line is not None:
                    self._waiting_bytes -= len(line)
                    call._line = None
                lines.append(line)
                size += len(line)
            self._outgoing = lines[0] if len(lines) == 1 else b"".join(lines)
            return self._outgoing
        except BaseException as exc:
            line = None
            lines.clear()
            self.abort()
            forget_locals(exc)
            raise

    def data_sent(self, size: int) -> bool:
        """Record that the first `size` bytes of `data_to_send` are written. Returns True if `data_to_send` has more
        bytes.

        If your write takes everything and fails later (`transport.write`), call this before you write: if the
        write raises, the outcome is then reported as unknown, not wrongly as "not sent".

        Ignored once the session has ended or writing has failed. Raises ValueError, and counts nothing, when `size`
        is negative or more than was handed out.
        """
        left = self._queued - self._written
        if not 0 <= size <= left:
            if self.ended is not None or self._write_error is not None:
                return False
            raise ValueError(f"{size} bytes cannot have been written: {left} were handed out")
        if self._trace is not None and size:
            start = len(self._outgoing) - left
            try:
                self._trace(Role.HOST, self._outgoing[start : start + size])
            except BaseException:
                self.abort()
                raise
        self._written += size
        if self._written < self._queued:
            return True
        self._outgoing = b""
        return bool(self._waiting) and len(self._in_flight) < self._max_pending

    def is_written(self, call: Call[Any]) -> bool:
        """Whether the whole line of `call` is written."""
        return call.sent and call._end <= self._written

    def write_failed(self, cause: BaseException) -> None:
        """Record that writing failed for good. Reading goes on: what was written can still be answered.

        Calls of which no byte was written settle as not sent. The session ends when no written call waits for
        its reply any more.
        """
        if self.ended is not None or self._write_error is not None:
            return
        self._write_error = cause.with_traceback(None)
        try:
            self.connection.send_failed()
            self._outgoing = b""
            self._queued = self._written
            unwritten = [call for call in self._in_flight if call._start >= self._written]
            for call in (*unwritten, *self._waiting):
                self._settle_unsent(call)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._end_if_idle()
        except BaseException:
            self.abort()
            raise

    def _end_if_idle(self) -> None:
        if all(call.outcome is not None for call in self._in_flight):
            self._finish(self._broken(self._write_error))

    # -- reading -----------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the guest. Nothing is looked at before `next_event`. Dropped after the end.

        Raises TypeError when `data` is not bytes, RuntimeError after `receive_eof`; nothing was taken then.
        """
        if self.ended is None:
            try:
                if self._trace is not None:
                    self._trace(Role.GUEST, bytes(data))
                self.connection.receive_data(data)
            except BaseException as exc:
                data = b""
                if not isinstance(exc, REFUSED_DATA):
                    self.abort()
                forget_locals(exc)
                raise

    def receive_eof(self) -> None:
        """Record that the guest's stream has ended. Twice is fine."""
        self.connection.receive_eof()

    def read_failed(self, cause: BaseException) -> None:
        """Record that reading failed for good. The session ends after what was received before."""
        if self._read_error is None:
            self._read_error = cause.with_traceback(None)

    def events(self) -> Iterator[SessionEvent]:
        """Yield events until more data is needed."""
        while (event := self.next_event()) is not NEED_DATA:
            yield event

    @property
    def owes_events(self) -> bool:
        """Whether `next_event` has events that do not depend on data from the guest: calls that settled, or the end.

        A driver that stops pulling early has to pull these first: another caller may be waiting for any of them.
        """
        return bool(self._events) or (self.ended is not None and not self._told_end)

    @property
    def may_have_events(self) -> bool:
        """Whether `next_event` may have something to tell: `owes_events`, or bytes and ends that it has not looked at.

        Half a line counts.
        """
        if self._events or self.ended is not None:
            return self.owes_events
        lines = self.connection._lines
        return lines._start < len(lines._buffer) or lines._eof or self._read_error is not None

    def next_event(self) -> SessionEvent | Literal[Need.DATA]:  # noqa: C901  (in one piece: calls are what it costs)
        """Return what happened next, or NEED_DATA. Raises nothing of its own.

        `CallDone` for each call that settled, other than by `cancel`; `NotificationReceived` and
        `UnknownReceived` for what the guest tells unasked; `SessionEnded` once, as the last event.
        """
        event: Event | Literal[Need.DATA] | None = None
        reply: Reply | None = None
        call: Call[Any] | None = None
        done: CallDone | None = None
        try:
            if self.ended is not None and (self._in_flight or self._waiting):
                self._settle_all()  # an interrupt came while the session ended
            lines = self.connection._lines
            while not self._events and self.ended is None:
                if lines._start == len(lines._buffer) and not lines._eof and self._read_error is None:
                    return NEED_DATA  # the most frequent case: return without calling the connection
                try:
                    event = self.connection.next_event()
                except RemoteProtocolError as exc:
                    self._finish(self._broke_off(exc.with_traceback(None)))
                    break
                if type(event) is ReplyReceived:
                    call = self._in_flight[0]
                    if call.outcome is None:
                        reply = event.message
                        if type(reply) is Ack and reply.error:
                            reply = self._redacted(reply)
                        # Filled by hand: the `__init__` of a frozen attrs class takes twice as long.
                        done = _new(CallDone)
                        done.__dict__["call"] = call
                        call.outcome = reply
                        call.done = True
                    self._in_flight.popleft()
                    if not self._in_flight:
                        self._redactor = None
                    if self._write_error is not None:
                        self._end_if_idle()
                    if done is not None:
                        return done
                    self._say("swallowed the late reply to %s", named(call.request))
                elif event is NEED_DATA:
                    if self._read_error is None:
                        return NEED_DATA
                    self._finish(self._broken(self._read_error))
                elif type(event) is ConnectionClosed:
                    self._finish(ConnectionLost(f"{self.label} closed the connection"))
                else:
                    return event  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  (a host gets no others)
            if self._events:
                # Not `popleft`: an interrupt right after it would lose the event.
                first = self._events[0]
                del self._events[0]
                return first
            if self.ended is None or self._told_end:
                return NEED_DATA
            self._told_end = True
            return SessionEnded(self.ended)
        except BaseException as exc:
            del event, reply
            if done is not None and call is not None and call.outcome is not None:
                call.done = True
                self._events.append(CallDone(call))
            self.abort()
            forget_locals(exc)
            raise

    def _redacted(self, reply: Ack) -> Ack:
        """A refusal, without the secrets of any request in flight: it may quote another request than its own."""
        if self._redactor is None or len(self._redactor._known) > _MAX_STALE + 2 * len(self._in_flight):
            # A Redactor never forgets a secret. It would grow without bound if some request is always in flight.
            self._redactor = Redactor()
        # One Redactor for all requests in flight: it learns each secret only once, however many refusals come.
        self._redactor.add(*(call.request for call in self._in_flight))
        return self._redactor.redact_reply(reply)

    # -- ending ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the session because its user wants to. Twice is fine. Then close the stream."""
        self._closed = self._closed or self.ended is None
        self._finish(ConnectionLost(f"the connection to {self.label} was closed", closed_here=True))

    def abort(self) -> None:
        """End the session because it is unknown how much of `data_to_send` was written, or what was read.

        Call it when a KeyboardInterrupt came after reading or writing, but before the session was told. One that comes
        inside the session does the same. All bytes that were handed out count as written: the outcome is "unknown",
        because "not sent" would invite the caller to send again.
        """
        self.connection.send_failed()
        self._written = self._queued
        if self.ended is None:
            text = f"the connection to {self.label} was interrupted while reading or writing"
            self._finish(ConnectionLost(text, closed_here=True))
        else:
            # The interrupt may have come in the middle of ending.
            self._settle_all()

    def end(self, reason: StereosError) -> None:
        """End the session for a `reason` that the session cannot see: no connection could be made, or it is gone."""
        self._finish(reason)

    def _say(self, text: str, *args: object) -> None:
        if self._log is not None:
            self._log(text, *args)

    def _finish(self, reason: StereosError) -> None:
        if self.ended is None:
            self.ended = reason.about(self.label)
            self._say("the session ended: %s", reason)
            self._settle_all()

    def _settle_all(self) -> None:
        written, self._outgoing = self._written, b""
        self._queued = written
        for call in (*self._in_flight, *self._waiting):
            if call.outcome is not None and not call.done:
                # An interrupt came while it was settled.
                if all(event.call is not call for event in self._events):
                    self._events.append(CallDone(call))
                call.done = True
        # A line of which a part is written may be complete but for its newline, and then it counts (§1).
        lost = [call for call in self._in_flight if call.outcome is None and call._start < written]
        unanswered = tuple(call.request for call in lost)
        for call in lost:
            self._settle(call, self._unanswered(call.request, unanswered))
        for call in (*self._in_flight, *self._waiting):
            self._settle_unsent(call)
        self._in_flight.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._deadlines.clear()
        self._redactor = None

    def _settle_unsent(self, call: Call[Any]) -> None:
        if call.outcome is None:
            call.sent = False
            call._line = None
            self._settle(call, self._not_sent(call.request))

    def _settle(self, call: Call[Any], outcome: StereosError) -> None:
        call.outcome = outcome.about(self.label)
        self._events.append(CallDone(call))
        call.done = True

    def _broke_off(self, error: RemoteProtocolError) -> StereosError:
        if isinstance(error, IncompleteLine):
            # A partial line means no more than no line: the guest, or something between it and us, has gone.
            return self._lost(f"{self.label} closed the connection in the middle of a line", error)
        return error

    def _broken(self, cause: BaseException | None) -> ConnectionLost:
        return self._lost(f"the connection to {self.label} broke ({reason_of(cause)})", cause)

    def _lost(self, text: str, cause: BaseException | None) -> ConnectionLost:
        error = ConnectionLost(text)
        error.__cause__ = cause.with_traceback(None) if cause else None
        return error.about(self.label)

    def _not_sent(self, request: Request) -> ConnectionLost:
        reason = self.ended or self._broken(self._write_error)
        # A ConnectionLost says nothing more than the text does; what caused it does.
        cause = reason.__cause__ if type(reason) is ConnectionLost else reason
        error = self._lost(f"{named(request)} was not sent: {reason}", cause)
        error.closed_here = getattr(reason, "closed_here", False)
        return error

    def _unanswered(self, request: Request, unanswered: tuple[Request, ...]) -> StereosError:
        """The error for a request that may have been carried out, and whose reply will not come."""
        reason = self.ended
        if isinstance(reason, RemoteProtocolError):
            # The protocol violation says more than the fact that it ended the connection.
            return copy.copy(reason)
        error: ConnectionLost
        if changes_guest(request):
            text = f"{reason} while {named(request)} was unanswered: it may or may not have been carried out"
            error = OutcomeUnknown(text, request=request, unanswered=unanswered)
        else:
            error = ConnectionLost(f"{reason} while {named(request)} was unanswered", unanswered=unanswered)
        error.closed_here = getattr(reason, "closed_here", False)
        error.__cause__ = reason.__cause__ if reason else None
        return error
