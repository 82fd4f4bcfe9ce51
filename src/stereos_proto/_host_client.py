"""A client without IO, for event loops of callbacks: sessions one after another, dialogues, timers.

`HostSession` is one connection. A host has more to do: it dials, waits until the guest is ready, dials again when
the connection is lost before that, provisions the guest. Those are dialogues (`stereos_proto.dialogues`). In a runtime
that awaits, a short loop runs them. An event loop of callbacks cannot do that, so `HostClient` keeps each dialogue as a
`Task`, resumes it when its action is done, and reports what it needs: a dial (`DialWanted`), a timer (`next_deadline`).

It reads a `clock` that is injected, since user code calls `request` and `run` at any time. It calls no code of the
user, except what a dialogue itself calls (`on_progress`, `on_step`), and that within `next_event` only.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Literal

import attrs

from ._call import Call, ReplyT
from ._constants import MAX_PENDING
from ._errors import GUEST, ConnectError, ConnectionLost, OutcomeUnknown, StereosError
from ._events import NEED_DATA, CallDone, Need, NotificationReceived, SessionEnded, UnknownReceived
from ._host_session import HostSession
from ._messages import Ack, Health, Reply, Request, named, with_article
from ._provision import ProvisionPlan, ProvisionReport, ProvisionStep
from ._registry import Role, changes_guest
from ._running import Running
from ._timeouts import seconds
from .dialogues import (
    ATTEMPT_TIMEOUT,
    Action,
    Backoff,
    Connect,
    Dialogue,
    OnRefusal,
    ReadyWait,
    Result,
    Send,
    SendMany,
    Sleep,
    WaitProgress,
    provision,
    shut_down,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import TypeVar

    ResultT = TypeVar("ResultT", default=Any)
else:
    from typing import TypeVar

    ResultT = TypeVar("ResultT")


@attrs.define(eq=False)
class Task(Generic[ResultT]):
    """A dialogue that a `HostClient` runs (§3). `context` is yours."""

    # What the caller wants to find again in `TaskDone`.
    context: Any = None
    # Whether it is over.
    done: bool = False
    # What the dialogue raised.
    error: BaseException | None = None
    _running: Any = attrs.field(default=None, repr=False, alias="running")
    # The calls that it waits for, and how many of them are not done.
    _calls: tuple[Call[Any], ...] = attrs.field(default=(), repr=False)
    _open: int = attrs.field(default=0, repr=False)
    # Whether it asked for a dial last, so that it may ask for another.
    _dials: bool = attrs.field(default=False, repr=False)
    # Its first request that has changed the guest, or may have changed it, and whether that was answered.
    _changing: Request | None = attrs.field(default=None, repr=False)
    _answered: bool = attrs.field(default=False, repr=False)
    # The number of the connection that it last used or was given.
    _connection: int = attrs.field(default=0, repr=False)
    # The traceback that its error had when it ended.
    _traceback: TracebackType | None = attrs.field(default=None, repr=False)
    # When its dial has to be over, on the client's clock.
    _dial_until: float | None = attrs.field(default=None, repr=False)
    # The action that it waits for, and the number of that wait: a timer of an earlier wait is void.
    _action: Action | None = attrs.field(default=None, repr=False)
    _wait: int = attrs.field(default=0, repr=False)
    # The count of notifications when it last sent something or slept: later notifications end a Sleep.
    _heard: int = attrs.field(default=0, repr=False)
    # When a Sleep may end early, on the client's clock, and whether a notification came that ends it.
    _least: float = attrs.field(default=0.0, repr=False)
    _heard_enough: bool = attrs.field(default=False, repr=False)

    def _remember(self, call: Call[Any]) -> None:
        """Keep the request of `call` if it is the first that has changed the guest, or may change it yet."""
        if self._changing is None and call.sent and changes_guest(call.request):
            outcome = call.outcome
            if not isinstance(outcome, Ack) or outcome.ok:
                self._changing = call.request
                self._answered = outcome is not None and not isinstance(outcome, StereosError)

    def result(self) -> ResultT:
        """Return what the dialogue returned. Raises what it raised, RuntimeError while it is not over."""
        if not self.done:
            raise RuntimeError("the dialogue is not over yet")
        if self.error is not None:
            # With the traceback of a result before, it would grow with each.
            raise self.error.with_traceback(self._traceback)
        return self._running.result  # type: ignore[no-any-return]


@attrs.frozen
class TaskDone:
    """Event of a client: the dialogue of `task` is over (§3)."""

    task: Task[Any]


@attrs.frozen
class DialWanted:
    """Event of a client: dial (§8), then call `connected` or `dial_failed`.

    The previous connection has ended: close its stream.

    `deadline` is a number of the client's clock; None: use a default of your own. You have to end the dial: when its
    deadline has passed, close its stream and call `dial_failed(ConnectError(..., timed_out=True))`. If you do not, the
    dialogues that wait for it stop waiting at their own deadlines, or up to one second later. Requests go on waiting,
    and no other dial is wanted.
    """

    deadline: float | None


ClientEvent = CallDone | NotificationReceived | UnknownReceived | SessionEnded | TaskDone | DialWanted


class HostClient:
    """A client of one guest, without IO (§3, §7). Each `timeout` is in seconds, as `seconds` reads it.

    For one thread; `next_event` is not re-entrant.

    The first request, or dialogue, asks for a connection with `DialWanted`. After `connected` feed `session`
    (`receive_data`, `receive_eof`, `read_failed`, `data_to_send`, `data_sent`, `write_failed`), pull `next_event`
    until NEED_DATA after each thing that may have changed something, and call `expire` at `next_deadline`.
    Write only while `is_connected`: before that, `data_to_send` has the requests that wait for the connection.
    `next_deadline` does not include the deadline of a dial.

    A connection that is lost is not made again by itself: `connect` does that, or a dialogue that dials.
    """

    def __init__(
        self,
        label: str = GUEST,
        *,
        clock: Callable[[], float],
        max_pending: int = MAX_PENDING,
        trace: Callable[[Role, bytes], object] | None = None,
        log: Callable[..., object] | None = None,
    ) -> None:
        """`clock` returns seconds that only grow. `trace` and `log` are those of `HostSession`.

        Raises ValueError when `max_pending` is below 1, TypeError when `label` is no text or `clock` cannot be called.
        """
        if not callable(clock):
            raise TypeError(f"clock must be a function that returns the time, not {type(clock).__name__}")
        self.label = label
        self.clock = clock
        self._new_session = partial(HostSession, max_pending=max_pending, trace=trace, log=log)
        self.session: HostSession = self._new_session(self.label)
        self.is_connected: bool = False
        # How many connections there have been, so that a task can tell a newer one from its own.
        self._connections = 0
        self._heard = 0
        self._closed = False
        # Tasks that are to go on, each with what came of its action.
        self._ready: deque[tuple[Task[Any], Any]] = deque()
        # Tasks that wait for a dial; the calls of the others, each with its task and its place among the task's calls.
        self._dialers: dict[Task[Any], None] = {}
        self._callers: dict[Call[Any], tuple[Task[Any], int]] = {}
        self._running: dict[Task[Any], None] = {}
        # (when, number, task, the task's wait): Sleep and Connect.
        self._timers: list[tuple[float, int, Task[Any], int]] = []
        self._number = 0
        # Whether a dial is wanted and not yet told; the one that was told and has no outcome yet.
        self._wanted = False
        self._dialling: DialWanted | None = None
        self._dial_error: ConnectError | None = None
        # When the last dial was told.
        self._dial_began = 0.0
        # Whether that dial took as long as a dialogue gave it: a request may wait for longer.
        self._cut_short = False
        self._done: deque[Task[Any]] = deque()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.is_connected else "not connected"
        return f"<{type(self).__name__} {self.label} {state} tasks={len(self._running)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.session.__reduce__()

    # -- asking ------------------------------------------------------------------------------------------

    def request(self, message: Request[ReplyT], *, timeout: float | None = None, context: Any = None) -> Call[ReplyT]:
        """Queue a request. A `CallDone` reports the outcome; `timeout` is in seconds, None for no bound (§3).

        Before the first connection the request waits for that connection. Raises LocalProtocolError when the message
        can never be sent, ConnectionLost when the connection has ended and no `DialWanted` for the next one was pulled
        yet, ValueError when the timeout is NaN, TypeError when it is no number.
        """
        deadline = self._after(timeout)
        call = self.session.request(message, deadline=deadline, context=context)
        self._begin((call,), seconds(timeout))
        return call

    def request_many(
        self, messages: Iterable[Request[ReplyT]], *, timeout: float | None = None, context: Any = None
    ) -> list[Call[ReplyT]]:
        """Queue several requests in one flight, or none of them. See `request`."""
        deadline = self._after(timeout)
        calls = self.session.request_many(messages, deadline=deadline, context=context)
        self._begin(calls, seconds(timeout))
        return calls

    def _begin(self, calls: Collection[Call[Any]], limit: float) -> None:
        """Ask for a dial if `calls` need one. Calls with a timeout of 0 time out at once and are not sent."""
        if limit > 0 and calls:
            self._dial_on_demand()
        else:
            for call in calls:
                self.session._time_out(call)

    def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None, context: Any = None) -> Task[Result]:
        """Run a dialogue, within `timeout` seconds. A `TaskDone` tells when it is over.

        Raises TypeError when `dialogue` is not a generator: call the generator function first. Raises ValueError when
        it was begun before.
        """
        task: Task[Result] = Task(context, running=Running(dialogue, self._after(timeout), seconds(timeout, 0.0)))
        if self._closed:
            task._running.ended = self._was_closed()
        task._heard = self._heard
        task._connection = self._connections
        self._running[task] = None
        self._ready.append((task, None))
        return task

    def connect(self, *, timeout: float | None = None, context: Any = None) -> Task[None]:
        """Close the connection, if there is one, and dial. `timeout` is in seconds; None: 10.

        The task raises ConnectError; `TimeUp` where `timeout` is 0, ConnectionLost where the client was closed.
        """
        return self.run(_connect(timeout), timeout=timeout, context=context)

    def wait_ready(
        self,
        states: Collection[str] | None = None,
        *,
        agents: Collection[str] = (),
        backoff: Backoff | None = None,
        on_progress: Callable[[WaitProgress], None] | None = None,
        redial: bool = True,
        timeout: float | None = 60.0,
        context: Any = None,
    ) -> Task[Health]:
        """Wait until the guest is in one of `states` and the named `agents` run (§6, §7); see `ReadyWait`.

        By default it is until the guest is ready or, with `agents`, until these run in whatever state.

        It uses the existing connection first. With `redial` it dials if there is none, and dials again whenever the
        connection is lost or a try fails; requests of other callers on that connection then end. A probe over a
        connection that was there before may take 5 seconds, and at most half of `timeout`.

        The task raises NotReady when `timeout` seconds have passed (None: no bound), or the guest shuts down;
        RemoteProtocolError when the guest breaks the protocol; ConnectError when another dial would not help
        (`retryable` is False); without `redial`, ConnectionLost when the connection ends.
        """
        # Half of the time is left for another connection where the one that there is turns out to be silent.
        attempt = min(ATTEMPT_TIMEOUT, seconds(timeout) / 2) or ATTEMPT_TIMEOUT
        wait = ReadyWait(states, agents, backoff or Backoff(), attempt, on_progress)
        connected = self.is_connected or not redial
        return self.run(wait.run(redial=redial, connected=connected), timeout=timeout, context=context)

    def provision(
        self,
        plan: ProvisionPlan,
        *,
        on_refusal: OnRefusal = "stop",
        on_step: Callable[[ProvisionStep], None] | None = None,
        timeout: float | None = None,
        context: Any = None,
    ) -> Task[ProvisionReport]:
        """Carry out a plan (§7): see `stereos_proto.dialogues.provision`, also for what it raises at once."""
        dialogue = provision(plan, on_refusal=on_refusal, on_step=on_step, guest=self.label)
        return self.run(dialogue, timeout=timeout, context=context)

    def shutdown(self, reason: str = "", *, timeout: float | None = None, context: Any = None) -> Task[Ack | None]:
        """Power the guest off (§6). The task returns None when the guest ended the connection before the ack.

        It raises RequestFailed when the guest refuses, ConnectionLost when the request could not be sent,
        OutcomeUnknown when this end closed the connection after it was sent.
        """
        return self.run(shut_down(reason), timeout=timeout, context=context)

    def cancel(self, what: Call[Any] | Task[Any]) -> None:
        """Give up a call (see `HostSession.cancel`) or a task, whose dialogue is closed. Without an event.

        The task's error is an OutcomeUnknown when it had sent something that changes the guest, else a ConnectionLost;
        the connection goes on all the same. What is done stays as it is. The report of a `provision` is lost: to keep
        it, `close` the client, and wait for the `TaskDone`. A dialogue whose call is cancelled gets a RequestTimeout.

        Raises ValueError for a call or a task of another client, TypeError for anything else.
        """
        if not isinstance(what, Call | Task):
            raise TypeError(f"cancel takes a call or a task, not {with_article(type(what))}")
        if isinstance(what, Call):
            was_open = not what.done
            self.session.cancel(what)
            if was_open and what in self._callers:
                # A cancelled call has no event, and the dialogue waits for its outcome.
                self._call_done(what)
        elif not what.done:
            if what not in self._running:
                raise ValueError("this task belongs to another client")
            self._stop(what, _cancelled(what))
            self._done.remove(what)

    def close(self) -> None:
        """End the connection and every task. Twice is fine.

        A task that waits for replies is resumed in `next_event` with the outcomes, as at any other end of the
        connection, so `provision` returns its report. It cannot start anything new. Other tasks end at once.
        """
        self._closed = True
        self._wanted = False
        self.session.close()
        for task in tuple(self._running):
            if isinstance(task._action, Send | SendMany):
                task._running.ended = self._was_closed()
            else:
                self._stop(task, self._was_closed())

    def _was_closed(self) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self.label} was closed", closed_here=True)

    # -- what the loop says ---------------------------------------------------------------------------------

    def connected(self, early: bytes = b"") -> None:
        """Record that there is a connection. `early` are bytes of the protocol that came with the last preamble (§8).

        After `close` the call has no effect: close the new connection.

        The first connection may be made unasked. Raises RuntimeError when there is one already, when the last one has
        ended and no dial was wanted since, or when its SessionEnded was not pulled yet; TypeError when `early` is not
        bytes. Nothing has changed then.
        """
        if self._closed:
            return
        memoryview(early)
        if self.is_connected:
            raise RuntimeError("there is a connection already: only `connect`, or a dialogue that dials, replaces it")
        if self.session.ended is not None and not (self._wanted or self._dialling):
            raise RuntimeError("no dial is under way: call `connected` once per DialWanted")
        if self.session.ended is not None:
            if self.session.owes_events:
                raise RuntimeError("the previous connection still has events: pull `next_event` until NEED_DATA first")
            self.session = self._new_session(self.label)
        # Where a dial is wanted and not yet told, this is its outcome.
        self._wanted = False
        self._dialling = None
        self._dial_error = None
        self.is_connected = True
        self._connections += 1
        if early:
            self.session.receive_data(early)
        dialers, self._dialers = self._dialers, {}
        for task in dialers:
            task._connection = self._connections
            self._resume(task, None)

    def dial_failed(self, error: ConnectError) -> None:
        """Record that no connection could be made. After a `timed_out` one, `wait_ready` gives the next dial longer.

        A dialogue whose deadline is later than that of the dial then waits for another dial. After `close` the call has
        no effect.

        Raises TypeError for any other error: chain it to a ConnectError, whose text says what was dialled; RuntimeError
        when no dial is under way, as for a late outcome of one that was told already.
        """
        if not isinstance(error, ConnectError):
            raise TypeError(f"dial_failed takes a ConnectError, not {type(error).__name__}: wrap it in a ConnectError")
        if self._closed:
            return
        if not (self._wanted or self._dialling):
            raise RuntimeError("no dial is under way: its outcome was reported before, or no dial was requested")
        # One without a deadline had a bound of the driver's own.
        deadline = self._dial_deadline()
        over = self.clock() if deadline is None else deadline
        took = self.clock() - self._dial_began
        self._wanted = False
        self._dialling = None
        self._dial_error = error
        self._cut_short = error.timed_out and deadline is not None
        dialers, self._dialers = self._dialers, {}
        for task in dialers:
            # Where nothing but the driver bounds a dial, one that fails at once has not run out of time.
            is_bounded = deadline is not None or task._dial_until is not None or took >= _AT_ONCE
            if error.timed_out and is_bounded and over < _never(task._dial_until):
                # The dial was started for tasks with earlier deadlines.
                self._want_dial()
                self._dialers[task] = None
            else:
                self._resume(task, error)

    def expire(self) -> None:
        """Do what is due. Pull events before: a reply that has arrived counts."""
        now = self.clock()
        self.session.expire(now)
        while self._timers and self._timers[0][0] <= now:
            timer = heappop(self._timers)
            if not _is_stale(timer):
                self._time_passed(timer[2], now)

    def _time_passed(self, task: Task[Any], now: float) -> None:
        """Go on with a task that sleeps, or that waits for a dial that was begun for others and takes longer."""
        error = None
        if isinstance(task._action, Connect):
            over = self._dial_deadline()
            if over is not None and over <= now < over + _GRACE:
                # The dial is over as well: `dial_failed` will say why.
                self._timer(task, over + _GRACE)
                return
            del self._dialers[task]
            error = ConnectError(f"no connection to {self.label} was made in time", timed_out=True)
        task._wait += 1
        self._ready.append((task, error))

    def next_deadline(self) -> float | None:
        """Return when to call `expire` and pull events next, on the client's clock; None: there is no deadline."""
        if (
            self._ready
            or self._wanted
            or self._done
            or self.session.owes_events
            or (self._dial_error and not self._may_dial_again())
        ):
            return self.clock()
        while self._timers and _is_stale(self._timers[0]):
            heappop(self._timers)
        ends = (self.session.next_deadline(), self._timers[0][0] if self._timers else None)
        return min((end for end in ends if end is not None), default=None)

    # -- what happened --------------------------------------------------------------------------------------

    def events(self) -> Iterator[ClientEvent]:
        """Yield events until there are none."""
        while (event := self.next_event()) is not NEED_DATA:
            yield event

    def next_event(self) -> ClientEvent | Literal[Need.DATA]:
        """Return what happened next, or NEED_DATA.

        Raises no Exception. What is none, such as KeyboardInterrupt, is raised again when it comes from a dialogue or
        its callbacks.

        These are the events of the session, except for the calls of dialogues; `TaskDone`; and `DialWanted`, after the
        `SessionEnded` of the previous connection.
        """
        while True:
            if self._done:
                return TaskDone(self._done.popleft())
            event = self.session.next_event()
            if event is NEED_DATA:
                if self._ready:
                    self._go_on(*self._ready.popleft())
                    continue
                if self._dial_error is not None and not self._may_dial_again():
                    if self._cut_short and self.session.pending:
                        self._wanted = True
                        continue
                    # No connection will come: fail the requests that wait for one.
                    self.session.end(self._dial_error)
                    self._dial_error = None
                    continue
                return self._dial() or NEED_DATA
            if type(event) is CallDone and event.call in self._callers:
                self._call_done(event.call)
                continue
            if type(event) is SessionEnded:
                self.is_connected = False
                self._wake_sleepers()
            elif type(event) is not CallDone:
                self._heard += 1
                self._wake_sleepers()
            return event

    def _may_dial_again(self) -> bool:
        """Whether a dial is wanted, or a dialogue will want one: it dialled last, and sleeps before its next try."""
        return self._wanted or any(task._dials for task in self._running)

    def _dial(self) -> DialWanted | None:
        if not self._wanted:
            return None
        self._dialling = DialWanted(self._dial_deadline())
        self._dial_began = self.clock()
        self._wanted = False
        self._dial_error = None
        if self.session.ended:
            self.session = self._new_session(self.label)
        return self._dialling

    # -- tasks ----------------------------------------------------------------------------------------------

    def _go_on(self, task: Task[Any], value: Any) -> None:
        """Give `value` to the dialogue, and begin what it wants next."""
        if task.done:
            return
        # A notification may have set a timer for the wait that is over.
        task._wait += 1
        try:
            action = task._running.resume(value, self.clock())
        except BaseException as exc:
            self._end(task, exc)
            if not isinstance(exc, Exception):
                raise
            return
        if task.done:
            # A callback of the dialogue has cancelled it.
            with suppress(Exception):
                task._running.dialogue.close()
        elif action is None:
            self._end(task, None)
        else:
            task._action = action
            try:
                self._perform(task, action)
            except StereosError as exc:
                # Nothing was begun. The dialogue is told in its turn.
                self._ready.append((task, exc))
            except Exception as exc:  # noqa: BLE001  (the dialogue yielded what cannot be done)
                task._running.fail(exc)
                self._stop(task, exc)

    def _perform(self, task: Task[Any], action: Action) -> None:
        now = self.clock()
        until = task._running.until
        if not isinstance(action, (Sleep, Connect)):
            task._connection = self._connections
        if isinstance(action, Send):
            task._heard = self._heard
            calls = [self.session.request(action.message, deadline=until(action.timeout, now))]
            self._wait_for(task, calls, seconds(action.timeout))
        elif isinstance(action, SendMany):
            task._heard = self._heard
            self._wait_for(task, self.session.request_many(action.messages, deadline=until(None, now)), inf)
        elif isinstance(action, Sleep):
            ends = until(action.seconds, now)
            least = now + seconds(action.least)
            task._least = least if ends is None else min(least, ends)
            task._heard_enough = self._heard > task._heard
            # A notification ends one Sleep: a dialogue that sleeps between tries would else try without a pause.
            task._heard = self._heard
            if task._heard_enough and task._least <= now:
                self._ready.append((task, None))
            else:
                self._timer(task, task._least if task._heard_enough else ends)
        elif self.is_connected and task._connection < self._connections:
            # Another has dialled since this one lost its connection. Two waits that each drop the connection of the
            # other would never get a reply.
            task._connection = self._connections
            self._ready.append((task, None))
        else:
            self._want_dial()
            task._dials = True
            task._dial_until = until(action.timeout, now)
            self._dialers[task] = None
            self._timer(task, task._dial_until)

    def _wait_for(self, task: Task[Any], calls: Collection[Call[Any]], limit: float) -> None:
        task._dials = False
        task._calls = tuple(calls)
        task._open = len(task._calls)
        self._callers.update((call, (task, place)) for place, call in enumerate(task._calls))
        if calls:
            self._begin(calls, limit)
        else:
            self._ready.append((task, []))

    def _call_done(self, call: Call[Any]) -> None:
        task, place = self._callers.pop(call)
        if task.done or task._calls[place : place + 1] != (call,):
            # The task has given its calls up.
            return
        task._remember(call)
        task._open -= 1
        action = task._action
        try:
            if isinstance(action, SendMany):
                action.on_outcome(place, call.outcome)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except StereosError as exc:
            # The dialogue gets it in its turn, as it gets what a request ends in.
            self._stop_waiting(task)
            self._ready.append((task, exc.with_traceback(None)))
            return
        except BaseException as exc:
            task._running.fail(exc)
            self._stop(task, exc)
            if not isinstance(exc, Exception):
                raise
            return
        if not task._open:
            outcomes = [done.outcome for done in task._calls]
            self._ready.append((task, outcomes if isinstance(action, SendMany) else outcomes[0]))

    def _wake_sleepers(self) -> None:
        for task in self._running:
            if isinstance(task._action, Sleep):
                task._heard = self._heard
                if not task._heard_enough:
                    task._heard_enough = True
                    self._timer(task, task._least)

    def _timer(self, task: Task[Any], when: float | None) -> None:
        if when is not None and when != inf:
            if len(self._timers) > _MAX_STALE + 2 * len(self._running):
                self._timers = [entry for entry in self._timers if not _is_stale(entry)]
                heapify(self._timers)
            self._number += 1
            heappush(self._timers, (when, self._number, task, task._wait))

    def _stop_waiting(self, task: Task[Any]) -> None:
        """Let `task` wait for nothing any more: its calls are cancelled."""
        for call in task._calls:
            # One that is done has an event on its way, which `_call_done` swallows.
            if not call.done:
                self.session.cancel(call)
                del self._callers[call]
        task._calls = ()
        self._dialers.pop(task, None)

    def _stop(self, task: Task[Any], error: BaseException) -> None:
        """End `task` before its dialogue is over."""
        self._stop_waiting(task)
        self._end(task, error)
        # It may be running: `_go_on` closes it. It may yield or raise as it is closed: others have to be ended, too.
        with suppress(Exception):
            task._running.dialogue.close()

    def _end(self, task: Task[Any], error: BaseException | None) -> None:
        if task.done:
            # A callback of the dialogue has ended it.
            return
        task.error = error.about(self.label) if isinstance(error, StereosError) else error
        task._traceback = None if error is None else error.__traceback__
        task.done = True
        self._running.pop(task, None)
        self._done.append(task)

    # -- dialling -------------------------------------------------------------------------------------------

    def _dial_on_demand(self) -> None:
        """Ask for a dial for requests, unless there will be one: a dialogue keeps its pause between two tries."""
        if not (self.is_connected or self._dialling or self._closed or (self._dial_error and self._may_dial_again())):
            self._wanted = True

    def _want_dial(self) -> None:
        """Drop the current connection, and ask for another. All tasks share a dial that is already running."""
        if self.is_connected:
            self.is_connected = False
            text = f"the connection to {self.label} was dropped to dial again"
            self.session.end(ConnectionLost(text, closed_here=True))
        self._wanted = not self._dialling

    def _dial_deadline(self) -> float | None:
        """The deadline of the dial that was told, else of the one to come: the latest of the dialogues that wait."""
        if self._dialling:
            return self._dialling.deadline
        latest = max((_never(task._dial_until) for task in self._dialers), default=inf)
        return None if latest == inf else latest

    def _resume(self, task: Task[Any], value: ConnectError | None) -> None:
        task._wait += 1
        self._ready.append((task, copy.copy(value)))

    def _after(self, timeout: float | None) -> float | None:
        limit = seconds(timeout)
        return None if limit == inf else self.clock() + limit


