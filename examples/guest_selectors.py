"""A guest agent in one thread, on selectors: python guest_selectors.py ADDRESS"""

import selectors
import socket
import sys

from stereos_proto import GuestSession, PendingRequest
from stereos_proto_io import parse_address
from stereos_proto_io.guest import GuestSimulator

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
SELECTOR, GUEST = selectors.DefaultSelector(), GuestSimulator()


class Host:
    """One connection from a host."""

    off = False  # whether a host has shut the guest down

    def __init__(self, sock):
        self.sock, self.session, self.watched = sock, GuestSession(), 0
        sock.setblocking(False)
        self.watch(READ)

    def turn(self, mask):
        session, sock = self.session, self.sock
        try:
            if mask & READ:
                data = sock.recv(65536)
                session.receive_data(data) if data else session.receive_eof()
            self.answer()
            while session.wants_write:
                session.data_sent(sock.send(session.data_to_send()))
                self.answer()  # there is room for more requests
        except BlockingIOError:
            pass
        except OSError as exc:
            session.write_failed(exc)
        Host.off = Host.off or session.shut_down
        mask = READ * session.wants_data | WRITE * session.wants_write
        # The mask is 0 while a handler works on a later reply; it then calls `turn(0)`.
        self.watch(0 if session.ended else mask)
        if session.ended:
            sock.close()

    def watch(self, mask):
        if self.watched:
            SELECTOR.unregister(self.sock)
        self.watched = mask
        if mask:
            SELECTOR.register(self.sock, mask, self.turn)

    def answer(self):
        for event in self.session.events():
            if isinstance(event, PendingRequest):
                self.session.reply(event, GUEST.handle(event.request))


if __name__ == "__main__":
    family, target = parse_address(sys.argv[1]).listeners()[0]
    listener = socket.create_server(target, family=family)
    SELECTOR.register(listener, READ, lambda _mask: Host(listener.accept()[0]))
    print("listening on", listener.getsockname()[1], flush=True)
    while not Host.off:
        for key, mask in SELECTOR.select():
            key.data(mask)
