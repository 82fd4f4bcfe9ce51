"""What `make test-vm` runs: it gets the parts, then the tests; or says in one line why it cannot.

In CI (`CI` is set) a part that could be had and was not is a failure. Elsewhere it is a skip.
"""

from __future__ import annotations

import os
import subprocess
import sys

from . import image, parts


def main(arguments: list[str]) -> int:
    """Run the tests with these arguments of pytest; return the exit status."""
    try:
        parts.prepare()
        image.prepare()
    except parts.Unavailable as exc:
        print(f"make test-vm: SKIPPED, NOTHING WAS TESTED: {exc}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    if why := parts.missing_muxer():
        print(f"make test-vm: HYBRID VSOCK IS SKIPPED: {why}", file=sys.stderr)
    # Two machines at a time; the file that takes longest is the first one by its name.
    at_once = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    command = (sys.executable, "-m", "pytest", "-q", "--no-header", "-m", "vm", *at_once, str(image.TESTS))
    environment = {**os.environ, "STEREOS_VM": "1"}
    return subprocess.run((*command, *arguments), cwd=parts.ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
