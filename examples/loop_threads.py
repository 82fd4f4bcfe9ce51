"""A client in a thread of its own, for other threads: python loop_threads.py ADDRESS

`stereos_proto_io.blocking` has no thread and reads only while a caller waits. This
client always reads, so notifications arrive at once, and calls are `Future`s. Other
threads pass work to it through `do`, which wakes it.
"""

import selectors
import socket
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from stereos_proto import ConnectionLost, Ping
from stereos_proto_io import parse_address
from stereos_proto_io.driver import PollClient


class ThreadClient(PollClient):
    def __init__(self, address, on_event=print):
        super().__init__(address)
        self.on_event = on_event
        self.work = deque()
        self.is_serving = True
        self.bell, self.hears = socket.socketpair()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.hears, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve, name=self.label)
        self.thread.start()

    def do(self, function, *arguments, **options):
        """Call a method, such as `request`, in the thread; return a Future."""
        future = Future()
        item = (partial(function, *arguments, **options), future)
        self.work.append(item)
        try:
            self.bell.send(b"!")
        except OSError:
            # The thread has ended. It takes no more work.
            with suppress(ValueError):
                self.work.remove(item)
                future.set_exception(ConnectionLost(f"{self.label} was let go of"))
        return future

    def stop(self):
        self.bell.close()
        self.thread.join()

    def serve(self):
        watched = self.selector.get_map()
        while self.is_serving or len(watched) > 1:
            deadline = self.next_deadline()
            left = None if deadline is None else deadline - self.clock()
            for key, mask in self.selector.select(left):
                if key.fileobj is self.hears:
                    self.take_work()
                else:
                    self.ready(key.fileobj, mask)
            self.tell()
            self.expire()
            self.tell()
            for stream, mask in self.changes():
                if stream in watched:
                    self.selector.unregister(stream)
                if mask:
                    self.selector.register(stream, mask)
        self.hears.close()

    def take_work(self):
        # Drain the wake-up socket before the queue: later work writes to it again.
        if not self.hears.recv(4096):
            self.is_serving = False
            self.close()
        while self.work:
            function, future = self.work.popleft()
            try:
                done = function()
            except Exception as exc:  # noqa: BLE001
                settle(future, partial(throw, exc))
                continue
            if done is not None:
                done.context = future
                future.add_done_callback(partial(self.give_up, done))

    def give_up(self, done, future):
        if future.cancelled():
            self.do(self.cancel, done)

    def tell(self):
        for event in self.events():
            done = getattr(event, "call", None) or getattr(event, "task", None)
            try:
                if done is None:
                    self.on_event(event)
                else:
                    settle(done.context, done.result)
            except Exception as exc:  # noqa: BLE001  it must not end the thread
                sys.excepthook(type(exc), exc, exc.__traceback__)


def settle(future, result):
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(result())
        except Exception as exc:  # noqa: BLE001
            future.set_exception(exc)


def throw(error):
    raise error


def main(address):
    client = ThreadClient(parse_address(address))
    try:
        print("the guest is", client.do(client.wait_ready, timeout=60).result().state)
        print(client.do(client.request, Ping(), timeout=5).result())
    finally:
        client.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
