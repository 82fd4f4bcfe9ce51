"""A guest under a scheduler made by hand: python loop_handmade.py tcp://HOST:PORT

It is of curio's kind. A task is a coroutine, and what it yields to the scheduler is a
trap: wait for a socket, or until somebody wakes it.
"""

import selectors
import socket
import sys
import types
from collections import deque

from stereos_proto import (
    Connection,
    ConnectionClosed,
    ConnectionLost,
    GetHealth,
    Mount,
    NotificationReceived,
    Ping,
    RemoteProtocolError,
    ReplyReceived,
    Role,
    Shutdown,
)
from stereos_proto_io import parse_address


class Cancelled(BaseException):
    pass


class Task:
    def __init__(self, coroutine):
        self.coroutine = coroutine
        self.result = None
        self.done = False
        self.leave = None


@types.coroutine
def trap(park):
    """Stop here until woken: `park(wake)` arranges it, and returns how to leave."""
    yield park


class Scheduler:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.ready = deque()

    def spawn(self, coroutine):
        task = Task(coroutine)
        self.ready.append((task, None))
        return task

    def cancel(self, task):
        if task.leave:
            task.leave()
            self.ready.append((task, Cancelled()))

    def run(self, coroutine):
        main = self.spawn(coroutine)
        while not main.done:
            while self.ready:
                self.step(*self.ready.popleft())
            for key, _ in self.selector.select() if not main.done else ():
                self.selector.unregister(key.fileobj)
                key.data()
        return main.result

    def step(self, task, error):
        task.leave = None
        try:
            park = task.coroutine.throw(error) if error else task.coroutine.send(None)
        except (StopIteration, Cancelled) as stop:
            task.result, task.done = getattr(stop, "value", None), True
        else:
            task.leave = park(lambda: self.ready.append((task, None)))

    def turn(self):
        def park(wake):
            wake()
            return lambda: None

        return trap(park)

    def readable(self, sock):
        def park(wake):
            self.selector.register(sock, selectors.EVENT_READ, wake)
            return lambda: self.selector.unregister(sock)

        return trap(park)


class Waiter:
    def __init__(self):
        self.outcome = None
        self.wake = None

    def settle(self, outcome):
        self.outcome = outcome
        if self.wake:
            self.wake()

    def __await__(self):
        def park(wake):
            self.wake = wake
            return self.forget

        if self.outcome is None:
            yield from trap(park)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def forget(self):
        # The caller has left; the waiter stays in line, and swallows the reply.
        self.wake = None


class Guest:
    def __init__(self, scheduler, sock, on_notification):
        self.scheduler = scheduler
        self.sock = sock
        self.on_notification = on_notification
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()

    def request(self, message):
        # Small requests, and few: a socket's buffer holds them. Others would wait for
        # room in a task of their own.
        self.sock.sendall(self.stereos.send(message))
        self.waiting.append(Waiter())
        return self.waiting[-1]

    async def read(self):
        while True:
            await self.scheduler.readable(self.sock)
            if data := self.sock.recv(65536):
                self.stereos.receive_data(data)
            else:
                self.stereos.receive_eof()
            try:
                for event in self.stereos.events():
                    match event:
                        case ReplyReceived(message=reply):
                            self.waiting.popleft().settle(reply)
                        case NotificationReceived(message=message):
                            self.on_notification(message)
                        case ConnectionClosed():
                            return self.fail(
                                ConnectionLost("no reply: the guest has gone")
                            )
            except RemoteProtocolError as exc:
                return self.fail(exc)

    def fail(self, error):
        self.sock.close()
        while self.waiting:
            self.waiting.popleft().settle(error)


async def ask(guest, message):
    return await guest.request(message)


async def main(scheduler, place):
    sock = socket.create_connection((place.host, place.port))
    guest = Guest(scheduler, sock, lambda message: print(message.type, message.state))
    scheduler.spawn(guest.read())

    batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
    for request, waiter in [(message, guest.request(message)) for message in batch]:
        print(request.type, "->", (await waiter).type)

    asking = scheduler.spawn(ask(guest, GetHealth()))
    await scheduler.turn()  # lets it send
    scheduler.cancel(asking)
    print("get_health given up")
    print("ping ->", (await guest.request(Ping())).type)

    down, health = guest.request(Shutdown("done")), guest.request(GetHealth())
    print("shutdown ->", (await down).type)
    try:
        await health
    except ConnectionLost as exc:
        print("get_health:", exc)


if __name__ == "__main__":
    scheduler = Scheduler()
    scheduler.run(main(scheduler, parse_address(sys.argv[1])))
