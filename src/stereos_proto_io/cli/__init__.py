"""`stereosctl`: see and steer StereOS guests from a shell. Needs the extra `cli`.

`main` is its entry point. `_app` is the table of commands and what happens around each, `_errors` has the exit
codes, `_context` what the commands share, `_output` how things look, `_documents` what `--json` prints.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `stereosctl` with `arguments`, those of the process by default, and return its exit code."""
    try:
        with plain_interrupts():
            from ._app import run  # noqa: PLC0415  (loading takes long enough to be interrupted in)
    except ModuleNotFoundError as exc:
        print(f"stereosctl: {exc}; it comes with the extra cli: pip install 'stereos-proto[cli]'", file=sys.stderr)
        return 2
    return run(sys.argv[1:] if arguments is None else arguments)


@contextmanager
def plain_interrupts() -> Iterator[None]:
    """Let Ctrl-C end the process without a word, as it ends programs that are not Python.

    An exception in the middle of an import would come with a traceback, whoever catches it later.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        # Ignored, as for a job in the background; or somebody's own.
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # not the main thread, which is never interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
