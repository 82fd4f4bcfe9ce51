"""Conversations of several steps, as generators without IO and without a clock.

A dialogue yields what it wants done and is resumed with the result, or has the error thrown in. Each driver
runs it with a short loop, so "wait until ready" is the same everywhere:

=================== ===================================================== ================================
it yields           the driver                                            and resumes it with
=================== ===================================================== ================================
`Connect(timeout)`  drops the connection that it has, dials, runs the     None
                    preamble
`Send(request)`     sends, waits for the reply                            the reply, a refusal included
`SendMany(...)`     sends all without waiting, in order                   one reply or error per request
`Sleep(seconds)`    waits; a notification or the end of the connection    None
                    ends it early
=================== ===================================================== ================================

Where the whole dialogue has a deadline, the driver throws `TimeUp` into it, at whatever it yielded, once that has
passed. The dialogue then ends: with its own error, or with what it knows by then.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeVar

import attrs

from ._errors import GUEST, ConnectError, ConnectionLost, NotReady, RequestFailed, RequestTimeout, StereosError
from ._messages import (
    Ack,
    AgentStatus,
    GetHealth,
    Health,
    InjectSecret,
    LifecycleState,
    Message,
    Mount,
    Reply,
    Request,
    Shutdown,
    named,
    shortened,
)
from ._provision import ProvisionPlan, ProvisionReport, ProvisionStep, StepStatus
from ._redact import Redactor
from ._timeouts import in_words

__all__ = [
    "ATTEMPT_TIMEOUT",
    "FIRST_ATTEMPT",
    "READY_STATES",
    "Action",
    "Backoff",
    "Connect",
    "Dialogue",
    "OnRefusal",
    "ReadyWait",
    "Send",
    "SendMany",
    "Sleep",
    "TimeUp",
    "WaitProgress",
    "provision",
    "shut_down",
    "wait_ready",
]

#: The states in which a guest takes work (`docs/protocol.md` §7).
READY_STATES: Final = frozenset({LifecycleState.READY, LifecycleState.HEALTHY})

#: Seconds that one try (dial, preamble or probe) may take before the next, where the caller set no other.
ATTEMPT_TIMEOUT: Final = 5.0

#: Seconds that the first try may take. After a try without any response, the next one gets twice as much. Data that are
#: sent before the guest's network is up can be lost without an error, and the guest may be up a moment later.
FIRST_ATTEMPT: Final = 1.0


def _no_nan(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    # NaN is neither before nor after any time, so a runner would wait for ever.
    if value != value:
        raise ValueError(f"{attribute.name} must not be NaN")


@attrs.frozen
class Connect:
    """Make a new connection, within `timeout` seconds (§8). Errors: ConnectError."""

    timeout: float = attrs.field(validator=_no_nan)


@attrs.frozen
class Send:
    """Send one request and wait for its reply (§3), `timeout` seconds at most (None: as long as the caller waits)."""

    message: Request
    timeout: float | None = attrs.field(default=None, validator=_no_nan)


@attrs.frozen
class SendMany:
    """Send requests in one flight (§3). `on_outcome(index, outcome)` is called as each of them settles."""

    messages: tuple[Request, ...]
    on_outcome: Callable[[int, Reply | StereosError], None]


@attrs.frozen
class Sleep:
    """Wait `seconds`, or until the guest pushes a notification (§3), but `least` seconds in any case.

    Without a `least`, a guest that pushes in answer to each probe would be probed without pause.
    """

    seconds: float = attrs.field(validator=_no_nan)
    least: float = attrs.field(default=0.0, validator=_no_nan)


Action = Connect | Send | SendMany | Sleep

Result = TypeVar("Result")

#: What a dialogue is, for type checkers: it yields actions and returns its result.
Dialogue = Generator[Action, Any, Result]


class TimeUp(RequestTimeout):
    """The whole time of a dialogue is up (§3): `seconds` of it. Thrown into the dialogue by what runs it.

    `sent` is True unless the runner knows better: what the dialogue had yielded may be on its way to the guest.
    """

    def __init__(self, text: str, *, seconds: float = 0.0, request: Message | None = None, sent: bool = True) -> None:
        super().__init__(text, request=request, sent=sent)
        self.seconds = seconds


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value!r}")


def _several(name: str, values: Collection[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{name} takes several strings, such as a tuple of them, not one string")
    values = tuple(values)  # an iterator would be used up by the first look
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{name} takes strings, not {type(value).__name__}")
    return values


def _states(values: Collection[str] | None) -> Collection[str] | None:
    states = values if values is None else _several("states", values)
    if states == ():
        raise ValueError("states must name at least one state, or be None: the wait would never end")
    return states


def _agents(values: Collection[str]) -> Collection[str]:
    return _several("agents", values)


def _unchanged(delay: float) -> float:
    return delay


@attrs.frozen
class Backoff:
    """How long to wait between tries (§7): `first` seconds, times `factor` each time, `maximum` at most.

    A guest that answers, and is not ready yet, is asked again after `answering` seconds at the most: its next
    state is near, and asking costs it next to nothing.

    `jitter` maps each delay to the delay that is used: pass `lambda d: d * random.uniform(0.5, 1)` where many
    hosts wait for many guests.
    """

    first: float = attrs.field(default=0.025, validator=_positive)
    factor: float = attrs.field(default=2.0, validator=_positive)
    maximum: float = attrs.field(default=1.0, validator=_positive)
    answering: float = attrs.field(default=0.1, validator=_positive)
    jitter: Callable[[float], float] = attrs.field(
        default=_unchanged, repr=False, validator=attrs.validators.is_callable()
    )

    def delays(self) -> Iterator[float]:
        """Yield the delays, without end."""
        delay = self.first
        while True:
            yield self.jitter(min(delay, self.maximum))
            delay = min(delay * self.factor, self.maximum)


@attrs.frozen
class WaitProgress:
    """Where a wait stands (§6): the number of `tries` so far, and what the last one saw.

    `health` is the guest's last report, `error` what the last try ended in when it brought none. `agents` are the
    agents that are waited for.
    """

    tries: int = 0
    health: Health | None = None
    error: StereosError | None = None
    agents: tuple[str, ...] = ()

    @property
    def state(self) -> str | None:
        """The state that the guest reported last; None when it never did."""
        return self.health.state if self.health else None

    def __str__(self) -> str:
        seen = f"last state {shortened(self.health.state)}" if self.health else "it never reported a state"
        error = f", last error: {self.error}" if self.error else ""
        return f"{self.tries} {'try' if self.tries == 1 else 'tries'}, {seen}{error}"

    def not_ready(self, why: str) -> NotReady:
        """The error that a wait ends in, with all that is known."""
        seen = f"; {_seen(self.agents, self.health)}" if self.agents else ""
        return NotReady(
            f"the guest is not ready: {why} ({self}){seen}",
            last_state=self.state,
            last_error=self.error,
            tries=self.tries,
            agents_wanted=self.agents,
            health=self.health,
        )


_Item = TypeVar("_Item")

#: Names in a sentence, before it says how many more there are.
_NAMES: Final = 12
#: Characters of a name or of an agent's error in a sentence. A guest may send a megabyte of them.
_SIZE: Final = 256


def _seen(wanted: Sequence[str], health: Health | None) -> str:
    """Which agents were waited for, and what the guest said of them."""
    said = f"waited for {_listed(wanted, _cut)}"
    if health is None:
        return said
    # Those that are waited for come first. The others may tell why: an older guest calls an agent by its harness.
    first = set(wanted)
    agents = sorted(health.agents, key=lambda agent: agent.name not in first)
    said += f"; the guest reports {_listed(agents, _described) or 'no agents'}"
    listed = {agent.name for agent in agents}
    if missing := [name for name in wanted if name not in listed]:
        verb = "is" if len(missing) == 1 else "are"
        said += f"; {_listed(missing, _cut)} {verb} not listed: an agent that cannot start is absent from health"
    return said


def _listed(items: Sequence[_Item], said: Callable[[_Item], str]) -> str:
    more = len(items) - _NAMES
    return ", ".join(map(said, items[:_NAMES])) + (f" and {more} more" if more > 0 else "")


def _described(agent: AgentStatus) -> str:
    said = "running" if agent.running else "not running"
    if agent.restarts:
        said += f", {agent.restarts} restart{'s' * (agent.restarts != 1)}"
    return f"{_cut(agent.name)} ({said}{f': {_cut(agent.error)}' if agent.error else ''})"


def _cut(text: str) -> str:
    shown = text if len(text) <= _SIZE else f"{text[: _SIZE - 1]}…"
    return shown if shown.isprintable() else repr(shown)


@attrs.define
class ReadyWait:
    """The conditions of a wait for a guest, and the wait itself.

    It is over when one health report names one of `states`, and all of `agents` run in it. `states` None: with
    `agents` any state will do, since a guest's state does not tell whether its agents run (§6); without them it is
    `READY_STATES`. `attempt_timeout` bounds one try, in seconds; the first tries get less time. `on_progress` is called
    after each try. `progress` is where the wait stands.

    Raises ValueError for empty `states`.
    """

    states: Collection[str] | None = attrs.field(default=None, converter=_states)
    agents: Collection[str] = attrs.field(default=(), converter=_agents)
    backoff: Backoff = attrs.field(factory=Backoff)
    attempt_timeout: float = attrs.field(default=ATTEMPT_TIMEOUT, validator=_positive)
    on_progress: Callable[[WaitProgress], None] | None = attrs.field(
        default=None, validator=lambda _wait, attribute, value: _check_called(attribute.name, value)
    )
    progress: WaitProgress = attrs.field(
        default=attrs.Factory(lambda self: WaitProgress(agents=tuple(self.agents)), takes_self=True), init=False
    )

    def run(self, *, redial: bool, connected: bool | None = None) -> Generator[Action, Any, Health]:
        """Wait. With `redial`, dial first, and again whenever the connection or a try does not get through.

        `connected` says that there is a connection to begin with; by default there is one where it does not redial.
        With `redial`, it is dropped when a probe over it takes longer than `attempt_timeout`, or when it is lost.

        After a try without any response, the next one gets twice the time. Such a try is a probe without a reply, or a
        dial whose ConnectError has `timed_out` set or was caused by a TimeoutError (the exception for ETIMEDOUT, too).

        A notification may cut a pause short, since it may say that the guest is ready, but to no less than
        `backoff.first`.

        Raises NotReady when the guest says that it shuts down, or knows no health reports, and when the time of the
        whole wait is up (a `TimeUp` is thrown in); what the last try raised, when another cannot help or
        `redial` is False.
        """
        try:
            return (yield from self._run(redial, not redial if connected is None else connected))
        except TimeUp as exc:
            if exc.request is not None:
                # The deadline interrupted a probe, which counts as a try. Otherwise no probe was running.
                self._note(None, exc)
            raise self.progress.not_ready(f"{in_words(exc.seconds)} have passed") from (self.progress.error or exc)
        except BaseException as exc:
            if not isinstance(exc, (StereosError, GeneratorExit)):
                # The wait was ended from outside. Its error will show where it stood.
                exc.add_note(f"while waiting for the guest to be ready: {self.progress}")
            raise

    def _run(self, redial: bool, connected: bool) -> Generator[Action, Any, Health]:
        patience = min(FIRST_ATTEMPT, self.attempt_timeout)
        # Others may use a connection that was there before, so it is not dropped as soon as one of our own.
        is_ours = not connected
        delays = self.backoff.delays()
        while True:
            seen = self._kind()
            try:
                if not connected:
                    yield Connect(patience)
                    connected = is_ours = True
                bound = patience if is_ours else self.attempt_timeout
                reply = yield Send(GetHealth(), bound if redial else None)
            except TimeUp:
                raise
            except (ConnectError, ConnectionLost, RequestTimeout) as exc:
                connected = False
                if _silent(exc):
                    patience = min(2 * patience, self.attempt_timeout)
                self._note(None, exc)
                if not redial or (isinstance(exc, ConnectError) and not exc.retryable):
                    raise
            else:
                if isinstance(reply, Health):
                    self._note(reply, None)
                    if self._over(reply):
                        return reply
                else:
                    self._note(None, RequestFailed(GetHealth(), reply.error))
                    if reply.error.startswith("unknown message type"):
                        raise self.progress.not_ready("it does not know get_health; ask an old guest with ping")
            if self._kind() != seen:
                # The state or the error has changed: probe again soon.
                delays = self.backoff.delays()
            delay = next(delays)
            pause = delay if self.progress.error else min(delay, self.backoff.answering)
            yield Sleep(pause, least=min(pause, self.backoff.first))

    def _kind(self) -> object:
        return self.progress.state, type(self.progress.error)

    def _note(self, health: Health | None, error: StereosError | None) -> None:
        if error is not None:
            # The error is kept while the wait goes on: its traceback would keep the frames alive, including those of
            # this wait.
            error = error.with_traceback(None)
        self.progress = WaitProgress(
            self.progress.tries + 1, health or self.progress.health, error, self.progress.agents
        )
        if self.on_progress is not None:
            self.on_progress(self.progress)

    def _over(self, health: Health) -> bool:
        if health.state == LifecycleState.SHUTDOWN and health.state not in (self.states or ()):
            raise self.progress.not_ready("it is shutting down")
        return self.is_met_by(health)

    def is_met_by(self, health: Health) -> bool:
        """Whether one report meets all conditions."""
        states = self.states if self.states is not None or self.agents else READY_STATES
        running = {agent.name for agent in health.agents if agent.running}
        return (states is None or health.state in states) and running.issuperset(self.agents)


def _silent(error: StereosError) -> bool:
    """Whether a try ended without any response from the other side."""
    return (
        isinstance(error, RequestTimeout)
        or getattr(error, "timed_out", False)
        or isinstance(error.__cause__, TimeoutError)
    )


def wait_ready(wait: ReadyWait | None = None, *, redial: bool = False) -> Generator[Action, Any, Health]:
    """Wait until the guest is ready and return its health. The first probe goes out at once (§7, fault 4)."""
    return (wait or ReadyWait()).run(redial=redial)


#: What happens to the config when a mount or a secret failed: "stop" holds it back, "continue" sends it all the same.
OnRefusal = Literal["stop", "continue"]


def provision(
    plan: ProvisionPlan,
    *,
    on_refusal: OnRefusal = "stop",
    on_step: Callable[[ProvisionStep], None] | None = None,
    guest: str | None = None,
) -> Dialogue[ProvisionReport]:
    """Carry out `plan`: mounts, secrets and SSH keys in one flight, then the config in another (§7, faults 8 and 9).

    Agents start when the config comes. So it is held back unless every mount and every secret is done: its step is
    NOT_SENT, with an error that names the cause, and `report.remaining_plan()` is what a second try has to do. An SSH
    key that was refused holds nothing back, since agents do not need it. With `on_refusal="continue"` all goes out in
    a single flight, the config too, whatever becomes of the rest.

    `guest` is the guest's label, for the errors of the steps. `on_step` is called as each step settles; what it raises
    ends the dialogue, and the report is lost. Nothing is ever sent twice. What did not work is in the report, and so
    is what was still open when the time of the dialogue was up, or when the connection ended between the flights.

    Raises at once TypeError when `plan` is not a ProvisionPlan or `on_step` is a coroutine function, ValueError when
    `on_refusal` is neither of the two. The dialogue raises ConnectionLost when the connection has ended before the
    first step, so that nothing was sent. An error from outside that ends it, such as a cancellation, gets a note with
    the steps that were done by then.
    """
    if not isinstance(plan, ProvisionPlan):
        raise TypeError(f"provision takes a ProvisionPlan, not {type(plan).__name__}")
    _check_called("on_step", on_step)
    if on_refusal not in ("stop", "continue"):
        raise ValueError(f"on_refusal must be stop or continue, not {on_refusal!r}")
    return _provision(plan, on_refusal, on_step or _ignore, guest)


def _check_called(name: str, function: object) -> None:
    """Raise TypeError for what cannot be called, and for a coroutine function, whose calls nothing would await."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be a function or None, not {type(function).__name__}")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is called and not awaited: pass a plain function, not a coroutine function")


