"""A client without IO: sessions one after another, dialogues, timers."""

import copy
import pickle
import time
from math import inf, nan

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interrupts import traceback_sizes
from stereos_proto import (
    NEED_DATA,
    Ack,
    CallDone,
    ConnectError,
    ConnectionLost,
    DialWanted,
    GetHealth,
    Health,
    HostClient,
    InjectSSHKey,
    Lifecycle,
    LocalProtocolError,
    Mount,
    NotificationReceived,
    NotReady,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    RequestTimeout,
    Role,
    SessionEnded,
    SetConfig,
    Shutdown,
    StepStatus,
    StereosError,
    TaskDone,
    encode,
)
from stereos_proto.dialogues import Backoff, Connect, Send, SendMany, Sleep, TimeUp

BROKEN = OSError(104, "Connection reset by peer")
NOBODY = ConnectError("nobody listens at vm.sock")
LATE = ConnectError("no answer in time", timed_out=True)
MOUNT = Mount("a", "/b", "9p")
ANSWERS = {"ping": Pong(), "get_health": Health("ready"), "mount": Ack("mount", True)}


class Loop:
    """A loop with a guest that does what it is told, and a clock that is turned by hand."""

    def __init__(self, **options):
        self.now = 100.0
        self.client = HostClient(clock=lambda: self.now, **options)
        self.events = []
        self.dial = None
        self.asked = []

    def pull(self):
        """Pull, write, and pull again, until nothing more happens. Returns the events."""
        fresh = []
        while True:
            events = list(self.client.events())
            for event in events:
                if isinstance(event, DialWanted):
                    assert self.dial is None, "a dial is wanted while another goes on"
                    assert not self.client.is_connected
                    self.dial = event
                    self.asked.clear()
            fresh += events
            if not self.client.is_connected:
                break
            data = bytes(self.client.session.data_to_send())
            self.client.session.data_sent(len(data))
            self.asked += data.splitlines(keepends=True)
            if not (data or events):
                break
        self.events += fresh
        return fresh

    def connect(self, early=b""):
        self.dial = None
        self.client.connected(early)
        return self.pull()

    def fail(self, error=NOBODY):
        self.dial = None
        self.client.dial_failed(error)
        return self.pull()

    def hear(self, *messages):
        self.client.session.receive_data(b"".join(map(encode, messages)))
        return self.pull()

    def wait(self, seconds):
        self.now += seconds
        self.client.expire()
        return self.pull()

    def lose(self):
        self.client.session.read_failed(BROKEN)
        return self.pull()


def connected(**options):
    loop = Loop(**options)
    task = loop.client.connect()
    assert loop.pull() == [DialWanted(110.0)]
    assert loop.connect() == [TaskDone(task)]
    assert task.result() is None
    loop.events.clear()
    return loop


def dialogue(*actions, result="over"):
    """Yields `actions`, and returns what came of them."""
    came = []
    for action in actions:
        try:
            came.append((yield action))
        except StereosError as exc:
            came.append(exc)
    return came


# Requests


def test_a_request_dials_and_waits_for_the_connection():
    loop = Loop()
    call = loop.client.request(Ping(), context="mine")
    assert loop.pull() == [DialWanted(None)]
    assert loop.client.next_deadline() is None
    assert loop.connect() == []
    assert loop.asked == [encode(Ping())]
    assert loop.hear(Lifecycle("ready"), Pong()) == [NotificationReceived(Lifecycle("ready")), CallDone(call)]
    assert call.result() == Pong()
    # A second one finds it there.
    loop.client.request(Ping())
    assert loop.pull() == []


def test_what_came_with_the_preamble():
    loop = Loop()
    loop.client.request(Ping())
    loop.pull()
    assert loop.connect(encode(Lifecycle("booting"))) == [NotificationReceived(Lifecycle("booting"))]


def test_requests_that_wait_for_a_connection_that_cannot_be_made():
    loop = Loop()
    call = loop.client.request(Ping())
    loop.pull()
    assert loop.fail() == [CallDone(call), SessionEnded(NOBODY)]
    assert str(call.outcome) == "ping was not sent: nobody listens at vm.sock"
    with pytest.raises(ConnectionLost):
        loop.client.request(Ping())
    task = loop.client.connect()
    assert loop.pull() == [DialWanted(110.0)]
    assert loop.connect() == [TaskDone(task)]
    loop.client.request(Ping())


def test_several_requests_dial_and_go_out_in_one_flight():
    loop = Loop()
    calls = loop.client.request_many([Ping(), GetHealth()])
    assert loop.pull() == [DialWanted(None)]
    loop.connect()
    assert loop.hear(Pong(), Health("ready")) == [CallDone(call) for call in calls]


def test_a_request_waits_for_as_long_as_a_dialogue_dials():
    loop = Loop()
    call = loop.client.request(Ping())
    loop.client.wait_ready()
    loop.pull()
    loop.fail()
    assert not call.done
    loop.wait(loop.client.next_deadline() - loop.now)
    loop.connect()
    assert loop.hear(Pong(), Health("ready"))[0] == CallDone(call)


def test_a_timeout_is_seconds_from_now():
    loop = connected()
    call = loop.client.request(Ping(), timeout=2)
    assert loop.client.next_deadline() == 102.0
    assert loop.wait(1.5) == []
    assert loop.wait(0.5) == [CallDone(call)]
    with pytest.raises(RequestTimeout):
        call.result()


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_request_whose_time_is_over_is_not_sent(timeout):
    loop = connected()
    call = loop.client.request(Mount("a", "/a", "9p"), timeout=timeout)
    assert (call.outcome.sent, call.sent) == (False, False)
    assert loop.pull() == [CallDone(call)]
    assert loop.asked == []


def test_a_connection_that_is_lost_is_not_made_again_by_itself():
    loop = connected()
    call = loop.client.request(Mount("a", "/a", "9p"))
    loop.pull()
    done, ended = loop.lose()
    assert (done, type(ended)) == (CallDone(call), SessionEnded)
    assert type(call.outcome) is OutcomeUnknown
    assert not loop.client.is_connected
    with pytest.raises(ConnectionLost):
        loop.client.request(Ping())
    assert loop.pull() == []
    assert loop.client.next_deadline() is None


def test_cancel_a_call():
    loop = connected()
    call = loop.client.request(Ping())
    loop.client.cancel(call)
    assert isinstance(call.outcome, RequestTimeout)
    assert loop.pull() == []


# Dialogues


def test_a_dialogue_and_what_comes_of_its_actions():
    loop = connected()
    settled = []
    many = SendMany((Ping(), GetHealth()), lambda index, outcome: settled.append((index, outcome)))
    task = loop.client.run(
        dialogue(Send(Ping()), Send(Ping(), 3), many, SendMany((), print), Sleep(2), Connect(5)), context="mine"
    )
    assert (task.done, task.context) == (False, "mine")
    with pytest.raises(RuntimeError, match=r"^the dialogue is not over yet$"):
        task.result()
    assert loop.client.next_deadline() == loop.now
    loop.pull()
    assert loop.asked == [encode(Ping())]
    loop.hear(Pong())
    assert loop.client.next_deadline() == 103.0
    assert loop.wait(3) == []  # times out, and the dialogue goes on
    assert len(loop.asked) == 4
    loop.hear(Pong(), Pong(), Health("ready"))
    assert settled == [(0, Pong()), (1, Health("ready"))]
    assert loop.client.next_deadline() == 105.0
    ended, wanted = loop.wait(2)
    assert (type(ended), wanted) == (SessionEnded, DialWanted(110.0))
    assert loop.fail()[0] == TaskDone(task)
    pong, late, both, none, slept, failed = task.result()
    assert (pong, type(late), both, none, slept) == (Pong(), RequestTimeout, [Pong(), Health("ready")], [], None)
    assert type(failed) is ConnectError
    assert failed is not NOBODY


