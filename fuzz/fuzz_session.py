"""Who waits for which reply, under any order of asking, writing, reading, giving up and ending.

The body is a list of operations, one byte each, some with a byte of argument. What the guest sends is queued
by some of them and delivered by others, in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from stereos_proto import (
    Ack,
    ConnectionLost,
    Lifecycle,
    LocalProtocolError,
    MalformedLine,
    Message,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    Reply,
    Request,
    RequestTimeout,
    SetConfig,
    StereosError,
    UnexpectedReply,
    encode,
)
from stereos_proto_io._session import Call, Session

from . import oracle
from .fuzz_codec import as_read
from .secrecy import SENTINEL, shown
from .source import Choices, raised, split

HEAD = 2
BODY = "operations"
LONGEST = 26

PENDING = (1, 2, 3, 128)
NOTIFICATIONS = (1, 2, 5)


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of the session does not hold under the operations of `data`."""
    head, body = split(data, HEAD)
    play = Play(PENDING[head[0] % len(PENDING)], NOTIFICATIONS[head[1] % len(NOTIFICATIONS)])
    choices = Choices(body)
    while choices:
        OPERATIONS[choices.below(len(OPERATIONS))](play, choices)
        play.hold()
    play.session.close()
    play.hold()
    play.over()


class Play:
    """A session, and a model of what it must do."""

    def __init__(self, max_pending: int, max_notifications: int) -> None:
        self.session = Session("the guest", max_pending=max_pending, max_notifications=max_notifications)
        self.max_pending = max_pending
        self.calls: list[Call] = []
        self.lines: list[bytes] = []  # of the calls
        self.waiting: list[int] = []
        self.outcomes: dict[int, Any] = {}  # what a call ended in, once seen
        self.promised: set[int] = set()  # calls whose reply has arrived in full
        self.given_up: set[int] = set()
        self.written = b""
        self.inbound = b""
        self.delivered = b""  # the start of a line
        self.answered = 0  # by the guest
        self.replies = 0  # that arrived
        self.heard: deque[Message] = deque(maxlen=max_notifications)
        self.count = self.dropped = 0
        self.ended: StereosError | None = None
        self.due: type[BaseException] | None = None  # what the session must have ended in

    # -------------------------------------------------------------------------------- operations

    def start(self, _choices: Choices, *requests: Request) -> None:
        """Ask for something."""
        first = len(self.calls)
        if self.session.ended:
            error = raised(self.session.start, requests[0])
            assert type(error) is ConnectionLost
            assert SENTINEL not in shown(error)
        elif len(requests) == 1:
            self.calls.append(self.session.start(requests[0]))
        else:
            self.calls += self.session.start_many(requests)
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
        error = raised(self.session.start_many, [Ping(), SetConfig(SENTINEL + "\udc80")])
        assert isinstance(error, LocalProtocolError) or (self.session.ended and isinstance(error, ConnectionLost))
        assert SENTINEL not in shown(error)
        assert (self.session.connection.pending, self.session.wants_write) == before

    def write(self, choices: Choices) -> None:
        """Write a part of what is to be written, or all."""
        data = self.session.next_write()
        assert bool(data) == bool(self.session.next_write())
        if data:
            size = min(len(data), choices.below(256) or len(data))
            self.written += bytes(data[:size])
            self.session.wrote(size)

    def give_up(self, choices: Choices) -> None:
        """Abandon a call that waits."""
        if not self.waiting:
            return
        index = self.waiting[choices.below(len(self.waiting))]
        call = self.calls[index]
        sent = call.sent
        torn = self.torn(index)
        error = self.session.abandon(call)
        assert type(error) is RequestTimeout
        if torn:
            assert self.session.ended
        else:
            # The guest may still do it, unless it was withdrawn.
            assert error.sent == sent
            assert call.outcome is error
            if not sent:
                self.given_up.add(index)

    def torn(self, index: int) -> bool:
        """Whether a part of a call's line is written, and a part is not."""
        end = 0
        for place, call in enumerate(self.calls):
            if call.sent:
                start, end = end, end + len(self.lines[place])
                if place == index:
                    return start < len(self.written) < end
        return False

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
            self.session.receive(piece)

    def eof(self, _choices: Choices) -> None:
        """The stream ends."""
        if not self.session.ended:
            if self.delivered:
                self.expect(b"\n", cut=True)
            self.due = self.due or ConnectionLost
        self.session.receive(b"")

    def broken(self, _choices: Choices) -> None:
        """Reading or writing fails."""
        self.due = self.due or ConnectionLost
        self.session.broken(ConnectionResetError(104, "Connection reset by peer"))

    def close(self, _choices: Choices) -> None:
        """The user closes."""
        self.session.close()

    def take(self, _choices: Choices) -> None:
        """Somebody takes a notification."""
        expected = self.heard.popleft() if self.heard else None
        assert self.session.has_notification == (expected is not None)
        assert self.session.take_notification() == expected

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
                self.count += 1
                self.dropped += len(self.heard) == self.heard.maxlen
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
        assert session.dropped_notifications == self.dropped
        assert session.heard == self.count
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
            assert self.ended or isinstance(session.ended, self.due)
        if session.ended and not self.ended:
            self.ended = session.ended
            self.due = self.due or type(session.ended)
            assert not self.waiting

    def over(self) -> None:
        """Everything that must be true once the session has ended."""
        session = self.session
        assert session.ended is self.ended is not None
        assert not session.wants_write
        assert not session.next_write()
        assert not any(self.calls[index].sent for index in self.given_up)
        given = b""
        silent: set[Any] = set()
        for index, call in enumerate(self.calls):
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
    Play.give_up,
    Play.push,
    Play.take,
    Play.unasked,
    Play.refused,
    Play.garbage,
    Play.eof,
    Play.broken,
    Play.close,
)
