"""The client for event loops that call back: Qt, Tk, GLib, Twisted, and loops of your own."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Literal

from stereos_proto import (
    MAX_PENDING,
    NEED_DATA,
    Call,
    CallDone,
    ClientEvent,
    Dialogue,
    Need,
    Request,
    Role,
    Task,
    TaskDone,
)
from stereos_proto_io.addresses import Address, Dial

from ._poll_client import PollClient
from ._verbs import ReplyT, Result

#: The functions that a subclass brings.
_BROUGHT: Final = ("watch", "set_timer", "call_soon")


class LoopClient(PollClient):
    """A `PollClient` that is tied to its loop by three functions: `watch`, `set_timer` and `call_soon` (§3).

    The `context` of a call or a task is its callback, if it can be called: it gets the `Call` or the `Task` when that
    is done. `on_event` gets everything else. Both are called in a turn of the loop, never inside `request`, and may
    use the client freely. If one raises, the turn is finished first and the exception then goes to the loop; if several
    do, each goes to it in a call of its own.

    All other names are the client's own, those that begin with an underscore too. A subclass that defines one of them
    raises TypeError, unless the method is marked with `typing.override`. The client cannot see what a subclass assigns
    to `self`, so choose other names than those in `dir(client)` there.

    `SessionEnded` is the end of one connection: `wait_ready` may be about to dial the next one. After the end,
    `request` and `request_many` raise ConnectionLost at once, and their `context` is not called. A task is begun all
    the same.

    Read-only attributes:

    * `is_connected`: whether there is a connection.
    * `session`: the `HostSession` of the current connection, or of the last one. Each connection has its own.
    * `address`: the address of the guest, and `label`: its text, as in errors and logs.
    * `clock`: the function that returns the time, in seconds.
    """

    _is_woken = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hidden = [name for name, own in vars(cls).items() if name in _TAKEN and not getattr(own, "__override__", False)]
        if hidden:
            raise TypeError(
                f"{cls.__name__} defines {', '.join(hidden)}, which LoopClient uses itself: choose other names, or "
                "mark a method with typing.override if it is meant to replace the client's"
            )

    def __init__(
        self,
        address: Address,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_pending: int = MAX_PENDING,
        trace: Callable[[Role, bytes], object] | None = None,
    ) -> None:
        """The arguments are those of `PollClient`.

        Raises TypeError when the class lacks one of the three functions, and what `PollClient` raises.
        """
        missing = [name for name in _BROUGHT if getattr(getattr(self, name), "__isabstractmethod__", False)]
        if missing:
            # Not by the metaclass ABCMeta, with which no class of Qt or GLib could be a base as well.
            raise TypeError(
                f"{type(self).__name__} lacks {', '.join(missing)}: a subclass of LoopClient brings "
                f"{', '.join(_BROUGHT)}"
            )
        super().__init__(address, clock=clock, max_pending=max_pending, trace=trace)

    # -- what a loop brings --------------------------------------------------------------------------------

    @abstractmethod
    def watch(self, stream: Any, mask: int) -> None:
        """Call `on_ready(stream, mask)` whenever `stream` is ready for `mask`; with 0, not any more.

        A mask replaces the one before. After 0 the stream is closed.
        """

    @abstractmethod
    def set_timer(self, seconds: float | None) -> None:
        """Call `on_timer` once after `seconds`, not before; None: not at all. Replaces the previous timer."""

    @abstractmethod
    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` once in a turn of the loop, soon, and not from in here. Only the loop's thread calls this."""

    # -- what a user may override --------------------------------------------------------------------------

    def on_event(self, event: ClientEvent) -> None:
        """Handle a notification, an unknown message, the end of a connection, or a call or task without a callback."""

    # -- what the loop calls -------------------------------------------------------------------------------

    def on_ready(self, stream: Any, mask: int) -> None:
        """Go on: a stream is ready. One that is not watched any more is ignored.

        Raises TypeError for what is no stream, such as a descriptor.
        """
        failures: list[BaseException] = []
        try:
            self.ready(stream, mask)
        except BaseException as exc:  # noqa: BLE001  (it is raised when the turn is finished)
            # It has ended the connection: the calls are to hear of that now.
            failures.append(exc)
        self._turn(failures)

    def on_timer(self) -> None:
        """Go on: time has passed."""
        self.turn()

    def turn(self) -> None:
        """Report what happened, then tell the loop what to watch and when to call back."""
        self._turn([])

    def _turn(self, failures: list[BaseException]) -> None:
        """Finish the turn, then raise `failures` and what the callbacks raise."""
        self._is_woken = False
        self._tell_all(failures)
        # In every turn, not only when the timer fires: with a guest that sends without pause, every read is a turn that
        # restarts the timer, and in some loops the timer would never fire. A reply that has arrived counts.
        self.expire()
        self._tell_all(failures)
        for stream, mask in self.changes():
            self.watch(stream, mask)
        deadline = self.next_deadline()
        self.set_timer(None if deadline is None else max(deadline - self.clock(), 0.0))
        if failures:
            # One at a time, since a loop takes one from each call.
            for failure in failures[1:]:
                self.call_soon(partial(_raise, failure))
            raise failures[0]

    def _tell_all(self, failures: list[BaseException]) -> None:
        """Pull and tell all events. `failures` gets what is raised: no event may be lost over it."""
        while (event := self._pull(failures)) is not NEED_DATA:
            try:
                self._tell(event)
            except BaseException as exc:  # noqa: BLE001  (it is raised when the turn is finished)
                failures.append(exc)

    def _pull(self, failures: list[BaseException]) -> ClientEvent | Literal[Need.DATA]:
        try:
            return self.next_event()
        except BaseException as exc:  # noqa: BLE001  (it is raised when the turn is finished)
            # A callback of a dialogue raised a KeyboardInterrupt or a SystemExit: the end of its task comes next. Or
            # something raised while the client read or wrote: the end of the connection comes next.
            failures.append(exc)
            return self.next_event()

    def _tell(self, event: ClientEvent) -> None:
        done: Any = event.call if type(event) is CallDone else event.task if type(event) is TaskDone else None
        if done is not None and callable(done.context):
            done.context(done)
        else:
            self.on_event(event)

    # -- asking --------------------------------------------------------------------------------------------

    def request(self, message: Request[ReplyT], *, timeout: float | None = None, context: Any = None) -> Call[ReplyT]:
        """Queue a request; see `HostClient.request`. `context` is called with the call when it is done.

        Raises as `HostClient.request` does, ConnectionLost after the end of the connection among them; `context` is not
        called then.
        """
        call = super().request(message, timeout=timeout, context=context)
        self._wake()
        return call

    def request_many(
        self, messages: Iterable[Request[ReplyT]], *, timeout: float | None = None, context: Any = None
    ) -> list[Call[ReplyT]]:
        """Ask several things in one flight; see `HostClient.request_many`."""
        calls = super().request_many(messages, timeout=timeout, context=context)
        self._wake()
        return calls

    def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None, context: Any = None) -> Task[Result]:
        """Run a dialogue; see `HostClient.run`. `context` is called with the task when it is over."""
        task = super().run(dialogue, timeout=timeout, context=context)
        self._wake()
        return task

    def cancel(self, what: Call[Any] | Task[Any]) -> None:
        """Give up a call or a task, whose `context` is not called; see `HostClient.cancel`."""
        super().cancel(what)
        self._wake()

    def close(self) -> None:
        """End the connection, the dial and every task. The streams are closed in a turn of the loop."""
        super().close()
        self._wake()

    def _wake(self) -> None:
        if not self._is_woken:
            # Set before the call, since a loop may call `turn` at once. Reset if the loop refuses: the next request
            # then asks again.
            self._is_woken = True
            try:
                self.call_soon(self.turn)
            except BaseException:
                self._is_woken = False
                raise


def _raise(error: BaseException) -> None:
    raise error


#: The names that a subclass must leave alone: those of the class, and those of its instances.
_TAKEN: Final = (
    frozenset(name for name in dir(LoopClient) if not name.startswith("__")) | frozenset(vars(PollClient(Dial(bool))))
) - {*_BROUGHT, "on_event"}
