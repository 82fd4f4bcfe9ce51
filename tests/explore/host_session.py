"""Every interleaving of what can happen to a host session, against a specification written apart.

    python -m tests.explore.host_session [large]

A `World` is a session with a driver and a guest around it. It does one operation at a time (`OPERATIONS`): a request
is made, bytes are handed out or written, the guest says something, an event is pulled, a call is cancelled, a
deadline passes, an end fails or closes. The search is breadth-first from a new session. Two histories that lead to the
same state (`World.state`, which holds the session's private state and the facts that the specification uses) are
followed once.

The `World` notes facts only: which bytes were handed out and written, what the guest said, which events were pulled.
The specification (`Specification`) knows of the session what its users know: it reads public attributes, and says
what they may be after such facts. It predicts no event; it says which are allowed, and which must have come.

Every reply has a number, the place in which the guest said it, and the specification allows a call to have only the
reply whose number is the place of its line among all lines handed out. That is "never off by one" in one sentence.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple

from stereos_proto import (
    NEED_DATA,
    Ack,
    CallDone,
    ConnectionLost,
    GetHealth,
    Health,
    HostSession,
    Lifecycle,
    Mount,
    NotificationReceived,
    OutcomeUnknown,
    RemoteProtocolError,
    Request,
    RequestTimeout,
    Role,
    SessionEnded,
    encode,
)

from .search import Found, connection_of_its_own, print_counts, search, shallow


class Config(NamedTuple):
    """What a search is about: which calls may be made, with which deadlines, and how many are in flight at most."""

    requests: tuple[Request, ...]
    deadlines: tuple[float | None, ...]
    max_pending: int
    # Whether the guest also tells something unasked.
    pushes: bool = True

    def __str__(self) -> str:
        deadlines = "deadlines" if any(self.deadlines) else "no deadlines"
        pushes = "a notification" if self.pushes else "no notification"
        return f"{len(self.requests)} calls, {self.max_pending} in flight, {deadlines}, {pushes}"


#: One that changes the guest, one that does not, and one more that does.
REQUESTS: Final = (Mount("a", "/a", "9p"), GetHealth(), Mount("b", "/b", "9p"))

#: Sizes for CI.
SMALL: Final = (
    Config(REQUESTS[:1], (1,), 1),
    Config(REQUESTS[:2], (None, None), 1, pushes=False),
    Config(REQUESTS[:2], (None, None), 2, pushes=False),
)
#: Sizes that take minutes.
LARGE: Final = (
    *SMALL,
    Config(REQUESTS[:2], (2, 1), 1, pushes=False),
    Config(REQUESTS[:2], (1, None), 1),
    Config(REQUESTS[:2], (2, 1), 2),
    Config(REQUESTS, (None, None, None), 1, pushes=False),
    Config(REQUESTS, (None, None, None), 2, pushes=False),
)


class Said(NamedTuple):
    """One line of the guest: a "push", "garbage", a "reply" or a "refusal".

    `number` is its place among the replies, and `answers` the type of the request that it may answer.
    """

    what: str
    number: int = -1
    answers: str = ""


#: Lines of the guest that wait to be looked at, at most.
MAX_UNSEEN: Final = 2


class World:
    """A session, its driver and its guest, with the facts of what happened."""

    def __init__(self, config: Config, session: Callable[..., HostSession] = HostSession) -> None:
        self.config = config
        self.session = session(max_pending=config.max_pending)
        self.calls: list[Any] = []
        self.lines = {encode(request): index for index, request in enumerate(config.requests)}
        self.now = 0.0
        # All bytes that were handed out, how many of them are written, and the calls of the lines in them, in order.
        self.stream = b""
        self.written = 0
        self.committed: list[int] = []
        self.ends: list[int] = []
        # What the guest said, and how much of it the pulled events account for.
        self.inbox: list[Said] = []
        self.seen = 0
        self.replies = 0
        self.half = self.eof = self.read_failed = self.write_failed = False
        # Calls that are done: index -> outcome. Calls that were cancelled, and that were told by CallDone.
        self.settled: dict[int, Any] = {}
        self.cancelled: set[int] = set()
        self.told: list[int] = []
        self.told_end = False
        # The event that the last operation pulled.
        self.event: Any = None
        # What led here: (the history before, the last operation).
        self.history: tuple[Any, Any] | None = None

    # -- the operations ----------------------------------------------------------------------------------

    def possible(self) -> Iterator[tuple[Any, ...]]:
        """Yield every operation that a driver may do, or a guest, now."""
        yield ("pull",)
        if len(self.calls) < len(self.config.requests):
            yield ("request",)
        if self.session.wants_write:
            yield from (("write", size) for size in ("none", "part", "line", "all"))
        yield from (("cancel", index) for index in range(len(self.calls)) if index not in self.settled)
        if any(deadline is not None and deadline > self.now for deadline in self.config.deadlines):
            yield ("expire",)
        # A driver whose read has ended or failed reads no more.
        if not (self.eof or self.read_failed):
            said = {said.what for said in self.inbox}
            if not self.half and "garbage" not in said and len(self.inbox) - self.seen < MAX_UNSEEN:
                if self.config.pushes and "push" not in said:
                    yield "say", "push"
                yield "say", "garbage"
                if self.replies <= len(self.calls):
                    yield from (("say", what) for what in ("reply", "refusal", "wrong"))
                yield ("half",)
            yield ("eof",)
            yield ("read_failed",)
        if not self.write_failed:
            yield ("write_failed",)
        yield ("close",)
        yield ("abort",)

    def do(self, name: str, *arguments: Any) -> None:
        """Do one operation, and note what it settled."""
        self.event = None
        getattr(self, f"do_{name}")(*arguments)
        for index, call in enumerate(self.calls):
            if index not in self.settled and call.outcome is not None:
                self.settled[index] = call.outcome

    def do_request(self) -> None:
        index = len(self.calls)
        try:
            call = self.session.request(
                self.config.requests[index], deadline=self.config.deadlines[index], context=index
            )
        except ConnectionLost:
            assert self.over or self.write_failed, "a request was refused by a session that goes on"
            return
        assert not self.over, "a request was taken after the end"
        assert not self.write_failed, "a request was taken after writing failed"
        self.calls.append(call)

    def do_write(self, size: str) -> None:
        data = bytes(self.session.data_to_send())
        assert data, "wants_write, but nothing is handed out"
        rest = self.stream[self.written :]
        assert data.startswith(rest), "bytes were withdrawn that a writer may hold"
        if data != rest:
            assert not rest, "lines were added while a writer may hold others"
            self.stream += data
            for line in data.splitlines(keepends=True):
                self.committed.append(self.lines[line])
                self.ends.append((self.ends[-1] if self.ends else 0) + len(line))
        if size != "none":
            line_end = next(end for end in self.ends if end > self.written)
            # "part" is one byte where a line begins, and all but the newline where one byte of it is written.
            starts = self.written in (0, *self.ends)
            part = 1 if starts else max(line_end - 1 - self.written, 0)
            count = {"part": part, "line": line_end - self.written, "all": len(data)}[size]
            self.session.data_sent(count)
            self.written += count

    def do_say(self, what: str) -> None:
        if what == "push":
            said, line = Said(what), encode(Lifecycle("booting"))
        elif what == "garbage":
            said, line = Said(what), b"nonsense\n"
        else:
            number = self.replies
            self.replies += 1
            asked = number < len(self.committed)
            type_ = self.config.requests[self.committed[number]].type if asked else "mount"
            if what == "wrong":
                type_ = "get_health" if type_ == "mount" else "mount"
            said = Said("refusal" if what == "refusal" else "reply", number, type_)
            if what != "refusal" and type_ == "get_health":
                line = encode(Health("ready", (), number))
            else:
                line = encode(Ack(type_, what != "refusal", str(number)))
        self.inbox.append(said)
        self.session.receive_data(line)

    def do_half(self) -> None:
        self.half = True
        self.session.receive_data(b'{"type":')

    def do_eof(self) -> None:
        self.eof = True
        self.session.receive_eof()

    def do_read_failed(self) -> None:
        self.read_failed = True
        self.session.read_failed(OSError(5, "reading failed"))

    def do_write_failed(self) -> None:
        self.write_failed = True
        self.session.write_failed(OSError(32, "writing failed"))

    def do_close(self) -> None:
        self.session.close()

    def do_abort(self) -> None:
        self.session.abort()

    def do_cancel(self, index: int) -> None:
        self.session.cancel(self.calls[index])
        self.cancelled.add(index)

    def do_expire(self) -> None:
        self.now = min(deadline for deadline in self.config.deadlines if deadline is not None and deadline > self.now)
        self.session.expire(self.now)

    def do_pull(self) -> None:
        more = self.session.may_have_events
        self.event = self.session.next_event()
        assert more or self.event is NEED_DATA, "`may_have_events` was false, and there was an event"

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self.session.ended is not None

    def copy(self) -> World:
        """A world in the same state that goes its own way. (To do all operations again takes three times as long.)"""
        twin, session = shallow(self), shallow(self.session)
        calls = {id(call): shallow(call) for call in self.calls}
        twin.session, twin.calls = session, list(calls.values())
        twin.committed, twin.ends, twin.inbox = self.committed[:], self.ends[:], self.inbox[:]
        twin.settled, twin.cancelled, twin.told = self.settled.copy(), self.cancelled.copy(), self.told[:]
        session._waiting = OrderedDict((calls[id(call)], None) for call in session._waiting)
        session._in_flight = deque([calls[id(call)] for call in session._in_flight])
        session._deadlines = [(deadline, number, calls[id(call)]) for deadline, number, call in session._deadlines]
        session._events = deque([CallDone(calls[id(event.call)]) for event in session._events])
        session.connection = connection_of_its_own(session.connection)
        session._commit = partial(session.connection._conversation.message, Role.HOST)
        return twin

    # -- the state -----------------------------------------------------------------------------------------

    def state(self) -> object:
        """All that what happens next depends on: the session's private state, and the facts."""
        s = self.session
        events = tuple(event.call.context for event in s._events)
        outcomes = tuple((index, type(outcome), str(outcome)) for index, outcome in self.settled.items())
        common = events, outcomes, frozenset(self.cancelled), tuple(self.told), len(self.calls), self.now
        if s.ended is not None:
            # What was received, handed out and written does not matter any more.
            left = len(s._in_flight), len(s._waiting), s._waiting_bytes, len(s._outgoing), len(s._deadlines)
            return *common, str(s.ended), s._told_end, s._closed, left
        c, lines = s.connection, s.connection._lines
        return (
            *common,
            tuple((call.sent, call._line is None, call._start, call._end) for call in self.calls),
            tuple(call.context for call in s._waiting),
            tuple(call.context for call in s._in_flight),
            tuple(entry[2].context for entry in s._deadlines),
            (s._waiting_bytes, len(s._outgoing), s._queued, s._written, s._number),
            (s._read_error is None, s._write_error is None, s._told_end, s._closed),
            (c.our_state, c.their_state, len(c.pending), c._eof, c._said_closed, c._error is None, c.lifecycle),
            (bytes(lines._buffer[lines._start :]), lines._eof),
            (len(self.stream), self.written, tuple(self.committed)),
            (self.replies, tuple(self.inbox[self.seen :]), len(self.inbox) - self.replies),
            (self.half, self.eof, self.read_failed, self.write_failed),
        )

    #: The private attributes of a session that `state` covers, so that a test fails when there is another.
    COVERED: Final = frozenset(
        {
            *("label", "connection", "_max_pending", "_waiting", "_waiting_bytes", "_in_flight", "_outgoing"),
            *("_queued", "_written", "_deadlines", "_number", "_events", "_read_error", "_write_error"),
            *("ended", "_told_end", "_closed"),
            # No request here holds a secret, nothing is traced or logged, and `_commit` is the connection's.
            *("_redactor", "_trace", "_log", "_commit"),
        }
    )