def _ignore(_step: ProvisionStep) -> None:
    pass


def _provision(
    plan: ProvisionPlan, on_refusal: OnRefusal, on_step: Callable[[ProvisionStep], None], guest: str | None
) -> Dialogue[ProvisionReport]:
    requests = plan.requests
    redactor = Redactor((*requests, *plan.earlier))
    told: list[ProvisionStep] = []

    def settle(request: Request, outcome: Reply | StereosError) -> ProvisionStep:
        return tell(ProvisionStep.of(request, outcome, redactor, guest))

    def tell(step: ProvisionStep) -> ProvisionStep:
        told.append(step)
        on_step(step)
        return step

    first = len(requests) - (on_refusal == "stop" and plan.config is not None)
    try:
        steps = yield from _flight(requests[:first], settle)
        for request in requests[first:]:
            cause = next(filter(_holds_back, steps), None)
            if cause is not None:
                steps.append(tell(ProvisionStep.held_back(request, cause, guest)))
                continue
            try:
                steps += yield from _flight((request,), settle)
            except StereosError as exc:
                if not steps or told[-1].request is request:
                    # Nothing was sent at all; or it is what `on_step` raised.
                    raise
                # Not a byte of it was sent. What was done before is worth more than an error.
                steps.append(settle(request, exc))
    except BaseException as exc:
        if not isinstance(exc, (StereosError, GeneratorExit)):
            # It was ended from outside, or by `on_step`. Its error shows what is known to have been done.
            known = "; ".join(f"{step.status.value}: {step.label}" for step in told) or "no step had an outcome"
            exc.add_note(f"while provisioning {guest or GUEST}: {known}")
        raise
    return ProvisionReport(tuple(steps), plan.agents, plan.earlier)


