"""`GreenClient`, with threads in the place of green threads: in this process, and with waits that are counted."""

import contextlib
import math
import select
import socket
import threading
import time

import pytest

from stereos_proto import (
    Ack,
    ConnectError,
    ConnectionLost,
    InjectSecret,
    NotReady,
    Ping,
    RequestTimeout,
)
from stereos_proto_io import TCP, Dial, HybridVsock, VirtioSerial
from stereos_proto_io.driver import GreenClient, lookup
from stereos_proto_io.testing import check_client, client_cases, simulated_guest
from waiting import until

from .guests import DONE, LONG, Broken, pty_to

#: Seconds after which a wait counts as one that nobody ended.
PATIENCE = 5


class Killed(BaseException):
    """What `kill` raises in a thread that waits."""


class Green(threading.Thread):
    """A thread whose waits can be ended, as those of a green thread can."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.bell, self.rope = socket.socketpair()
        self.is_over = threading.Event()

    def run(self):
        with contextlib.suppress(Killed):
            self.function(*self.args)
        self.is_over.set()

    def kill(self):
        self.rope.close()
        assert self.is_over.wait(PATIENCE), "it does not end"
        self.bell.close()


class Client(GreenClient):
    """Keeps what it has waited for, and the threads that it has begun."""

    def __init_subclass__(cls):
        cls.waits = []
        cls.threads = []

    event = staticmethod(threading.Event)

    @classmethod
    def spawn(cls, function, *args):
        cls.threads.append(thread := Green(function, *args))
        thread.start()
        return thread

    @staticmethod
    def kill(thread):
        thread.kill()

    @classmethod
    def readable(cls, descriptor, seconds):
        return cls.waited("read", descriptor, seconds)

    @classmethod
    def writable(cls, descriptor, seconds):
        return cls.waited("write", descriptor, seconds)

    @classmethod
    def waited(cls, what, descriptor, seconds):
        cls.waits.append((what, seconds))
        thread = threading.current_thread()
        bells = [thread.bell] if isinstance(thread, Green) else []
        reading = [descriptor] if what == "read" else []
        writing = [descriptor] if what == "write" else []
        read, written, _ = select.select([*reading, *bells], writing, [], seconds)
        if bells and thread.bell in read:
            raise Killed
        return bool(read or written)

    @staticmethod
    def lookup(host, port):
        return lookup(host, port)


@pytest.fixture
def client_class():
    class Threads(Client):
        """A class of this test's own, with lists of its own."""

    yield Threads
    assert all(thread.is_over.is_set() for thread in Threads.threads), "a thread was left behind"


# ------------------------------------------------------------------------------------------------ the whole client


@pytest.mark.parametrize("transport", ["name", "hybrid"])
def test_every_case(client_class, transport, tmp_path):
    address = {
        "name": TCP("localhost", 0),
        "hybrid": HybridVsock(tmp_path / "guest", 1024),
    }[transport]
    report = check_client(
        client_class.connect,
        when_ready=lambda address, seconds: client_class.connect_when_ready(address, timeout=seconds),
        within=lambda client, message, seconds: client.request(message, timeout=seconds),
        address=address,
    )
    assert report.passed == tuple(case.name for case in client_cases())


def test_a_serial_port(client_class, tmp_path):
    address = VirtioSerial(tmp_path / "guest")
    with simulated_guest(address), pty_to(address.path) as path, client_class.connect(VirtioSerial(path)) as client:
        assert client.get_health().state == "ready"


# ------------------------------------------------------------------------------------------------ what it waits for


def test_one_direction_is_waited_for_without_a_thread(client_class):
    with simulated_guest() as guest, client_class.connect(guest.address) as client:
        del client_class.waits[:]
        client.ping(timeout=PATIENCE)
        assert {what for what, _ in client_class.waits} == {"read"}
        assert all(0 < seconds <= PATIENCE for _, seconds in client_class.waits)
    assert client_class.threads == []


