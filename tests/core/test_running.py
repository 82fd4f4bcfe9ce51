"""A dialogue that is being run."""

import inspect
from collections.abc import Generator
from contextlib import suppress
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import ConnectionLost, Ping, Pong, RequestTimeout
from stereos_proto._running import Running
from stereos_proto.dialogues import Send, Sleep, TimeUp


def dialogue_of(*actions):
    yield from actions


def recorded(log, actions, result="result", stubborn=0):
    """Yields `actions`; notes what comes of each. Goes on after TimeUp `stubborn` times."""
    for action in actions:
        try:
            log.append((yield action))
        except ConnectionLost as exc:
            log.append(exc)
        except TimeUp as exc:
            log.append(exc)
            if not stubborn:
                raise
            stubborn -= 1
    return result


VALUES = st.one_of(st.just(Pong()), st.none(), st.builds(ConnectionLost, st.just("gone")))


@given(st.lists(VALUES, max_size=6))
def test_each_action_gets_what_came_of_it(values):
    log, actions = [], [Sleep(number) for number, _ in enumerate(values)]
    running = Running(recorded(log, actions))
    action = running.resume(None, 0.0)
    for expected, value in zip(actions, values, strict=True):
        assert action is expected
        assert running.result is None
        action = running.resume(value, 0.0)
    assert action is None
    assert running.result == "result"
    assert log == values


@given(st.floats(0, 10), st.floats(0, 10))
def test_an_action_that_comes_too_late_is_not_carried_out(deadline, now):
    log = []
    running = Running(recorded(log, [Send(Ping())]), deadline, 2.5)
    if now < deadline:
        assert running.resume(None, now) == Send(Ping())
        return
    with pytest.raises(TimeUp, match=r"^2.5 s have passed$") as caught:
        running.resume(None, now)
    assert (caught.value.seconds, caught.value.sent) == (2.5, False)
    assert log == [caught.value]


def test_a_dialogue_may_finish_when_its_time_is_up():
    log = []
    running = Running(recorded(log, [Sleep(1)], stubborn=1), 1.0)
    assert running.resume(None, 0.0) == Sleep(1)
    # It is thrown in at the next action only: there is none here.
    assert running.resume(None, 2.0) is None
    running = Running(recorded(log, [Sleep(1), Sleep(2)], stubborn=1), 1.0)
    running.resume(None, 0.0)
    assert running.resume(None, 2.0) is None
    assert isinstance(log[-1], TimeUp)
    assert running.result == "result"


def test_a_dialogue_that_will_not_end_is_closed():
    log = []
    closed = []

    def stubborn():
        try:
            while True:
                try:
                    yield Sleep(1)
                except TimeUp as exc:
                    log.append(exc)
        finally:
            closed.append(True)

    # Kept, so that it is not closed because nothing refers to it.
    dialogue = stubborn()
    with pytest.raises(TimeUp):
        Running(dialogue, 1.0).resume(None, 1.0)
    assert len(log) == 3
    assert closed == [True]


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("error", [ConnectionLost("gone"), KeyboardInterrupt(), RuntimeError("cancelled")])
def test_a_dialogue_is_told_what_ended_it_and_is_closed(error, goes_on):
    told = []

    def noting():
        try:
            yield Sleep(1)
        except BaseException as exc:
            told.append(exc)
            exc.add_note("after one second")
            if not goes_on:
                raise
        yield Sleep(2)

    dialogue = noting()
    running = Running(dialogue)
    running.resume(None, 0.0)
    running.fail(error)
    assert told == [error]
    assert error.__notes__[-1] == "after one second"
    assert inspect.getgeneratorstate(dialogue) == inspect.GEN_CLOSED


def test_what_it_raises_comes_out():
    running = Running(recorded([], [Sleep(1)]))
    running.resume(None, 0.0)
    with pytest.raises(ZeroDivisionError):
        running.dialogue.throw(ZeroDivisionError())

    def broken():
        yield Sleep(1)
        raise KeyError("bug")

    running = Running(broken())
    running.resume(None, 0.0)
    with pytest.raises(KeyError):
        running.resume(None, 0.0)


@given(st.none() | st.floats(0, 100), st.none() | st.floats(0, 100), st.floats(0, 100))
def test_an_action_ends_at_its_own_time_or_at_that_of_all(deadline, seconds, now):
    ends = [end for end in (deadline, None if seconds is None else now + seconds) if end is not None]
    assert Running(dialogue_of(), deadline).until(seconds, now) == min(ends, default=None)


