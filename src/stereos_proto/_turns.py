"""Leader and followers: how many callers share one stream when no task or thread stands behind it.

The problem. Several threads (or tasks) wait for replies on one stream. Only one may read it, and nothing runs in
the background that could. So the first one that waits reads for all: it is the *leader*. The others are
*followers*: each sleeps until its own call is done, or until it is its turn to lead. This module is the
bookkeeping of that, and nothing else: no stream, no lock, no sleep. A driver calls `step` to learn what to do next,
does it, and calls `step` again; it calls `leave` when it goes, for whatever reason. Threads call both under one
lock, and wait outside it.

**The two lanes.** Reading and writing are two lanes, with one waiter in each at most. The leader has the reading
lane, and also waits until the stream is writable if there is something to write (READ_WRITE). A leader that waits
already cannot be told that there is now something to write. So the waiter whose line the stream did not take waits
until the stream is writable: it is the *writer* (WRITE). It only writes. If it read, too, it could leave with its
reply at the moment at which there is room in flight for another request, and the leader, which sleeps, would not know.

**Interleavings that this guards against.** `tests/explore` explores them all.

- *The follower that was woken to lead leaves instead* (its deadline passed at the same moment). It therefore
  hands over in `leave`, although it never led.
- *A leader leaves with events of others unpulled.* The next leader pulls before it waits: `step` does.
- *A new caller takes the lead between the waking of a follower and its step.* The follower finds the lane taken
  and follows again; the new leader hands over to it when it leaves.
- *A follower that is done is not removed yet when the leader leaves.* Waking it would wake no reader, so those
  that are done are passed over; and it hands over itself when it leaves.
- *The writer leaves with half a line unwritten.* A follower with unwritten bytes of its own takes the lane. Where
  there is none, the line is finished by the next caller, or by the leader when it waits again: no one's reply
  depends on it, since the guest answers in order.
- *The leader leaves, and only the writer is left.* The writer is woken and takes the reading lane. If it slept on until
  the stream is writable, no one would read, and a guest that writes before it reads on would wait for the host, and the
  host for the guest.
- *The session ends while others wait.* Every call settles, which wakes its follower; the driver wakes the two that
  wait for the stream by shutting it down, and gives the descriptor back only when `idle`: otherwise it could be
  another file's while a thread still polls it.
- *Calls settle without the guest* (a write fails after the last pull, or the client is closed). Their followers would
  not be woken by anyone, so `step` and `leave` pull all that the session owes (`HostSession.owes_events`), whatever
  the limit of a turn is.

A driver of threads cannot wake a writer that polls the stream, so this one steps again every 50 ms.

What was tried: a wake-up pipe for each client, so that one leader could do all the waiting. It costs two
descriptors for each guest and two system calls for each request that meets a waiting leader.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from ._call import Call
from ._host_session import HostSession
from ._mailbox import Mailbox, Pump, Waiter, wake


class Step(Enum):
    """What a waiter has to do next (§3)."""

    #: Nothing: what it waited for has happened. Call `leave`.
    DONE = "done"
    #: Wait until the stream is readable, read once, and `step` again.
    READ = "read"
    #: Wait until the stream is readable or writable; read or write, and `step` again.
    READ_WRITE = "read or write"
    #: Wait until the stream is writable, write, and `step` again. Another waiter reads. Set `context` to what ends the
    #: wait early, or `step` again every now and then: when the one that reads leaves, this waiter has to read.
    WRITE = "write"
    #: Set `context` to what wakes it, sleep until that is called, and `step` again.
    FOLLOW = "follow"


#: A waiter that is done: pumping for it pulls only the events that a session owes, none that depend on the guest.
_GONE: Final = Waiter(done=True)


class Turns(Pump):
    """Whose turn it is on one stream (§3). Not thread-safe: call it under the lock that guards the session."""

    def __init__(self, session: HostSession, mailbox: Mailbox) -> None:
        super().__init__(session, mailbox)
        # Who has the reading lane, and who has the writing lane, when that is another waiter.
        self._leader: Waiter | Call[Any] | None = None
        self._writer: Waiter | Call[Any] | None = None
        # The others, in the order in which they came.
        self._followers: dict[Waiter | Call[Any], Any] = {}

    @property
    def idle(self) -> bool:
        """Whether no waiter waits for the stream itself."""
        return self._leader is None and self._writer is None

    def step(self, waiter: Waiter | Call[Any], *, wants_write: bool) -> Step:
        """Return what `waiter` has to do next. Pull (`pump`) before, unless all was pulled; write what can be written.

        `wants_write`: whether the session has bytes that the stream does not take now.
        """
        session = self.session
        # Wake the callers whose calls settled without the guest.
        if session._events or session.ended is not None:
            self.pump(_GONE)
        # After the end there is nothing to wait for: otherwise a late waiter would meet the end again and again.
        if waiter.done or session.ended is not None:
            return Step.DONE
        if self._leader is None or self._leader is waiter:
            self._leader = waiter
            self._followers.pop(waiter, None)
            if self._writer is waiter:
                self._leave_writing(waiter)
            return Step.READ_WRITE if wants_write else Step.READ
        if wants_write and self._writer in (None, waiter) and self._has_to_write(waiter):
            self._writer = waiter
            self._followers.pop(waiter, None)
            return Step.WRITE
        self._leave_writing(waiter)
        # Keeps its place in the queue, if it has one.
        self._followers.setdefault(waiter)
        return Step.FOLLOW

    def leave(self, waiter: Waiter | Call[Any]) -> None:
        """Let go of everything, and wake the followers whose turn it is. Twice is fine."""
        session = self.session
        if session._events or session.ended is not None:
            self.pump(_GONE)
        waiter.context = None
        self._followers.pop(waiter, None)
        if self._leader is waiter:
            self._leader = None
        if self._writer is waiter:
            self._leave_writing(waiter)
        if self._leader is None and (self._followers or self._writer is not None):
            self._wake_a_reader()
        if self._followers and self._writer is None and session.wants_write:
            self._wake_a_writer()

    def _leave_writing(self, waiter: Waiter | Call[Any]) -> None:
        if self._writer is waiter:
            self._writer = None
            self._wake_a_writer()

    def _wake_a_reader(self) -> None:
        """Wake the follower that leads next, or the writer if there is no follower. One waiter has to read."""
        self._wake_first((*self._followers, *(() if self._writer is None else (self._writer,))))

    def _wake_a_writer(self) -> None:
        self._wake_first(follower for follower in self._followers if self._has_to_write(follower))

    @staticmethod
    def _wake_first(followers: Iterable[Waiter | Call[Any]]) -> None:
        for follower in followers:
            if not follower.done:
                wake(follower)
                break

    def _has_to_write(self, waiter: Waiter | Call[Any]) -> bool:
        return isinstance(waiter, Call) and not self.session.is_written(waiter)

    def wake_all(self) -> None:
        """Wake every follower and every listener, after an exception that may have swallowed an event."""
        for follower in tuple(self._followers):
            wake(follower)
        self.mailbox.wake_all()

    def forget(self) -> None:
        """Forget every waiter, in a child that was forked: their threads are not in it."""
        self._leader = self._writer = None
        self._followers.clear()
