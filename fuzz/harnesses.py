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

NAMES: Final = ("framing", "codec", "connection", "preamble", "jcard", "session")


def load(name: str) -> ModuleType:
    """The module of a harness: `check(data)`, `HEAD` (bytes that decide how) and `BODY` (what the rest is)."""
    return importlib.import_module(f"fuzz.fuzz_{name}")


def kept(name: str) -> list[bytes]:
    """The kept corpus of a harness: one input per line, in base64."""
    path = CORPUS / f"{name}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


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
