"""The client for trio. Any number of tasks may share it.

There is no task behind it, and no nursery needed: the task that waits first reads for all, and hands over to the
next when it has its own reply (leader and followers, `stereos_proto.Turns`). A task in your nursery that iterates over
`notifications()` reads whenever no other task does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from stereos_proto_io._extras import missing

try:
    import trio
except ModuleNotFoundError:
    raise missing(__name__, "trio", "trio") from None

from stereos_proto import RequestTimeout
from stereos_proto_io.driver import FdClient, Limits, check_limits

from ._transport import StreamTransport, adopt

__all__ = ["Client", "connect", "connect_when_ready"]

Result = TypeVar("Result")


class Client(FdClient):
    """A connection to a guest (§3). `connect` or `Client.attach` make one; `aclose` it, or use it in `async with`.

    A socket is looked at before a change is sent, so a change to a guest that has ended an idle connection is known to
    be not sent. Over another stream its outcome is unknown.
    """

    def __init__(self, stream: Any, *, label: str = "the guest", early: bytes = b"", **limits: Unpack[Limits]) -> None:
        # Before the stream is taken: it is still the caller's if a limit is refused.
        check_limits(**limits)
        super().__init__(adopt(stream), label=label, early=early, **limits)
        if isinstance(self._stream, StreamTransport):
            # A stream waits by itself.
            self.readable = StreamTransport.wait_readable
            self.writable = StreamTransport.wait_writable

    @classmethod
    def attach(cls, stream: Any, *, label: str = "the guest", **limits: Unpack[Limits]) -> Self:
        """Return a client over a stream that is connected already, and is the client's from then on.

        `stream` is a `trio.abc.Stream`, such as a `trio.SocketStream` or a `trio.SSLStream`, whose handshake is made
        here if it has not been made; a socket of trio or of the standard library, also one of TLS, which is made
        non-blocking; or another object that keeps the rules of `driver.Stream`. Do not use it in another task.

        `max_pending` bounds the requests in flight, `max_notifications` the notifications kept for `notifications()`.

        Raises TypeError when `stream` is no stream, OSError when it is closed, ValueError for a bad limit.
        """
        return super().attach(stream, label=label, **limits)

    # Ctrl-C comes at checkpoints only: in between, what was asked, read and written would be unknown.
    if not TYPE_CHECKING:  # a checker sees the type of what this wraps
        request = trio.lowlevel.enable_ki_protection(FdClient.request)
    _ask_many = trio.lowlevel.enable_ki_protection(FdClient._ask_many)
    _ask_within = trio.lowlevel.enable_ki_protection(FdClient._ask_within)
    _wait = trio.lowlevel.enable_ki_protection(FdClient._wait)

    @staticmethod
    def event() -> trio.Event:
        """Return a new event."""
        return trio.Event()

    @staticmethod
    def now() -> float:
        """Return the time of trio's clock, in seconds."""
        return trio.current_time()

    @staticmethod
    def set(event: trio.Event) -> None:
        """Set an event."""
        event.set()

    readable: Callable[[Any], Coroutine[Any, Any, None]] = staticmethod(trio.lowlevel.wait_readable)  # type: ignore[assignment]  # (named parameters)
    writable: Callable[[Any], Coroutine[Any, Any, None]] = staticmethod(trio.lowlevel.wait_writable)  # type: ignore[assignment]
    closed_error = trio.ClosedResourceError
    _current_loop = staticmethod(trio.lowlevel.current_trio_token)

    @staticmethod
    async def checkpoint_if_cancelled() -> None:
        """Raise Cancelled if this task is cancelled already."""
        await trio.lowlevel.checkpoint_if_cancelled()

    @staticmethod
    async def race(*functions: Callable[[], Awaitable[object]]) -> None:
        """Run functions until the first one returns."""

        async def run(function: Callable[[], Awaitable[object]]) -> None:
            await function()
            nursery.cancel_scope.cancel()

        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                for function in functions:
                    nursery.start_soon(run, function)
        except BaseExceptionGroup as group:
            # The nursery is internal: the caller expects KeyboardInterrupt, Cancelled or OSError itself, not in a
            # group.
            error = _main_error(group)
        if error is not None:
            try:
                raise error
            finally:
                del error

    @staticmethod
    async def thread(function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in a thread.

        Not one of those that trio bounds together, 40 by default: a look-up that was given up lasts for as long as the
        resolver likes, and would keep the program's own functions waiting. There are as many threads as look-ups.
        """
        limiter = trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=limiter)

    @staticmethod
    async def bounded(limit: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout when `limit` seconds have passed first."""
        with trio.move_on_after(max(limit, 0)):
            return await function(*args)
        raise RequestTimeout("there was no answer in time")

    @staticmethod
    async def sleep(limit: float) -> None:
        """Sleep."""
        await trio.sleep(limit)

    @staticmethod
    def closing(stream: Any) -> None:
        """Wake the tasks that wait for `stream`."""
        if not isinstance(stream, StreamTransport):
            trio.lowlevel.notify_closing(stream)

    async def _closed(self) -> None:
        if isinstance(self._stream, StreamTransport):
            await self._stream.closed()
        await trio.lowlevel.checkpoint()


def _main_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a group that its caller has to see: the first one that is no Exception, else the first."""
    errors = [_main_error(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in errors if not isinstance(error, (Exception, trio.Cancelled))), errors[0])


connect: Final = Client.connect
connect_when_ready: Final = Client.connect_when_ready
