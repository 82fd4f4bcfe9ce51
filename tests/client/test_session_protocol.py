"""What asyncio's transports call: `SessionProtocol`, with a transport that keeps what it is told."""

import asyncio

import pytest

from stereos_proto import ConnectionLost, HostSession, Lifecycle, Mailbox, Ping, Turns, encode
from stereos_proto_io.asyncio._transport import SessionProtocol
from stereos_proto_io.driver import EVENTS_PER_TURN

from .guests import PING, PONG
from .harness import ASYNCIO, some_turns

#: More notifications than are worked through in one turn of the loop.
FLOOD = encode(Lifecycle("booting")) * (2 * EVENTS_PER_TURN)


class Transport(asyncio.Transport):
    """Keeps what it is told. It is of no socket."""

    def __init__(self):
        super().__init__()
        self.told = []

    def write(self, data):
        self.told.append(bytes(data))

    def pause_reading(self):
        self.told.append("pause")

    def resume_reading(self):
        self.told.append("resume")

    def abort(self):
        self.told.append("abort")


@pytest.fixture
def connected():
    """Run a test in a loop, with a protocol and the list of what its transport was told."""

    def run(test, **options):
        async def main():
            session, transport = HostSession(**options), Transport()
            protocol = SessionProtocol(session, Turns(session, Mailbox()))
            protocol.connection_made(transport)
            await test(protocol, session, transport.told)

        asyncio.run(main())

    return run


def test_what_waited_for_room_is_written_when_a_reply_comes(connected):
    """No caller has to be woken for it."""

    async def test(protocol, session, told):
        session.request_many([Ping(), Ping()])
        protocol.flush()
        assert told == [PING]
        protocol.data_received(PONG)
        assert told == [PING, PING]

    connected(test, max_pending=1)


def test_a_flood_is_worked_through_in_turns_while_reading_pauses(connected):
    async def test(protocol, session, told):
        for _ in range(2):
            protocol.data_received(FLOOD)
        assert told == ["pause"]
        await some_turns(ASYNCIO)
        assert told[-1] == "resume"
        assert not session.may_have_events

    connected(test)


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer")])
def test_nothing_is_written_once_the_transport_is_gone(connected, error):
    """The session does not know yet, since a flood came before."""

    async def test(protocol, session, told):
        woken = []
        protocol.data_received(FLOOD)
        protocol.connection_lost(error)
        assert session.ended is None
        call = session.request(Ping())
        call.context = lambda: woken.append(call)
        protocol.flush()
        assert PING not in told
        assert woken == [call]
        assert type(call.outcome) is ConnectionLost
        assert ("reset by peer" if error else "the transport was closed") in str(call.outcome)
        await some_turns(ASYNCIO)
        assert session.ended is not None
        assert "abort" in told

    connected(test)


def test_the_end_of_a_transport_is_that_of_the_session(connected):
    async def test(protocol, session, told):
        session.request(Ping())
        protocol.flush()
        protocol.connection_lost(None)
        assert str(session.ended) == "the guest closed the connection"
        assert protocol.lost.done()

    connected(test)


def test_what_does_not_fit_waits_for_the_transport(connected):
    async def test(protocol, session, told):
        protocol.pause_writing()
        session.request(Ping())
        protocol.flush()
        assert told == []
        protocol.resume_writing()
        assert told == []
        await asyncio.sleep(0)
        assert told == [PING]

    connected(test)
