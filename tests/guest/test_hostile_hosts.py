"""A guest's servers beside hosts that flood, do not read, come in crowds, and handlers that break."""

import asyncio
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress

import pytest
import trio

from guest_harness import KINDS, PATIENCE, PONG, Host, ack, ask, ask_patiently, descriptors, running
from stereos_proto import MAX_LINE_SIZE, Ack, CustomRequest, GuestSession, Mount, Ping, Pong, Shutdown, encode
from stereos_proto_io import TCP, UnixSocket, VirtioSerial
from stereos_proto_io.guest import GuestSimulator, _listen
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest import blocking as blocking_guest
from stereos_proto_io.guest._server import LoopConnection
from waiting import until

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("guest")]
    assert len(descriptors()) <= len(before)


# ---------------------------------------------------------------------------------------------- handlers


class Broken(BaseException):
    """What no handler should raise."""


@every_kind
def test_a_handler_that_ends_in_a_base_exception_still_answers(kind):
    """The connection ends over it, but the host is not left waiting, and others are served."""

    def handler(request):
        if request.type == "break":
            raise Broken("hush")
        return Ack(request.type, True)

    def talk(guest):
        with Host(guest.address) as host:
            host.send(CustomRequest("a"), CustomRequest("break"), CustomRequest("b"))
            assert [host.reply(), host.reply()] == [ack("a"), ack("break", "internal error: Broken")]
            with suppress(ConnectionError):
                assert host.rest() == b""

    if kind == "trio":
        # It goes on through the nursery to the user of the server, as Ctrl-C has to.
        with pytest.raises(BaseExceptionGroup), running(kind, None, handler) as guest:
            talk(guest)
        return
    with running(kind, None, handler) as guest:
        talk(guest)
        assert ask(guest.address, CustomRequest("b")) == [ack("b")]


@every_kind
def test_a_handler_that_is_cancelled_still_answers(kind):
    def now(request):
        future = Future()
        future.set_exception(Broken("hush")) if request.type == "break" else future.set_result(Ack(request.type, True))
        return future

    async def later(request):
        if request.type == "break":
            if kind == "trio":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                raise ValueError("hush")
            raise asyncio.CancelledError("hush")
        return Ack(request.type, True)

    with running(kind, None, now if kind == "blocking" else later) as guest:
        replies = ask(guest.address, *map(CustomRequest, ["a", "break", "b"]))
    assert [reply["payload"]["reply_to"] for reply in replies] == ["a", "break", "b"]
    assert replies[1]["payload"]["error"].startswith("internal error: ")
    assert "hush" not in replies[1]["payload"]["error"]


@every_kind
def test_a_type_as_long_as_a_line_is_answered(kind):
    """A refusal names the type, and would be longer than a line may be."""
    type_ = "x" * (MAX_LINE_SIZE - 20)
    with running(kind, None, GuestSimulator()) as guest:
        refused, pong = ask(guest.address, CustomRequest(type_), Ping())
    assert refused["payload"]["reply_to"] == ""
    assert pong == PONG


@every_kind
def test_an_error_inside_the_server_ends_the_connection_and_is_logged(kind, monkeypatch, caplog):
    """Whatever it is, the host is not left waiting, and other hosts are served."""
    real = GuestSession.receive_data

    def broken(session, data):
        if b"break" in data:
            raise ZeroDivisionError
        real(session, data)

    monkeypatch.setattr(GuestSession, "receive_data", broken)
    with caplog.at_level(logging.ERROR), running(kind, None, GuestSimulator()) as guest:
        with Host(guest.address) as host:
            host.send(CustomRequest("break"))
            with suppress(ConnectionError):
                assert host.rest() == b""
        assert ask(guest.address, Ping()) == [PONG]
    assert "ZeroDivisionError" in caplog.text


# ------------------------------------------------------------------------------------------------ crowds


@every_kind
def test_hosts_that_flood_and_do_not_read_leave_turns_to_others(kind):
    """Twenty of them; an honest host's ping is answered each time."""
    flood = encode(Ping()) * 4000
    over = threading.Event()

    def pour(sock):
        sock.setblocking(False)
        while not over.is_set():
            try:
                sock.send(flood)
            except BlockingIOError:
                over.wait(0.01)
            except OSError:
                return

    with running(kind, None, lambda request: Pong()) as guest, ExitStack() as stack:
        hosts = [stack.enter_context(Host(guest.address)) for _ in range(20)]
        threads = [threading.Thread(target=pour, args=[host.socket]) for host in hosts]
        for thread in threads:
            thread.start()
        try:
            with Host(guest.address) as honest:
                for _ in range(20):
                    honest.send(Ping())
                    assert honest.reply() == PONG
        finally:
            over.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_a_turn_of_the_loop_is_bounded(kind, monkeypatch):
    """However much has come at once, another connection gets its turn after so many requests."""
    order = []
    started = threading.Event()

    def handler(request):
        order.append(request.type)
        if request.type == "first":
            assert started.wait(PATIENCE)
        return Ack(request.type, True)

    with running(kind, None, handler) as guest, Host(guest.address) as busy, Host(guest.address) as other:
        for host in (busy, other):
            host.send(CustomRequest("hello"))
            host.reply()
        # The loop stands still until both have sent, so that both are there when it goes on.
        blocker = Host(guest.address)
        blocker.send(CustomRequest("first"))
        until(lambda: "first" in order)
        busy.send(CustomRequest("busy"), encode(CustomRequest("busy")) * (LoopConnection.TURN * 20))
        other.send(CustomRequest("other"))
        started.set()
        assert other.reply() == ack("other")
        before = order.index("other")
        assert order[:before].count("busy") <= LoopConnection.TURN * 2
        blocker.socket.close()
        for _ in range(LoopConnection.TURN * 20 + 1):
            assert busy.reply() == ack("busy")


