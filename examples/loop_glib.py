"""A guest in a GLib main loop, as GTK has it: python loop_glib.py tcp://HOST:PORT"""

import socket
import sys
from collections import deque

from gi.repository import GLib

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
    def __init__(self, sock, on_notification, on_closed):
        sock.setblocking(False)
        self.sock = sock
        self.on_notification = on_notification
        self.on_closed = on_closed
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()
        self.outgoing = b""
        self.writing = 0
        self.watch(GLib.IO_IN | GLib.IO_HUP | GLib.IO_ERR, self.read)

    def watch(self, condition, callback):
        return GLib.io_add_watch(self.sock, GLib.PRIORITY_DEFAULT, condition, callback)

    def request(self, message, on_outcome):
        """`on_outcome` gets the reply or an error. To give up is to ignore that."""
        line = self.stereos.send(message)
        self.waiting.append(on_outcome)
        self.outgoing += line
        if not self.writing:
            self.writing = self.watch(GLib.IO_OUT, self.write)

    def write(self, _sock, _condition):
        try:
            self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
        except BlockingIOError:
            return GLib.SOURCE_CONTINUE
        except OSError:
            # The reading side tells why.
            self.stereos.send_failed()
            self.outgoing = b""
        if self.outgoing:
            return GLib.SOURCE_CONTINUE
        self.writing = 0
        return GLib.SOURCE_REMOVE

    def read(self, _sock, _condition):
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return GLib.SOURCE_CONTINUE
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
                        self.waiting.popleft()(reply)
                    case NotificationReceived(message=message):
                        self.on_notification(message)
                    case ConnectionClosed():
                        return self.fail(ConnectionLost("no reply: the guest has gone"))
        except RemoteProtocolError as exc:
            return self.fail(exc)
        return GLib.SOURCE_CONTINUE

    def fail(self, error):
        while self.waiting:
            self.waiting.popleft()(error)
        if self.writing:
            GLib.source_remove(self.writing)
        self.sock.close()
        self.on_closed()
        return GLib.SOURCE_REMOVE


class Conversation:
    def __init__(self, place, on_closed):
        sock = socket.create_connection((place.host, place.port))
        self.guest = Guest(
            sock, lambda message: print(message.type, message.state), on_closed
        )
        self.ask(Ping())
        self.ask(GetHealth())
        self.ask(Mount("share0", "/workspace", "virtiofs"), self.give_up)

    def ask(self, message, then=lambda: None):
        def on_outcome(outcome):
            if isinstance(outcome, Exception):
                print(f"{message.type}: {outcome}")
            else:
                print(message.type, "->", outcome.type)
                then()

        self.guest.request(message, on_outcome)

    def give_up(self):
        self.guest.request(GetHealth(), lambda _outcome: None)
        print("get_health given up")
        self.ask(Ping(), self.end)

    def end(self):
        self.ask(Shutdown("done"))
        self.ask(GetHealth())


if __name__ == "__main__":
    loop = GLib.MainLoop()
    conversation = Conversation(parse_address(sys.argv[1]), loop.quit)
    loop.run()
