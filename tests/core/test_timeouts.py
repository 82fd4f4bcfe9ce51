"""What a timeout means: one table."""

from math import inf, nan

import pytest

from stereos_proto import seconds
from stereos_proto._timeouts import in_words


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (True, 1.0),
        (inf, inf),
        (10**400, inf),
        (0, 0.0),
        (-0.0, 0.0),
        (-1, 0.0),
        (-(10**400), 0.0),
    ],
    ids=lambda value: str(value)[:6],
)
def test_a_number_of_seconds(timeout, expected):
    assert seconds(timeout) == expected
    assert isinstance(seconds(timeout), float)


def test_none_is_the_default():
    assert seconds(None) == inf
    assert seconds(None, 5.0) == 5.0


@pytest.mark.parametrize("timeout", ["1", 1j, [], b"1"], ids=repr)
def test_what_is_no_number(timeout):
    with pytest.raises(TypeError, match="a timeout is a number of seconds or None, not"):
        seconds(timeout)


def test_nan():
    with pytest.raises(ValueError, match="a timeout must not be NaN"):
        seconds(nan)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (0.0, "0 s"),
        (0.3, "0.3 s"),
        (4.97186, "4.97 s"),
        (60.0, "60 s"),
        (99.96, "100 s"),
        (100, "100 s"),
        (9e4, "90000 s"),
    ],
)
def test_a_time_in_a_sentence(time, words):
    assert in_words(time) == words
