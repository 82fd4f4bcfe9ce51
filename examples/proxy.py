"""A proxy between hosts and a guest, which shows what passes: python proxy.py LISTEN GUEST (tcp://HOST:PORT).

It is a guest towards the host and a host towards the guest, so it has a `Connection` of each role.
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

MAX_PENDING = 32


class Proxy:
    def __init__(self, to_host, to_guest):
        self.to_host = to_host
        self.to_guest = to_guest
        self.host_side = Connection(Role.GUEST)
        self.guest_side = Connection(Role.HOST, max_pending=MAX_PENDING)
        # What the host is owed, in order: a refusal of our own, or None for the guest's next reply.
        self.owed = deque()
        self.room = asyncio.Event()

    async def from_host(self, reader):
        while True:
            event = self.host_side.next_event()
            if event is NEED_DATA:
                data = await reader.read(65536)
                self.host_side.receive_data(data) if data else self.host_side.receive_eof()
            elif isinstance(event, RequestReceived):
                await self.ask(event.message)
            elif isinstance(event, MalformedReceived):
                self.owe(event.reply)
            elif isinstance(event, ConnectionClosed):
                # The host may have closed its own direction only, and still wants its replies.
                self.guest_side.send_eof()
                self.to_guest.write_eof()
                return

    async def ask(self, request):
        while len(self.guest_side.pending) >= MAX_PENDING:
            self.room.clear()
            await self.room.wait()
        try:
            self.to_guest.write(self.guest_side.send(request))
        except LocalProtocolError as exc:
            self.owe(Ack(request.type, False, str(exc)))
        else:
            self.owed.append(None)
            print("host ->", request)
            await self.to_guest.drain()

    def owe(self, refusal):
        self.owed.append(refusal)
        self.settle()

    def settle(self):
        while self.owed and self.owed[0] is not None:
            self.tell(self.owed.popleft())

    def tell(self, message):
        print("guest ->", message)
        self.to_host.write(self.host_side.send(message))

    async def from_guest(self, reader):
        while True:
            event = self.guest_side.next_event()
            if event is NEED_DATA:
                data = await reader.read(65536)
                self.guest_side.receive_data(data) if data else self.guest_side.receive_eof()
                continue
            match event:
                case ReplyReceived(message=reply):
                    self.owed.popleft()
                    self.tell(reply)
                    self.settle()
                    self.room.set()
                case NotificationReceived(message=message):
                    self.tell(message)
                case UnknownReceived(type=type_, payload=payload):
                    self.tell(UnknownMessage(type_, payload))
                case ConnectionClosed():
                    return
            await self.to_host.drain()


async def relay(host_reader, host_writer, guest):
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(host_writer.close)
        try:
            guest_reader, guest_writer = await asyncio.open_connection(guest.host, guest.port)
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
    server = await asyncio.start_server(lambda *streams: relay(*streams, guest), listen.host, listen.port)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening at tcp://{host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(parse_address, sys.argv[1:])))
