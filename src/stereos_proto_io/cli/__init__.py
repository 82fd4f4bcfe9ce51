"""`stereosctl`: see and steer StereOS guests from a shell. Needs the extra `cli`.

`main` is the entry point. `_tree` has the table of commands, `_app` the error handling around each, `_errors` the exit
codes, `_targets` the selection of guests, `_jobs` runs a command for one or many guests over a `_contact`, `_output`
formats results, `_documents` makes the output of `--json`, and `_signals` handles signals.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["main"]

#: What handles Ctrl-C where no program that calls us handles it: Python itself, and this package (`_signals`).
ordinary_handlers: list[object] = [signal.default_int_handler]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `stereosctl` with `arguments`, those of the process by default, and return its exit code.

    As a process of its own it dies of the signal that ended it, once everything is cleaned up: that is how a shell
    tells that its loop is to end, too.
    """
    try:
        with plain_interrupts():
            # Loading takes so long that Ctrl-C may come meanwhile.
            from ._app import run  # noqa: PLC0415
            from ._signals import as_process  # noqa: PLC0415
    except Exception as exc:
        # An old version of what the extra brings fails in its own way. Whatever it was: if the extra lacks something,
        # that is the sentence to say.
        from stereos_proto_io._extras import unmet  # noqa: PLC0415

        from ._errors import USAGE  # noqa: PLC0415

        lack = unmet("cli") or (isinstance(exc, ModuleNotFoundError) and f"{exc}: pip install 'stereos-proto[cli]'")
        if not lack:
            raise
        print(f"stereosctl: {lack}", file=sys.stderr)
        return USAGE
    if arguments is not None:
        return run(arguments)
    return as_process(lambda: run(sys.argv[1:]))


@contextmanager
def plain_interrupts() -> Iterator[None]:
    """Let Ctrl-C end the process without a word, as it ends programs that are not Python.

    An exception in the middle of an import would come with a traceback, even where it is caught later.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or before not in ordinary_handlers:
        # Ignored, as for a job in the background; or the handler of a program that calls us.
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
        signal.signal(signal.SIGINT, before)
