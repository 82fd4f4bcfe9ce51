"""How threads share one stream: whoever waits first reads for all (leader and followers)."""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stereos_proto import ConnectionLost, StereosError
from stereos_proto._messages import Notification

from ._dial import tune
from ._session import READ_SIZE, Call, Session, Waiting
from ._verbs import Result

#: Seconds that one wait lasts at most; poll takes no more than 24 days.
_LONG: Final = 86_400.0

#: Seconds after which a wait on a stream that cannot be shut down looks whether it was closed.
_LOOK_AGAIN: Final = 0.5


class Link:
    """A stream and its session. Everything but waiting happens under `lock`."""

    def __init__(self, stream: Any, session: Session) -> None:
        self.lock = threading.Lock()
        self._stream = tune(stream)
        self._session = session
        self._leader: Waiting | None = None
        self._followers: list[Waiting] = []
        self._inside: set[Waiting] = set()
        self._reads = self._poll(select.POLLIN)
        self._glance = _LONG if hasattr(stream, "shutdown") else _LOOK_AGAIN
        session.at_end(self._hang_up)
        _LINKS.add(self)

    def start(self, start: Callable[[Any], Result], what: Any) -> Result:
        """Start calls with a method of the session, and write what can be written without waiting."""
        # By hand what `_undivided` does: this is in the way of every request.
        with self.lock:
            try:
                started = start(what)
                self._write()
            except StereosError:
                raise
            except BaseException:
                self._session.interrupted()
                raise
        return started

    def abandon(self, calls: Iterable[Call]) -> None:
        """Give up those of `calls` that are not done."""
        self._undivided(self._abandon, calls)

    def close(self) -> None:
        """End the session, and close the stream once nobody waits for it any more."""
        self._undivided(self._close)

    def _undivided(self, work: Callable[..., None], *args: Any) -> None:
        """Do `work` under the lock. Were Ctrl-C to come in the middle, nobody knew how far it got: the session ends."""
        with self.lock:
            try:
                work(*args)
            except BaseException:
                self._session.interrupted()
                raise

    def _abandon(self, calls: Iterable[Call]) -> None:
        for call in calls:
            if not call.done:
                self._session.abandon(call)
            self._leave(call)

    def _close(self) -> None:
        self._session.close()
        self._hang_up()

    def disown(self) -> None:
        """Let go of the stream, in a child that was forked: the connection goes on, and is the parent's."""
        self.lock = threading.Lock()  # who held it, or waited, is not in the child
        self._leader = None
        self._followers.clear()
        self._inside.clear()
        self._stream.close()
        self._session.end(
            ConnectionLost(f"the connection to {self._session.label} belongs to the process that made it")
        )

    # -- waiting -----------------------------------------------------------------------------------------

    def hear(self) -> Notification | Waiting | None:
        """`Session.hear`, under the lock."""
        with self.lock:
            return self._session.hear()

    def pause(self, deadline: float, heard: int) -> None:
        """Wait until `deadline`, or for the next notification after the first `heard`."""
        with self.lock:
            waiting = self._session.listen(heard)
        self.listen(waiting, deadline)

    def listen(self, waiting: Waiting, deadline: float) -> bool:
        """Wait for what `Session.listen` returned; return whether it came before `deadline`."""
        try:
            return self.wait(waiting, deadline)
        finally:
            with self.lock:
                self._session.ignore(waiting)
                self._leave(waiting)

    def wait(self, waiting: Waiting, deadline: float) -> bool:
        """Wait until `waiting` is done, or until `deadline`; return whether it is done."""
        ready: object = None
        left = math.inf
        while True:
            with self.lock:
                if ready:
                    self._transfer(waiting)
                # A guest that never stops talking is no reason to stay: the deadline counts, ready or not.
                if waiting.done or left <= 0:
                    self._leave(waiting)
                    return waiting.done
                turn = self._turn(waiting)
            left = max(deadline - time.monotonic(), 0)
            ready = turn(min(left, self._glance))

    def _turn(self, waiting: Waiting) -> Callable[[float], object]:
        """What to do until there is news: wait for the stream, or for another thread that does."""
        self._inside.add(waiting)
        if self._leader is None:
            self._leader = waiting
        if self._session.wants_write:
            # Also where somebody else leads: it may be waiting for something to read, and for that alone.
            return self._poll(select.POLLIN | select.POLLOUT)
        if self._leader is waiting:
            return self._reads
        event = threading.Event()
        waiting.wake = event.set
        if waiting not in self._followers:
            self._followers.append(waiting)
        return partial(_follow, event)

    def _poll(self, events: int) -> Callable[[float], object]:
        poll = select.poll()
        poll.register(self._stream.fileno(), events)
        return lambda seconds: poll.poll(seconds * 1000)

    def _leave(self, waiting: Waiting) -> None:
        """Let others go on. Saying it twice is fine: a KeyboardInterrupt may come between doing and saying."""
        self._inside.discard(waiting)
        if waiting in self._followers:
            self._followers.remove(waiting)
        if self._leader is waiting:
            self._leader = None
        if self._leader is None and self._followers:
            # Also when this thread only followed: it may be the one that was woken to lead.
            self._followers[0].wake()
        if self._session.ended:
            self._hang_up()

    def _hang_up(self) -> None:
        with suppress(OSError, AttributeError):
            # Wakes a thread that waits for the stream, which closing alone does not.
            self._stream.shutdown(socket.SHUT_RDWR)
        if not self._inside:
            # Not before: the descriptor that a thread waits for could be another's by then.
            self._stream.close()

    # -- reading and writing, under the lock ---------------------------------------------------------------

    def _transfer(self, waiting: Waiting) -> None:
        if self._session.ended:
            return
        try:
            # Who only writes leaves reading to the leader. Were it to read, and go with a reply, then there could
            # be room for another request, and nobody left who knows that it is to be written.
            if self._leader is waiting:
                self._session.receive(self._stream.recv(READ_SIZE))
        except BlockingIOError:
            # It was the writing that one could go on with.
            pass
        except OSError as exc:
            self._session.broken(exc)
        except BaseException:
            self._session.interrupted()
            raise
        self._write()

    def _write(self) -> None:
        session = self._session
        try:
            while data := session.next_write():
                session.wrote(self._stream.send(data))
        except BlockingIOError:
            return
        except OSError as exc:
            # Replies to earlier requests may have arrived before the connection broke.
            with suppress(OSError):
                while not session.ended:
                    session.receive(self._stream.recv(READ_SIZE))
            session.broken(exc)
        except BaseException:
            session.interrupted()
            raise


#: Those of this process. A child that was forked has copies, and one stream has one reader.
_LINKS: Final[weakref.WeakSet[Link]] = weakref.WeakSet()


def _after_fork() -> None:
    for link in tuple(_LINKS):
        link.disown()


os.register_at_fork(after_in_child=_after_fork)


def _follow(event: threading.Event, seconds: float) -> None:
    event.wait(seconds)
