"""The client for asyncio, uvloop included. Any number of tasks of one loop may share it.

It is a protocol of asyncio's: the loop hands over bytes as they come, so there is no reader task to supervise
and no stream buffer in between. Reading never stops for long, so a write cannot block both ends for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, Final, Self, TypeVar, Unpack

from stereos_proto import Call, RequestTimeout, Waiter
from stereos_proto_io.addresses import Address
from stereos_proto_io.driver import AsyncClient, Limits

from ._dial import adopt, dial
from ._transport import SessionProtocol, fulfil

__all__ = ["Client", "connect", "connect_when_ready"]

Result = TypeVar("Result")


class Client(AsyncClient):
    """A connection to a guest (§3). `connect` or `Client.attach` make one; `aclose` it, or use it in `async with`.

    It belongs to the event loop in which it was made.
    """

    def __init__(self, label: str = "the guest", **limits: Unpack[Limits]) -> None:
        super().__init__(label, **limits)
        self._protocol = SessionProtocol(self._session, self._turns)

    _current_loop = staticmethod(asyncio.get_running_loop)

    @classmethod
    async def attach(cls, stream: Any, *, label: str = "the guest", **limits: Unpack[Limits]) -> Self:
        """Return a client over what is connected already, and is the client's from then on.

        `stream` is a socket, an asyncio transport, or the pair of `StreamReader` and `StreamWriter` that
        `asyncio.open_connection` returns, over TLS or not. A socket that speaks TLS already is refused. A transport's
        protocol must not have read anything: let its `connection_made` pause reading, which goes on here. For a child
        process, pass one end of `socket.socketpair()`, whose other end is its stdin and stdout.

        `max_pending` bounds the requests in flight, `max_notifications` the notifications kept for `notifications()`.

        Raises TypeError when `stream` is no stream, or a reader and a writer of two transports; OSError when it is
        closed; ValueError for a bad limit.
        """
        client = cls(label, **limits)
        await adopt(stream, client._protocol)
        return client

    @classmethod
    async def _dial(cls, address: Address, limits: Limits) -> Self:
        client = cls(str(address), **limits)
        await dial(address, client._protocol)
        return client

    async def _wait(self, waiter: Waiter | Call[Any]) -> None:
        if not waiter.done:
            self._protocol.flush()
        if waiter.done:
            await asyncio.sleep(0)
        try:
            while not waiter.done:
                future = self._loop.create_future()
                waiter.context = partial(fulfil, future)
                await future
        finally:
            waiter.context = None

    def _hang_up(self) -> None:
        self._protocol.abort()

    async def _closed(self) -> None:
        await asyncio.shield(self._protocol.lost)

    @classmethod
    async def _bounded(cls, limit: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        scope = asyncio.timeout(None if limit == inf else limit)
        try:
            async with scope:
                return await function(*args)
        except TimeoutError:
            if not scope.expired():
                raise
        raise RequestTimeout("there was no answer in time")

    @classmethod
    def _now(cls) -> float:
        return asyncio.get_running_loop().time()

    @classmethod
    async def _sleep(cls, limit: float) -> None:
        await asyncio.sleep(max(limit, 0))


connect: Final = Client.connect
connect_when_ready: Final = Client.connect_when_ready
