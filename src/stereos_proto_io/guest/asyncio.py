"""A guest's server on asyncio. One `Protocol` object for each connection, so thousands of them are fine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from stereos_proto_io.addresses import Address
from stereos_proto_io.driver._device import AWAY_PAUSE
from stereos_proto_io.driver._device_transport import DeviceTransport

from ._asyncio_connection import GuestConnection
from ._faulty_session import Session
from ._listen import Endpoint
from ._orders import PowerOff, Reboot
from ._server import LOG, REBIND_PAUSE, Guest, Handler, Server, as_guest, bind_again
from .faults import Fault

__all__ = ["GuestServer", "serve"]

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


class GuestServer(Server[GuestConnection]):
    """What `serve` returns: a guest that is up from `async with` on, until its end or the guest's shutdown."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep) -> None:
        super().__init__(address, guest)
        self.current: dict[Session, GuestConnection] = {}
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
        for connection in self.connections:
            connection.abort()
        for task in self._tasks:
            task.cancel()
        while self._tasks or self._connections:
            ends = [connection.closed.wait() for connection in self._connections]
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

    def _open(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            endpoint.listen()
            work = self._attach(endpoint) if endpoint.device else self._accept(endpoint)
            self._accepting[endpoint] = self.spawn(work)

    async def _attach(self, endpoint: Endpoint) -> None:
        with self._joining(endpoint) as connection:
            device = endpoint.take_device()
            DeviceTransport(asyncio.get_running_loop(), device, connection, waits_for_peer=True)
        await connection.closed.wait()

    async def _accept(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        endpoint.listener.setblocking(False)
        while True:
            try:
                sock, _ = await loop.sock_accept(endpoint.listener)
                connection = await self._take_in(endpoint, sock)
            except Exception as exc:  # noqa: BLE001  (whatever one host brings about, the next is served)
                # The host has gone again, or we are out of descriptors: the next one comes when one is free.
                LOG.debug("a connection to %s was not accepted: %s", endpoint.address, exc)
                await asyncio.sleep(AWAY_PAUSE)
                continue
            if endpoint.boundless:
                await connection.closed.wait()

    async def _take_in(self, endpoint: Endpoint, sock: socket.socket) -> GuestConnection:
        with self._joining(endpoint) as connection:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
            except BaseException:
                sock.close()
                raise
        return connection

    @contextmanager
    def _joining(self, endpoint: Endpoint) -> Iterator[GuestConnection]:
        """A connection to come, which has ended where nothing comes of it: cancelled, uvloop tells it nothing."""
        connection = GuestConnection(self, endpoint, self._session_for(endpoint))
        self._connections.add(connection)
        try:
            yield connection
        except BaseException:
            connection.connection_lost(None)
            raise

    def _shut(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            if task := self._accepting.pop(endpoint, None):
                task.cancel()
            if endpoint.sock:
                # The cancelled task does so too late: after the descriptor was closed, and maybe used again.
                asyncio.get_running_loop().remove_reader(endpoint.sock)
            endpoint.close()
        for connection in self.connections:
            if connection.endpoint in endpoints:
                connection.end()

    def obey(self, order: PowerOff | Reboot) -> None:
        """End everything, as a connection was told."""
        if isinstance(order, PowerOff):
            self._guest_powers_off()
            self._shut(self._endpoints)
            self._off.set()
        else:
            self._shut(self._fleeting)
            self.spawn(self._boot(order.seconds))

    async def _boot(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._guest_reboots()
        for session in self._lasting.values():
            session.restart()
            if session in self.current:
                self.current[session].pump()
        missing = self._fleeting
        while missing and not self._off.is_set():
            tried, missing = missing, bind_again(missing)
            self._open(endpoint for endpoint in tried if endpoint not in missing)
            if missing:
                await asyncio.sleep(REBIND_PAUSE)

    def left(self, connection: GuestConnection) -> None:
        """Take note that `connection` has ended."""
        self._connections.discard(connection)
