"""A guard against slow growth that cannot flake: calls are counted, not seconds.

The core's scenarios count all calls. Those of the drivers count the calls of our own Python functions only: how often a
runtime calls is its own, and differs from run to run.

Each scenario runs under a profiler that counts the calls of Python and C functions. The same code makes the
same calls on any machine and under any load; Python versions differ a little, so figures are kept for each.
`python -m bench.guard --update` writes the figures of this interpreter.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from stereos_proto import (
    NEED_DATA,
    Ack,
    AgentStatus,
    Connection,
    GetHealth,
    Health,
    HostSession,
    Mount,
    Ping,
    Pong,
    Role,
    encode,
)
from stereos_proto_io import asyncio as stereos_asyncio
from stereos_proto_io import blocking
from stereos_proto_io import trio as stereos_trio

FIGURES = Path(__file__).with_name("guard.json")
#: How far a count may be from the figure that is kept.
TOLERANCE = 0.05
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def _exchange(request: object, reply: object, rounds: int) -> Callable[[], None]:
    line = encode(reply)  # type: ignore[arg-type]

    def run() -> None:
        connection = Connection(Role.HOST)
        for _ in range(rounds):
            connection.send(request)  # type: ignore[arg-type]
            connection.receive_data(line)
            connection.next_event()

    return run


def _chunks(size: int) -> Callable[[], None]:
    data = encode(Pong()) * 200
    pieces = [data[start : start + size] for start in range(0, len(data), size)]

    def run() -> None:
        connection = Connection(Role.HOST, max_pending=1000)
        for _ in range(200):
            connection.send(Ping())
        for piece in pieces:
            connection.receive_data(piece)
            while connection.next_event() is not NEED_DATA:
                pass

    return run


def _guest() -> None:
    connection = Connection(Role.GUEST)
    line = encode(Mount("t", "/w", "9p"))
    for _ in range(200):
        connection.receive_data(line)
        connection.next_event()
        connection.send(Ack("mount", True))


def _session() -> None:
    session = HostSession(max_pending=50)
    line = encode(Pong())
    session.request_many([Ping()] * 100)
    while data := session.data_to_send():
        number = len(data) // len(encode(Ping()))
        session.data_sent(len(data))
        session.receive_data(line * number)
        while session.next_event() is not NEED_DATA:
            pass


@contextmanager
def _guest_in_a_thread() -> Iterator[socket.socket]:
    """A socket to a guest that answers pings one by one."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs, theirs.makefile("rb") as lines:
            for _ in lines:
                theirs.sendall(b'{"type":"pong"}\n')

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


#: Requests of a driver's scenario: what is done once for a connection does not count for much.
REQUESTS = 20


def _blocking(counting: Callable[[], None]) -> None:
    with _guest_in_a_thread() as ours, blocking.Client.attach(ours) as client:
        client.ping()
        counting()
        for _ in range(REQUESTS):
            client.ping()
        counting()


def _asyncio(counting: Callable[[], None]) -> None:
    async def main() -> None:
        async with await stereos_asyncio.Client.attach(ours) as client:
            await client.ping()
            counting()
            for _ in range(REQUESTS):
                await client.ping()
            counting()

    with _guest_in_a_thread() as ours:
        asyncio.run(main())


def _trio(counting: Callable[[], None]) -> None:
    async def main() -> None:
        async with stereos_trio.Client.attach(ours) as client:
            await client.ping()
            counting()
            for _ in range(REQUESTS):
                await client.ping()
            counting()

    with _guest_in_a_thread() as ours:
        trio.run(main)


#: Calls that one request and its reply may make, in any driver.
MOST_CALLS = 30

#: One request and its reply through each driver: calls of our own Python functions, coroutines that go on included.
DRIVERS: dict[str, Callable[[Callable[[], None]], None]] = {
    "a ping, blocking": _blocking,
    "a ping, asyncio": _asyncio,
    "a ping, trio": _trio,
}


SCENARIOS: dict[str, Callable[[], None]] = {
    "200 pings": _exchange(Ping(), Pong(), 200),
    "200 mounts": _exchange(Mount("t", "/w", "9p"), Ack("mount", True), 200),
    "50 refusals": _exchange(Mount("t", "/etc", "9p"), Ack("mount", False, "no"), 50),
    "20 reports of 64 agents": _exchange(
        GetHealth(), Health("healthy", [AgentStatus(f"a{n}", True) for n in range(64)], 1), 20
    ),
    "200 pongs in chunks of 7 bytes": _chunks(7),
    "200 pongs in one chunk": _chunks(1 << 20),
    "200 requests read by a guest": _guest,
    "a session with 100 requests, 50 in flight": _session,
}


def count_calls(scenario: Callable[[], None]) -> int:
    """Return how many calls `scenario` makes. It runs once before, so that caches are filled."""
    scenario()
    calls = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1

    sys.setprofile(profile)
    try:
        scenario()
    finally:
        sys.setprofile(None)
    return calls


def count_our_calls(scenario: Callable[[Callable[[], None]], None]) -> int:
    """Return how many calls of our own functions one request of a driver's scenario makes."""
    calls, counting = 0, False

    def profile(frame: Any, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call" and "stereos_proto" in frame.f_code.co_filename

    def switch() -> None:
        nonlocal counting
        counting = not counting
        sys.setprofile(profile if counting else None)

    try:
        scenario(switch)
    finally:
        sys.setprofile(None)
    return round(calls / REQUESTS)


def measure() -> dict[str, int]:
    """Count the calls of every scenario."""
    return {name: count_calls(scenario) for name, scenario in SCENARIOS.items()} | {
        name: count_our_calls(scenario) for name, scenario in DRIVERS.items()
    }


def figures() -> dict[str, dict[str, int]]:
    """The figures that are kept, by Python version and scenario."""
    loaded: dict[str, dict[str, int]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return loaded


def main() -> int:
    """Print the counts beside the kept figures; 1 when one is off."""
    measured = measure()
    kept = figures()
    if "--update" in sys.argv:
        kept[VERSION] = measured
        FIGURES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    wrong = 0
    for name, calls in measured.items():
        figure = kept.get(VERSION, {}).get(name)
        off = figure is not None and abs(calls - figure) > figure * TOLERANCE
        wrong += off
        print(f"{name:45} {calls:7} calls, kept {figure}{'  OFF' if off else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
