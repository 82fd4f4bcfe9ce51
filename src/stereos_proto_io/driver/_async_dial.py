"""Dialling for callers that await: what all runtimes share. A runtime brings what waits."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

from stereos_proto_io.addresses import Address, Attempt, check_address, given

from ._dialling import Dialling, attempts, lookup_number, names, refused


class _Closable(Protocol):
    async def aclose(self) -> None: ...


Client = TypeVar("Client", bound=_Closable)


class Connecting(Generic[Client]):
    """A client to come (§8): `await` it, or enter it with `async with … as client`, which closes it in the end."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Client]]) -> None:
        self._make = make
        # The client of the `async with` that has entered it.
        self._client: Client | None = None
        self._entered = False

    def __await__(self) -> Generator[Any, Any, Client]:
        return self._make().__await__()

    async def __aenter__(self) -> Client:
        if self._entered:
            raise RuntimeError("this connection is entered already; call `connect` for each `async with`")
        self._entered = True
        try:
            self._client = client = await self._make()
        except BaseException:
            self._entered = False
            raise
        return client

    async def __aexit__(self, *_exc: object) -> None:
        client, self._client, self._entered = self._client, None, False
        if client is not None:
            await client.aclose()


async def open_stream(
    address: Address,
    *,
    now: Callable[[], float],
    lookup: Callable[[str, int], Awaitable[list[Attempt] | OSError]],
    next_moment: Callable[[Dialling], Awaitable[object]],
    closing: Callable[[Any], object] | None = None,
) -> tuple[Any, bytes]:
    """Return a stream to `address`, and the bytes of the protocol that came early (§8).

    A runtime brings `lookup`, which looks a name up in a thread, and returns what it found, or the OSError;
    `next_moment`, which waits until one of the streams that the dial watches is ready, and tells the dial, or until its
    next deadline; and `closing`, which is told of a stream before that is closed.

    Raises ConnectError, and what `lookup` and `next_moment` raise: that is how a task is cancelled.
    """
    with refused(address):
        stream = check_address(address).open()
        if inspect.isawaitable(stream):
            stream = given(address, await stream)
        if stream is not None and (not hasattr(stream, "fileno") or next(address.preambles(), None) is None):
            return stream, b""
    places: list[Attempt] = []
    if stream is None:
        name = names(address)
        places = attempts(address, (lookup_number(*name) or await lookup(*name)) if name else ())
    with refused(address):
        dialling = Dialling(address, places, now=now(), stream=stream)
    try:
        while dialling.outcome is None:
            await next_moment(dialling)
            dialling.expire(now())
            _discard(dialling, closing)
    except BaseException:
        dialling.cancel()
        raise
    finally:
        _discard(dialling, closing)
    if isinstance(dialling.outcome, Exception):
        raise dialling.outcome
    return dialling.outcome, dialling.early


def _discard(dialling: Dialling, closing: Callable[[Any], object] | None) -> None:
    while dialling.discarded:
        stream = dialling.discarded.pop()
        if closing is not None:
            closing(stream)
        stream.close()
