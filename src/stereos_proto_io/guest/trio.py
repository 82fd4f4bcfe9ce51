"""A guest's server on trio: two tasks for each connection."""

from __future__ import annotations

import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import trio

from stereos_proto import Lifecycle
from stereos_proto_io.addresses import Address

from ._actions import Action, Close, Pause, PowerOff, Reboot
from ._device import AWAY_PAUSE, Device
from ._listen import RESET, Endpoint
from ._served import Guest, Handler, Server, as_guest
from ._session import GuestSession, Owed, refusal
from ._trio_streams import DeviceStream
from .faults import Fault

Sleep = Callable[[float], Awaitable[object]]


@asynccontextmanager
async def serve(
    address: Address | Sequence[Address],
    handler: Handler | Guest,
    *,
    faults: Iterable[Fault | str] = (),
    sleep: Sleep = trio.sleep,
) -> AsyncIterator[GuestServer]:
    """Serve `handler` at one address or several, for the length of an `async with`.

    `handler` takes a request and returns its reply, or is an async function that does: then several requests
    of one connection are handled at once. It may raise RequestRefused. Or it is an object like
    `GuestSimulator`, which has `faults` of its own. `sleep` is what faults wait by.

    Raises OSError when an address cannot be had, ValueError when a guest cannot listen on it.
    """
    server = GuestServer(address, as_guest(handler, faults), sleep)
    try:
        async with trio.open_nursery() as nursery:
            await server.start(nursery)
            yield server
            nursery.cancel_scope.cancel()
    finally:
        server.unbind()


@attrs.define(eq=False)
class _Shared:
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


class GuestServer(Server["GuestLink", _Shared]):
    """What `serve` gives: a guest that is up until its end, or the guest's shutdown."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep) -> None:
        super().__init__(address, guest)
        self.sleep = sleep
        self.nursery: trio.Nursery
        self._off = trio.Event()
        self._scopes: dict[Endpoint, trio.CancelScope] = {}

    async def wait_off(self) -> None:
        """Wait until the guest has shut down."""
        await self._off.wait()

    async def start(self, nursery: trio.Nursery) -> None:
        """Begin to listen, with all tasks in `nursery`."""
        self.nursery = nursery
        if self.guest.faults.refuse_time:
            nursery.start_soon(self._open_later, self.guest.faults.refuse_time)
        else:
            self._open(self._endpoints)

    def unbind(self) -> None:
        """Give the addresses back. All tasks have ended."""
        for endpoint in self._endpoints:
            endpoint.close()

    async def _open_later(self, seconds: float) -> None:
        await self.sleep(seconds)
        self._open(self._endpoints)

    def _open(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            endpoint.listen()
            self._scopes[endpoint] = trio.CancelScope()
            self.nursery.start_soon(self._serve, endpoint, self._scopes[endpoint])

    async def _serve(self, endpoint: Endpoint, scope: trio.CancelScope) -> None:
        with scope:
            if endpoint.device:
                await self._run(endpoint, DeviceStream(Device(endpoint.device)))
                return
            listener = trio.socket.from_stdlib_socket(endpoint.listener)
            while True:
                try:
                    sock, _ = await listener.accept()
                except OSError:
                    # The host has gone again, or we are out of descriptors: the next one comes when one is free.
                    await trio.sleep(AWAY_PAUSE)
                    continue
                stream = trio.SocketStream(sock)
                if endpoint.boundless:
                    await self._run(endpoint, stream)
                else:
                    self.nursery.start_soon(self._run, endpoint, stream)

    async def _run(self, endpoint: Endpoint, stream: trio.abc.Stream) -> None:
        link = GuestLink(self, endpoint, stream, self._state_for(endpoint, _Shared))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def _shut(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            self._scopes[endpoint].cancel()
            endpoint.close()
        for link in self.connections:
            if link.endpoint in endpoints:
                link.end()

    async def obey(self, order: PowerOff | Reboot) -> None:
        """End everything, as a connection was told."""
        if isinstance(order, PowerOff):
            self.guest.power_off()
            self._shut(self._endpoints)
            self._off.set()
        else:
            self._shut(self._fleeting)
            self.nursery.start_soon(self._boot, order.seconds)

    async def _boot(self, seconds: float) -> None:
        await self.sleep(seconds)
        self.guest.reboot()
        for endpoint in self._fleeting:
            endpoint.bind()
        self._open(self._fleeting)
        for shared in self._lasting.values():
            shared.session.restart()
            shared.notify()


class GuestLink:
    """One connection from a host."""

    def __init__(self, server: GuestServer, endpoint: Endpoint, stream: trio.abc.Stream, shared: _Shared) -> None:
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
        try:
            result = self._server.guest.handle(owed.request)
        except Exception as exc:  # noqa: BLE001  (whatever it is, the host is owed a reply)
            result = refusal(owed.request, exc)
        if inspect.isawaitable(result):
            self._server.nursery.start_soon(self._settle, owed, result)
        else:
            self._session.answer(owed, result)

    async def _settle(self, owed: Owed, result: Awaitable[Any]) -> None:
        try:
            reply = await result
        except Exception as exc:  # noqa: BLE001
            reply = refusal(owed.request, exc)
        self._session.answer(owed, reply)
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
