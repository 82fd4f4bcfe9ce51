"""The client for asyncio, uvloop included. Any number of tasks of one loop may share it.

It is a protocol of asyncio's: the loop hands over bytes as they come, so there is no reader task to supervise
and no stream buffer in between. Reading never stops, so a write cannot block both ends for ever.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from functools import partial
from typing import Any, Self, Unpack

from stereos_proto import RequestTimeout
from stereos_proto.dialogues import READY_STATES, Backoff, WaitProgress

from ._async_client import Actor, AsyncClient
from ._asyncio_dial import adopt, dial
from ._asyncio_wire import Wire, abort, fulfil
from ._session import Limits, Session, Waiting
from ._verbs import Result, ready_wait
from .addresses import Address

__all__ = ["Client", "connect", "connect_when_ready"]


class Client(AsyncClient):
    """A connection to a guest (§3). `connect` or `Client.attach` make one; `aclose` it, or use it in `async with`.

    It belongs to the event loop in which it was made.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        super().__init__(wire.session)
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def attach(
        cls,
        stream: Any,
        *,
        label: str = "the guest",
        **limits: Unpack[Limits],
    ) -> Self:
        """Return a client over what is connected already, and is the client's from then on.

        `stream` is a socket, an asyncio transport, or the pair of `StreamReader` and `StreamWriter` that
        `asyncio.open_connection` returns. `max_pending` bounds the requests in flight, `max_notifications` the
        notifications kept for `notifications()`.
        """
        wire = Wire(Session(label, **limits))
        await adopt(stream, wire)
        return cls(wire)

    async def _wait(self, waiting: Waiting) -> None:
        if self._session.wants_write:
            self._wire.flush()
        while not waiting.done:
            future = self._loop.create_future()
            waiting.wake = partial(fulfil, future)
            await future

    def _hang_up(self) -> None:
        abort(self._wire)

    async def _closed(self) -> None:
        await asyncio.shield(self._wire.lost)

    @staticmethod
    async def bounded(seconds: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        """Await `function(*args)`. Raises RequestTimeout when `seconds` have passed first."""
        scope = asyncio.timeout(None if seconds == math.inf else seconds)
        try:
            async with scope:
                return await function(*args)
        except TimeoutError:
            if not scope.expired():
                raise
        raise RequestTimeout("there was no answer in time")

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


class _Connecting:
    """A client to come: `await` it, or enter it with `async with`."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Client]]) -> None:
        self.make = make

    def __await__(self) -> Generator[Any, Any, Client]:
        return self.make().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self.make()
        return self._client

    async def __aexit__(self, *_exc: object) -> None:
        await self._client.aclose()


def connect(address: Address, **limits: Unpack[Limits]) -> _Connecting:
    """Dial a guest. Await this for a client, or enter it with `async with … as client`.

    `limits` are those of `Client.attach`. A connection does not mean that the guest is there (§8): see
    `connect_when_ready`.

    Raises ConnectError.
    """

    async def make() -> Client:
        wire = Wire(Session(str(address), **limits))
        await dial(address, wire)
        return Client(wire)

    return _Connecting(make)


def connect_when_ready(
    address: Address,
    *,
    timeout: float | None = None,
    states: Collection[str] = READY_STATES,
    agents: Collection[str] = (),
    backoff: Backoff | None = None,
    on_progress: Callable[[WaitProgress], None] | None = None,
    **limits: Unpack[Limits],
) -> _Connecting:
    """Dial until there is a guest, and wait until it is ready; to be awaited or entered like `connect`.

    Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again (§8).
    `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`. `timeout` bounds it all,
    in seconds; a scope of your own does as well, and then shows where the wait stood in a note on its error.

    Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
    RemoteProtocolError when what answers does not speak the protocol.
    """
    wait = ready_wait(states, agents, backoff, on_progress)
    connecting = connect(address, **limits)

    async def make() -> Client:
        actor = Actor(Client, dial=connecting.make)
        try:
            await actor.wait(wait, timeout, redial=True)
        except BaseException:
            await actor.close()
            raise
        return actor.found(Client)

    return _Connecting(make)
