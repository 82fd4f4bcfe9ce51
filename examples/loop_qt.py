"""A guest in a Qt program, on a unix socket: python loop_qt.py unix:///PATH

QTcpSocket has the same signals. For a socket that you made yourself, such as one of
AF_VSOCK, a QSocketNotifier says when to read.
"""

import sys
from collections import deque

from PySide6.QtCore import QCoreApplication, QObject, Signal
from PySide6.QtNetwork import QLocalSocket

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


class Call(QObject):
    """A request under way. Give it up by disconnecting: it keeps its place in line."""

    replied = Signal(object)
    failed = Signal(str)


class Guest(QObject):
    connected = Signal()
    notified = Signal(object)
    closed = Signal()

    def __init__(self):
        super().__init__()
        self.stereos = Connection(Role.HOST)
        self.waiting = deque()
        self.socket = QLocalSocket(self)
        self.socket.connected.connect(self.connected)
        self.socket.readyRead.connect(self.read)
        self.socket.disconnected.connect(self.end)
        self.socket.errorOccurred.connect(self.end)

    def open(self, path):
        # It connects at once, so the signals above must have their slots by now.
        self.socket.connectToServer(path)

    def request(self, message):
        # Qt keeps what the socket does not take.
        self.socket.write(self.stereos.send(message))
        self.waiting.append(Call())
        return self.waiting[-1]

    def read(self):
        self.stereos.receive_data(self.socket.readAll().data())
        self.dispatch()

    def end(self, *_error):
        self.stereos.receive_eof()
        self.dispatch()

    def dispatch(self):
        try:
            for event in self.stereos.events():
                match event:
                    case ReplyReceived(message=reply):
                        call = self.waiting.popleft()
                        call.replied.emit(reply)
                    case NotificationReceived(message=message):
                        self.notified.emit(message)
                    case ConnectionClosed():
                        self.fail(ConnectionLost("no reply: the guest has gone"))
        except RemoteProtocolError as exc:
            self.fail(exc)
            self.socket.abort()

    def fail(self, error):
        while self.waiting:
            call = self.waiting.popleft()
            call.failed.emit(str(error))
        self.closed.emit()


class Conversation:
    def __init__(self, guest):
        self.guest = guest
        guest.connected.connect(self.begin)
        guest.notified.connect(lambda message: print(message.type, message.state))

    def ask(self, message, then=lambda: None):
        call = self.guest.request(message)
        call.replied.connect(
            lambda reply: (print(message.type, "->", reply.type), then())
        )
        call.failed.connect(lambda error: print(f"{message.type}: {error}"))
        return call

    def begin(self):
        self.ask(Ping())
        self.ask(GetHealth())
        self.ask(Mount("share0", "/workspace", "virtiofs"), self.give_up)

    def give_up(self):
        call = self.ask(GetHealth())
        call.replied.disconnect()
        print("get_health given up")
        self.ask(Ping(), self.end)

    def end(self):
        self.ask(Shutdown("done"))
        self.ask(GetHealth())


if __name__ == "__main__":
    app = QCoreApplication(sys.argv)
    guest = Guest()
    guest.closed.connect(app.quit)
    conversation = Conversation(guest)
    guest.open(parse_address(sys.argv[1]).path)
    sys.exit(app.exec())