def test_the_first_probe_dials():
    loop = Loop()
    task = loop.client.run(dialogue(Send(Ping())))
    assert loop.pull() == [DialWanted(None)]
    loop.connect()
    assert loop.hear(Pong()) == [TaskDone(task)]


def test_what_cannot_be_sent_is_thrown_into_the_dialogue():
    loop = connected()
    task = loop.client.run(dialogue(Send(Mount(1, "", ""))))
    assert loop.pull() == [TaskDone(task)]
    assert isinstance(task.result()[0], LocalProtocolError)


def test_a_notification_ends_a_sleep():
    loop = connected()
    task = loop.client.run(dialogue(Sleep(10)))
    loop.pull()
    assert loop.client.next_deadline() == 110.0
    assert loop.hear(Lifecycle("ready")) == [NotificationReceived(Lifecycle("ready"))]
    assert loop.client.next_deadline() == 100.0
    assert loop.wait(0) == [TaskDone(task)]
    # The timer of the sleep is void.
    assert loop.client.next_deadline() is None


def test_a_second_notification_does_not_end_a_sleep_again():
    loop = connected()
    task = loop.client.run(dialogue(Sleep(10, least=3)))
    loop.pull()
    loop.hear(Lifecycle("booting"))
    assert loop.client.next_deadline() == 103.0
    assert loop.wait(1) == []
    loop.hear(Lifecycle("ready"))
    assert loop.client.next_deadline() == 103.0
    assert loop.wait(2) == [TaskDone(task)]
    assert loop.client.next_deadline() is None


def test_the_timer_of_a_sleep_that_ended_early_is_void():
    loop = connected()
    task = loop.client.run(dialogue(Sleep(1), Sleep(50)))
    loop.pull()
    loop.hear(Lifecycle("ready"))
    loop.wait(5)
    assert not task.done
    assert loop.client.next_deadline() == 155.0


def test_a_notification_since_the_last_request_ends_the_sleep_after_it():
    loop = connected()
    task = loop.client.run(dialogue(Send(Ping()), Sleep(10)))
    loop.pull()
    events = loop.hear(Lifecycle("booting"), Lifecycle("ready"), Pong())
    assert events[-1] == TaskDone(task)


def test_a_notification_before_the_request_does_not():
    loop = connected()
    loop.hear(Lifecycle("booting"))
    task = loop.client.run(dialogue(Send(Ping()), Sleep(10)))
    loop.pull()
    loop.hear(Pong())
    assert not task.done
    assert loop.client.next_deadline() == 110.0


def test_a_notification_ends_one_sleep():
    loop = connected()
    task = loop.client.run(dialogue(Send(Ping()), Sleep(10), Sleep(10)))
    loop.pull()
    loop.hear(Lifecycle("booting"), Pong())
    assert not task.done
    assert loop.client.next_deadline() == 110.0


def test_a_sleep_until_a_notification():
    loop = connected()
    task = loop.client.run(dialogue(Sleep(None)))
    loop.pull()
    assert loop.client.next_deadline() is None
    loop.hear(Lifecycle("ready"))
    assert loop.wait(0) == [TaskDone(task)]


def test_it_does_not_dial_without_a_pause_because_of_an_old_notification():
    loop = Loop()
    loop.client.wait_ready(timeout=60)
    loop.pull()
    loop.connect()
    loop.hear(Lifecycle("booting"))
    loop.lose()
    tries = 0
    while loop.now < 101.0:
        if loop.dial:
            tries += 1
            loop.fail()
        else:
            loop.wait(loop.client.next_deadline() - loop.now)
        assert tries < 20


def test_a_dial_for_a_request_of_a_dialogue_that_fails():
    # The dialogue waits for the reply, and nothing else would dial again.
    loop = Loop()
    task = loop.client.run(dialogue(Send(Ping())))
    loop.pull()
    events = loop.fail()
    assert TaskDone(task) in events
    assert "nobody listens" in str(task.result()[0])


def test_the_calls_of_a_dialogue_are_its_own_whatever_ends_it():
    loop = connected()
    task = loop.client.run(dialogue(Send(Ping())))
    loop.pull()
    loop.client.session.close()
    loop.client.cancel(task)
    assert loop.pull() == [SessionEnded(loop.client.session.ended)]


def test_two_that_dial_share_one_dial():
    loop = Loop()
    one, two = loop.client.run(dialogue(Connect(5))), loop.client.run(dialogue(Connect(7)))
    (wanted,) = loop.pull()
    assert wanted.deadline in (105.0, 107.0)
    three = loop.client.run(dialogue(Connect(9)))
    assert loop.pull() == []
    assert loop.connect() == [TaskDone(one), TaskDone(two), TaskDone(three)]
    assert loop.client.is_connected


@pytest.mark.parametrize("begin", ["request", "connect", "connect, not told"])
def test_one_that_joins_a_longer_dial_keeps_its_own_deadline(begin):
    loop = Loop()
    if begin == "request":
        loop.client.request(Ping())
    else:
        loop.client.connect(timeout=50)
    if "not told" not in begin:
        loop.pull()
    task = loop.client.connect(timeout=2)
    loop.pull()
    assert loop.dial.deadline in (None, 150.0)
    assert loop.client.next_deadline() == 102.0
    assert loop.wait(2) == [TaskDone(task)]
    assert task.error.timed_out
    assert str(task.error) == "no connection to the guest was made in time"
    # The dial goes on for the other.
    assert loop.dial is not None
    assert not loop.client.session.ended


@pytest.mark.parametrize("first", ["request", "wait"])
def test_a_request_does_not_prolong_the_dials_of_a_wait(first):
    """A try of the wait has its own limit, so that the next one can be made before the wait is over."""
    loop = Loop()
    call = loop.client.request(Ping()) if first == "request" else None
    loop.client.wait_ready(timeout=4)
    call = call or loop.client.request(Ping())
    assert loop.pull() == [DialWanted(101.0)]
    loop.now += 1
    assert loop.fail(LATE) == [], "it tries again after a pause"
    assert loop.wait(1) == [DialWanted(104.0)]
    loop.connect()
    assert call in loop.client.session.pending


def test_a_request_keeps_the_pause_between_two_tries_of_a_wait():
    """A program that asks now and then would otherwise dial each time, whatever the backoff says."""
    loop = Loop()
    task = loop.client.wait_ready(timeout=60, backoff=Backoff(first=8, maximum=8))
    loop.pull()
    assert loop.fail() == []
    calls = [loop.client.request(Ping()), *loop.client.request_many([GetHealth(), MOUNT])]
    late = loop.client.request(Ping(), timeout=3)
    running = loop.client.run(dialogue(Send(Ping())))
    assert loop.pull() == []
    assert loop.wait(4) == [CallDone(late)]
    assert [type(event) for event in loop.wait(4)] == [DialWanted]
    loop.connect()
    assert {*calls} < {*loop.client.session.pending}
    assert not running.done
    assert not task.done


def test_requests_in_a_pause_fail_when_the_wait_gives_up():
    loop = Loop()
    task = loop.client.wait_ready()
    loop.pull()
    loop.fail()
    call = loop.client.request(Ping())
    loop.client.cancel(task)
    assert loop.pull() == [CallDone(call), SessionEnded(NOBODY)]
    assert call.outcome.__cause__ is NOBODY


def test_a_request_outlives_a_dial_that_a_dialogue_has_cut_short():
    """It gets a dial of its own, and only one."""
    loop = Loop()
    task = loop.client.connect(timeout=2)
    call = loop.client.request(Ping())
    assert loop.pull() == [DialWanted(102.0)]
    loop.now += 2
    assert loop.fail(LATE) == [TaskDone(task), DialWanted(None)]
    assert task.error.timed_out
    assert loop.fail(LATE) == [CallDone(call), SessionEnded(LATE)]


