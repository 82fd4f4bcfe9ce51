"""A link with a delay: a proxy in this process that holds every byte back, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Delayed(asyncio.Protocol):
    """One side of the link. What it gets reaches the other side `delay` seconds later, in order."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: asyncio.Future[asyncio.WriteTransport] = asyncio.get_running_loop().create_future()
        self.made: asyncio.Future[asyncio.WriteTransport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.set_result(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self._pass_on, data)
        else:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self.other.done():
            self.other.result().write(data)
        else:
            self.other.add_done_callback(lambda other: other.result().write(data))

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other.done():
            self.other.result().close()


@asynccontextmanager
async def delaying_proxy(target: str, round_trip: float) -> AsyncIterator[tuple[str, int]]:
    """Listen on loopback, and connect to the unix socket `target` over a link of `round_trip` seconds."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def accept() -> _Delayed:
        near = _Delayed(round_trip / 2)
        far = _Delayed(round_trip / 2)

        async def join() -> None:
            transport, _ = await loop.create_unix_connection(lambda: far, target)
            near.other.set_result(transport)
            far.other.set_result(await near.made)

        task = loop.create_task(join())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]
