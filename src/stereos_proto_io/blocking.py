"""The client for programs that block: plain calls, any number of threads.

There is no thread behind it. Whoever waits first reads for all, and hands over to the next who waits when it
has its own reply (leader and followers). Nobody waits to write without reading: with replies filling the
buffers of both ends, host and guest would block each other for ever.
"""

from __future__ import annotations

import copy
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import attrs

from stereos_proto import (
    Connection,
    Health,
    Preamble,
    PreambleError,
    Reply,
    Request,
    RequestTimeout,
    StereosError,
)
from stereos_proto._constants import DEFAULT_TIMEOUT, MAX_PENDING
from stereos_proto._messages import Notification
from stereos_proto.dialogues import READY_STATES, Backoff, ReadyWait, WaitProgress

from ._dial import Device, is_device, preambles, socket_target
from ._errors import connect_error
from ._session import MAX_NOTIFICATIONS, READ_SIZE, Call, Session, accepted
from ._verbs import READY_TIMEOUT, Dialogue, Outcome, Result, SyncActor, SyncVerbs, ready_wait
from .addresses import TCP, Address, Dial

__all__ = ["Client", "connect", "connect_when_ready"]

#: Seconds after which a wait on a stream that cannot be shut down looks whether it was closed.
_LOOK_AGAIN: Final = 0.5


