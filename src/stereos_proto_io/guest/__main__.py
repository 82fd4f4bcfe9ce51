"""A small guest agent: `python -m stereos_proto_io.guest --root DIR ADDRESS...`.

It serves until a host shuts it down, then ends with status 0: its supervisor turns the machine off. SIGINT, SIGTERM and
SIGHUP end it in good order (sockets closed, their files removed) with status 128 plus the signal's number. That waits
for the requests that are at work, such as a mount. A second signal ends it at once, with the mount(8) that it runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from stereos_proto_io.addresses import parse_address

from .blocking import serve
from .effects import FolderEffects
from .simulator import STOCK_USERS, GuestSimulator

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds that the main thread waits without a look at signals.
_LONGEST_WAIT: Final = 0.5

#: Seconds in which a second signal counts as the first one: GNU `timeout` signals the process and then its group, and
#: systemd may send SIGHUP right after SIGTERM.
_SAME: Final = 0.3


class _Signalled(BaseException):
    """Raised in the main thread by a signal that ends the agent. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; return its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    mounts = _Mounts()
    effects = FolderEffects(options.root, run=mounts.run if options.mount else None) if options.root else None
    signals = _Signals(mounts.kill)
    try:
        with signals.handled():
            return _serve(options, effects, signals)
    except _Signalled as exc:
        return 128 + exc.number


def _serve(options: argparse.Namespace, effects: FolderEffects | None, signals: _Signals) -> int:
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
        try:
            # A program that reads this line may send a signal at once.
            print("listening on", *server.addresses, flush=True)
        except OSError as exc:
            print(f"cannot write the addresses to standard output: {exc.strerror}", file=sys.stderr)
            _leave_stdout()
            return 2
        # Python notes a signal, and runs its handler between two instructions of the main thread. A signal that comes
        # just before a wait, or in another thread, does not interrupt the wait. So no wait is long.
        while not server.join(_LONGEST_WAIT):
            signals.check()
    return 0


def _leave_stdout() -> None:
    """Let standard output lead nowhere: what is still in its buffer would fail again at the end of the process."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Signals:
    """Handles the signals that end the agent: the first one raises `_Signalled`, and the second one ends the process.

    `kill` ends the children that the process would leave behind.
    """

    def __init__(self, kill: Callable[[], object]) -> None:
        self._kill = kill
        #: The first signal, None before there was one.
        self._number: int | None = None
        self._when = 0.0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them for the length of a `with`."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            # A signal that was ignored at the start stays ignored: nohup ignores SIGHUP in this way.
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise `_Signalled` where a signal came. Python discards what is raised in a callback of a weak reference."""
        if self._number is not None:
            raise _Signalled(self._number)

    def _handle(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._number is None:
            self._number, self._when = number, now
            raise _Signalled(number)
        # It must not interrupt the cleaning up unless somebody wants that.
        if now - self._when >= _SAME:
            self._kill()
            os._exit(128 + number)


class _Mounts:
    """Runs mount(8) and umount(8)."""

    def __init__(self) -> None:
        self._children: set[subprocess.Popen[bytes]] = set()

    def run(self, argv: Sequence[str]) -> int:
        """Run a command, and return its exit status."""
        # What a host names is one argument each, and no shell reads it.
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as child:  # noqa: S603
            self._children.add(child)
            try:
                return child.wait()
            finally:
                self._children.discard(child)

    def kill(self) -> None:
        """Kill what runs. A signal handler may call it, so it takes no lock."""
        for child in tuple(self._children):
            with suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stereos_proto_io.guest", description="A small StereOS guest.")
    parser.add_argument("address", nargs="+", help="where to listen: tcp://0.0.0.0:1024, vsock://3:1024, unix:///S, …")
    parser.add_argument("--root", help="the folder that is the guest's file system; without it nothing is written")
    parser.add_argument("--mount", action="store_true", help="carry mounts out, with mount(8)")
    parser.add_argument("--user", action="append", help="a user whose keys can be set (default: admin and agent)")
    parser.add_argument("--boot-time", type=float, default=0.0, metavar="SECONDS", help="say `booting` for so long")
    parser.add_argument("--fault", action="append", default=[], help="something that goes wrong: late:2s@ping, …")
    return parser


if __name__ == "__main__":
    sys.exit(main())
