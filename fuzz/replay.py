"""`python -m fuzz.replay HARNESS [FILE ...]`: run a harness on its kept inputs, or on files such as a crash.

With `--shrink`, each file that breaks an invariant is made as small as it gets, in place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from . import harnesses


def fails(check: Callable[[bytes], None], data: bytes) -> bool:
    """Whether an input breaks an invariant."""
    try:
        check(data)
    except Exception:  # noqa: BLE001  (whatever it is, it should not be)
        return True
    return False


def shrunk(check: Callable[[bytes], None], data: bytes) -> bytes:
    """Cut pieces out of an input, large ones first, as long as it still fails."""
    size = len(data) // 2
    while size:
        start = 0
        while start < len(data):
            shorter = data[:start] + data[start + size :]
            if fails(check, shorter):
                data = shorter
            else:
                start += size
        size //= 2
    return data


def main() -> None:
    """Check each input; the first that breaks an invariant ends the run with its traceback."""
    parser = argparse.ArgumentParser(prog="fuzz.replay")
    parser.add_argument("harness", choices=harnesses.NAMES)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--shrink", action="store_true")
    options = parser.parse_args()
    check = harnesses.load(options.harness).check
    for path in options.files if options.shrink else ():
        if fails(check, path.read_bytes()):
            path.write_bytes(shrunk(check, path.read_bytes()))
    inputs = [path.read_bytes() for path in options.files]
    if not options.files:
        known = (data for owner, _, data in harnesses.crashes() if owner == options.harness)
        inputs = [*harnesses.kept(options.harness), *known]
    for data in inputs:
        check(data)
    print(f"{len(inputs)} inputs, nothing found")


if __name__ == "__main__":
    main()
