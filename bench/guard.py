"""A guard against slow growth that cannot flake: calls are counted, not seconds.

Each scenario runs under a profiler that counts the calls of Python and C functions. The same code makes the
same calls on any machine and under any load; Python versions differ a little, so figures are kept for each.
`python -m bench.guard --update` writes the figures of this interpreter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

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


def figures() -> dict[str, dict[str, int]]:
    """The figures that are kept, by Python version and scenario."""
    loaded: dict[str, dict[str, int]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return loaded


def main() -> int:
    """Print the counts beside the kept figures; 1 when one is off."""
    measured = {name: count_calls(scenario) for name, scenario in SCENARIOS.items()}
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