#: Seconds that a dial may be overdue before those that wait for it are told that it was not made in time.
_GRACE: Final = 1.0

#: A dial that failed sooner, in seconds, is not repeated for those that wait without a bound.
_AT_ONCE: Final = 1.0

#: Timers that are void and that may be kept before they are cleaned away.
_MAX_STALE: Final = 64

#: Seconds that `connect` takes by default.
_CONNECT_TIMEOUT: Final = 10.0


def _never(deadline: float | None) -> float:
    return inf if deadline is None else deadline


def _is_stale(timer: tuple[float, int, Task[Any], int]) -> bool:
    _, _, task, wait = timer
    return task._wait != wait or task.done


def _cancelled(task: Task[Any]) -> ConnectionLost:
    """The error of a task that is cancelled: what it has sent that changes the guest cannot be taken back."""
    unanswered = [call.request for call in task._calls if call.sent and not isinstance(call.outcome, Reply)]
    changing = [request for request in unanswered if changes_guest(request)]
    for call in task._calls:
        task._remember(call)
    if changing:
        names = [*dict.fromkeys(map(named, changing))]
        were = "was" if len(names) == 1 else "were"
        text = f"the dialogue was cancelled while {', '.join(names)} {were} unanswered: it may still be carried out"
    elif task._changing is None:
        return ConnectionLost("the dialogue was cancelled", unanswered=unanswered, closed_here=True)
    else:
        changing = [task._changing]
        what = "was answered: that is not taken back" if task._answered else "was given up: it may still be carried out"
        text = f"the dialogue was cancelled after {named(task._changing)} {what}"
    return OutcomeUnknown(text, request=changing[0], unanswered=unanswered, closed_here=True)


def _connect(timeout: float | None) -> Dialogue[None]:
    yield Connect(_CONNECT_TIMEOUT if timeout is None else timeout)
