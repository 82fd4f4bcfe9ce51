"""What an interrupt under the lock of a `SyncClient` leaves behind, and a fork: the client is closed."""

import socket
import threading
from contextlib import suppress
from functools import partial

import pytest

from interrupts import interrupt
from stereos_proto import CallDone, ConnectionLost, Health, Mount, OutcomeUnknown, Ping, Pong, Waiter, encode
from stereos_proto_io import TCP
from stereos_proto_io.blocking import Client
from stereos_proto_io.driver import SyncClient, _sync_client
from stereos_proto_io.testing import simulated_guest

from .harness import BLOCKING, PATIENCE, company, run, until

MOUNT = Mount("a", "/b", "9p")


class Interrupted:
    """A socket whose next read is interrupted, once it is told so."""

    def __init__(self, sock):
        self.sock = sock
        self.is_due = False

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def recv(self, size):
        if self.is_due:
            self.is_due = False
            raise KeyboardInterrupt
        return self.sock.recv(size)


class Victim(threading.Thread):
    """A thread whose call is interrupted."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call = call
        self.was_interrupted = False
        self.start()

    def run(self):
        try:
            self.call()
        except KeyboardInterrupt:
            self.was_interrupted = True


def test_a_read_that_is_interrupted_ends_the_session_for_all():
    async def main():
        with Client.attach(stream, label="guest 7", timeout=PATIENCE) as client:
            async with company(BLOCKING) as begin:
                victim = Victim(client.ping)
                await until(BLOCKING, lambda: client._turns._leader)
                mounting = begin(lambda: client.request(MOUNT))
                await until(BLOCKING, lambda: client._turns._followers)
                for request in (Ping(), MOUNT):
                    assert theirs.recv(len(encode(request)), socket.MSG_WAITALL) == encode(request)
                stream.is_due = True
                theirs.sendall(b"{")
                victim.join(PATIENCE)
                await until(BLOCKING, lambda: mounting)
            assert victim.was_interrupted
            assert type(mounting[0]) is OutcomeUnknown
            assert "guest 7 was interrupted while reading or writing" in str(mounting[0])
            with pytest.raises(ConnectionLost):
                client.ping()
            with suppress(ConnectionResetError):  # not all was read
                assert theirs.recv(1) == b""

    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    stream = Interrupted(ours)
    with theirs:
        run(BLOCKING, main)


def test_a_caller_whose_event_was_swallowed_by_the_interrupt_is_woken():
    """The event was pulled by another thread, and the interrupt came before its caller was woken."""

    async def main():
        with Client.attach(ours, timeout=PATIENCE) as client:
            next_event = client._turns._next_event

            def swallow():
                event = next_event()
                if type(event) is CallDone:
                    raise KeyboardInterrupt
                return event

            client._turns._next_event = swallow
            async with company(BLOCKING) as begin:
                victim = Victim(lambda: next(client.notifications(timeout=PATIENCE)))
                await until(BLOCKING, lambda: client._turns._leader)
                asked = begin(client.get_health)
                await until(BLOCKING, lambda: [call for call in client._turns._followers if call.context])
                theirs.sendall(encode(Health("ready")))
                victim.join(PATIENCE)
                await until(BLOCKING, lambda: asked)
            assert victim.was_interrupted
            assert asked == [Health("ready")]

    ours, theirs = socket.socketpair()
    with theirs:
        run(BLOCKING, main)


class Mine(Client):
    """A subclass of a user's."""


@pytest.mark.parametrize("how", ["connect", "connect_when_ready"])
def test_a_class_dials_for_itself(how):
    with simulated_guest() as guest, getattr(Mine, how)(guest.address, timeout=PATIENCE) as client:
        assert type(client) is Mine
        assert repr(client) == f"<test_sync_client.Mine {guest.address} open>"
        assert client.ping() == Pong()


def test_a_driver_that_cannot_dial_says_so():
    class Attached(SyncClient):
        """One that takes streams only."""

    with pytest.raises(NotImplementedError, match=r"^Attached has no _dial, so it cannot connect to tcp://a:1024"):
        Attached.connect(TCP("a"))


def test_an_interrupt_of_the_bookkeeping_ends_the_session(monkeypatch):
    """It is unknown who leads then, and who was told."""
    ours, theirs = socket.socketpair()
    with theirs, Client.attach(ours) as client:
        with monkeypatch.context() as patch:
            patch.setattr(client._turns, "step", interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.ping()
        with pytest.raises(ConnectionLost, match="was interrupted"):
            client.ping()


@pytest.mark.parametrize("close_wanted", [False, True])
def test_what_a_child_does_with_its_copy(close_wanted):
    """Here in the parent: the thread that holds the lock is not in the child, nor is what it was about to do."""
    ours, theirs = socket.socketpair()
    with theirs, Client.attach(ours) as client:
        held, end = threading.Event(), threading.Event()

        def hold():
            with client._lock:
                held.set()
                end.wait(PATIENCE)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(PATIENCE)
        client._inside, client._close_wanted = True, close_wanted
        _sync_client._after_fork()
        assert ours.fileno() == -1
        with pytest.raises(ConnectionLost, match="belongs to the process that made it"):
            client.ping()
        end.set()
        thread.join(PATIENCE)


def test_a_child_wakes_no_thread_of_its_parent():
    """The thread is not in it, and nor may be the one that held the lock of its event."""
    woken = []

    def sleeper(name):
        return partial(woken.append, name)

    ours, theirs = socket.socketpair()
    with theirs, Client.attach(ours) as client:
        leader, follower = (client._session.request(MOUNT) for _ in range(2))
        listener = Waiter()
        client._take(listener)
        for waiter in (leader, follower, listener):
            client._turns.step(waiter, wants_write=False)
        follower.context, listener.context = sleeper("follower"), sleeper("listener")
        _sync_client._after_fork()
        # As a thread does that forked in a callback, and goes on in the child.
        client._turns.leave(leader)
        client.close()
        assert woken == []
        assert leader.done
