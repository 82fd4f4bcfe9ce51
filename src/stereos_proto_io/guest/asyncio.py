"""A guest's server on asyncio. One `Protocol` object for each connection, so thousands of them are fine."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Self, cast

import attrs

from stereos_proto import Lifecycle
from stereos_proto_io.addresses import Address

from ._actions import Close, Pause, PowerOff, Reboot
from ._asyncio_device import DeviceTransport
from ._device import AWAY_PAUSE, Device
from ._listen import RESET, Endpoint
from ._served import Guest, Handler, Server, as_guest
from ._session import GuestSession, Owed, refusal
from .faults import Fault

Sleep = Callable[[float], Awaitable[object]]


def serve(
    address: Address | Sequence[Address],
    handler: Handler | Guest,
    *,
    faults: Iterable[Fault | str] = (),
    sleep: Sleep = asyncio.sleep,
) -> GuestServer:
    """Serve `handler` at one address or several, for the length of an `async with`.

    `handler` takes a request and returns its reply, or is a coroutine function that does: then several
    requests of one connection are handled at once, begun in their order. It may raise RequestRefused. Or it is
    an object like `GuestSimulator`, which has `faults` of its own. `sleep` is what faults wait by.

    Addresses are bound here. Raises OSError when one cannot be had, ValueError when a guest cannot listen on it.
    """
    return GuestServer(address, as_guest(handler, faults), sleep)


@attrs.define(eq=False)
class _Shared:
    """A session, and the connection that it is on now. It outlives one where the stream has none."""

    session: GuestSession
    link: GuestLink | None = None

    def pump(self) -> None:
        """Do all that can be done now."""
        if self.link:
            self.link.pump()


class GuestServer(Server["GuestLink", _Shared]):
    """What `serve` returns: a guest that is up from `async with` on, until its end or the guest's shutdown."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep) -> None:
        super().__init__(address, guest)
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: dict[Endpoint, asyncio.Task[None]] = {}
        self._off = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self.guest.faults.refuse_time:
            self.spawn(self._open_later(self.guest.faults.refuse_time))
        else:
            self._open(self._endpoints)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def wait_off(self) -> None:
        """Wait until the guest has shut down, or was closed."""
        await self._off.wait()

    async def aclose(self) -> None:
        """Stop listening and end every connection. Twice is fine."""
        self._shut(self._endpoints)
        self._off.set()
        for link in self.connections:
            link.abort()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(link.closed.wait() for link in self.connections), return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the server is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after `seconds`."""

        async def wait() -> None:
            await self._sleep(seconds)
            then()

        self.spawn(wait())

    async def _open_later(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._open(self._endpoints)

    def _open(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            endpoint.listen()
            work = self._attach(endpoint) if endpoint.device else self._accept(endpoint)
            self._accepting[endpoint] = self.spawn(work)

    async def _attach(self, endpoint: Endpoint) -> None:
        link = self._link(endpoint)
        DeviceTransport(asyncio.get_running_loop(), Device(endpoint.device), link)
        await link.closed.wait()

    async def _accept(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        endpoint.listener.setblocking(False)
        while True:
            try:
                sock, _ = await loop.sock_accept(endpoint.listener)
            except OSError:
                # The host has gone again, or we are out of descriptors: the next one comes when one is free.
                await asyncio.sleep(AWAY_PAUSE)
                continue
            link = await self._take_in(endpoint, sock)
            if endpoint.boundless:
                await link.closed.wait()

    async def _take_in(self, endpoint: Endpoint, sock: socket.socket) -> GuestLink:
        link = self._link(endpoint)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: link, sock)
        return link

    def _link(self, endpoint: Endpoint) -> GuestLink:
        link = GuestLink(self, endpoint, self._state_for(endpoint, _Shared))
        self._links.add(link)
        return link

    def _shut(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if task := self._accepting.pop(endpoint, None):
                task.cancel()
            if endpoint.sock:
                # The cancelled task does so too late: after the descriptor was closed, and maybe used again.
                asyncio.get_running_loop().remove_reader(endpoint.sock)
            endpoint.close()
        for link in self.connections:
            if link.endpoint in endpoints:
                link.end()

    def obey(self, order: PowerOff | Reboot) -> None:
        """End everything, as a connection was told."""
        if isinstance(order, PowerOff):
            self.guest.power_off()
            self._shut(self._endpoints)
            self._off.set()
        else:
            self._shut(self._fleeting)
            self.pause(order.seconds, self._boot)

    def _boot(self) -> None:
        self.guest.reboot()
        for endpoint in self._fleeting:
            endpoint.bind()
        self._open(self._fleeting)
        for shared in self._lasting.values():
            shared.session.restart()
            shared.pump()

    def left(self, link: GuestLink) -> None:
        """Take note that `link` has ended."""
        self._links.discard(link)


class GuestLink(asyncio.Protocol):
    """One connection from a host."""

    def __init__(self, server: GuestServer, endpoint: Endpoint, shared: _Shared) -> None:
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
        return not self._session.boundless

    def pause_writing(self) -> None:
        """The host does not read: write no more, and so, once enough is owed, read no more."""
        self._may_write = False

    def resume_writing(self) -> None:
        """The host reads again."""
        self._may_write = True
        self.pump()

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
        try:
            result = self._server.guest.handle(owed.request)
        except Exception as exc:  # noqa: BLE001  (whatever it is, the host is owed a reply)
            result = refusal(owed.request, exc)
        if inspect.isawaitable(result):
            self._server.spawn(self._settle(owed, result))
        else:
            self._session.answer(owed, result)

    async def _settle(self, owed: Owed, result: Awaitable[Any]) -> None:
        try:
            reply = await result
        except Exception as exc:  # noqa: BLE001
            reply = refusal(owed.request, exc)
        self._session.answer(owed, reply)
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
