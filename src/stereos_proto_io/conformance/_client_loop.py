"""Puts a client of a loop of callbacks through its cases: it gets the verbs of a client that blocks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from math import inf
from typing import Any, Final, Self

from stereos_proto import (
    Call,
    Connection,
    Dialogue,
    HostSession,
    Notification,
    NotificationReceived,
    Reply,
    Request,
    RequestTimeout,
    Task,
    UnknownMessage,
    UnknownReceived,
)
from stereos_proto_io.addresses import Address
from stereos_proto_io.driver import LoopClient, SyncVerbs, replies
from stereos_proto_io.driver._verbs import ReplyT, Result

from ._client_case import ClientCase
from ._client_check import DEADLINE, ClientReport, check_client

#: Seconds that one turn of the loop waits at most.
_TURN: Final = 0.5

#: Seconds that a turn waits while other threads may hand over work.
_SHORT_TURN: Final = 0.002

#: Seconds that a verb waits for a call: longer than the deadline of a case, after which its guest ends the connection.
_PATIENCE: Final = 60.0


def check_loop_client(
    make_client: Callable[[Address], LoopClient],
    turn: Callable[[float], object],
    *,
    address: Address | None = None,
    cases: Iterable[ClientCase] | None = None,
    deadline: float = DEADLINE,
) -> ClientReport:
    """Put a `LoopClient` through `cases`, all by default. Raises AssertionError for the first that it fails.

    `make_client(address)` returns a client that is tied to the loop. `turn(seconds)` runs the loop once: it waits for
    the next thing to happen, for `seconds` at most, and calls what is to be called. It may return early. The loop
    runs in the thread that calls this. `address`, `cases` and `deadline` are those of `check_client`.
    """
    callers = Callers(turn)

    def connect(address: Address) -> LoopVerbs:
        client = make_client(address)
        return LoopVerbs(client, callers, partial(client.connect, timeout=deadline))

    def when_ready(address: Address, seconds: float) -> LoopVerbs:
        client = make_client(address)
        return LoopVerbs(client, callers, partial(client.wait_ready, timeout=seconds))

    return check_client(
        connect,
        together=callers.together,
        when_ready=when_ready,
        address=address,
        cases=cases,
        deadline=deadline,
        thread=False,
    )


class Callers:
    """A loop that runs in the thread that created this object; other threads pass functions to be called in it."""

    def __init__(self, turn: Callable[[float], object]) -> None:
        self._turn = turn
        self._owner = threading.get_ident()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def do(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function in the thread of the loop, and return what it returns."""
        if threading.get_ident() == self._owner:
            return function(*args, **options)
        future: Future[Any] = Future()
        self._jobs.append((future, partial(function, *args, **options)))
        return future.result(_PATIENCE)

    def wait(self, seconds: float) -> None:
        """Run a turn, or in another thread let the loop do so."""
        if threading.get_ident() == self._owner:
            self._turn(seconds)
        else:
            time.sleep(_SHORT_TURN)

    def together(self, functions: Iterable[Callable[[], Any]]) -> None:
        """Run functions in threads, and the loop meanwhile."""
        threads = [threading.Thread(target=function, name="caller", daemon=True) for function in functions]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            while self._jobs:
                future, job = self._jobs.popleft()
                try:
                    future.set_result(job())
                except Exception as exc:  # noqa: BLE001  (it is raised in the thread that asked)
                    future.set_exception(exc)
            self._turn(_SHORT_TURN)


class LoopVerbs(SyncVerbs):
    """A `LoopClient` with verbs: each runs the loop until its call is done."""

    def __init__(self, client: LoopClient, callers: Callers, begin: Callable[[], Task[Any]]) -> None:
        """`begin` begins to dial. Raises what that task ends in."""
        self.client = client
        self._callers = callers
        self._timeout = DEADLINE
        self._news: deque[Notification | UnknownMessage] = deque()
        client.on_event = self._on_event  # type: ignore[method-assign]
        task = begin()
        try:
            self._until(lambda: task.done)
            task.result()
        except BaseException:
            self.close()
            raise

    def _on_event(self, event: Any) -> None:
        if isinstance(event, NotificationReceived):
            self._news.append(event.message)
        elif isinstance(event, UnknownReceived):
            self._news.append(UnknownMessage(event.type, event.payload))

    def _until(self, is_over: Callable[[], bool], seconds: float = _PATIENCE) -> bool:
        """Run the loop until `is_over()`, for `seconds` at most; return whether it is."""
        deadline = time.monotonic() + seconds
        while not is_over():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._callers.wait(min(left, _TURN))
        return True

    def _limit(self, timeout: float | None) -> float | None:
        limit = self._timeout if timeout is None else timeout
        return None if limit == inf else limit

    def request(self, message: Request[ReplyT], *, timeout: float | None = None) -> ReplyT:
        """Send `message` and return its reply."""
        call: Call[ReplyT] = self._callers.do(self.client.request, message, timeout=self._limit(timeout))
        try:
            self._until(lambda: call.done)
        finally:
            self._callers.do(self.client.cancel, call)
        return call.result()

    def request_many(self, messages: Iterable[Request], *, timeout: float | None = None) -> list[Reply]:
        """Send `messages` in one flight and return their replies in order."""
        calls = self._callers.do(self.client.request_many, messages, timeout=self._limit(timeout))
        self._until(lambda: all(call.done for call in calls))
        return replies(call.outcome for call in calls)

    def run(self, dialogue: Dialogue[Result], *, timeout: float | None = None) -> Result:
        """Run a dialogue and return its result."""
        task: Task[Result] = self._callers.do(self.client.run, dialogue, timeout=self._limit(timeout))
        self._until(lambda: task.done)
        return task.result()

    def notifications(self, *, timeout: float | None = None) -> Iterator[Notification | UnknownMessage]:
        """Yield what the guest tells unasked, until the client is closed."""
        while True:
            session = self.client.session
            came = self._until(partial(self._has_news, session), _PATIENCE if timeout is None else timeout)
            if self._news:
                yield self._news.popleft()
            elif not came or session.ended is None:
                raise RequestTimeout("no notification came in time")
            elif session.closed:
                return
            else:
                raise session.ended

    def _has_news(self, session: HostSession) -> bool:
        return bool(self._news or session.ended)

    @property
    def dropped_notifications(self) -> int:
        """How many notifications were dropped: none, for `on_event` is given each."""
        return 0

    @property
    def connection(self) -> Connection:
        """The protocol's state machine."""
        return self.client.session.connection

    def close(self) -> None:
        """Close the client, and run the loop until it has let go of every stream."""
        self._callers.do(self.client.close)
        self._until(lambda: not (self.client._told or self.client._dropped), DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
