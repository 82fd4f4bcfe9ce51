"""One connection of the asyncio server beside a transport that notes what it is told."""

import asyncio
from types import SimpleNamespace

import pytest

from stereos_proto import Ack, CustomRequest, GuestSession, Ping, Pong, encode
from stereos_proto._guest_session import MAX_UNANSWERED
from stereos_proto_io import TCP
from stereos_proto_io.guest._asyncio_connection import GuestConnection
from stereos_proto_io.guest._listen import Endpoint
from stereos_proto_io.guest._server import as_guest


class Transport:
    """Takes note of what it is told."""

    def __init__(self):
        self.told, self.wrote, self.closing = [], bytearray(), False

    def write(self, data):
        self.wrote += data

    def is_closing(self):
        return self.closing

    def get_extra_info(self, name):
        assert name == "socket"
        return SimpleNamespace(setsockopt=lambda *_: self.told.append("linger"))

    def __getattr__(self, name):
        return lambda: self.told.append(name)


def served(handler=lambda _request: Pong(), *, has_connections=True):
    """A connection that has begun, its transport and its server."""
    server = SimpleNamespace(guest=as_guest(handler, ()), _current={}, left=[])
    server._left = server.left.append
    connection = GuestConnection(server, Endpoint(TCP("127.0.0.1", 1)), GuestSession(has_connections=has_connections))
    transport = Transport()
    connection.connection_made(transport)
    return connection, transport, server


def test_a_connection_that_begins_reads_already():
    connection, transport, server = served()
    assert connection.is_open
    assert server._current == {connection.session: connection}
    connection.data_received(encode(Ping()))
    assert transport.wrote == encode(Pong())
    assert transport.told == []


def test_a_connection_that_is_lost_is_forgotten():
    connection, transport, server = served()
    connection.connection_lost(None)
    assert not connection.is_open
    assert connection.session.ended
    assert connection.closed.is_set()
    assert (server._current, server.left) == ({}, [connection])
    connection.end()
    connection.abort()
    assert transport.told == []


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda connection: connection.end(), ["close"]),
        (lambda connection: connection.end(reset=True), ["linger", "abort"]),
        (lambda connection: connection.abort(), ["abort"]),
    ],
)
def test_ending_is_told_and_nothing_is_handled_any_more(end, told):
    handled = []
    connection, transport, _server = served(lambda request: handled.append(request) or Pong())
    end(connection)
    assert transport.told == told
    connection.data_received(encode(Ping()))
    assert not handled
    assert not transport.wrote


@pytest.mark.parametrize("has_connections", [True, False])
def test_the_end_of_the_stream_keeps_it_for_what_is_owed(has_connections):
    late = []

    def handler(_request):
        result = asyncio.get_running_loop().create_future()
        late.append(result)
        return result

    async def main():
        connection, transport, server = served(handler, has_connections=has_connections)
        tasks = []
        server._spawn = lambda work: tasks.append(asyncio.ensure_future(work))
        connection.data_received(encode(Ping()))
        assert connection.eof_received() is has_connections
        late[0].set_result(Pong())
        await tasks[0]
        assert transport.wrote == encode(Pong())

    asyncio.run(main())


def test_reading_is_paused_once_and_goes_on_once():
    pending = []

    class Late(GuestConnection):
        def handled(self, request, _result):
            pending.append(request)

    async def main():
        server = SimpleNamespace(guest=as_guest(lambda _request: None, ()), _current={})
        connection, transport = Late(server, Endpoint(TCP("127.0.0.1", 1)), GuestSession()), Transport()
        connection.connection_made(transport)
        for _ in range(MAX_UNANSWERED):
            connection.data_received(encode(CustomRequest("x")))
        connection.pump()
        assert transport.told == ["pause_reading"]
        for each in pending[:]:
            connection.reply(each, Ack("x", False, "no"))
        connection.pump()
        assert transport.told == ["pause_reading", "resume_reading"]

    asyncio.run(main())


def test_a_transport_that_is_full_or_closing_gets_nothing():
    async def main():
        connection, transport, _server = served()
        connection.pause_writing()
        connection.data_received(encode(Ping()))
        assert not transport.wrote
        connection.resume_writing()
        assert not transport.wrote  # not in the middle of what asyncio does
        await asyncio.sleep(0)
        assert transport.wrote == encode(Pong())
        transport.closing = True
        connection.data_received(encode(Ping()))
        assert transport.wrote == encode(Pong())

    asyncio.run(main())


def test_one_turn_is_to_come_at_most():
    async def main():
        connection, _transport, _server = served()
        turns = []
        connection.pump = lambda: turns.append(1)
        for _ in range(3):
            connection.resume_writing()
        await asyncio.sleep(0)
        assert turns == [1]
        connection.resume_writing()
        await asyncio.sleep(0)
        assert turns == [1, 1]

    asyncio.run(main())
