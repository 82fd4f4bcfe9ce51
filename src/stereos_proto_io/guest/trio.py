"""A guest's server on trio: two tasks for each connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import trio

from stereos_proto_io.addresses import Address

from ._actions import PowerOff, Reboot
from ._device import AWAY_PAUSE
from ._listen import Endpoint
from ._served import Guest, Handler, Server, as_guest
from ._trio_link import GuestLink, Shared
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


class GuestServer(Server[GuestLink, Shared]):
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
                await self._run(endpoint, DeviceStream(endpoint.take_device()))
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
        link = GuestLink(self, endpoint, stream, self._state_for(endpoint, Shared))
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
