"""A client in Tornado's IOLoop, by callbacks: python loop_tornado.py ADDRESS

Coroutines of Tornado's run on asyncio, and can use `stereos_proto_io.asyncio` as it is.
"""

import sys

from tornado.ioloop import IOLoop

from stereos_proto import GetHealth, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.driver import READ, WRITE, LoopClient


class TornadoClient(LoopClient):
    def __init__(self, loop, address):
        super().__init__(address)
        self.loop = loop
        self.watched = set()
        self.timer = None

    def watch(self, stream, mask):
        if stream in self.watched:
            self.loop.remove_handler(stream)
            self.watched.discard(stream)
        if mask:
            events = IOLoop.READ * bool(mask & READ) | IOLoop.WRITE * bool(mask & WRITE)
            self.loop.add_handler(stream, self.on_handler, events)
            self.watched.add(stream)

    def on_handler(self, stream, events):
        mask = READ * bool(events & (IOLoop.READ | IOLoop.ERROR)) | WRITE * bool(
            events & IOLoop.WRITE
        )
        self.on_ready(stream, mask)

    def set_timer(self, seconds):
        if self.timer is not None:
            self.loop.remove_timeout(self.timer)
        self.timer = (
            None if seconds is None else self.loop.call_later(seconds, self.on_timer)
        )

    def call_soon(self, function):
        self.loop.add_callback(function)


async def main(address):
    loop = IOLoop.current()
    client = TornadoClient(loop, parse_address(address))

    def on_ready(task):
        try:
            print("the guest is", task.result().state)
            client.request(GetHealth(), timeout=5, context=on_health)
        except StereosError as exc:
            end(exc)

    def on_health(call):
        end(call.outcome)

    def end(outcome):
        """Show the reply, or why there is none, and leave the loop."""
        print(outcome)
        client.close()
        loop.add_callback(loop.stop)

    client.wait_ready(timeout=60, context=on_ready)


if __name__ == "__main__":
    IOLoop.current().add_callback(main, *sys.argv[1:])
    IOLoop.current().start()
