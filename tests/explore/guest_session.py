"""Every interleaving of what can happen to a guest's session, against a specification written apart.

    python -m tests.explore.guest_session [large]

A `World` is a session, the host at its other end, and the server around it. It does one operation at a time: the host
says a line or ends its direction, an event is pulled, a handler answers, a notification is pushed, bytes are handed out
or written, writing fails, the session is closed or restarted.

The specification is a queue, and what it has to do with each operation is told in a line or two.
Each line of the host is owed one line. An answer leaves once all before it have, and what is handed out stays as it
is. From this follows everything that is public: which event is next, which bytes leave, whether to read, to write, and
whether it is over. The session's own lines are read again to see that each answers its own request.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from stereos_proto import (
    NEED_DATA,
    Ack,
    ConnectionLost,
    CustomRequest,
    GuestSession,
    Health,
    IncompleteLine,
    Lifecycle,
    LineTooLong,
    MalformedReceived,
    Message,
    PendingRequest,
    Ping,
    Pong,
    ReplyReplaced,
    Role,
    SessionEnded,
    Shutdown,
    decode,
    encode,
)

from .search import Found, connection_of_its_own, print_counts, search, shallow

#: What a host says, by name. A line that cannot be read is refused without a handler, and one that is too long ends
#: the reading.
LINES: Final = {
    "ping": encode(Ping()),
    "custom": encode(CustomRequest("t0")),
    "shutdown": encode(Shutdown()),
    "garbage": b"nonsense\n",
    "too long": b"x" * 2000 + b"\n",
}
REQUESTS: Final = {"ping": Ping(), "custom": CustomRequest("t0"), "shutdown": Shutdown()}
RIGHT: Final = {"ping": Pong(), "custom": Ack("t0", True), "shutdown": Ack("shutdown", True)}
#: Longest line. Replies to what a handler does wrong need some hundred bytes.
LIMIT: Final = 1000


class Config(NamedTuple):
    """What a search is about: how many lines the host says, which, and how a handler answers."""

    lines: int
    kinds: tuple[str, ...]
    answers: tuple[str, ...] = ("right",)
    has_connections: bool = True
    max_unanswered: int = 64
    # 1: nothing is read while anything waits to be written.
    max_unsent: int = 10**6
    pushes: int = 0
    # What may happen once each.
    ends: tuple[str, ...] = ("eof", "write_failed", "close")

    def __str__(self) -> str:
        kind = "connection" if self.has_connections else "stream without connections"
        bounds = f"{self.max_unanswered} unanswered, {self.max_unsent} unsent"
        what = f"{self.lines} of {', '.join(self.kinds)}; {', '.join(self.answers)}; {self.pushes} pushes"
        return f"{kind}, {what}; {bounds}; {', '.join(self.ends)}"


#: Sizes for CI.
SMALL: Final = (
    Config(2, ("custom", "garbage"), ("right", "wrong"), ends=("half", "eof", "write_failed", "close")),
    Config(2, ("ping", "shutdown"), ("right", "refusal"), pushes=1),
    Config(2, ("ping", "too long"), ("right", "nothing"), max_unanswered=1, ends=("eof", "restart")),
    Config(2, ("custom", "too long"), has_connections=False, max_unsent=1, pushes=1, ends=("eof", "write_failed")),
    Config(
        3, ("custom", "too long"), ("right", "wrong"), has_connections=False, ends=("eof", "write_failed", "restart")
    ),
)
#: Sizes that take minutes.
LARGE: Final = (
    *SMALL,
    Config(3, ("custom", "garbage", "too long"), ("right", "wrong"), ends=("half", "eof", "write_failed")),
    Config(3, ("ping", "shutdown"), ("right", "refusal", "nothing"), pushes=1),
    Config(
        3, ("ping", "garbage", "shutdown"), max_unanswered=2, max_unsent=1, pushes=1, ends=("eof", "close", "restart")
    ),
)


class Owed:
    """One line of the host that is owed a line: what a handler was given for it, and what it answered."""

    def __init__(self, kind: str, pending: PendingRequest | None) -> None:
        self.kind = kind
        self.pending = pending
        #: "" while it is not answered. A line that cannot be read is refused at once.
        self.answer = "" if pending is not None else "refused"
        #: The type that its refusal names.
        self.type = REQUESTS[kind].type if pending is not None else ""


class World:
    """A session with a host and a server, and the queue that says what it has to do."""

    def __init__(self, config: Config, session: Callable[..., GuestSession] = GuestSession) -> None:
        self.config = config
        self.session = session(
            has_connections=config.has_connections,
            max_unanswered=config.max_unanswered,
            max_unsent=config.max_unsent,
            max_line_size=LIMIT,
        )
        # How many lines the host has said, those that were not looked at yet, and how its direction ended.
        self.said = 0
        self.unseen: list[str] = []
        self.half = self.eof = False
        # All that a handler was given, in order, and the queue of what is still owed.
        self.given: list[Owed] = []
        self.queue: list[Owed] = []
        # The lines that have to leave; and the bytes that were handed out, with how many of them are written.
        self.expected: list[Owed | str] = []
        self.stream = b""
        self.written = 0
        # Mistakes of the handler that are to be told, and whether reading is over, and the session.
        self.mistakes: list[Owed] = []
        self.reading = True
        self.error: type[Exception] | None = None
        self.shut = self.closed = self.told_end = False
        self.pushed = 0
        self.happened: frozenset[str] = frozenset()
        self.history: tuple[Any, Any] | None = None

    # -- what can happen -----------------------------------------------------------------------------------

    def possible(self) -> Iterator[tuple[Any, ...]]:
        """Yield every operation that a host, a handler and a driver may do now."""
        yield ("pull",)
        if self.said < self.config.lines and not (self.eof or self.half):
            yield from (("say", kind) for kind in self.config.kinds)
        for index, owed in enumerate(self.given):
            # A second answer is dropped: one is enough.
            answers = ("again",) if owed.answer else self.config.answers
            yield from (("answer", index, answer) for answer in answers)
        if self.pushed < self.config.pushes:
            yield ("push",)
        if self.session.wants_write:
            yield from (("write", size) for size in ("none", "part", "line", "all"))
        yield from ((end,) for end in self.config.ends if end not in self.happened and not (end == "half" and self.eof))

    def do(self, name: str, *arguments: Any) -> None:
        """Do one operation, and see that the session did what it had to do."""
        if name in self.config.ends:
            self.happened |= {name}
        getattr(self, f"do_{name}")(*arguments)
        self.check()

    def do_say(self, kind: str) -> None:
        self.said += 1
        # A session that reads no more drops it.
        if self.reading:
            self.unseen.append(kind)
        self.session.receive_data(LINES[kind])

    def do_half(self) -> None:
        self.half = self.reading and not self.eof
        self.session.receive_data(b'{"type":')

    def do_eof(self) -> None:
        self.eof = self.config.has_connections and self.reading
        self.session.receive_eof()

    def do_answer(self, index: int, answer: str) -> None:
        owed = self.given[index]
        made = {
            "right": RIGHT[owed.kind],
            "refusal": Ack(owed.type, False, "no"),
            "wrong": Health("ready"),
            "nothing": None,
            "again": Ack(owed.type, False, "again"),
        }[answer]
        self.session.reply(owed.pending, made)
        if owed.answer:
            return
        owed.answer = answer
        if answer == "nothing":
            # Told at once, also when it is not in the queue any more.
            self.mistakes.append(owed)
        self.flush()

    def flush(self) -> None:
        """What is owed leaves once all before it have."""
        while self.queue and self.queue[0].answer:
            owed = self.queue.pop(0)
            self.expected.append(owed)
            if owed.answer == "wrong":
                self.mistakes.append(owed)
            if owed.kind == "shutdown" and owed.answer == "right":
                self.shut, self.reading = True, False
                self.queue.clear()

    def do_push(self) -> None:
        self.pushed += 1
        may = not (self.is_full or self.shut or self.told_end or self.over)
        assert self.session.push(Lifecycle("booting")) is may, "a notification was refused, or taken after the end"
        if may:
            self.expected.append("push")

    def do_write(self, size: str) -> None:
        data = bytes(self.session.data_to_send())
        rest = self.stream[self.written :]
        assert data.startswith(rest), "bytes were withdrawn that a writer may hold"
        if data != rest:
            assert not rest, "lines were added while a writer may hold others"
            self.stream, self.written = data, 0
            for line in data.splitlines(keepends=True):
                assert self.expected, "a line that is owed to no one"
                self.fits(decode(line, sender=Role.GUEST), self.expected.pop(0))
        end = self.stream.index(b"\n", self.written) + 1 - self.written
        count = {"none": 0, "part": max(end - 1, 1), "line": end, "all": len(data)}[size]
        self.session.data_sent(count)
        self.written += count

    def fits(self, message: Message, owed: Owed | str) -> None:
        """See that a line is the one that is owed."""
        if isinstance(owed, str):
            assert message == Lifecycle("booting"), "a notification out of order"
        elif owed.answer == "right":
            assert message == RIGHT[owed.kind], "the answer to another request"
        else:
            assert isinstance(message, Ack), "the answer to another request"
            assert (message.reply_to, message.ok) == (owed.type, False), "the refusal of another request"
            assert message.error.startswith("internal error: ") == (owed.answer in ("wrong", "nothing"))

    def do_write_failed(self) -> None:
        if self.config.has_connections and not self.told_end:
            self.error = ConnectionLost
            self.drop()
        self.session.write_failed(OSError(32, "Broken pipe"))

    def do_close(self) -> None:
        self.closed = True
        self.drop()
        self.session.close()

    def drop(self) -> None:
        """Nothing more is read, answered or written."""
        self.reading = False
        self.queue.clear()
        self.expected.clear()
        self.stream, self.written = b"", 0

    def do_restart(self) -> None:
        self.session.restart()
        self.drop()
        self.begin()
        self.shut = self.closed = self.told_end = False
        # The host sees its connection end.
        self.half = self.eof = False

    def begin(self) -> None:
        """Read anew."""
        self.reading, self.error = True, None
        self.unseen.clear()
        self.mistakes.clear()

    def do_pull(self) -> None:
        expected = self.next_event()
        event = self.session.next_event()
        if expected is NEED_DATA:
            assert event is NEED_DATA, f"{event} was not to come"
        elif isinstance(expected, Owed) and expected.pending is None:
            assert isinstance(event, MalformedReceived), "a line that cannot be read was not told"
            assert isinstance(event.error, IncompleteLine) == (expected.kind == "half")
            self.queue.append(expected)
            self.flush()
        elif isinstance(expected, Owed):
            assert isinstance(event, ReplyReplaced), "a mistake of the handler was not told"
            assert event.pending is expected.pending
        elif expected is SessionEnded:
            assert type(event) is SessionEnded, f"the end was not told, but {event}"
            assert type(event.error) is (self.error or type(None)), "the end has another reason"
            self.told_end = True
        else:
            assert isinstance(event, PendingRequest), f"a request was not told, but {event}"
            assert event.request == REQUESTS[expected], "another request was told"
            self.given.append(Owed(expected, event))
            self.queue.append(self.given[-1])

    def next_event(self) -> Any:
        """What `next_event` has to return: the kind of a request, what is owed for another line, the end, NEED_DATA."""
        if self.mistakes:
            return self.mistakes.pop(0)
        if self.reading:
            if len(self.queue) >= self.config.max_unanswered or self.is_full:
                return NEED_DATA
            if self.unseen and self.unseen[0] != "too long":
                kind = self.unseen.pop(0)
                return kind if kind in REQUESTS else Owed(kind, None)
            if not self.unseen and not self.eof:
                return NEED_DATA
            self.reading = False
            if self.unseen:
                self.error = LineTooLong
            elif self.half:
                self.error = IncompleteLine
                return Owed("half", None)
        if self.queue or self.told_end:
            return NEED_DATA
        if not self.config.has_connections and not self.shut and not self.closed:
            self.begin()
            return NEED_DATA
        return NEED_DATA if self.is_unsent else SessionEnded

    # -- what has to hold at all times -----------------------------------------------------------------------

    @property
    def is_unsent(self) -> bool:
        return bool(self.expected) or self.written < len(self.stream)

    @property
    def is_full(self) -> bool:
        """Whether too much waits to be written. The bounds of a search are 1, and more than there ever is."""
        return self.is_unsent and self.config.max_unsent == 1

    @property
    def over(self) -> bool:
        return not (self.reading or self.queue or self.is_unsent)

    def check(self) -> None:
        """Compare all that is public."""
        session = self.session
        room = len(self.queue) < self.config.max_unanswered and not self.is_full
        assert session.wants_data == (self.reading and room), "`wants_data` is wrong"
        assert session.wants_write == self.is_unsent, "`wants_write` is wrong"
        assert self.is_unsent or not session.data_to_send(), "bytes that are owed to no one"
        assert session.ended == self.over, "`ended` is wrong"
        assert session.shut_down == (self.shut and not self.is_unsent), "`shut_down` is wrong"
        pending = [pending.request.type for pending in session.pending]
        assert pending == [owed.type for owed in self.queue], "`pending` is wrong"

    # -- the search ------------------------------------------------------------------------------------------

    def copy(self) -> World:
        """A world in the same state that goes its own way."""
        twin, session = shallow(self), shallow(self.session)
        handed_out = (owed.pending for owed in self.given)
        pendings = {id(pending): shallow(pending) for pending in (*self.session._pending, *handed_out)}
        for pending in pendings.values():
            # One of before a restart, or of another session, keeps what it has.
            pending._owner = session if pending._owner is self.session else pending._owner
        lines = (*self.given, *self.queue, *self.mistakes, *self.expected)
        owed = {id(one): shallow(one) for one in lines if isinstance(one, Owed)}
        for one in owed.values():
            one.pending = one.pending and pendings[id(one.pending)]
        twin.session = session
        twin.given, twin.queue, twin.mistakes = (
            [owed[id(one)] for one in ones] for ones in (self.given, self.queue, self.mistakes)
        )
        twin.expected = [one if isinstance(one, str) else owed[id(one)] for one in self.expected]
        twin.unseen = self.unseen[:]
        session._pending = deque(pendings[id(pending)] for pending in session._pending)
        session._lines = session._lines.copy()
        session._replaced = deque(ReplyReplaced(pendings[id(told.pending)], told.error) for told in session._replaced)
        session.connection = connection_of_its_own(session.connection)
        return twin

    def state(self) -> object:
        """All that what happens next depends on: the session's private state, and the facts."""
        s, c, lines = self.session, self.session.connection, self.session.connection._lines
        return (
            tuple((pending.request.type, repr(pending.reply)) for pending in s._pending),
            tuple(map(bytes, s._lines)),
            (bytes(s._chunk), s._offset, s._unsent, s._shut_down, s._closed, s._reading, s._said_end),
            (str(s._error), len(s._replaced)),
            (c.our_state, c.their_state, len(c.pending), c._eof, c._said_closed, c._error is None),
            (bytes(lines._buffer[lines._start :]), lines._eof),
            (self.said, tuple(self.unseen), self.half, self.eof, self.pushed, self.happened),
            tuple((owed.kind, owed.answer, owed in self.queue, owed in self.expected) for owed in self.given),
            tuple((owed.kind, owed.answer) for owed in self.mistakes),
            (len(self.stream) - self.written, len(self.expected), self.reading, self.shut, self.closed, self.told_end),
        )

    #: The attributes of a session that `state` covers, so that a test fails when there is another.
    COVERED: Final = frozenset(
        {
            *("connection", "_lines", "_chunk", "_offset", "_unsent", "_shut_down", "_closed", "_pending"),
            *("_replaced", "_reading", "_said_end", "_error"),
            # They stay as they are.
            *("has_connections", "_max_unanswered", "_max_unsent", "_max_line_size"),
        }
    )


def explore(
    config: Config,
    session: Callable[..., GuestSession] = GuestSession,
    duplicate: Callable[[World], World] = World.copy,
) -> Found:
    """Search all that can happen. Raises Broken."""

    def step(world: World, operation: tuple[Any, ...]) -> World | None:
        after = duplicate(world)
        after.do(*operation)
        # After the end only a restart changes anything: the rest is checked, and not followed.
        return None if world.told_end and operation != ("restart",) else after

    return search(World(config, session), World.possible, step)


if __name__ == "__main__":
    print_counts(LARGE if sys.argv[1:] == ["large"] else SMALL, explore)