def test_a_dial_that_was_cut_short_is_not_repeated_for_nobody():
    loop = Loop()
    task = loop.client.connect(timeout=2)
    call = loop.client.request(Ping())
    loop.pull()
    loop.client.cancel(call)
    loop.now += 2
    assert loop.fail(LATE) == [TaskDone(task), SessionEnded(LATE)]


def test_a_request_after_a_failed_dial_wants_another_for_all():
    loop = Loop()
    loop.client.request(Ping())
    loop.pull()
    loop.dial = None
    loop.client.dial_failed(NOBODY)
    loop.client.request(GetHealth())
    assert loop.pull() == [DialWanted(None)]
    assert len(loop.client.session.pending) == 2


def test_the_deadline_of_a_dial_that_is_made_is_void():
    """Also where the loop lets it expire before it pulls."""
    loop = Loop()
    task = loop.client.run(dialogue(Connect(2), Sleep(10)))
    loop.pull()
    loop.dial = None
    loop.client.connected()
    loop.now += 5
    loop.client.expire()
    loop.pull()
    assert not task.done
    assert loop.client.next_deadline() == loop.now + 10


def test_one_that_waits_for_a_dial_no_more_is_not_resumed_by_it():
    loop = Loop()
    loop.client.request(Ping())
    loop.pull()
    task = loop.client.run(dialogue(Connect(2), Sleep(10)))
    loop.pull()
    loop.wait(2)
    loop.connect()
    assert not task.done
    loop.wait(10)
    assert task.done


def test_the_deadline_of_its_own_dial_is_told_by_the_dial():
    loop = Loop()
    task = loop.client.connect(timeout=2)
    loop.pull()
    assert loop.wait(2) == []
    assert loop.client.next_deadline() == 103.0
    assert loop.fail()[0] == TaskDone(task)
    assert str(task.error) == str(NOBODY)


def test_a_dial_that_the_loop_does_not_end_keeps_no_task_for_ever():
    loop = Loop()
    task = loop.client.wait_ready(timeout=10)
    assert loop.pull() == [DialWanted(101.0)]
    # A loop that calls `expire` at `next_deadline`, and knows nothing more to do.
    while not task.done:
        loop.wait(loop.client.next_deadline() - loop.now)
        assert loop.now <= 112
    with pytest.raises(NotReady, match="10 s have passed"):
        task.result()
    assert [event for event in loop.events if isinstance(event, DialWanted)] == [DialWanted(101.0)]


def test_a_connection_after_the_client_was_closed_is_none():
    loop = Loop()
    loop.client.connect()
    loop.pull()
    loop.client.close()
    loop.connect(b"{}")
    assert not loop.client.is_connected
    assert loop.client.next_event() is NEED_DATA


def test_the_whole_time_of_a_dialogue():
    loop = connected()
    task = loop.client.run(dialogue(Send(Ping()), Send(Ping())), timeout=2)
    loop.pull()
    assert loop.client.next_deadline() == 102.0
    # What came of it is thrown in: the first times out, the second is not begun.
    assert loop.wait(2) == [TaskDone(task)]
    late, over = task.result()
    assert (type(late), type(over), late.request) == (TimeUp, TimeUp, Ping())
    assert len(loop.asked) == 1


def test_what_a_dialogue_raises_is_its_error():
    def broken():
        yield Sleep(0)
        raise KeyError("bug")

    loop = connected()
    task = loop.client.run(broken())
    loop.pull()
    assert loop.wait(0) == [TaskDone(task)]
    with pytest.raises(KeyError):
        task.result()


def test_an_interrupt_in_a_dialogue_comes_out():
    def interrupted():
        raise KeyboardInterrupt
        yield

    loop = connected()
    task = loop.client.run(interrupted())
    with pytest.raises(KeyboardInterrupt):
        loop.client.next_event()
    assert task.done
    assert loop.pull() == [TaskDone(task)]


@pytest.mark.parametrize("error", [KeyError("bug"), KeyboardInterrupt()])
def test_a_callback_that_raises_ends_its_dialogue_and_no_other(error):
    def report(index, outcome):
        raise error

    loop = connected()
    task = loop.client.run(dialogue(SendMany((Ping(), Ping()), report)))
    other = loop.client.run(dialogue(Send(GetHealth())))
    loop.pull()
    loop.client.session.receive_data(encode(Pong()) * 2 + encode(Health("ready")))
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            loop.pull()
    loop.pull()
    assert task.error is error
    assert other.result() == [Health("ready")]


@pytest.mark.parametrize("end", [lambda client, task: client.cancel(task), lambda client, _task: client.close()])
def test_a_dialogue_that_yields_as_it_is_closed_keeps_no_other_from_ending(end):
    def stubborn():
        try:
            yield Send(Ping())
        finally:
            yield Send(Ping())

    loop = connected()
    one, two = loop.client.run(stubborn()), loop.client.run(dialogue(Send(Ping())))
    loop.pull()
    end(loop.client, one)
    loop.client.close()
    assert TaskDone(two) in loop.pull()
    assert one.done
    assert loop.events.count(TaskDone(one)) == (one.error.args[0] != "the dialogue was cancelled")


def test_a_dialogue_that_yields_no_action():
    loop = connected()
    task = loop.client.run(dialogue("ping"))
    assert loop.pull() == [TaskDone(task)]
    with pytest.raises(TypeError, match="a dialogue must yield actions, not a str"):
        task.result()


@pytest.mark.parametrize(
    "verb",
    [
        lambda client, timeout: client.request(Ping(), timeout=timeout),
        lambda client, timeout: client.request_many([Ping()], timeout=timeout),
        lambda client, timeout: client.connect(timeout=timeout),
        lambda client, timeout: client.wait_ready(timeout=timeout),
        lambda client, timeout: client.provision(ProvisionPlan(), timeout=timeout),
        lambda client, timeout: client.shutdown(timeout=timeout),
        lambda client, timeout: client.run(dialogue(), timeout=timeout),
    ],
)
def test_timeouts_mean_what_they_mean_everywhere(verb):
    loop = connected()
    with pytest.raises(ValueError, match="NaN"):
        verb(loop.client, nan)
    with pytest.raises(TypeError, match="a number of seconds"):
        verb(loop.client, "1")
    assert loop.pull() == []
    verb(loop.client, 10**400)
    assert loop.client.next_deadline() in (None, loop.now)


def test_a_dialogue_may_cancel_itself():
    loop = connected()

    def own():
        loop.client.cancel(task)
        try:
            yield Sleep(1)
        finally:
            closed.append(True)

    closed = []
    task = loop.client.run(own())
    assert loop.pull() == []
    assert closed == [True]
    assert task.done
    assert loop.client.next_deadline() is None


def test_cancel_a_task():
    loop = connected()
    task = loop.client.run(dialogue(Send(Ping()), Send(GetHealth())))
    unbegun = loop.client.run(dialogue(Send(Ping())))
    loop.client.cancel(unbegun)
    loop.pull()
    loop.client.cancel(task)
    loop.client.cancel(task)
    assert loop.client.session.pending == ()
    assert loop.hear(Pong()) == []
    for one in (task, unbegun):
        with pytest.raises(ConnectionLost, match=r"^the dialogue was cancelled$"):
            one.result()
    assert loop.client.next_deadline() is None


def test_cancel_one_that_dials():
    loop = Loop()
    task, other = loop.client.connect(), loop.client.connect()
    loop.pull()
    loop.client.cancel(task)
    assert loop.connect() == [TaskDone(other)]


def test_close_ends_everything():
    loop = connected()
    call = loop.client.request(Ping())
    tasks = [loop.client.run(dialogue(action)) for action in (Send(Ping()), Sleep(9), Connect(3))]
    loop.client.close()
    loop.client.close()
    events = loop.pull()
    assert {event.task for event in events if isinstance(event, TaskDone)} == set(tasks)
    assert CallDone(call) in events
    assert sum(isinstance(event, SessionEnded) for event in events) == 1
    assert loop.client.next_deadline() is None
    for task in tasks:
        with pytest.raises(ConnectionLost, match="was closed"):
            task.result()
    after = loop.client.run(dialogue(Connect(3), Send(Ping())))
    assert loop.pull() == [TaskDone(after)]
    assert [type(error) for error in after.result()] == [ConnectionLost, ConnectionLost]
    assert loop.client.session.closed


