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
`Sleep(seconds)`    waits, less long when a notification comes            None
=================== ===================================================== ================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from itertools import repeat
from typing import Any, Final

import attrs

from ._errors import ConnectError, ConnectionLost, NotReady, RequestFailed, RequestTimeout, StereosError
from ._messages import Ack, GetHealth, Health, LifecycleState, Reply, Request, Shutdown
from ._provision import ProvisionPlan, ProvisionReport, ProvisionStep
from ._redact import Redactor

#: The states in which a guest takes work (`docs/protocol.md` §7).
READY_STATES: Final = frozenset({LifecycleState.READY, LifecycleState.HEALTHY})

#: Seconds that one try (dial, preamble or probe) may take before the next, where the caller set no other.
ATTEMPT_TIMEOUT: Final = 5.0

#: Seconds that the first try may take; each that was silent gives the next twice as much. What was sent before a guest
#: had its network may be lost without a word, and the guest be there a moment later.
FIRST_ATTEMPT: Final = 1.0


@attrs.frozen
class Connect:
    """Make a new connection, within `timeout` seconds (§8). Errors: ConnectError."""

    timeout: float


@attrs.frozen
class Send:
    """Send one request and wait for its reply (§3), `timeout` seconds at most (None: as long as the caller waits)."""

    message: Request
    timeout: float | None = None


@attrs.frozen
class SendMany:
    """Send requests in one flight (§3). `on_outcome(index, outcome)` is called as each of them settles."""

    messages: tuple[Request, ...]
    on_outcome: Callable[[int, Reply | StereosError], None]


@attrs.frozen
class Sleep:
    """Wait `seconds`, or until the guest pushes a notification (§3)."""

    seconds: float


Action = Connect | Send | SendMany | Sleep


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value!r}")


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
    jitter: Callable[[float], float] = attrs.field(default=_unchanged, repr=False)

    def delays(self) -> Iterator[float]:
        """Yield the delays, without end."""
        delay = self.first
        while True:
            yield self.jitter(min(delay, self.maximum))
            delay = min(delay * self.factor, self.maximum)


@attrs.frozen
class WaitProgress:
    """Where a wait stands (§6): the number of `tries` so far, and what the last one saw.

    `health` is the guest's last report, `error` what the last try ended in when it brought none.
    """

    tries: int = 0
    health: Health | None = None
    error: StereosError | None = None

    @property
    def state(self) -> str | None:
        """The state that the guest reported last; None when it never did."""
        return self.health.state if self.health else None

    def __str__(self) -> str:
        seen = f"last state {self.state}" if self.state else "it never reported a state"
        error = f", last error: {self.error}" if self.error else ""
        return f"{self.tries} {'try' if self.tries == 1 else 'tries'}, {seen}{error}"

    def not_ready(self, why: str) -> NotReady:
        """The error that a wait ends in, with all that is known."""
        return NotReady(
            f"the guest is not ready: {why} ({self})", last_state=self.state, last_error=self.error, tries=self.tries
        )


@attrs.define
class ReadyWait:
    """What a guest is waited for, and the wait itself.

    It is over when the guest reports one of `states`; or, where `agents` are named, when all of these run,
    in whatever state (§6: a guest's state does not tell whether its agents run). `attempt_timeout` bounds one try,
    in seconds; the first ones wait less long. `on_progress` is called after each try. `progress` is where the wait
    stands.
    """

    states: Collection[str] = READY_STATES
    agents: Collection[str] = ()
    backoff: Backoff = attrs.field(factory=Backoff)
    attempt_timeout: float = attrs.field(default=ATTEMPT_TIMEOUT, validator=_positive)
    on_progress: Callable[[WaitProgress], None] | None = None
    progress: WaitProgress = attrs.field(factory=WaitProgress, init=False)

    def run(self, *, redial: bool) -> Generator[Action, Any, Health]:
        """Wait. With `redial`, dial first, and again whenever the connection or a try does not get through.

        Raises NotReady when the guest says that it shuts down, or knows no health reports; what a try raised,
        when another would not help.
        """
        connected = not redial
        patience = min(FIRST_ATTEMPT, self.attempt_timeout)
        delays = self.backoff.delays()
        while True:
            seen = self._kind()
            try:
                if not connected:
                    yield Connect(patience)
                    connected = True
                reply = yield Send(GetHealth(), patience if redial else None)
            except (ConnectError, ConnectionLost, RequestTimeout) as exc:
                connected = False
                if isinstance(exc, RequestTimeout) or isinstance(exc.__cause__, TimeoutError):
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
                # Something has moved: look again soon.
                delays = self.backoff.delays()
            delay = next(delays)
            yield Sleep(delay if self.progress.error else min(delay, self.backoff.answering))

    def _kind(self) -> object:
        return self.progress.state, type(self.progress.error)

    def _note(self, health: Health | None, error: StereosError | None) -> None:
        self.progress = WaitProgress(self.progress.tries + 1, health or self.progress.health, error)
        if self.on_progress is not None:
            self.on_progress(self.progress)

    def _over(self, health: Health) -> bool:
        if health.state == LifecycleState.SHUTDOWN and health.state not in self.states:
            raise self.progress.not_ready("it is shutting down")
        if self.agents:
            running = {agent.name for agent in health.agents if agent.running}
            return running.issuperset(self.agents)
        return health.state in self.states


def wait_ready(wait: ReadyWait | None = None, *, redial: bool = False) -> Generator[Action, Any, Health]:
    """Wait until the guest is ready and return its health. The first probe goes out at once (§7, fault 4)."""
    return (wait or ReadyWait()).run(redial=redial)


def provision(
    plan: ProvisionPlan, *, on_step: Callable[[ProvisionStep], None] | None = None
) -> Generator[Action, Any, ProvisionReport]:
    """Carry out `plan` in one flight: mounts, secrets, SSH keys, and the config last (§7, faults 8 and 9).

    `on_step` is called as each step settles. Nothing is ever sent twice. Raises nothing by itself: what did
    not work is in the report.
    """
    requests = plan.requests
    redactor = Redactor(requests)

    def report(index: int, outcome: Reply | StereosError) -> None:
        if on_step is not None:
            on_step(ProvisionStep.of(requests[index], outcome, redactor))

    outcomes: Sequence[Reply | StereosError] = yield SendMany(requests, report)
    return ProvisionReport(tuple(map(ProvisionStep.of, requests, outcomes, repeat(redactor))))


def shut_down(reason: str = "") -> Generator[Action, Any, Ack | None]:
    """Power the guest off. Return its ack, or None when the connection ended first (§6).

    The guest acknowledges and goes down at once, so its ack can be lost in the race: the end of the
    connection after a sent `shutdown` means "most likely accepted".

    Raises RequestFailed when the guest refuses, ConnectionLost when the request could not be sent.
    """
    request = Shutdown(reason)
    try:
        reply = yield Send(request)
    except ConnectionLost as exc:
        if request in exc.unanswered:
            return None
        raise
    ack: Ack = reply
    if not ack.ok:
        raise RequestFailed(request, ack.error)
    return ack
