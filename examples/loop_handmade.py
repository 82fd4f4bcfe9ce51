"""A client for a scheduler of one's own: python loop_handmade.py ADDRESS

The scheduler comes first, the client after it.
"""

import heapq
import itertools
import select
import sys
import threading
import time
import types
from collections import deque
from math import inf

from stereos_proto import RequestTimeout
from stereos_proto_io import parse_address
from stereos_proto_io.driver import FdClient


class Cancelled(BaseException):
    """Thrown into a task that is cancelled."""


class Task:
    def __init__(self, work):
        self.work = work
        self.is_done = self.is_cancelled = False
        self.result = self.error = self.stop_waiting = None
        self.watchers = []


class Scheduler:
    """Runs coroutines.

    One waits by yielding `begin`: it gets the task and returns how to stop waiting.
    """

    def __init__(self):
        self.ready = deque()
        self.timers = []
        self.numbers = itertools.count()
        self.waits = {}

    def spawn(self, work):
        task = Task(work)
        self.ready.append(task)
        return task

    def resume(self, task):
        if task.stop_waiting is not None:
            task.stop_waiting()
            task.stop_waiting = None
            self.ready.append(task)

    def cancel(self, task):
        task.is_cancelled = True
        self.resume(task)

    def step(self, task):
        cancelled, task.is_cancelled = task.is_cancelled, False
        try:
            begin = task.work.throw(Cancelled()) if cancelled else task.work.send(None)
            task.stop_waiting = begin(task)
        except StopIteration as stop:
            task.result, task.is_done = stop.value, True
        except BaseException as exc:  # noqa: BLE001
            task.error, task.is_done = exc, True
        if task.is_done:
            for watcher in task.watchers:
                self.resume(watcher)

    def call_at(self, when, function):
        heapq.heappush(self.timers, (when, next(self.numbers), function))

    def run(self, work):
        main = self.spawn(work)
        while not main.is_done:
            while self.ready:
                self.step(self.ready.popleft())
            if not main.is_done:
                self.wait(self.timers[0][0] - time.monotonic() if self.timers else None)
            while self.timers and self.timers[0][0] <= time.monotonic():
                heapq.heappop(self.timers)[2]()
        if main.error is not None:
            raise main.error
        return main.result

    def wait(self, seconds):
        """Wait for one of the descriptors that tasks wait for."""
        poll = select.poll()
        for descriptor in {descriptor for descriptor, _ in self.waits}:
            poll.register(
                descriptor, sum(flags for fd, flags in self.waits if fd == descriptor)
            )
        for descriptor, flags in poll.poll(
            None if seconds is None else max(seconds, 0) * 1000
        ):
            for wanted in (select.POLLIN, select.POLLOUT):
                if (
                    flags & (wanted | select.POLLHUP | select.POLLERR)
                    and (descriptor, wanted) in self.waits
                ):
                    self.resume(self.waits[descriptor, wanted])


LOOP = Scheduler()


@types.coroutine
def suspend(begin):
    yield begin


def waiting_for(flags):
    async def wait(stream):
        def begin(task):
            LOOP.waits[key] = task
            return lambda: LOOP.waits.pop(key)

        key = stream.fileno(), flags
        await suspend(begin)

    return staticmethod(wait)


async def wait_for_any(tasks, seconds=inf):
    """Wait until one of `tasks` is done, or for `seconds`."""

    def begin(task):
        waits = [True]
        for each in tasks:
            each.watchers.append(task)
        if seconds < inf:
            LOOP.call_at(
                time.monotonic() + seconds, lambda: waits and LOOP.resume(task)
            )
        return lambda: (waits.clear(), [each.watchers.remove(task) for each in tasks])

    if not any(each.is_done for each in tasks):
        await suspend(begin)


async def end(tasks):
    """Cancel what is not done of `tasks`. Raises what one of them raised."""
    for task in tasks:
        if not task.is_done:
            LOOP.cancel(task)
            await wait_for_any([task])
    for task in tasks:
        if task.error is not None and not isinstance(task.error, Cancelled):
            raise task.error


class Event:
    def __init__(self):
        self.is_set = False
        self.waiting = []

    def set(self):
        self.is_set = True
        for task in tuple(self.waiting):
            LOOP.resume(task)

    async def wait(self):
        def begin(task):
            self.waiting.append(task)
            return lambda: self.waiting.remove(task)

        while not self.is_set:
            await suspend(begin)


class Client(FdClient):
    """Eight functions, and `closing`, since `poll` does not report a close."""

    event = Event
    set = staticmethod(Event.set)
    readable = waiting_for(select.POLLIN)
    writable = waiting_for(select.POLLOUT)

    @staticmethod
    def closing(stream):
        for key in [key for key in LOOP.waits if key[0] == stream.fileno()]:
            LOOP.resume(LOOP.waits[key])

    @staticmethod
    async def sleep(seconds):
        await wait_for_any([], seconds)

    @staticmethod
    async def race(*functions):
        tasks = [LOOP.spawn(function()) for function in functions]
        try:
            await wait_for_any(tasks)
        finally:
            await end(tasks)

    @staticmethod
    async def bounded(limit, function, *arguments):
        task = LOOP.spawn(function(*arguments))
        try:
            await wait_for_any([task], limit)
        finally:
            await end([task])
        if task.error is not None:
            raise RequestTimeout("there was no answer in time")
        return task.result

    @staticmethod
    async def thread(function, *arguments):
        outcome = []
        thread = threading.Thread(
            target=lambda: outcome.append(function(*arguments)), daemon=True
        )
        thread.start()
        while thread.is_alive():
            await Client.sleep(0.01)
        return outcome[0]


async def main(address):
    async with Client.connect_when_ready(parse_address(address), timeout=60) as guest:
        verbs = (guest.ping, guest.get_health)
        tasks = [LOOP.spawn(Client.bounded(5, verb)) for verb in verbs]
        for task in tasks:
            await wait_for_any([task])
            print(task.error or task.result)


if __name__ == "__main__":
    LOOP.run(main(*sys.argv[1:]))
