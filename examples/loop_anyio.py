"""A client for anyio, on asyncio or trio: python loop_anyio.py BACKEND ADDRESS"""

import sys

import anyio

from stereos_proto import RequestTimeout
from stereos_proto_io import parse_address
from stereos_proto_io.driver import FdClient


class Client(FdClient):
    event = anyio.Event
    set = staticmethod(lambda event: event.set())
    readable = staticmethod(anyio.wait_readable)
    writable = staticmethod(anyio.wait_writable)
    sleep = staticmethod(anyio.sleep)
    now = staticmethod(anyio.current_time)
    closing = staticmethod(anyio.notify_closing)

    @staticmethod
    async def race(*functions):
        async def run(function):
            await function()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(run, function)

    @staticmethod
    async def thread(function, *arguments):
        return await anyio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True
        )

    @staticmethod
    async def bounded(limit, function, *arguments):
        with anyio.move_on_after(limit):
            return await function(*arguments)
        raise RequestTimeout("there was no answer in time")


async def main(address):
    async with Client.connect_when_ready(parse_address(address), timeout=60) as guest:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(show, guest.ping)
                tasks.start_soon(show, guest.get_health)


async def show(verb):
    print(await verb())


if __name__ == "__main__":
    anyio.run(main, sys.argv[2], backend=sys.argv[1])
