"""One connection of the guest's server on asyncio: callbacks, and no task of its own."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, cast

from stereos_proto import PendingRequest

from ._faulty_session import Session
from ._listen import Endpoint, reset_on_close
from ._orders import Close, Order, Pause
from ._server import LoopConnection

if TYPE_CHECKING:
    from .asyncio import GuestServer


class GuestConnection(LoopConnection, asyncio.Protocol):
    """One connection from a host."""

    def __init__(self, server: GuestServer, endpoint: Endpoint, session: Session) -> None:
        super().__init__(server.guest, endpoint, session, server._current)
        self.closed: asyncio.Event = asyncio.Event()
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._may_write = True  # False while the transport holds as much as it wants to
        self._reading = True  # whether the transport reads
        self._scheduled = False  # whether the loop will pump

    def end(self, *, reset: bool = False) -> None:
        """Close the connection once all is written; at once with `reset`."""
        if self._transport is None:
            return
        self.is_open = False
        if reset:
            reset_on_close(self._transport.get_extra_info("socket"))
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection, whatever is still to be written."""
        if self._transport is not None:
            self.is_open: bool = False
            self._transport.abort()

    # --------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self.arrive()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the host."""
        self.session.receive_data(data)
        self.pump()

    def eof_received(self) -> bool:
        """Keep the connection for what the host is still owed, unless the stream has no connections."""
        self.session.receive_eof()
        self.pump()
        return self.is_open and self.session.has_connections

    def pause_writing(self) -> None:
        """The host does not read: write no more, and so, once enough is owed, read no more."""
        self._may_write = False

    def resume_writing(self) -> None:
        """The host reads again. Not pumped in here: were that to close the transport, asyncio would do so twice."""
        self._may_write = True
        self._soon()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the connection. What is being handled is carried out all the same."""
        self._transport = None
        self.leave()
        self._server._left(self)
        self.closed.set()

    # ------------------------------------------------------------------------- what the session asks for

    def handled(self, pending: PendingRequest, result: Any) -> None:
        """Take the reply, or wait for it in a task."""
        if inspect.isawaitable(result):
            self._server._spawn(self.settle(pending, result))
        else:
            self.session.reply(pending, result)

    def obey(self, order: Order) -> None:
        """Pause, close, or end the whole guest."""
        if isinstance(order, Pause):
            self._server._pause(order.seconds, lambda: self.resume(order))
        elif isinstance(order, Close):
            self.end(reset=order.reset)
        else:
            self._server._obey(order)

    def write_some(self) -> bool:
        """Hand bytes to the transport, which keeps what the host does not take now."""
        transport = self._transport
        # One that cannot write closes by itself, and complains of what it is given until it says so.
        if transport is None or not self._may_write or transport.is_closing():
            return False
        data = self.session.data_to_send()
        if not data:
            return False
        transport.write(data)
        self.session.data_sent(len(data))
        return True

    def watch(self, *, busy: bool) -> None:
        """Read as long as the session wants data and has handled what came."""
        if busy:
            self._soon()
        wanted = self.session.wants_data and not busy
        if wanted is not self._reading and self._transport is not None:
            self._reading = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.pump()
