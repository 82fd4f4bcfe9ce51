"""The server with threads by itself: its accepting thread, who is waited for, and hosts that cannot be taken in."""

import errno
import logging
import math
import selectors
import socket
import threading

import pytest

from guest_harness import PATIENCE, PONG, Host, ask, descriptors, ends, started, waits
from stereos_proto import Ping
from stereos_proto_io import TCP, UnixSocket
from stereos_proto_io.driver._device import AWAY_PAUSE
from stereos_proto_io.guest import GuestSimulator, blocking
from stereos_proto_io.guest._listen import Endpoint
from waiting import until

LOGGER = "stereos_proto_io.guest"


class Guest(GuestSimulator):
    """A simulator that notes when its power goes, and may take its time for it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.offs, self.may_go = 0, threading.Event()
        self.may_go.set()

    def power_off(self):
        self.may_go.wait(PATIENCE)
        self.offs += 1
        super().power_off()


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture
def server(guest):
    with blocking.serve(TCP("127.0.0.1", 0), guest) as server:
        yield server


class Waits(threading.Event):
    """Notes how long it was waited for."""

    def __init__(self):
        super().__init__()
        self.pauses = []

    def wait(self, timeout=None):
        self.pauses.append(timeout)
        return super().wait(0)


def test_closing_is_no_loss_of_power(server, guest):
    server.close()
    assert guest.offs == 0


def test_joining_tells_whether_the_guest_is_off(server):
    assert server.join(0) is False
    server.close()
    assert server.join(0) is True


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
def test_joining_may_take_any_time(server, timeout):
    server._tell(server.power_off)
    assert server.join(timeout)


@pytest.mark.parametrize(
    ("module", "name"),
    [(socket, "socketpair"), (selectors, "DefaultSelector"), (Endpoint, "listen"), (threading.Thread, "start")],
)
def test_a_guest_that_cannot_begin_leaves_nothing(module, name, monkeypatch, tmp_path):
    def missing(*_arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    before = descriptors()
    monkeypatch.setattr(module, name, missing)
    with pytest.raises(OSError, match="Too many open files"):
        blocking.serve(UnixSocket(tmp_path / "guest"), GuestSimulator())
    assert not (tmp_path / "guest").exists()
    assert descriptors() == before


def test_joining_waits_until_the_thread_has_ended(server):
    server.close()
    go_on = threading.Event()
    server._accepting = started(lambda: go_on.wait(PATIENCE))
    joining = started(server.join)
    assert waits(joining)
    go_on.set()
    assert ends(joining)


def test_power_off_returns_when_the_guest_is_off(server, guest):
    guest.may_go.clear()
    turning_off = started(server.power_off)
    assert waits(turning_off)
    guest.may_go.set()
    assert ends(turning_off)
    assert guest.offs == 1
    assert server.join(0)


def test_its_thread_does_not_keep_a_program_alive(server):
    assert server._accepting.daemon


def test_a_reboot_leaves_nothing_to_be_done(server):
    for _ in range(3):
        server.reboot()
        assert server._waiting == set()
        assert not server._missing
        with pytest.raises(BlockingIOError):  # the bell was heard, so that it does not ring all the time
            server._hears.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    assert ask(server.address, Ping()) == [PONG]


def test_rebooting_listens_before_it_returns(server):
    server._reboot(0.0)
    assert server._missing == []
    assert server._endpoints[0].is_bound


def test_a_reboot_that_comes_after_the_last_order_ends_with_the_guest(server):
    """The thread that would carry it out looks at no order any more."""
    ending, go_on, shut = threading.Event(), threading.Event(), server._shut

    def slow(endpoints):
        ending.set()
        assert go_on.wait(PATIENCE)
        shut(endpoints)

    class Off(threading.Event):
        """Notes which thread has looked at it."""

        def is_set(self):
            found = super().is_set()
            seen.append(threading.current_thread())
            return found

    seen = []
    server._shut, server._off = slow, Off()
    closing = started(server.close)
    assert ending.wait(PATIENCE)
    rebooting = started(server.reboot)
    # It looks once before it waits, and once more after it has given its order.
    while seen.count(rebooting) < 2:
        threading.Event().wait(0.001)
    go_on.set()
    assert ends(rebooting)
    assert ends(closing)


def test_an_error_while_ending_keeps_nobody_waiting(server, monkeypatch):
    shut, errors = server._shut, []

    def fail(endpoints):
        shut(endpoints)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(threading, "excepthook", lambda hook: errors.append(hook.exc_value))
    server._shut = fail
    server.close()
    assert [type(error) for error in errors] == [ZeroDivisionError]
    for closing in (server._selector, server._hears):
        closing.close()


def served_once(server, **steps):
    """Serve once, in this thread, with steps replaced; return how long it paused, and what was logged.

    The accepting thread has ended: it cannot meddle.
    """
    server.close()
    server._stopping = Waits()
    for name, step in steps.items():
        setattr(server, name, step)
    server._serve_once()
    return server._stopping.pauses


class Selector:
    """Says that an endpoint can be read, or fails."""

    def __init__(self, *ready, error=None):
        self.ready, self.error, self.timeouts = ready, error, []

    def select(self, timeout):
        self.timeouts.append(timeout)
        if self.error:
            raise self.error
        return [(key, 1) for key in self.ready]

    def get_map(self):
        return {}

    def close(self):
        pass


def test_an_error_of_ours_is_logged_and_does_not_spin(server, caplog):
    with caplog.at_level(logging.ERROR, LOGGER):
        pauses = served_once(server, _selector=Selector(error=ZeroDivisionError("a bug")))
    assert pauses == [AWAY_PAUSE]
    (record,) = caplog.records
    assert record.getMessage() == "an error while accepting hosts; the guest goes on"


class Listener:
    """A listener whose host has gone, or that gives a socket."""

    def __init__(self, gives):
        self.gives = gives

    def accept(self):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives, ("127.0.0.1", 1)


class Place:
    """An endpoint with such a listener."""

    address, boundless, sock, ports = TCP("127.0.0.1", 1), False, None, None

    def __init__(self, gives):
        self.listener = Listener(gives)


@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (BlockingIOError(11, "the listener is another one"), []),
        (OSError(24, "Too many open files"), [AWAY_PAUSE]),
        (ConnectionAbortedError(103, "the host has gone"), [AWAY_PAUSE]),
    ],
)
def test_a_host_that_cannot_be_accepted(server, error, pauses):
    """Without descriptors, the listener stays ready, and nothing may spin."""
    server.close()
    server._stopping = Waits()
    server._accept(Place(error))
    assert server._stopping.pauses == pauses
    assert server.connections == ()


def test_a_host_that_has_gone_before_it_is_served(server):
    class Gone(socket.socket):
        def setblocking(self, _flag):
            raise OSError(107, "the host has gone")

    server.close()
    sock = Gone()
    server._accept(Place(sock))
    assert sock.fileno() == -1
    assert server.connections == ()


def test_a_host_is_turned_away_where_no_thread_is_left(server, monkeypatch, caplog):
    server.close()
    server._stopping = Waits()
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(threading.Thread, "start", lambda _self: (_ for _ in ()).throw(RuntimeError("no thread")))
    with theirs, caplog.at_level(logging.WARNING, LOGGER):
        server._accept(Place(ours))
        assert theirs.recv(1) == b""
    assert server._stopping.pauses == [AWAY_PAUSE]
    assert server.connections == ()
    (record,) = caplog.records
    assert record.getMessage() == "a host at tcp://127.0.0.1:1 is turned away: no thread"


def test_a_guest_that_refuses_at_first_listens_when_that_is_over():
    with blocking.serve(TCP("127.0.0.1", 0), GuestSimulator(faults=["refuse:5s"]), sleep=lambda _seconds: None) as one:
        until(lambda: one._endpoints[0].sock and not one._missing)
        with Host(one.address) as host:
            host.send(Ping())
            assert host.reply() == PONG


def test_ringing_the_bell_waits_for_nobody(server):
    assert server._bell.gettimeout() == 0
