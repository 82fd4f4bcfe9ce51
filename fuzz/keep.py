"""`python -m fuzz.keep HARNESS`: choose, from all that fuzzing has made, the few inputs that are kept in git.

The shortest come first; one is kept when it does something in the library that none before it did: a step from
line to line, or the same step in another order of magnitude. Needs no atheris.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from . import harnesses, seeds

LIBRARY: Final = str(harnesses.FOLDER.parent / "src")


def features(check: Callable[[bytes], None], data: bytes) -> set[Any]:
    """The steps that `check(data)` takes, with the order of magnitude of how often."""
    steps: Counter[Any] = Counter()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        last = 0

        def line(frame: FrameType, _event: str, _argument: Any) -> Any:
            nonlocal last
            steps[frame.f_code.co_filename, last, frame.f_lineno] += 1
            last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        check(data)
    finally:
        sys.settrace(before)
    return {(step, min(number, 200).bit_length()) for step, number in steps.items()}


def chosen(name: str) -> list[bytes]:
    """The inputs to keep of a harness."""
    harness = harnesses.load(name)
    made = {*harnesses.found(name), *seeds.seeds(harness.HEAD, harness.BODY), *harnesses.kept(name)}
    seen: set[Any] = set()
    kept = []
    for data in sorted(made, key=lambda data: (len(data), data)):
        found = features(harness.check, data)
        if not found <= seen:
            seen |= found
            kept.append(data)
    return kept


def main(name: str) -> None:
    """Choose and write."""
    harnesses.keep(name, chosen(name))
    print(f"{name}: {len(harnesses.kept(name))} inputs kept")


if __name__ == "__main__":
    main(sys.argv[1])
