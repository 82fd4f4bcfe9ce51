"""What the worst lines cost, byte for byte, beside a long health report (`SECURITY.md`: what a hostile peer can cost).

Each line is one unit repeated up to the size that is asked for. They are what was found to cost most, of their kind:
lists of nothing, members that stand more than once, numbers and texts that need a look, faults at the very end,
nesting. `python -m bench --only worst` prints the table and what misses the bound.
`tests/core/test_codec_cost.py` bounds what does not depend on the machine: calls and memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from stereos_proto import Lifecycle, Role, encode
from stereos_proto._codec import reader

from .codec import health
from .harness import Report

#: A line of `LONG` bytes or more costs at most this many times per byte what a long health report costs.
PER_BYTE: Final = 100
LONG: Final = 1024
#: Nanoseconds that one sample lasts at least.
SAMPLE: Final = 2_000_000

HEALTH: Final = b'{"type":"health","payload":{"state":"ready","agents":['
NEW: Final = b'{"type":"new","payload":['
DEEP: Final = b"[" * 129 + b"]" * 129

#: Title → beginning, unit, end.
GUEST: Final[dict[str, tuple[bytes, bytes, bytes]]] = {
    "agents {}": (HEALTH, b"{},", b"{}]}}"),
    "agents null": (HEALTH, b"null,", b"{}]}}"),
    "agents with an unknown member": (HEALTH, b'{"":0},', b"{}]}}"),
    "agents with a name": (HEALTH, b'{"name":""},', b"{}]}}"),
    "agents with a name that is null": (HEALTH, b'{"name":null},', b"{}]}}"),
    "agents with minus zero restarts": (HEALTH, b'{"restarts":-0},', b"{}]}}"),
    "agents with two names": (HEALTH, b'{"name":"","name":""},', b"{}]}}"),
    "agents that do not fit, at the end": (HEALTH, b"{},", b"5]}}"),
    "lists of agents": (b'{"type":"health","payload":{"state":"ready"', b',"agents":[{}]', b"}}"),
    "a long list of agents after another": (HEALTH + b'{}],"agents":[', b'{"name":""},', b"{}]}}"),
    "brackets in a text of a report": (HEALTH + b'{"name":"', b"{", b'","running":true},{"name":"","running":true}]}}'),
    "payload of {}": (NEW, b"{},", b"{}]}"),
    "payload of [[]]": (NEW, b"[[]],", b"0]}"),
    "payload of members": (NEW, b'{"":0},', b"{}]}"),
    "payload of {} and a lone surrogate": (NEW + rb'"\ud800",', b"{},", b"{}]}"),
    "payload of zeros and minus zero": (NEW + b"-0,", b"0,", b"0]}"),
    "payload of minus zeros": (NEW, b"-0,", b"0]}"),
    "payload of empty texts": (NEW + rb'"\ud800",', b'"",', b"0]}"),
    "payload of invalid bytes": (NEW + b'"', b"\xff", b'"]}'),
    "payload of lone surrogates": (NEW + b'"', rb"\ud800", b'"]}'),
    "payload of a long number": (NEW, b"9", b"]}"),
    "types": (b'{"type":"new"', b',"type":""', b"}"),
    "payloads": (b'{"type":"new"', b',"payload":{}', b"}"),
    "unknown members": (b'{"type":"pong"', b',"":{}', b',"type":null}'),
    "129 levels, then {}": (b'{"type":"pong","x":' + DEEP + b',"y":[', b"{},", b"{}]}"),
    "{} at 130 levels": (b'{"type":"pong","x":' + b"[" * 129, b"{},", b"{}" + b"]" * 129 + b"}"),
    "stacks of 130 levels": (b'{"type":"pong","x":[', b"[" * 130 + b"]" * 130 + b",", b"0]}"),
    "stacks of 9,000 levels": (b'{"type":"pong","x":[', b"[" * 9000 + b"]" * 9000 + b",", b"0]}"),
    "a report with 129 levels": (
        b'{"type":"health","x":' + DEEP + b',"payload":{"state":"ready","agents":[',
        b"{},",
        b"{}]}}",
    ),
    "[ without end": (b"", b"[", b""),
    '{"": without end': (b"", b'{"":', b""),
    "{} and a fault at the end": (b"[", b"{},", b"x"),
    "zeros and a fault at the end": (b"[", b"0,", b"x"),
    "texts and a fault at the end": (b"[", b'"",', b"x"),
    "members and a fault at the end": (b"{", b'"":0,', b"x"),
    "the wrong bracket at the end": (b"[", b"[{}],", b"0}"),
    "a text without end": (b'["', b"x", b""),
    "blanks and a fault at the end": (b'{"type":"pong"', b" ", b"x"),
}
HOST: Final[dict[str, tuple[bytes, bytes, bytes]]] = {
    "names of a secret": (b'{"type":"inject_secret","payload":{"name":"a"', b',"name":""', b"}}"),
    "a secret that does not fit": (b'{"type":"inject_secret","payload":{"name":"a"', b',"x":[]', b',"value":5}}'),
    "a config of invalid bytes": (b'{"type":"set_config","payload":{"content":"', b"\xff", b'"}}'),
}
#: Lines that cost most for their length, since there is next to nothing in them.
SHORTEST: Final = (b"{}", b"null", b"[]", b"0", b"x", b"{", b'{"":0}', b'{"type":"a"}', b'{"type":null}', b'{"type":0}')


def lines(size: int) -> dict[str, tuple[Role, bytes]]:
    """All lines, as near to `size` bytes as their units allow, and their senders."""
    return {
        title: (sender, beginning + unit * max(1, (size - len(beginning) - len(end)) // len(unit)) + end)
        for sender, kinds in ((Role.GUEST, GUEST), (Role.HOST, HOST))
        for title, (beginning, unit, end) in kinds.items()
    }


def read(sender: Role, line: bytes) -> Callable[[], object]:
    """A function that reads `line` once."""
    read_line = reader(sender)
    return lambda: read_line(line)


def long_report() -> bytes:
    """A long health report."""
    return encode(health(512))[:-1]


def cost(function: Callable[[], object], *, samples: int = 5) -> float:
    """Nanoseconds of the processor for one call: the least of several samples, since everything else only adds."""
    number = 1
    while (took := _sample(function, number)) < SAMPLE:
        number *= 2
    return min(took, *(_sample(function, number) for _ in range(samples - 1))) / number


def _sample(function: Callable[[], object], number: int) -> int:
    start = time.process_time_ns()
    for _ in range(number):
        function()
    return time.process_time_ns() - start


def run(report: Report) -> None:
    """The table of long lines at three sizes, and the shortest lines beside a `lifecycle` line."""
    base = long_report()
    for size in (LONG, 64 * 1024, 1024 * 1024 - 1):
        health_cost = cost(read(Role.GUEST, base)) / len(base)
        rows = [
            (cost(read(sender, line), samples=3) / len(line), title, line)
            for title, (sender, line) in lines(size).items()
        ]
        section = f"cost per byte, lines of {size} bytes; a health report with 512 agents {health_cost:.1f} ns/B"
        for each, title, _line in sorted(rows, reverse=True):
            verdict = "ok" if each <= PER_BYTE * health_cost else "MISSED"
            report.note(section, f"{title:38} {each:8.1f} ns/B | ×{each / health_cost:.1f} ≤ {PER_BYTE} {verdict}")
    lifecycle = cost(read(Role.GUEST, encode(Lifecycle("ready", "all subsystems started"))[:-1]))
    for line in SHORTEST:
        each = cost(read(Role.GUEST, line))
        section = f"cost per line; a lifecycle line {lifecycle:.0f} ns"
        report.note(section, f"{line.decode():38} {each:8.0f} ns | ×{each / lifecycle:.1f}")
