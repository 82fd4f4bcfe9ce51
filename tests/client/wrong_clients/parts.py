"""Clients with a wrong part of a driver: waiting, turns, dialogues, dialling, closing."""

import asyncio
import contextlib
import time

import trio

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    HostSession,
    NotReady,
    RemoteProtocolError,
    Step,
    Turns,
    Waiter,
)
from stereos_proto._mailbox import Mailbox, wake
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io import blocking
from stereos_proto_io.driver import AsyncRunner, FdClient, SyncRunner, _sync_client
from stereos_proto_io.trio import Client as TrioClient

from . import ASYNCIO, TRIO, Client, wrong

# ----------------------------------------------------------------------------------------------- reading, writing


@wrong("reading_goes_on_while_a_write_has_to_wait")
def writes_without_reading(patch):
    """A client that has something to write does not read meanwhile."""
    patch.setitem(_sync_client._MASKS, Step.READ_WRITE, _sync_client.WRITE)


@wrong("reading_goes_on_while_another_caller_has_to_wait", TRIO)
def waits_twice_for_one_descriptor(patch):
    """Two tasks wait until the stream is writable, which the runtime refuses."""

    async def changed(self):
        with contextlib.suppress(OSError):
            await self.writable(self._stream)

    patch.setattr(FdClient, "_wait_writable", changed)


@wrong("a_deadline_holds_under_a_flood")
def looks_at_the_clock_when_nothing_comes(patch):
    """The deadline is checked only when there is nothing to read."""

    class Clock:
        now = time.monotonic()

        def monotonic(self):
            return self.now

    clock = Clock()
    poll = blocking.Client._poll

    def changed(self, mask, seconds):
        ready = poll(self, mask, seconds)
        if not ready:
            clock.now = time.monotonic()
        return ready

    patch.setattr(_sync_client, "time", clock)
    patch.setattr(blocking.Client, "_poll", changed)


@wrong("what_comes_with_the_end_counts")
def drops_the_last_news(patch):
    """Notifications that were not taken when the connection ended are dropped."""
    take = Mailbox.take

    def changed(self):
        if self.ended:
            return None
        return take(self)

    wake_all = Mailbox.wake_all

    def woken(self):
        self.ended = not self._kept or self.heard != len(self._kept)
        wake_all(self)

    patch.setattr(Mailbox, "ended", False, raising=False)
    patch.setattr(Mailbox, "take", changed)
    patch.setattr(Mailbox, "put", lambda self, _message: woken(self))


# --------------------------------------------------------------------------------------------------------- turns


@wrong("a_lost_change_is_unknown_when_others_wait_too")
def passes_over_followers_that_are_done(patch):
    """A leader that leaves wakes no follower that is done, although its event was not pulled."""

    def changed(followers):
        for follower in followers:
            if not follower.done:
                wake(follower)
                break

    patch.setattr(Turns, "_wake_first", staticmethod(changed))
    pump = Turns.pump

    def pulls_for_itself(self, waiter=None, limit=None):
        """A leader that leaves does not pull the events of others first."""
        while waiter is None or not waiter.done:
            if not pump(self, None, 1):
                return False
        return True

    patch.setattr(Turns, "pump", pulls_for_itself)


@wrong("a_caller_that_is_left_alone_gets_its_reply")
def hands_nothing_over(patch):
    """A leader that leaves wakes nobody."""
    patch.setattr(Turns, "_wake_first", staticmethod(lambda followers: None))


@wrong("late_reply_is_swallowed", ASYNCIO)
def cancelling_closes(patch):
    """A request that is cancelled takes the connection with it."""
    request = asyncio_driver.Client.request

    async def changed(self, message):
        try:
            return await request(self, message)
        except asyncio.CancelledError:
            self._hang_up()
            raise

    patch.setattr(asyncio_driver.Client, "request", changed)


@wrong("those_who_give_up_shift_no_reply", TRIO)
def cancelling_forgets(patch):
    """A request that is cancelled is forgotten together with its place."""
    request = TrioClient.request

    async def changed(self, message):
        try:
            return await request(self, message)
        except trio.Cancelled:
            self._session._in_flight.pop()
            raise

    patch.setattr(TrioClient, "request", changed)


