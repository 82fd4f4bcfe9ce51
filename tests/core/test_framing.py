"""Lines out of bytes: limits, endings, and work in proportion to the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import MAX_LINE_SIZE
from stereos_proto._framing import TOO_LONG, LineReader
from stereos_proto.testing import strategies as stereos


def lines_of(reader):
    return list(iter(reader.next_line, None))


def read(data, *, limit=MAX_LINE_SIZE, size=None, eof=True):
    reader, lines = LineReader(limit), []
    for start in range(0, len(data), size or max(1, len(data))):
        reader.feed(data[start : start + (size or len(data))])
        while (line := reader.next_line()) is not None:
            lines.append(line)
            if line is TOO_LONG:
                return lines
    if eof:
        reader.feed_eof()
        lines += lines_of(reader)
    return lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", []),
        (b"\r\n", []),
        (b"\r", []),
        (b"\r\r\n", [b"\r"]),
        (b"a\nb\r\nc", [b"a", b"b", b"c"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"a\r", [b"a"]),
        (b" \n", [b" "]),
        (b"a\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8b\n", [b"a\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8b"]),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 2])
def test_endings(data, lines, size):
    assert read(data, size=size) == lines


@pytest.mark.parametrize(
    ("content", "ending", "fits"),
    [
        (9, b"\n", True),
        (10, b"\n", False),
        (8, b"\r\n", True),
        (9, b"\r\n", False),
        (9, b"", True),
        (10, b"", False),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 4])
def test_the_limit_counts_the_ending(content, ending, fits, size):
    data = b"x" * content
    assert read(data + ending, limit=10, size=size) == ([data] if fits else [TOO_LONG])


def test_too_long_comes_before_the_end_of_the_line_and_stays():
    reader = LineReader(10)
    reader.feed(b"ok\n" + b"x" * 9)
    assert reader.next_line() == b"ok"
    assert reader.next_line() is None
    reader.feed(b"x")
    assert reader.next_line() is TOO_LONG
    reader.feed(b"\nok\n")
    assert reader.next_line() is TOO_LONG
    reader.feed_eof()
    assert reader.next_line() is TOO_LONG


def test_nothing_is_looked_at_before_next_line():
    reader = LineReader(4)
    reader.feed(b"a\nlonger than four\n")
    assert reader.trailing_data == b"a\nlonger than four\n"
    assert reader.next_line() == b"a"
    assert reader.trailing_data == b"longer than four\n"


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_what_is_fed_is_not_kept(make):
    source = bytearray(b"a\nb")
    fed = make(bytes(source)) if make is bytes else make(source)
    reader = LineReader()
    reader.feed(fed)
    if isinstance(fed, memoryview):
        fed.release()
    source[:] = b"zzz"
    assert reader.next_line() == b"a"
    reader.feed(make(bytearray(b"c\n")))
    assert reader.next_line() == b"bc"
    assert type(reader.trailing_data) is bytes


def test_lines_are_bytes_however_they_came():
    reader = LineReader()
    reader.feed(b"a")
    assert reader.next_line() is None
    reader.feed(b"b\nc\n")
    assert [type(line) for line in lines_of(reader)] == [bytes, bytes]


def test_ends_open():
    reader = LineReader()
    reader.feed(b"a\nb")
    assert reader.next_line() == b"a"
    assert not reader.ends_open
    reader.feed_eof()
    assert not reader.ends_open
    assert reader.next_line() == b"b"
    assert reader.ends_open
    closed = LineReader()
    closed.feed(b"a\n")
    closed.feed_eof()
    assert closed.next_line() == b"a"
    assert not closed.ends_open


@given(st.lists(st.binary(max_size=12)), st.data())
def test_any_cut_gives_the_same_lines(pieces, data):
    stream = b"\n".join(pieces)
    reader, lines = LineReader(), []
    for chunk in data.draw(stereos.partitions(stream)):
        reader.feed(chunk)
        lines += lines_of(reader)
    reader.feed_eof()
    lines += lines_of(reader)
    assert lines == [line for raw in stream.split(b"\n") if (line := raw.removesuffix(b"\r"))]


class Counting(bytearray):
    """A buffer that counts the bytes in which it is searched."""

    searched = 0

    def find(self, wanted, start=0):
        found = super().find(wanted, start)
        Counting.searched += (found if found >= 0 else len(self)) - start
        return found


@pytest.mark.parametrize("size", [1, 64, 4096])
def test_no_byte_is_searched_twice(size, monkeypatch):
    line = b"x" * 20_000 + b"\n"
    reader, lines = LineReader(), []
    Counting.searched = 0
    for start in range(0, 3 * len(line), size):
        reader.feed((line * 3)[start : start + size])
        if type(reader._buffer) is bytearray:
            reader._buffer = Counting(reader._buffer)
        elif type(reader._buffer) is bytes and reader._buffer:
            Counting.searched += len(reader._buffer) - reader._start
        lines += lines_of(reader)
    assert lines == [line[:-1]] * 3
    assert Counting.searched <= 3 * len(line) + 3 * size
