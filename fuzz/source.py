"""How a harness reads its input: a head of a few bytes that decides how, and a body that is fed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from stereos_proto import StereosError


def split(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The head, filled up with zeros, and the body."""
    return data[:size].ljust(size, b"\0"), data[size:]


def cut(stream: bytes, seed: int) -> Iterator[bytes]:
    """Cut a stream into pieces. Seed 0 makes one piece, 1 single bytes, and each other a cutting of its own."""
    if seed < 2:
        size = len(stream) if seed == 0 else 1
        yield from (stream[start : start + size] for start in range(0, len(stream), size or 1))
        return
    start = 0
    state = seed
    while start < len(stream):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        # Some pieces of a byte or two, but few in all: each costs as much as a line.
        size = 1 + (state >> 16) % (80 if state & 0x3000 else 3)
        yield stream[start : start + size]
        start += size


def cuttings(seed: bytes, stream: bytes) -> tuple[int, int]:
    """The cuttings that one stream is fed in: one piece, and another, which is single bytes for one stream in 32.

    What comes out is compared with a rule that knows no pieces, so that no input needs all of them. Which streams
    are cut into bytes is not for the seed to say: coverage likes the many rounds, and soon every input would be slow.
    """
    return 0, 1 if zlib.crc32(stream) % 32 == 0 else 2 + int.from_bytes(seed, "big")


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns or raises, without the traceback, which would be a cycle. Only our own errors."""
    try:
        return function(*args)
    except StereosError as exc:
        return exc.with_traceback(None)


def raised(function: Callable[..., Any], *args: Any) -> StereosError | None:
    """What `function(*args)` raises, if it raises one of our own errors."""
    result = outcome(function, *args)
    return result if isinstance(result, StereosError) else None


class Choices:
    """Small decisions, one byte each. After the last byte they are all 0."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, number: int) -> int:
        """A number from 0 to `number` - 1."""
        self._at += 1
        return self._data[self._at - 1] % number if self._at <= len(self._data) else 0
