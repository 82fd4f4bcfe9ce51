"""Running dialogues for callers that block."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from stereos_proto import Dialogue, Running, StereosError, Waiter
from stereos_proto.dialogues import Action, Connect, Send, SendMany, Sleep

from ._log import logger
from ._outcomes import expect
from ._sync_dial import LONGEST_WAIT, left
from ._verbs import Result

if TYPE_CHECKING:
    from ._sync_client import SyncClient

Client = TypeVar("Client", bound="SyncClient")


class SyncRunner:
    """Runs dialogues for callers that block: over one client, or over one after another that `dial` makes (§3).

    `dial(timeout)` returns a client within `timeout` seconds, or raises ConnectError. `label` names the guest in
    errors.
    """

    def __init__(
        self,
        driver: type[SyncClient],
        client: SyncClient | None = None,
        *,
        dial: Callable[[float], SyncClient] | None = None,
        label: str = "the guest",
    ) -> None:
        self.client = client
        self._label = label if client is None else client._session.label
        self._driver = driver
        self._dial = dial
        # The count of notifications when the last request was sent: later notifications end a Sleep.
        self._heard = 0

    def run(self, dialogue: Dialogue[Result], limit: float) -> Result:
        """Run `dialogue` within `limit` seconds and return its result. Raises what it raises."""
        running = Running(dialogue, None if limit == inf else time.monotonic() + limit, limit)
        if self.client is not None:
            self._heard = self.client._mailbox.heard
        try:
            action = running.resume(None, time.monotonic())
            while action is not None:
                action = running.resume(self._perform(action, running), time.monotonic())
        except BaseException as exc:
            running.fail(exc)
            if isinstance(exc, StereosError):
                exc.about(self._label)
            raise
        result: Result = running.result
        return result

    def _perform(self, action: Action, running: Running[Any]) -> Any:
        try:
            if isinstance(action, Send):
                client = self._current()
                self._heard = client._mailbox.heard
                return client._ask(action.message, self._left(running, action.timeout)).outcome
            if isinstance(action, Sleep):
                return self._pause(action, self._left(running, action.seconds))
            if isinstance(action, SendMany):
                return self._current()._ask_many(action.messages, self._left(running, None), action.on_outcome)
            return self._connect(action, self._left(running, action.timeout))
        except StereosError as exc:
            return exc.with_traceback(None)

    def _left(self, running: Running[Any], limit: float | None) -> float:
        now = time.monotonic()
        until = running.until(limit, now)
        return inf if until is None else until - now

    def _current(self) -> SyncClient:
        if self.client is None:
            raise RuntimeError("the dialogue has not connected yet")
        return self.client

    def _connect(self, action: Connect, limit: float) -> None:
        if self._dial is None:
            raise RuntimeError(f"this dialogue cannot dial, but yielded {action}; SyncRunner(…, dial=…) can")
        if self.client is not None:
            logger.debug("%s: the connection is dropped, to dial again", self.client._session.label)
        self.close()
        self.client = self._dial(limit)

    def _pause(self, action: Sleep, limit: float) -> None:
        client, start = self.client, time.monotonic()
        if client is None or client._session.ended is not None:
            self._sleep(start + limit)
            return
        waiter = Waiter()
        client._locked(partial(client._mailbox.listen, waiter, after=self._heard))
        client._listen(waiter, start + limit)
        # A notification ends one Sleep, not all that follow.
        self._heard = client._mailbox.heard
        self._sleep(start + min(action.least, limit))

    def _sleep(self, deadline: float) -> None:
        pause = LONGEST_WAIT
        while pause == LONGEST_WAIT:
            pause = left(deadline)
            self._driver._sleep(pause)  # also for no time at all: others may run then

    def close(self) -> None:
        """Close the client that there is."""
        if self.client is not None:
            client, self.client = self.client, None
            client.close()

    def found(self, driver: type[Client]) -> Client:
        """Return the client that the dialogue ended with. Raises TypeError when it is no `driver`."""
        return expect(self._current(), driver)
