"""One interface for the four clients, and how to run many callers at once."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from stereos_proto import StereosError
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io import blocking
from stereos_proto_io import trio as trio_driver

#: Longer than anything here takes; a test that waits so long has failed.
PATIENCE = 20


class Interrupted(BaseException):
    """An exception that ends a program, but not an event loop."""


@attrs.frozen
class Driver:
    """A driver, how its coroutine functions are run, and how one asks with a deadline."""

    name: str
    module: object
    run: object
    within: object

    @property
    def Client(self):
        return self.module.Client

    def __str__(self):
        return self.name


async def result(value):
    return await value if hasattr(value, "__await__") else value


async def _asyncio_within(client, message, seconds):
    return await asyncio.wait_for(client.request(message), seconds)


async def _trio_within(client, message, seconds):
    with trio.move_on_after(seconds):
        return await client.request(message)
    raise TimeoutError


def _run_uvloop(main):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _run_blocking(main):
    try:
        main().send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the blocking client awaited something")


BLOCKING = Driver(
    "blocking", blocking, _run_blocking, lambda client, message, seconds: client.request(message, timeout=seconds)
)

ASYNCIO = Driver("asyncio", asyncio_driver, lambda main: asyncio.run(main(), debug=True), _asyncio_within)

UVLOOP = Driver("uvloop", asyncio_driver, _run_uvloop, _asyncio_within)

TRIO = Driver("trio", trio_driver, trio.run, _trio_within)

DRIVERS = [BLOCKING, ASYNCIO, UVLOOP, TRIO]

each_driver = pytest.mark.parametrize("driver", DRIVERS, ids=str)


@asynccontextmanager
async def attached(driver, stream, **options):
    """A client over a stream, closed at the end."""
    client = await result(driver.Client.attach(stream, **options))
    try:
        yield client
    finally:
        await result(client.aclose() if hasattr(client, "aclose") else client.close())


@asynccontextmanager
async def entered(made):
    """What `connect` returned, in use."""
    if hasattr(made, "__aenter__"):
        async with made as client:
            yield client
    else:
        with made as client:
            yield client


def run(driver, main):
    """Run `main`; whoever hangs in it is told so."""

    async def guarded():
        if driver is BLOCKING:
            await main()
        elif driver is TRIO:
            with trio.fail_after(PATIENCE):
                await main()
        else:
            async with asyncio.timeout(PATIENCE):
                await main()

    driver.run(guarded)


async def until(driver, condition):
    """Let others go on until `condition` holds."""
    pause = {BLOCKING: time.sleep, TRIO: trio.sleep}.get(driver, asyncio.sleep)
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await result(pause(0.001))


async def some_turns(driver):
    """Let the event loop do what it has to do."""
    if driver is not BLOCKING:
        for _ in range(100):
            await (trio if driver is TRIO else asyncio).sleep(0)


@asynccontextmanager
async def company(driver):
    """A function that begins a call in a thread or task of its own, and returns the list that gets its outcome.

    All calls have ended when the block is left.
    """

    async def ask(found, call):
        try:
            found.append(await result(call()))
        except (StereosError, TimeoutError) as exc:
            found.append(exc)

    def begin(call):
        found = []
        start(lambda: ask(found, call))
        return found

    if driver is TRIO:
        async with trio.open_nursery() as nursery:
            start = nursery.start_soon
            yield begin
    elif driver is BLOCKING:
        threads = []

        def start(work):
            threads.append(threading.Thread(target=driver.run, args=(work,)))
            threads[-1].start()

        yield begin
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    else:
        async with asyncio.TaskGroup() as tasks:

            def start(work):
                tasks.create_task(work())

            yield begin


asyncio_drivers = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)

async_drivers = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO], ids=str)


async def together(driver, *functions):
    """Await or call all `functions` at the same time."""
    if driver is TRIO:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(function() for function in functions))


def errors_of_the_loop():
    """Where asyncio tells what nobody else catches."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    return told
