"""The guest goes: after every byte, with a reset, while a line is being written."""

import asyncio
import socket
import struct
import threading

import pytest

import vectors
from stereos_proto import (
    NEED_DATA,
    Ack,
    ConnectionLost,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    Reply,
    ReplyReceived,
    Role,
    SetConfig,
    StereosError,
    changes_guest,
    decode,
    encode,
)
from stereos_proto import Connection as Protocol

from .guests import LONG, MOUNT, PONG, lines, many, pair
from .harness import ASYNCIO, PATIENCE, UVLOOP, attached, company, each_driver, result, run, some_turns, until


def requests_of(name):
    """The requests of a transcript; None where it has lines that no client of ours would send."""
    try:
        found = [decode(line, sender=Role.HOST) for line in vectors.stream(name, "c2s").splitlines() if line.strip()]
        replies = expected(found, vectors.stream(name, "s2c"))
    except StereosError:
        return None
    return found if len(replies) == len(found) else None


def expected(requests, data):
    """The replies that `data` has for `requests`, with the end of the stream behind it."""
    connection = Protocol(Role.HOST)
    for request in requests:
        connection.send(request)
    connection.receive_data(data)
    connection.receive_eof()
    found = []
    try:
        while (event := connection.next_event()) is not NEED_DATA:
            if isinstance(event, ReplyReceived):
                found.append(event.message)
    except StereosError:
        pass
    return found


TRANSCRIPTS = [name for name in vectors.TRANSCRIPTS if requests_of(name)]


class Answered:
    """A socket whose peer answers, and goes, before anything that is sent to it leaves."""

    def __init__(self, sock, answer):
        self.sock, self.answer = sock, answer

    def send(self, data):
        self.answer()
        self.answer = bool
        return self.sock.send(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)


async def outcomes(driver, requests, data, how="ends"):
    def answer():
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR) if how == "ends" else theirs.close()

    ours, theirs = pair(how)
    with theirs:
        if driver in (ASYNCIO, UVLOOP):
            async with attached(driver, ours) as client:
                asked = asyncio.ensure_future(many(client, requests))
                # The requests leave first: a reply to nothing would be an error.
                await asyncio.sleep(0)
                answer()
                return await over(client, await asked)
        async with attached(driver, Answered(ours, answer)) as client:
            return await over(client, await many(client, requests))


async def over(client, found):
    """`found`, after a look at a client whose guest has gone."""
    assert client.connection.pending == () or client._session.ended
    with pytest.raises(ConnectionLost):
        await result(client.ping())
    return found


@each_driver
@pytest.mark.parametrize(("name", "how"), [*[(name, "ends") for name in TRANSCRIPTS], ("bringup", "resets")])
def test_the_guest_goes_after_every_byte(driver, name, how):
    requests = requests_of(name)
    data = vectors.stream(name, "s2c")

    async def main():
        for size in range(len(data) + 1):
            found = await outcomes(driver, requests, data[:size], how)
            replies = expected(requests, data[:size])
            if how == "resets":
                # What a reset leaves of the bytes before it, and whether there was time to write, is the system's.
                replies = replies[: sum(isinstance(outcome, Reply) for outcome in found)]
            assert found[: len(replies)] == replies
            assert len(found) == len(requests)
            for request, outcome in zip(requests[len(replies) :], found[len(replies) :], strict=True):
                sent = how == "ends" or "was not sent" not in str(outcome)
                effect = sent and changes_guest(request)
                assert type(outcome) is (OutcomeUnknown if effect else ConnectionLost)

    driver.run(main)


def test_most_transcripts_are_replayed():
    assert len(TRANSCRIPTS) >= 5


