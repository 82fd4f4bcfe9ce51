"""The client for callers that block: threads, and green threads.

There is no thread behind it. Callers share the stream by turns (`stereos_proto.Turns`): one reads for all, and
hands over when it leaves. Everything but waiting happens under one lock. A write never waits without reading: with
replies filling the buffers of both ends, host and guest would block each other for ever.
"""

from __future__ import annotations

import contextlib
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any, Protocol, Self, TypeVar

from stereos_proto import (
    DEFAULT_TIMEOUT,
    MAX_PENDING,
    Call,
    Connection,
    Dialogue,
    HostSession,
    Mailbox,
    Notification,
    Reply,
    Request,
    RequestTimeout,
    Role,
    Running,
    Step,
    StereosError,
    Turns,
    Waiter,
)
from stereos_proto.dialogues import Action, Connect, Send, SendMany, Sleep

from ._dialling import READ, WRITE
from ._log import log_for, logger
from ._outcomes import again, replies
from ._streams import READ_SIZE, as_stream
from ._timeouts import seconds
from ._verbs import ReplyT, Result, SyncVerbs

Client = TypeVar("Client", bound="SyncClient")

#: What each step waits for.
_MASKS = {Step.READ: READ, Step.READ_WRITE: READ | WRITE, Step.WRITE: WRITE}

#: Seconds after which a wait on a stream that cannot be shut down looks whether it was closed.
_LOOK_AGAIN = 0.5

#: Seconds that one wait lasts at most: `poll` takes no more than 24 days.
_LONGEST_WAIT = 86_400.0


class Event(Protocol):
    """What wakes one follower: `threading.Event` and its like."""

    def set(self) -> object:
        """Let `wait` return."""
        ...

    def wait(self, timeout: float, /) -> object:
        """Wait until it is set, or for `timeout` seconds."""
        ...


