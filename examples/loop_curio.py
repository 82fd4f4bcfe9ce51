"""A client for curio: python loop_curio.py ADDRESS"""

import sys
from weakref import WeakKeyDictionary

import curio.traps

from stereos_proto import RequestTimeout
from stereos_proto_io import parse_address
from stereos_proto_io.driver import FdClient

CLOSING = WeakKeyDictionary()  # what wakes the tasks that wait for a stream


async def first_of(*functions):
    async with curio.TaskGroup(wait=any) as tasks:
        for function in functions:
            await tasks.spawn(function)


def waiting(trap):
    async def wait_for(stream):
        async def ready():
            if stream.fileno() >= 0:  # it may be closed before this task runs
                await trap(stream)

        closing = CLOSING.setdefault(stream, curio.UniversalEvent())
        await first_of(ready, closing.wait)

    return staticmethod(wait_for)


class Client(FdClient):
    event = curio.UniversalEvent
    set = staticmethod(lambda event: event.set())
    readable = waiting(curio.traps._read_wait)
    writable = waiting(curio.traps._write_wait)
    race = staticmethod(first_of)
    sleep = staticmethod(curio.sleep)
    thread = staticmethod(curio.run_in_thread)

    @staticmethod
    def closing(stream):
        if stream in CLOSING:
            CLOSING[stream].set()

    @staticmethod
    async def bounded(limit, function, *arguments):
        try:
            async with curio.timeout_after(limit):
                return await function(*arguments)
        except curio.TaskTimeout:
            raise RequestTimeout("there was no answer in time") from None


async def main(address):
    async with (
        Client.connect_when_ready(parse_address(address), timeout=60) as guest,
        curio.timeout_after(5),
        curio.TaskGroup() as tasks,
    ):
        for verb in (guest.ping, guest.get_health):
            await tasks.spawn(verb)
        async for task in tasks:
            print(task.result)


if __name__ == "__main__":
    curio.run(main, *sys.argv[1:])