class _Waiter:
    """A thread that waits. Woken under the client's lock only, so that being woken twice is harmless."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        if self._lock.locked():
            self._lock.release()

    def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))


class Client(SyncVerbs):
    """A connection to a guest. Threads may share it; each gets its own replies.

    `timeout` (seconds) is what each verb waits unless told otherwise. `max_pending` bounds the requests in
    flight, `max_notifications` the notifications kept for `notifications()`.
    """

    def __init__(
        self,
        stream: Any,
        *,
        label: str = "the guest",
        timeout: float = DEFAULT_TIMEOUT,
        max_pending: int = MAX_PENDING,
        max_notifications: int = MAX_NOTIFICATIONS,
    ) -> None:
        self._stream = stream
        self._timeout = timeout
        self._lock = threading.Lock()
        self._leader: _Waiter | None = None
        self._followers: list[_Waiter] = []
        self._listeners: list[_Waiter] = []
        self._session = Session(
            label, max_pending=max_pending, max_notifications=max_notifications, on_notification=self._wake_listeners
        )
        self._glance = math.inf if hasattr(stream, "shutdown") else _LOOK_AGAIN
        if hasattr(stream, "setblocking"):
            stream.setblocking(False)

    @classmethod
    def attach(cls, stream: Any, **options: Any) -> Self:
        """Return a client over a connected socket, or anything with its `fileno`, `recv`, `send` and `close`.

        The client owns the stream from then on, and makes it non-blocking. `options` are those of the class.
        """
        return cls(stream, **options)

    def __repr__(self) -> str:
        return f"<blocking.Client {self._session.label} {'closed' if self._session.ended else 'open'}>"

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
        """How many notifications were dropped because nobody took them in time."""
        return self._session.dropped_notifications

    def close(self) -> None:
        """Close the connection. Whoever still waits gets a ConnectionLost. Closing twice is fine."""
        with self._lock:
            self._session.close()
            with suppress(OSError, AttributeError):
                # Wakes a thread that waits in poll, which closing alone does not.
                self._stream.shutdown(socket.SHUT_RDWR)
            self._stream.close()

    def request(self, message: Request, *, timeout: float | None = None) -> Reply:
        """Send `message` and return its reply. See `SyncVerbs` for the errors."""
        return accepted(message, self._ask(message, self._deadline(timeout)))

    def request_many(self, messages: Iterable[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        outcomes = self._many(tuple(messages), self._deadline(timeout), lambda _index, _outcome: None)
        for outcome in outcomes:
            if isinstance(outcome, StereosError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Reply)]

    def notifications(self, *, timeout: float | None = None) -> Iterator[Notification]:
        """Yield what the guest tells unasked, as it comes, until the client is closed.

        Raises RequestTimeout after `timeout` seconds without one, and what the connection ended in when it
        was not closed from here.
        """
        while True:
            heard = self._listen(lambda: bool(self._session.has_notification), self._until(timeout))
            with self._lock:
                message = self._session.take_notification()
                ended = self._session.ended
            if message is not None:
                yield message
            elif ended is not None:
                if self._session.closed:
                    return
                raise copy.copy(ended)
            elif not heard:
                raise RequestTimeout(f"{self._session.label} sent no notification within {timeout} s")

    # -- waiting -----------------------------------------------------------------------------------------

    @staticmethod
    def _until(timeout: float | None) -> float:
        return time.monotonic() + (math.inf if timeout is None else timeout)

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _start(self, messages: Sequence[Request]) -> list[tuple[Call, _Waiter]]:
        waiter = _Waiter()
        with self._lock:
            if len(messages) == 1:
                calls = [self._session.start(messages[0], waiter.wake)]
            else:
                calls = self._session.start_many(messages, waiter.wake)
            self._write()
        return [(call, waiter) for call in calls]

    def _ask(self, message: Request, deadline: float) -> Reply:
        return self._finish(self._start((message,))[0], deadline)

    def _finish(self, started: tuple[Call, _Waiter], deadline: float) -> Reply:
        call, waiter = started
        try:
            self._wait(lambda: call.outcome is not None, waiter, deadline)
        except BaseException:
            with self._lock:
                self._session.abandon(call)
            raise
        if call.outcome is None:
            with self._lock:
                if call.outcome is None:
                    raise self._session.abandon(call)
        return call.reply()

    def _many(
        self, messages: Sequence[Request], deadline: float, report: Callable[[int, Outcome], None]
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for index, started in enumerate(self._start(messages) if messages else ()):
            outcome: Outcome
            try:
                outcome = self._finish(started, deadline)
            except StereosError as exc:
                outcome = exc
            outcomes.append(outcome)
            report(index, outcome)
        return outcomes

    def _listen(self, done: Callable[[], bool], deadline: float) -> bool:
        waiter = _Waiter()
        with self._lock:
            self._listeners.append(waiter)
        try:
            return self._wait(done, waiter, deadline)
        finally:
            with self._lock:
                self._listeners.remove(waiter)

    def _wake_listeners(self) -> None:
        for waiter in self._listeners:
            waiter.wake()

    def _wait(self, done: Callable[[], bool], waiter: _Waiter, deadline: float) -> bool:
        """Wait until `done`, the end of the session or the deadline; return whether it was not the deadline."""
        session = self._session
        try:
            while True:
                with self._lock:
                    if done() or session.ended:
                        return True
                    leads = self._leader is None
                    writes = session.wants_write
                    if leads:
                        self._leader = waiter
                    elif not writes:
                        self._followers.append(waiter)
                if leads:
                    return self._pump(done, deadline)
                if writes:
                    # Somebody else reads, but does not know that there is something to write.
                    self._pump(lambda: done() or not session.wants_write, deadline)
                else:
                    waiter.wait(deadline - time.monotonic())
                    with self._lock:
                        self._followers.remove(waiter)
                if time.monotonic() >= deadline:
                    return done()
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._followers:
                self._followers.remove(waiter)
            if self._leader is waiter:
                self._leader = None
            # Also when this thread only followed: it may be the one that was woken to lead.
            if self._leader is None and self._followers:
                self._followers[0].wake()

    def _pump(self, done: Callable[[], bool], deadline: float) -> bool:
        """Read and write for everybody until `done`. The stream is read under the lock only."""
        poll = select.poll()
        interest = 0
        while True:
            wanted = select.POLLIN | (select.POLLOUT if self._session.wants_write else 0)
            left = min(deadline - time.monotonic(), self._glance)
            if wanted != interest:
                with self._lock:
                    if done() or self._session.ended:
                        return True
                    poll.register(self._stream.fileno(), wanted)
                interest = wanted
            ready = poll.poll(None if left == math.inf else max(left, 0) * 1000)
            with self._lock:
                if not self._session.ended and ready:
                    self._read()
                    self._write()
                if done() or self._session.ended:
                    return True
            if not ready and time.monotonic() >= deadline:
                return False

    def _read(self) -> None:
        try:
            data = self._stream.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._session.broken(exc)
        else:
            self._session.receive(data)

    def _write(self) -> None:
        session = self._session
        try:
            while data := session.next_write():
                session.wrote(self._stream.send(data))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            # Replies to earlier requests may have arrived before the connection broke.
            with suppress(OSError):
                while not session.ended:
                    session.receive(self._stream.recv(READ_SIZE))
            session.broken(exc)

    # -- dialogues ---------------------------------------------------------------------------------------

    def _run_within(self, dialogue: Dialogue[Result], timeout: float | None) -> Result:
        return _Actor(self._deadline(timeout), self).run(dialogue)

    def _wait_within(self, wait: ReadyWait, timeout: float) -> Health:
        return _Actor(self._until(timeout), self).wait(wait, timeout, redial=False)


@attrs.define
class _Actor(SyncActor):
    """Runs a dialogue over one client, or over one after another where it may dial."""

    deadline: float
    client: Client | None = None
    address: Address | None = None
    options: dict[str, Any] = attrs.field(factory=dict)

    def wait(self, wait: ReadyWait, timeout: float, *, redial: bool) -> Health:
        try:
            return self.run(wait.run(redial=redial))
        except RequestTimeout as exc:
            raise wait.progress.not_ready(f"{timeout:g} s have passed") from (wait.progress.error or exc)

    def _by(self, timeout: float) -> float:
        return min(self.deadline, time.monotonic() + timeout)

    def _current(self) -> Client:
        if self.client is None:
            raise RuntimeError("the dialogue has not connected yet")
        return self.client

    def _connect(self, timeout: float) -> None:
        if self.client is not None:
            self.client.close()
        if self.address is None:
            raise RuntimeError("this dialogue has nothing to dial")
        self.client = _connect(self.address, self._by(timeout), self.options)

    def _exchange(self, message: Request, timeout: float) -> Reply:
        return self._current()._ask(message, self._by(timeout))

    def _exchange_many(self, messages: Sequence[Request], report: Callable[[int, Outcome], None]) -> list[Outcome]:
        return self._current()._many(messages, self.deadline, report)

    def _pause(self, seconds: float) -> None:
        if self.client is None or self.client._session.ended:
            time.sleep(max(0, self._by(seconds) - time.monotonic()))
        else:
            session = self.client._session
            heard = session.heard
            self.client._listen(lambda: session.heard != heard, self._by(seconds))
        if time.monotonic() >= self.deadline:
            raise RequestTimeout("the time is up")


def connect(
    address: Address,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    max_pending: int = MAX_PENDING,
    max_notifications: int = MAX_NOTIFICATIONS,
) -> Client:
    """Dial a guest, within `timeout` seconds, and return a client. `timeout` is each verb's, too.

    A connection does not mean that the guest is there (§8): see `connect_when_ready`.

    Raises ConnectError.
    """
    options = {"timeout": timeout, "max_pending": max_pending, "max_notifications": max_notifications}
    return _connect(address, time.monotonic() + timeout, options)


def connect_when_ready(
    address: Address,
    *,
    timeout: float = READY_TIMEOUT,
    states: Collection[str] = READY_STATES,
    agents: Collection[str] = (),
    backoff: Backoff | None = None,
    on_progress: Callable[[WaitProgress], None] | None = None,
    request_timeout: float = DEFAULT_TIMEOUT,
    max_pending: int = MAX_PENDING,
    max_notifications: int = MAX_NOTIFICATIONS,
) -> Client:
    """Dial until there is a guest, wait until it is ready, and return a client; all within `timeout` seconds.

    Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again.
    `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`; `request_timeout` is what
    each verb of the client waits later.

    Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
    RemoteProtocolError when what answers does not speak the protocol.
    """
    wait = ready_wait(states, agents, backoff, on_progress)
    options = {"timeout": request_timeout, "max_pending": max_pending, "max_notifications": max_notifications}
    actor = _Actor(time.monotonic() + timeout, None, address, options)
    try:
        actor.wait(wait, timeout, redial=True)
    except BaseException:
        if actor.client is not None:
            actor.client.close()
        raise
    return actor._current()


def _connect(address: Address, deadline: float, options: dict[str, Any]) -> Client:
    stream = _dial(address, deadline)
    try:
        client = Client(stream, label=str(address), **options)
        trailing = _open(address, stream, deadline)
    except (OSError, PreambleError) as exc:
        stream.close()
        raise connect_error(address, exc) from exc
    except BaseException:
        stream.close()
        raise
    if trailing:
        client._session.receive(trailing)
    return client


def _dial(address: Address, deadline: float) -> Any:
    left = deadline - time.monotonic()
    try:
        if left <= 0:
            raise TimeoutError
        if isinstance(address, Dial):
            return address.function()
        if is_device(address):
            return Device(socket_target(address)[1])
        if isinstance(address, TCP):
            sock = socket.create_connection((address.host, address.port), min(left, threading.TIMEOUT_MAX))
            # A request is one write: there is nothing to wait for that would fill the segment.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        family, target = socket_target(address)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(min(left, threading.TIMEOUT_MAX))
            sock.connect(target)
        except BaseException:
            sock.close()
            raise
        return sock
    except OSError as exc:
        raise connect_error(address, exc) from exc


def _open(address: Address, stream: Any, deadline: float) -> bytes:
    """Run what the transport wants before the protocol; return the bytes that belong to the protocol."""
    preamble: Preamble | None = None
    for preamble, patience in preambles(address):
        until = min(deadline, time.monotonic() + patience)
        with suppress(BlockingIOError):
            stream.send(preamble.data_to_send())
        while not preamble.done and _readable(stream, until):
            data = stream.recv(READ_SIZE)
            if data:
                preamble.receive_data(data)
            else:
                preamble.receive_eof()
        if preamble.done:
            return preamble.trailing_data
        if time.monotonic() >= deadline:
            break
    if preamble is not None:
        raise TimeoutError
    return b""


def _readable(stream: Any, until: float) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    return bool(poll.poll(max(until - time.monotonic(), 0) * 1000))
