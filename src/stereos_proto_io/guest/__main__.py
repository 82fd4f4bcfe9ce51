"""A small guest agent: `python -m stereos_proto_io.guest --root DIR ADDRESS...`.

It serves until a host shuts it down, then ends with status 0: whoever started it turns the machine off.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence

from stereos_proto_io.addresses import parse_address

from .blocking import serve
from .effects import FolderEffects
from .simulator import STOCK_USERS, GuestSimulator


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; return its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    effects = FolderEffects(options.root, run=_run if options.mount else None) if options.root else None
    try:
        guest = GuestSimulator(
            boot_time=options.boot_time,
            users=options.user or STOCK_USERS,
            effects=effects,
            faults=options.fault,
        )
        server = serve([parse_address(text) for text in options.address], guest)
    except (OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 2
    try:
        with server:
            # Whoever reads this line may interrupt at once.
            print("listening on", *server.addresses, flush=True)
            server.join()
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stereos_proto_io.guest", description="A small StereOS guest.")
    parser.add_argument("address", nargs="+", help="where to listen: tcp://0.0.0.0:1024, vsock://3:1024, unix:///S, …")
    parser.add_argument("--root", help="the folder that is the guest's file system; without it nothing is written")
    parser.add_argument("--mount", action="store_true", help="carry mounts out, with mount(8)")
    parser.add_argument("--user", action="append", help="a user whose keys can be set (default: admin and agent)")
    parser.add_argument("--boot-time", type=float, default=0.0, metavar="SECONDS", help="say `booting` for so long")
    parser.add_argument("--fault", action="append", default=[], help="something that goes wrong: late:2s@ping, …")
    return parser


def _run(argv: Sequence[str]) -> int:
    # What a host names is one argument each, and no shell reads it.
    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
