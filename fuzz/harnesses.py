"""The harnesses by name, and where their inputs are kept. Imports no atheris."""

from __future__ import annotations

import base64
import hashlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
#: Inputs that reach something new each; `CRASHES` are those that once broke an invariant, by name.
CORPUS: Final = FOLDER / "corpus"
CRASHES: Final = FOLDER / "crashes"
#: Where runs leave what they find.
BUILD: Final = FOLDER.parent / "build" / "fuzz"

NAMES: Final = ("framing", "codec", "connection", "preamble", "jcard", "session")
#: The harness made of property tests. Its corpus is not kept: it means something else after each change of a test.
PROPERTIES: Final = "properties"
#: Longest input in bytes that is made at all; most runs keep to the harness' own `LONGEST`.
LONGEST: Final = 1500

#: Of the library, what holds data that several harnesses stand on, and what reads and writes a message.
_DATA: Final = (
    "stereos_proto/_constants",
    "stereos_proto/_errors",
    "stereos_proto/_messages",
    "stereos_proto/_registry",
)
_CODEC: Final = ("stereos_proto/_codec/__init__", "stereos_proto/_codec/canonical")
_READ: Final = (*_DATA, *_CODEC, "stereos_proto/_codec/json", "stereos_proto/_codec/tolerant")
_ENDS: Final = ("stereos_proto/_connection", "stereos_proto/_framing", "stereos_proto/_state")
_PLAN: Final = (
    *("stereos_proto/_jcard", "stereos_proto/_jcard_agents", "stereos_proto/_jcard_fields"),
    *("stereos_proto/_jcard_plan", "stereos_proto/_jcard_text", "stereos_proto/_provision", "stereos_proto/_toml"),
)
#: The modules of the library that each harness executes.
EXECUTED: Final = {
    "framing": ("stereos_proto/_constants", "stereos_proto/_framing"),
    "codec": _READ,
    "connection": (*_READ, *_ENDS, "stereos_proto/_events", "stereos_proto/_frames", "stereos_proto/_redact"),
    "preamble": (*_READ, "stereos_proto/_preamble"),
    "jcard": (
        *_DATA,
        *_ENDS,
        *_PLAN,
        *_CODEC,
        "stereos_proto_io/guest/_agents",
        "stereos_proto_io/guest/_go",
    ),
    "session": (*_READ, *_ENDS, "stereos_proto/_frames", "stereos_proto/_host_session", "stereos_proto/_redact"),
    PROPERTIES: (
        *(*_READ, *_ENDS, *_PLAN, "stereos_proto/_events", "stereos_proto/_preamble"),
        *("stereos_proto/_call", "stereos_proto/_frames", "stereos_proto/_host_session", "stereos_proto/_redact"),
        *("stereos_proto/_mailbox", "stereos_proto/_running", "stereos_proto/_turns"),
        "stereos_proto/testing/strategies",
    ),
}


def load(name: str) -> ModuleType:
    """The module of a harness: `check(data)`, `HEAD` (bytes that decide how) and `BODY` (what the rest is)."""
    return importlib.import_module("fuzz.properties" if name == PROPERTIES else f"fuzz.fuzz_{name}")


def sources(name: str) -> list[Path]:
    """The files of `EXECUTED`."""
    return [FOLDER.parent / "src" / f"{module}.py" for module in sorted(EXECUTED[name])]


def kept(name: str) -> list[bytes]:
    """The kept corpus of a harness: one input per line, in base64."""
    path = CORPUS / f"{name}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def found(name: str) -> list[bytes]:
    """The corpus that runs of a harness under atheris have made here. It is not kept."""
    return [path.read_bytes() for path in sorted((BUILD / name / "corpus").glob("*"))]


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Replace the kept corpus of a harness, the shortest inputs first."""
    CORPUS.mkdir(exist_ok=True)
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    (CORPUS / f"{name}.txt").write_text("".join(f"{base64.b64encode(data).decode()}\n" for data in ordered))


def crashes() -> list[tuple[str, str, bytes]]:
    """Harness, name and input of everything that once broke an invariant."""
    return [(path.parent.name, path.name, path.read_bytes()) for path in sorted(CRASHES.glob("*/*"))]


def file_name(data: bytes) -> str:
    """The name under which a corpus keeps an input."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