@each_driver
@pytest.mark.parametrize("answered", [0, 1])
def test_a_reset_tells_what_may_have_been_done(driver, answered):
    """A reset, not an end of the stream: the replies that came before it still count."""
    requests = [Mount("a", "/a", "virtiofs"), Ping(), Mount("b", "/b", "virtiofs"), Ping()]

    def script():
        sock, _ = listener.accept()
        sock.settimeout(PATIENCE)
        asked = lines(sock)
        for _ in requests:
            next(asked)
        asked.close()
        if answered:
            sock.sendall(b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n')
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    async def main():
        async with attached(driver, ours) as client:
            found = await many(client, requests)
            expected = [OutcomeUnknown, ConnectionLost, OutcomeUnknown, ConnectionLost]
            assert [type(outcome) for outcome in found] == [*[Ack] * answered, *expected[answered:]]
            assert [outcome.unanswered for outcome in found[answered:]] == [tuple(requests[answered:])] * (4 - answered)
            with pytest.raises(ConnectionLost, match="not sent") as caught:
                await result(client.ping())
            assert type(caught.value) is ConnectionLost

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=script)
        thread.start()
        ours = socket.create_connection(listener.getsockname())
        driver.run(main)
        thread.join(PATIENCE)
    assert not thread.is_alive()


@each_driver
@pytest.mark.parametrize("how", ["ends", "resets"])
def test_a_guest_that_goes_while_a_write_is_blocked(driver, how):
    """It took a part of the line, and takes no more."""
    over = threading.Event()

    def guest():
        with theirs:
            assert theirs.recv(1) == encode(LONG)[:1]
            if how == "ends":
                theirs.shutdown(socket.SHUT_WR)
                assert over.wait(PATIENCE)
            # Closing what has unread data is a reset.

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await result(client.request(LONG))
            assert caught.value.request is LONG
            with pytest.raises(ConnectionLost, match="ping was not sent"):
                await result(client.ping())
        over.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    theirs.settimeout(PATIENCE)
    thread = threading.Thread(target=guest)
    thread.start()
    run(driver, main)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@each_driver
def test_a_reply_that_came_before_a_write_failed(driver):
    """The guest has answered and gone, and the next request is written before anybody reads the answer."""

    async def main():
        async with attached(driver, ours) as client:
            async with company(driver) as begin:
                first = begin(lambda: client.request(MOUNT))
                await until(driver, lambda: client.connection.pending)
                assert theirs.recv(1000) == encode(MOUNT)
                theirs.sendall(b'{"type":"ack","payload":{"reply_to":"mount","ok":true}}\n')
                theirs.close()
                second = begin(lambda: client.request(SetConfig("x")))
            assert first == [Ack("mount", True)]
            assert isinstance(second[0], ConnectionLost)

    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    run(driver, main)


@each_driver
def test_a_reset_while_nothing_was_asked(driver):
    async def main():
        async with attached(driver, ours) as client:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            await some_turns(driver)
            with pytest.raises(ConnectionLost, match="mount was not sent") as caught:
                await result(client.request(MOUNT))
            assert not isinstance(caught.value, OutcomeUnknown)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    run(driver, main)


async def provisioned(client):
    (await result(client.provision(ProvisionPlan([MOUNT])))).raise_for_failure()


@each_driver
@pytest.mark.parametrize("news", [b"", b'{"type":"lifecycle","payload":{"state":"shutdown"}}\n'])
@pytest.mark.parametrize(
    ("ask", "label"),
    [
        (lambda client: result(client.shutdown()), "shutdown"),
        (lambda client: result(client.request(MOUNT)), "mount"),
        (lambda client: result(client.request_many([Ping(), MOUNT])), "ping"),
        (provisioned, "mount"),
    ],
    ids=["shutdown", "request", "request_many", "provision"],
)
def test_a_guest_that_went_while_nothing_was_asked(driver, news, ask, label):
    """TCP takes what is written to such a connection, and the change would be reported as sent."""

    async def main():
        async with attached(driver, ours) as client:
            theirs.sendall(PONG)
            assert await result(client.ping()) == Pong()
            theirs.recv(1 << 16)
            theirs.sendall(news)
            theirs.close()
            await some_turns(driver)
            with pytest.raises(ConnectionLost, match=f"^{label} was not sent") as caught:
                await ask(client)
            assert not isinstance(caught.value, OutcomeUnknown)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with theirs:
        run(driver, main)
