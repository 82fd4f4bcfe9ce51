"""A guest's server on asyncio. One `Protocol` object for each connection, so thousands of them are fine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from stereos_proto_io.addresses import Address
from stereos_proto_io.driver._device import AWAY_PAUSE
from stereos_proto_io.driver._device_transport import DeviceTransport

from ._asyncio_connection import GuestConnection
from ._listen import Endpoint
from ._server import LOG, WAITS_FOR_ITSELF, Guest, Handler, LoopServer, Sleep, as_guest
from .faults import Fault

__all__ = ["GuestServer", "serve"]


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

    Addresses are bound here. Raises OSError when one cannot be had, ValueError when a guest cannot listen on it,
    TypeError when `handler` is neither function nor guest, an address is no Address, or a guest with faults of its own
    gets `faults`.
    """
    return GuestServer(address, as_guest(handler, faults), sleep)


class GuestServer(LoopServer[GuestConnection]):
    """What `serve` returns: a guest that is up from `async with` on, until its end or the guest's shutdown."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep) -> None:
        super().__init__(address, guest, sleep=sleep, rest=asyncio.sleep)
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: dict[Endpoint, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        try:
            self._open_in_time()
        except BaseException:
            self._shut(self._endpoints)
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening and end every connection. Twice is fine.

        Raises RuntimeError in a handler, which would wait for its own end.
        """
        if asyncio.current_task() in self._tasks:
            raise RuntimeError(f"{WAITS_FOR_ITSELF} task")
        self._shut(self._endpoints)
        self._off.set()
        for connection in self.connections:
            connection.abort()
        for task in self._tasks:
            task.cancel()
        while self._tasks or self._connections:
            ends = [connection.closed.wait() for connection in self._connections]
            await asyncio.gather(*self._tasks, *ends, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the server is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after `seconds`."""

        async def wait() -> None:
            await self._sleep(seconds)
            then()

        self._spawn(wait())

    def _make_event(self) -> asyncio.Event:
        return asyncio.Event()

    def _start(self, work: Callable[[float], Coroutine[Any, Any, None]], seconds: float, /) -> object:
        return self._spawn(work(seconds))

    def _open(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            endpoint.listen()
            work = self._attach(endpoint) if endpoint.device else self._accept(endpoint)
            self._accepting[endpoint] = self._spawn(work)

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

    def _stop(self, endpoint: Endpoint) -> None:
        if task := self._accepting.pop(endpoint, None):
            task.cancel()
        if endpoint.sock:
            # The cancelled task does so too late: after the descriptor was closed, and maybe used again.
            asyncio.get_running_loop().remove_reader(endpoint.sock)

    def _left(self, connection: GuestConnection) -> None:
        """Record that `connection` has ended."""
        self._connections.discard(connection)
