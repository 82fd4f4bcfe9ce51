"""The asyncio server by itself: its tasks, what it gives back, and hosts that cannot be taken in."""

import asyncio
import logging
import socket

import pytest

from guest_harness import PATIENCE, PONG, ask_patiently
from stereos_proto import Ack, CustomRequest, Ping, Pong, Shutdown, encode
from stereos_proto_io import TCP, UnixSocket
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest._listen import reset_on_close
from stereos_proto_io.guest.asyncio import serve

ANY = TCP("127.0.0.1", 0)


def test_reboots_leave_no_tasks_behind():
    async def main():
        async with serve(ANY, GuestSimulator()) as server:
            for _ in range(3):
                server.reboot()
                assert await asyncio.to_thread(ask_patiently, server.address, Ping()) == [PONG]
            assert len(server._tasks) == 1  # which accepts

    asyncio.run(main())


def test_a_listener_that_is_closed_is_watched_no_more():
    """Its descriptor may be given to another file at once, before the task that accepted has seen its cancellation."""

    async def main():
        async with serve(ANY, GuestSimulator()) as server:
            await asyncio.sleep(0)
            number = server._endpoints[0].listener.fileno()
            server.reboot(3600)
            assert not asyncio.get_running_loop().remove_reader(number)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def test_closing_waits_for_handlers_whose_host_has_gone():
    async def main():
        steps, asked = [], asyncio.Event()

        async def handler(_request):
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                steps.append("ended")

        async with serve(ANY, handler) as server:
            _reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            writer.write(encode(Ping()))
            await asked.wait()
            (connection,) = server.connections
            reset_on_close(writer.get_extra_info("socket"))
            writer.transport.abort()
            await connection.closed.wait()
            await server.aclose()
            assert steps == ["ended"]
            assert not server._tasks

    asyncio.run(main())


@pytest.mark.parametrize("what", ["power_off", "reboot"])
def test_a_host_that_does_not_read_does_not_keep_its_connection(what):
    async def main():
        async with serve(ANY, lambda request: Ack(request.type, False, "x" * 500_000)) as server:
            _reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            writer.transport.pause_reading()
            writer.write(encode(CustomRequest("x")) * 50)
            while not (server.connections and server.connections[0]._transport.get_write_buffer_size()):
                await asyncio.to_thread(lambda: None)
            (connection,) = server.connections
            getattr(server, what)()
            async with asyncio.timeout(PATIENCE):
                await connection.closed.wait()
            writer.transport.abort()

    asyncio.run(main())


def test_closing_does_not_wait_for_a_host_that_does_not_read_the_ack_of_its_shutdown(tmp_path):
    async def main():
        async with serve(
            UnixSocket(tmp_path / "guest"), lambda _request: Ack("shutdown", True, "x" * 500_000)
        ) as server:
            _reader, writer = await asyncio.open_unix_connection(tmp_path / "guest")
            writer.transport.pause_reading()
            writer.write(encode(Shutdown()))
            try:
                async with asyncio.timeout(PATIENCE):
                    await server.wait_off()
                    assert server.connections, "the rest of the ack may still leave"
                    await server.aclose()
            finally:
                writer.transport.abort()
            assert not server.connections

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError(107, "the host has gone"), asyncio.CancelledError()])
def test_a_host_that_cannot_be_taken_in(error, monkeypatch):
    """Nothing of it is left: neither its socket nor its place among the connections."""

    async def main():
        async with serve(ANY, GuestSimulator()) as server:
            ours, theirs = socket.socketpair()

            async def fail(*_arguments):
                raise error

            monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
            with theirs:
                with pytest.raises(type(error)):
                    await server._take_in(server._endpoints[0], ours)
                assert theirs.recv(1) == b""
            assert ours.fileno() == -1
            assert server.connections == ()

    asyncio.run(main())


def test_the_next_host_is_served_after_one_that_could_not_be(caplog, monkeypatch):
    async def main():
        loop, real, failures = asyncio.get_running_loop(), None, [OSError(24, "Too many open files")]

        async def accept(sock):
            if failures:
                raise failures.pop()
            return await real(sock)

        real = loop.sock_accept
        monkeypatch.setattr(loop, "sock_accept", accept)
        async with serve(ANY, lambda _request: Pong()) as server:
            assert await asyncio.to_thread(ask_patiently, server.address, Ping()) == [PONG]

    with caplog.at_level(logging.DEBUG, "stereos_proto_io.guest"):
        asyncio.run(main())
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().endswith("was not accepted: [Errno 24] Too many open files")
