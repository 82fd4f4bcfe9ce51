"""`GreenClient`, with threads in the place of green threads: an error of its runtime reaches the caller at once."""

import socket
import threading

import pytest

from stereos_proto import InjectSecret
from stereos_proto_io import TCP
from stereos_proto_io.driver import GreenClient

#: Seconds after which a wait counts as one that nobody ended.
PATIENCE = 5


class RuntimeRefusesError(Exception):
    """A runtime lets only one green thread wait for a descriptor, say."""


class Refuses(GreenClient):
    """Its runtime cannot wait until a descriptor is writable."""

    event = staticmethod(threading.Event)

    @staticmethod
    def spawn(function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        thread.start()
        return thread

    @staticmethod
    def kill(thread):
        """A thread cannot be ended. Its wait ends by itself."""

    @staticmethod
    def readable(descriptor, seconds):
        threading.Event().wait(min(seconds, PATIENCE))
        return False

    @staticmethod
    def writable(descriptor, seconds):
        raise RuntimeRefusesError("a second green thread waits for this descriptor")

    @staticmethod
    def lookup(host, port):
        raise RuntimeRefusesError("there is no resolver")


def test_an_error_while_waiting_for_both_directions():
    """The threads that wait are the client's own: what they raise must not be lost in them."""
    ours, theirs = socket.socketpair()
    with theirs, Refuses.attach(ours) as client, pytest.raises(RuntimeRefusesError, match="second green thread"):
        client.request(InjectSecret("K", "x" * 900_000), timeout=PATIENCE)


def test_an_error_while_looking_up_a_name():
    with pytest.raises(RuntimeRefusesError, match="no resolver"):
        Refuses.connect(TCP("guest.invalid", 1024), timeout=PATIENCE)