def test_closing_while_it_dials():
    loop = Loop()
    call = loop.client.request(Ping())
    loop.client.close()
    assert loop.pull() == [CallDone(call), SessionEnded(loop.client.session.ended)]
    assert loop.client.next_deadline() is None


# The dialogues that it knows


def test_wait_ready_dials_until_it_gets_through():
    loop = Loop()
    task = loop.client.wait_ready(timeout=60)
    (wanted,) = loop.pull()
    assert wanted.deadline == 101.0
    loop.fail()
    assert loop.wait(loop.client.next_deadline() - loop.now)[0].deadline > loop.now
    loop.connect()
    loop.lose()
    loop.wait(loop.client.next_deadline() - loop.now)
    loop.connect()
    loop.hear(Health("booting"))
    loop.wait(loop.client.next_deadline() - loop.now)
    assert loop.hear(Health("ready"))[-1] == TaskDone(task)
    assert task.result() == Health("ready")
    assert loop.client.is_connected


def test_wait_ready_on_a_connection():
    loop = connected()
    task = loop.client.wait_ready(redial=False, on_progress=lambda progress: None, agents=["a"])
    loop.pull()
    assert loop.hear(Health("shutdown"))[-1] == TaskDone(task)
    with pytest.raises(NotReady):
        task.result()


@pytest.mark.parametrize("redial", [True, False])
def test_wait_ready_begins_over_the_connection_that_is_there(redial):
    """Before, it dropped it, and what was under way over it was OutcomeUnknown."""
    loop = connected()
    mount = loop.client.request(Mount("a", "/a", "9p"))
    task = loop.client.wait_ready(redial=redial)
    loop.pull()
    assert loop.wait(4.9) == []
    assert loop.hear(Ack("mount", True), Health("ready")) == [CallDone(mount), TaskDone(task)]
    assert task.result() == Health("ready")


def test_wait_ready_drops_a_connection_that_is_silent():
    loop = connected()
    loop.client.wait_ready()
    loop.pull()
    loop.wait(5)
    ended, dial = loop.wait(loop.client.next_deadline() - loop.now)
    assert isinstance(ended, SessionEnded)
    # What comes next is a connection of its own, and a try over it is as short as the first one always is.
    assert dial == DialWanted(loop.now + 2)
    loop.connect()
    assert loop.client.next_deadline() == loop.now + 2


@pytest.mark.parametrize("answers", [[Ack("shutdown", True)], []])
def test_shutdown(answers):
    loop = connected()
    task = loop.client.shutdown("enough", timeout=5)
    loop.pull()
    events = loop.hear(*answers) if answers else loop.lose()
    assert TaskDone(task) in events
    assert task.result() == (answers[0] if answers else None)


def test_provision_over_a_connection_that_ends_between_the_flights():
    loop = connected()
    steps = []
    plan = ProvisionPlan(mounts=[Mount("a", "/a", "9p")], ssh_keys=[InjectSSHKey("u", "k")], config="c")
    task = loop.client.provision(plan, on_step=steps.append)
    loop.pull()
    loop.client.session.receive_data(encode(Ack("mount", True)) + b"oops\n")
    loop.pull()
    report = task.result()
    assert [step.status for step in report.steps] == [StepStatus.DONE, StepStatus.UNKNOWN, StepStatus.NOT_SENT]
    assert [step.request for step in steps] == [step.request for step in report.steps]
    assert report.remaining_plan() == ProvisionPlan(ssh_keys=[InjectSSHKey("u", "k")], config="c")


def test_provision():
    loop = connected()
    steps = []
    task = loop.client.provision(ProvisionPlan(mounts=[Mount("a", "/a", "9p")]), on_step=steps.append, timeout=5)
    loop.pull()
    while not task.done:
        for line in list(loop.asked):
            loop.asked.remove(line)
            type_ = line.split(b'"')[3].decode()
            loop.hear(Ack(type_, True))
    assert len(steps) == len(task.result().steps)


# Everything that a loop can do, in any order


class Everything(RuleBasedStateMachine):
    """Dials that fail and succeed, dialogues that redial, timers, losses, cancels and a close, in any order.

    When nothing can happen by itself any more, no task and no call is left; and `next_deadline` never lies: after
    `expire` at it, it is later, or None.
    """

    def __init__(self):
        super().__init__()
        self.loop = Loop(max_pending=2)
        self.client = self.loop.client
        self.tasks, self.calls, self.cancelled = [], [], set()
        self.closed = False

    def connected(self):
        return self.client.is_connected and self.client.session.ended is None

    @rule(timeout=st.sampled_from([None, 0, 1.0, 5.0]))
    def ask(self, timeout):
        try:
            self.calls.append(self.client.request(Ping(), timeout=timeout))
        except ConnectionLost:
            assert self.client.session.ended is not None

    actions = st.lists(
        st.one_of(
            st.just(Send(Ping())),
            st.just(Send(GetHealth(), 2)),
            st.just(SendMany((Ping(), Mount("a", "/a", "9p")), lambda index, outcome: None)),
            st.just(Sleep(3)),
            st.just(Connect(4)),
        ),
        max_size=4,
    )

    @rule(actions=actions, timeout=st.sampled_from([None, 0, 2.0, 8.0]))
    def run(self, actions, timeout):
        self.tasks.append(self.client.run(dialogue(*actions), timeout=timeout))

    @rule(timeout=st.sampled_from([None, 6.0]))
    def wait_ready(self, timeout):
        if timeout is not None:
            self.tasks.append(self.client.wait_ready(timeout=timeout))

    @rule()
    def pull(self):
        self.loop.pull()

    @precondition(lambda self: self.loop.dial)
    @rule()
    def dial_succeeds(self):
        self.loop.connect()

    @precondition(lambda self: self.loop.dial)
    @rule()
    def dial_fails(self):
        self.loop.fail()

    def answer(self):
        line = self.loop.asked.pop(0)
        return ANSWERS[line.split(b'"')[3].decode()]

    @precondition(lambda self: self.connected() and self.loop.asked)
    @rule()
    def guest_answers(self):
        self.loop.hear(self.answer())

    @precondition(lambda self: self.connected())
    @rule()
    def guest_tells(self):
        self.loop.hear(Lifecycle("booting"))

    @precondition(lambda self: self.connected())
    @rule(how=st.sampled_from(["read", "write", "eof"]))
    def lose(self, how):
        session = self.client.session
        if how == "read":
            session.read_failed(BROKEN)
        elif how == "write":
            session.write_failed(BROKEN)
            session.receive_eof()
        else:
            session.receive_eof()
        self.loop.pull()

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 10.0]))
    def time_passes(self, seconds):
        self.loop.pull()
        self.loop.wait(seconds)

    @precondition(lambda self: self.tasks or self.calls)
    @rule(data=st.data())
    def cancel(self, data):
        what = data.draw(st.sampled_from([*self.tasks, *self.calls]))
        if not what.done:
            self.cancelled.add(what)
            self.client.cancel(what)
            assert what.done

    @rule()
    def close(self):
        self.client.close()
        self.closed = True

    @invariant()
    def a_deadline_that_has_passed_is_dealt_with(self):
        self.loop.pull()
        assert self.client.next_event() is NEED_DATA
        deadline = self.client.next_deadline()
        if deadline is not None and deadline <= self.loop.now:
            self.loop.wait(0)
            deadline = self.client.next_deadline()
        assert deadline is None or deadline > self.loop.now, "a loop would spin"

    @invariant()
    def each_is_told_once(self):
        told = [event.task for event in self.loop.events if isinstance(event, TaskDone)]
        told += [event.call for event in self.loop.events if isinstance(event, CallDone)]
        assert len(told) == len(set(map(id, told)))
        done = {id(one) for one in (*self.tasks, *self.calls) if one.done} - {id(one) for one in self.cancelled}
        assert {id(one) for one in told} == done

    def teardown(self):
        """Let all happen that happens by itself: dials fail, the guest answers, time passes."""
        for _ in range(1000):
            self.loop.pull()
            if self.loop.dial:
                self.loop.connect() if not self.closed else self.loop.fail()
            elif self.connected() and self.loop.asked:
                self.loop.hear(self.answer())
            elif (deadline := self.client.next_deadline()) is not None:
                self.loop.wait(max(deadline - self.loop.now, 0))
            else:
                break
        else:
            pytest.fail("it never comes to rest")
        assert all(task.done for task in self.tasks), "a task waits for nothing"
        assert all(call.done for call in self.calls), "a call waits for nothing"


