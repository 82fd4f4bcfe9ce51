"""The clients of the examples, with the verbs that `check_client` puts a client through."""

import importlib.util
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from stereos_proto import NotificationReceived, RequestTimeout, UnknownMessage, UnknownReceived
from stereos_proto.dialogues import SendMany
from stereos_proto_io.driver import SyncVerbs, replies

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Loop:
    """A loop that runs in the thread that made this; other threads hand over what they want done.

    `turn(seconds)` runs one turn of the loop, and waits so long at most.
    """

    def __init__(self, turn):
        self._turn = turn
        self._owner = threading.get_ident()
        self._jobs = deque()

    def do(self, function, *args, **options):
        """Call a function in the thread of the loop, and return what it returns."""
        if threading.get_ident() == self._owner:
            return function(*args, **options)
        future = Future()
        self._jobs.append((future, partial(function, *args, **options)))
        return future.result(60)

    def wait(self, seconds):
        """Run a turn, or in another thread let the loop do so."""
        if threading.get_ident() == self._owner:
            self._turn(seconds)
        else:
            time.sleep(0.002)

    def together(self, functions):
        """Run functions in threads, and the loop meanwhile."""
        threads = [threading.Thread(target=function, daemon=True) for function in functions]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            while self._jobs:
                future, job = self._jobs.popleft()
                try:
                    future.set_result(job())
                except Exception as exc:  # noqa: BLE001  (it is raised in the thread that asked)
                    future.set_exception(exc)
            self._turn(0.002)


class Verbs(SyncVerbs):
    """A `LoopClient` with verbs: each runs the loop until its call is done."""

    def __init__(self, client, loop, *, timeout=10):
        self.client = client
        self._loop = loop
        self._timeout = timeout
        self._news = deque()
        client.on_event = self._on_event
        connected = client.connect(timeout=timeout)
        try:
            self._until(lambda: connected.done)
            connected.result()
        except BaseException:
            self.close()
            raise

    def _on_event(self, event):
        if isinstance(event, NotificationReceived):
            self._news.append(event.message)
        elif isinstance(event, UnknownReceived):
            self._news.append(UnknownMessage(event.type, event.payload))

    def _until(self, is_over, seconds=60):
        deadline = time.monotonic() + seconds
        while not is_over():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._loop.wait(min(left, 0.5))
        return True

    def request(self, message, *, timeout=None):
        call = self._loop.do(self.client.request, message, timeout=self._timeout if timeout is None else timeout)
        try:
            self._until(lambda: call.done)
        finally:
            self._loop.do(self.client.cancel, call)
        return call.result()

    def request_many(self, messages, *, timeout=None):
        calls = self._loop.do(self.client.request_many, messages, timeout=self._timeout if timeout is None else timeout)
        self._until(lambda: all(call.done for call in calls))
        return replies(call.outcome for call in calls)

    def run(self, dialogue, *, timeout=None):
        task = self._loop.do(self.client.run, dialogue, timeout=self._timeout if timeout is None else timeout)
        self._until(lambda: task.done)
        return task.result()

    def notifications(self, *, timeout=None):
        while True:
            session = self.client.session
            came = self._until(lambda session=session: self._news or session.ended, 60 if timeout is None else timeout)
            if self._news:
                yield self._news.popleft()
            elif not came:
                raise RequestTimeout("no notification came in time")
            elif session.closed:
                return
            else:
                raise session.ended

    @property
    def connection(self):
        return self.client.session.connection

    def close(self):
        self._loop.do(self.client.close)
        self._until(lambda: not (self.client._told or self.client._dropped))

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.close()


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

    callers = Loop(turn)
    yield lambda address: Verbs(module.SelectorsClient(loop, address), callers), callers.together


@contextmanager
def qt_loop():
    from PySide6.QtCore import QCoreApplication, QEventLoop, QTimer

    module = example("loop_qt")
    app = QCoreApplication.instance() or QCoreApplication([])
    alarm = QTimer(singleShot=True)

    def turn(seconds):
        alarm.start(int(seconds * 1000) + 1)
        app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    callers = Loop(turn)
    yield lambda address: Verbs(module.QtClient(address), callers), callers.together


