"""A guest under gevent: python loop_gevent.py tcp://HOST:PORT"""

import sys
from collections import deque

import gevent
from gevent import socket
from gevent.event import AsyncResult
from gevent.lock import RLock

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
    def __init__(self, sock, on_notification):
        self.sock = sock
        self.on_notification = on_notification
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()
        self.writing = RLock()
        # A greenlet of its own reads, whoever waits: a write that blocks must not keep
        # us from reading, or both ends would wait for each other.
        self.reader = gevent.spawn(self.read)

    def start(self, message):
        waiter = AsyncResult()
        with self.writing:
            line = self.stereos.send(message)
            self.waiting.append(waiter)
            try:
                self.sock.sendall(line)
            except BaseException:
                # Half a line may have left: nothing may follow it.
                self.stereos.send_failed()
                self.sock.close()
                raise
        return waiter

    def request(self, message):
        # Killed here, a greenlet leaves its waiter behind, which takes the reply.
        return self.start(message).get()

    def read(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            if data:
                self.stereos.receive_data(data)
            else:
                self.stereos.receive_eof()
            try:
                for event in self.stereos.events():
                    match event:
                        case ReplyReceived(message=reply):
                            self.waiting.popleft().set(reply)
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
            self.waiting.popleft().set_exception(error)


def main(place):
    sock = socket.create_connection((place.host, place.port))
    guest = Guest(sock, lambda message: print(message.type, message.state))

    batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
    for request, waiter in [(message, guest.start(message)) for message in batch]:
        print(request.type, "->", waiter.get().type)

    asking = gevent.spawn(guest.request, GetHealth())
    gevent.sleep(0)  # lets it send
    asking.kill()
    print("get_health given up")
    print("ping ->", guest.request(Ping()).type)

    down, health = guest.start(Shutdown("done")), guest.start(GetHealth())
    print("shutdown ->", down.get().type)
    try:
        health.get()
    except ConnectionLost as exc:
        print("get_health:", exc)


if __name__ == "__main__":
    main(parse_address(sys.argv[1]))