Everything.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestEverything = Everything.TestCase


# What came out of trials


@pytest.mark.parametrize("many", [False, True])
def test_a_request_without_time_takes_no_other_with_it(many):
    loop = Loop()
    ask = loop.client.request_many if many else lambda messages, **options: [loop.client.request(*messages, **options)]
    (late,) = ask([Ping()], timeout=0)
    assert loop.pull() == [CallDone(late)], "nothing is dialled for it"
    other = loop.client.request(Ping(), timeout=3)
    loop.pull()
    loop.connect()
    loop.client.session.receive_data(encode(Pong()))
    loop.now += 3
    (late,) = ask([Mount("a", "/a", "9p")], timeout=-1)
    assert (type(late.outcome), late.sent, other.done) == (RequestTimeout, False, False)
    assert loop.pull() == [CallDone(late), CallDone(other)]
    assert other.result() == Pong()
    assert loop.asked == [encode(Ping())]


@pytest.mark.parametrize("never", [inf, 10**400], ids=["inf", "huge"])
def test_a_time_without_end_is_no_deadline(never):
    loop = Loop()
    tasks = [loop.client.connect(timeout=never), loop.client.run(dialogue(Sleep(never)), timeout=never)]
    assert loop.pull() == [DialWanted(None)]
    assert loop.client.next_deadline() is None
    assert loop.connect() == [TaskDone(tasks[0])]
    tasks.append(loop.client.run(dialogue(Send(Ping(), never), Connect(never), Sleep(1, least=never))))
    call = loop.client.request(Ping(), timeout=never)
    loop.pull()
    assert loop.client.next_deadline() is None
    assert [type(event) for event in loop.hear(Pong(), Pong())] == [CallDone, SessionEnded, DialWanted]
    assert (call.result(), loop.dial) == (Pong(), DialWanted(None))
    assert loop.wait(0) == [TaskDone(tasks[1])], "the end of the connection ends a Sleep, too"
    loop.connect()
    assert loop.client.next_deadline() == loop.now + 1
    assert loop.hear(Lifecycle("ready")) == [NotificationReceived(Lifecycle("ready"))]
    assert loop.wait(0) == []
    assert loop.wait(1) == [TaskDone(tasks[2])]
    assert loop.client.next_deadline() is None


@pytest.mark.parametrize("begin", [lambda client: client.wait_ready(timeout=None), lambda client: client.connect()])
def test_a_closed_client_begins_nothing(begin):
    loop = Loop()
    loop.client.close()
    loop.pull()
    task = begin(loop.client)
    assert loop.pull() == [TaskDone(task)]
    with pytest.raises(ConnectionLost, match=r"^the connection to the guest was closed$"):
        task.result()
    assert task.error.closed_here
    assert loop.client.next_deadline() is None


@pytest.mark.parametrize("end", ["cancel", "close"])
@pytest.mark.parametrize("how", ["goes on", "returns", "raises"])
def test_a_task_that_its_own_callback_ends_is_ended_once(end, how):
    loop = connected()

    def one():
        yield Send(Ping())
        loop.client.cancel(task) if end == "cancel" else loop.client.close()
        if how == "raises":
            raise KeyError("bug")
        if how == "goes on":
            yield Sleep(1)

    task = loop.client.run(one())
    loop.pull()
    loop.hear(Pong())
    assert loop.events.count(TaskDone(task)) == (end == "close")
    ends = {"returns": type(None), "raises": KeyError} if end == "close" else {}
    assert type(task.error) is ends.get(how, ConnectionLost)


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_provision_that_its_own_callback_ends_is_ended_once(end):
    loop = connected()

    def on_step(_step):
        loop.client.cancel(task) if end == "cancel" else loop.client.close()

    plan = ProvisionPlan([Mount("a", "/a", "9p"), Mount("b", "/b", "9p")])
    task = loop.client.provision(plan, on_step=on_step)
    loop.pull()
    loop.hear(ANSWERS["mount"])
    assert loop.events.count(TaskDone(task)) == (end == "close")
    assert task.done
    if end == "close":
        assert [step.status for step in task.result().steps] == [StepStatus.DONE, StepStatus.UNKNOWN]
    else:
        assert type(task.error) is OutcomeUnknown


def test_close_tells_what_became_of_the_requests_of_tasks():
    loop = connected()
    plan = ProvisionPlan([Mount("a", "/a", "9p")], config="x")
    provision, shutdown = loop.client.provision(plan), loop.client.shutdown()
    loop.pull()
    mount = loop.client.run(dialogue(Send(Mount("b", "/b", "9p"))))
    loop.pull()
    loop.client.close()
    assert not provision.done
    loop.pull()
    assert [step.status for step in provision.result().steps] == [StepStatus.UNKNOWN, StepStatus.NOT_SENT]
    assert type(shutdown.error) is OutcomeUnknown
    assert shutdown.error.closed_here
    assert [type(error) for error in mount.result()] == [OutcomeUnknown]
    assert loop.client.next_deadline() is None


def test_a_shutdown_over_a_connection_that_is_dropped_has_an_unknown_outcome():
    loop = connected()
    task = loop.client.shutdown()
    loop.pull()
    loop.client.connect()
    assert TaskDone(task) in loop.pull()
    assert (type(task.error), task.error.closed_here) == (OutcomeUnknown, True)


def test_cancelling_a_task_tells_what_may_still_be_carried_out():
    loop = connected()
    mount = Mount("a", "/a", "9p")
    tasks = [
        loop.client.run(dialogue(SendMany((Ping(), mount, mount), lambda index, outcome: None))),
        loop.client.run(dialogue(Send(Ping()))),
    ]
    loop.pull()
    waiting = loop.client.run(dialogue(Send(mount)))
    list(loop.client.events())
    for task in (*tasks, waiting):
        loop.client.cancel(task)
    unknown, harmless, unsent = (task.error for task in (*tasks, waiting))
    assert (type(unknown), unknown.request, unknown.unanswered) == (OutcomeUnknown, mount, (Ping(), mount, mount))
    assert str(unknown) == "the dialogue was cancelled while mount was unanswered: it may still be carried out"
    assert (type(harmless), harmless.unanswered) == (ConnectionLost, (Ping(),))
    assert (type(unsent), unsent.unanswered) == (ConnectionLost, ())
    assert all(error.closed_here for error in (unknown, harmless, unsent))
    assert loop.hear(Pong(), ANSWERS["mount"], ANSWERS["mount"], Pong()) == []


def test_a_task_of_another_client_is_not_cancelled():
    loop, other = connected(), connected()
    task = other.client.run(dialogue(Send(Ping())))
    with pytest.raises(ValueError, match=r"^this task belongs to another client$"):
        loop.client.cancel(task)
    other.pull()
    assert other.hear(Pong()) == [TaskDone(task)]
    loop.client.cancel(task)  # it is done


