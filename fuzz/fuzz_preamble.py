"""What some transports want before the first message (§8, §9): every cutting gives the same end, nothing is lost.

The line limit of the resynchronisation is made small, so that small inputs reach it.
"""

from __future__ import annotations

import re

from stereos_proto import HybridVsockPreamble, Preamble, PreambleError, ResyncPreamble, _preamble

from . import oracle
from .source import cut, cuttings, raised, split

HEAD = 4
BODY = "preamble"
LONGEST = 170

LIMIT = 128
NONCE = "n0nce"
OK = re.compile(rb"OK [0-9]+\n")


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of a preamble does not hold for `data`."""
    head, stream = split(data, HEAD)
    eof = not head[0] & 2
    usual, vars(_preamble)["MAX_LINE_SIZE"] = _preamble.MAX_LINE_SIZE, LIMIT
    try:
        for seed in cuttings(head[1:3], stream):
            if head[0] & 1:
                found = played(HybridVsockPreamble(7), b"CONNECT 7\n", stream, seed, eof=eof)
                assert found == hybrid(stream, eof=eof)
            else:
                opening = b'\n{"type":"sync:n0nce"}\n'
                found = played(ResyncPreamble(NONCE), opening, stream, seed, eof=eof)
                assert found == resync(stream, eof=eof)
    finally:
        vars(_preamble)["MAX_LINE_SIZE"] = usual


def played(preamble: Preamble, opening: bytes, stream: bytes, seed: int, *, eof: bool) -> bytes | str | None:
    """The bytes that belong to the connection, what the preamble failed of, or None while it waits."""
    assert preamble.data_to_send() == opening
    error = raised(fed, preamble, stream, seed, eof)
    if error is None:
        return preamble.trailing_data if preamble.done else None
    assert isinstance(error, PreambleError)
    assert not preamble.done
    assert error.failure.retryable == (error.failure.value in ("nobody listens", "cut"))
    return error.failure.value


def fed(preamble: Preamble, stream: bytes, seed: int, eof: bool) -> None:
    """Feed the stream in pieces. Raises PreambleError."""
    for piece in cut(stream, seed):
        assert preamble.data_to_send() == b""
        assert preamble.done or preamble.trailing_data == b""
        preamble.receive_data(piece)
    if eof:
        preamble.receive_eof()


def hybrid(stream: bytes, *, eof: bool) -> bytes | str | None:
    """§8: one line of at most 32 bytes, `OK` and a number."""
    line, newline, rest = stream.partition(b"\n")
    if len(line) >= 32:
        return "too long"
    if newline:
        return rest if OK.fullmatch(line + newline) else "garbage"
    if not eof:
        return None
    return "cut" if stream else "nobody listens"


def resync(stream: bytes, *, eof: bool) -> bytes | str | None:
    """§9: all up to the ack that names the nonce is thrown away."""
    start = 0
    while (end := stream.find(b"\n", start)) >= 0:
        line = stream[start:end].removesuffix(b"\r")
        read = oracle.read(line, "guest") if end - start < LIMIT else None
        start = end + 1
        if read and read.type == "ack" and read.kind == oracle.MESSAGE and read.payload["reply_to"] == f"sync:{NONCE}":
            return stream[start:]
    return "cut" if eof else None
