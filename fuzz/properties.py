"""The property tests of the core, as one harness: hypothesis reads its choices from the bytes.

The first byte picks the test. Coverage then leads to examples that random ones do not reach.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

HEAD: Final = 1
BODY: Final = ""
LONGEST: Final = 256

TESTS: Final = Path(__file__).resolve().parent.parent / "tests"
#: Test files of modules that read what others have written, or decide what becomes of it.
FILES: Final = (
    *("framing", "codec", "codec_tolerant", "codec_json", "connection", "state", "preamble", "json_oracle"),
    *("jcard", "jcard_agents", "jcard_fields", "toml"),
    *("host_session", "turns", "mailbox", "running", "redact"),
)


def collected() -> list[Callable[[bytes], Any]]:
    """What feeds bytes to each property test that needs no fixture."""
    sys.path.insert(0, str(TESTS))
    found = []
    for name in FILES:
        module = importlib.import_module(f"core.test_{name}")
        for member in vars(module).values():
            test: Any = getattr(member, "hypothesis", None)
            if inspect.isfunction(member) and test is not None and not inspect.signature(member).parameters:
                found.append(test.fuzz_one_input)
    return found


PROPERTIES: Final = collected()
#: Read after the input, as the simplest choices. Most inputs are too short, and the test would not be executed at all.
TAIL: Final = bytes(256)


def check(data: bytes) -> None:
    """Run one property test on `data`."""
    if data:
        PROPERTIES[data[0] % len(PROPERTIES)](data[1:] + TAIL)
