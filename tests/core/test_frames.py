"""Frames that an exception has passed are cleared; that of who still runs is not."""

import inspect
import traceback

import pytest

from interrupts import locals_of
from stereos_proto import ConnectError, HostClient, InjectSecret, LocalProtocolError, encode, forget_locals
from stereos_proto.dialogues import ReadyWait, wait_ready


def inner(secret):
    raise KeyError(len(secret))


def outer(secret):
    twice = secret * 2
    inner(twice)


def test_the_frames_that_were_passed_are_cleared():
    mine = "a secret"
    with pytest.raises(KeyError) as caught:
        outer(mine)
    before = [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    forget_locals(caught.value)
    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(caught.value.__traceback__)}
    assert list(frames) == before
    assert (frames["outer"], frames["inner"]) == ({}, {})
    assert mine == "a secret"


def test_what_was_not_raised_has_no_frames():
    forget_locals(KeyError())


def test_the_frames_of_an_error_that_was_being_handled_stay_when_they_are_not_ours():
    mine = "kept"
    with pytest.raises(KeyError) as caught:
        outer(mine)
    interrupt = KeyboardInterrupt()
    interrupt.__context__ = caught.value
    forget_locals(interrupt)
    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(caught.value.__traceback__)}
    assert frames["outer"]["secret"] == "kept"


def test_those_of_ours_are_cleared():
    with pytest.raises(LocalProtocolError) as caught:
        encode(InjectSecret("TOKEN", "a secret", -1))
    interrupt = KeyboardInterrupt()
    interrupt.__context__ = caught.value
    assert "message" in locals_of(caught.value)
    forget_locals(interrupt)
    assert "message" not in locals_of(caught.value)


def test_a_dialogue_that_goes_on_is_not_closed():
    """A suspended generator is closed when its frame is cleared. The error that it has handled may be kept."""
    kept = []
    client = HostClient(clock=lambda: 0.0)
    dialogue = wait_ready(ReadyWait(on_progress=kept.append), redial=True)
    task = client.run(dialogue)
    list(client.events())
    error = ConnectError("refused")
    client.dial_failed(error)
    list(client.events())
    try:
        try:
            raise error
        except ConnectError:
            client.session.receive_data("no bytes")
    except TypeError as exc:
        forget_locals(exc)
    assert not task.done
    assert inspect.getgeneratorstate(dialogue) == inspect.GEN_SUSPENDED
    client.close()


def test_a_chain_that_goes_round():
    """Only a program can make one; Python breaks a cycle where it raises."""
    one, two = ValueError("one"), KeyError("two")
    one.__context__, two.__context__ = two, one
    forget_locals(one)
