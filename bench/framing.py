"""Cutting a stream into lines: chunk size × line size, as cost per byte."""

from __future__ import annotations

from stereos_proto import NEED_DATA, Connection, Role, SetConfig, encode

from .harness import Report, compare

CHUNKS = (1, 64, 1024, 16 * 1024, 64 * 1024, 1024 * 1024)
LINES = (64, 4 * 1024, 64 * 1024, 1024 * 1024)


def stream(line_size: int, volume: int) -> bytes:
    """About `volume` bytes of lines of `line_size` bytes each."""
    overhead = len(encode(SetConfig("")))
    line = encode(SetConfig("x" * max(0, line_size - overhead)))
    return line * max(1, volume // len(line))


def reader(data: bytes, chunk: int) -> object:
    """A function that reads `data` in chunks of `chunk` bytes, through a guest's connection."""
    view = memoryview(data)
    pieces = [bytes(view[start : start + chunk]) for start in range(0, len(data), chunk)]

    def read() -> None:
        connection = Connection(Role.GUEST)
        pending = connection._conversation.pending
        for piece in pieces:
            connection.receive_data(piece)
            while connection.next_event() is not NEED_DATA:
                pending.clear()

    return read


def run(report: Report) -> None:
    """Cost per byte of every line size, at every chunk size, relative to 4 KiB lines."""
    curves: dict[str, dict[str, float]] = {}
    for chunk in CHUNKS:
        # Single bytes take a second for each MiB.
        volume = (1 if chunk == 1 else 2) * 1024 * 1024
        sources = {size: stream(size, volume) for size in (4096, *(size for size in LINES if size != 4096))}
        contenders = {f"{size}": reader(data, chunk) for size, data in sources.items()}
        result = compare(f"chunks of {chunk} bytes", contenders, turns=3 if chunk == 1 else 5)  # type: ignore[arg-type]
        per_byte = {f.contender: f.micros / len(sources[int(f.contender)]) * 1000 for f in result.figures}
        curves[str(chunk)] = per_byte
        cells = " | ".join(
            f"{int(size)} B lines {cost:.3f} ns/B" for size, cost in sorted(per_byte.items(), key=lambda kv: int(kv[0]))
        )
        big = per_byte["1048576"] / per_byte["4096"]
        verdict = "" if chunk < 64 else "≤ 1.3 ok" if big <= 1.3 else "≤ 1.3 MISSED"
        report.note("framing: cost per byte", f"chunks of {chunk:>7} B: {cells} | 1 MiB/4 KiB ×{big:.2f} {verdict}")
    report.curves["framing"] = curves