def test_what_does_not_fit_is_written_while_replies_are_read(client_class):
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    with theirs, client_class.attach(ours) as client:
        found = []
        asking = threading.Thread(target=lambda: found.append(client.request(LONG)))
        asking.start()
        # Nobody reads yet: a guest that keeps up with the client would never make it wait.
        until(lambda: any(what == "write" for what, _ in tuple(client_class.waits)))
        received = b""
        while not received.endswith(b"\n"):
            received += theirs.recv(1 << 16)
        theirs.sendall(DONE)
        asking.join(PATIENCE)
    assert [type(each) for each in found] == [Ack]
    assert {what for what, _ in client_class.waits} == {"read", "write"}
    # One for each direction, and both are ended after each wait.
    assert len(client_class.threads) >= 2


def test_a_wait_for_both_directions_ends_with_its_time(client_class):
    ours, theirs = socket.socketpair()
    with theirs, client_class.attach(ours) as client:
        start = time.monotonic()
        with pytest.raises(RequestTimeout):
            client.request(LONG, timeout=0.1)
        assert time.monotonic() - start < PATIENCE
    # It sleeps meanwhile: two threads for the wait, and two for a last look.
    assert 2 <= len(client_class.threads) <= 8


def test_a_sleep_lets_others_run(client_class, monkeypatch):
    """It waits for an event of the runtime, which is never set."""
    waited = []

    class Event:
        def wait(self, seconds):
            waited.append(seconds)

    monkeypatch.setattr(client_class, "event", Event)
    client_class._sleep(0.25)
    assert waited == [0.25]


# ------------------------------------------------------------------------------------------------ errors of the runtime


class RuntimeRefusesError(Exception):
    """A runtime lets only one green thread wait for a descriptor, say."""


def refuse(*_args):
    raise RuntimeRefusesError("not in this runtime")


def test_an_error_while_waiting_for_both_directions(client_class, monkeypatch):
    """The threads that wait are the client's own: what they raise must reach the caller, and at once."""
    monkeypatch.setattr(client_class, "writable", refuse)
    ours, theirs = socket.socketpair()
    with theirs, client_class.attach(ours) as client, pytest.raises(RuntimeRefusesError, match="not in this runtime"):
        client.request(InjectSecret("K", "x" * 900_000), timeout=3600)


def test_an_error_while_looking_up_a_name(client_class, monkeypatch):
    monkeypatch.setattr(client_class, "lookup", refuse)
    with pytest.raises(RuntimeRefusesError, match="not in this runtime"):
        client_class.connect(TCP("guest.invalid", 1024), timeout=PATIENCE)


# ------------------------------------------------------------------------------------------------ dialling


def test_a_name_that_is_not_looked_up_in_time(client_class, monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(client_class, "lookup", lambda *_name: client_class.readable(ours, PATIENCE))
    with ours, theirs, pytest.raises(ConnectError, match=r"guest\.invalid was not looked up in time; see") as caught:
        client_class.connect(TCP("guest.invalid", 1024), timeout=0.1)
    assert caught.value.timed_out
    assert str(caught.value.__cause__) == "the name guest.invalid was not looked up in time"
    # It is ended, not left to itself.
    assert len(client_class.threads) == 1


def test_a_stream_that_breaks_before_there_is_a_client_is_no_connection(client_class):
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ConnectError, match="Invalid argument"):
        client_class.connect(Dial(lambda: Broken(ours)))
    assert ours.fileno() == -1


def test_a_resolver_that_takes_its_time(client_class, monkeypatch):
    killed = []

    def look_up(host, port):
        threading.Event().wait(0.05)
        killed.append(threading.current_thread().rope.fileno() < 0)
        return lookup(host, port)

    monkeypatch.setattr(client_class, "lookup", look_up)
    with simulated_guest(TCP("localhost", 0)) as guest, client_class.connect(guest.address) as client:
        assert client.get_health(timeout=PATIENCE).state == "ready"
    assert killed == [False]


def test_a_name_that_there_is_not(client_class, monkeypatch):
    def fail(host, port):
        raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address for {port}")

    monkeypatch.setattr(client_class, "lookup", fail)
    with pytest.raises(ConnectError, match="has no address for 1024"):
        client_class.connect(TCP("guest.invalid", 1024), timeout=PATIENCE)


