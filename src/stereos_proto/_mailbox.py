"""Notifications that are kept for a reader, and the pump that carries events from a session to those who wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from ._call import Call
from ._codec import encode
from ._constants import MAX_LINE_SIZE
from ._errors import LocalProtocolError
from ._events import NEED_DATA, CallDone, NotificationReceived, SessionEnded
from ._host_session import HostSession
from ._messages import Notification, UnknownMessage

#: Notifications that are kept for a reader that is slower than the guest; older ones are dropped and counted.
MAX_NOTIFICATIONS: Final = 1024

#: Bytes of the lines of notifications that are kept: as much as one line may have. The objects take more.
MAX_NOTIFICATION_BYTES: Final = MAX_LINE_SIZE


@attrs.define(eq=False)
class Waiter:
    """A waiter for something other than a reply: the next notification, or the end (§3).

    It has the two attributes of a `Call` that a waiting loop looks at. `context` is called, where it is set, once
    `done` is true. Spurious calls are allowed.
    """

    # Whether what it waits for has happened.
    done: bool = False
    # Called once `done` is true. None: the owner checks `done` itself.
    context: Callable[[], object] | None = attrs.field(default=None, repr=False)


def wake(waiter: Waiter | Call[Any]) -> None:
    """Call the waiter's `context`, where it has one."""
    if waiter.context is not None:
        waiter.context()


class Mailbox:
    """The notifications of one session, for a driver that hands out iterators (§3). Bounded: the oldest are dropped.

    `heard` counts the notifications that came, `dropped` those of them that were dropped.
    """

    def __init__(self, max_notifications: int = MAX_NOTIFICATIONS, *, log: Callable[..., object] | None = None) -> None:
        """Raises ValueError when fewer than 0 notifications may be kept.

        `log(text, *args)`, such as the `debug` of a logger, is told what was dropped.
        """
        if max_notifications < 0:
            raise ValueError("max_notifications must be at least 0")
        self.heard: int = 0
        self.dropped: int = 0
        self._max_notifications = max_notifications
        self._log = log
        # Each with the size of its line.
        self._kept: deque[tuple[Notification, int]] = deque()
        self._kept_bytes = 0
        # Waiters for the next notification or the end.
        self._listening: list[Waiter] = []

    def put(self, message: Notification) -> None:
        """Keep `message`, and wake all waiters."""
        size = _size(message)
        self.heard += 1
        self._kept.append((message, size))
        self._kept_bytes += size
        while len(self._kept) > self._max_notifications or self._kept_bytes > MAX_NOTIFICATION_BYTES:
            self.take()
            self.dropped += 1
            if self._log is not None:
                self._log(
                    "dropped the oldest notification, %d in all, as more were waiting than are kept", self.dropped
                )
        self.wake_all()

    def take(self) -> Notification | None:
        """Return the oldest notification that was not taken; None when there is none."""
        if not self._kept:
            return None
        message, size = self._kept.popleft()
        self._kept_bytes -= size
        return message

    def listen(self, waiter: Waiter, *, after: int | None = None) -> None:
        """Mark `waiter` done at the next notification, or at the end (`wake_all`). Call `ignore` afterwards.

        With `after`, it is done at once if a notification came since `heard` had that value.
        """
        waiter.done = after is not None and self.heard > after
        self._listening.append(waiter)

    def ignore(self, waiter: Waiter) -> None:
        """Forget a waiter. Twice is fine."""
        if waiter in self._listening:
            self._listening.remove(waiter)

    def wake_all(self) -> None:
        """Let every waiter be done."""
        # They stay until they are ignored: a KeyboardInterrupt may come before all are woken.
        for waiter in tuple(self._listening):
            waiter.done = True
            wake(waiter)


def _size(message: Notification) -> int:
    """The size of the message's line in bytes, found by encoding it; MAX_LINE_SIZE if it cannot be encoded."""
    try:
        return len(encode(message))
    except LocalProtocolError:
        return MAX_LINE_SIZE


class Pump:
    """Pulls the events of a session, wakes the callers of calls that are done, and keeps notifications (§3).

    While a caller waits, the driver sets `Call.context` to a function that wakes the caller. The function must not
    raise.
    """

    def __init__(self, session: HostSession, mailbox: Mailbox) -> None:
        self.session = session
        self.mailbox = mailbox
        self._next_event = session.next_event

    def pump(self, waiter: Waiter | Call[Any] | None = None, limit: int | None = None) -> bool:
        """Pull until all is pulled, `waiter` is done, or `limit` events came; return whether there may be more.

        It stops early so that a caller whose reply has come need not process a flood of other messages. Events that do
        not depend on the guest (`owes_events`) are pulled in any case: the callers of those calls sleep, and after the
        end of the session no other caller would pull for them.
        """
        session = self.session
        count = 0
        while True:
            owes = session._events or (session.ended is not None and not session._told_end)
            if not owes and waiter is not None and waiter.done:
                return session.may_have_events
            if count == limit:
                return True
            event = self._next_event()
            if event is NEED_DATA:
                return False
            count += 1
            if type(event) is CallDone:
                call = event.call
                if call.context is not None:
                    call.context()
            elif type(event) is NotificationReceived:
                self.mailbox.put(event.message)
            elif type(event) is SessionEnded:
                self.mailbox.wake_all()
            else:
                self.mailbox.put(UnknownMessage(event.type, event.payload))  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