class Before(NamedTuple):
    """What the specification has to know of the moment before an operation."""

    done: frozenset[int]
    committed: frozenset[int]
    over: bool
    ended: object

    @classmethod
    def of(cls, world: World) -> Before:
        return cls(frozenset(world.settled), frozenset(world.committed), world.over, world.session.ended)


class Specification:
    """What users of a session may rely on. `check` raises AssertionError with the rule that was broken."""

    def check(self, world: World, operation: tuple[Any, ...], before: Before) -> None:
        name = operation[0]
        if name == "pull":
            self.event(world, before)
        if world.over and not before.over:
            self.end(world, name)
        for index in sorted(world.settled.keys() - before.done):
            self.outcome(world, index, operation, before)
        if name == "expire":
            late = [index for index in self.open(world) if (world.calls[index].deadline or inf) <= world.now]
            assert not late, "a call is open after its deadline"
        self.always(world, before)

    def started(self, world: World, index: int, *, committed_counts: bool = False) -> bool:
        """Whether a byte of the call's line is written."""
        if index not in world.committed:
            return False
        place = world.committed.index(index)
        return committed_counts or world.written > (world.ends[place - 1] if place else 0)

    def open(self, world: World) -> list[int]:
        return [index for index in range(len(world.calls)) if index not in world.settled]

    def replied(self, world: World, index: int) -> bool:
        return not isinstance(world.settled.get(index), (Exception, type(None)))

    # What each event may be.

    def event(self, world: World, before: Before) -> None:
        event = world.event
        if isinstance(event, CallDone):
            index = event.call.context
            assert event.call is world.calls[index]
            assert event.call.done, "CallDone of a call that is not done"
            assert index not in world.told, "a call was told twice"
            assert index not in world.cancelled, "a cancelled call was told"
            world.told.append(index)
            if self.replied(world, index):
                self.advance(world, ("reply", "refusal"))
                what, number, _ = world.inbox[world.seen - 1]
                assert world.committed[number] == index, "a reply settled the call of another"
                outcome = event.call.outcome
                told = outcome.error if isinstance(outcome, Ack) else str(outcome.uptime_seconds)
                assert told == str(number), "a call has the reply to another"
                assert (isinstance(outcome, Ack) and not outcome.ok) == (what == "refusal")
        elif isinstance(event, NotificationReceived):
            self.advance(world, ("push",))
        elif isinstance(event, SessionEnded):
            world.told_end = True
            assert event.error is world.session.ended
            everyone = set(range(len(world.calls)))
            assert everyone == world.settled.keys(), "a call is open after the end"
            assert set(world.told) == everyone - world.cancelled, "a call was not told before the end"
            assert world.session.next_event() is NEED_DATA, "an event came after SessionEnded"
        else:
            assert event is NEED_DATA, f"a host does not get {event}"
            if world.session.ended is None:
                self.advance(world, ())
                assert not world.eof, "the end of the stream was ignored"
                assert not world.read_failed, "a failed read was ignored"
                assert set(world.told) == world.settled.keys() - world.cancelled, "a done call was not told"
            else:
                assert world.told_end, "the end was not told"

    def advance(self, world: World, wanted: tuple[str, ...]) -> None:
        """Account for the next line of a kind in `wanted`; before it, only replies that no one waits for go by."""
        while world.seen < len(world.inbox):
            said = world.inbox[world.seen]
            assert self.fits(world, said), "what breaks the protocol was ignored"
            world.seen += 1
            late = said.what != "push" and self.given_up(world, world.committed[said.number])
            if said.what in wanted and not late:
                return
            assert late, f"a {said.what} was swallowed, or told out of order"
        assert not wanted, "an event that the guest did not cause"

    def fits(self, world: World, said: Said) -> bool:
        """Whether the protocol allows this line, now that it is looked at."""
        if said.number < 0:
            return said.what == "push"
        asked = world.committed[said.number : said.number + 1]
        return [world.config.requests[index].type for index in asked] == [said.answers]

    def given_up(self, world: World, index: int) -> bool:
        return isinstance(world.settled.get(index), RequestTimeout)

    # What the outcome of a call may be.

    def outcome(self, world: World, index: int, operation: tuple[Any, ...], before: Before) -> None:
        call, outcome = world.calls[index], world.settled[index]
        name = operation[0]
        if isinstance(outcome, RequestTimeout):
            deadline = world.config.deadlines[index]
            assert operation == ("cancel", index) or (
                name == "expire" and deadline is not None and deadline <= world.now
            ), "a call timed out early"
            assert outcome.sent == call.sent == (index in before.committed), "`sent` of a timeout is wrong"
        elif not isinstance(outcome, Exception):
            assert name == "pull"
            assert isinstance(world.event, CallDone), "a reply settled a call and was not told"
            assert world.event.call is call, "a reply settled a call that was not told"
            assert call.sent
        else:
            assert name not in ("request", "write", "say", "half", "eof", "read_failed"), f"{name} settled a call"
            started = self.started(world, index, committed_counts=name == "abort")
            assert call.sent == started, "`sent` is wrong after the end"
            if not started:
                assert type(outcome) is ConnectionLost
                assert "was not sent" in str(outcome)
                return
            assert world.over, "a call that may be answered was given up"
            ended = world.session.ended
            assert "writing failed" not in str(ended), "a failed write ended the wait for a reply"
            if isinstance(ended, RemoteProtocolError):
                assert type(outcome) is type(ended)
                assert outcome is not ended
                return
            changes = isinstance(call.request, Mount)
            assert type(outcome) is (OutcomeUnknown if changes else ConnectionLost)
            assert call.request in outcome.unanswered
            assert "was unanswered" in str(outcome)

    # Why a session may end.

    def end(self, world: World, name: str) -> None:
        error = world.session.ended
        lost = type(error) is ConnectionLost
        text = str(error)
        assert world.session.closed == (name == "close")
        if name == "close":
            assert lost
            assert text.endswith("was closed")
        elif name == "abort":
            assert lost
            assert "interrupted" in text
        elif name in ("write_failed", "cancel", "expire"):
            assert world.write_failed
            assert lost
            assert "writing failed" in text
        else:
            assert name == "pull", f"{name} ended the session"
            wrong = any(not self.fits(world, said) for said in world.inbox[world.seen :])
            if isinstance(error, RemoteProtocolError):
                assert wrong, "the guest did nothing wrong"
            else:
                assert lost
                causes = {
                    "writing failed": world.write_failed,
                    "middle of a line": world.half and world.eof,
                    "closed the connection": world.eof,
                    "reading failed": world.read_failed,
                }
                assert any(happened and cause in text for cause, happened in causes.items()), text
                assert "writing failed" in text or not wrong, "what breaks the protocol was ignored"

    # What holds at all times.

    def always(self, world: World, before: Before) -> None:
        session, calls = world.session, world.calls
        for index, outcome in world.settled.items():
            assert calls[index].outcome is outcome, "an outcome changed"
        still = self.open(world)
        assert session.pending == tuple(calls[index] for index in still), "`pending` is wrong"
        deadlines = [calls[index].deadline for index in still if calls[index].deadline is not None]
        assert session.next_deadline() == min(deadlines, default=None), "`next_deadline` is wrong"
        assert world.committed == sorted(set(world.committed)), "lines out of order, or twice"
        waiting = [index for index in still if index not in world.committed]
        for index in still:
            assert calls[index].sent == (index in world.committed), "`sent` is wrong"
        for place, index in enumerate(world.committed if not world.over else ()):
            assert session.is_written(calls[index]) == (world.ends[place] <= world.written), "`is_written` is wrong"
        if world.over or world.write_failed:
            assert not session.wants_write, "there is something to write after the end"
            assert not session.data_to_send(), "bytes were handed out after the end"
            assert world.over or any(self.started(world, index) for index in still), "it goes on for no reply"
            assert not (world.over and still), "a call is open after the end"
            assert not before.over or session.ended is before.ended, "the end changed"
        else:
            answered = sum(said.number >= 0 for said in world.inbox[: world.seen])
            room = len(world.committed) - answered < world.config.max_pending
            assert len(world.committed) - answered <= world.config.max_pending, "too many in flight"
            rest = world.written < len(world.stream)
            assert session.wants_write == (rest or (bool(waiting) and room)), "`wants_write` is wrong"


def explore(
    config: Config, session: Callable[..., HostSession] = HostSession, duplicate: Callable[[World], World] = World.copy
) -> Found:
    """Search all that can happen. Raises Broken."""
    specification = Specification()

    def step(world: World, operation: tuple[Any, ...]) -> World | None:
        after = duplicate(world)
        before = Before.of(after)
        after.do(*operation)
        specification.check(after, operation, before)
        # After the end an operation other than pulling changes nothing that matters: it is checked, not followed.
        return None if (before.over and operation != ("pull",)) or after.told_end else after

    return search(World(config, session), World.possible, step)


if __name__ == "__main__":
    print_counts(LARGE if sys.argv[1:] == ["large"] else SMALL, explore)
