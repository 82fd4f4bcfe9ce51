"""Notifications that are kept for a reader, and the pump."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import (
    HostSession,
    Lifecycle,
    Mailbox,
    Notification,
    Ping,
    Pong,
    Pump,
    UnknownMessage,
    Waiter,
    _mailbox,
    encode,
)
from stereos_proto._constants import MAX_LINE_SIZE
from stereos_proto._mailbox import MAX_NOTIFICATIONS, wake

BOOTING = Lifecycle("booting")


@given(st.integers(0, 4), st.lists(st.sampled_from(["put", "big", "take"]), max_size=30))
def test_it_is_a_bounded_queue_that_drops_the_oldest(limit, operations):
    # A model of a few lines: what is kept is the newest that fits, in order, and nothing is lost uncounted.
    sizes = {}
    mailbox, kept, taken = Mailbox(limit), deque(), 0
    for number, operation in enumerate(operations):
        if operation == "take":
            expected = kept.popleft() if kept else None
            taken += expected is not None
            assert mailbox.take() is expected
            continue
        message = UnknownMessage(str(number), "x" * (MAX_LINE_SIZE // 2 if operation == "big" else 1))
        sizes[message.type] = len(encode(message))
        mailbox.put(message)
        kept.append(message)
        while len(kept) > limit or sum(sizes[one.type] for one in kept) > MAX_LINE_SIZE:
            kept.popleft()
        assert mailbox.heard == len(sizes)
        assert mailbox.dropped == len(sizes) - taken - len(kept)
    assert [mailbox.take() for _ in kept] == list(kept)
    assert mailbox.take() is None


def test_how_many_are_kept_by_default():
    mailbox = Mailbox()
    for _ in range(MAX_NOTIFICATIONS + 5):
        mailbox.put(BOOTING)
    assert (mailbox.heard, mailbox.dropped) == (MAX_NOTIFICATIONS + 5, 5)


def test_what_cannot_be_written_again_counts_as_the_longest_line():
    mailbox = Mailbox()
    odd = UnknownMessage("x", object())
    mailbox.put(odd)
    mailbox.put(BOOTING)
    assert (mailbox.take(), mailbox.dropped) == (BOOTING, 1)


def test_none_kept_is_fewer_than_none():
    with pytest.raises(ValueError, match=r"^max_notifications must be at least 0$"):
        Mailbox(-1)


def test_those_who_listen_are_woken_until_they_are_ignored():
    mailbox, woken = Mailbox(), []
    one, two = Waiter(context=lambda: woken.append(1)), Waiter(done=True)
    mailbox.listen(one)
    mailbox.listen(two)
    assert (one.done, two.done) == (False, False)
    mailbox.put(BOOTING)
    assert (one.done, two.done, woken) == (True, True, [1])
    mailbox.ignore(one)
    mailbox.ignore(one)
    mailbox.wake_all()
    assert woken == [1]


@pytest.mark.parametrize(("after", "done"), [(None, False), (0, True), (1, False)])
def test_a_notification_since_then_counts(after, done):
    mailbox, waiter = Mailbox(), Waiter()
    mailbox.put(BOOTING)
    mailbox.listen(waiter, after=after)
    assert waiter.done is done


def test_an_interrupt_while_waking_leaves_the_others_to_the_next_time():
    mailbox, woken = Mailbox(), []

    def interrupted():
        if not woken:
            woken.append("interrupted")
            raise KeyboardInterrupt

    for waiter in (Waiter(context=interrupted), Waiter(context=lambda: woken.append("woken"))):
        mailbox.listen(waiter)
    with pytest.raises(KeyboardInterrupt):
        mailbox.put(BOOTING)
    mailbox.wake_all()
    assert woken == ["interrupted", "woken"]


def test_waking_without_a_way_to():
    wake(Waiter())
    assert repr(Waiter(context=print)) == "Waiter(done=False)"


# The pump


def pumped(*said, requests=0):
    session = HostSession()
    calls = session.request_many([Ping()] * requests)
    session.data_sent(len(session.data_to_send()))
    session.receive_data(b"".join(map(encode, said)))
    return session, calls, Pump(session, Mailbox())


@given(st.lists(st.sampled_from([Pong(), BOOTING, UnknownMessage("x", [1])]), max_size=20), st.integers(0, 25))
def test_everything_goes_where_it_belongs(said, limit):
    replies = [one for one in said if isinstance(one, Pong)]
    _, calls, pump = pumped(*said, requests=len(replies) + 1)
    woken = []
    for number, call in enumerate(calls[::2]):
        call.context = lambda number=number: woken.append(number)
    assert pump.pump(limit=limit) is (limit <= len(said))
    assert pump.mailbox.heard == sum(isinstance(one, Notification) for one in said[:limit])
    assert pump.pump() is False
    assert pump.mailbox.heard == len(said) - len(replies)
    assert [call.done for call in calls] == [True] * len(replies) + [False]
    assert woken == list(range((len(replies) + 1) // 2))
    assert list(iter(pump.mailbox.take, None)) == [one for one in said if not isinstance(one, Pong)]


def test_it_stops_when_the_waiter_is_done():
    _, (first, second), pump = pumped(Pong(), BOOTING, Pong(), requests=2)
    assert pump.pump(first) is True
    assert (first.done, second.done, pump.mailbox.heard) == (True, False, 0)
    assert pump.pump(first) is True
    assert pump.mailbox.heard == 0
    assert pump.pump(second) is False
    assert second.done


def test_it_stops_at_a_notification_that_was_waited_for():
    _, (call,), pump = pumped(BOOTING, Pong(), requests=1)
    waiter = Waiter()
    pump.mailbox.listen(waiter)
    assert pump.pump(waiter) is True
    assert waiter.done
    assert not call.done


@pytest.mark.parametrize("end", [HostSession.receive_eof, HostSession.close, HostSession.abort])
def test_at_the_end_it_wakes_all_before_it_stops(end):
    # The callers of the other calls sleep, and after the end no one else would pull for them.
    session, calls, pump = pumped(requests=3)
    woken = []
    for number, call in enumerate(calls):
        call.context = lambda number=number: woken.append(number)
    waiter = Waiter(context=lambda: woken.append("listener"))
    pump.mailbox.listen(waiter)
    end(session)
    assert pump.pump(calls[0]) is False
    assert woken == [0, 1, 2, "listener"]
    assert waiter.done
    assert not session.owes_events


def test_the_bounds_are_those_of_a_line():
    assert _mailbox.MAX_NOTIFICATION_BYTES == MAX_LINE_SIZE
    assert MAX_NOTIFICATIONS == 1024


@pytest.mark.parametrize("more", [0, 1])
def test_as_much_as_one_line_may_have_is_kept(more):
    mailbox = Mailbox()
    size = len(encode(Lifecycle("ready"))) + len(encode(Lifecycle("ready", "x"))) - 1
    mailbox.put(Lifecycle("ready"))
    mailbox.put(Lifecycle("ready", "x" * (MAX_LINE_SIZE - size + more)))
    assert mailbox.dropped == more


def test_what_is_dropped_is_logged():
    log = []
    mailbox = Mailbox(1, log=lambda text, *args: log.append(text % args))
    for _ in range(3):
        mailbox.put(Lifecycle("ready"))
    assert log == [
        f"dropped the oldest notification, {count} in all, as more were waiting than are kept" for count in (1, 2)
    ]


def test_waiters_are_told_apart():
    """Turns keep them as the keys of a dictionary."""
    assert len({Waiter(), Waiter()}) == 2
    assert Waiter() != Waiter()
    assert repr(Waiter(context=print)) == "Waiter(done=False)"
