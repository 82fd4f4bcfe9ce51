"""Dialling: what is handed to the system, in which order, and what comes before the protocol."""

import asyncio
import socket
import threading

import pytest

from guest_harness import descriptors
from stereos_proto import ConnectError, ConnectionLost, Lifecycle, NotReady, Pong, encode
from stereos_proto_io import TCP, HybridVsock, UnixSocket, VirtioSerial, Vsock, addresses
from stereos_proto_io.testing import simulated_guest

from .guests import Muxer, full_queue
from .harness import ASYNCIO, BLOCKING, PATIENCE, UVLOOP, each_driver, entered, result
from .test_ready import when_ready


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
    monkeypatch.setattr(addresses, "HYBRID_VSOCK_PATIENCE", 0.05 if answer is None else PATIENCE)
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


@each_driver
@pytest.mark.parametrize("how", ["ends", "resets"])
def test_the_end_right_behind_the_ok_is_not_lost(driver, how, tmp_path):
    def muxer():
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            if how == "ends":
                assert sock.recv(100) == b"CONNECT 1024\n"
            else:
                # Closing what has unread data is a reset.
                assert sock.recv(5) == b"CONNE"
            sock.sendall(b"OK 5\n" + encode(Lifecycle("early")))

    async def main():
        async with entered(driver.module.connect(HybridVsock(tmp_path / "h"))) as client:
            with pytest.raises(ConnectionLost):
                await result(client.ping())
            news = client.notifications()
            assert (next(news) if driver is BLOCKING else await anext(news)) == Lifecycle("early")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "h"))
        listener.listen()
        thread = threading.Thread(target=muxer)
        thread.start()
        driver.run(main)
        thread.join(PATIENCE)


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
