"""Many callers on one client, and what they may not do to each other."""

import socket
import threading

import pytest

from stereos_proto import ConnectionLost, CustomRequest, Lifecycle, RequestTimeout, encode
from stereos_proto_io.blocking import Client

from .harness import PATIENCE, attached, each_driver, scripted

THREADS, EACH = 8, 12_500


def echo(sock):
    """Answer each request with the ack that names it, without parsing."""
    rest = b""
    while data := sock.recv(1 << 18):
        *whole, rest = (rest + data).split(b"\n")
        sock.sendall(b"".join(b'{"type":"ack","payload":{"reply_to":%b,"ok":true}}\n' % line[8:-1] for line in whole))


def test_eight_threads_and_a_hundred_thousand_requests():
    wrong = []

    def ask(thread):
        for number in range(0, EACH, 50):
            names = [f"t{thread}-{number + step}" for step in range(50)]
            # One by one and in flights, so that leaders and followers change places all the time.
            replies = [client.request(CustomRequest(name)) for name in names[:5]]
            replies += client.request_many([CustomRequest(name) for name in names[5:]])
            if [reply.reply_to for reply in replies] != names:
                wrong.append(names)

    with scripted(echo) as ours, Client.attach(ours, timeout=PATIENCE) as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert client.connection.pending == ()
    assert wrong == []


def test_closing_wakes_every_thread_at_once():
    ours, theirs = socket.socketpair()
    with theirs:
        client = Client.attach(ours, timeout=600)
        found = []

        def ask():
            try:
                client.ping()
            except ConnectionLost as exc:
                found.append(type(exc).__name__)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        size = 0
        while size < 8 * len(b'{"type":"ping"}\n'):
            size += len(theirs.recv(65536))
        client.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert found == ["ConnectionLost"] * 8
        assert ours.fileno() == -1


@each_driver
def test_notifications_are_bounded_and_counted(driver):
    def script(sock):
        sock.recv(1000)
        for number in range(20):
            sock.sendall(encode(Lifecycle(f"s{number}")))
        sock.sendall(b'{"type":"pong"}\n')
        sock.recv(1000)

    async def main():
        async with attached(driver, ours, max_notifications=5) as client:
            pong = client.ping()
            if hasattr(pong, "__await__"):
                await pong
            news = client.notifications()
            states = [(await anext(news) if hasattr(news, "__anext__") else next(news)).state for _ in range(5)]
            assert states == ["s15", "s16", "s17", "s18", "s19"]
            assert client.dropped_notifications == 15

    with scripted(script) as ours:
        driver.run(main)


@pytest.mark.parametrize("timeout", [0, -1, 1e-9])
def test_no_time_at_all(timeout):
    ours, theirs = socket.socketpair()
    with theirs, Client.attach(ours) as client:
        with pytest.raises(RequestTimeout):
            client.ping(timeout=timeout)
        theirs.sendall(b'{"type":"pong"}\n' + encode(Lifecycle("here")))
        assert next(client.notifications(timeout=timeout)).state == "here"


@pytest.mark.parametrize("timeout", [1e10, float("inf"), 2.0**40])
def test_all_the_time_in_the_world(timeout):
    with scripted(echo) as ours, Client.attach(ours) as client:
        assert client.request(CustomRequest("x"), timeout=timeout).reply_to == "x"
