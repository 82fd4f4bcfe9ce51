"""Dialling: what is handed to the system, what comes before the protocol, and waiting for a guest that boots."""

import asyncio
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest

from guest_harness import descriptors
from stereos_proto import ConnectError, ConnectionLost, Lifecycle, NotReady, Pong, RequestTimeout, encode
from stereos_proto.dialogues import Backoff
from stereos_proto_io import TCP, HybridVsock, UnixSocket, VirtioSerial, Vsock, _asyncio_wire, _dial
from stereos_proto_io._session import Session
from stereos_proto_io.testing import simulated_guest

from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, each_driver, entered, result


async def ping(made):
    async with entered(made) as client:
        return await result(client.ping())


@each_driver
@pytest.mark.parametrize("family", [None, 40])
def test_af_vsock_gets_the_exact_family_and_address(driver, family, monkeypatch):
    """No socket of that family is ever made here: the family and the address are caught on their way."""
    if family is None:
        monkeypatch.delattr(socket, "AF_VSOCK", raising=False)
        with pytest.raises(ConnectError, match="no AF_VSOCK") as caught:
            driver.run(lambda: ping(driver.module.connect(Vsock(7, 99))))
        assert not caught.value.retryable
        return
    monkeypatch.setattr(socket, "AF_VSOCK", family, raising=False)
    handed = []

    class Socket(socket.socket):
        def __init__(self, family=-1, *args, **more):
            self.asked = family
            super().__init__(socket.AF_UNIX if family == 40 else family, *args, **more)

        def connect(self, target):
            if self.asked != 40:
                return super().connect(target)
            handed.append((self.asked, target))
            raise OSError(19, "No such device")

        def connect_ex(self, target):
            if self.asked != 40:
                return super().connect_ex(target)
            handed.append((self.asked, target))
            return 19

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(ConnectError, match="no virtual machine with this CID"):
        driver.run(lambda: ping(driver.module.connect(Vsock(7, 99))))
    assert handed == [(40, (7, 99))]


@contextmanager
def full_queue(path):
    """A unix socket that nobody accepts from, with a queue that takes no more."""
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as queue:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                sock = queue.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(str(path))
        yield listener, queue


@each_driver
@pytest.mark.parametrize("kind", [UnixSocket, HybridVsock, VirtioSerial])
def test_a_queue_that_is_full_is_no_connection(driver, kind, tmp_path):
    """The event loops' own ways to connect take it for one that is in progress."""
    address = kind(tmp_path / "s")
    with full_queue(address.path), pytest.raises(ConnectError, match="queue of waiting connections is full") as caught:
        driver.run(lambda: ping(driver.module.connect(address)))
    assert caught.value.retryable


@each_driver
def test_a_queue_that_was_full_is_tried_again(driver, tmp_path):
    address = UnixSocket(tmp_path / "s")
    tried = threading.Event()
    with full_queue(address.path) as (listener, queue):

        def serve():
            tried.wait(PATIENCE)
            queue.close()
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(PATIENCE)
                    if sock.recv(100):
                        sock.sendall(b'{"type":"health","payload":{"state":"ready","uptime_seconds":1}}\n')
                        assert sock.recv(100) == b'{"type":"ping"}\n'
                        sock.sendall(b'{"type":"pong"}\n')
                        return

        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        found = driver.run(
            lambda: when_ready(driver, address, timeout=PATIENCE, on_progress=lambda _progress: tried.set())
        )
        thread.join(PATIENCE)
    assert found == Pong()


def two_addresses(monkeypatch, *hosts):
    """A name that stands for these hosts. uvloop looks it up by itself."""

    def lookup(_host, port, *_more, **_options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.parametrize("driver", [BLOCKING, ASYNCIO, TRIO], ids=str)
def test_a_name_with_several_addresses_at_none_of_which_anybody_listens(driver, monkeypatch):
    """What went wrong is as plain as with one."""
    two_addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    with socket.socket() as nobody:
        nobody.bind(("", 0))
        with pytest.raises(ConnectError, match="nobody listens there yet") as caught:
            driver.run(lambda: ping(driver.module.connect(TCP("two.example", nobody.getsockname()[1]))))
    assert caught.value.retryable


@pytest.mark.parametrize("driver", [BLOCKING, ASYNCIO, TRIO], ids=str)
def test_a_name_with_several_addresses_at_one_of_which_somebody_listens(driver, monkeypatch):
    with simulated_guest() as guest:
        two_addresses(monkeypatch, "127.0.0.2", "127.0.0.1")
        assert driver.run(lambda: ping(driver.module.connect(TCP("two.example", guest.address.port)))) == Pong()


ANSWERS = {
    b"": "nobody listens on vsock port 1024",
    b"OK 10": "in the middle of the answer",
    b"NO WAY\n": "is not OK",
    b"x" * 40: "is longer than 32 bytes",
    None: "no answer in time",
}


@each_driver
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_can_go_wrong_before_the_protocol_is_told_apart(driver, answer, tmp_path, monkeypatch):
    monkeypatch.setattr(_dial, "HYBRID_VSOCK_PATIENCE", 0.05 if answer is None else PATIENCE)
    address = HybridVsock(tmp_path / "h")
    with Muxer(address.path, answer), pytest.raises(ConnectError, match=ANSWERS[answer]):
        driver.run(lambda: ping(driver.module.connect(address)))


@each_driver
def test_bytes_behind_the_ok_are_kept(driver, tmp_path):
    address = HybridVsock(tmp_path / "h")

    async def main():
        async with entered(driver.module.connect(address)) as client:
            news = client.notifications()
            return (await anext(news) if hasattr(news, "__anext__") else next(news)).state

    with Muxer(address.path, b'OK 5\n{"type":"lifecycle","payload":{"state":"early"}}\n'):
        assert driver.run(main) == "early"


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "Connection reset by peer")], ids=["ends", "resets"])
def test_the_end_right_behind_the_ok_is_not_lost(driver, error):
    """All that a busy event loop can hand over before the one that dials goes on."""

    async def main():
        wire = _asyncio_wire.Wire(Session("the guest"))
        transport = FakeTransport()
        wire.connection_made(transport)
        opening = asyncio.ensure_future(wire.open(HybridVsock("/h")))
        await asyncio.sleep(0)
        wire.data_received(b"OK 5\n")
        wire.data_received(encode(Lifecycle("early")))
        if error is None:
            wire.eof_received()
        wire.connection_lost(error)
        await opening
        assert transport.written == [b"CONNECT 1024\n"]
        assert wire.session.take_notification() == Lifecycle("early")
        assert isinstance(wire.session.ended, ConnectionLost)
        assert ("Connection reset" in str(wire.session.ended)) is bool(error)

    driver.run(main)


