"""The client for runtimes that await and wait for descriptors: trio, curio, anyio, and their like.

There is no task behind it. Tasks share the stream by turns (`stereos_proto.Turns`): one reads for all, and hands
over when it leaves. There are no threads either, so no lock: between two awaits nothing else runs. Cancellation loses
nothing: there is no await between reading bytes and passing them to the session, or between writing bytes and counting
them.
"""

from __future__ import annotations

import socket
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, ClassVar, Protocol, Self, Unpack

from stereos_proto import Call, Step, Waiter
from stereos_proto_io.addresses import Address

from ._async_client import AsyncClient
from ._async_dial import open_stream
from ._dialling import WRITE, Dialling, look_up
from ._outcomes import QUESTIONS, look
from ._streams import EVENTS_PER_TURN, as_stream, handed_over, read, write
from ._verbs import Limits, Result


class AsyncEvent(Protocol):
    """What wakes one task."""

    def wait(self) -> Awaitable[object]:
        """Wait until it is set."""
        ...


class FdClient(AsyncClient):
    """A connection to a guest, over a descriptor (§3).

    A driver brings eight functions of its runtime: `event`, `set`, `readable`, `writable`, `race`, `thread`,
    `bounded` and `sleep`; `now`, where its clock is not `time.monotonic`; `closing`, where its tasks are not woken
    when their descriptor is closed; `closed_error`, where they get another error than OSError then;
    `checkpoint_if_cancelled`, where a task can be cancelled before it waits.
    """

    def __init__(self, stream: Any, *, label: str = "the guest", early: bytes = b"", **limits: Unpack[Limits]) -> None:
        """`stream` is the client's from now on. `early` are bytes of the protocol that were read already."""
        super().__init__(label, **limits)
        self._stream = as_stream(stream)
        # Set when the task that waits until the stream is writable has done so: runtimes take one such task only.
        self._writing: AsyncEvent | None = None
        # Whether the session still has received data to process.
        self._behind = False
        if early:
            self._session.receive_data(early)
            self._turns.pump()
            if self._session.ended is not None:
                self._hang_up()

    # -- what a driver brings ------------------------------------------------------------------------------

    #: What `readable` and `writable` raise for a stream that was closed, where that is no OSError.
    closed_error: ClassVar[type[Exception]] = OSError

    @staticmethod
    @abstractmethod
    def event() -> Any:
        """Return a new event, whose `wait()` is awaited."""

    @staticmethod
    @abstractmethod
    def set(event: Any) -> None:
        """Set an event. Does not wait. Setting it twice is fine."""

    @staticmethod
    @abstractmethod
    async def readable(stream: Any) -> None:
        """Wait until a stream, or a descriptor, is readable."""

    @staticmethod
    @abstractmethod
    async def writable(stream: Any) -> None:
        """Wait until a stream, or a descriptor, is writable."""

    @staticmethod
    @abstractmethod
    async def race(*functions: Callable[[], Awaitable[object]]) -> None:
        """Run async functions at once until the first one returns or raises, and cancel the others.

        An exception of a function is raised by itself, not in an exception group: callers expect OSError and
        KeyboardInterrupt.
        """

    @staticmethod
    @abstractmethod
    async def thread(function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function in a thread, and return its result. On cancellation, leave the thread running."""

    @staticmethod
    @abstractmethod
    async def bounded(limit: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout after `limit` seconds, a finite number."""

    @staticmethod
    @abstractmethod
    async def sleep(limit: float) -> None:
        """Sleep for `limit` seconds, and let other tasks run in any case."""

    @staticmethod
    def now() -> float:
        """Return the time of the clock that `bounded` and `sleep` go by."""
        return time.monotonic()

    @staticmethod
    async def checkpoint_if_cancelled() -> None:
        """Raise what a cancelled task gets, if this task is cancelled already: then nothing is sent.

        For runtimes in which a task can be cancelled before it waits.
        """

    @staticmethod
    def closing(stream: Any) -> None:
        """Wake the tasks that wait for `stream`, which is about to be closed. Does not wait.

        Needed where the runtime does not wake them. Neither poll nor epoll tells of a descriptor that is closed.
        """

    @classmethod
    async def _bounded(cls, limit: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        return await (function(*args) if limit == inf else cls.bounded(limit, function, *args))

    @classmethod
    async def _sleep(cls, limit: float) -> None:
        await cls.sleep(max(limit, 0))

    @classmethod
    def _now(cls) -> float:
        return cls.now()

    # -- the loop ------------------------------------------------------------------------------------------

    async def _wait(self, waiter: Waiter | Call[Any]) -> None:
        turns, session = self._turns, self._session
        waited = False
        try:
            if not waiter.done:
                await self.checkpoint_if_cancelled()
                if isinstance(waiter, Call) and type(waiter.request) not in QUESTIONS:
                    self._look()
            while True:
                if self._behind:
                    self._behind = turns.pump(waiter, EVENTS_PER_TURN)
                if waiter.done:
                    # What there is room for now is written by the next waiter, who is woken when this one leaves.
                    break
                step = turns.step(waiter, wants_write=write(session, self._stream))
                if step is Step.DONE:
                    break
                waited = True
                if self._behind and step in (Step.READ, Step.READ_WRITE):
                    await self.sleep(0)
                elif step is Step.READ:
                    await self._read()
                elif step in (Step.FOLLOW, Step.WRITE):
                    event = self.event()
                    waiter.context = partial(self.set, event)
                    # The writer is woken when the one that reads leaves: it has to read then.
                    await (event.wait() if step is Step.FOLLOW else self.race(self._wait_writable, event.wait))
                else:
                    await self.race(self._read, self._wait_writable)
        finally:
            turns.leave(waiter)
            if session.ended is not None:
                self._hang_up()
        if not waited:
            await self.sleep(0)

    def _look(self) -> None:
        look(self._turns, self._stream)

    async def _read(self) -> None:
        """Read once, for everybody."""
        session = self._session
        try:
            await self.readable(self._stream)
        except Exception as exc:
            # After the end: what a runtime raises in a task that waits for a stream which another task closes.
            if session.ended is None:
                if not isinstance(exc, (OSError, self.closed_error)):
                    raise
                self._behind = True
                session.read_failed(exc)
            return
        self._behind = True
        read(session, self._stream)

    async def _wait_writable(self) -> None:
        """Wait until the stream is writable. `_wait` writes, in its next round."""
        if self._writing is not None:
            await self._writing.wait()
            return
        self._writing = event = self.event()
        try:
            with suppress(OSError, self.closed_error):
                await self.writable(self._stream)
        except Exception:
            if self._session.ended is None:
                raise
        finally:
            self._writing = None
            self.set(event)

    def _hang_up(self) -> None:
        if self._stream.fileno() >= 0:
            # A child that was forked has the descriptor, too: closing alone would not end the connection.
            with suppress(OSError, AttributeError):
                self._stream.shutdown(socket.SHUT_RDWR)
            self.closing(self._stream)
            self._stream.close()

    async def _closed(self) -> None:
        await self.sleep(0)

    # -- dialling ------------------------------------------------------------------------------------------

    @classmethod
    def attach(cls, stream: Any, *, label: str = "the guest", **limits: Unpack[Limits]) -> Self:
        """Return a client over a connected socket, or another object that keeps the rules of `driver.Stream`.

        A socket may be one of TLS. The client owns the stream from then on, and makes a socket non-blocking.
        `max_pending` bounds the requests in flight, `max_notifications` the notifications kept for `notifications()`.

        Raises TypeError when `stream` is no stream, OSError when it is closed, ValueError for a bad limit.
        """
        return cls(stream, label=label, **limits)

    @classmethod
    async def _dial(cls, address: Address, limits: Limits) -> Self:
        stream, early = await open_stream(
            address,
            now=cls.now,
            lookup=partial(cls.thread, look_up),
            next_moment=cls._next_moment,
            closing=cls.closing,
        )
        with handed_over(stream, address):
            return cls(stream, label=str(address), early=early, **limits)

    @classmethod
    async def _next_moment(cls, dialling: Dialling) -> None:
        """Wait for one of the streams that a dial watches, or for its next deadline."""

        async def wait_for(stream: Any, mask: int) -> None:
            await (cls.writable if mask & WRITE else cls.readable)(stream)
            dialling.ready(stream, cls.now())

        waits: list[Callable[[], Awaitable[object]]] = [partial(wait_for, *watch) for watch in dialling.watch()]
        deadline = dialling.next_deadline()
        if deadline is not None:
            waits.append(partial(cls.sleep, max(deadline - cls.now(), 0)))
        if len(waits) == 1:
            await waits[0]()
        else:
            await cls.race(*waits)
