"""A guest under Tornado: python loop_tornado.py tcp://HOST:PORT"""

import sys
from collections import deque

from tornado.concurrent import Future, future_set_result_unless_cancelled
from tornado.gen import multi
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.tcpclient import TCPClient

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


class Guest:
    def __init__(self, stream, on_notification):
        self.stream = stream
        self.on_notification = on_notification
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()

    def request(self, message):
        # The stream keeps what the socket does not take: no need to wait.
        self.stream.write(self.stereos.send(message))
        # One that its caller cancels stays here, or the next would get its reply.
        self.waiting.append(Future())
        return self.waiting[-1]

    async def read(self):
        while True:
            try:
                self.stereos.receive_data(
                    await self.stream.read_bytes(65536, partial=True)
                )
            except StreamClosedError:
                self.stereos.receive_eof()
            try:
                for event in self.stereos.events():
                    match event:
                        case ReplyReceived(message=reply):
                            future_set_result_unless_cancelled(
                                self.waiting.popleft(), reply
                            )
                        case NotificationReceived(message=message):
                            self.on_notification(message)
                        case ConnectionClosed():
                            return self.fail(
                                ConnectionLost("no reply: the guest has gone")
                            )
            except RemoteProtocolError as exc:
                self.stream.close()
                return self.fail(exc)

    def fail(self, error):
        while self.waiting:
            if not (waiter := self.waiting.popleft()).done():
                waiter.set_exception(error)


async def converse(place):
    stream = await TCPClient().connect(place.host, place.port)
    guest = Guest(stream, lambda message: print(message.type, message.state))
    IOLoop.current().add_callback(guest.read)

    batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
    replies = await multi([guest.request(message) for message in batch])
    for request, reply in zip(batch, replies, strict=True):
        print(request.type, "->", reply.type)

    guest.request(GetHealth()).cancel()
    print("get_health given up")
    print("ping ->", (await guest.request(Ping())).type)

    down, health = guest.request(Shutdown("done")), guest.request(GetHealth())
    print("shutdown ->", (await down).type)
    try:
        await health
    except ConnectionLost as exc:
        print("get_health:", exc)


if __name__ == "__main__":
    IOLoop.current().run_sync(lambda: converse(parse_address(sys.argv[1])))
