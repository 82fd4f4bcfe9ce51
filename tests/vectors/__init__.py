"""What the reference implementations really did: see README.md beside this file."""

import base64
import json
from contextlib import suppress
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
JCARD = rows(FOLDER / "jcard.ndjson")
TRANSCRIPTS = {path.stem: rows(path)[1:] for path in sorted((FOLDER / "transcripts").glob("*.ndjson"))}


def stream(transcript, direction):
    """All the bytes of one direction, "c2s" (host to guest) or "s2c"."""
    return b"".join(unbase64(row.get("b64")) for row in TRANSCRIPTS[transcript] if row["dir"] == direction)


def toml_of(row):
    """The text of a jcard row."""
    return row["toml"] if "toml" in row else "".join(part * times for part, times in row["toml_parts"])


#: Rows of jcard.ndjson where a host of ours means something else than the reference, on purpose, and why. "refused":
#: we refuse what the reference takes. Otherwise the names of the fields of the guest's agents that differ.
JCARD_DIFFERENCES = {
    **dict.fromkeys(
        ("expand/default", "expand/default-unset", "expand/unset", "expand/nested"),
        ("refused", "an unset variable would be an empty secret that nobody notices"),
    ),
    "shared/guest-over-system": ("refused", "the guest refuses the mount later"),
    "secrets/dot-names": ("refused", "the guest refuses the secret '..' later"),
    **dict.fromkeys(
        ("case/Agents-and-agents", "case/Name-and-name", "case/name-and-Name"),
        ("refused", "two spellings of one name: which one counts changes from run to run in the reference"),
    ),
    "bytes/inline-newline-1.1": ("refused", "TOML 1.1, which tomllib does not read"),
    "bytes/big-prompt-1100k": ("refused", "a line that long ends the connection; the reference host sends it"),
    "expand/self-reference": ("secrets", "a value is expanded once; the reference expands what it put in, too"),
    "legacy/agent-named": ("agents", "[agent] alone is read as one agent; the reference host drops it in silence"),
    "unknown/memory-and-pid-limit": ("memory pid_limit", "unknown keys of an agent stay; the guest knows these two"),
    "prompt/file-relative": ("prompt prompt_file starts", "the content is sent, so that the agent can start"),
    "prompt/file-tilde": ("prompt_file", "a path that is not read stays as it is"),
    "prompt/file-missing-one-of-two": ("prompt_file", "a path that is not read stays as it is"),
}


def reader_of(row):
    """A reader of the files that lay beside a row's jcard.toml."""

    def read(path):
        with suppress(KeyError):
            return row.get("files", {})[path.removeprefix("./")]
        raise ValueError("it lies elsewhere")

    return read
