"""The clients of the examples, and what `check_client` needs to put each through its cases in its event loop."""

import asyncio
import importlib
import importlib.util
import threading
import time
from collections import deque
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from stereos_proto.dialogues import SendMany
from stereos_proto_io.conformance._client_loop import LoopVerbs
from stereos_proto_io.driver import replies

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------ loops of callbacks
# Each yields the two arguments of `check_loop_client`: how to make a client, and how to run one turn of the loop.


@contextmanager
def selectors_loop():
    module = example("loop_selectors")
    loop = module.Loop()

    def turn(seconds):
        loop.timers[alarm] = time.monotonic() + seconds
        loop.turn()
        loop.timers.pop(alarm, None)

    def alarm():
        """End the turn."""

    yield lambda address: module.SelectorsClient(loop, address), turn


@contextmanager
def qt_loop():
    from PySide6.QtCore import QCoreApplication, QEventLoop, QTimer

    module = example("loop_qt")
    app = QCoreApplication.instance() or QCoreApplication([])
    alarm = QTimer(singleShot=True)

    def turn(seconds):
        alarm.start(int(seconds * 1000) + 1)
        app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    yield module.QtClient, turn


@contextmanager
def glib_loop():
    from gi.repository import GLib

    module = example("loop_glib")
    context = GLib.MainContext.default()

    def turn(seconds):
        alarm = GLib.timeout_add(int(seconds * 1000) + 1, lambda: GLib.SOURCE_CONTINUE)
        context.iteration(may_block=True)
        GLib.source_remove(alarm)

    yield module.GLibClient, turn


@contextmanager
def tk_loop():
    import tkinter

    module = example("loop_tk")
    root = tkinter.Tk()
    root.withdraw()

    def turn(seconds):
        alarm = root.after(int(seconds * 1000) + 1, lambda: None)
        root.tk.dooneevent(0)
        root.after_cancel(alarm)

    try:
        yield lambda address: module.TkClient(root, address), turn
    finally:
        root.destroy()


@contextmanager
def tornado_loop():
    from tornado.ioloop import IOLoop

    module = example("loop_tornado")
    loop = IOLoop(make_current=False)

    def turn(seconds):
        async def wait():
            await asyncio.sleep(min(seconds, 0.002))

        loop.asyncio_loop.run_until_complete(wait())

    try:
        yield lambda address: module.TornadoClient(loop, address), turn
    finally:
        loop.close()


@contextmanager
def twisted_loop():
    module = example("loop_twisted")
    from twisted.internet import reactor

    reactor.startRunning(installSignalHandlers=False)

    def turn(seconds):
        # Not after what is due was run: nothing might follow it, and the turn would wait in vain.
        pause = reactor.timeout()
        reactor.doIteration(seconds if pause is None else min(pause, seconds))
        reactor.runUntilCurrent()

    yield module.TwistedClient, turn


CALLBACK_LOOPS = {
    "selectors": selectors_loop,
    "qt": qt_loop,
    "glib": glib_loop,
    "tk": tk_loop,
    "tornado": tornado_loop,
    "twisted": twisted_loop,
}


# --------------------------------------------------------------------------------------------------- other clients
# Each returns the arguments of `check_client`.


def threads_client():
    module = example("loop_threads")

    class ThreadVerbs(LoopVerbs):
        """The loop runs by itself; a verb waits for a Future."""

        def __init__(self, address, begin="connect", seconds=10):
            self._timeout = 10
            self._news = deque()
            self._heard = threading.Condition()
            self.client = module.ThreadClient(address, self._on_event)
            try:
                self.client.do(getattr(self.client, begin), timeout=seconds).result(60)
            except BaseException:
                self.close()
                raise

        def _on_event(self, event):
            with self._heard:
                super()._on_event(event)
                self._heard.notify_all()

        def request(self, message, *, timeout=None):
            return self.client.do(self.client.request, message, timeout=self._limit(timeout)).result(60)

        def request_many(self, messages, *, timeout=None):
            def in_one_flight():
                return (yield SendMany(tuple(messages), lambda _index, _outcome: None))

            return replies(self.run(in_one_flight(), timeout=timeout))

        def run(self, dialogue, *, timeout=None):
            return self.client.do(self.client.run, dialogue, timeout=self._limit(timeout)).result(60)

        def _until(self, is_over, seconds=60):
            with self._heard:
                return self._heard.wait_for(is_over, seconds)

        def close(self):
            if self.client.thread.is_alive():
                self.client.stop()
            with self._heard:
                self._heard.notify_all()

    def when_ready(address, seconds):
        return ThreadVerbs(address, "wait_ready", seconds)

    return {"make_client": ThreadVerbs, "when_ready": when_ready}


def dials_with(driver):
    """The two ways of a driver, a class or a module, to get a client."""

    def when_ready(address, seconds):
        return driver.connect_when_ready(address, timeout=seconds)

    return {"make_client": driver.connect, "when_ready": when_ready}


def gevent_client():
    import gevent

    def within(client, message, seconds):
        # The exception is of the class that a driver is most likely to catch for a purpose of its own.
        with gevent.Timeout(seconds, TimeoutError):
            return client.request(message)

    def together(functions):
        gevent.joinall([gevent.spawn(function) for function in functions])

    return {"within": within, "together": together, **dials_with(example("loop_gevent").Client)}


def anyio_client(backend):
    import anyio

    async def within(client, message, seconds):
        with anyio.fail_after(seconds):
            return await client.request(message)

    async def together(functions):
        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(function)

    run = partial(anyio.run, backend=backend)
    return {"run": run, "within": within, "together": together, **dials_with(example("loop_anyio").Client)}


def curio_client():
    import curio

    async def within(client, message, seconds):
        try:
            async with curio.timeout_after(seconds):
                return await client.request(message)
        except curio.TaskTimeout:
            raise TimeoutError from None

    async def together(functions):
        async with curio.TaskGroup() as tasks:
            for function in functions:
                await tasks.spawn(function)

    return {"run": curio.run, "within": within, "together": together, **dials_with(example("loop_curio").Client)}


def handmade_client():
    module = example("loop_handmade")

    async def within(client, message, seconds):
        task = module.LOOP.spawn(client.request(message))
        await module.wait_for_any([task], seconds)
        is_late = not task.is_done
        await module.end([task])
        if is_late:
            raise TimeoutError
        return task.result

    async def together(functions):
        tasks = [module.LOOP.spawn(function()) for function in functions]
        for task in tasks:
            await module.wait_for_any([task])
        await module.end(tasks)

    def run(main):
        return module.LOOP.run(main())

    return {"run": run, "within": within, "together": together, **dials_with(module.Client)}


def uvloop_client():
    import uvloop

    def run(main):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    async def within(client, message, seconds):
        async with asyncio.timeout(seconds):
            return await client.request(message)

    return {"run": run, "within": within, **dials_with(importlib.import_module("stereos_proto_io.asyncio"))}


OTHER_CLIENTS = {
    "threads": threads_client,
    "gevent": gevent_client,
    "anyio on asyncio": partial(anyio_client, "asyncio"),
    "anyio on trio": partial(anyio_client, "trio"),
    "curio": curio_client,
    "handmade": handmade_client,
    "uvloop": uvloop_client,
}