# ----------------------------------------------------------------------------------------------------- dialogues


@wrong("a_notification_ends_a_sleep")
def sleeps_through_notifications(patch):
    """A Sleep is not cut short by a notification."""
    patch.setattr(SyncRunner, "_pause", lambda _self, _action, limit: time.sleep(min(limit, 20)))


@wrong("a_notification_ends_a_sleep")
def a_sleep_takes_the_notification(patch):
    """The notification that ends a Sleep is lost."""
    pause = SyncRunner._pause

    def changed(self, action, limit):
        pause(self, action, limit)
        self.client._mailbox.take()

    patch.setattr(SyncRunner, "_pause", changed)


@wrong("a_notification_just_before_a_sleep_ends_it", ASYNCIO)
def a_sleep_ignores_what_came_before(patch):
    """A notification that came just before the Sleep does not count."""

    async def changed(self, action, limit):
        await self._driver._bounded(limit, self.client._listen, Waiter())

    patch.setattr(AsyncRunner, "_pause", changed)


@wrong("the_time_of_a_dialogue_bounds_its_sleep", ASYNCIO)
def a_dialogue_has_no_time_of_its_own(patch):
    """The time of a dialogue does not bound its steps."""
    patch.setattr(AsyncRunner, "_left", lambda _self, _running, limit: 20 if limit is None else min(limit, 20))


# ------------------------------------------------------------------------------------------------------- dialling


def dialling_once(wait):
    """What makes a client, and what dials once and then waits for the guest in this way."""

    def when_ready(address, seconds):
        client = blocking.connect(address, timeout=seconds)
        wait(client)
        return client

    return blocking.connect, when_ready


@wrong("a_guest_is_dialled_again_until_it_is_there")
def dials_once(patch):
    """Dialling until the guest is ready dials once."""
    return dialling_once(blocking.Client.wait_ready)


@wrong("dialling_keeps_its_timeout")
def dials_for_any_answer(patch):
    """Dialling until the guest is ready ends at a guest that boots."""
    return dialling_once(blocking.Client.get_health)


@wrong("dialling_what_is_no_guest_ends")
def dials_what_is_no_guest(patch):
    """Dialling until the guest is ready goes on where something else answers."""

    def when_ready(address, seconds):
        deadline = time.monotonic() + min(seconds, 2)
        while True:
            try:
                return blocking.connect_when_ready(address, timeout=seconds)
            except RemoteProtocolError as exc:
                if time.monotonic() > deadline:
                    raise NotReady(str(exc)) from exc
                time.sleep(0.05)

    return blocking.connect, when_ready


@wrong("a_slow_handshake_gets_more_time_with_each_try")
def tells_no_timeout_from_a_refusal(patch):
    """A dial that had too little time does not say so, and gets no more the next time."""
    dial = blocking.Client._dial

    def changed(*arguments):
        try:
            return dial(*arguments)
        except ConnectError as exc:
            raise ConnectError(str(exc)) from None

    patch.setattr(blocking.Client, "_dial", changed)


# -------------------------------------------------------------------------------------------------------- closing


@wrong("closing_wakes_a_caller_that_waits")
def closing_wakes_no_caller(patch):
    """Callers that wait are not woken by `close`."""

    def changed(self):
        self._session.close()

    patch.setattr(blocking.Client, "close", changed)


@wrong("closing_wakes_a_reader_of_notifications", TRIO)
def closing_is_an_error_for_readers(patch):
    """Readers of notifications get an error when the client is closed."""
    patch.setattr(HostSession, "closed", False)


@wrong("closing_reaches_the_guest")
class LeavesTheConnectionOpen(Client):
    """`close` takes no more requests, and leaves the connection open."""

    closed = False

    def __exit__(self, *exc):
        KEPT.append(self.client)

    def close(self):
        self.closed = True

    def request(self, message, **options):
        if self.closed:
            raise ConnectionLost("it is closed")
        return self.client.request(message, **options)


#: Clients whose connections stay open.
KEPT = []
