"""What fuzzing starts from: what the reference implementations really said, cut to size for each harness."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from . import mutate

ROOT: Final = Path(__file__).resolve().parent.parent
VECTORS: Final = ROOT / "tests" / "vectors"
#: Longer ones are slow to run and say no more.
LONGEST: Final = 600


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of vectors."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def lines() -> Iterator[bytes]:
    """Single lines, good and bad."""
    for name in ("decode", "decode_null"):
        for row in rows(VECTORS / f"{name}.ndjson"):
            yield base64.b64decode(row["line_b64"])
    for row in rows(VECTORS / "encode.ndjson"):
        if row["wire_b64"]:
            yield base64.b64decode(row["wire_b64"])[:-1]


def streams() -> Iterator[bytes]:
    """Whole streams: framing, and both directions of each conversation."""
    for row in rows(VECTORS / "framing.ndjson"):
        yield b"".join(base64.b64decode(piece["b64"]) for piece in row["input"] or () if "b64" in piece)
    for path in sorted((VECTORS / "transcripts").glob("*.ndjson")):
        for direction in ("c2s", "s2c"):
            stream = b"".join(
                base64.b64decode(row["b64"]) for row in rows(path) if row.get("dir") == direction and row.get("b64")
            )
            yield stream
            yield stream[:LONGEST]


def bodies(body: str) -> Iterator[bytes]:
    """Seeds for one kind of body."""
    if body == "line":
        yield from lines()
    elif body == "stream":
        yield from streams()
        yield from (line + b"\n" for line in lines())
    elif body == "preamble":
        yield from mutate.PREAMBLE
    elif body == "toml":
        yield "\n".join(mutate.TOML[:4]).encode()
        yield (ROOT / "examples" / "jcard.toml").read_bytes()
        yield from (line.encode() for line in mutate.TOML)
    elif body == "operations":
        yield bytes((0, 3, 0, 5, 7, 0))
        yield bytes((2, 3, 0, 5, 5, 10, 5, 7, 0, 11))
        yield bytes((0, 3, 20, 9, 0, 1, 15))


def seeds(head: int, body: str) -> Iterator[bytes]:
    """Seeds for one harness: each body under two heads."""
    for data in bodies(body):
        if len(data) <= LONGEST:
            yield b"\0" * head + data
            yield bytes((1, 0, 7, *([0x0C] * head)))[:head] + data


def dictionary() -> Iterator[bytes]:
    """Words for mutators that know bytes only."""
    words = {
        *mutate.TYPES,
        *mutate.NAMES,
        *mutate.RAW,
        "reply_to",
        "CONNECT ",
        "OK ",
        "secrets",
        '"',
        "\r\n",
        '":',
        "},",
    }
    for word in sorted(words):
        yield word.encode("utf-8", "surrogatepass")
    yield from mutate.BYTES


def written_dictionary() -> str:
    """The dictionary in libFuzzer's notation."""
    quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in dictionary() if word)
    return "".join(f'"{word}"\n' for word in quoted)