@pytest.mark.parametrize("dial", ["connect", "connect_when_ready"])
def test_a_cancellation_by_an_error_of_the_system_during_a_look_up(client_class, monkeypatch, dial):
    """As with `gevent.Timeout(5, TimeoutError)`. It is no error of the dial."""

    class Cancelled(threading.Event):
        def wait(self, timeout=None):
            raise TimeoutError("cancelled")

    monkeypatch.setattr(client_class, "event", Cancelled)
    with pytest.raises(TimeoutError, match="cancelled") as caught:
        getattr(client_class, dial)(TCP("guest.invalid", 1024), timeout=PATIENCE)
    assert type(caught.value) is TimeoutError


def test_what_a_look_up_raises_beside_errors_of_the_system(client_class, monkeypatch):
    monkeypatch.setattr(client_class, "lookup", lambda _host, _port: {}["resolver"])
    with pytest.raises(KeyError, match="resolver"):
        client_class.connect(TCP("guest.invalid", 1024), timeout=PATIENCE)


def test_the_timeout_of_connect_is_each_verbs(client_class):
    with (
        simulated_guest(faults=["drop@ping"]) as guest,
        client_class.connect(guest.address, timeout=0.2) as client,
        pytest.raises(RequestTimeout),
    ):
        client.ping()
    assert max(seconds for _, seconds in client_class.waits) <= 0.2


def test_connect_when_ready_has_one_timeout_for_all_and_one_for_each_verb(client_class):
    options = {"timeout": PATIENCE, "request_timeout": 0.2}
    with (
        simulated_guest(faults=["drop@ping"]) as guest,
        client_class.connect_when_ready(guest.address, **options) as client,
    ):
        assert 0.2 < max(seconds for _, seconds in client_class.waits) <= PATIENCE
        del client_class.waits[:]
        with pytest.raises(RequestTimeout):
            client.ping()
    assert max(seconds for _, seconds in client_class.waits) <= 0.2


def test_connect_when_ready_leaves_no_connection_behind(client_class):
    ended = []

    class Ends(client_class):
        def close(self):
            ended.append(self)
            super().close()

    with simulated_guest(boot_time=3600) as guest, pytest.raises(NotReady):
        Ends.connect_when_ready(guest.address, timeout=0.3)
    assert ended
    assert all("closed" in repr(client) for client in ended)


@pytest.mark.parametrize("name", ["connect", "connect_when_ready"])
def test_a_bad_limit_is_refused_before_anything_is_dialled(client_class, name):
    make = getattr(client_class, name)
    address = Dial(lambda: pytest.fail("it dials"))
    with pytest.raises(ValueError, match="max_pending"):
        make(address, max_pending=0)
    with pytest.raises(ValueError, match="NaN"):
        make(address, timeout=math.nan)


def test_a_bad_timeout_of_the_verbs_is_refused_before_anything_is_dialled(client_class):
    with pytest.raises(ValueError, match="NaN"):
        client_class.connect_when_ready(Dial(lambda: pytest.fail("it dials")), request_timeout=math.nan)


def test_what_attach_is_given_reaches_the_client(client_class):
    ours, theirs = socket.socketpair()
    lines = []
    options = {"label": "guest 7", "timeout": 0.1, "trace": lambda _sender, line: lines.append(line)}
    with theirs, client_class.attach(ours, **options) as client, pytest.raises(RequestTimeout, match="guest 7"):
        client.ping()
    assert max(seconds for _, seconds in client_class.waits) <= 0.1
    assert len(lines) == 1


@pytest.mark.parametrize("name", ["connect", "connect_when_ready"])
def test_what_connect_is_given_reaches_the_client(client_class, name):
    lines = []
    with simulated_guest() as guest:
        with getattr(client_class, name)(guest.address, trace=lambda _sender, line: lines.append(line)) as client:
            del lines[:]
            client.ping()
        assert len(lines) == 2
        assert str(guest.address) in repr(client)


def test_the_guest_goes_while_a_thread_waits(client_class):
    ours, theirs = socket.socketpair()
    with client_class.attach(ours) as client:
        theirs.close()
        with pytest.raises(ConnectionLost):
            client.request(Ping(), timeout=PATIENCE)