def test_a_dialogue_that_sleeps_hides_no_failed_dial():
    loop = Loop()
    loop.client.run(dialogue(Sleep(1000)))
    call = loop.client.request(Ping())
    assert loop.pull() == [DialWanted(None)]
    assert CallDone(call) in loop.fail()
    assert type(call.outcome) is ConnectionLost
    assert call.outcome.__cause__ is not None


def test_one_that_dials_again_keeps_requests_waiting():
    loop = Loop()
    wait = loop.client.wait_ready()
    call = loop.client.request(Ping())
    loop.pull()
    assert loop.fail() == []
    assert (wait.done, call.done) == (False, False)


@pytest.mark.parametrize("error", [OSError(2, "No such file"), None, ConnectionLost("gone")])
def test_a_failed_dial_has_a_connect_error(error):
    loop = Loop()
    call = loop.client.request(Ping())
    loop.pull()
    with pytest.raises(TypeError, match=rf"^dial_failed takes a ConnectError, not {type(error).__name__}: "):
        loop.client.dial_failed(error)
    assert loop.connect() == []
    assert loop.hear(Pong()) == [CallDone(call)]


def test_a_dialogue_that_raises_as_it_is_closed_keeps_no_other_from_ending():
    def broken():
        try:
            yield Sleep(1)
        finally:
            raise KeyError("bug")

    loop = Loop()
    tasks = [loop.client.run(broken()), loop.client.run(broken())]
    loop.pull()
    loop.client.close()
    assert [event for event in loop.pull() if isinstance(event, TaskDone)] == [*map(TaskDone, tasks)]
    assert {type(task.error) for task in tasks} == {ConnectionLost}


def test_connecting_before_the_dial_was_told():
    loop = Loop()
    call = loop.client.request(Ping())
    loop.client.connected()
    assert loop.pull() == []
    assert loop.hear(Pong()) == [CallDone(call)]


def test_timers_that_are_void_do_not_pile_up():
    loop = connected()
    for _ in range(300):
        task = loop.client.connect(timeout=86400)
        loop.pull()
        assert TaskDone(task) in loop.connect()
    assert len(loop.client._timers) < 100
    assert loop.client.next_deadline() is None


@given(st.permutations(range(100)), st.sets(st.integers(0, 99), min_size=5, max_size=15))
@settings(max_examples=20)
def test_timers_are_in_order_after_those_that_are_void_were_dropped(order, kept):
    loop = Loop()
    sleeps = {seconds: loop.client.run(dialogue(Sleep(1 + seconds))) for seconds in order}
    loop.pull()
    for seconds in order:
        if seconds not in kept:
            loop.client.cancel(sleeps[seconds])
    loop.client.run(dialogue(Sleep(1000)))
    loop.pull()
    assert len(loop.client._timers) == len(kept) + 1
    for seconds in sorted(kept):
        assert loop.client.next_deadline() == 101.0 + seconds
        assert loop.wait(101.0 + seconds - loop.now) == [TaskDone(sleeps[seconds])]


def test_notifications_do_not_fill_the_timers():
    loop = connected()
    loop.client.run(dialogue(Sleep(9, least=5)))
    loop.pull()
    for _ in range(100):
        loop.hear(Lifecycle("ready"))
    assert len(loop.client._timers) == 3, "of the dial, which is over, and of the sleep: at most and at least"


@pytest.mark.parametrize("action", [Send(Ping()), SendMany((Ping(), Ping()), lambda index, outcome: None), Connect(3)])
def test_a_task_that_is_cancelled_leaves_nothing_behind(action):
    loop = connected()
    task = loop.client.run(dialogue(action))
    loop.pull()
    loop.client.cancel(task)
    assert (loop.client._callers, loop.client._dialers, loop.client._running) == ({}, {}, {})


def test_a_notification_after_a_sleep_is_over_does_not_end_what_comes_next():
    """A loop may read between `expire` and the next pull."""
    loop = connected()
    task = loop.client.wait_ready(timeout=60)
    loop.pull()
    loop.hear(Health("booting"))
    loop.now += 0.2
    loop.client.expire()
    loop.hear(Lifecycle("booting"))
    assert loop.wait(0.1) == []
    assert loop.hear(Health("ready")) == [TaskDone(task)]
    assert task.result() == Health("ready")


def test_cancelling_a_task_after_it_has_changed_the_guest():
    loop = connected()
    task = loop.client.provision(ProvisionPlan([Mount("a", "/a", "9p")], config="x"))
    loop.pull()
    loop.client.session.receive_data(encode(ANSWERS["mount"]))
    list(loop.client.events())
    loop.client.cancel(task)
    assert (type(task.error), task.error.request, task.error.unanswered) == (OutcomeUnknown, Mount("a", "/a", "9p"), ())
    assert str(task.error) == "the dialogue was cancelled after mount was answered: that is not taken back"
    assert task.error.closed_here


def test_of_two_that_dial_the_one_with_more_time_goes_on():
    loop = Loop()
    wait = loop.client.wait_ready(timeout=60)
    assert loop.pull() == [DialWanted(101.0)]
    connect = loop.client.connect(timeout=30)
    loop.pull()
    loop.now += 1
    assert loop.fail(ConnectError("no answer", timed_out=True)) == [DialWanted(130.0)]
    assert (wait.done, connect.done) == (False, False)
    assert loop.connect() == [TaskDone(connect)]
    # One that is refused ends for all.
    loop = Loop()
    loop.client.wait_ready(timeout=60)
    loop.pull()
    connect = loop.client.connect(timeout=30)
    loop.pull()
    assert TaskDone(connect) in loop.fail()


@pytest.mark.parametrize(("limit", "dials"), [(float("inf"), None), (30, 130.0), (10, "failed"), (5, "failed")])
def test_a_dial_without_a_deadline_is_repeated_for_those_that_have_time(limit, dials):
    """A request began it, or one that waits for ever; the driver has a bound of its own, such as ten seconds."""
    loop = Loop()
    loop.client.request(Ping(), timeout=60)
    assert loop.pull() == [DialWanted(None)]
    task = loop.client.connect(timeout=limit)
    loop.pull()
    loop.now += 10
    told = loop.fail(ConnectError("no answer", timed_out=True))
    assert task.done is (dials == "failed")
    assert told == [DialWanted(dials)] or (task.done and TaskDone(task) in told)


def test_a_dial_that_took_all_the_time_of_its_task_is_the_last():
    loop = Loop()
    task = loop.client.connect(timeout=3)
    loop.pull()
    loop.now += 3
    assert TaskDone(task) in loop.fail(ConnectError("no answer", timed_out=True))
    assert loop.dial is None


@pytest.mark.parametrize("heard", [False, True])
def test_a_sleep_ends_with_its_task(heard):
    loop = connected()
    task = loop.client.run(dialogue(Sleep(10, least=10)), timeout=1)
    if heard:
        loop.hear(Lifecycle("ready"))
    loop.pull()
    assert loop.client.next_deadline() == loop.now + 1
    assert loop.wait(1) == [TaskDone(task)]
    assert task.done


def test_what_was_heard_before_a_task_ends_no_sleep_of_its():
    loop = connected()
    loop.hear(Lifecycle("booting"))
    task = loop.client.run(dialogue(Sleep(30)))
    assert loop.pull() == []
    assert loop.client.next_deadline() == loop.now + 30
    assert loop.wait(30) == [TaskDone(task)]


def test_outcomes_of_dials_that_are_not_under_way_are_refused():
    loop = connected()
    mount = loop.client.request(Mount("a", "/a", "9p"))
    loop.pull()
    with pytest.raises(RuntimeError, match=r"^no dial is under way"):
        loop.client.dial_failed(NOBODY)
    with pytest.raises(RuntimeError, match=r"^there is a connection already"):
        loop.client.connected()
    assert loop.hear(ANSWERS["mount"]) == [CallDone(mount)]
    loop.lose()
    with pytest.raises(RuntimeError, match=r"^no dial is under way"):
        loop.client.connected()
    assert not loop.client.is_connected
    loop.client.close()
    loop.client.connected()
    loop.client.dial_failed(NOBODY)
    assert not loop.client.is_connected


