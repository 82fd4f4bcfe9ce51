"""Leader and followers: what each waiter is told. All schedules are explored in `tests/explore`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import HostSession, Lifecycle, Mailbox, Ping, Pong, Step, Turns, Waiter, encode


def shared(requests, *, written=True, **options):
    """A session with `requests` calls, its turns, and a list of those that were woken."""
    session = HostSession(**options)
    turns = Turns(session, Mailbox())
    calls = session.request_many([Ping()] * requests)
    data = session.data_to_send()
    if written:
        session.data_sent(len(data))
    return session, turns, calls


def follow(turns, waiter, woken, name, *, wants_write=False):
    assert turns.step(waiter, wants_write=wants_write) is Step.FOLLOW
    waiter.context = lambda: woken.append(name)


@given(st.permutations(range(4)), st.sets(st.integers(0, 3)))
def test_the_lead_goes_to_the_first_that_is_not_done(order, done):
    session, turns, calls = shared(5)
    leader, *followers = calls
    woken = []
    assert turns.step(leader, wants_write=False) is Step.READ
    for number in order:
        follow(turns, followers[number], woken, number)
    for number in done:
        # Its outcome is there, and it has not entered its lock region yet.
        session.cancel(followers[number])
    turns.leave(leader)
    assert turns.idle
    left = [number for number in order if number not in done]
    assert woken == left[:1]
    # The one that was woken leaves instead of leading: it hands over, although it never led.
    for number in left:
        assert woken[-1] == number
        turns.leave(followers[number])
    assert woken == left


def test_one_reads_and_the_others_follow():
    _, turns, (one, two) = shared(2)
    assert turns.idle
    assert turns.step(one, wants_write=False) is Step.READ
    assert turns.step(two, wants_write=False) is Step.FOLLOW
    assert turns.step(one, wants_write=True) is Step.READ_WRITE
    assert not turns.idle


def test_a_new_caller_may_be_faster_than_the_one_that_was_woken():
    _, turns, (one, two, three) = shared(3)
    woken = []
    turns.step(one, wants_write=False)
    follow(turns, two, woken, "two")
    turns.leave(one)
    assert woken == ["two"]
    assert turns.step(three, wants_write=False) is Step.READ
    follow(turns, two, woken, "two")
    turns.leave(three)
    assert woken == ["two", "two"]
    assert turns.step(two, wants_write=False) is Step.READ


def test_a_done_waiter_is_told_so_and_leaves_twice():
    session, turns, (call,) = shared(1)
    assert turns.step(call, wants_write=False) is Step.READ
    session.receive_data(encode(Pong()))
    turns.pump(call)
    assert turns.step(call, wants_write=False) is Step.DONE
    assert not turns.idle
    call.context = print
    turns.leave(call)
    turns.leave(call)
    assert turns.idle
    assert call.context is None


def test_the_writer():
    session, turns, (leader,) = shared(1)
    woken = []
    assert turns.step(leader, wants_write=False) is Step.READ
    one, two = session.request_many([Ping()] * 2)
    line = session.data_to_send()
    assert turns.step(one, wants_write=True) is Step.WRITE
    assert turns.step(one, wants_write=True) is Step.WRITE
    follow(turns, two, woken, "two", wants_write=True)
    session.data_sent(len(line) // 2)
    # Its own line is written, and the other's is not.
    follow(turns, one, woken, "one", wants_write=True)
    assert woken == ["two"]
    assert turns.step(two, wants_write=True) is Step.WRITE
    turns.leave(leader)
    assert woken == ["two", "one"]
    assert not turns.idle


def test_a_writer_that_leaves_hands_over():
    session, turns, (leader,) = shared(1)
    woken = []
    turns.step(leader, wants_write=False)
    one, two = session.request_many([Ping()] * 2)
    session.data_to_send()
    assert turns.step(one, wants_write=True) is Step.WRITE
    follow(turns, two, woken, "two", wants_write=True)
    turns.leave(one)
    assert "two" in woken


def test_one_that_leaves_wakes_a_writer():
    session, turns, (leader, leaving) = shared(2)
    woken = []
    turns.step(leader, wants_write=False)
    follow(turns, leaving, woken, "leaving")
    one = session.request(Ping())
    # The stream took the line while it stepped, and its next caller's did not fit.
    follow(turns, one, woken, "one")
    assert session.wants_write
    turns.leave(leaving)
    assert woken == ["one"]


@pytest.mark.parametrize("done", [False, True])
def test_the_writer_is_woken_to_read_when_nobody_else_is_left(done):
    """It waited for room that a guest which writes before it reads never made, and no one read."""
    session, turns, (leader, writer, follower) = shared(3, written=False)
    woken = []
    assert turns.step(leader, wants_write=True) is Step.READ_WRITE
    assert turns.step(writer, wants_write=True) is Step.WRITE
    writer.context = lambda: woken.append("writer")
    follow(turns, follower, woken, "follower", wants_write=True)
    if done:
        session.cancel(follower)
    turns.leave(leader)
    assert woken == ["writer" if done else "follower"]
    turns.leave(follower)
    assert woken[-1] == "writer"
    assert turns.step(writer, wants_write=True) is Step.READ_WRITE


def test_the_writer_may_become_the_leader():
    session, turns, (leader,) = shared(1)
    turns.step(leader, wants_write=False)
    one = session.request(Ping())
    session.data_to_send()
    assert turns.step(one, wants_write=True) is Step.WRITE
    turns.leave(leader)
    assert turns.step(one, wants_write=True) is Step.READ_WRITE
    two = session.request(Ping())
    assert turns.step(two, wants_write=True) is Step.WRITE


def test_one_that_listens_does_not_write():
    session, turns, (leader,) = shared(1)
    turns.step(leader, wants_write=False)
    waiter = Waiter()
    session.request(Ping())
    assert turns.step(waiter, wants_write=True) is Step.FOLLOW


def test_a_waiter_that_comes_after_the_end_is_done():
    session, turns, _ = shared(1, written=False)
    session.close()
    turns.pump()
    late = Waiter()
    assert turns.step(late, wants_write=False) is Step.DONE
    turns.leave(late)


@pytest.mark.parametrize("settle", [HostSession.close, lambda session: session.write_failed(OSError("broken"))])
@pytest.mark.parametrize(
    "act", [lambda turns, one: turns.leave(one), lambda turns, one: turns.step(one, wants_write=False)]
)
def test_whoever_was_settled_without_the_guest_is_woken(settle, act):
    session, turns, (one, two, three) = shared(3, written=False)
    woken = []
    turns.step(one, wants_write=False)
    follow(turns, two, woken, "two")
    follow(turns, three, woken, "three")
    settle(session)
    act(turns, one)
    assert woken == ["two", "three"]


def test_a_child_that_was_forked_knows_no_waiters():
    _, turns, (one, two) = shared(2)
    woken = []
    turns.step(one, wants_write=False)
    follow(turns, two, woken, "two")
    turns.forget()
    assert turns.idle
    # A waiter of the child's own.
    waiter = Waiter()
    assert turns.step(waiter, wants_write=False) is Step.READ
    turns.leave(waiter)
    assert woken == []


def test_all_are_woken_after_an_exception():
    session = HostSession()
    turns = Turns(session, Mailbox())
    woken = []
    first, second = session.request_many([Ping(), Ping()])
    listener = Waiter(context=lambda: woken.append("listener"))
    turns.mailbox.listen(listener)
    assert turns.step(first, wants_write=False) is Step.READ
    assert turns.step(second, wants_write=False) is Step.FOLLOW
    second.context = lambda: woken.append("follower")
    turns.wake_all()
    assert woken == ["follower", "listener"]


def steps(turns, waiter):
    turns.step(waiter, wants_write=False)


@pytest.mark.parametrize("do", [steps, Turns.leave])
def test_the_end_is_told_to_those_that_listen(do):
    """Also where no call is left to be told: the last one was given up, and that has ended the session."""
    session, turns, (call,) = shared(1)
    listener = Waiter()
    turns.mailbox.listen(listener)
    session.write_failed(OSError("gone"))
    session.cancel(call)
    assert session.ended is not None
    assert not session._events
    do(turns, call)
    assert listener.done


@pytest.mark.parametrize("do", [steps, Turns.leave])
def test_callers_whose_calls_settled_without_the_guest_are_woken(do):
    """And what the guest has sent meanwhile is left to the caller that works through it."""
    session, turns, (leader,) = shared(1)
    woken = []
    turns.step(leader, wants_write=False)
    late = session.request(Ping(), deadline=5.0)
    follow(turns, late, woken, "late")
    session.expire(5.0)
    session.receive_data(encode(Lifecycle("booting")) * 100)
    do(turns, leader)
    assert woken == ["late"]
    assert turns.mailbox.heard == 0
