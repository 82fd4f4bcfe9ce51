"""Between asyncio's transports and a session: the protocol."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

from stereos_proto import HostSession, Turns, forget_locals
from stereos_proto_io.driver import EVENTS_PER_TURN, READ_SIZE
from stereos_proto_io.driver._asyncio_reading import SharedBufferProtocol

#: Reads of what a socket still holds when writing to it has failed: 1 MiB at most.
_LAST_READS: Final = 16


class SessionProtocol(SharedBufferProtocol):
    """The protocol that a transport calls. It feeds the session, and pulls a limited number of events in each turn of
    the loop.

    An exception in the middle of reading or writing ends the session: bytes are lost then, so later replies would be
    taken for those of other requests.
    """

    def __init__(self, session: HostSession, turns: Turns) -> None:
        self.session = session
        self.transport: Any = None
        # Done when the transport is gone.
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.loop = asyncio.get_running_loop()
        self._pull = turns.pump
        # Whether the transport's buffer is full, and whether the pump goes on in a later turn.
        self._full = self._behind = False
        # Why nothing can be written any more.
        self._gone: Exception | None = None

    # -- what the transport calls ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes from the guest."""
        try:
            self.session.receive_data(data)
        except BaseException as exc:
            data = b""  # which a traceback with local variables would show
            self.break_off()
            forget_locals(exc)
            raise
        self.pump()

    def eof_received(self) -> None:
        """Record the end of the stream; the transport closes by itself then."""
        self.session.receive_eof()
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the transport is gone. A transport that cannot write closes by itself."""
        self._gone = exc or BrokenPipeError("the transport was closed")
        # First, since an exception may come: `aclose` waits for it, and goes on in a later turn of the loop.
        fulfil(self.lost)
        if exc is None:
            self.session.receive_eof()
        else:
            self._take_the_rest()
            self.session.read_failed(exc)
        self.pump()

    def pause_writing(self) -> None:
        """Leave what is to be written in the session: the transport's buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on writing, in a later turn: a write that fails in here would end the transport twice."""
        self._full = False
        self.loop.call_soon(self.pump)

    # -- the pump --------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Pull events, and write what the transport takes now. The rest is done in the next turn of the loop."""
        if self._pull(limit=EVENTS_PER_TURN):
            if not self._behind:
                self._behind = True
                self.change_reading("pause_reading")
                self.loop.call_soon(self._catch_up)
        elif self.session.ended is not None:
            self.abort()
            return
        if self.session.wants_write:
            self.flush()
            # A request that had waited could not be written after all.
            if self.session.owes_events:
                self.pump()

    def _catch_up(self) -> None:
        self._behind = False
        self.pump()
        if not self._behind:
            self.change_reading("resume_reading")

    def change_reading(self, change: str) -> None:
        """Call `pause_reading` or `resume_reading` of the transport."""
        # Not every transport can pause, and a closing one refuses.
        with suppress(AttributeError, RuntimeError, NotImplementedError):
            getattr(self.transport, change)()

    def flush(self) -> None:
        """Hand whole lines to the transport, which buffers what the system does not take."""
        session = self.session
        more = self._gone is None
        if self._gone is not None:
            session.write_failed(self._gone)
            self.pump()
        data: bytes | memoryview = b""
        try:
            while more and not self._full and (data := session.data_to_send()):
                more = session.data_sent(len(data))
                self.transport.write(data)
        except BaseException as exc:
            data = b""  # as in `data_received`
            self.break_off()
            forget_locals(exc)
            raise

    def break_off(self) -> None:
        """End the session where it is not known what was read or written. `connection_lost` lets everybody know."""
        self.session.abort()
        self.abort()

    def abort(self) -> None:
        """Close the transport without waiting for its buffer."""
        if self.transport is not None:
            # A child that was forked has the descriptor, too: closing alone would not end the connection.
            with suppress(OSError), self._twin() as sock:
                sock.shutdown(socket.SHUT_RDWR)
            self.transport.abort()

    def _twin(self) -> socket.socket:
        """Return another socket object for the transport's. Raises OSError where it has none any more."""
        sock = self.transport.get_extra_info("socket")
        return socket.socket(fileno=os.dup(-1 if sock is None else sock.fileno()))

    def _take_the_rest(self) -> None:
        """Read what had come when writing failed. asyncio does not, and there may be replies to earlier requests."""
        # uvloop has read it already, and may have no socket any more.
        if self.transport.get_extra_info("sslcontext") is None:
            with suppress(OSError), self._twin() as sock:
                sock.setblocking(False)
                for _ in range(_LAST_READS):
                    if not (data := sock.recv(READ_SIZE)):
                        break
                    self.session.receive_data(data)


def fulfil(future: asyncio.Future[None]) -> None:
    """Wake the task that awaits `future`. Twice is fine."""
    if not future.done():
        future.set_result(None)
