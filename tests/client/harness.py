"""The four clients with one face, and guests that do exactly what a script says."""

import asyncio
import os
import select
import socket
import threading
import tty
from contextlib import asynccontextmanager, contextmanager, suppress

import attrs
import pytest
import trio

from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io import blocking
from stereos_proto_io import trio as trio_driver

#: Longer than anything here takes; a test that waits so long has failed.
PATIENCE = 20


@attrs.frozen
class Driver:
    """A driver, how its coroutine functions are run, and how one asks with a deadline."""

    name: str
    module: object
    run: object
    within: object

    @property
    def Client(self):
        return self.module.Client

    def __str__(self):
        return self.name


async def result(value):
    return await value if hasattr(value, "__await__") else value


async def _asyncio_within(client, message, seconds):
    return await asyncio.wait_for(client.request(message), seconds)


async def _trio_within(client, message, seconds):
    with trio.move_on_after(seconds):
        return await client.request(message)
    raise TimeoutError


def _run_uvloop(main):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _run_blocking(main):
    try:
        main().send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the blocking client awaited something")


BLOCKING = Driver(
    "blocking", blocking, _run_blocking, lambda client, message, seconds: client.request(message, timeout=seconds)
)
ASYNCIO = Driver("asyncio", asyncio_driver, lambda main: asyncio.run(main(), debug=True), _asyncio_within)
UVLOOP = Driver("uvloop", asyncio_driver, _run_uvloop, _asyncio_within)
TRIO = Driver("trio", trio_driver, trio.run, _trio_within)
DRIVERS = [BLOCKING, ASYNCIO, UVLOOP, TRIO]

each_driver = pytest.mark.parametrize("driver", DRIVERS, ids=str)


@asynccontextmanager
async def attached(driver, stream, **options):
    """A client over a stream, closed at the end."""
    client = await result(driver.Client.attach(stream, **options))
    try:
        yield client
    finally:
        await result(client.aclose() if hasattr(client, "aclose") else client.close())


@asynccontextmanager
async def entered(made):
    """What `connect` returned, in use."""
    if hasattr(made, "__aenter__"):
        async with made as client:
            yield client
    else:
        with made as client:
            yield client


@contextmanager
def scripted(script):
    """A socket to a guest that is a function of the other end, in a thread of its own."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    failure = []

    def run():
        with theirs, suppress(BrokenPipeError, ConnectionResetError):
            try:
                script(theirs)
            except (AssertionError, TimeoutError) as exc:
                failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    if failure:
        raise failure[0]


def lines(sock):
    """Yield the lines that come, until the end."""
    with sock.makefile("rb") as reader:
        yield from reader


@contextmanager
def pty_to(path):
    """A pseudo-terminal that leads to a unix socket, as QEMU's `-chardev pty` does; its name."""
    master, slave = os.openpty()
    tty.setraw(slave)
    guest = socket.socket(socket.AF_UNIX)
    guest.connect(path)
    stop, stopped = os.pipe()  # reading from it is never done: its end is what one waits for
    thread = threading.Thread(target=_relay, args=(master, guest, stop))
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(stopped)
        thread.join(PATIENCE)
        guest.close()
        for descriptor in (master, slave, stop):
            os.close(descriptor)


def _relay(master, guest, stop):
    ends = {master: guest.fileno(), guest.fileno(): master}
    for end in ends:
        os.set_blocking(end, False)
    unwritten = dict.fromkeys(ends, b"")
    while True:
        poll = select.poll()
        poll.register(stop)
        for end, other in ends.items():
            poll.register(end, (0 if unwritten[other] else select.POLLIN) | (select.POLLOUT if unwritten[end] else 0))
        for end, event in poll.poll():
            if event & select.POLLIN:
                unwritten[ends[end]] += os.read(end, 65536)
            elif event & (select.POLLHUP | select.POLLERR):
                return
            if event & select.POLLOUT:
                unwritten[end] = unwritten[end][os.write(end, unwritten[end]) :]
