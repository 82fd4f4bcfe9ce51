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

    def __init__(self, sock):
        self.sock, self.session = sock, GuestSession()
        sock.setblocking(False)
        SELECTOR.register(sock, READ, self.turn)

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
        wanted = READ * session.wants_data | WRITE * session.wants_write
        SELECTOR.unregister(sock)
        if session.ended or not wanted:
            sock.close()
        else:
            SELECTOR.register(sock, wanted, self.turn)

    def answer(self):
        for event in self.session.events():
            if isinstance(event, PendingRequest):
                self.session.reply(event, GUEST.handle(event.request))


if __name__ == "__main__":
    family, target = parse_address(sys.argv[1]).listeners()[0]
    listener = socket.create_server(target, family=family)
    SELECTOR.register(listener, READ, lambda _mask: Host(listener.accept()[0]))
    print("listening on", listener.getsockname()[1], flush=True)
    while GUEST.shutdown_reason is None:
        for key, mask in SELECTOR.select():
            key.data(mask)
