"""What a caller has already, and hands over: TLS, what has only a socket's four methods, streams that fail to close."""

import asyncio
import gc
import os
import socket
import ssl
import threading
import tty
from contextlib import suppress

import pytest
import trio

from guest_harness import descriptors
from stereos_proto import Ack, ConnectionLost, Ping, Pong, SetConfig
from stereos_proto_io._dial import Device

from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, attached, result, scripted
from .test_conformance import Wrapped
from .test_gaps import DONE, PING, PONG
from .test_regressions import run, until


def anonymous(kind):
    """TLS without certificates."""
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    return context


@pytest.fixture
def encrypted():
    """A socket at whose other end a guest speaks TLS."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)

    def serve():
        with suppress(OSError), anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(theirs, server_side=True) as guest:
            # Not half of what comes is read before all is answered: both directions fill up.
            rest = b""
            while data := guest.recv(1 << 16):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    guest.sendall(PONG if line + b"\n" == PING else DONE)

    thread = threading.Thread(target=serve)
    thread.start()
    yield ours
    ours.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


CLIENT = anonymous(ssl.PROTOCOL_TLS_CLIENT)

#: How one gets TLS in each runtime, over a socket.
TLS = {
    BLOCKING: CLIENT.wrap_socket,
    ASYNCIO: lambda sock: asyncio.open_connection(sock=sock, ssl=CLIENT, server_hostname=""),
    UVLOOP: lambda sock: asyncio.open_connection(sock=sock, ssl=CLIENT, server_hostname=""),
    TRIO: lambda sock: trio.SSLStream(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), CLIENT),
}


@pytest.mark.parametrize("driver", TLS, ids=str)
def test_tls(driver, encrypted):
    requests = [Ping(), SetConfig("x" * 1_000_000), *[Ping()] * 3000, SetConfig("y"), Ping()]

    async def main():
        stream = await result(TLS[driver](encrypted))
        async with attached(driver, stream) as client:
            for _ in range(3):
                assert await result(client.ping()) == Pong()
            replies = await result(client.request_many(requests))
            assert replies == [Pong() if request == Ping() else Ack("set_config", True) for request in requests]

    run(driver, main)


def test_tls_on_a_socket_in_trio(encrypted):
    async def main():
        async with attached(TRIO, CLIENT.wrap_socket(encrypted)) as client:
            assert await client.request_many([Ping(), SetConfig("x" * 1_000_000)]) == [Pong(), Ack("set_config", True)]

    run(TRIO, main)


class Four:
    """What has the four methods of a socket that the client needs, and nothing else."""

    def __init__(self, sock):
        self.fileno, self.recv, self.send, self.close = sock.fileno, sock.recv, sock.send, sock.close
        sock.setblocking(False)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_what_has_four_methods(driver):
    def guest(sock):
        assert sock.recv(100) == PING
        sock.sendall(PONG)
        assert sock.recv(100) == b""

    async def main():
        async with attached(driver, Four(ours)) as client:
            assert await result(client.ping()) == Pong()

    with scripted(guest) as ours:
        run(driver, main)


class Graceless(Wrapped):
    """A stream that closes, and fails to say goodbye."""

    async def aclose(self):
        self.stream.socket.close()
        raise self.error


@pytest.mark.parametrize("error", [trio.BrokenResourceError("no goodbye"), OSError("no goodbye"), ValueError("no")])
@pytest.mark.parametrize("who", ["the guest ends", "closed from here"])
def test_a_stream_of_trio_that_fails_to_close(error, who):
    """It is closed all the same. A task of the system that fails would take all of trio with it."""

    async def main():
        stream = Graceless(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        stream.error = error
        async with attached(TRIO, stream) as client:
            if who == "the guest ends":
                theirs.close()
                with pytest.raises(ConnectionLost):
                    await client.ping()
                await until(TRIO, lambda: stream.stream.socket.fileno() == -1)
        assert stream.stream.socket.fileno() == -1

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_a_device_that_nobody_closes_is_closed_when_it_is_collected(driver):
    """And complained of, as a socket is."""

    async def close():
        async with attached(driver, Device(os.ttyname(slave))):
            pass

    async def forget():
        await result(driver.Client.attach(Device(os.ttyname(slave))))

    def run_and_collect(main):
        driver.run(main)
        gc.collect()

    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        run_and_collect(close)
        before = len(descriptors())
        with pytest.warns(ResourceWarning, match="unclosed file"):
            run_and_collect(forget)
        assert len(descriptors()) == before
    finally:
        os.close(master)
        os.close(slave)
