"""The client for callers that block: threads, and green threads.

There is no thread behind it. Callers share the stream by turns (`stereos_proto.Turns`): one reads for all, and
hands over when it leaves. Everything but waiting happens under one lock. A write never waits without reading: with
replies filling the buffers of both ends, host and guest would block each other for ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, Self, TypeVar, Unpack

import attrs

from stereos_proto import (
    DEFAULT_TIMEOUT,
    MAX_PENDING,
    NEED_DATA,
    Call,
    Connection,
    ConnectionLost,
    Dialogue,
    HostSession,
    Mailbox,
    Notification,
    Reply,
    Request,
    RequestTimeout,
    Role,
    Step,
    StereosError,
    Turns,
    Waiter,
    seconds,
)
from stereos_proto.dialogues import Backoff, WaitProgress
from stereos_proto_io.addresses import Address

from ._dialling import READ, WRITE
from ._log import log_for
from ._outcomes import QUESTIONS, again, look, replies, shown
from ._streams import EVENTS_PER_TURN, as_stream, handed_over, read, write
from ._sync_dial import LONGEST_WAIT
from ._sync_runner import SyncRunner
from ._verbs import READY_TIMEOUT, Limits, ReplyT, Result, SyncVerbs, check_limits, ready_wait

Client = TypeVar("Client", bound="SyncClient")

#: What each step waits for.
_MASKS = {Step.READ: READ, Step.READ_WRITE: READ | WRITE, Step.WRITE: WRITE}

#: Seconds between checks whether a stream was closed, for streams without `shutdown`, which would end the wait.
_LOOK_AGAIN = 0.5
#: Seconds between checks of one that waits to write whether another still reads. Nothing else tells it.
_WRITER_LOOKS = 0.05


class Event(Protocol):
    """What wakes one follower: `threading.Event` and its like."""

    def set(self) -> object:
        """Let `wait` return."""
        ...

    def wait(self, timeout: float, /) -> object:
        """Wait until it is set, or for `timeout` seconds."""
        ...


class SyncClient(SyncVerbs):
    """A connection to a guest, for callers that block (§3).

    A driver brings `_make_lock`, `_event`, `_poll` and `_sleep`; `_dial`, where it can dial.
    """

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
        self._label = label
        self._session = session = HostSession(label, max_pending=max_pending, trace=trace, log=log)
        self._mailbox = Mailbox(log=log) if max_notifications is None else Mailbox(max_notifications, log=log)
        self._turns = Turns(session, self._mailbox)
        self._timeout = seconds(timeout)
        self._stream = as_stream(stream)
        # Guards session, mailbox and turns, and all reading and writing. Held only briefly, and never while waiting.
        self._lock: Any = self._make_lock()
        # Whether something is being done under the lock, and whether `close` was called meanwhile.
        self._inside = False
        self._close_wanted = False
        # Whether the session still has received data to process.
        self._behind = False
        self._glance = LONGEST_WAIT if hasattr(self._stream, "shutdown") else _LOOK_AGAIN
        if early:
            session.receive_data(early)
            self._turns.pump()
            if session.ended is not None:
                self._hang_up()
        _CLIENTS.add(self)

    # -- what a driver brings ------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def _make_lock() -> Any:
        """Return a lock, as a context manager, which the thread that holds it may take again."""

    @classmethod
    @abstractmethod
    def _event(cls) -> Event:
        """Return a new event."""

    @classmethod
    @abstractmethod
    def _sleep(cls, seconds: float) -> None:
        """Sleep for `seconds`, which are `LONGEST_WAIT` at most."""

    @abstractmethod
    def _poll(self, mask: int, seconds: float) -> int:
        """Wait until the stream is ready for one of `mask`, or for `seconds`; return what it is ready for."""

    @classmethod
    def _dial(cls, address: Address, limit: float) -> tuple[Any, bytes]:
        """Connect within `limit` seconds. Return the stream, and bytes that came early (§8). Raises ConnectError."""
        raise NotImplementedError(f"{cls.__name__} has no _dial, so it cannot connect to {address}; attach a stream")

    # -- for users -----------------------------------------------------------------------------------------

    @classmethod
    def attach(
        cls, stream: Any, *, label: str = "the guest", timeout: float = DEFAULT_TIMEOUT, **limits: Unpack[Limits]
    ) -> Self:
        """Return a client over a connected socket, or another object that keeps the rules of `driver.Stream`.

        A socket may be one of TLS. The client owns the stream from then on, and makes a socket non-blocking. `timeout`
        (seconds) is what each verb waits unless told otherwise. `max_pending` bounds the requests in flight,
        `max_notifications` the notifications kept for `notifications()`.

        Raises TypeError when `stream` is no stream, OSError when it is closed, ValueError for a bad limit.
        """
        return cls(stream, label=label, timeout=timeout, **limits)

    @classmethod
    def connect(cls, address: Address, *, timeout: float | None = DEFAULT_TIMEOUT, **limits: Unpack[Limits]) -> Self:
        """Dial a guest, within `timeout` seconds (None: no bound), and return a client. `timeout` is each verb's, too.

        It bounds everything but the function of a `Dial`. `limits` are those of `Client.attach`. A connection does not
        mean that the guest is there (§8): see `connect_when_ready`.

        Raises ConnectError; ValueError and TypeError for a bad limit, before it dials.
        """
        limit = seconds(timeout)
        check_limits(**limits)
        return cls._connect(address, limit, limit, limits)

    @classmethod
    def connect_when_ready(
        cls,
        address: Address,
        *,
        timeout: float | None = READY_TIMEOUT,
        states: Collection[str] | None = None,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        request_timeout: float = DEFAULT_TIMEOUT,
        **limits: Unpack[Limits],
    ) -> Self:
        """Dial until there is a guest, wait until it is ready, and return a client; all within `timeout` seconds.

        Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again (§8).
        `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`; `request_timeout` (seconds) is
        what each verb of the client waits later; `limits` are those of `Client.attach`.

        Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
        RemoteProtocolError when what answers does not speak the protocol.
        """
        wait = ready_wait(states, agents, backoff, on_progress)
        patience = seconds(request_timeout)
        check_limits(**limits)
        runner = SyncRunner(cls, dial=lambda limit: cls._connect(address, limit, patience, limits), label=str(address))
        try:
            runner.run(wait.run(redial=True), seconds(timeout))
        except BaseException:
            runner.close()
            raise
        return runner.found(cls)

    @classmethod
    def _connect(cls, address: Address, limit: float, timeout: float, limits: Limits) -> Self:
        stream, early = cls._dial(address, limit)
        with handed_over(stream, address):
            return cls(stream, label=str(address), timeout=timeout, early=early, **limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._session.__reduce__()

    def __repr__(self) -> str:
        return shown(self)

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
        """How many notifications were dropped because more were waiting than are kept."""
        return self._mailbox.dropped

    def close(self) -> None:
        """Close the connection. Twice is fine.

        Threads that still wait get a ConnectionLost, or an OutcomeUnknown for a change that was sent. A `provision`
        that is under way returns its report instead: it says which steps are done, unknown, and not sent.

        May be called from a signal handler or a finalizer that interrupts this client in this very thread: it then
        closes as soon as the interrupted code has finished.
        """
        self._close_wanted = True
        with self._lock:
            if not self._inside:
                self._locked(self._close)

    def request(self, message: Request[ReplyT], *, timeout: float | None = None) -> ReplyT:
        """Send `message` and return its reply (§3), within `timeout` seconds (None: the client's own timeout).

        Raises RequestFailed, RequestTimeout, ConnectionLost, RemoteProtocolError and LocalProtocolError, as each verb
        does.
        """
        limit = self._timeout if timeout is None else seconds(timeout)
        return self._ask(message, limit).result()

    def request_many(self, messages: Iterable[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        `timeout` (seconds, None: the client's own) is for all of them together.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        return replies(self._ask_many(tuple(messages), seconds(timeout, self._timeout), _ignore))

    def notifications(self, *, timeout: float | None = None) -> Iterator[Notification]:
        """Yield the notifications of the guest as they arrive, until the client is closed.

        That is a `Lifecycle`, or an `UnknownMessage` where its type has no class here (§4): look at the class first.

        Each notification goes to one iterator: several of one client share them. For several consumers, let one thread
        iterate and hand each on.

        At most `max_notifications` (1,024 by default) and 1 MiB are kept for it: `dropped_notifications` counts the
        others.

        Raises RequestTimeout after `timeout` seconds without one (None: no bound), and what the connection ended in,
        ConnectionLost or RemoteProtocolError, when it was not closed from here. After RequestTimeout, `next` waits
        again.
        """
        return _Notifications(self, seconds(timeout))

    def _next_notification(self, limit: float) -> Notification:
        # Another thread may take what this one was woken for: the limit is for all of it.
        deadline = time.monotonic() + limit
        while True:
            waiter = Waiter()
            news: Notification | None
            news, ended = self._locked(self._take, waiter)
            if news is not None:
                return news
            if ended is None:
                if not self._listen(waiter, deadline):
                    raise RequestTimeout(f"{self._session.label} sent no notification within {limit:g} s")
            elif self._session.closed:
                raise StopIteration
            else:
                raise again(ended)

    def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None) -> Result:
        """Run a dialogue over this connection, within `timeout` seconds, and return its result.

        None is the client's own timeout. Raises what the dialogue raises; TypeError when it is not a generator,
        ValueError when it was begun before.
        """
        return SyncRunner(type(self), self).run(dialogue, seconds(timeout, self._timeout))

    # -- asking --------------------------------------------------------------------------------------------

    def _ask(self, message: Request[ReplyT], limit: float) -> Call[ReplyT]:
        """Send `message` and wait for its outcome, for `limit` seconds at most."""
        deadline = time.monotonic() + limit
        calls: list[Call[ReplyT]] = []
        try:
            step = self._locked(self._begin, calls, message, limit)
            self._wait(calls[0], deadline, step)
        except BaseException:
            self._give_up(calls)
            raise
        return calls[0]

    def _begin(self, calls: list[Call[Any]], message: Request, limit: float) -> Step:
        call = self._session.request(message)
        calls.append(call)
        if limit <= 0:
            self._session.cancel(call, timed_out=True)
        else:
            if type(message) not in QUESTIONS:
                self._look()
            if not self._behind:
                step = self._turns.step(call, wants_write=write(self._session, self._stream))
                if step is not Step.DONE:
                    return step
        return self._turn(call, 0)

    def _ask_many(
        self, messages: Sequence[Request], limit: float, report: Callable[[int, Any], object]
    ) -> list[Reply | StereosError]:
        """Send `messages`, wait for all outcomes for `limit` seconds at most, and report each as it settles."""
        deadline = time.monotonic() + limit
        calls: list[Call[Any]] = []
        try:
            self._locked(self._begin_many, calls, messages, limit)
            late = False
            for index, call in enumerate(calls):
                if not late and (late := not self._wait(call, deadline)):
                    # All at once: otherwise each call would need a turn, which is long if the guest sends a lot.
                    self._locked(self._leave, calls[index:], True)
                report(index, call.outcome)
        except BaseException:
            self._give_up(calls)
            raise
        return [call.outcome for call in calls]  # type: ignore[misc]

    def _begin_many(self, calls: list[Call[Any]], messages: Sequence[Request], limit: float) -> None:
        calls += self._session.request_many(messages)
        if limit > 0:
            self._look()
            write(self._session, self._stream)
        else:
            for call in calls:
                self._session.cancel(call, timed_out=True)

    def _take(self, waiter: Waiter) -> tuple[Notification | None, StereosError | None]:
        """Return the next notification; where there is none, listen for it."""
        news, ended = self._mailbox.take(), self._session.ended
        if news is None and ended is None:
            self._mailbox.listen(waiter)
        return news, ended

    def _listen(self, waiter: Waiter, deadline: float) -> bool:
        """Wait for what the mailbox was asked for; return whether it came before `deadline`."""
        try:
            return self._wait(waiter, deadline)
        finally:
            self._give_up([waiter])

    # -- waiting -------------------------------------------------------------------------------------------

    def _wait(self, waiter: Waiter | Call[Any], deadline: float, step: Step | None = None) -> bool:
        """Wait until `waiter` is done, or until `deadline`; return whether it is done. A late call is cancelled.

        `step` is its next step, where that is known. After an exception `_give_up` has to follow.

        The deadline is checked even if the stream is readable; otherwise a chatty guest would hold the caller
        past it.
        """
        event: Event | None = None
        late = False
        now: Step = step or self._locked(self._turn, waiter, 0)
        while now is not Step.DONE:
            if late:
                self._locked(self._leave, [waiter], True)
                return False
            left = deadline - time.monotonic()
            late = left <= 0
            pause = 0 if late else min(left, self._glance)
            if now is Step.WRITE:
                pause = min(pause, _WRITER_LOOKS)
            if now is not Step.FOLLOW:
                behind = self._behind and now is not Step.WRITE
                # Where there is work left the poll only lets other threads have the lock.
                ready = self._poll(_MASKS[now], 0 if behind else pause)
                now = self._locked(self._turn, waiter, 0 if behind else ready)
            elif event is None:
                # It may be done by now: it looks again before it sleeps.
                event = self._event()
                waiter.context = event.set
                now = self._locked(self._turn, waiter, 0)
            else:
                event.wait(pause)
                event = None
                now = self._locked(self._turn, waiter, 0)
        return True

    def _turn(self, waiter: Waiter | Call[Any], ready: int) -> Step:
        """Read and write without waiting; return the next step. A waiter that is done has left the turns by then."""
        session, turns = self._session, self._turns
        if ready & READ and session.ended is None:
            self._behind = True
            read(session, self._stream)
        if self._behind:
            self._behind = turns.pump(waiter, EVENTS_PER_TURN)
        if waiter.done:
            # The next waiter writes what there is room for: it is woken when this one leaves.
            step = Step.DONE
        else:
            step = turns.step(waiter, wants_write=session.wants_write and write(session, self._stream))
        if step is Step.DONE:
            turns.leave(waiter)
        if session.ended is not None:
            self._hang_up()
        return step

    def _give_up(self, waiters: Iterable[Waiter | Call[Any]]) -> None:
        self._locked(self._leave, waiters)

    def _leave(self, waiters: Iterable[Waiter | Call[Any]], timed_out: bool = False) -> None:
        """Let go of everything, and cancel the calls that are not done."""
        for waiter in waiters:
            if isinstance(waiter, Call):
                self._session.cancel(waiter, timed_out=timed_out)
            else:
                self._mailbox.ignore(waiter)
            self._turns.leave(waiter)
        if self._session.ended is not None:
            self._hang_up()

    # -- the stream, under the lock --------------------------------------------------------------------------

    def _look(self) -> None:
        look(self._turns, self._stream)

    def _close(self) -> None:
        self._close_wanted = False
        self._session.close()
        self._turns.pump()
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the stream, once no caller waits for it."""
        with contextlib.suppress(OSError, AttributeError):
            # Wakes a thread that waits for the stream, which closing alone does not.
            self._stream.shutdown(socket.SHUT_RDWR)
        if self._turns.idle:
            # Not earlier: a thread that still polls the descriptor could then poll another file.
            self._stream.close()

    def _disown(self) -> None:
        """Let go of the stream, in a child that was forked: the connection goes on, and is the parent's.

        The threads that held or wanted the lock are not in the child, so it gets a lock of its own, and no waiter is
        woken.
        """
        self._lock = self._make_lock()
        self._inside = self._close_wanted = False
        self._turns.forget()
        self._stream.close()
        self._session.end(
            ConnectionLost(f"the connection to {self._session.label} belongs to the process that made it")
        )
        # `pump` would wake those who wait for these events.
        while self._session.next_event() is not NEED_DATA:
            pass

    # -- the lock --------------------------------------------------------------------------------------------

    def _locked(self, work: Callable[..., Any], *args: Any) -> Any:
        """Call `work` under the lock.

        A signal handler, or a finalizer, may interrupt `work` in this very thread and call `close`. The lock is
        reentrant, because waiting for it would never end. But the state is then in the middle of a change, so `close`
        only sets a flag, and this method closes the client after `work`.

        An exception of the handler itself, such as a KeyboardInterrupt, leaves the state inconsistent: a caller may
        have been passed over. So it ends the session. Nothing can come between taking the lock and the `try`:
        Python looks for signals after calls and where functions begin, and `with` is neither.
        """
        with self._lock:
            if self._inside:
                raise RuntimeError(
                    f"the connection to {self._session.label} is in use by the code that was interrupted; "
                    "a signal handler or a finalizer may only close it"
                )
            self._inside = True
            try:
                return work(*args)
            except StereosError:
                raise
            except BaseException:
                self._interrupted()
                raise
            finally:
                self._inside = False
                if self._close_wanted:
                    self._locked(self._close)

    def _interrupted(self) -> None:
        self._session.abort()
        self._turns.pump()
        self._turns.wake_all()
        self._hang_up()


def _ignore(_index: int, _outcome: Any) -> None:
    """The default `on_outcome`: ignore the report."""


@attrs.frozen
class _Notifications(Iterator[Notification]):
    """An iterator that goes on after an exception, which a generator would not."""

    client: SyncClient
    limit: float

    def __next__(self) -> Notification:
        return self.client._next_notification(self.limit)


#: Those of this process. A child that was forked has copies, and one stream has one reader.
_CLIENTS: Final[weakref.WeakSet[SyncClient]] = weakref.WeakSet()


def _after_fork() -> None:
    for client in tuple(_CLIENTS):
        client._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
