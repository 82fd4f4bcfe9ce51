"""What the reference implementations really did: see README.md beside this file."""

import base64
import json
from pathlib import Path

FOLDER = Path(__file__).parent


def rows(path):
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def unbase64(text):
    return base64.b64decode(text) if text else b""


def input_of(row):
    """The bytes of a framing row."""
    return b"".join(
        unbase64(piece["b64"]) if "b64" in piece else unbase64(piece["repeat_b64"]) * piece["n"]
        for piece in row["input"] or ()
    )


DECODE = [*rows(FOLDER / "decode.ndjson"), *rows(FOLDER / "decode_null.ndjson")]
ENCODE = rows(FOLDER / "encode.ndjson")
FRAMING = rows(FOLDER / "framing.ndjson")
TRANSCRIPTS = {path.stem: rows(path)[1:] for path in sorted((FOLDER / "transcripts").glob("*.ndjson"))}


def stream(transcript, direction):
    """All the bytes of one direction, "c2s" (host to guest) or "s2c"."""
    return b"".join(unbase64(row.get("b64")) for row in TRANSCRIPTS[transcript] if row["dir"] == direction)
