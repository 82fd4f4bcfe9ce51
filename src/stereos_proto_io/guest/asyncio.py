"""A guest's server on asyncio. One `Protocol` object for each connection, so thousands of them are fine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from stereos_proto_io.addresses import Address

from ._actions import PowerOff, Reboot
from ._asyncio_device import DeviceTransport
from ._asyncio_link import GuestLink, Shared
from ._device import AWAY_PAUSE
from ._listen import Endpoint
from ._served import Guest, Handler, Server, as_guest
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


class GuestServer(Server[GuestLink, Shared]):
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
        for task in self._tasks:
            task.cancel()
        while self._tasks or self._links:
            ends = [link.closed.wait() for link in self._links]
            await asyncio.gather(*self._tasks, *ends, return_exceptions=True)

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
        with self._joining(endpoint) as link:
            DeviceTransport(asyncio.get_running_loop(), endpoint.take_device(), link)
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
        with self._joining(endpoint) as link:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: link, sock)
        return link

    @contextmanager
    def _joining(self, endpoint: Endpoint) -> Iterator[GuestLink]:
        """A connection to come, which has ended where nothing comes of it: cancelled, uvloop tells it nothing."""
        link = GuestLink(self, endpoint, self._state_for(endpoint, Shared))
        self._links.add(link)
        try:
            yield link
        except BaseException:
            link.connection_lost(None)
            raise

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
