"""One connection of the guest's server on trio: one task that reads, and one that writes while the host reads
slowly.
"""

from __future__ import annotations

import inspect
import socket
from math import inf
from typing import TYPE_CHECKING, Any, Final

import trio

from stereos_proto import PendingRequest
from stereos_proto_io.driver._device import AWAY_PAUSE, Device

from ._faulty_session import Session
from ._listen import Endpoint, reset_on_close
from ._orders import Close, Order, Pause
from ._server import LoopConnection

if TYPE_CHECKING:
    from .trio import GuestServer

_CHUNK: Final = 64 * 1024


class GuestConnection(LoopConnection):
    """One connection from a host, over a socket or a device that does not block."""

    def __init__(
        self, server: GuestServer, endpoint: Endpoint, transport: socket.socket | Device, session: Session
    ) -> None:
        super().__init__(server.guest, endpoint, session, server._current)
        self._server = server
        self._transport = transport
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._draining = False  # whether a task writes what the host did not take at once
        self._changed = trio.Event()  # set when reading may go on

    def end(self, *, reset: bool = False) -> None:
        """End the connection."""
        self.is_open = False
        if reset and isinstance(self._transport, socket.socket):
            reset_on_close(self._transport)
        self._scope.cancel()

    def abort(self) -> None:
        """End the connection at once: nothing that is written waits in this process."""
        self.end()

    def is_ending(self) -> bool:
        """Whether the nursery of the server, or one around it, is cancelled."""
        return trio.current_effective_deadline() == -inf

    async def run(self) -> None:
        """Talk with the host until one of both ends it."""
        try:
            with self._scope:
                # It may have been ended before this task has started.
                await trio.lowlevel.checkpoint_if_cancelled()
                async with trio.open_nursery() as self._nursery:
                    await self._read()
        finally:
            self.leave()
            trio.lowlevel.notify_closing(self._transport)
            self._transport.close()

    async def _read(self) -> None:
        self.arrive()
        while True:
            if self._busy:
                await trio.lowlevel.checkpoint()
            elif self.session.wants_data:
                await self._receive()
            else:
                self._changed = trio.Event()
                await self._changed.wait()
            self.pump()

    async def _receive(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._transport.recv(_CHUNK)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._transport)
            except OSError:
                self.end()
                return
            else:
                break
        await trio.lowlevel.cancel_shielded_checkpoint()
        if data:
            self.session.receive_data(data)
        elif isinstance(self._transport, Device):
            await trio.sleep(AWAY_PAUSE)
        else:
            self.session.receive_eof()
            if not self.session.has_connections:
                self.end()

    # ------------------------------------------------------------------------- what the session asks for

    def handled(self, pending: PendingRequest, result: Any) -> None:
        """Take the reply, or wait for it in a task."""
        if inspect.isawaitable(result):
            self._server._nursery.start_soon(self.settle, pending, result)
        else:
            self.session.reply(pending, result)

    def obey(self, order: Order) -> None:
        """Pause, close, or end the whole guest."""
        if isinstance(order, Pause):
            self._server._nursery.start_soon(self._pause, order)
        elif isinstance(order, Close):
            self.end(reset=order.reset)
        else:
            self._server._obey(order)

    async def _pause(self, pause: Pause) -> None:
        await self._server._sleep(pause.seconds)
        self.resume(pause)

    def write_some(self) -> bool:
        """Write what the transport takes at once; a task writes the rest."""
        data = b"" if self._draining else self.session.data_to_send()
        if not data:
            return False
        try:
            self.session.data_sent(self._transport.send(data))
        except BlockingIOError:
            self._draining = True
            self._nursery.start_soon(self._drain)
            return False
        except OSError as exc:
            self.session.write_failed(exc)
            self.end()
        return True

    async def _drain(self) -> None:
        """Wait until the transport takes bytes again."""
        if isinstance(self._transport, Device) and self._transport.is_away:
            await trio.sleep(AWAY_PAUSE)
        else:
            await trio.lowlevel.wait_writable(self._transport)
        self._draining = False
        self.pump()

    def watch(self, *, busy: bool) -> None:
        """Wake the task that reads, where it may go on."""
        if busy or self.session.wants_data:
            self._changed.set()
