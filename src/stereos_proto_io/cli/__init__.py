"""`stereosctl`: see and steer StereOS guests from a shell. Needs the extra `cli`.

`main` is its entry point. `_app` is the tree of commands, one module of it per family; `_errors` has the exit
codes, `_context` what the commands share, `_output` how things look, `_documents` what `--json` prints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `stereosctl` with `arguments`, those of the process by default, and return its exit code."""
    try:
        # Loading takes long enough to be interrupted in.
        from ._app import run  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        print(f"stereosctl: {exc}; it comes with the extra cli: pip install 'stereos-proto[cli]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return run(sys.argv[1:] if arguments is None else arguments)
