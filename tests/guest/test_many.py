"""Ten thousand hosts at once on one asyncio guest: every reply right, no descriptor leaked."""

import contextlib
import resource
import selectors
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from stereos_proto import (
    NEED_DATA,
    Ack,
    Connection,
    CustomRequest,
    GetHealth,
    Health,
    Ping,
    Pong,
    Role,
)

WANTED = 10_000
#: Descriptors that a process needs besides its connections.
SPARE = 200
PATIENCE = 60

GUEST = """
import asyncio, resource, sys
from stereos_proto_io import TCP
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.asyncio import serve

async def main():
    async with serve(TCP("127.0.0.1", 0), GuestSimulator()) as guest:
        print(guest.address.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
asyncio.run(main())
"""


@pytest.fixture
def count():
    """How many connections this machine lets one process have; its limit is raised for the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = WANTED + SPARE
    allowed = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < enough:
        warnings.warn(f"the limit of {hard} descriptors allows {allowed - SPARE} connections only", stacklevel=1)
    yield allowed - SPARE
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def guest():
    """A guest in a process of its own, so that each side has a whole limit for itself."""
    with subprocess.Popen([sys.executable, "-c", GUEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.stdin.close()
            assert process.wait(PATIENCE) == 0


def descriptors(process):
    return len([*Path(f"/proc/{process.pid}/fd").iterdir()])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors by way of /proc")
@pytest.mark.filterwarnings("default:the limit of")
def test_ten_thousand_hosts(guest, count):
    process, port = guest
    before = descriptors(process)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        hosts = []
        for number in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            host = Connection(Role.HOST)
            hosts.append((sock, host, number, []))
        for sock, host, number, _ in hosts:
            sock.sendall(host.send(GetHealth()) + host.send(CustomRequest(f"nonce-{number}")) + host.send(Ping()))
        for entry in hosts:
            selector.register(entry[0], selectors.EVENT_READ, entry)
        read_all(selector)
        assert descriptors(process) >= before + count
        for _, host, number, replies in hosts:
            health, refusal, pong = replies
            assert isinstance(health, Health)
            assert refusal == Ack(f"nonce-{number}", False, f"unknown message type: nonce-{number}")
            assert pong == Pong()
            assert host.pending == ()
    for _ in range(PATIENCE * 50):
        if descriptors(process) <= before:
            break
        threading.Event().wait(0.02)
    assert descriptors(process) <= before


def read_all(selector):
    """Read until every host has its three replies."""
    while selector.get_map():
        ready = selector.select(PATIENCE)
        assert ready, "the guest has gone silent"
        for key, _ in ready:
            sock, host, _, replies = key.data
            host.receive_data(sock.recv(65536))
            while (event := host.next_event()) is not NEED_DATA:
                replies.append(event.message)
            if len(replies) == 3:
                selector.unregister(sock)
