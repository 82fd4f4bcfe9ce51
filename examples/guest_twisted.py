"""A guest agent in Twisted's reactor: python guest_twisted.py PORT"""

import sys

from twisted.internet import interfaces, protocol, reactor
from zope.interface import implementer

from stereos_proto import GuestSession, PendingRequest
from stereos_proto_io.guest import GuestSimulator


@implementer(interfaces.IHalfCloseableProtocol)
class Host(protocol.Protocol):
    """One connection from a host."""

    def connectionMade(self):  # noqa: N802  (the reactor's name)
        self.session = GuestSession()
        # Tells with pauseProducing and resumeProducing whether the host reads.
        self.may_write = True
        self.transport.registerProducer(self, streaming=True)

    def dataReceived(self, data):  # noqa: N802
        self.session.receive_data(data)
        self.turn()

    def readConnectionLost(self):  # noqa: N802
        self.session.receive_eof()  # the host still reads: it gets what it is owed
        self.turn()

    def writeConnectionLost(self):  # noqa: N802
        self.session.close()

    def pauseProducing(self):  # noqa: N802
        self.may_write = False

    def resumeProducing(self):  # noqa: N802
        self.may_write = True
        self.turn()

    stopProducing = writeConnectionLost  # noqa: N815

    def turn(self):
        session = self.session
        working = True
        while working:
            working = False
            for event in session.events():
                if isinstance(event, PendingRequest):
                    session.reply(event, self.factory.guest.handle(event.request))
            while self.may_write and session.wants_write:
                data = bytes(session.data_to_send())
                session.data_sent(len(data))
                self.transport.write(data)
                working = True
        if session.ended:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif session.wants_data:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()


def main(port):
    factory = protocol.Factory.forProtocol(Host)
    factory.guest = GuestSimulator()
    listener = reactor.listenTCP(int(port), factory, interface="127.0.0.1")
    print("listening on", listener.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
