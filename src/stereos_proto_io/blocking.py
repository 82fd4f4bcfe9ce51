"""The client for programs that block: plain calls, any number of threads.

There is no thread behind it. Whoever waits first reads for all, and hands over to the next who waits when it
has its own reply (leader and followers). Nobody waits to write without reading: with replies filling the
buffers of both ends, host and guest would block each other for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Self, Unpack

import attrs

from stereos_proto import Connection, Health, Reply, Request, RequestTimeout
from stereos_proto._constants import DEFAULT_TIMEOUT
from stereos_proto._messages import Notification
from stereos_proto.dialogues import READY_STATES, Backoff, ReadyWait, WaitProgress

from ._blocking_link import Link
from ._blocking_wire import dial
from ._session import Limits, Session, Waiting, accepted, replies
from ._verbs import READY_TIMEOUT, Dialogue, Outcome, Report, Result, SyncActor, SyncVerbs, ready_wait
from .addresses import Address

__all__ = ["Client", "connect", "connect_when_ready"]


class Client(SyncVerbs):
    """A connection to a guest. Threads may share it; each gets its own replies (§3).

    Processes may not: a child that was forked finds its copy closed. `connect` or `Client.attach` make one; `close` it,
    or use it in `with`.
    """

    def __init__(self, stream: Any, session: Session, timeout: float) -> None:
        self._session = session
        self._timeout = timeout
        self._link = Link(stream, session)

    @classmethod
    def attach(
        cls, stream: Any, *, label: str = "the guest", timeout: float = DEFAULT_TIMEOUT, **limits: Unpack[Limits]
    ) -> Self:
        """Return a client over a connected socket, or anything with its `fileno`, `recv`, `send` and `close`.

        A socket may be one of TLS. The client owns the stream from then on, and makes it non-blocking. `timeout`
        (seconds) is what each verb waits unless told otherwise. `max_pending` bounds the requests in flight,
        `max_notifications` the notifications kept for `notifications()`.
        """
        return cls(stream, Session(label, **limits), timeout)

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
        self._link.close()

    def request(self, message: Request, *, timeout: float | None = None) -> Reply:
        """Send `message` and return its reply (§3). Raises what all verbs raise."""
        return accepted(message, self._ask(message, self._by(timeout, self._timeout)))

    def request_many(self, messages: Iterable[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order; a refusal is an Ack with ok=False.

        Raises as `request` does, except for refusals, for the first that has no reply. Nothing is sent when
        one of them cannot be.
        """
        return replies(self._many(tuple(messages), self._by(timeout, self._timeout), _ignore))

    def notifications(self, *, timeout: float | None = None) -> Iterator[Notification]:
        """Yield what the guest tells unasked, as it comes, until the client is closed.

        Raises RequestTimeout after `timeout` seconds without one, and what the connection ended in when it
        was not closed from here.
        """
        deadline = self._by(timeout, math.inf)
        while (news := self._link.hear()) is not None:
            if not isinstance(news, Waiting):
                yield news
                deadline = self._by(timeout, math.inf)
            elif not self._link.listen(news, deadline):
                raise RequestTimeout(f"{self._session.label} sent no notification within {timeout:g} s")

    def _by(self, timeout: float | None, default: float) -> float:
        return time.monotonic() + (default if timeout is None else timeout)

    def _ask(self, message: Request, deadline: float) -> Reply:
        call = self._link.start(self._session.start, message)
        try:
            if not self._link.wait(call, deadline):
                self._link.abandon((call,))
        except BaseException:
            self._link.abandon((call,))
            raise
        return call.reply()

    def _many(self, messages: Sequence[Request], deadline: float, report: Report) -> list[Outcome]:
        calls = self._link.start(self._session.start_many, messages)
        try:
            for index, call in enumerate(calls):
                if not self._link.wait(call, deadline):
                    self._link.abandon(calls)
                report(index, call.ended_in())
        except BaseException:
            self._link.abandon(calls)
            raise
        return [call.ended_in() for call in calls]

    def _run_within(self, dialogue: Dialogue[Result], timeout: float | None) -> Result:
        return _Actor(self._by(timeout, self._timeout), self).run(dialogue)

    def _wait_within(self, wait: ReadyWait, timeout: float) -> Health:
        return _Actor(self._by(timeout, timeout), self).wait(wait, timeout, redial=False)