@pytest.mark.parametrize("seconds", [inf, 10**400], ids=["inf", "huge"])
def test_no_bound_is_none(seconds):
    assert Running(dialogue_of()).until(seconds, 5.0) is None
    assert Running(dialogue_of(), 7.0).until(seconds, 5.0) == 7.0


@pytest.mark.parametrize(("seconds", "error"), [(nan, ValueError), ("5", TypeError)])
def test_no_number_of_seconds(seconds, error):
    with pytest.raises(error, match="a timeout"):
        Running(dialogue_of()).until(seconds, 5.0)


@pytest.mark.parametrize("stubborn", range(4))
def test_once_it_is_ended_it_begins_nothing(stubborn):
    """It hears what became of the last action, and then, three times at most, that nothing more can begin."""
    came = []

    def dialogue():
        came.append((yield Sleep(1)))
        for _ in range(stubborn):
            try:
                yield Sleep(2)
            except ConnectionLost as exc:
                came.append(str(exc))
        return "over"

    running = Running(dialogue())
    assert running.resume(None, 0.0) == Sleep(1)
    running.ended = ConnectionLost("it was closed")
    assert running.resume("slept", 1.0) is None
    assert running.result == "over"
    assert came == ["slept", *["it was closed"] * stubborn]


def test_two_are_never_equal():
    dialogue = dialogue_of()
    assert Running(dialogue) != Running(dialogue)


def test_one_that_goes_on_after_its_end_is_closed():
    def dialogue():
        while True:
            with suppress(ConnectionLost):
                yield Sleep(1)

    running = Running(dialogue())
    running.ended = ConnectionLost("it was closed")
    with pytest.raises(ConnectionLost, match=r"^it was closed$"):
        running.resume(None, 0.0)
    assert inspect.getgeneratorstate(running.dialogue) == inspect.GEN_CLOSED


@pytest.mark.parametrize(
    ("now", "kind"), [(1.0, RequestTimeout), (9.98, RequestTimeout), (10.0 - 0.01, TimeUp), (10.0, TimeUp)]
)
def test_a_request_that_took_all_the_time_of_the_dialogue_ends_it(now, kind):
    """Whether its own time or that of the whole was up, the dialogue can tell."""

    def dialogue():
        try:
            yield Send(Ping())
        except RequestTimeout as exc:
            return exc

    running = Running(dialogue(), 10.0, 10.0)
    running.resume(None, 0.0)
    late = RequestTimeout("late", request=Ping(), sent=True)
    assert running.resume(late, now) is None
    assert type(running.result) is kind
    assert (running.result.request, running.result.sent) == (Ping(), True)


@pytest.mark.parametrize("dialogue", [dialogue_of, None, iter(()), "ping"])
def test_what_is_no_dialogue(dialogue):
    with pytest.raises(TypeError, match=rf"^a dialogue is a generator, not {type(dialogue).__name__}; "):
        Running(dialogue)


@pytest.mark.parametrize("how", ["begun", "over", "closed"])
def test_a_dialogue_runs_once(how):
    """A second run returned None, which reads like a result."""
    dialogue = dialogue_of(Sleep(1))
    for _ in range({"begun": 1, "over": 2, "closed": 0}[how]):
        next(dialogue, None)
    if how == "closed":
        dialogue.close()
    with pytest.raises(ValueError, match="this dialogue was begun before: call"):
        Running(dialogue)


def test_another_kind_of_generator_is_a_dialogue():
    class Mine(Generator):
        def send(self, _value):
            raise StopIteration("result")

        def throw(self, *_error):
            raise AssertionError

    running = Running(Mine())
    assert running.resume(None, 0.0) is None
    assert running.result == "result"


def test_a_dialogue_that_cannot_be_closed_does_not_hide_what_ended_it():
    def stubborn():
        for _ in range(3):
            with suppress(BaseException):
                yield Sleep(1)

    running = Running(stubborn())
    running.resume(None, 0.0)
    running.fail(KeyboardInterrupt())


@pytest.mark.parametrize("junk", [None, 5, Ping(), Pong])
def test_what_is_no_action_is_refused_and_ends_the_dialogue(junk):
    """None, too: a dialogue that forgets what to yield would seem to be over."""
    caught = []

    def dialogue():
        try:
            yield junk
        except TypeError as exc:
            caught.append(exc)
            raise

    running = Running(dialogue())
    with pytest.raises(TypeError, match=r"^a dialogue must yield actions, not ") as raised:
        running.resume(None, 0.0)
    assert caught == [raised.value]
    assert inspect.getgeneratorstate(running.dialogue) == inspect.GEN_CLOSED
