"""One interface for the three clients, so that each scenario of a host is written once.

A scenario is `async def scenario(host, ...)`. `host.run(scenario, ...)` runs it: on asyncio, on trio, or, for the
client that blocks, with nothing below it that could wait.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack


class Seen:
    """What came of one step: a result, or an error. `kind` is the name of its class, "Timeout" for a deadline."""

    def __init__(self, result=None, error=None):
        self.result = result
        self.error = error
        timed_out = isinstance(error, TimeoutError) or type(error).__name__ == "TooSlowError"
        self.kind = "Timeout" if timed_out else type(result if error is None else error).__name__

    def __repr__(self):
        return f"<{self.kind}: {self.result if self.error is None else self.error}>"


class Host:
    """One of the clients."""

    name = ""

    def __init__(self):
        self.driver = importlib.import_module(f"stereos_proto_io.{self.name}")
        #: When each try of a wait ended, and in what.
        self.tries = []

    def run(self, scenario, *args):
        """Run a scenario, close what it opened, and return its result."""

        async def whole():
            async with AsyncExitStack() as self.stack:
                return await scenario(self, *args)

        return self.loop(whole)

    async def see(self, seconds, step, *args):
        """Take a step with a deadline, and return what came of it."""
        try:
            return Seen(await self.within(seconds, step, *args))
        except Exception as exc:  # noqa: BLE001  (whoever asked looks at it)
            return Seen(error=exc)

    def connect(self, address):
        """What the driver's `connect` returns."""
        return self.driver.connect(address)

    async def ask(self, client, message, seconds):
        """Ask with a deadline. Raises TimeoutError, whatever the runtime calls it."""
        seen = await self.see(seconds, client.request, message)
        if seen.kind == "Timeout":
            raise TimeoutError
        if seen.error:
            raise seen.error
        return seen.result

    async def dial(self, address):
        """Connect; the deadline is the step's."""
        return await self.stack.enter_async_context(self.driver.connect(address))

    async def ready(self, address):
        """Connect to a guest that may still boot."""
        connecting = self.driver.connect_when_ready(address, on_progress=self.note_try)
        return await self.stack.enter_async_context(connecting)

    def note_try(self, progress):
        """Note that a try has ended."""
        self.tries.append((time.monotonic(), progress))

    async def close(self, client):
        """Hang up."""
        await client.aclose()


class Blocking(Host):
    """The client that blocks. Each of its calls has a timeout of its own, which is the step's deadline."""

    name = "blocking"

    def connect(self, address):
        # Its own deadlines are for real processors.
        return self.driver.connect(address, timeout=60)

    def loop(self, main):
        coroutine = main()
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise RuntimeError("something waits that cannot")

    async def within(self, seconds, step, *args):
        result = step(*args, timeout=seconds)
        return await result if hasattr(result, "send") else result

    async def dial(self, address, *, timeout):  # noqa: ASYNC109  (it blocks)
        return self.stack.enter_context(self.driver.connect(address, timeout=timeout))

    async def ready(self, address, *, timeout):  # noqa: ASYNC109
        connecting = self.driver.connect_when_ready(address, timeout=timeout, on_progress=self.note_try)
        return self.stack.enter_context(connecting)

    async def close(self, client):
        client.close()


class Asyncio(Host):
    """The client for asyncio."""

    name = "asyncio"

    def loop(self, main):
        return asyncio.run(main())

    async def within(self, seconds, step, *args):
        async with asyncio.timeout(seconds):
            return await step(*args)


class Trio(Host):
    """The client for trio."""

    name = "trio"

    def loop(self, main):
        import trio

        return trio.run(main)

    async def within(self, seconds, step, *args):
        import trio

        with trio.fail_after(seconds):
            return await step(*args)


HOSTS = {host.name: host for host in (Blocking, Asyncio, Trio)}


def together(scenario, *args, within):
    """Run a scenario with all the clients at once, each in a thread; return the results, by client."""
    with ThreadPoolExecutor(len(HOSTS)) as pool:
        runs = {name: pool.submit(host().run, scenario, *args) for name, host in HOSTS.items()}
        return {name: run.result(within) for name, run in runs.items()}