def test_a_crowd_for_which_there_are_no_threads(monkeypatch, caplog):
    """They are turned away; the guest stays, and serves the next one for which there is a thread."""
    server = blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator())
    none_left = threading.Event()
    start = threading.Thread.start

    def starved(thread):
        if none_left.is_set() and thread.name.startswith("guest"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starved)
    with server, caplog.at_level(logging.WARNING):
        none_left.set()
        for _ in range(3):
            with Host(server.address) as host, suppress(ConnectionError):
                assert host.rest() == b""
        none_left.clear()
        assert ask(server.address, Ping()) == [PONG]
        assert not server.join(0)
    assert "can't start new thread" in caplog.text


def test_no_thread_to_write_with_ends_one_connection(monkeypatch, caplog):
    """A host that does not read needs one."""
    start = threading.Thread.start

    def starved(thread):
        if thread.name == "guest writes":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starved)
    large = "x" * 900_000
    with blocking_guest.serve(TCP("127.0.0.1", 0), lambda request: Ack(request.type, False, large)) as server:
        with Host(server.address) as host, suppress(ConnectionError):
            host.send(CustomRequest("a"), *[CustomRequest("b")] * 30)
            host.rest()
        with Host(server.address) as host:
            assert host.is_silent()
    assert "no thread is left" in caplog.text


@every_kind
def test_no_descriptor_for_a_host(kind, monkeypatch):
    """It is served as soon as there is one."""
    real, left = socket.socket._accept, [3]

    def accept(sock):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(sock)

    with running(kind, None, GuestSimulator()) as guest:
        monkeypatch.setattr(socket.socket, "_accept", accept)
        assert ask(guest.address, Ping()) == [PONG]
    assert left == [0]


def test_an_order_that_fails_does_not_end_the_guest(caplog):
    with blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator()) as server:
        server._tell(lambda: 1 / 0)
        assert ask(server.address, Ping()) == [PONG]
        assert not server.join(0)
    assert "ZeroDivisionError" in caplog.text


# -------------------------------------------------------------------------------------- power and reboot


class Fragile(GuestSimulator):
    """A guest whose machine does not do as it is told."""

    def power_off(self):
        raise OSError("the disk is gone")

    def reboot(self):
        super().reboot()
        raise OSError("a folder is in the way")


@every_kind
def test_a_guest_that_cannot_power_off_in_good_order_is_off_all_the_same(kind, caplog):
    with running(kind, None, Fragile()) as guest:
        with Host(guest.address) as bystander:
            bystander.send(Ping())
            assert bystander.reply() == PONG
            assert ask(guest.address, Shutdown()) == [ack("shutdown")]
            assert bystander.rest() == b""
        assert guest.join()
        with pytest.raises(OSError, match="refused"):
            Host(guest.address)
    assert "the disk is gone" in caplog.text


@every_kind
def test_a_guest_that_cannot_start_anew_in_good_order_listens_again(kind, caplog):
    with running(kind, None, Fragile(faults=["reboot@mount#1"])) as guest:
        assert ask(guest.address, Mount("t", "/w", "9p")) == [ack("mount")]
        assert ask_patiently(guest.address, Ping()) == [PONG]
    assert "a folder is in the way" in caplog.text


