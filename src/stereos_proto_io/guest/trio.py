"""A guest's server on trio."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from stereos_proto_io._extras import missing

try:
    import trio
except ModuleNotFoundError:
    raise missing(__name__, "trio", "trio") from None

from stereos_proto_io.addresses import Address
from stereos_proto_io.driver._device import AWAY_PAUSE, Device

from ._listen import Endpoint
from ._server import LOG, Guest, Handler, LoopServer, Sleep, as_guest
from ._trio_connection import GuestConnection
from .faults import Fault

__all__ = ["GuestServer", "serve"]


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

    Raises OSError when an address cannot be had, ValueError when a guest cannot listen on it,
    TypeError when `handler` is neither function nor guest, an address is no Address, or a guest with faults of its own
    gets `faults`.
    """
    server = GuestServer(address, as_guest(handler, faults), sleep)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            server._begin(nursery)
            yield server
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is internal: the caller's own exception is raised by itself, not in a group.
        error = group.exceptions[0] if len(group.exceptions) == 1 else group
    finally:
        server._unbind()
    if error is not None:
        try:
            raise error
        finally:
            del error


class GuestServer(LoopServer[GuestConnection]):
    """What `serve` gives: a guest that is up until its end, or the guest's shutdown."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest, sleep: Sleep) -> None:
        super().__init__(address, guest, sleep=sleep, rest=trio.sleep)
        self._nursery: trio.Nursery
        self._scopes: dict[Endpoint, trio.CancelScope] = {}

    def _begin(self, nursery: trio.Nursery) -> None:
        """Begin to listen, with all tasks in `nursery`."""
        self._nursery = nursery
        self._open_in_time()

    def _unbind(self) -> None:
        """Give the addresses back. All tasks have ended."""
        self._off.set()
        for endpoint in self._endpoints:
            endpoint.close()

    def _make_event(self) -> trio.Event:
        return trio.Event()

    def _start(self, work: Callable[[float], Coroutine[Any, Any, None]], seconds: float, /) -> None:
        self._nursery.start_soon(work, seconds)

    def _open(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            endpoint.listen()
            self._scopes[endpoint] = trio.CancelScope()
            self._nursery.start_soon(self._serve, endpoint, self._scopes[endpoint])

    async def _serve(self, endpoint: Endpoint, scope: trio.CancelScope) -> None:
        with scope:
            # trio starts a task also where its scope was cancelled before, by a reboot that has closed the endpoint.
            await trio.lowlevel.checkpoint_if_cancelled()
            if endpoint.device:
                await self._run(self._join(endpoint, endpoint.take_device()))
                return
            listener = trio.socket.from_stdlib_socket(endpoint.listener)
            while True:
                try:
                    accepted, _ = await listener.accept()
                except OSError as exc:
                    # The host has gone again, or we are out of descriptors: the next one comes when one is free.
                    LOG.debug("a connection to %s was not accepted: %s", endpoint.address, exc)
                    await trio.sleep(AWAY_PAUSE)
                    continue
                sock = _plain(accepted)
                connection = self._join(endpoint, sock)
                if endpoint.boundless:
                    await self._run(connection)
                else:
                    self._nursery.start_soon(self._run, connection)

    def _join(self, endpoint: Endpoint, transport: socket.socket | Device) -> GuestConnection:
        """A connection to come. It counts from now on: a reboot before its task has started ends it, too."""
        connection = GuestConnection(self, endpoint, transport, self._session_for(endpoint))
        self._connections.add(connection)
        return connection

    async def _run(self, connection: GuestConnection) -> None:
        try:
            await connection.run()
        except Exception:  # noqa: BLE001
            # A bug, but of one connection: the guest goes on for the other hosts. Ctrl-C is no Exception.
            LOG.exception("the connection to %s ends over an error", connection.endpoint.address)
        finally:
            self._connections.discard(connection)

    def _stop(self, endpoint: Endpoint) -> None:
        if scope := self._scopes.get(endpoint):
            scope.cancel()


def _plain(accepted: trio.socket.SocketType) -> socket.socket:
    """The socket of the standard library, which is read and written without trio's own checkpoints."""
    sock = socket.socket(fileno=accepted.detach())
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