class FakeTransport:
    def __init__(self):
        self.written = []

    def write(self, data):
        self.written.append(data)

    def get_extra_info(self, name):
        return None


class Muxer:
    """The unix socket of a hybrid vsock, which answers one CONNECT with these bytes; None is silence."""

    def __init__(self, path, answer):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.answer = answer
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        sock, _ = self.listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            assert sock.recv(100) == b"CONNECT 1024\n"
            if self.answer:
                sock.sendall(self.answer)
            if self.answer is None or self.answer.startswith(b"OK 5"):
                sock.recv(100)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *exc):
        self.thread.join(PATIENCE)
        self.listener.close()


# ------------------------------------------------------------------------------------------------ ready


async def when_ready(driver, address, **options):
    async with entered(driver.module.connect_when_ready(address, **options)) as client:
        return await result(client.ping())


@each_driver
@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["reset#1"],
        ["hang-up#1", "reset#2"],
        ["slow-boot:0.1s"],
        ["refuse:0.1s"],
        ["drop@get_health#1", "close@get_health#1"],
    ],
)
def test_a_guest_that_boots_is_awaited(driver, faults):
    with simulated_guest(faults=faults) as guest:
        seen = []
        assert (
            driver.run(lambda: when_ready(driver, guest.address, timeout=PATIENCE, on_progress=seen.append)) == Pong()
        )
        assert [progress.tries for progress in seen] == list(range(1, len(seen) + 1))
        assert faults or len(seen) == 1


@each_driver
@pytest.mark.parametrize(
    # Where there is a report to come, a busy machine is given the time for it.
    ("fault", "state", "timeout"),
    [("never-ready", "booting", 1), ("stall", None, 0.1), ("reset", None, 0.1)],
)
def test_one_deadline_and_all_that_is_known_at_the_end(driver, fault, state, timeout):
    with simulated_guest(faults=[fault]) as guest:
        with pytest.raises(NotReady) as caught:
            driver.run(lambda: when_ready(driver, guest.address, timeout=timeout))
        assert caught.value.last_state == state
        assert caught.value.tries
        kinds = {
            # The deadline may come in the middle of a try.
            "never-ready": [type(None), ConnectError, RequestTimeout],
            "stall": [ConnectError, RequestTimeout],
            "reset": [ConnectionLost, ConnectError, RequestTimeout],
        }
        assert type(caught.value.last_error) in kinds[fault]


@each_driver
@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_to_wait(driver, timeout):
    """A deadline that has passed is no reason for another kind of error."""

    async def wait():
        async with entered(driver.module.connect(guest.address)) as client:
            await result(client.wait_ready(timeout=timeout))

    with simulated_guest(faults=["never-ready"]) as guest:
        for work in (wait, lambda: when_ready(driver, guest.address, timeout=timeout)):
            with pytest.raises(NotReady, match=f"{timeout} s have passed"):
                driver.run(work)


@each_driver
def test_a_delay_below_nothing_is_none(driver):
    """As a jitter may come to."""
    backoff = Backoff(jitter=lambda delay: -delay)
    with simulated_guest(faults=["slow-boot:0.05s"]) as guest:
        assert driver.run(lambda: when_ready(driver, guest.address, timeout=PATIENCE, backoff=backoff)) == Pong()


@each_driver
def test_nothing_stays_open(driver, tmp_path):
    async def main():
        before = len(descriptors())
        for _ in range(3):
            for address in (guest.address, UnixSocket(tmp_path / "none"), TCP("127.0.0.1", 1)):
                try:
                    await ping(driver.module.connect(address))
                except ConnectError:
                    continue
            try:
                await when_ready(driver, UnixSocket(tmp_path / "none"), timeout=0.02)
            except NotReady:
                continue
        if driver in (ASYNCIO, UVLOOP):
            await asyncio.sleep(0.01)
        assert len(descriptors()) <= before + 2 * (driver is UVLOOP)

    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        driver.run(main)
