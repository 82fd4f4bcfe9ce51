"""What a guest tells unasked."""

import socket
import threading

import pytest

from stereos_proto import Ack, ConnectionLost, Lifecycle, MalformedLine, Pong, RequestTimeout, encode
from stereos_proto_io.driver import EVENTS_PER_TURN

from .guests import MOUNT, PING, PONG, pair, scripted
from .harness import BLOCKING, PATIENCE, attached, company, each_driver, result, run, some_turns, until


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


@each_driver
def test_each_notification_goes_to_one_iterator(driver):
    """Several of one client share them."""

    async def following(news):
        return await anext(news) if hasattr(news, "__anext__") else next(news)

    async def main():
        async with attached(driver, ours) as client:
            first, second = client.notifications(), client.notifications()
            states = [(await following(news)).state for news in (first, second, first, second)]
            assert states == ["s0", "s1", "s2", "s3"]

    def script(sock):
        sock.sendall(b"".join(encode(Lifecycle(f"s{number}")) for number in range(4)))
        sock.recv(1000)

    with scripted(script) as ours:
        driver.run(main)


@each_driver
def test_the_cause_is_told_to_all_that_come_later(driver):
    """Reading the end of a broken connection says why it broke, as does each call after it."""

    async def main():
        async with attached(driver, ours) as client:
            for _ in range(2):
                news = client.notifications()
                with pytest.raises(ConnectionLost, match="broke") as caught:
                    next(news) if driver is BLOCKING else await anext(news)
                assert isinstance(caught.value.__cause__, ConnectionResetError)
                with pytest.raises(ConnectionLost, match="ping was not sent") as caught:
                    await result(client.ping())
                assert isinstance(caught.value.__cause__, ConnectionResetError)

    ours, theirs = pair("resets")
    theirs.close()
    driver.run(main)


@each_driver
def test_a_protocol_error_is_the_cause_of_what_comes_later(driver):
    async def main():
        async with attached(driver, ours) as client:
            for _ in range(2):
                news = client.notifications()
                with pytest.raises(MalformedLine) as caught:
                    next(news) if driver is BLOCKING else await anext(news)
                errors.append(caught.value)
                with pytest.raises(ConnectionLost, match="ping was not sent") as caught:
                    await result(client.ping())
                assert isinstance(caught.value.__cause__, MalformedLine)
        # Each caller has an exception of its own: a traceback grows with each raise.
        assert errors[0] is not errors[1]

    errors = []
    with scripted(lambda sock: (sock.sendall(b"login: \n"), sock.recv(1))) as ours:
        driver.run(main)


@each_driver
def test_notifications_end_when_the_client_is_closed(driver):
    async def main():
        async with attached(driver, ours) as client:
            await result(client.close() if driver is BLOCKING else client.aclose())
            news = client.notifications()
            assert (list(news) if driver is BLOCKING else [message async for message in news]) == []

    ours, theirs = socket.socketpair()
    with theirs:
        driver.run(main)


def test_the_next_one_can_be_waited_for_after_a_timeout():
    """The end of the iteration means that the client was closed, and nothing else."""
    ours, theirs = pair("ends")
    with theirs, BLOCKING.Client(ours) as client:
        news = client.notifications(timeout=0.01)
        for _ in range(2):
            with pytest.raises(RequestTimeout, match=r"sent no notification within 0\.01 s"):
                next(news)
        theirs.sendall(encode(Lifecycle("ready")))
        assert next(client.notifications(timeout=PATIENCE)) == Lifecycle("ready")
        client.close()
        assert next(news, "ended") == "ended"


def test_the_wait_for_one_is_bounded_although_others_take_what_comes():
    """The time began anew with each notification: the one that waits was woken for all, and found none."""

    def script(sock):
        for _ in range(100 * PATIENCE):
            if over.wait(0.01):
                break
            sock.sendall(encode(Lifecycle("ready")))

    class Robbed(BLOCKING.Client):
        def _take(self, waiter):
            news, ended = super()._take(waiter)
            return (None, ended) if news is None else super()._take(waiter)

    over = threading.Event()
    with scripted(script) as ours, Robbed.attach(ours, max_notifications=1) as client:
        with pytest.raises(RequestTimeout):
            next(client.notifications(timeout=0.5))
        assert not over.is_set()
        over.set()


@each_driver
def test_a_change_takes_no_notification_from_one_that_listens(driver):
    """What is read before a change is written was taken from a waiter that slept on until the guest sent more."""

    def script(sock):
        assert sock.recv(1000) == encode(MOUNT)
        assert heard.wait(PATIENCE)
        sock.sendall(b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n')
        sock.recv(1)

    async def listen():
        news = client.notifications()
        found = await anext(news) if hasattr(news, "__anext__") else next(news)
        heard.set()
        return found

    async def main():
        nonlocal client
        async with attached(driver, ours) as client, company(driver) as begin:
            found = begin(listen)
            await until(driver, lambda: client._mailbox._listening)
            await some_turns(driver)
            theirs.sendall(encode(Lifecycle("degraded")))
            assert await result(client.request(MOUNT)) == Ack("mount", True)
            await until(driver, lambda: found)
            assert found == [Lifecycle("degraded")]

    heard = threading.Event()
    client = None
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    guest = threading.Thread(target=script, args=(theirs,))
    guest.start()
    with theirs:
        run(driver, main)
        guest.join(PATIENCE)


@each_driver
def test_what_came_before_a_change_is_kept(driver):
    """It is read before the change is written, to see whether the guest has gone."""

    def script(sock):
        sock.sendall(encode(Lifecycle("ready")))
        sent.set()
        assert sock.recv(1000) == encode(MOUNT)
        sock.sendall(b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n')
        sock.recv(1)

    async def main():
        async with attached(driver, ours) as client:
            assert sent.wait(PATIENCE)
            assert await result(client.request(MOUNT)) == Ack("mount", True)
            news = client.notifications()
            assert (await anext(news) if hasattr(news, "__anext__") else next(news)) == Lifecycle("ready")

    sent = threading.Event()
    with scripted(script) as ours:
        run(driver, main)


@each_driver
def test_one_who_has_listened_is_forgotten(driver):
    """A mailbox that kept every waiter would grow with each notification."""

    async def main():
        async with attached(driver, ours) as client:
            news = client.notifications()
            for number in range(3):
                theirs.sendall(encode(Lifecycle("ready", str(number))))
                message = await anext(news) if hasattr(news, "__anext__") else next(news)
                assert message.message == str(number)
                assert client._mailbox._listening == []

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


@each_driver
def test_a_reply_behind_more_notifications_than_one_turn_works_through(driver):
    """All of it came in one read: nothing more will wake the caller."""

    async def main():
        async with attached(driver, ours) as client:
            assert await result(client.ping()) == Pong()
            assert client._mailbox.heard == 3 * EVENTS_PER_TURN

    def guest(sock):
        assert sock.recv(1000) == PING
        sock.sendall(encode(Lifecycle("ready")) * (3 * EVENTS_PER_TURN) + PONG)
        sock.recv(1)

    with scripted(guest) as ours:
        run(driver, main)
