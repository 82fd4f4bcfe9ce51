"""Between a stream of bytes and lines (`docs/protocol.md` §1)."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

from ._constants import MAX_LINE_SIZE


class Fault(Enum):
    """The type of `TOO_LONG`."""

    TOO_LONG = "too long"


#: What `LineReader.next_line` returns instead of a line over the limit. Nothing can follow it.
TOO_LONG: Final[Literal[Fault.TOO_LONG]] = Fault.TOO_LONG


class LineReader:
    r"""Splits the received bytes into lines, however they are split into chunks.

    A line ends with "\\n"; one "\\r" before that belongs to the ending; empty lines are skipped. The bytes are
    searched once, whatever the size of the chunks, and a chunk that holds whole lines is not copied.
    """

    __slots__ = ("_buffer", "_eof", "_limit", "_searched", "_start")

    def __init__(self, limit: int = MAX_LINE_SIZE) -> None:
        """`limit` is the longest line in bytes, its ending included."""
        self._limit = limit
        # Either the chunk as it came, or a bytearray once a line has arrived in pieces.
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self._searched = 0
        self._eof = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. Nothing is looked at until `next_line`."""
        buffer, start = self._buffer, self._start
        if start == len(buffer):
            self._buffer = data if type(data) is bytes else bytes(data)
            self._start = self._searched = 0
            return
        if type(buffer) is not bytearray:
            buffer = self._buffer = bytearray(memoryview(buffer)[start:])
        elif start:
            # Cheap: CPython moves the front of a bytearray forward instead of moving the bytes.
            del buffer[:start]
        self._searched -= start
        self._start = 0
        buffer += data

    def feed_eof(self) -> None:
        """No more bytes will come: what is left is the last line."""
        self._eof = True

    def next_line(self) -> bytes | Literal[Fault.TOO_LONG] | None:
        """Return the next line without its ending, or None when there is none yet.

        Returns TOO_LONG as soon as the line cannot end within the limit any more, and on every later call.
        """
        buffer = self._buffer
        while True:
            start = self._start
            end = buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = size = len(buffer)
                # The limit includes the line ending, so `limit` bytes without an ending are too long.
                if size - start >= self._limit:
                    return TOO_LONG
                if not self._eof or start == size:
                    return None
                self._start = size
                end = size
            else:
                if end - start >= self._limit:
                    return TOO_LONG
                self._start = self._searched = end + 1
            if end > start and buffer[end - 1] == 13:
                end -= 1
            if end > start:
                # `bytes(buffer[start:end])` would copy twice: slicing a bytearray makes a bytearray.
                return buffer[start:end] if type(buffer) is bytes else bytes(memoryview(buffer)[start:end])

    @property
    def ends_open(self) -> bool:
        """Whether the line handed out last was ended by the end of the stream, not by a newline."""
        return self._eof and self._start == len(self._buffer) and not self._buffer.endswith(b"\n")

    @property
    def trailing_data(self) -> bytes:
        """The bytes that have arrived and have not been handed out."""
        return bytes(memoryview(self._buffer)[self._start :])
