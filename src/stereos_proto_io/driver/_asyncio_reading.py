"""How programs on asyncio read: into one buffer for all connections of a thread, or from a `StreamReader`."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from typing import Final

from ._streams import READ_SIZE


class _Scratch(threading.local):
    """What every connection of a thread reads into. It is filled and emptied before anything else runs there."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))
        # Who reads into it.
        self.reader: SharedBufferProtocol | None = None


_SCRATCH: Final = _Scratch()


class SharedBufferProtocol(asyncio.BufferedProtocol):
    """A protocol that reads into the buffer of its thread.

    asyncio makes 256 KiB for every read of a protocol without a buffer: for a short reply that is more work than all
    the rest. `data_received` is for transports that know such protocols only.

    An exception of a signal handler, such as KeyboardInterrupt, may come within the loop, after it has read and before
    it calls `buffer_updated`: the bytes are lost. That is noticed at the next read of the thread, since the buffer is
    not as it was.
    """

    #: The loop of the connection.
    loop: asyncio.AbstractEventLoop

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Take bytes that were read."""

    @abstractmethod
    def break_off(self) -> None:
        """End the connection, since bytes that were read are lost."""

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return the place to read into."""
        scratch = _SCRATCH
        # The bytes of `reader` are lost. Where its loop is closed, no task waits for them, and `break_off` would raise.
        if scratch.reader is not None and scratch.buffer[0] and not scratch.reader.loop.is_closed():
            scratch.reader.break_off()
        scratch.reader = self
        scratch.buffer[0] = 0
        return scratch.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that were read into it."""
        scratch = _SCRATCH
        self.data_received(bytes(scratch.buffer[:nbytes]))
        scratch.reader = None


def drain(reader: asyncio.StreamReader) -> list[bytes]:
    """What `reader` has read already; the last is b"" where that was the end of the stream."""
    early: list[bytes] = []
    while not early or early[-1]:
        # Run by hand, as far as it comes: it waits where there is nothing more.
        reading = reader.read(READ_SIZE)
        try:
            reading.send(None)
        except StopIteration as stop:
            early.append(stop.value)
        else:
            reading.close()
            break
    return early
