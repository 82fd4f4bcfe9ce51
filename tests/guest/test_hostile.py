"""Floods of a hostile host."""

import asyncio
import contextlib

import pytest

from costs import MIB, counted_bytes
from guest_harness import KINDS, Host, running
from stereos_proto import MAX_LINE_SIZE, Ack, InjectSecret, Ping, Pong, encode
from stereos_proto_io import UnixSocket
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest import asyncio as asyncio_guest

SERVERS = pytest.mark.parametrize("kind", KINDS)

#: What a hostile host sends, how often, and whether it ends the connection.
HOST_FLOODS = {
    "no newline": (b"x" * 65_536, 1000, True),
    "brackets without end": (b"[" * 65_536, 1000, True),
    "blank lines": (b"\n" * 65_536, 15, False),
    "lines of brackets": (b"[" * 60_000 + b"\n", 30, False),
    "garbage": (b"garbage\n" * 500, 5, False),
    "pings": (encode(Ping()) * 4000, 20, False),
    "secrets": (encode(InjectSecret("A", "x" * 300_000)), 20, False),
}


@SERVERS
@pytest.mark.parametrize("name", [*HOST_FLOODS])
def test_a_flood_of_a_host_stops_nobody_but_its_own_connection(kind, name):
    """The host reads none of the replies."""
    flood, times, fatal = HOST_FLOODS[name]
    with (
        running(kind, None, lambda request: Pong() if request == Ping() else Ack(request.type, True)) as guest,
        Host(guest.address) as hostile,
        counted_bytes() as cost,
    ):
        hostile.socket.settimeout(0.2)
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(times):
                hostile.socket.sendall(flood)
                sent += 1
        with Host(guest.address) as other:
            other.send(Ping())
            assert other.reply() == {"type": "pong"}
        if fatal:
            assert sent * len(flood) < 16 * MIB
            with contextlib.suppress(ConnectionError):
                assert hostile.read(1) == b""
    # A line as it grows, one that is read, and what is owed.
    assert cost.peak < 3 * MAX_LINE_SIZE + 2 * 256 * 1024 + 64 * 1000 + MIB


@SERVERS
def test_a_host_that_reads_nothing_is_answered_no_further_than_the_bound(kind):
    """A request of sixteen bytes asks for a reply of a hundred kilobytes, a thousand times."""
    handled = []

    def handle(request):
        handled.append(request)
        return Ack(request.type, False, "x" * 100_000)

    with running(kind, None, handle) as guest, Host(guest.address) as host, counted_bytes() as cost:
        host.send(encode(Ping()) * 1000)
        with Host(guest.address) as other:
            other.send(Ping())
            assert other.reply()
        # What the bound lets through, and what the system's buffers take.
        assert len(handled) < 200
    assert cost.peak < 3 * MIB


def errors_of_the_loop():
    """Where asyncio tells what nobody else catches."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    return told


@pytest.mark.parametrize("number", range(3, 9))
def test_a_guest_that_ends_when_its_host_reads_again_ends_once(number, tmp_path):
    """asyncio tells a transport's end twice, when it is closed while it says that it can write again."""

    async def main():
        told = errors_of_the_loop()
        address = UnixSocket(tmp_path / "g")
        refuse = [f"fail:{'x' * 100_000}", f"close#{number}"]
        async with asyncio_guest.serve(address, GuestSimulator(faults=refuse)):
            reader, writer = await asyncio.open_unix_connection(address.path, limit=MIB)
            writer.write(encode(Ping()) * 10)
            # All that can be handled before anything is read.
            for _ in range(20):
                await asyncio.sleep(0)
            replies = (await reader.read()).count(b"\n")
            writer.close()
            await writer.wait_closed()
        assert told == []
        return replies

    assert asyncio.run(main()) == number
