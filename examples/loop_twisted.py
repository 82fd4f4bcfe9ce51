"""A guest under Twisted: python loop_twisted.py tcp://HOST:PORT"""

import sys
from collections import deque

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    ensureDeferred,
    gatherResults,
)
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

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


class Guest(Protocol):
    def __init__(self, on_notification):
        self.on_notification = on_notification
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()

    def request(self, message):
        self.transport.write(self.stereos.send(message))
        # A Deferred without a canceller keeps its place when it is cancelled, and
        # Twisted swallows the reply that comes for it.
        waiter = Deferred()
        self.waiting.append(waiter)
        return waiter

    def dataReceived(self, data):  # noqa: N802
        self.stereos.receive_data(data)
        self.dispatch()

    def connectionLost(self, reason):  # noqa: N802, ARG002
        self.stereos.receive_eof()
        self.dispatch()

    def dispatch(self):
        try:
            for event in self.stereos.events():
                match event:
                    case ReplyReceived(message=reply):
                        self.waiting.popleft().callback(reply)
                    case NotificationReceived(message=message):
                        self.on_notification(message)
                    case ConnectionClosed():
                        self.fail(ConnectionLost("no reply: the guest has gone"))
        except RemoteProtocolError as exc:
            self.fail(exc)
            self.transport.abortConnection()

    def fail(self, error):
        while self.waiting:
            self.waiting.popleft().errback(error)


async def converse(reactor, place):
    guest = Guest(lambda message: print(message.type, message.state))
    await connectProtocol(HostnameEndpoint(reactor, place.host, place.port), guest)

    batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
    replies = await gatherResults(map(guest.request, batch))
    for request, reply in zip(batch, replies, strict=True):
        print(request.type, "->", reply.type)

    late = guest.request(GetHealth())
    late.addErrback(lambda failure: failure.trap(CancelledError))
    late.cancel()
    print("get_health given up")
    print("ping ->", (await guest.request(Ping())).type)

    down, health = guest.request(Shutdown("done")), guest.request(GetHealth())
    print("shutdown ->", (await down).type)
    try:
        await health
    except ConnectionLost as exc:
        print("get_health:", exc)


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(converse(reactor, parse_address(sys.argv[1]))))
