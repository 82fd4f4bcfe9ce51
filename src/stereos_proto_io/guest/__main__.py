"""A small guest agent: `python -m stereos_proto_io.guest --root DIR ADDRESS...`.

It serves until a host shuts it down, then ends with status 0: its supervisor turns the machine off. SIGINT, SIGTERM and
SIGHUP end it in good order (sockets closed, their files removed) with status 128 plus the signal's number.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Never

from stereos_proto_io.addresses import parse_address

from .blocking import serve
from .effects import FolderEffects
from .simulator import STOCK_USERS, GuestSimulator

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds that the main thread waits without a look at signals.
_LONGEST_WAIT: Final = 0.5


class _Signalled(BaseException):
    """Raised in the main thread by a signal that ends the agent. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; return its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    effects = FolderEffects(options.root, run=_run if options.mount else None) if options.root else None
    try:
        with _signals_raise():
            return _serve(options, effects)
    except _Signalled as exc:
        return 128 + exc.number


def _serve(options: argparse.Namespace, effects: FolderEffects | None) -> int:
    try:
        guest = GuestSimulator(
            boot_time=options.boot_time,
            users=options.user or STOCK_USERS,
            effects=effects,
            faults=options.fault,
            # This daemon may run for months, and no test reads its requests.
            keep_requests=0,
        )
        server = serve([parse_address(text) for text in options.address], guest)
    except (OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 2
    with server:
        # A program that reads this line may send a signal at once.
        print("listening on", *server.addresses, flush=True)
        # Python notes a signal, and runs its handler between two instructions of the main thread. A signal that comes
        # just before a wait, or in another thread, does not interrupt the wait. So no wait is long.
        while not server.join(_LONGEST_WAIT):
            pass
    return 0


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let a signal that ends the agent raise `_Signalled`, once: a second one must not interrupt the cleaning up."""

    def handle(number: int, _frame: object) -> Never:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise _Signalled(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        # A signal that was ignored at the start stays ignored: nohup ignores SIGHUP in this way.
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
