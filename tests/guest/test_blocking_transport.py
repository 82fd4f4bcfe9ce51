"""What a connection with threads reads and writes: sockets, and devices whose host is away at times."""

import select
import socket
import threading
from contextlib import suppress

import pytest

from guest_harness import PATIENCE
from stereos_proto_io.driver._device import AWAY_PAUSE
from stereos_proto_io.guest._blocking_transport import DeviceTransport, SocketTransport


@pytest.fixture
def tcp():
    """A transport of an accepted connection that does not block, and the host's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as host:
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        with accepted:
            host.settimeout(PATIENCE)
            yield SocketTransport(accepted), host, accepted


def test_a_socket_waits_for_bytes_and_sends_small_ones_at_once(tcp):
    transport, host, accepted = tcp
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    received = []
    reader = threading.Thread(target=lambda: received.append(transport.receive()))
    reader.start()
    host.sendall(b"ping")
    reader.join(PATIENCE)
    assert received == [b"ping"]
    assert transport.send(b"pong", wait=False) == 4
    assert host.recv(10) == b"pong"


def test_a_socket_that_is_full_is_waited_for_only_on_request(tcp):
    transport, _host, _accepted = tcp
    with suppress(BlockingIOError):
        while True:
            assert transport.send(b"x" * 65536, wait=False)


def test_the_end_is_told_at_once(tcp):
    transport, host, _accepted = tcp
    transport.end()
    assert host.recv(1) == b""
    assert transport.receive() == b""


def test_a_reset_is_told_when_the_socket_is_closed(tcp):
    transport, host, _accepted = tcp
    transport.end(reset=True)
    transport.close()
    with pytest.raises(ConnectionResetError):
        host.recv(1)


class Device:
    """A device of which a script says what it gives: bytes, or an error."""

    def __init__(self, *script, away=()):
        self.script, self.away, self.closed = [*script], [*away], False
        self.calls = 0
        self.ours, self.theirs = socket.socketpair()

    def recv(self, _size):
        self.calls += 1
        if not self.script:
            raise BlockingIOError
        what = self.script.pop(0)
        if isinstance(what, type):
            raise what
        return what

    def send(self, data):
        return len(self.recv(0) or data)

    @property
    def is_away(self):
        return self.away.pop(0) if self.away else False

    def fileno(self):
        return self.ours.fileno()

    def close(self):
        self.closed = True
        self.ours.close()
        self.theirs.close()


class Over(threading.Event):
    """Counts how often it is waited for by the clock."""

    def __init__(self):
        super().__init__()
        self.pauses = []

    def wait(self, timeout=None):
        self.pauses.append(timeout)
        return self.is_set()


def on(device):
    transport = DeviceTransport(device)
    transport._over = Over()
    return transport


def test_a_host_that_is_away_is_waited_for_by_the_clock():
    """Nothing to read means that it is away. While it is, the system says that the device can be read."""
    transport = on(Device(b"", b"", b"ping"))
    assert transport.receive() == b"ping"
    assert transport._over.pauses == [AWAY_PAUSE] * 2
    transport.close()


@pytest.mark.parametrize("act", [DeviceTransport.receive, lambda transport: transport.send(b"pong", wait=True)])
def test_a_host_that_goes_away_is_waited_for_by_the_clock(act):
    transport = on(Device(BlockingIOError, BlockingIOError, b"ping", away=[True, True]))
    assert act(transport) in (b"ping", 4)
    assert transport._over.pauses == [AWAY_PAUSE] * 2
    transport.close()


@pytest.mark.parametrize(
    ("act", "event"),
    [
        (DeviceTransport.receive, select.POLLIN),
        (lambda transport: transport.send(b"pong", wait=True), select.POLLOUT),
    ],
)
def test_a_silent_host_is_waited_for_by_the_descriptor(act, event):
    device = Device(BlockingIOError, b"ping")
    if event == select.POLLIN:
        device.theirs.send(b"!")
    transport = on(device)
    assert act(transport) in (b"ping", 4)
    assert device.calls == 2
    assert transport._over.pauses == []
    transport.close()


def test_a_silent_host_costs_nothing():
    """The thread sleeps until there is something to read, or the end."""
    device = Device()
    transport = DeviceTransport(device)
    received = []
    reader = threading.Thread(target=lambda: received.append(transport.receive()))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    assert device.calls <= 2
    transport.end()
    reader.join(PATIENCE)
    assert received == [b""]
    transport.close()


def test_a_write_that_would_wait_raises():
    transport = on(Device(BlockingIOError))
    with pytest.raises(BlockingIOError):
        transport.send(b"pong", wait=False)
    assert transport._over.pauses == []
    transport.close()


def test_after_the_end_nothing_is_read_or_written():
    device = Device(b"ping")
    transport = DeviceTransport(device)
    for _ in range(2):
        transport.end()
    assert transport.receive() == b""
    assert transport.send(b"pong", wait=True) == 0
    assert device.calls == 0
    transport.close()
    assert device.closed
    transport.end()
