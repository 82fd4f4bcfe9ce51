"""A guest under anyio: python loop_anyio.py asyncio|trio tcp://HOST:PORT"""

import sys
from collections import deque

import anyio

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


class Waiter:
    def __init__(self):
        self.event = anyio.Event()
        self.outcome = None

    def settle(self, outcome):
        self.outcome = outcome
        self.event.set()

    async def wait(self):
        await self.event.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Guest:
    def __init__(self, stream, on_notification):
        self.stream = stream
        self.on_notification = on_notification
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()
        self.writing = anyio.Lock()

    async def start(self, message):
        async with self.writing:
            line = self.stereos.send(message)
            waiter = Waiter()
            self.waiting.append(waiter)
            # Cancelled in the middle, a write would leave half a line behind.
            with anyio.CancelScope(shield=True):
                try:
                    await self.stream.send(line)
                except anyio.BrokenResourceError:
                    # The reading side tells why.
                    self.stereos.send_failed()
        return waiter

    async def request(self, message):
        return await (await self.start(message)).wait()

    async def read(self):
        while True:
            try:
                self.stereos.receive_data(await self.stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
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
                self.fail(exc)
                return await self.stream.aclose()

    def fail(self, error):
        while self.waiting:
            self.waiting.popleft().settle(error)


async def main(place):
    stream = await anyio.connect_tcp(place.host, place.port)
    async with stream, anyio.create_task_group() as tasks:
        guest = Guest(stream, lambda message: print(message.type, message.state))
        tasks.start_soon(guest.read)

        batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
        for request, waiter in [
            (message, await guest.start(message)) for message in batch
        ]:
            print(request.type, "->", (await waiter.wait()).type)

        late = await guest.start(GetHealth())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await late.wait()
        print("get_health given up")
        print("ping ->", (await guest.request(Ping())).type)

        down, health = (
            await guest.start(Shutdown("done")),
            await guest.start(GetHealth()),
        )
        print("shutdown ->", (await down.wait()).type)
        try:
            await health.wait()
        except ConnectionLost as exc:
            print("get_health:", exc)


if __name__ == "__main__":
    anyio.run(main, parse_address(sys.argv[2]), backend=sys.argv[1])
