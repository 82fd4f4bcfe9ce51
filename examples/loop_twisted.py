"""A client in Twisted's reactor, with Deferreds: python loop_twisted.py ADDRESS"""

import sys

from twisted.internet import defer, reactor
from twisted.internet.interfaces import IReadWriteDescriptor
from zope.interface import implementer

from stereos_proto import GetHealth, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.driver import READ, WRITE, LoopClient


@implementer(IReadWriteDescriptor)
class Watched:
    """A stream as the reactor wants it."""

    def __init__(self, client, stream):
        self.fileno = stream.fileno
        self.doRead = lambda: client.on_ready(stream, READ)
        self.doWrite = lambda: client.on_ready(stream, WRITE)
        self.connectionLost = lambda _reason: client.on_ready(stream, READ)

    def logPrefix(self):  # noqa: N802  (the reactor's name)
        return "stereos"


class TwistedClient(LoopClient):
    def __init__(self, address):
        super().__init__(address)
        self.watched = {}
        self.timer = None

    def watch(self, stream, mask):
        watched = self.watched.setdefault(stream, Watched(self, stream))
        (reactor.addReader if mask & READ else reactor.removeReader)(watched)
        (reactor.addWriter if mask & WRITE else reactor.removeWriter)(watched)
        if not mask:
            del self.watched[stream]

    def set_timer(self, seconds):
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = (
            None if seconds is None else reactor.callLater(seconds, self.on_timer)
        )

    def call_soon(self, function):
        reactor.callLater(0, function)

    def ask(self, message, timeout=None):
        """Return a Deferred of the reply. Cancelling it gives up the request."""
        deferred = defer.Deferred(lambda _deferred: self.cancel(call))
        call = self.request(
            message, timeout=timeout, context=lambda call: settle(deferred, call)
        )
        return deferred


def settle(deferred, call):
    try:
        deferred.callback(call.result())
    except Exception as exc:  # noqa: BLE001
        deferred.errback(exc)


def main(address):
    client = TwistedClient(parse_address(address))

    def on_ready(task):
        try:
            print("the guest is", task.result().state)
            health = client.ask(GetHealth(), timeout=5)
        except StereosError as exc:
            end(exc)
        else:
            health.addBoth(end)

    def end(outcome):
        """Show the reply, or why there is none, and leave the loop."""
        print(outcome)
        client.close()
        reactor.callLater(0, reactor.stop)

    client.wait_ready(timeout=60, context=on_ready)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
