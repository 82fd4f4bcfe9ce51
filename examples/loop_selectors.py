"""A client of many guests, on selectors: python loop_selectors.py ADDRESS...

`SelectorsClient` is the whole of it: dialling, deadlines, dialogues, notifications and
backpressure are the library's.
"""

import selectors
import sys
import time
from collections import deque
from functools import partial

from stereos_proto import GetHealth
from stereos_proto_io import parse_address
from stereos_proto_io.driver import LoopClient


class Loop:
    """The event loop: descriptors, a timer for each client, functions to call soon."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.timers = {}
        self.soon = deque()

    def turn(self):
        """Call what is to be called soon, or wait for the next thing to happen."""
        if self.soon:
            self.soon.popleft()()
            return
        wait = min(
            (when - time.monotonic() for when in self.timers.values()), default=None
        )
        for key, mask in self.selector.select(wait if wait is None else max(wait, 0)):
            key.data(key.fileobj, mask)
        for timer in [
            timer for timer, when in self.timers.items() if when <= time.monotonic()
        ]:
            self.timers.pop(timer, None)
            timer()

    def run_until(self, is_over):
        while not is_over():
            self.turn()


class SelectorsClient(LoopClient):
    def __init__(self, loop, address):
        super().__init__(address)
        self.loop = loop
        self.watched = set()

    def watch(self, stream, mask):
        if stream in self.watched:
            self.loop.selector.unregister(stream)
        self.watched.discard(stream)
        if mask:
            self.loop.selector.register(stream, mask, self.on_ready)
            self.watched.add(stream)

    def set_timer(self, seconds):
        self.loop.timers.pop(self.on_timer, None)
        if seconds is not None:
            self.loop.timers[self.on_timer] = time.monotonic() + seconds

    def call_soon(self, function):
        self.loop.soon.append(function)


def main(addresses):
    loop = Loop()
    clients = [SelectorsClient(loop, parse_address(address)) for address in addresses]
    calls = []

    def go_on(client, task):
        print(client.label, "is", task.result().state)
        calls.append(
            client.request(
                GetHealth(), timeout=5, context=lambda call: print(call.result())
            )
        )

    for client in clients:
        client.wait_ready(timeout=60, context=partial(go_on, client))
    loop.run_until(
        lambda: len(calls) == len(clients) and all(call.done for call in calls)
    )
    for client in clients:
        client.close()
    loop.run_until(lambda: not loop.selector.get_map())


if __name__ == "__main__":
    main(sys.argv[1:])
