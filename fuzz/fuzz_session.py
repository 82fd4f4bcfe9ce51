"""Who waits for which reply, under any order of asking, writing, reading, cancelling, expiring and ending.

The body is a list of operations, one byte each, some with a byte of argument. What the guest sends is queued
by some of them and delivered by others, in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from stereos_proto import (
    NEED_DATA,
    Ack,
    Call,
    CallDone,
    ConnectionLost,
    HostSession,
    Lifecycle,
    LocalProtocolError,
    MalformedLine,
    Message,
    Mount,
    NotificationReceived,
    OutcomeUnknown,
    Ping,
    Pong,
    Reply,
    Request,
    RequestTimeout,
    SessionEnded,
    SetConfig,
    StereosError,
    UnexpectedReply,
    encode,
)

from . import oracle
from .fuzz_codec import as_read
from .secrecy import SENTINEL, shown
from .source import Choices, raised, split

HEAD = 2
BODY = "operations"
LONGEST = 26

PENDING = (1, 2, 3, 128)


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of the session does not hold under the operations of `data`."""
    head, body = split(data, HEAD)
    play = Play(PENDING[head[0] % len(PENDING)], lazy=bool(head[1] & 1))
    choices = Choices(body)
    while choices:
        OPERATIONS[choices.below(len(OPERATIONS))](play, choices)
        play.pull()
        play.hold()
    play.session.close()
    play.pull()
    play.hold()
    play.over()


