"""Between asyncio's transports and a session: the protocol."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stereos_proto import Preamble, PreambleError

from ._dial import preambles
from ._session import READ_SIZE, Session
from .addresses import Address


class _Scratch(threading.local):
    """What every connection of a thread reads into. It is filled and emptied before anything else runs there."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))


_SCRATCH: Final = _Scratch()


class Wire(asyncio.BufferedProtocol):
    """What a transport calls. It feeds a preamble first, where there is one, and then the session.

    A `BufferedProtocol`, since asyncio makes 256 KiB for every read of the other kind: for a short reply that is
    more work than all the rest. `data_received` is for transports that know that kind only.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.transport: Any = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused = False
        self._take: Callable[[bytes], None] = session.receive
        self._break: Callable[[OSError], None] = session.broken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return the place to read into."""
        return _SCRATCH.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that were read into it."""
        self.data_received(bytes(_SCRATCH.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take bytes from the guest."""
        self._take(data)
        if self.session.wants_write:
            self.flush()

    def eof_received(self) -> None:
        """Take note of the end of the stream; the transport closes by itself then."""
        self._take(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the transport is gone."""
        if isinstance(exc, OSError):
            self._take_the_rest()
            self._break(exc)
        self._take(b"")
        fulfil(self.lost)

    def _take_the_rest(self) -> None:
        """Read what had come when writing failed. asyncio does not, and there may be replies to earlier requests."""
        # uvloop has read it already, and may have no socket any more.
        with suppress(OSError, RuntimeError):
            sock = self.transport.get_extra_info("socket")
            if sock is not None and self.transport.get_extra_info("sslcontext") is None:
                while not self.session.ended and (data := os.read(sock.fileno(), READ_SIZE)):
                    self._take(data)

    def pause_writing(self) -> None:
        """Leave what is to be written in the session: the transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on writing, though not in here: were that to fail, asyncio would tell the end of the transport twice."""
        self._paused = False
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Hand whole lines to the transport, which buffers what the system does not take."""
        session = self.session
        while not self._paused and (data := session.next_write()):
            session.wrote(len(data))
            self.transport.write(data)

    async def open(self, address: Address) -> None:
        """Run what the transport wants before the protocol. Raises PreambleError, OSError."""
        for preamble, patience in preambles(address):
            opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # A caller that gives up closes the stream, and asks no more what that did to the preamble.
            opened.add_done_callback(_look_at)
            self._take = partial(self._advance, preamble, opened)
            self._break = partial(_fail, opened)
            self.transport.write(preamble.data_to_send())
            await asyncio.wait([opened], timeout=patience)
            if opened.done():
                opened.result()
                return

    def _advance(self, preamble: Preamble, opened: asyncio.Future[None], data: bytes) -> None:
        try:
            if data:
                preamble.receive_data(data)
            else:
                preamble.receive_eof()
        except PreambleError as exc:
            _fail(opened, exc)
        if preamble.done:
            # Now, and not when the one that dials goes on: the end of the stream may come before that.
            self._take, self._break = self.session.receive, self.session.broken
            fulfil(opened)
            if trailing := preamble.trailing_data:
                self.data_received(trailing)


def _look_at(opened: asyncio.Future[None]) -> None:
    if not opened.cancelled():
        opened.exception()


def _fail(opened: asyncio.Future[None], error: Exception) -> None:
    if not opened.done():
        opened.set_exception(error)


def fulfil(future: asyncio.Future[None]) -> None:
    """Wake whoever awaits `future`. Twice is fine."""
    if not future.done():
        future.set_result(None)


def abort(wire: Wire) -> None:
    """Close the transport without waiting for its buffer."""
    if wire.transport is not None:
        wire.transport.abort()
