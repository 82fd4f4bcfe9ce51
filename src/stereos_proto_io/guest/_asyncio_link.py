"""One connection of the guest's server on asyncio: callbacks, and no task of its own."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, cast

import attrs

from stereos_proto import Lifecycle

from ._actions import Close, Pause, PowerOff, Reboot
from ._listen import RESET, Endpoint
from ._served import Guest, attempt, finish
from ._session import GuestSession, Owed


@attrs.define(eq=False)
class Shared:
    """A session, and the connection that it is on now. It outlives one where the stream has none."""

    session: GuestSession
    link: GuestLink | None = None

    def pump(self) -> None:
        """Do all that can be done now."""
        if self.link:
            self.link.pump()


class Home(Protocol):
    """What a connection needs of the server that it belongs to."""

    guest: Guest

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Run `work` until it ends or the server is closed."""
        ...

    def pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after `seconds`."""
        ...

    def obey(self, order: PowerOff | Reboot) -> None:
        """End everything."""
        ...

    def left(self, link: GuestLink) -> None:
        """Take note that `link` has ended."""
        ...


class GuestLink(asyncio.Protocol):
    """One connection from a host."""

    def __init__(self, server: Home, endpoint: Endpoint, shared: Shared) -> None:
        self.endpoint = endpoint
        self.closed = asyncio.Event()
        self._server = server
        self._session = shared.session
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._may_write = True
        self._handling = self._acting = self._reading = True

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        pushed = self._session.push(notification)
        self.pump()
        return pushed

    def end(self, *, reset: bool = False) -> None:
        """Close the connection once all is written; at once with `reset`."""
        if self._transport is None:
            return
        if reset:
            with suppress(OSError):
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection, whatever is still to be written."""
        if self._transport is not None:
            self._transport.abort()

    # --------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._shared.link = self
        self.pump()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the host."""
        self._session.receive_data(data)
        self.pump()

    def eof_received(self) -> bool:
        """Keep the connection for what the host is still owed, unless the stream has no connections."""
        self._session.receive_eof()
        self.pump()
        return self._is_open and not self._session.boundless

    def pause_writing(self) -> None:
        """The host does not read: write no more, and so, once enough is owed, read no more."""
        self._may_write = False

    def resume_writing(self) -> None:
        """The host reads again. Not pumped in here: were that to close the transport, asyncio would do so twice."""
        self._may_write = True
        asyncio.get_running_loop().call_soon(self.pump)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the connection. What is being handled is carried out all the same."""
        self._transport = self._shared.link = None
        self._server.left(self)
        self.closed.set()

    # ------------------------------------------------------------------------------------ the work

    def pump(self) -> None:
        """Do all that can be done now."""
        while self._is_open and (self._take() or self._act()):
            pass
        if self._transport is not None and self._is_open and self._session.wants_data is not self._reading:
            self._reading = not self._reading
            (self._transport.resume_reading if self._reading else self._transport.pause_reading)()

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _take(self) -> bool:
        step = self._session.next_request() if self._handling else None
        if step is None:
            return False
        if isinstance(step, Pause):
            self._handling = False
            self._server.pause(step.seconds, self._handle_on)
        else:
            self._handle(step)
        return True

    def _handle_on(self) -> None:
        self._handling = True
        self._shared.pump()

    def _handle(self, owed: Owed) -> None:
        result = attempt(self._server.guest, owed)
        if inspect.isawaitable(result):
            self._server.spawn(self._settle(owed, result))
        else:
            self._session.answer(owed, result)

    async def _settle(self, owed: Owed, result: Awaitable[Any]) -> None:
        self._session.answer(owed, await finish(owed, result))
        self._shared.pump()

    def _act(self) -> bool:
        action = self._session.next_action() if self._may_write and self._acting else None
        if isinstance(action, bytes):
            cast("asyncio.Transport", self._transport).write(action)
        elif isinstance(action, Pause):
            self._acting = False
            self._server.pause(action.seconds, self._act_on)
        elif isinstance(action, Close):
            self.end(reset=action.reset)
        elif isinstance(action, (PowerOff, Reboot)):
            self._server.obey(action)
        return action is not None

    def _act_on(self) -> None:
        self._acting = True
        self.pump()