@contextmanager
def glib_loop():
    from gi.repository import GLib

    module = example("loop_glib")
    context = GLib.MainContext.default()

    def turn(seconds):
        alarm = GLib.timeout_add(int(seconds * 1000) + 1, lambda: GLib.SOURCE_CONTINUE)
        context.iteration(may_block=True)
        GLib.source_remove(alarm)

    callers = Loop(turn)
    yield lambda address: Verbs(module.GLibClient(address), callers), callers.together


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
        callers = Loop(turn)
        yield lambda address: Verbs(module.TkClient(root, address), callers), callers.together
    finally:
        root.destroy()


@contextmanager
def tornado_loop():
    import asyncio

    from tornado.ioloop import IOLoop

    module = example("loop_tornado")
    loop = IOLoop(make_current=False)

    def turn(seconds):
        async def wait():
            await asyncio.sleep(min(seconds, 0.002))

        loop.asyncio_loop.run_until_complete(wait())

    try:
        callers = Loop(turn)
        yield lambda address: Verbs(module.TornadoClient(loop, address), callers), callers.together
    finally:
        loop.close()


@contextmanager
def twisted_loop():
    module = example("loop_twisted")
    from twisted.internet import reactor

    reactor.startRunning(installSignalHandlers=False)

    def turn(seconds):
        reactor.runUntilCurrent()
        pause = reactor.timeout()
        reactor.doIteration(seconds if pause is None else min(pause, seconds))
        reactor.runUntilCurrent()

    callers = Loop(turn)
    yield lambda address: Verbs(module.TwistedClient(address), callers), callers.together


@contextmanager
def threads_loop():
    module = example("loop_threads")

    class ThreadVerbs(Verbs):
        """The loop runs by itself; a verb waits for a Future."""

        def __init__(self, address):
            self._news = deque()
            self._heard = threading.Condition()
            self.client = module.ThreadClient(address, self._on_event)
            self._timeout = 10
            try:
                self.client.do(self.client.connect, timeout=10).result(60)
            except BaseException:
                self.close()
                raise

        def _on_event(self, event):
            with self._heard:
                super()._on_event(event)
                self._heard.notify_all()

        def request(self, message, *, timeout=None):
            limit = self._timeout if timeout is None else timeout
            return self.client.do(self.client.request, message, timeout=limit).result(60)

        def request_many(self, messages, *, timeout=None):
            def in_one_flight():
                return (yield SendMany(tuple(messages), lambda _index, _outcome: None))

            return replies(self.run(in_one_flight(), timeout=timeout))

        def run(self, dialogue, *, timeout=None):
            limit = self._timeout if timeout is None else timeout
            return self.client.do(self.client.run, dialogue, timeout=limit).result(60)

        def _until(self, is_over, seconds=60):
            with self._heard:
                return self._heard.wait_for(is_over, seconds)

        def close(self):
            if self.client.thread.is_alive():
                self.client.stop()
            with self._heard:
                self._heard.notify_all()

    yield ThreadVerbs, None


@contextmanager
def gevent_loop():
    import gevent

    yield (
        example("loop_gevent").Client.connect,
        lambda functions: gevent.joinall([gevent.spawn(function) for function in functions]),
    )


#: Loops that call back, and green threads: clients that block as seen from here.
BLOCKING_LOOPS = {
    "selectors": selectors_loop,
    "qt": qt_loop,
    "glib": glib_loop,
    "tk": tk_loop,
    "tornado": tornado_loop,
    "twisted": twisted_loop,
    "threads": threads_loop,
    "gevent": gevent_loop,
}


def anyio_runner(backend):
    def load():
        import anyio

        return example("loop_anyio").Client.connect, lambda main: anyio.run(main, backend=backend)

    return load


def curio_runner():
    import curio

    return example("loop_curio").Client.connect, curio.run


def handmade_runner():
    module = example("loop_handmade")
    return module.Client.connect, lambda main: module.LOOP.run(main())


def uvloop_runner():
    import asyncio

    import uvloop

    def run(main):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return importlib.import_module("stereos_proto_io.asyncio").connect, run


#: Loops that await: how to connect, and how to run a coroutine function.
AWAITING_LOOPS = {
    "anyio on asyncio": anyio_runner("asyncio"),
    "anyio on trio": anyio_runner("trio"),
    "curio": curio_runner,
    "handmade": handmade_runner,
    "uvloop": uvloop_runner,
}
