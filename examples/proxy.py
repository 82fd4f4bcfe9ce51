"""A proxy that shows what passes: python proxy.py LISTEN GUEST (both tcp://HOST:PORT)

It is a guest towards the host and a host towards the guest, so it has a `Connection` of
each role. Secrets do not show: the messages keep them out of what they print.
"""

import asyncio
import contextlib
import sys
from collections import deque

from stereos_proto import (
    NEED_DATA,
    Ack,
    Connection,
    ConnectionClosed,
    LocalProtocolError,
    MalformedReceived,
    NotificationReceived,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    Role,
    UnknownMessage,
    UnknownReceived,
)
from stereos_proto_io import parse_address

#: How many replies a host may be owed before we stop reading its requests.
MAX_OWED = 32


class Proxy:
    def __init__(self, to_host, to_guest):
        self.to_host = to_host
        self.to_guest = to_guest
        self.host_side = Connection(Role.GUEST)
        self.guest_side = Connection(Role.HOST, max_pending=MAX_OWED)
        # In the order of the requests: a refusal of our own, or None for the next reply
        # of the guest.
        self.owed = deque()
        self.room = asyncio.Event()

    async def from_host(self, reader):
        while True:
            event = self.host_side.next_event()
            if event is NEED_DATA:
                if data := await reader.read(65536):
                    self.host_side.receive_data(data)
                else:
                    self.host_side.receive_eof()
            elif isinstance(event, RequestReceived):
                self.ask(event.message)
                await self.make_room()
            elif isinstance(event, MalformedReceived):
                self.owed.append(event.reply)
                await self.make_room()
            elif isinstance(event, ConnectionClosed):
                # The host may have closed only its own direction, and still expect its
                # replies.
                self.guest_side.send_eof()
                self.to_guest.write_eof()
                return

    def ask(self, request):
        try:
            line = self.guest_side.send(request)
        except LocalProtocolError as exc:
            self.owed.append(Ack(request.type, False, str(exc)))
        else:
            print("host ->", request)
            self.to_guest.write(line)
            self.owed.append(None)

    async def make_room(self):
        self.settle()
        await self.to_guest.drain()
        await self.to_host.drain()
        while len(self.owed) >= MAX_OWED:
            self.room.clear()
            await self.room.wait()

    def settle(self):
        while self.owed and self.owed[0] is not None:
            self.tell(self.owed.popleft())
        self.room.set()

    def tell(self, message):
        print("guest ->", message)
        self.to_host.write(self.host_side.send(message))

    async def from_guest(self, reader):
        while True:
            event = self.guest_side.next_event()
            match event:
                case ReplyReceived(message=reply):
                    self.owed.popleft()
                    self.tell(reply)
                    self.settle()
                case NotificationReceived(message=message):
                    self.tell(message)
                case UnknownReceived(type=type_, payload=payload):
                    self.tell(UnknownMessage(type_, payload))
                case ConnectionClosed():
                    return
                case _:
                    if data := await reader.read(65536):
                        self.guest_side.receive_data(data)
                    else:
                        self.guest_side.receive_eof()
            await self.to_host.drain()


async def relay(host_reader, host_writer, guest):
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(host_writer.close)
        try:
            guest_reader, guest_writer = await asyncio.open_connection(
                guest.host, guest.port
            )
            stack.callback(guest_writer.close)
            proxy = Proxy(host_writer, guest_writer)
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(proxy.from_host(host_reader))
                await proxy.from_guest(guest_reader)
                print("the guest has gone", flush=True)
                reading.cancel()
        except* (RemoteProtocolError, OSError) as group:
            print(*group.exceptions, flush=True)


async def main(listen, guest):
    server = await asyncio.start_server(
        lambda *streams: relay(*streams, guest), listen.host, listen.port
    )
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening at tcp://{host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(parse_address, sys.argv[1:])))