@attrs.define
class _Actor(SyncActor):
    """Runs a dialogue over one client, or over one after another that `dial` makes by a deadline."""

    deadline: float
    client: Client | None = None
    dial: Callable[[float], Client] | None = None
    heard: int = 0  # notifications, when it asked last: what came since ends a pause

    def wait(self, wait: ReadyWait, timeout: float, *, redial: bool) -> Health:
        try:
            return self.run(wait.run(redial=redial))
        except RequestTimeout as exc:
            raise wait.progress.not_ready(f"{timeout:g} s have passed") from (wait.progress.error or exc)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()

    def _by(self, timeout: float) -> float:
        return min(self.deadline, time.monotonic() + timeout)

    def _current(self) -> Client:
        if self.client is None:
            raise RuntimeError("the dialogue has not connected yet")
        return self.client

    def _connect(self, timeout: float) -> None:
        self.close()
        if self.dial is None:
            raise RuntimeError("this dialogue has nothing to dial")
        self.client = self.dial(self._by(timeout))

    def _exchange(self, message: Request, timeout: float) -> Reply:
        client = self._current()
        self.heard = client._session.heard
        return client._ask(message, self._by(timeout))

    def _exchange_many(self, messages: Sequence[Request], report: Report) -> list[Outcome]:
        return self._current()._many(messages, self.deadline, report)

    def _pause(self, seconds: float) -> None:
        until = self._by(seconds)
        if self.client is None or self.client._session.ended:
            time.sleep(max(0, until - time.monotonic()))
        else:
            self.client._link.pause(until, self.heard)
        if time.monotonic() >= self.deadline:
            raise RequestTimeout("the time is up")


def connect(address: Address, *, timeout: float = DEFAULT_TIMEOUT, **limits: Unpack[Limits]) -> Client:
    """Dial a guest, within `timeout` seconds, and return a client. `timeout` is each verb's, too.

    It bounds neither the system's look-up of a host's name nor the function of a `Dial`. `limits` are those of
    `Client.attach`. A connection does not mean that the guest is there (§8): see `connect_when_ready`.

    Raises ConnectError.
    """
    return _connect(address, time.monotonic() + timeout, timeout, limits)


def connect_when_ready(
    address: Address,
    *,
    timeout: float = READY_TIMEOUT,
    states: Collection[str] = READY_STATES,
    agents: Collection[str] = (),
    backoff: Backoff | None = None,
    on_progress: Callable[[WaitProgress], None] | None = None,
    request_timeout: float = DEFAULT_TIMEOUT,
    **limits: Unpack[Limits],
) -> Client:
    """Dial until there is a guest, wait until it is ready, and return a client; all within `timeout` seconds.

    Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again (§8).
    `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`; `request_timeout` is what
    each verb of the client waits later; `limits` are those of `Client.attach`.

    Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
    RemoteProtocolError when what answers does not speak the protocol.
    """
    wait = ready_wait(states, agents, backoff, on_progress)
    actor = _Actor(time.monotonic() + timeout, dial=lambda by: _connect(address, by, request_timeout, limits))
    try:
        actor.wait(wait, timeout, redial=True)
    except BaseException:
        actor.close()
        raise
    return actor._current()


def _connect(address: Address, deadline: float, timeout: float, limits: Limits) -> Client:
    session = Session(str(address), **limits)
    stream, early = dial(address, deadline)
    if early:
        session.receive(early)
    return Client(stream, session, timeout)


def _ignore(_index: int, _outcome: Outcome) -> None:
    """Nobody wants to know."""
