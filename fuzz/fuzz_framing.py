"""Bytes into lines: every cutting gives the lines that the rule of §1 gives, and no more is kept than one line."""

from __future__ import annotations

from stereos_proto._framing import TOO_LONG, LineReader

from . import oracle
from .source import cut, cuttings, split

HEAD = 4
BODY = "stream"
LONGEST = 160
LIMITS = (2, 3, 16, 64, 300)


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of framing does not hold for `data`."""
    head, stream = split(data, HEAD)
    limit = LIMITS[head[0] % len(LIMITS)]
    expected = oracle.lines(stream, limit, ended=True)
    for seed in cuttings(head[1:3], stream):
        assert played(stream, limit, seed, kind=head[3] % 3) == expected


def played(stream: bytes, limit: int, seed: int, *, kind: int) -> tuple[list[bytes], bool]:
    """The lines that the reader finds, and whether the stream had one that was too long."""
    reader = LineReader(limit)
    found: list[bytes] = []
    fed = b""
    for piece in cut(stream, seed):
        fed += piece
        # What the caller does with its buffer afterwards is the caller's business.
        buffer = bytearray(piece)
        reader.feed(piece if kind == 0 else memoryview(piece) if kind == 1 else buffer)
        buffer[:] = b"\xee" * len(buffer)
        if take(reader, found):
            return found, True
        left = reader.trailing_data
        assert left == fed[fed.rfind(b"\n") + 1 :]
        assert len(left) < limit
    reader.feed_eof()
    long = take(reader, found)
    assert long or reader.trailing_data == b""
    return found, long


def take(reader: LineReader, found: list[bytes]) -> bool:
    """Collect lines; return whether a line was too long, which it is from then on."""
    while (line := reader.next_line()) is not None:
        if line is TOO_LONG:
            assert reader.next_line() is TOO_LONG
            return True
        assert type(line) is bytes
        found.append(line)
    return False