def test_a_connection_may_be_there_before_anything_is_asked():
    loop = Loop()
    loop.client.connected()
    call = loop.client.request(Ping())
    assert loop.pull() == []
    assert loop.hear(Pong()) == [CallDone(call)]


def test_a_dialogue_that_cancels_itself_and_raises_as_it_is_closed():
    loop = Loop()

    def one():
        loop.client.cancel(task)
        try:
            yield Sleep(1)
        finally:
            raise ValueError("bug")

    task = loop.client.run(one())
    assert loop.pull() == []
    assert task.done


def test_what_makes_no_client_and_no_task():
    with pytest.raises(TypeError, match=r"^clock must be a function that returns the time, not float$"):
        HostClient(clock=5.0)
    with pytest.raises(TypeError, match=r"^a dialogue is a generator, not function; "):
        Loop().client.run(dialogue)


def test_no_requests_want_no_dial():
    loop = Loop()
    assert loop.client.request_many([]) == []
    task = loop.client.run(dialogue(SendMany((), lambda index, outcome: None)))
    assert loop.pull() == [TaskDone(task)]


def test_the_traceback_of_a_result_does_not_grow():
    loop = connected()
    task = loop.client.run(dialogue("ping"))
    loop.pull()
    assert len(traceback_sizes(TypeError, task.result)) == 1


def test_events_that_are_owed_are_due_now():
    loop = Loop()
    loop.client.request(Ping(), timeout=0)
    assert loop.client.next_deadline() == loop.now
    loop.pull()
    assert loop.client.next_deadline() is None


def test_errors_of_steps_name_the_guest():
    loop = Loop(label="web-5")
    steps = []
    task = loop.client.provision(ProvisionPlan([Mount("a", "/a", "9p")], config="x"), on_step=steps.append)
    loop.pull()
    loop.connect()
    loop.hear(Ack("mount", False, "busy"))
    assert [step.error.guest for step in (*task.result().steps, *steps)] == ["web-5"] * 4


def test_what_a_task_shows():
    task = Loop().client.run(dialogue(Send(SetConfig("s3ntinel"))), context="mine")
    assert repr(task) == "Task(context='mine', done=False, error=None)"
    assert task != Loop().client.run(dialogue())


def test_every_session_of_a_client_is_traced_and_logged():
    traced, log = [], []
    client = HostClient(
        "my guest",
        clock=lambda: 0.0,
        trace=lambda sender, data: traced.append((sender, data)),
        log=lambda text, *args: log.append(text % args),
    )
    for count in (1, 2):
        client.connect()
        list(client.events())
        client.connected()
        client.request(Ping())
        client.session.data_sent(len(client.session.data_to_send()))
        client.session.receive_eof()
        list(client.events())
        assert [sender for sender, _ in traced] == [Role.HOST] * count
        assert log == ["the session ended: my guest closed the connection"] * count


def test_several_requests_in_one_flight():
    loop = connected()
    calls = loop.client.request_many([Ping(), Ping()], timeout=5, context="mine")
    assert [call.context for call in calls] == ["mine", "mine"]
    assert loop.client.next_deadline() == 105.0
    late = loop.client.request_many([Ping()], timeout=0)
    assert isinstance(late[0].outcome, RequestTimeout)
    assert not late[0].sent


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_belongs_to_one_stream(how):
    with pytest.raises(TypeError, match="a Connection belongs to one stream"):
        how(HostClient(clock=lambda: 0.0))


@pytest.mark.parametrize("end", ["eof", "expire", "abort", "end", "close"])
def test_a_task_that_is_cancelled_after_its_call_settled(end):
    """The outcome is there, and was not pulled: the shutdown may have been carried out all the same."""
    loop = connected()
    task = loop.client.run(dialogue(Send(Shutdown(), 5.0)))
    loop.pull()
    session = loop.client.session
    if end == "eof":
        session.receive_eof()
        session.may_have_events and session.next_event()
    elif end == "expire":
        loop.now += 5
        session.expire(loop.now)
    elif end == "abort":
        session.abort()
    elif end == "end":
        session.end(ConnectionLost("gone"))
    else:
        loop.client.close()
    loop.client.cancel(task)
    assert isinstance(task.error, OutcomeUnknown)
    assert task.error.request == Shutdown()
    assert "shutdown was unanswered: it may still be carried out" in str(task.error)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Ack("mount", True), "after mount was answered: that is not taken back"),
        (Ack("mount", False, "no"), None),
        (None, "while mount was unanswered: it may still be carried out"),
    ],
)
@pytest.mark.parametrize("pulled", [False, True])
def test_what_a_cancelled_task_has_changed(outcome, words, pulled):
    loop = connected()
    task = loop.client.run(dialogue(Send(MOUNT, 1.0), Sleep(100)))
    loop.pull()
    if outcome is not None:
        loop.client.session.receive_data(encode(outcome))
        if pulled:
            loop.pull()
    else:
        loop.wait(1)
    loop.client.cancel(task)
    if outcome is None or pulled:
        assert isinstance(task.error, OutcomeUnknown) is (words is not None)
        assert str(task.error) == "the dialogue was cancelled" + (f" {words}" if words else "")
    else:
        # The reply has arrived, and was not looked at.
        assert "mount was unanswered" in str(task.error)


def test_a_request_that_was_given_up_before_the_last_one():
    loop = connected()
    task = loop.client.run(dialogue(Send(MOUNT, 1.0), Send(Ping())))
    loop.pull()
    loop.wait(1)
    loop.client.cancel(task)
    assert str(task.error) == "the dialogue was cancelled after mount was given up: it may still be carried out"
    assert (task.error.request, task.error.unanswered) == (MOUNT, (Ping(),))


def test_an_answer_that_was_not_told_yet_counts():
    loop = connected()
    task = loop.client.run(dialogue(SendMany((MOUNT, Ping()), lambda index, outcome: None)))
    loop.pull()
    loop.client.session.receive_data(encode(Ack("mount", True)))
    call = task._calls[0]
    assert loop.client.session.next_event() == CallDone(call)
    loop.client.cancel(task)
    assert str(task.error) == "the dialogue was cancelled after mount was answered: that is not taken back"


def test_several_that_are_unanswered_are_several():
    loop = connected()
    task = loop.client.run(dialogue(SendMany((MOUNT, SetConfig("x")), lambda index, outcome: None)))
    loop.pull()
    loop.client.cancel(task)
    assert "while mount, set_config were unanswered" in str(task.error)


def test_two_waits_do_not_drop_each_others_connection():
    """A guest that answers each probe after 1.5 s: each wait gives its first probe a second."""
    loop = Loop()
    due = []
    tasks = [loop.client.wait_ready(timeout=60)]
    dials = 0
    while not all(task.done for task in tasks):
        loop.pull()
        if loop.dial is not None:
            dials += 1
            loop.connect()
        due += [(loop.now + 1.5, loop.client.session)] * len(loop.asked)
        loop.asked.clear()
        loop.now = round(loop.now + 0.01, 3)
        if len(tasks) == 1 and loop.now >= 100.5:
            tasks.append(loop.client.wait_ready(timeout=60))
        while due and due[0][0] <= loop.now:
            due.pop(0)[1].receive_data(encode(Health("ready")))
        loop.client.expire()
    assert [task.result() for task in tasks] == [Health("ready")] * 2
    assert loop.now < 120
    assert dials < 10


def test_a_wait_that_began_before_the_connection_uses_it():
    loop = Loop()
    task = loop.client.wait_ready(timeout=60)
    call = loop.client.request(Ping())
    loop.client.connected()
    loop.pull()
    assert len(loop.asked) == 2
    loop.hear(Pong(), Health("ready"))
    assert (call.result(), task.result()) == (Pong(), Health("ready"))