@every_kind
def test_a_guest_whose_address_was_taken_meanwhile_tries_on(kind, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    addresses = [UnixSocket("a"), UnixSocket("b")]
    taken, bind, tries = threading.Event(), _listen._bind_unix, []

    def refuse(path):
        if path == "b" and taken.is_set():
            tries.append(path)
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return bind(path)

    monkeypatch.setattr(_listen, "_bind_unix", refuse)
    with running(kind, addresses, GuestSimulator(faults=["reboot@mount#1"])):
        taken.set()
        assert ask(UnixSocket("a"), Mount("t", "/w", "9p")) == [ack("mount")]
        assert ask_patiently(UnixSocket("a"), Ping()) == [PONG]
        until(lambda: len(tries) >= 3)
        assert ask(UnixSocket("a"), Ping()) == [PONG]
        taken.clear()
        assert ask_patiently(UnixSocket("b"), Ping()) == [PONG]
    assert caplog.text.count("cannot listen on unix://") == 1


# ------------------------------------------------------------------------------------------- interrupts


INTERRUPTED = """
import sys, threading
from stereos_proto import Pong
from stereos_proto_io import UnixSocket
from stereos_proto_io.guest.blocking import serve

try:
    with serve(UnixSocket(sys.argv[1]), lambda request: Pong()) as server:
        print("up", flush=True)
        server.join()
except KeyboardInterrupt:
    print([thread.name for thread in threading.enumerate()])
"""


def test_close_waits_after_a_join_that_was_interrupted(tmp_path):
    """CPython 3.11 takes a thread for ended whose join was interrupted by Ctrl-C."""
    path = tmp_path / "s"
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        with Host(UnixSocket(path)) as host:
            host.send(Ping())
            assert host.reply() == PONG
            # Python misses a signal that comes just before a thread begins to wait.
            for _ in range(PATIENCE):
                process.send_signal(signal.SIGINT)
                if select.select([process.stdout], [], [], 1)[0]:
                    break
            assert process.stdout.read() == "['MainThread']\n"
        assert process.wait(PATIENCE) == 0
    assert not path.exists()


# --------------------------------------------------------------------------------------- blocking threads


def test_one_thread_serves_a_host_that_reads():
    with blocking_guest.serve(TCP("127.0.0.1", 0), GuestSimulator()) as server, Host(server.address) as host:
        for _ in range(3):
            host.send(Ping())
            assert host.reply() == PONG
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("guest")]
    assert sorted(names) == sorted(["guest reads", f"guest at {server.address}"])


@pytest.mark.parametrize("address", [TCP("127.0.0.1", 0), VirtioSerial("p")], ids=str)
def test_a_future_that_is_settled_when_its_host_has_gone(address, tmp_path, monkeypatch):
    """It is for the next host of the port; on a connection it is dropped."""
    monkeypatch.chdir(tmp_path)
    futures = []

    def handler(request):
        if request.type != "slow":
            return Ack(request.type, True)
        futures.append(Future())
        return futures[-1]

    with blocking_guest.serve(address, handler) as server:
        with Host(server.address) as host:
            host.send(CustomRequest("slow"))
            until(lambda: futures)
        if isinstance(address, VirtioSerial):
            until(lambda: not server.connections)
        futures.pop().set_result(Ack("slow", True))
        with Host(server.address) as host:
            host.send(CustomRequest("next"))
            expected = ["slow", "next"] if isinstance(address, VirtioSerial) else ["next"]
            assert [host.reply()["payload"]["reply_to"] for _ in expected] == expected


@every_kind
def test_a_late_reply_does_not_hold_up_what_is_asked_next(kind):
    """The next request is carried out while the reply is late."""
    handled = []
    gate = threading.Event()

    def handler(request):
        handled.append(request.type)
        return Ack(request.type, True)

    def wait(seconds):
        assert 0 < seconds <= 5.0
        assert gate.wait(PATIENCE)

    async def on_asyncio(seconds):
        await asyncio.to_thread(wait, seconds)

    async def on_trio(seconds):
        await trio.to_thread.run_sync(wait, seconds)

    sleep = {"blocking": wait, "asyncio": on_asyncio, "trio": on_trio}[kind]
    with running(kind, None, handler, faults=["late:5s#1"], sleep=sleep) as guest, Host(guest.address) as host:
        host.send(CustomRequest("a"))
        host.send(CustomRequest("b"))
        while len(handled) < 2:
            time.sleep(0.001)
        assert host.is_silent()
        gate.set()
        assert [host.reply(), host.reply()] == [ack("a"), ack("b")]


def test_nothing_more_is_written_to_a_host_that_has_gone(tmp_path, caplog):
    """asyncio complains, in the log of the program, of what a transport is given after a write has failed."""

    async def main():
        long = Ack("ping", False, "x" * 500_000)
        async with asyncio_guest.serve(UnixSocket(tmp_path / "guest"), lambda _request: long) as server:
            with Host(server.address) as host:
                host.send(*[Ping()] * 20)
            # The host has gone before the first of its requests is read.
            while not server.connections:  # noqa: ASYNC110  (the server has no event for it)
                await asyncio.sleep(0)
            await server.connections[0].closed.wait()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_a_handler_that_closes_its_server_in_a_thread():
    """It would wait for itself, and so would whoever closes the server later."""
    failures = []

    def handler(_request):
        with pytest.raises(
            RuntimeError, match=r"a handler cannot close its server.*: do it in another thread"
        ) as caught:
            server.close()
        failures.append(caught.value)
        return Pong()

    with blocking_guest.serve(TCP("127.0.0.1", 0), handler) as server:
        assert ask(server.address, Ping()) == [PONG]
    assert len(failures) == 1


def test_a_handler_that_closes_its_server_in_a_task():
    """It would wait for itself."""

    async def main():
        async def handler(_request):
            with pytest.raises(RuntimeError, match=r"a handler cannot close its server"):
                await server.aclose()
            return Pong()

        async with asyncio_guest.serve(TCP("127.0.0.1", 0), handler) as server:
            reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
            writer.write(encode(Ping()))
            assert await reader.readline() == encode(Pong())
            writer.close()

    asyncio.run(main())
