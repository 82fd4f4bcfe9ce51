"""All schedules of threads that share one stream by `Turns`, against a specification written apart.

    python -m tests.explore.turns [large]

A `World` is a session with its `Turns`, a stream, a guest, and threads. Each thread makes one request (the last one may
listen for a notification instead) in the loop that a client of threads has: a *lock region*, a wait outside the lock,
and so on. A step of the search is one of these:

- one thread enters its lock region and leaves it again (`run`);
- the wait of one thread is over: the stream is readable or writable, its event is set, its deadline has passed
  (`wake`). Other steps can come between this and its lock region, which is what makes such code hard;
- the guest reads what the stream holds, or answers one request that it has read whole;
- a disturbance: a deadline passes, a thread is interrupted (Ctrl-C, a cancelled task), a notification comes, the guest
  closes the stream, writing fails, the client is closed. `Config.disturbances` bounds how many.

The threads are alike, so the search lets them begin in the order of their numbers only.

The specification: no two threads wait for the stream to be readable, nor for it to be writable only; the written bytes
are whole lines in the order of asking; a thread does not sleep while its call is done; while threads wait, one reads or
is about to; where a thread's line is not written and could be, one waits for the stream to take it; the lanes are free
when the threads that had them are gone; no thread spins; and when nothing can happen any more but a disturbance, no
thread waits for a reply, and one of those that listen reads.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from stereos_proto import (
    Call,
    CallDone,
    ConnectionLost,
    HostSession,
    Lifecycle,
    Mailbox,
    Ping,
    Pong,
    Role,
    Step,
    Turns,
    Waiter,
    encode,
)

from .search import Found, connection_of_its_own, print_counts, search, shallow

LINE: Final = encode(Ping())
REPLY: Final = encode(Pong())

POLLS_TO_READ: Final = (Step.READ, Step.READ_WRITE)


class Config(NamedTuple):
    """What a search is about."""

    # Threads, and whether the last one listens for a notification.
    threads: int
    listens: bool
    # Requests in flight at most.
    max_pending: int
    # Bytes that the stream holds until the guest reads them, in halves of a line.
    halves: int
    # Disturbances in one history at most, and which of them.
    disturbances: int
    kinds: frozenset[str] = frozenset(["late", "interrupt", "push", "eof", "break", "close"])

    def __str__(self) -> str:
        return (
            f"{self.threads} threads{' (one listens)' if self.listens else ''}, {self.max_pending} in flight, "
            f"{self.halves / 2:g} lines in the stream, {self.disturbances} disturbances"
        )


#: Sizes for CI.
SMALL: Final = (
    Config(4, False, 2, 1, 0),
    Config(4, False, 1, 2, 1),
    Config(4, True, 2, 2, 1),
    Config(3, False, 2, 1, 1),
    Config(3, True, 1, 1, 1),
    Config(3, True, 2, 3, 1),
)
#: Sizes that take minutes.
LARGE: Final = (
    *SMALL,
    Config(4, False, 2, 1, 1),
    Config(3, False, 2, 1, 2),
    Config(3, True, 1, 1, 2),
    *(
        Config(4, listens, max_pending, halves, 2)
        for listens in (False, True)
        for max_pending in (1, 2, 3)
        for halves in (1, 2, 3)
    ),
)


class Thread:
    """One thread: its waiter, and where it is."""

    __slots__ = ("event", "interrupted", "late", "phase", "reason", "step", "waiter")

    def __init__(self) -> None:
        # "new", "waits" (outside the lock), "woken" (on its way to the lock), "gone".
        self.phase = "new"
        self.waiter: Any = None
        # What it was told to do last, and what ended the wait for it.
        self.step: Step | None = None
        self.reason = ""
        # Whether the event of a follower is set, its deadline has passed, it was interrupted.
        self.event = self.late = self.interrupted = False

    def wake(self) -> None:
        self.event = True


class World:
    """A session, its turns, a stream with a guest at its other end, and threads."""

    def __init__(self, config: Config, turns: type[Turns] = Turns) -> None:
        self.config = config
        self.session = HostSession(max_pending=config.max_pending)
        self.mailbox = Mailbox()
        self.turns = turns(self.session, self.mailbox)
        self.threads = [Thread() for _ in range(config.threads)]
        # The stream: bytes on their way to the guest, and to us.
        self.size = config.halves * len(LINE) // 2
        self.outbound = 0
        self.inbound = b""
        self.eof = self.broken = self.shut = False
        # The guest: bytes that it has read, replies that it has given.
        self.heard = 0
        self.answered = 0
        # Whether what was received is not wholly worked through. Clients keep this flag, pull only then, and pull a few
        # events in each turn: here one.
        self.behind = False
        self.written = b""
        self.pushed = False
        self.disturbances = 0
        # The states in which the threads began to wait, for the rule against spinning.
        self.asleep: tuple[object, ...] = (None,) * config.threads
        self.history: tuple[Any, Any] | None = None

    # -- what can happen -----------------------------------------------------------------------------------

    def possible(self) -> Iterator[tuple[Any, ...]]:
        """Yield what can happen without a disturbance."""
        first_new = True
        for number, thread in enumerate(self.threads):
            if thread.phase == "woken" or (thread.phase == "new" and first_new):
                yield "run", number
            if thread.phase == "new":
                first_new = False
            if thread.phase == "waits":
                yield from (("wake", number, reason) for reason in self.reasons(thread))
        if self.outbound:
            yield ("guest_reads",)
        if self.answered < self.heard // len(LINE) and not self.eof:
            yield ("guest_answers",)
        if self.broken and not (self.eof or self.inbound):
            # A guest to which nothing can be written has gone, and sooner or later that can be read.
            yield ("gone",)

    def reasons(self, thread: Thread) -> Iterator[str]:
        """Yield what may end the wait of a thread now."""
        if thread.step in POLLS_TO_READ and (self.inbound or self.eof or self.shut):
            yield "readable"
        if thread.step in (Step.READ_WRITE, Step.WRITE) and (self.outbound < self.size or self.broken or self.shut):
            yield "writable"
        if thread.step in (Step.FOLLOW, Step.WRITE) and thread.event:
            yield "event"
        if thread.late:
            yield "late"
        if thread.interrupted:
            yield "interrupted"

    def disturbing(self) -> Iterator[tuple[Any, ...]]:
        """Yield the disturbances that can happen."""
        if self.disturbances == self.config.disturbances:
            return
        for number, thread in enumerate(self.threads):
            if thread.phase in ("waits", "woken"):
                if "late" in self.config.kinds and not thread.late:
                    yield "late", number
                if "interrupt" in self.config.kinds and not thread.interrupted:
                    yield "interrupt", number
        happened = {"push": self.pushed or self.eof, "eof": self.eof, "break": self.broken, "close": self.shut}
        yield from ((kind,) for kind, already in happened.items() if kind in self.config.kinds and not already)

    def do(self, name: str, *arguments: Any) -> None:
        getattr(self, f"do_{name}")(*arguments)

    def do_late(self, number: int) -> None:
        self.disturbances += 1
        self.threads[number].late = True

    def do_interrupt(self, number: int) -> None:
        self.disturbances += 1
        self.threads[number].interrupted = True

    def do_push(self) -> None:
        self.disturbances += 1
        self.pushed = True
        self.inbound += encode(Lifecycle("booting"))

    def do_eof(self) -> None:
        self.disturbances += 1
        self.eof = True

    def do_gone(self) -> None:
        self.eof = True

    def do_break(self) -> None:
        self.disturbances += 1
        self.broken = True

    def do_close(self) -> None:
        """Another thread closes the client: a lock region of its own."""
        self.disturbances += 1
        self.session.close()
        self.turns.pump()
        self.shut = True

    def do_guest_reads(self) -> None:
        self.heard += self.outbound
        self.outbound = 0

    def do_guest_answers(self) -> None:
        self.answered += 1
        self.inbound += REPLY

    def do_wake(self, number: int, reason: str) -> None:
        thread = self.threads[number]
        thread.phase, thread.reason = "woken", reason

    # -- a lock region -----------------------------------------------------------------------------------------

    def do_run(self, number: int) -> None:
        """What a client of threads does under its lock."""
        thread, session, turns = self.threads[number], self.session, self.turns
        if thread.phase == "new" and not self.begin(number):
            thread.phase = "gone"
            return
        waiter = thread.waiter
        if thread.reason == "readable":
            self.read()
        if thread.reason != "interrupted":
            if self.behind:
                self.behind = turns.pump(waiter, 1)
            self.write()
            step = turns.step(waiter, wants_write=session.wants_write)
        if thread.reason == "interrupted" or step is Step.DONE or thread.late:
            if not waiter.done and isinstance(waiter, Call):
                session.cancel(waiter)
            if isinstance(waiter, Waiter):
                self.mailbox.ignore(waiter)
            turns.leave(waiter)
            thread.phase, thread.step, thread.event, thread.late, thread.interrupted = "gone", None, False, False, False
        else:
            # Where there is work left, a client does not sleep, but lets others in.
            phase = "woken" if self.behind and step in POLLS_TO_READ else "waits"
            thread.phase, thread.step, thread.event = phase, step, False
            waiter.context = thread.wake if step in (Step.FOLLOW, Step.WRITE) else None
        thread.reason = ""
        if session.ended is not None:
            # Wakes those that wait for the stream.
            self.shut = True

    def begin(self, number: int) -> bool:
        thread = self.threads[number]
        if self.config.listens and number == self.config.threads - 1:
            if self.session.ended is not None:
                return False
            thread.waiter = Waiter()
            self.mailbox.listen(thread.waiter)
            return True
        try:
            thread.waiter = self.session.request(Ping())
        except ConnectionLost:
            return False
        return True

    def read(self) -> None:
        self.behind = True
        if self.inbound and not self.shut:
            self.session.receive_data(self.inbound)
            self.inbound = b""
        elif self.eof or self.shut:
            self.session.receive_eof()

    def write(self) -> None:
        while self.session.wants_write:
            if self.broken or self.shut:
                self.session.write_failed(BrokenPipeError(32, "Broken pipe"))
                self.behind = self.turns.pump(limit=1)
                return
            data = bytes(self.session.data_to_send())[: self.size - self.outbound]
            if not data:
                return
            self.written += data
            self.outbound += len(data)
            self.session.data_sent(len(data))

    # -- the state ---------------------------------------------------------------------------------------------

    def state(self) -> object:
        """All that what happens next depends on."""
        s, turns = self.session, self.turns
        number = {id(thread.waiter): place for place, thread in enumerate(self.threads)}
        return (
            tuple(
                (
                    thread.phase,
                    thread.step,
                    thread.reason,
                    thread.event,
                    thread.late,
                    thread.interrupted,
                    thread.waiter is not None and thread.waiter.done,
                    thread.waiter is not None and thread.waiter.context is None,
                    isinstance(thread.waiter, Call) and (thread.waiter.sent, thread.waiter._end),
                )
                for thread in self.threads
            ),
            turns._leader and number[id(turns._leader)],
            turns._writer and number[id(turns._writer)],
            tuple(number[id(waiter)] for waiter in turns._followers),
            tuple(number.get(id(call)) for call in s._in_flight),
            tuple(number.get(id(call)) for call in s._waiting),
            tuple(number.get(id(event.call)) for event in s._events),
            (s._queued, s._written, s._write_error is None, s.ended is None, s._told_end, s.connection._eof),
            len(s.connection.trailing_data),
            (
                self.outbound,
                len(self.inbound),
                self.eof,
                self.broken,
                self.shut,
                self.heard,
                self.answered,
                self.behind,
            ),
            (self.pushed, self.disturbances, self.mailbox.heard),
        )

    def copy(self) -> World:
        """A world in the same state that goes its own way."""
        twin, session, turns, mailbox = map(shallow, (self, self.session, self.turns, self.mailbox))
        twin.session, twin.turns, twin.mailbox = session, turns, mailbox
        twin.threads = [shallow(thread) for thread in self.threads]
        waiters: dict[int, Any] = {}
        for thread in twin.threads:
            if thread.waiter is not None:
                waiter = shallow(thread.waiter)
                if waiter.context is not None:
                    waiter.context = thread.wake
                waiters[id(thread.waiter)] = waiter
                thread.waiter = waiter
        session._waiting = OrderedDict((waiters[id(call)], None) for call in session._waiting)
        session._in_flight = deque([waiters[id(call)] for call in session._in_flight])
        session._deadlines = []
        session._events = deque([CallDone(waiters[id(event.call)]) for event in session._events])
        session.connection = connection_of_its_own(session.connection)
        session._commit = partial(session.connection._conversation.message, Role.HOST)
        turns.session, turns.mailbox, turns._next_event = session, mailbox, session.next_event
        turns._leader = turns._leader and waiters[id(turns._leader)]
        turns._writer = turns._writer and waiters[id(turns._writer)]
        turns._followers = {waiters[id(waiter)]: None for waiter in turns._followers}
        mailbox._kept = mailbox._kept.copy()
        mailbox._listening = [waiters[id(waiter)] for waiter in mailbox._listening]
        return twin


def check(world: World, operation: tuple[Any, ...], before: object) -> None:
    """What must hold after each step. Raises AssertionError with the rule that was broken."""
    waiting = [thread for thread in world.threads if thread.phase in ("waits", "woken")]
    readers = [thread for thread in waiting if thread.step in POLLS_TO_READ]
    writers = [thread for thread in waiting if thread.step is Step.WRITE]
    assert len(readers) <= 1, "two threads wait for the stream to be readable"
    assert len(writers) <= 1, "two threads wait for the stream to be writable"
    assert world.turns.idle == (not readers and not writers), "`idle` is wrong"
    assert (LINE * len(world.threads)).startswith(world.written), "the bytes written are no whole lines"
    for thread in waiting:
        if thread.phase == "waits" and thread.waiter.done:
            awake = list(world.reasons(thread))
            assert awake, "a thread sleeps, although what it waits for has happened"
    unwritten = [
        thread
        for thread in waiting
        if isinstance(thread.waiter, Call) and not (thread.waiter.done or world.session.is_written(thread.waiter))
    ]
    roused = [thread for thread in waiting if thread.phase == "woken" or any(world.reasons(thread))]
    assert readers or roused or not waiting, "no one reads, and a guest that writes before it reads waits for us"
    if unwritten and world.session.wants_write:
        awake = [thread for thread in waiting if thread.phase == "woken" or thread.event]
        assert awake or writers or readers[0].step is Step.READ_WRITE, "no one waits to write what a waiter needs"
    if operation[0] == "run":
        thread = world.threads[operation[1]]
        assert thread.phase == "gone" or not thread.waiter.done, "a thread stays, although its call is done"
        # The state before is that of the wait, before it was woken.
        assert world.state() != before, "a thread spins"
    if not waiting:
        assert not world.turns._followers, "a follower is gone and not removed"
        return
    if not any(True for _ in world.possible()):
        for thread in waiting:
            assert isinstance(thread.waiter, Waiter), "all sleep, and one waits for a reply that has come or could come"
            assert not thread.waiter.done
        assert len(readers) == 1, "all sleep, and no one would read a notification"


def explore(config: Config, turns: type[Turns] = Turns) -> Found:
    """Search all schedules. Raises Broken."""

    def step(world: World, operation: tuple[Any, ...]) -> World:
        after = world.copy()
        after.do(*operation)
        check(after, operation, world.asleep[operation[1]] if operation[0] == "run" else None)
        if operation[0] == "wake":
            after.asleep = (*world.asleep[: operation[1]], world.state(), *world.asleep[operation[1] + 1 :])
        return after

    return search(World(config, turns), lambda world: (*world.possible(), *world.disturbing()), step)


if __name__ == "__main__":
    print_counts(LARGE if sys.argv[1:] == ["large"] else SMALL, explore)
