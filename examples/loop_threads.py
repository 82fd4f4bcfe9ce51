"""A guest with threads and nothing else: python loop_threads.py tcp://HOST:PORT

`stereos_proto_io.blocking` does this better, without a thread of its own. This is how
to do it by hand.
"""

import contextlib
import socket
import sys
import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from functools import partial

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
        self.ended = False
        # Two locks: one for the order of lines on the wire, one for the connection. The
        # second must not be held while a write blocks, or nobody would read meanwhile.
        self.writing = threading.Lock()
        self.lock = threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()

    def request(self, message):
        future = Future()
        with self.writing:
            with self.lock:
                line = self.stereos.send(message)
                self.waiting.append(future)
            try:
                self.sock.sendall(line)
            except OSError:
                # Half a line may have left: nothing may follow it. The reader fails
                # the future, with all others.
                with self.lock:
                    self.stereos.send_failed()
        return future

    def read(self):
        while not self.ended:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            with self.lock:
                if data:
                    self.stereos.receive_data(data)
                else:
                    self.stereos.receive_eof()
                actions = self.take()
            # Callbacks run without the lock, so that they may ask for more.
            for action in actions:
                action()

    def take(self):
        actions = []
        try:
            for event in self.stereos.events():
                match event:
                    case ReplyReceived(message=reply):
                        # A future that was cancelled kept its place, too.
                        actions.append(
                            partial(self.settle, self.waiting.popleft(), reply)
                        )
                    case NotificationReceived(message=message):
                        actions.append(partial(self.on_notification, message))
                    case ConnectionClosed():
                        actions.append(
                            partial(
                                self.fail,
                                ConnectionLost("no reply: the guest has gone"),
                            )
                        )
        except RemoteProtocolError as exc:
            actions.append(partial(self.fail, exc))
        return actions

    def settle(self, future, reply):
        if future.set_running_or_notify_cancel():
            future.set_result(reply)

    def fail(self, error):
        self.ended = True
        # Unlike `close`, this wakes a thread that is in the middle of writing.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        while self.waiting:
            future = self.waiting.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def main(place):
    with socket.create_connection((place.host, place.port)) as sock:
        converse(Guest(sock, lambda message: print(message.type, message.state)))


def converse(guest):
    batch = (Ping(), GetHealth(), Mount("share0", "/workspace", "virtiofs"))
    for request, future in [(message, guest.request(message)) for message in batch]:
        print(request.type, "->", future.result().type)

    late = guest.request(GetHealth())
    late.cancel()
    try:
        late.result()
    except CancelledError:
        print("get_health given up")
    print("ping ->", guest.request(Ping()).result().type)

    down, health = guest.request(Shutdown("done")), guest.request(GetHealth())
    print("shutdown ->", down.result().type)
    try:
        health.result()
    except ConnectionLost as exc:
        print("get_health:", exc)


if __name__ == "__main__":
    main(parse_address(sys.argv[1]))
