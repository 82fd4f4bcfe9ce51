"""Numbers of things are told in words."""

from __future__ import annotations

import pytest

from stereos_proto_io.cli._counts import counted, listed


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("guest",), "0 guests"),
        (1, ("guest",), "1 guest"),
        (2, ("guest",), "2 guests"),
        (1, ("try", "tries"), "1 try"),
        (3, ("try", "tries"), "3 tries"),
    ],
)
def test_a_number_of_things(number, words, text):
    assert counted(number, *words) == text


@pytest.mark.parametrize(("items", "text"), [([], ""), ([1], "1"), ([1, 2], "1, 2"), ([1, 2, 3], "1, 2 and 1 more")])
def test_more_than_are_named_are_counted(items, text):
    assert listed(items, 2) == text


def test_only_what_is_named_is_made_a_text():
    assert listed(["a", "b", "c"], 2, {"a": "A", "b": "B"}.__getitem__) == "A, B and 1 more"
