"""The other end, in a process of its own: trivial servers that cost as little as Python can.

`python -m bench.peer KIND FD` serves one connected socket, which it inherits.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CPUS: Final = sorted(os.sched_getaffinity(0))
PONG = b'{"type":"pong"}\n'
HEALTH = b'{"type":"health","payload":{"state":"ready","uptime_seconds":1}}\n'


def stereos(sock: socket.socket) -> None:
    """Answer `ping` and `get_health` by their length: nothing is parsed."""
    rest = b""
    while data := sock.recv(1 << 16):
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        sock.sendall(b"".join([PONG if line == b'{"type":"ping"}' else HEALTH for line in lines]))


def qmp(sock: socket.socket) -> None:
    """Greet, then answer every command with an empty return. A command ends where its object ends."""
    sock.sendall(b'{"QMP":{"version":{"qemu":{"micro":0,"minor":2,"major":7},"package":""},"capabilities":[]}}\r\n')
    decode = json.JSONDecoder().raw_decode
    while data := sock.recv(1 << 16):
        text = data.decode()
        while text:
            request, end = decode(text)
            text = text[end:].lstrip()
            reply = {"return": {}} | ({"id": request["id"]} if "id" in request else {})
            sock.sendall(json.dumps(reply).encode() + b"\r\n")


def dbus(sock: socket.socket) -> None:
    """Answer every D-Bus method call with a name: `Hello` needs one, and other calls ignore it."""
    from jeepney.low_level import Parser
    from jeepney.wrappers import new_method_return

    parser = Parser()
    serial = 0
    while data := sock.recv(1 << 16):
        for message in parser.feed(data):
            serial += 1
            sock.sendall(new_method_return(message, "s", (":1.1",)).serialise(serial))


def http(sock: socket.socket) -> None:
    """Answer every request with 204."""
    rest = b""
    while data := sock.recv(1 << 16):
        rest += data
        while b"\r\n\r\n" in rest:
            _, _, rest = rest.partition(b"\r\n\r\n")
            sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


KINDS = {"stereos": stereos, "qmp": qmp, "dbus": dbus, "http": http}


@contextmanager
def peer(kind: str, *, apart: bool = False) -> Iterator[socket.socket]:
    """A socket that is connected to a server of this kind, in another process: on the same CPU, or `apart`.

    Apart, the largest part of a round trip is the kernel waking the other CPU, as it is with a guest. On one CPU it
    is what both ends compute. Without pinning, the kernel does either, and may change within one measurement.
    """
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.peer", kind, str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    os.sched_setaffinity(process.pid, {CPUS[-1]})
    os.sched_setaffinity(0, {CPUS[0 if apart else -1]})
    try:
        with ours:
            yield ours
    finally:
        os.sched_setaffinity(0, CPUS)
        process.terminate()
        process.wait()


if __name__ == "__main__":
    KINDS[sys.argv[1]](socket.socket(fileno=int(sys.argv[2])))
