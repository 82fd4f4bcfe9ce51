"""Drivers of one's own: for a runtime that awaits, and for a loop that calls back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, assert_type

from stereos_proto import Call, GetHealth, Health, Ping, Pong, RequestTimeout, Task
from stereos_proto_io import Address
from stereos_proto_io.driver import FdClient, LoopClient

Result = TypeVar("Result")


class AwaitingClient(FdClient):
    """Eight functions of asyncio's, over descriptors."""

    @staticmethod
    def event() -> asyncio.Event:
        return asyncio.Event()

    @staticmethod
    def set(event: asyncio.Event) -> None:
        event.set()

    @staticmethod
    async def readable(stream: Any) -> None:
        waiter = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(stream, waiter.set)
        try:
            await waiter.wait()
        finally:
            loop.remove_reader(stream)

    @staticmethod
    async def writable(stream: Any) -> None:
        waiter = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_writer(stream, waiter.set)
        try:
            await waiter.wait()
        finally:
            loop.remove_writer(stream)

    @staticmethod
    async def race(*functions: Callable[[], Awaitable[object]]) -> None:
        tasks = [asyncio.ensure_future(function()) for function in functions]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    @staticmethod
    async def thread(function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(function, *args)

    @staticmethod
    async def bounded(limit: float, function: Callable[..., Awaitable[Result]], *args: Any) -> Result:
        try:
            async with asyncio.timeout(limit):
                return await function(*args)
        except TimeoutError:
            raise RequestTimeout("there was no answer in time") from None

    @staticmethod
    async def sleep(limit: float) -> None:
        await asyncio.sleep(limit)


async def awaiting(address: Address) -> None:
    """Use it: the verbs and their replies come with it."""
    async with AwaitingClient.connect_when_ready(address, timeout=5) as guest:
        assert_type(guest, AwaitingClient)
        assert_type(await guest.request(Ping()), Pong)
        assert_type(await guest.wait_ready(), Health)


class Loop:
    """An event loop of callbacks."""

    def register(self, stream: object, mask: int, callback: Callable[[Any, int], None]) -> None:
        """Call when ready."""

    def after(self, seconds: float | None, callback: Callable[[], None]) -> None:
        """Call later."""

    def soon(self, callback: Callable[[], object]) -> None:
        """Call soon."""


class CallingClient(LoopClient):
    """Three functions of that loop."""

    def __init__(self, loop: Loop, address: Address) -> None:
        super().__init__(address)
        self.loop = loop

    def watch(self, stream: Any, mask: int) -> None:
        self.loop.register(stream, mask, self.on_ready)

    def set_timer(self, seconds: float | None) -> None:
        self.loop.after(seconds, self.on_timer)

    def call_soon(self, function: Callable[[], object]) -> None:
        self.loop.soon(function)


def calling(loop: Loop, address: Address) -> None:
    """Use it: calls and tasks know their results."""

    def on_pong(call: Call[Pong]) -> None:
        assert_type(call.result(), Pong)

    guest = CallingClient(loop, address)
    assert_type(guest.request(Ping(), timeout=1, context=on_pong), Call[Pong])
    assert_type(guest.request_many([GetHealth(), GetHealth()]), list[Call[Health]])
    assert_type(guest.wait_ready(timeout=5), Task[Health])
