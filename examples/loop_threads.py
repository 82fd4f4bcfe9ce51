"""A client in a thread of its own, for other threads: python loop_threads.py ADDRESS

`stereos_proto_io.blocking` has no thread and reads only while a caller waits. This one
always reads, so notifications arrive at once, and calls are `Future`s. Other threads
hand it work through `do`, which wakes it.
"""

import selectors
import socket
import sys
import threading
from collections import deque
from concurrent.futures import Future

from stereos_proto import ConnectionLost, Ping
from stereos_proto_io import parse_address
from stereos_proto_io.driver import PollClient


class ThreadClient(PollClient):
    def __init__(self, address, on_event=print):
        super().__init__(address)
        self.on_event = on_event
        self.selector = selectors.DefaultSelector()
        self.work = deque()
        self.bell, self.hears = socket.socketpair()
        self.selector.register(self.hears, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve, name=self.label)
        self.thread.start()

    def do(self, function, *arguments, **options):
        """Call a method of the client in its thread; return a Future of the outcome."""
        future = Future()
        self.work.append((function, arguments, options, future))
        try:
            self.bell.send(b"!")
        except OSError:
            future.set_exception(
                ConnectionLost(f"the client of {self.label} was stopped")
            )
        return future

    def stop(self):
        self.do(self.close)
        self.thread.join()

    def serve(self):
        streams = set()
        while streams or not self._closed:
            deadline = self.next_deadline()
            left = None if deadline is None else max(deadline - self.clock(), 0)
            for key, mask in self.selector.select(left):
                if key.fileobj is self.hears:
                    self.take_work()
                else:
                    self.ready(key.fileobj, mask)
            self.tell()
            self.expire()
            self.tell()
            for stream, mask in self.changes():
                if stream in streams:
                    self.selector.unregister(stream)
                streams.discard(stream)
                if mask:
                    self.selector.register(stream, mask)
                    streams.add(stream)
        self.bell.close()
        self.hears.close()

    def take_work(self):
        # Drain the wake-up socket before the queue; later work writes to it again.
        self.hears.recv(4096)
        while self.work:
            function, arguments, options, future = self.work.popleft()
            try:
                done = function(*arguments, **options)
                done is None and future.set_result(None)
                if done is not None:
                    done.context = future
            except Exception as exc:  # noqa: BLE001
                future.set_exception(exc)

    def tell(self):
        for event in self.events():
            done = getattr(event, "call", None) or getattr(event, "task", None)
            try:
                if done is None:
                    self.on_event(event)
                else:
                    settle(done.context, done)
            except Exception as exc:  # noqa: BLE001  a callback that raises must not end the thread
                sys.excepthook(type(exc), exc, exc.__traceback__)


def settle(future, done):
    try:
        future.set_result(done.result())
    except Exception as exc:  # noqa: BLE001
        future.set_exception(exc)


def main(address):
    client = ThreadClient(parse_address(address))
    try:
        print("the guest is", client.do(client.wait_ready).result(60).state)
        print(client.do(client.request, Ping(), timeout=5).result())
    finally:
        client.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
