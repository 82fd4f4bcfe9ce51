"""One connection of the trio server over a socket pair or a device, without the server around it."""

import logging
import os
import socket
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from guest_harness import PATIENCE, PONG, ask_patiently, terminal
from stereos_proto import GuestSession, Lifecycle, Ping, Pong, encode
from stereos_proto_io import TCP
from stereos_proto_io.driver._device import AWAY_PAUSE, Device
from stereos_proto_io.guest._listen import Endpoint
from stereos_proto_io.guest._server import as_guest
from stereos_proto_io.guest._trio_connection import GuestConnection
from stereos_proto_io.guest.trio import _plain, serve


def made(transport, handler=lambda _request: Pong(), *, has_connections=True):
    server = SimpleNamespace(guest=as_guest(handler, ()), _current={})
    session = GuestSession(has_connections=has_connections)
    return GuestConnection(server, Endpoint(TCP("127.0.0.1", 1)), transport, session)


@contextmanager
def pair():
    """The guest's socket, which the connection closes, and the host's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(PATIENCE)
    with theirs:
        yield ours, theirs


def run(connection, *steps):
    """Run a connection beside steps of a host, each a function that may block."""

    async def main():
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                for step in steps:
                    await trio.to_thread.run_sync(step)
                await trio.testing.wait_all_tasks_blocked()
                connection.end()

    trio.run(main)


def test_a_connection_that_has_ended_is_forgotten():
    with pair() as (ours, theirs):
        connection = made(ours)
        theirs.sendall(encode(Ping()))
        run(connection, lambda: theirs.recv(100))
        assert not connection.is_open
        assert connection.session.ended
        assert connection._server._current == {}
        assert ours.fileno() == -1


def test_a_connection_that_was_ended_before_it_began_does_nothing():
    with pair() as (ours, theirs):
        connection = made(ours)
        connection.session.push(Lifecycle("ready"))
        connection.end()
        trio.run(connection.run)
        assert theirs.recv(100) == b""


def test_ending_is_told_at_once():
    with pair() as (ours, _theirs):
        connection = made(ours)

        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                await trio.testing.wait_all_tasks_blocked()
                assert connection.is_open
                connection.end()
                assert not connection.is_open

        trio.run(main)


def test_a_reset_is_seen_by_the_host():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as host:
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        connection = made(accepted)

        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                await trio.testing.wait_all_tasks_blocked()
                connection.end(reset=True)

        trio.run(main)
        with pytest.raises(ConnectionResetError):
            host.recv(1)


class Failing(socket.socket):
    """A socket whose host has gone."""

    def send(self, *_arguments):
        raise BrokenPipeError("gone")

    def recv(self, *_arguments):
        raise ConnectionResetError("gone")


@pytest.mark.parametrize("writes", [True, False])
def test_a_host_that_is_gone_ends_the_connection(writes):
    with pair() as (ours, _theirs):
        connection = made(Failing(fileno=ours.detach()))
        if writes:
            connection.session.push(Lifecycle("ready"))

        async def main():
            with trio.fail_after(PATIENCE):
                await connection.run()

        trio.run(main)
        assert not connection.is_open
        assert not connection.session.wants_write


def test_a_write_that_fails_leaves_nothing_to_write():
    with pair() as (ours, _theirs):
        connection = made(Failing(fileno=ours.detach()))
        connection.session.push(Lifecycle("ready"))
        connection.is_open = True
        assert connection.write_some()
        assert not connection.session.wants_write
        assert not connection.is_open
        assert not connection.write_some()
        connection._transport.close()


def test_a_task_writes_what_the_host_does_not_take_at_once():
    size = 60_000
    with pair() as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection = made(ours)
        lines = [encode(Lifecycle("ready", f"{number} " + "x" * size)) for number in range(5)]

        def push():
            for number in range(5):
                assert connection.session.push(Lifecycle("ready", f"{number} " + "x" * size))

        def read():
            data = b""
            while len(data) < sum(map(len, lines)):
                data += theirs.recv(65536)
            return data

        received = []
        push()
        run(connection, lambda: received.append(read()))
        assert received == [b"".join(lines)]


def test_a_socket_is_not_closed_behind_the_back_of_a_task_that_waits_on_it():
    """`notify_closing` wakes it. Without, trio would wait on a descriptor that is somebody else's by then."""
    noted = []
    with pair() as (ours, _theirs), pytest.MonkeyPatch.context() as patch:
        real = trio.lowlevel.notify_closing
        patch.setattr(trio.lowlevel, "notify_closing", lambda what: (noted.append(what.fileno()), real(what)))
        number = ours.fileno()
        run(made(ours))
        assert noted == [number]


def test_a_device_whose_host_is_away_is_tried_by_the_clock(monkeypatch):
    """While it is away, the system says that the device can be written."""
    pauses, real = [], trio.sleep

    class Away(Device):
        tries = 3

        @property
        def is_away(self):
            return self.tries > 0

        def send(self, data):
            self.tries -= 1
            if self.tries >= 0:
                raise BlockingIOError
            return super().send(data)

    async def sleep(seconds):
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(trio, "sleep", sleep)
    with terminal() as (host, path, _end):
        connection = made(Away(path), has_connections=False)
        connection.session.push(Lifecycle("ready"))
        run(connection, lambda: os.read(host, 1))
    assert pauses[:2] == [AWAY_PAUSE] * 2


def test_an_accepted_socket_does_not_wait_and_sends_small_lines_at_once():
    async def main():
        with trio.socket.socket() as listener:
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            with trio.socket.socket() as host:
                await host.connect(listener.getsockname())
                accepted, _ = await listener.accept()
                with _plain(accepted) as sock:
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    with pytest.raises(BlockingIOError):
                        sock.recv(1)

    trio.run(main)


def test_the_next_host_is_served_after_one_that_could_not_be(caplog, monkeypatch):
    failures = [OSError(24, "Too many open files")]

    async def main():
        with trio.socket.socket() as one:
            sockets = type(one)
        real = sockets.accept

        async def accept(self):
            if failures:
                raise failures.pop()
            return await real(self)

        monkeypatch.setattr(sockets, "accept", accept)
        async with serve(TCP("127.0.0.1", 0), lambda _request: Pong()) as server:
            assert await trio.to_thread.run_sync(ask_patiently, server.address, Ping()) == [PONG]

    with caplog.at_level(logging.DEBUG, "stereos_proto_io.guest"):
        trio.run(main)
    (record,) = caplog.records
    assert record.getMessage().endswith("was not accepted: [Errno 24] Too many open files")
