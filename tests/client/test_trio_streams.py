"""Streams of trio, whose `send_all` does not tell how far it came."""

import errno
import socket

import pytest
import trio
import trio.testing

from stereos_proto import ConnectionLost, OutcomeUnknown, encode

from .guests import MOUNT, Wrapped, wrapped
from .harness import TRIO, attached, company, run, until


class Failing(Wrapped):
    """A stream that takes one byte and fails."""

    def __init__(self, stream, error):
        super().__init__(stream)
        self.error = error

    async def send_all(self, data):
        await self.stream.send_all(data[:1])
        raise self.error


@pytest.mark.parametrize(
    "error",
    [trio.BrokenResourceError("the wire is cut"), OSError(errno.EIO, "Input/output error")],
    ids=lambda error: type(error).__name__,
)
def test_what_a_stream_of_trio_fails_with_is_no_group(error):
    """Writing needs a nursery, and what leaves a nursery is a group of errors."""

    async def main():
        async with attached(TRIO, wrapped(ours, error, wrap=Failing)) as client, company(TRIO) as begin:
            torn = begin(lambda: client.request(MOUNT))
            await until(TRIO, lambda: client.connection.pending)
            behind = begin(client.ping)
        assert [type(found[0]) for found in (torn, behind)] == [OutcomeUnknown, ConnectionLost]
        assert isinstance(torn[0].__cause__, OSError)
        assert error.args[-1] in str(torn[0])

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)


class Lingering(Wrapped):
    """A stream that has written everything, and does not come back to say so."""

    async def send_all(self, data):
        await self.stream.send_all(data)
        await trio.sleep_forever()


@pytest.mark.parametrize("how", ["the guest ends", "closed from here"])
def test_what_a_stream_has_taken_may_have_been_carried_out(how):
    """Who is told that a mount was not sent will send it again."""

    async def main():
        async with attached(TRIO, wrapped(ours, wrap=Lingering)) as client, company(TRIO) as begin:
            found = begin(lambda: client.request(MOUNT))
            await trio.testing.wait_all_tasks_blocked()
            assert theirs.recv(1000) == encode(MOUNT)
            if how == "the guest ends":
                theirs.shutdown(socket.SHUT_WR)
            else:
                await client.aclose()
        assert type(found[0]) is OutcomeUnknown

    ours, theirs = socket.socketpair()
    with theirs:
        run(TRIO, main)
