"""One connection of the guest's server on trio: one task reads and handles, one writes."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import attrs
import trio

from stereos_proto import Lifecycle

from ._actions import Action, Close, Pause, PowerOff, Reboot
from ._listen import RESET, Endpoint
from ._served import Guest, attempt, finish
from ._session import GuestSession, Owed


@attrs.define(eq=False)
class Shared:
    """A session, and what its tasks wait on. It outlives a connection where the stream has none."""

    session: GuestSession
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def notify(self) -> None:
        """Wake all who wait."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        await self._changed.wait()


class Home(Protocol):
    """What a connection needs of the server that it belongs to. `nursery` is where handlers go on."""

    guest: Guest
    nursery: trio.Nursery
    sleep: Callable[[float], Awaitable[object]]

    async def obey(self, order: PowerOff | Reboot) -> None:
        """End everything."""
        ...


class GuestLink:
    """One connection from a host."""

    def __init__(self, server: Home, endpoint: Endpoint, stream: trio.abc.Stream, shared: Shared) -> None:
        self.endpoint = endpoint
        self._server = server
        self._stream = stream
        self._session = shared.session
        self._shared = shared
        self._scope = trio.CancelScope()

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        pushed = self._session.push(notification)
        self._shared.notify()
        return pushed

    def end(self, *, reset: bool = False) -> None:
        """End the connection."""
        if reset and isinstance(self._stream, trio.SocketStream):
            with suppress(OSError):
                self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._scope.cancel()

    async def run(self) -> None:
        """Talk with the host until one of both ends it."""
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
            finally:
                await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        while True:
            step = self._session.next_request()
            if self._session.has_actions:
                self._shared.notify()
            if isinstance(step, Pause):
                await self._server.sleep(step.seconds)
            elif step is not None:
                self._handle(step)
            elif self._session.wants_data:
                await self._receive()
            else:
                await self._shared.wait()

    async def _receive(self) -> None:
        try:
            data: bytes | bytearray | None = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = None
        if data:
            self._session.receive_data(bytes(data))
            return
        self._session.receive_eof()
        if data is None or self._session.boundless:
            self.end()

    def _handle(self, owed: Owed) -> None:
        result = attempt(self._server.guest, owed)
        if inspect.isawaitable(result):
            self._server.nursery.start_soon(self._settle, owed, result)
        else:
            self._session.answer(owed, result)

    async def _settle(self, owed: Owed, result: Awaitable[Any]) -> None:
        self._session.answer(owed, await finish(owed, result))
        self._shared.notify()

    async def _write(self) -> None:
        while True:
            action = self._session.next_action()
            if action is None:
                await self._shared.wait()
            else:
                self._shared.notify()  # there is room now
                await self._perform(action)

    async def _perform(self, action: Action) -> None:
        if isinstance(action, bytes):
            try:
                await self._stream.send_all(action)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.end()
        elif isinstance(action, Pause):
            await self._server.sleep(action.seconds)
        elif isinstance(action, Close):
            self.end(reset=action.reset)
        elif isinstance(action, (PowerOff, Reboot)):
            await self._server.obey(action)