class SyncClient(SyncVerbs):
    """A connection to a guest, for callers that block. A driver brings `_lock`, `_event`, `_poll` and `_sleep`."""

    def __init__(
        self,
        stream: Any,
        *,
        label: str = "the guest",
        timeout: float = DEFAULT_TIMEOUT,
        early: bytes = b"",
        max_pending: int = MAX_PENDING,
        max_notifications: int | None = None,
        trace: Callable[[Role, bytes], object] | None = None,
    ) -> None:
        """`stream` is the client's from now on. `early` are bytes of the protocol that were read already.

        `timeout` (seconds) is what each verb waits unless told otherwise. `max_pending` bounds the requests in
        flight, `max_notifications` the notifications kept for `notifications()`.
        """
        log = log_for(label)
        self._session = session = HostSession(label, max_pending=max_pending, trace=trace, log=log)
        self._mailbox = Mailbox(log=log) if max_notifications is None else Mailbox(max_notifications, log=log)
        self._turns = Turns(session, self._mailbox)
        self._timeout = seconds(timeout)
        self._stream = as_stream(stream)
        # Guards session, mailbox and turns, and all reading and writing.
        self._lock: Any = self._make_lock()
        # That `close` was called while the lock was held; its holder closes when it lets go.
        self._close_wanted = False
        self._glance = _LONGEST_WAIT if hasattr(self._stream, "shutdown") else _LOOK_AGAIN
        if early:
            session.receive_data(early)

    # -- what a driver brings ------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def _make_lock() -> Any:
        """Return a lock: `acquire(blocking)`, `release`."""

    @staticmethod
    @abstractmethod
    def _event() -> Event:
        """Return a new event."""

    @staticmethod
    @abstractmethod
    def _sleep(seconds: float) -> None:
        """Sleep."""

    @abstractmethod
    def _poll(self, mask: int, seconds: float) -> int:
        """Wait until the stream is ready for one of `mask`, or for `seconds`; return what it is ready for."""

    # -- for users -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "closed" if self._session.ended else "open"
        return f"<{type(self).__module__.rpartition('.')[2]}.Client {self._session.label} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def connection(self) -> Connection:
        """The protocol's state machine, for its states and what is pending. Do not feed it."""
        return self._session.connection

    @property
    def dropped_notifications(self) -> int:
        """How many notifications were dropped because they were not taken in time."""
        return self._mailbox.dropped

    def close(self) -> None:
        """Close the connection. Those that still wait get a ConnectionLost. Twice is fine.

        May be called from a signal handler or a finalizer: if the lock is held, its holder closes at once when it
        lets go. Waiting for the lock there would wait for the very code that was interrupted.
        """
        self._close_wanted = True
        if self._lock.acquire(False):
            try:
                self._close_wanted = False
                self._session.close()
                self._turns.pump()
                self._hang_up()
            except BaseException:
                self._interrupted()
                raise
            finally:
                self._release()

    def request(self, message: Request[ReplyT], *, timeout: float | None = None) -> ReplyT:
        """Send `message` and return its reply (§3). Raises what all verbs raise."""
        return self._ask(message, seconds(timeout, self._timeout)).result()

    def request_many(self, messages: Iterable[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        return replies(self._ask_many(tuple(messages), self._deadline(timeout), _ignore))

    def notifications(self, *, timeout: float | None = None) -> Iterator[Notification]:
        """Yield what the guest tells unasked, as it comes, until the client is closed.

        Raises RequestTimeout after `timeout` seconds without one, and what the connection ended in when it
        was not closed from here.
        """
        limit = seconds(timeout)
        while True:
            waiter = Waiter()
            with self._region():
                news = self._mailbox.take()
                ended = self._session.ended
                if news is None and ended is None:
                    self._mailbox.listen(waiter)
            if news is not None:
                yield news
            elif ended is None:
                if not self._listen(waiter, time.monotonic() + limit):
                    raise RequestTimeout(f"{self._session.label} sent no notification within {limit:g} s")
            elif self._session.closed:
                return
            else:
                raise again(ended)

    def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None) -> Result:
        """Run a dialogue over this connection, within `timeout` seconds, and return its result."""
        return SyncRunner(type(self), self).run(dialogue, seconds(timeout, self._timeout))

    # -- asking --------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + seconds(timeout, self._timeout)

    def _ask(self, message: Request[ReplyT], limit: float) -> Call[ReplyT]:
        """Send `message` and wait for its outcome, for `limit` seconds at most."""
        deadline = time.monotonic() + limit
        self._lock.acquire()
        try:
            call = self._session.request(message)
            if limit > 0:
                self._write()
            else:
                self._session.cancel(call)
        except StereosError:
            raise
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._release()
        self._wait(call, deadline)
        return call

    def _ask_many(
        self, messages: Sequence[Request], deadline: float, report: Callable[[int, Any], object]
    ) -> list[Reply | StereosError]:
        """Send `messages`, wait for all outcomes or the deadline, and report each as it settles."""
        with self._region():
            calls = self._session.request_many(messages)
            if deadline > time.monotonic():
                self._write()
        try:
            for index, call in enumerate(calls):
                self._wait(call, deadline)
                report(index, call.outcome)
        except BaseException:
            self._give_up(calls)
            raise
        return [call.outcome for call in calls]  # type: ignore[misc]

    def _give_up(self, calls: Iterable[Call[Any]]) -> None:
        with self._region():
            for call in calls:
                self._session.cancel(call)

    # -- waiting -------------------------------------------------------------------------------------------

    def _listen(self, waiter: Waiter, deadline: float) -> bool:
        """Wait for what the mailbox was asked for; return whether it came before `deadline`."""
        try:
            return self._wait(waiter, deadline)
        finally:
            with self._region():
                self._mailbox.ignore(waiter)

    def _wait(self, waiter: Waiter | Call[Any], deadline: float) -> bool:
        """Wait until `waiter` is done, or until `deadline`; return whether it is done. A late call is cancelled.

        The deadline is checked even if the stream is readable; otherwise a chatty guest would hold the caller
        past it.
        """
        turns, session = self._turns, self._session
        ready = 0
        event: Event | None = None
        left = inf
        while True:
            self._lock.acquire()
            try:
                if ready & READ:
                    self._read()
                turns.pump(waiter)
                if session.wants_write:
                    self._write()
                    turns.pump(waiter)
                step = turns.step(waiter, wants_write=session.wants_write and not self._reads_to_write)
                if step is Step.DONE or left <= 0:
                    if type(waiter) is Call and not waiter.done:
                        session.cancel(waiter)
                    turns.leave(waiter)
                    if session.ended is not None:
                        self._hang_up()
                    return step is Step.DONE
                if step is Step.FOLLOW:
                    event = self._event()
                    waiter.context = event.set
            except BaseException:
                self._interrupted(waiter)
                raise
            finally:
                self._release()
            try:
                left = deadline - time.monotonic()
                pause = max(min(left, self._glance), 0)
                if step is Step.FOLLOW and event is not None:
                    event.wait(pause)
                    ready = 0
                else:
                    ready = self._poll(_MASKS[step], pause)
            except BaseException:
                self._leave(waiter)
                raise

    @property
    def _reads_to_write(self) -> bool:
        return getattr(self._stream, "reads_to_write", False)

    def _leave(self, waiter: Waiter | Call[Any]) -> None:
        """Let go of everything after an exception that came while waiting."""
        with self._region():
            if type(waiter) is Call:
                self._session.cancel(waiter)
            self._turns.leave(waiter)
            if self._session.ended is not None:
                self._hang_up()

    # -- the stream, under the lock --------------------------------------------------------------------------

    def _read(self) -> None:
        session = self._session
        if session.ended is not None:
            return
        try:
            data = self._stream.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            session.read_failed(exc)
            return
        if data:
            session.receive_data(data)
        else:
            session.receive_eof()

    def _write(self) -> None:
        """Write what the stream takes without waiting."""
        session, send = self._session, self._stream.send
        try:
            while data := session.data_to_send():
                session.data_sent(send(data))
        except BlockingIOError:
            return
        except OSError as exc:
            session.write_failed(exc)

    def _hang_up(self) -> None:
        """Close the stream, once no caller waits for it."""
        with contextlib.suppress(OSError, AttributeError):
            # Wakes a thread that waits for the stream, which closing alone does not.
            self._stream.shutdown(socket.SHUT_RDWR)
        if self._turns.idle:
            # Not before: the descriptor that a thread waits for could be another's by then.
            self._stream.close()

    # -- the lock --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _region(self) -> Iterator[None]:
        """Hold the lock. After a KeyboardInterrupt in here the state is inconsistent, so the session is ended."""
        self._lock.acquire()
        try:
            yield
        except StereosError:
            raise
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._release()

    def _release(self) -> None:
        self._lock.release()
        if self._close_wanted:
            self.close()

    def _interrupted(self, waiter: Waiter | Call[Any] | None = None) -> None:
        """End the session: an exception came between doing something and counting it."""
        self._session.abort()
        self._turns.pump()
        self._turns.wake_all()
        if waiter is not None:
            self._turns.leave(waiter)
        self._hang_up()


def _ignore(_index: int, _outcome: Any) -> None:
    """A report that is not wanted."""


class SyncRunner:
    """Runs dialogues for callers that block: over one client, or over one after another that `dial` makes.

    `dial(timeout)` returns a client within `timeout` seconds, or raises ConnectError.
    """

    def __init__(
        self,
        driver: type[SyncClient],
        client: SyncClient | None = None,
        *,
        dial: Callable[[float], SyncClient] | None = None,
    ) -> None:
        self.client = client
        self._driver = driver
        self._dial = dial
        # Notifications when something was asked last: what came since ends a Sleep.
        self._heard = 0

    def run(self, dialogue: Dialogue[Result], limit: float) -> Result:
        """Run `dialogue` within `limit` seconds and return its result. Raises what it raises."""
        running = Running(dialogue, None if limit == inf else time.monotonic() + limit, limit)
        try:
            action = running.resume(None, time.monotonic())
            while action is not None:
                action = running.resume(self._perform(action, running), time.monotonic())
        except BaseException as exc:
            running.fail(exc)
            raise
        result: Result = running.result
        return result

    def _perform(self, action: Action, running: Running[Any]) -> Any:
        try:
            if isinstance(action, Send):
                client = self._current()
                self._heard = client._mailbox.heard
                return client._ask(action.message, self._left(running, action.timeout)).outcome
            if isinstance(action, Sleep):
                return self._pause(action, self._left(running, action.seconds))
            if isinstance(action, SendMany):
                deadline = time.monotonic() + self._left(running, None)
                return self._current()._ask_many(action.messages, deadline, action.on_outcome)
            return self._connect(action, self._left(running, action.timeout))
        except StereosError as exc:
            return exc.with_traceback(None)

    def _left(self, running: Running[Any], limit: float | None) -> float:
        now = time.monotonic()
        until = running.until(limit, now)
        return inf if until is None else until - now

    def _current(self) -> SyncClient:
        if self.client is None:
            raise RuntimeError("the dialogue has not connected yet")
        return self.client

    def _connect(self, action: Connect, limit: float) -> None:
        if self.client is not None:
            logger.debug("%s: the connection is dropped, to dial again", self.client._session.label)
        self.close()
        if self._dial is None:
            raise RuntimeError(f"this dialogue has nothing to dial, and wants {action}")
        self.client = self._dial(limit)

    def _pause(self, action: Sleep, limit: float) -> None:
        client, start = self.client, time.monotonic()
        if client is None or client._session.ended is not None:
            self._driver._sleep(limit)
            return
        waiter = Waiter()
        with client._region():
            client._mailbox.listen(waiter, after=self._heard)
        client._listen(waiter, start + limit)
        least = min(action.least, limit)
        if (left := start + least - time.monotonic()) > 0:
            self._driver._sleep(left)

    def close(self) -> None:
        """Close the client that there is."""
        if self.client is not None:
            self.client.close()

    def found(self, driver: type[Client]) -> Client:
        """Return the client that the dialogue ended with."""
        client = self._current()
        if not isinstance(client, driver):
            raise TypeError(f"this is no {driver.__name__}")
        return client