def test_a_silent_connection_leaves_a_wait_the_time_for_another():
    loop = connected()
    task = loop.client.wait_ready(timeout=4)
    loop.pull()
    loop.wait(2)
    loop.wait(0.05)
    assert loop.dial is not None
    loop.connect()
    loop.hear(Health("ready"))
    assert task.result() == Health("ready")


def test_cancelling_the_call_of_a_dialogue_tells_the_dialogue():
    loop = connected()
    task = loop.client.provision(ProvisionPlan(config="x=1"), timeout=5)
    loop.pull()
    for call in loop.client.session.pending:
        loop.client.cancel(call)
    assert loop.pull() == [TaskDone(task)]
    assert task.result().steps[0].status is StepStatus.UNKNOWN
    assert loop.client._callers == {}


def test_cancelling_a_call_of_a_dialogue_that_is_done_changes_nothing():
    loop = connected()
    task = loop.client.run(dialogue(Send(Ping())))
    loop.pull()
    (call,) = task._calls
    loop.client.session.receive_eof()
    loop.client.session.abort()
    loop.client.cancel(call)
    assert [type(event) for event in loop.pull()] == [SessionEnded, TaskDone]


def test_a_connection_before_the_dial_was_told():
    """A loop may stop pulling between the end of one connection and the wish for the next."""
    loop = connected()
    task = loop.client.connect()
    assert isinstance(loop.client.next_event(), SessionEnded)
    loop.client.connected()
    assert loop.pull() == [TaskDone(task)]
    call = loop.client.request(Ping())
    loop.pull()
    loop.hear(Pong())
    assert call.result() == Pong()


def test_a_connection_while_the_last_one_has_more_to_tell_is_refused():
    loop = Loop()
    task = loop.client.connect()
    loop.pull()
    loop.client.session.abort()
    with pytest.raises(RuntimeError, match="pull `next_event` until NEED_DATA first"):
        loop.client.connected()
    assert [type(event) for event in loop.client.events()] == [SessionEnded]
    loop.client.connected()
    assert list(loop.client.events()) == [TaskDone(task)]
    assert task.result() is None


def test_early_bytes_must_be_bytes():
    loop = Loop()
    task = loop.client.connect()
    loop.pull()
    with pytest.raises(TypeError):
        loop.client.connected("abc")
    loop.connect()
    assert task.result() is None


def test_a_plan_is_checked_at_the_call():
    client = Loop().client
    with pytest.raises(ValueError, match="on_refusal must be stop or continue"):
        client.provision(ProvisionPlan(), on_refusal="stopp")
    with pytest.raises(TypeError, match="takes a ProvisionPlan"):
        client.provision({})
    with pytest.raises(TypeError, match="guest"):
        client.provision(ProvisionPlan(), guest="x")


def test_repr():
    loop = Loop(label="vm-7")
    assert repr(loop.client) == "<HostClient vm-7 not connected tasks=0>"
    loop.client.connected()
    loop.client.run(dialogue(Sleep(1)))
    assert repr(loop.client) == "<HostClient vm-7 connected tasks=1>"
    loop.client.close()
    assert repr(loop.client) == "<HostClient vm-7 closed tasks=0>"


def test_many_requests_in_one_flight_take_linear_time():
    loop = connected(max_pending=2)
    many = 20_000
    loop.client.run(dialogue(SendMany((Ping(),) * many, lambda index, outcome: None)), timeout=5)
    loop.pull()
    start = time.process_time()
    loop.wait(5)
    assert time.process_time() - start < 2


def test_a_request_has_all_of_its_time():
    loop = connected()
    call = loop.client.request(Ping(), timeout=0.5)
    loop.pull()
    assert call.sent
    assert not call.done
    assert loop.client.next_deadline() == loop.now + 0.5


@pytest.mark.parametrize(("timeout", "attempt"), [(4, 2), (10, 5), (60, 5), (None, 5)])
def test_a_probe_over_a_connection_of_others_may_take_half_of_the_time(timeout, attempt):
    loop = connected()
    loop.client.wait_ready(timeout=timeout)
    loop.pull()
    assert len(loop.asked) == 1
    assert loop.client.next_deadline() == loop.now + attempt


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_send_without_time_is_not_sent(timeout):
    loop = connected()
    task = loop.client.run(dialogue(Send(MOUNT, timeout), Send(Ping(), timeout)))
    assert loop.pull() == [TaskDone(task)]
    assert loop.asked == []
    assert [(type(each), each.sent) for each in task.result()] == [(RequestTimeout, False)] * 2


def test_an_action_that_cannot_be_done_ends_the_dialogue():
    loop = connected()
    said = []

    def wrong():
        try:
            yield Send(Ping(), "soon")
        except TypeError as exc:
            said.append(exc)

    task = loop.client.run(wrong())
    assert loop.pull() == [TaskDone(task)]
    assert said == [task.error]


def test_a_connect_without_end_that_times_out_at_once_is_over():
    """A function of a `Dial` may raise TimeoutError at once. It was called again and again within one pull."""
    loop = Loop()
    task = loop.client.connect(timeout=inf)
    assert loop.pull() == [DialWanted(None)]
    assert loop.fail(LATE) == [TaskDone(task), SessionEnded(LATE)]
    with pytest.raises(ConnectError):
        task.result()


def test_one_without_end_that_joins_a_bounded_dial_gets_another():
    loop = Loop()
    short = loop.client.connect(timeout=2)
    loop.pull()
    task = loop.client.connect(timeout=inf)
    loop.pull()
    loop.now += 2
    assert loop.fail(LATE) == [TaskDone(short), DialWanted(None)]
    assert not task.done


def test_the_end_of_the_connection_ends_a_sleep():
    """As in the other drivers."""
    loop = connected()
    task = loop.client.run(dialogue(Sleep(60), Sleep(60, least=5)))
    loop.pull()
    loop.lose()
    assert loop.wait(0) == []
    assert not task.done
    assert loop.wait(60) == [TaskDone(task)]


def outcomes_of(on_outcome, notes):
    """Sends two things at once, and goes on after a StereosError of `on_outcome`."""
    try:
        yield SendMany((Ping(), MOUNT), on_outcome)
    except StereosError as exc:
        notes.append(exc)
        return (yield Send(GetHealth()))
    except ValueError as exc:
        exc.add_note("one was done")
        raise


def fails(error, told):
    """An `on_outcome` that notes what it is told, and raises `error`."""

    def on_outcome(place, _outcome):
        told.append(place)
        raise error

    return on_outcome


def test_an_error_of_on_outcome_reaches_the_dialogue():
    loop = connected()
    notes, told = [], []
    error = ValueError("mine")
    task = loop.client.run(outcomes_of(fails(error, told), notes))
    loop.pull()
    assert loop.hear(Pong(), ANSWERS["mount"]) == [TaskDone(task)]
    assert (task.error, error.__notes__) == (error, ["one was done"])
    # One of this library's is like that of a request: the dialogue may go on, and the other calls are given up.
    error = ConnectionLost("mine")
    task = loop.client.run(outcomes_of(fails(error, told), notes))
    loop.pull()
    assert loop.hear(Pong(), ANSWERS["mount"]) == []
    assert loop.hear(Health("ready")) == [TaskDone(task)]
    assert (notes, told) == ([error], [0, 0])
    assert task.result() == Health("ready")


def test_on_outcome_is_not_called_again_after_it_has_raised():
    """Both calls settle together as the connection ends, before the dialogue gets the error."""
    loop = connected()
    notes, told = [], []
    error = ConnectionLost("mine")
    task = loop.client.run(outcomes_of(fails(error, told), notes))
    loop.pull()
    loop.lose()
    assert (notes, told) == ([error], [0])
    assert "get_health was not sent" in str(task.error)


def test_only_calls_and_tasks_are_cancelled():
    with pytest.raises(TypeError, match="cancel takes a call or a task, not a str"):
        Loop().client.cancel("ping")
