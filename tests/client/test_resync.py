"""What comes before the protocol on a stream without connections (docs/protocol.md §9)."""

import os
import socket
import threading
import tty
from contextlib import contextmanager, suppress
from itertools import islice

import pytest

from stereos_proto import ConnectionLost, CustomRequest, Lifecycle, Ping, Pong, encode
from stereos_proto_io import VirtioSerial, addresses
from stereos_proto_io.testing import simulated_guest

from .guests import LONG, PING, PONG, lines
from .harness import BLOCKING, PATIENCE, each_driver, entered, result, run


@contextmanager
def port(path, script):
    """A serial port that leads to a guest that is a function of its socket."""
    failed = []

    def run():
        try:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(PATIENCE)
                script(sock)
        except (AssertionError, OSError, StopIteration) as exc:
            failed.append(exc)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=run)
        thread.start()
        yield VirtioSerial(path)
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert failed == []


def ack(name):
    return b'{"type":"ack","payload":{"reply_to":"%b","ok":false,"error":"unknown message type: %b"}}\n' % (name, name)


#: What an earlier host left in the stream, before the answer to our own nonce.
STALE = {
    "nothing": b"",
    "the answer to half a line": ack(b"")[:-1] + b"\n",
    "replies": PONG + ack(b"mount") + b'{"type":"health","payload":{"state":"stale","uptime_seconds":9}}\n',
    "half a reply": b'ype":"pong"}\n',
    "news": encode(Lifecycle("stale")),
    "an old nonce": ack(b"sync:0123456789abcdef"),
    "a nonce that starts as ours": None,
    "no message": b"\x00\xff kernel: hello\n\n\r\n",
}


@each_driver
@pytest.mark.parametrize("stale", STALE)
def test_what_an_earlier_host_left_is_skipped(driver, stale, tmp_path):
    def script(sock):
        asked = lines(sock)
        assert next(asked) == b"\n"  # it ends what half line there may be of a host that died
        sync = next(asked)[len(b'{"type":"') : -len(b'"}\n')]
        left = ack(sync[:-1]) if STALE[stale] is None else STALE[stale]
        sock.sendall(left)
        sock.sendall(ack(sync) + encode(Lifecycle("fresh")))
        names = []
        for line in asked:
            names.append(line)
            sock.sendall(PONG if line == PING else ack(line[len(b'{"type":"') : -len(b'"}\n')]))
        assert names == [PING, b'{"type":"mine"}\n']

    async def main():
        async with entered(driver.module.connect(address)) as client:
            assert await result(client.ping()) == Pong()
            [mine] = await result(client.request_many([CustomRequest("mine")]))
            assert mine.reply_to == "mine"
            news = client.notifications()
            heard = next(news) if driver is BLOCKING else await anext(news)
            assert heard.state == "fresh"
            assert client.connection.pending == ()

    with port(tmp_path / "port", script) as address:
        driver.run(main)


@each_driver
def test_a_host_that_died_in_the_middle_of_a_line(driver, tmp_path):
    """Its replies are still in the port, and the guest still has half a line of it."""

    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            replies = await result(client.request_many([CustomRequest("a"), Ping(), CustomRequest("b")]))
            assert [replies[0].reply_to, replies[1], replies[2].reply_to] == ["a", Pong(), "b"]
            assert client.connection.pending == ()

    with simulated_guest(VirtioSerial(tmp_path / "port")) as guest:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.settimeout(PATIENCE)
            dead.connect(guest.address.path)
            dead.sendall(PING * 3 + b'{"type":"set_config","payload":{"content":"half')
            assert dead.recv(1) == b"{"
        driver.run(main)
        assert guest.simulator.config in (None, "")


#: What becomes of the first try, when the guest opens its port too late for it, or opens it anew in the middle.
FIRST_TRY = {
    "is lost": lambda first, second: ack(second),
    "is answered with the second": lambda first, second: ack(first) + ack(second),
    "is answered in the middle of the second": lambda first, second: (
        ack(second)[:20] + b"\n" + ack(first) + ack(second)
    ),
    "is half answered": lambda first, second: ack(first)[:20] + b"\n" + ack(second),
}


@each_driver
@pytest.mark.parametrize("becomes", FIRST_TRY)
def test_the_first_try_comes_to_nothing(driver, becomes, tmp_path, monkeypatch):
    """Each try has a nonce of its own, and only what follows the answer to the last is taken."""
    monkeypatch.setattr(addresses, "RESYNC_PATIENCE", 0.05)

    def script(sock):
        asked = lines(sock)
        tries = []
        while len(tries) < 2:
            line = next(asked)
            if line != b"\n":
                tries.append(line[len(b'{"type":"') : -len(b'"}\n')])
        assert len(set(tries)) == 2
        # As long as it takes the host to give up, it sends more of them.
        sock.sendall(FIRST_TRY[becomes](*tries))
        for line in asked:
            if line == PING:
                sock.sendall(encode(Lifecycle("fresh")) + PONG)
            elif line != b"\n":
                sock.sendall(ack(line[len(b'{"type":"') : -len(b'"}\n')]))

    async def main():
        async with entered(driver.module.connect(address)) as client:
            assert await result(client.ping()) == Pong()
            [mine] = await result(client.request_many([CustomRequest("mine")]))
            assert mine.reply_to == "mine"
            assert client.connection.pending == ()

    with port(tmp_path / "port", script) as address:
        driver.run(main)


def test_the_waits_for_an_answer_grow():
    waits = [wait for _, wait in islice(VirtioSerial("/run/port").preambles(), 5)]
    assert waits == [1, 2, 4, 4, 4]


@each_driver
def test_a_guest_that_takes_longer_to_answer_than_the_first_wait(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "RESYNC_PATIENCE", 0.05)
    latency = 0.12

    def answer(sock, line):
        with suppress(OSError):  # the host may have gone
            sock.sendall(PONG if line == PING else ack(line[len(b'{"type":"') : -len(b'"}\n')]))

    def script(sock):
        answers = []
        for line in lines(sock):
            if line != b"\n":
                answers.append(threading.Timer(latency, answer, (sock, line)))
                answers[-1].start()
        for timer in answers:
            timer.join()

    async def main():
        async with entered(driver.module.connect(address)) as client:
            assert await result(client.ping()) == Pong()

    with port(tmp_path / "port", script) as address:
        run(driver, main)


@each_driver
@pytest.mark.parametrize("writing", [False, True], ids=["while it reads", "while it writes"])
def test_a_terminal_whose_other_end_goes(driver, writing):
    """What QEMU does to its `-chardev pty` when the machine ends."""

    def machine():
        with os.fdopen(master, "r+b", buffering=0) as port:
            read = b""
            while not read.endswith(b"}\n"):
                read += port.read(1000)
            port.write(ack(read[read.rindex(b'{"type":"') + len(b'{"type":"') : -len(b'"}\n')]))
            # Of a long line it takes the beginning: the rest does not fit.
            assert port.read(1)

    async def main():
        async with entered(driver.module.connect(VirtioSerial(os.ttyname(slave)))) as client:
            with pytest.raises(ConnectionLost, match="unanswered"):
                await result(client.request(LONG if writing else Ping()))
            with pytest.raises(ConnectionLost, match="not sent"):
                await result(client.ping())

    master, slave = os.openpty()
    tty.setraw(slave)
    thread = threading.Thread(target=machine)
    thread.start()
    driver.run(main)
    thread.join(PATIENCE)
    os.close(slave)
    assert not thread.is_alive()
