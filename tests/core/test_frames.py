"""Frames that an exception has passed are cleared; that of who still runs is not."""

import traceback

import pytest

from stereos_proto import forget_locals


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