class Play:
    """A session, and a model of what it must do."""

    def __init__(self, max_pending: int, *, lazy: bool) -> None:
        self.session = HostSession("the guest", max_pending=max_pending)
        self.max_pending = max_pending
        self.lazy = lazy  # ask for events one by one, with a look at the session in between
        self.now = 0.0
        self.calls: list[Call[Any]] = []
        self.lines: list[bytes] = []  # of the calls
        self.waiting: list[int] = []
        self.outcomes: dict[int, Any] = {}  # what a call ended in, once seen
        self.promised: set[int] = set()  # calls whose reply has arrived in full
        self.cancelled: set[int] = set()
        self.told: set[int] = set()  # calls that a CallDone told of
        self.written = b""
        self.inbound = b""
        self.delivered = b""  # the start of a line
        self.answered = 0  # by the guest
        self.replies = 0  # that arrived
        self.heard: deque[Message] = deque()  # notifications that must still be told
        self.count = 0
        self.ended: StereosError | None = None
        self.said_end = False
        self.due: type[BaseException] | None = None  # what the session must have ended in
        self.write_failed = False

    # -------------------------------------------------------------------------------- operations

    def start(self, choices: Choices, *requests: Request) -> None:
        """Ask for something, some of it with a deadline."""
        first = len(self.calls)
        deadline = (None, None, self.now + 1, self.now + 2)[choices.below(4)]
        if self.session.ended or self.write_failed:
            error = raised(self.session.request, requests[0])
            assert type(error) is ConnectionLost
            assert SENTINEL not in shown(error)
        elif len(requests) == 1:
            self.calls.append(self.session.request(requests[0], deadline=deadline))
        else:
            self.calls += self.session.request_many(requests, deadline=deadline)
        self.waiting += range(first, len(self.calls))
        self.lines += [encode(call.request) for call in self.calls[first:]]

    def mount(self, choices: Choices) -> None:
        """Ask for a mount that tells itself from all others."""
        self.start(choices, Mount(f"m{len(self.calls)}", "/workspace", "9p"))

    def ping(self, choices: Choices) -> None:
        """Ping."""
        self.start(choices, Ping())

    def many(self, choices: Choices) -> None:
        """Ask for several things in one flight."""
        self.start(choices, Ping(), SetConfig(SENTINEL), Ping())

    def refused(self, _choices: Choices) -> None:
        """Ask for what cannot be sent, among what can."""
        before = self.session.connection.pending, self.session.wants_write
        error = raised(self.session.request_many, [Ping(), SetConfig(SENTINEL + "\udc80")])
        assert isinstance(error, LocalProtocolError | ConnectionLost)
        assert SENTINEL not in shown(error)
        assert (self.session.connection.pending, self.session.wants_write) == before

    def write(self, choices: Choices) -> None:
        """Write a part of what is to be written, or all."""
        wants = self.session.wants_write
        data = self.session.data_to_send()
        assert bool(data) == wants
        assert bytes(data) == bytes(self.session.data_to_send())
        if data:
            size = min(len(data), choices.below(256) or len(data))
            self.written += bytes(data[:size])
            self.session.data_sent(size)

    def peek(self, _choices: Choices) -> None:
        """Take bytes and write none of them yet."""
        self.session.data_to_send()

    def cancel(self, choices: Choices) -> None:
        """Give up a call that waits."""
        if not self.waiting:
            return
        index = self.waiting[choices.below(len(self.waiting))]
        call = self.calls[index]
        sent = call.sent
        self.session.cancel(call)
        assert type(call.outcome) is RequestTimeout
        # The guest may still do it, unless it was withdrawn.
        assert call.outcome.sent == sent == call.sent
        self.cancelled.add(index)

    def expire(self, choices: Choices) -> None:
        """Time passes."""
        self.pull()
        self.now += choices.below(3)
        late = [index for index in self.waiting if (at := self.calls[index].deadline) is not None and at <= self.now]
        self.session.expire(self.now)
        for index in late:
            if self.calls[index].outcome is not None and isinstance(self.calls[index].outcome, RequestTimeout):
                assert self.calls[index].outcome.sent == self.calls[index].sent
            else:
                # The last call that waited has ended the session, whose write had failed.
                assert self.session.ended
        deadline = self.session.next_deadline()
        assert deadline is None or deadline > self.now

    def answer(self, _choices: Choices) -> None:
        """The guest answers what it has read, in order."""
        if self.answered < self.written.count(b"\n"):
            request = [call for call in self.calls if call.sent][self.answered].request
            self.answered += 1
            self.queue(reply_to(request))

    def unasked(self, choices: Choices) -> None:
        """The guest says something that may answer nothing."""
        self.queue((Pong(), Ack("mount", True, "unasked"), Ack("", False, "no"))[choices.below(3)])

    def push(self, _choices: Choices) -> None:
        """The guest pushes a notification."""
        self.count += 1
        self.queue(Lifecycle("ready", str(self.count)))

    def garbage(self, _choices: Choices) -> None:
        """The guest breaks the protocol."""
        self.inbound += b"garbage " + SENTINEL.encode() + b"\n"

    def queue(self, message: Message) -> None:
        """Put a line on its way."""
        self.inbound += encode(message)

    def deliver(self, choices: Choices) -> None:
        """A part of what is on its way arrives, or all."""
        size = choices.below(256) or len(self.inbound)
        piece, self.inbound = self.inbound[:size], self.inbound[size:]
        if piece:
            self.expect(piece)
            self.session.receive_data(piece)

    def eof(self, _choices: Choices) -> None:
        """The stream ends."""
        if not self.session.ended:
            if self.delivered:
                self.expect(b"\n", cut=True)
            self.due = self.due or ConnectionLost
        self.session.receive_eof()
        self.inbound = b""

    def read_fails(self, _choices: Choices) -> None:
        """Reading fails."""
        self.due = self.due or ConnectionLost
        self.session.read_failed(ConnectionResetError(104, "Connection reset by peer"))

    def write_fails(self, _choices: Choices) -> None:
        """Writing fails. What was written can still be answered."""
        if not self.session.ended:
            self.write_failed = True
        self.session.write_failed(BrokenPipeError(32, "Broken pipe"))

    def abort(self, _choices: Choices) -> None:
        """An interrupt between writing and counting."""
        if not self.session.ended:
            self.written += bytes(self.session.data_to_send())
        self.session.abort()

    def close(self, _choices: Choices) -> None:
        """The user closes."""
        self.session.close()

    def pull(self) -> None:
        """Take all events, and hold each to what must be true at that moment."""
        while (event := self.session.next_event()) is not NEED_DATA:
            assert not self.said_end, "an event came after the end"
            if isinstance(event, CallDone):
                index = next(index for index, call in enumerate(self.calls) if call is event.call)
                assert index not in self.told | self.cancelled
                assert event.call.done
                self.told.add(index)
            elif isinstance(event, NotificationReceived):
                assert event.message == self.heard.popleft()
            else:
                assert isinstance(event, SessionEnded)
                assert event.error is self.session.ended
                self.said_end = True
            if self.lazy:
                assert len(self.session.connection.pending) <= self.max_pending + self.write_failed * 1000
        assert self.said_end == (self.session.ended is not None)

    # ------------------------------------------------------------------------------------ the model

    def expect(self, piece: bytes, *, cut: bool = False) -> None:
        """Settle in the model what the session is about to settle."""
        if self.session.ended:
            return
        *whole, self.delivered = (self.delivered + piece).split(b"\n")
        for line in whole:
            if self.due:
                return
            read = oracle.read(line, "guest")
            assert read is not None
            if read.kind == oracle.MALFORMED:
                # Half a line tells no more than none.
                self.due = ConnectionLost if cut else MalformedLine
            elif read.type == "lifecycle":
                self.heard.append(Lifecycle(**read.payload))
            else:
                self.settle(read)

    def settle(self, read: oracle.Read) -> None:
        """The next reply settles the oldest call that was given to the wire and has none."""
        sent = [index for index, call in enumerate(self.calls) if call.sent]
        if self.replies >= len(sent):
            self.due = UnexpectedReply
            return
        index = sent[self.replies]
        # A reply carries no number: one that was not asked for settles the oldest call all the same, if it fits.
        if not oracle.fits(read.type, read.payload, self.calls[index].request.type):
            self.due = UnexpectedReply
            return
        self.replies += 1
        if index not in self.outcomes:
            self.outcomes[index] = read
            self.promised.add(index)

    def hold(self) -> None:
        """Everything that must be true between two operations."""
        session = self.session
        assert len(session.connection.pending) <= self.max_pending
        if not session.ended:
            assert not self.heard
        assert session.pending == tuple(call for call in self.calls if call.outcome is None)
        for index in [*self.waiting]:
            outcome = self.calls[index].outcome
            if outcome is None:
                continue
            self.waiting.remove(index)
            known = self.outcomes.setdefault(index, outcome)
            if index in self.promised:
                assert isinstance(outcome, Reply)
                assert as_read(outcome) == known
                self.outcomes[index] = outcome
                self.promised.remove(index)
        # Whatever was due has settled.
        assert not self.promised
        if self.due:
            assert session.ended
            # After a failed write the last reply ends the session, before what the guest sent behind it is looked at.
            assert self.ended or isinstance(session.ended, self.due) or self.write_failed
        if session.ended and not self.ended:
            self.ended = session.ended
            self.due = self.due or type(session.ended)
            assert not self.waiting

    def over(self) -> None:
        """Everything that must be true once the session has ended."""
        session = self.session
        assert session.ended is self.ended is not None
        assert not session.wants_write
        assert not session.data_to_send()
        assert session.next_deadline() is None
        assert self.told | self.cancelled == set(range(len(self.calls)))
        assert not self.told & self.cancelled
        given = b""
        silent: set[Any] = set()
        for index, call in enumerate(self.calls):
            # What was handed out and not written when writing failed counts as not sent.
            unwritten = not call.sent or len(given) >= len(self.written)
            given += self.lines[index] if call.sent else b""
            outcome = call.outcome
            assert outcome is self.outcomes[index]
            if isinstance(outcome, StereosError):
                # The errors of two calls of one type differ by nothing that could be a secret.
                if (kind := (type(outcome), type(call.request))) not in silent:
                    silent.add(kind)
                    assert SENTINEL not in shown(outcome)
                if type(outcome) is OutcomeUnknown:
                    assert call.sent
                    assert outcome.request is call.request
                    assert not isinstance(call.request, Ping)
                elif isinstance(outcome, RequestTimeout):
                    # What was withdrawn was not sent later.
                    assert outcome.sent == call.sent
                elif type(outcome) is ConnectionLost and not isinstance(call.request, Ping):
                    assert unwritten
        # Whole lines of those calls that were given to the wire, in their order, and of no other.
        assert given.startswith(self.written)


def reply_to(request: Request) -> Reply:
    """What an honest guest answers: the ack of a mount tells which mount it is."""
    if isinstance(request, Ping):
        return Pong()
    return Ack(request.type, True, request.tag if isinstance(request, Mount) else "")


OPERATIONS: tuple[Callable[[Play, Choices], None], ...] = (
    Play.mount,
    Play.ping,
    Play.many,
    Play.write,
    Play.write,
    Play.answer,
    Play.answer,
    Play.deliver,
    Play.deliver,
    Play.cancel,
    Play.peek,
    Play.expire,
    Play.push,
    Play.unasked,
    Play.refused,
    Play.garbage,
    Play.eof,
    Play.read_fails,
    Play.write_fails,
    Play.abort,
    Play.close,
)
