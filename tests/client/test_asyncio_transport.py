"""What asyncio's protocol does when an exception comes in the middle of reading or writing."""

import asyncio
import gc
import socket
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest

from interrupts import interrupt_after, locals_of
from stereos_proto import ConnectionLost, InjectSecret, Lifecycle, Ping, Pong, Role, encode
from stereos_proto_io.asyncio import Client
from stereos_proto_io.asyncio._transport import fulfil

from .guests import PING, PONG
from .harness import PATIENCE


@contextmanager
def loop_with(number):
    """A loop of asyncio's and clients in it, each with the other end of its connection."""
    with asyncio.Runner() as runner:
        pairs = [socket.socketpair() for _ in range(number)]
        clients = [runner.run(Client.attach(ours)) for ours, _ in pairs]
        try:
            yield runner.get_loop(), clients, [theirs for _, theirs in pairs]
        finally:
            for client, (_, theirs) in zip(clients, pairs, strict=True):
                runner.run(client.aclose())
                theirs.close()


async def outcome(awaitable):
    try:
        async with asyncio.timeout(PATIENCE):
            return await awaitable
    except ConnectionLost as exc:
        return str(exc)


@pytest.mark.parametrize("who", ["a caller", "the loop"])
def test_an_interrupt_while_it_writes_ends_the_connection(who):
    with loop_with(1) as (loop, [client], [theirs]):
        transport = client._protocol.transport
        client._protocol.transport = SimpleNamespace(
            write=interrupt_after(transport.write), get_extra_info=transport.get_extra_info, abort=transport.abort
        )
        store = InjectSecret("NAME", "s3nt1nel")
        if who == "the loop":
            client._session.request(store)
        write = client._protocol.pump if who == "the loop" else partial(loop.run_until_complete, client.request(store))
        with pytest.raises(KeyboardInterrupt) as caught:
            write()
        assert "s3nt1nel" not in locals_of(caught.value)
        assert "was interrupted" in loop.run_until_complete(outcome(client.ping()))
        theirs.settimeout(PATIENCE)
        assert theirs.recv(1000).count(b"\n") == 1
        assert theirs.recv(1000) == b""


def test_an_interrupt_within_receiving_ends_the_connection():
    with loop_with(1) as (loop, [client], [theirs]):
        session = client._session
        session.receive_data = interrupt_after(session.receive_data)
        theirs.sendall(b'{"type":"s3nt1nel"}\n')
        with pytest.raises(KeyboardInterrupt) as caught:
            loop.run_until_complete(client.ping())
        assert "s3nt1nel" not in locals_of(caught.value)
        assert "was interrupted" in loop.run_until_complete(outcome(client.ping()))


def test_bytes_that_an_interrupt_in_the_loop_has_lost_are_noticed():
    """Whose bytes they were: another connection of the thread may read next, and goes on."""
    with loop_with(2) as (loop, [client, other], [theirs, other_end]):
        protocol = client._protocol

        def interrupted(_nbytes):
            del protocol.buffer_updated
            raise KeyboardInterrupt

        protocol.buffer_updated = interrupted
        theirs.sendall(PONG)
        first = loop.create_task(outcome(client.ping()))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(first)
        assert client._session.ended is None, "nobody knows yet"
        other_end.sendall(PONG)
        assert loop.run_until_complete(outcome(other.ping())) == Pong()
        assert "was interrupted" in loop.run_until_complete(first)
        theirs.settimeout(PATIENCE)
        assert theirs.recv(1000) == PING
        assert theirs.recv(1000) == b""


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_a_connection_of_a_closed_loop_does_no_harm_to_the_next_one():
    def leave_behind():
        loop = asyncio.new_event_loop()
        client = loop.run_until_complete(Client.attach(ours))
        call = client._session.request(Ping())
        call.context = partial(fulfil, loop.create_future())
        client._protocol.get_buffer(-1)[0] = PONG[0]
        loop.close()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        leave_behind()
        with loop_with(1) as (loop, [client], [other_end]):
            for _ in range(2):
                other_end.sendall(PONG)
                assert loop.run_until_complete(outcome(client.ping())) == Pong()
        gc.collect()


def test_a_read_that_finds_nothing_is_no_loss():
    with loop_with(2) as (loop, [client, other], [theirs, other_end]):
        client._protocol.get_buffer(-1)
        other._protocol.get_buffer(-1)
        for each, end in ((client, theirs), (other, other_end)):
            end.sendall(PONG)
            assert loop.run_until_complete(outcome(each.ping())) == Pong()


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_what_the_trace_raises_in_a_later_turn_leaves_nobody_waiting(error):
    """A request is written by the loop, once there is room in flight: no caller is there to get the exception."""
    sent = []

    def trace(role, _data):
        sent.append(role)
        if sent.count(Role.HOST) == 2:
            raise error("a full disk")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: found.append(context["exception"]))
        client = await Client.attach(ours, max_pending=1, trace=trace)
        # More than are taken in one turn: the pump goes on by itself, and so writes the second request.
        theirs.sendall(encode(Lifecycle("ready")) * 200 + PONG)
        outcomes = await asyncio.gather(*(outcome(client.ping()) for _ in range(3)))
        await client.aclose()
        return outcomes

    found = []
    ours, theirs = socket.socketpair()
    with theirs:
        first, *others = asyncio.run(main())
    assert first == Pong()
    assert ["was interrupted" in each for each in others] == [True, True]
    assert [str(each) for each in found] == ["a full disk"]


def test_closing_does_not_wait_for_an_end_that_could_not_be_told():
    def fail():
        raise ZeroDivisionError

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: found.append(context["exception"]))
        client = await Client.attach(ours)
        client._session.receive_eof = fail
        async with asyncio.timeout(PATIENCE):
            await client.aclose()

    found = []
    ours, theirs = socket.socketpair()
    with theirs:
        asyncio.run(main())
    assert [type(each) for each in found] == [ZeroDivisionError]
