"""What the operating system does to a process: forks of it, high descriptors, signals that interrupt a call."""

import fcntl
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from stereos_proto import CustomRequest, Lifecycle, Pong, encode

from .harness import BLOCKING, PATIENCE, attached, each_driver, lines, result, scripted
from .test_gaps import DONE, LONG, PING, PONG
from .test_many import echo

FORK = """
    import os, socket, threading
    from stereos_proto import ConnectionLost, Pong, encode, Ping
    from stereos_proto_io.blocking import Client

    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    client = Client.attach(ours, timeout=20)

    # A thread that reads for all, and one that holds the lock: there is neither in the child.
    listening = threading.Thread(target=lambda: list(client.notifications()))
    listening.start()
    while client._link._leader is None:
        pass
    held, fork = threading.Event(), threading.Event()
    def hold():
        with client._link.lock:
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

    def answer():
        assert theirs.recv(100) == encode(Ping())
        theirs.sendall(b'{"type":"pong"}\\n')
    threading.Thread(target=answer).start()
    assert client.ping() == Pong()
    client.close()
    listening.join(20)
    assert theirs.recv(1) == b""
"""


def test_a_child_that_was_forked_leaves_the_connection_to_its_parent():
    """Two processes on one stream would get each other's replies; closing in one would end it for both."""
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(FORK)], check=True, timeout=60
    )


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

    previous = signal.signal(signal.SIGALRM, lambda *_: came.release())
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
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
