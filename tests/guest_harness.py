"""One interface for the three servers, and a host on plain sockets that talks to them."""

import asyncio
import gc
import json
import os
import socket
import threading
import time
import tty
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from stereos_proto import encode
from stereos_proto_io import TCP
from stereos_proto_io.guest import asyncio as asyncio_guest
from stereos_proto_io.guest import blocking as blocking_guest
from stereos_proto_io.guest import trio as trio_guest

KINDS = ["blocking", "asyncio", "trio"]
#: Longer than anything here takes; a test that waits so long has failed.
PATIENCE = 20


#: Seconds in which a thread that waits is seen to wait. One that does not wait is found nearly always, never wrongly.
MOMENT = 0.05


def started(function):
    """A thread that calls a function."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def waits(thread):
    """Whether a thread is still at work after a moment."""
    thread.join(MOMENT)
    return thread.is_alive()


def ends(thread):
    """Whether a thread ends, however long it takes."""
    thread.join(PATIENCE)
    return not thread.is_alive()


@contextmanager
def terminal():
    """A character device like the guest's port, and the descriptor of its other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    try:
        yield master, os.ttyname(slave), slave
    finally:
        for descriptor in (master, slave):
            os.close(descriptor)


class Served:
    """A server of whatever kind, seen from the test's thread."""

    def __init__(self, server, call, join):
        self.server = server
        self.address = server.address
        self.addresses = server.addresses
        self._call = call
        self.join = join

    def push(self, message):
        return self._call(lambda: self.server.push(message))

    def push_to(self, index, message):
        return self._call(lambda: self.server.connections[index].push(message))

    def reboot(self, seconds=0):
        return self._call(lambda: self.server.reboot(seconds))

    def power_off(self):
        return self._call(self.server.power_off)

    @property
    def connections(self):
        return self._call(lambda: len(self.server.connections))


@contextmanager
def running(kind, address, handler, **options):
    address = TCP("127.0.0.1", 0) if address is None else address
    if kind == "blocking":
        with blocking_guest.serve(address, handler, **options) as server:
            yield Served(server, lambda work: work(), lambda: server.join(PATIENCE))
        return
    yield from (_asyncio if kind == "asyncio" else _trio)(address, handler, options)


def _asyncio(address, handler, options):
    up, off, box = threading.Event(), threading.Event(), {}

    async def main():
        try:
            async with asyncio_guest.serve(address, handler, **options) as server:
                box["server"], box["loop"], box["end"] = server, asyncio.get_running_loop(), asyncio.Event()
                up.set()
                waiters = [asyncio.ensure_future(server.wait_off()), asyncio.ensure_future(box["end"].wait())]
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                if waiters[0].done():
                    off.set()
                await box["end"].wait()
                waiters[0].cancel()
        except BaseException as exc:  # noqa: BLE001  (the test's thread raises it)
            box["error"] = exc
        finally:
            up.set()

    def call(work):
        async def do():
            return work()

        return asyncio.run_coroutine_threadsafe(do(), box["loop"]).result(PATIENCE)

    thread = threading.Thread(target=asyncio.run, args=[main()])
    yield from _threaded(thread, up, off, box, call, lambda: box["loop"].call_soon_threadsafe(box["end"].set))


def _trio(address, handler, options):
    up, off, box = threading.Event(), threading.Event(), {}

    async def main():
        try:
            async with trio_guest.serve(address, handler, **options) as server, trio.open_nursery() as nursery:
                box["server"], box["token"], box["end"] = server, trio.lowlevel.current_trio_token(), trio.Event()
                up.set()

                async def watch():
                    await server.wait_off()
                    off.set()

                nursery.start_soon(watch)
                await box["end"].wait()
                nursery.cancel_scope.cancel()
        except BaseException as exc:  # noqa: BLE001  (the test's thread raises it)
            box["error"] = exc
        finally:
            up.set()

    def call(work):
        return trio.from_thread.run_sync(work, trio_token=box["token"])

    thread = threading.Thread(target=trio.run, args=[main])
    yield from _threaded(thread, up, off, box, call, lambda: box["token"].run_sync_soon(box["end"].set))


def _threaded(thread, up, off, box, call, end):
    thread.start()
    try:
        assert up.wait(PATIENCE)
        if "server" not in box:
            raise box["error"]
        yield Served(box["server"], call, lambda: off.wait(PATIENCE))
    finally:
        if "server" in box:
            # The loop may have ended by itself: a handler raised, for one.
            with suppress(RuntimeError):
                end()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    if "error" in box:
        raise box["error"]


class Host:
    """A host's end of one connection: a socket, and patience."""

    def __init__(self, address):
        if isinstance(address, TCP):
            self.socket = socket.create_connection((address.host, address.port), timeout=PATIENCE)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            try:
                self.socket.connect(address.path)
            except OSError:
                self.socket.close()
                raise
        self._unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def send(self, *parts):
        self.socket.sendall(b"".join(part if isinstance(part, bytes) else encode(part) for part in parts))

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)

    def read(self, size):
        """Exactly so many bytes, fewer at the end."""
        while len(self._unread) < size and (data := self.socket.recv(65536)):
            self._unread += data
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def line(self):
        """The next line; b"" at the end of the stream."""
        while b"\n" not in self._unread:
            data = self.socket.recv(65536)
            if not data:
                return b""
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line + b"\n"

    def reply(self):
        """The next message, parsed; None at the end of the stream."""
        line = self.line()
        return json.loads(line) if line else None

    def rest(self):
        """All that is still to come, until the guest closes."""
        data, self._unread = self._unread, b""
        while chunk := self.socket.recv(65536):
            data += chunk
        return data

    def is_silent(self, seconds=0.05):
        """Whether nothing has come, nor the end. Waits a little, and never says no to a silent guest."""
        if self._unread:
            return False
        self.socket.settimeout(seconds)
        try:
            self._unread = self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False


def ask(address, *requests):
    """Send requests on a connection of their own, half-close, and return all replies."""
    with Host(address) as host:
        host.send(*requests)
        host.end()
        return [json.loads(line) for line in host.rest().splitlines()]


def ask_patiently(address, *requests):
    """What `ask` returns, once the guest listens again."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return ask(address, *requests)
        except OSError:
            time.sleep(0.01)
    raise AssertionError(f"no guest listens at {address} again")


def ack(type_, error=""):
    return {"type": "ack", "payload": {"reply_to": type_, "ok": not error, **({"error": error} if error else {})}}


PONG = {"type": "pong"}


def descriptors():
    """The open descriptors of this process."""
    gc.collect()
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}