def _holds_back(step: ProvisionStep) -> bool:
    """Whether the config has to wait for another try: something that agents need is missing, or there is no time."""
    missing = isinstance(step.request, Mount | InjectSecret) and step.status is not StepStatus.DONE
    return missing or isinstance(step.error, TimeUp)


def _flight(
    requests: tuple[Request, ...], settle: Callable[[Request, Reply | StereosError], ProvisionStep]
) -> Dialogue[list[ProvisionStep]]:
    """Send `requests` and wait for all of them."""
    settled: dict[int, ProvisionStep] = {}
    # Whether `on_step` has raised.
    failed = False

    def report(index: int, outcome: Reply | StereosError) -> None:
        nonlocal failed
        failed = True
        settled[index] = settle(requests[index], outcome)
        failed = False

    if not requests:
        return []
    outcomes: Iterable[Reply | StereosError]
    try:
        outcomes = yield SendMany(requests, report)
    except RequestTimeout as exc:
        if failed:
            raise
        outcomes = [_of_one(exc, request) for request in requests]
    for index, outcome in enumerate(outcomes):
        if index not in settled:
            report(index, outcome)
    return [settled[index] for index in range(len(requests))]


def _of_one(error: RequestTimeout, request: Request) -> RequestTimeout:
    """`error`, which says that there was no time for several requests, for one of them."""
    own = copy.copy(error)
    own.request = request
    own.args = (f"{named(request)} was not {'answered' if error.sent else 'sent'}: {error}",)
    return own


def shut_down(reason: str = "") -> Generator[Action, Any, Ack | None]:
    """Power the guest off. Return its ack, or None when the connection ended first (§6).

    The guest acknowledges and goes down at once, so its ack can be lost in the race: the end of the
    connection after a sent `shutdown` means "most likely accepted".

    Raises RequestFailed when the guest refuses, ConnectionLost when the request could not be sent, OutcomeUnknown when
    this end closed the connection after it was sent.
    """
    request = Shutdown(reason)
    try:
        reply = yield Send(request)
    except ConnectionLost as exc:
        if request in exc.unanswered and not exc.closed_here:
            return None
        raise
    ack: Ack = reply
    if not ack.ok:
        raise RequestFailed(request, ack.error)
    return ack
