"""What a hostile line costs, in calls and in bytes. `bench/worst.py` has the lines, and measures the time."""

import gc
import sys
import tracemalloc

import pytest
from bench import worst

from stereos_proto import LineTooLong, RemoteProtocolError, Role
from stereos_proto._codec import reader

TITLES = [*worst.lines(0)]
READERS = {role: reader(role) for role in Role}


def calls(sender, line):
    """How many functions are called while `line` is read, C functions included."""
    number = 0

    def count(_frame, event, _argument):
        nonlocal number
        number += event in ("call", "c_call")

    READERS[sender](line)
    sys.setprofile(count)
    try:
        READERS[sender](line)
    finally:
        sys.setprofile(None)
    return number


@pytest.mark.parametrize("title", TITLES)
def test_calls_are_linear_and_few(title):
    """The shape of the cost, on any machine: at most four calls for a byte, and as many for each further one."""
    counts = {}
    for size in (32 * 1024, 64 * 1024):
        sender, line = worst.lines(size)[title]
        counts[len(line)] = calls(sender, line)
        assert counts[len(line)] < 4 * len(line)
    (small, before), (large, after) = counts.items()
    assert after < 1.3 * before * large / small + 100


@pytest.mark.parametrize("title", TITLES)
def test_memory_that_is_kept_is_bounded_by_the_bytes(title):
    """64 bytes for each byte received, as far as the message is kept."""
    sender, line = worst.lines(32 * 1024)[title]
    READERS[sender](line)
    gc.collect()
    tracemalloc.start()
    try:
        kept = READERS[sender](line)
        gc.collect()
        size, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not isinstance(kept, LineTooLong)
    assert size < 64 * len(line)


def test_the_lines_are_what_they_are_called():
    """Most are messages: a guest can send them all day. The others end the connection of a host."""
    kept = [
        title
        for title, (sender, line) in worst.lines(4096).items()
        if not isinstance(READERS[sender](line), RemoteProtocolError)
    ]
    assert len(kept) > len(TITLES) / 2
    assert all(abs(len(line) - 40_000) < 20_000 for _sender, line in worst.lines(40_000).values())
