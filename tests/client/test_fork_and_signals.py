"""What the operating system does to a process: forks, high descriptors, signals."""

import fcntl
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from stereos_proto import ConnectError, CustomRequest, Lifecycle, Pong, encode
from stereos_proto_io import HybridVsock, UnixSocket, VirtioSerial

from .guests import DONE, LONG, PING, PONG, echo, lines, scripted
from .harness import BLOCKING, PATIENCE, attached, each_driver, entered, result
from .loops import EXAMPLES

#: What both scripts of a fork end with: the connection is as it was in the parent.
GOES_ON = """
    def answer():
        assert theirs.recv(100) == encode(Ping())
        theirs.sendall(b'{"type":"pong"}\\n')
    threading.Thread(target=answer).start()
    assert client.ping() == Pong()
    client.close()
"""

FORK = f"""
    import os, socket, threading
    from stereos_proto import ConnectionLost, Pong, encode, Ping
    from stereos_proto_io.blocking import Client

    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    client = Client.attach(ours, timeout=20)

    # A thread that reads for all, and one that holds the lock: there is neither in the child.
    listening = threading.Thread(target=lambda: list(client.notifications()))
    listening.start()
    while client._turns._leader is None:
        pass
    held, fork = threading.Event(), threading.Event()
    def hold():
        with client._lock:
            held.set()
            fork.wait(20)
    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(20)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.ping()
        except ConnectionLost as exc:
            code = 0 if "belongs to the process" in str(exc) else 2
        client.close()
        os._exit(code)
    fork.set()
    holding.join(20)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
{GOES_ON}
    listening.join(20)
    assert theirs.recv(1) == b""
"""


def test_a_child_that_was_forked_leaves_the_connection_to_its_parent():
    """Two processes on one stream would get each other's replies; closing in one would end it for both."""
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(FORK)], check=True, timeout=60
    )


GREEN_FORK = f"""
    import os, socket, sys, threading
    sys.path.insert(0, sys.argv[1])
    from loop_gevent import Client
    from stereos_proto import Ping, Pong, encode

    ours, theirs = socket.socketpair()
    client = Client.attach(ours, timeout=20)
    if not (child := os.fork()):
        client.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
{GOES_ON}
"""


def test_a_child_closes_its_copy_of_a_client_for_green_threads():
    """It shut the connection down, which is its parent's, too."""
    words = (sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(GREEN_FORK), EXAMPLES)
    subprocess.run(words, check=True, timeout=60)


@each_driver
def test_a_descriptor_beyond_what_select_takes(driver):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2100:
        pytest.skip(f"this system allows a process {hard} descriptors, and 2100 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2100), hard))

    async def main():
        async with attached(driver, high) as client:
            for name in ("a", "b"):
                [reply] = await result(client.request_many([CustomRequest(name)]))
                assert reply.reply_to == name

    try:
        with scripted(echo) as ours:
            high = socket.socket(fileno=fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD_CLOEXEC, 2000))
            ours.close()
            assert high.fileno() >= 2000
            driver.run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("what", ["a reply", "news", "a full wire"])
def test_signals_that_come_while_a_call_waits(what):
    """Each interrupts a call of the system, which goes on."""
    came = threading.Semaphore(0)

    def script(sock):
        for _ in range(5):
            assert came.acquire(timeout=PATIENCE)
        if what == "news":
            sock.sendall(encode(Lifecycle("ready")))
        for line in lines(sock):
            sock.sendall(PONG if line == PING else DONE)

    def handle(*_):
        came.release()
        signal.setitimer(signal.ITIMER_REAL, *often)

    # One that comes just before a call of the system does not interrupt it, and no handler would ask for the next. The
    # interval sees to that; a short one would interrupt the handler itself on a busy machine, again and again.
    often = 0.001, 0.2
    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, *often)
    try:
        with scripted(script) as ours, BLOCKING.Client.attach(ours, timeout=PATIENCE) as client:
            if what == "news":
                assert next(client.notifications(timeout=PATIENCE)) == Lifecycle("ready")
            elif what == "a full wire":
                assert client.request(LONG).ok
            else:
                assert client.ping() == Pong()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


FORKS = """
    import os, signal, socket, threading
    from stereos_proto import ConnectionLost, CustomRequest
    from stereos_proto_io.blocking import Client

    def echo(sock):
        rest = b""
        while data := sock.recv(1 << 18):
            *whole, rest = (rest + data).split(b"\\n")
            for line in whole:
                sock.sendall(b'{"type":"ack","payload":{"reply_to":%b,"ok":true}}\\n' % line[8:-1])

    ours, theirs = socket.socketpair()
    threading.Thread(target=echo, args=(theirs,), daemon=True).start()
    client = Client.attach(ours, timeout=20)
    over = threading.Event()

    def ask(thread):
        number = 0
        while not over.is_set():
            name = f"{thread}-{number}"
            assert client.request(CustomRequest(name)).reply_to == name
            number += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs is killed
            code = 1
            try:
                client.request(CustomRequest("child"))
            except ConnectionLost as exc:
                code = 0 if "belongs to the process" in str(exc) else 2
            client.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    over.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    client.close()
"""


def python(code, *more):
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), *more],
        check=True,
        timeout=100,
    )


def test_forks_while_eight_threads_ask():
    """A child has none of the threads, and may find the lock held, or a waiter half woken."""
    python(FORKS)


KEPT = """
    import asyncio, os, socket, sys, trio
    from stereos_proto_io import asyncio as asyncio_driver, blocking, trio as trio_driver

    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    over, end = os.pipe()

    def fork():
        child = os.fork()
        if child == 0:
            os.close(end)
            os.read(over, 1)
            os._exit(0)
        return child

    async def on_asyncio():
        client = await asyncio_driver.Client.attach(ours)
        child = fork()
        await client.aclose()
        return child

    async def on_trio():
        client = trio_driver.Client.attach(ours)
        child = fork()
        await client.aclose()
        return child

    def on_blocking():
        client = blocking.Client.attach(ours)
        child = fork()
        client.close()
        return child

    if sys.argv[1] == "uvloop":
        import uvloop
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            child = runner.run(on_asyncio())
    else:
        runs = {"asyncio": lambda: asyncio.run(on_asyncio()), "trio": lambda: trio.run(on_trio)}
        child = runs.get(sys.argv[1], on_blocking)()
    assert theirs.recv(1) == b"", "the guest does not see that the connection was closed"
    os.close(end)
    os.waitpid(child, 0)
"""


@each_driver
def test_a_close_is_seen_by_the_guest_although_a_child_has_the_descriptor(driver):
    python(KEPT, driver.name)


def test_a_python_that_cannot_fork():
    python("""
        import os
        for name in ("fork", "register_at_fork"):
            delattr(os, name)
        import socket
        from stereos_proto_io.blocking import Client
        ours, theirs = socket.socketpair()
        Client.attach(ours).close()
        assert theirs.recv(1) == b""
    """)


@each_driver
@pytest.mark.parametrize("kind", [UnixSocket, HybridVsock, VirtioSerial])
def test_a_system_without_unix_sockets(driver, kind, monkeypatch):
    async def main():
        with monkeypatch.context() as patch:
            patch.delattr(socket, "AF_UNIX")
            with pytest.raises(ConnectError, match="no AF_UNIX") as caught:
                async with entered(driver.module.connect(kind("/run/guest.sock"))):
                    pass
            assert not caught.value.retryable

    driver.run(main)
