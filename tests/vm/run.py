"""What `make test-vm` runs: it gets the parts, then becomes the tests; or says in one line why it cannot.

In CI (`CI` is set) a part that this kind of machine could have and does not is a failure. Elsewhere it is a skip.
"""

from __future__ import annotations

import os
import sys

from . import image, parts


def main(arguments: list[str]) -> int:
    """Run the tests with these arguments of pytest, and do not return; or return the exit status."""
    try:
        parts.prepare()
        image.prepare()
    except parts.Unavailable as exc:
        print(f"make test-vm: SKIPPED, NOTHING WAS TESTED: {exc}", file=sys.stderr)
        return _status(exc)
    if why := parts.missing_muxer():
        print(f"make test-vm: HYBRID VSOCK IS SKIPPED: {why}", file=sys.stderr)
        if _status(why):
            return 1
    # Two machines at a time, and the files in the order that they are collected in.
    at_once = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    command = (sys.executable, "-m", "pytest", "-q", "--no-header", "-m", "vm", *at_once, str(image.TESTS))
    os.chdir(parts.ROOT)
    # No process of ours stays in between: whoever ends this one ends the tests.
    return os.execve(sys.executable, (*command, *arguments), {**os.environ, "STEREOS_VM": "1"})


def _status(why: parts.Unavailable) -> int:
    return int(bool(os.environ.get("CI")) and not isinstance(why, parts.Impossible))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
