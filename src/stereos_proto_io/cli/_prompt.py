"""A hidden prompt that stays hidden over Ctrl-Z, and leaves the terminal as it was, however it ends."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress

from ._signals import lending, unless_closed


def ask_hidden(prompt: str) -> str | None:
    """What is typed on the terminal that is standard input, unseen. None when nothing is given: Ctrl-D.

    `getpass` switches the echo off once. A shell switches it on again when the command is stopped by Ctrl-Z and
    continued by `fg`, and the rest of the secret would be seen.
    """
    import termios  # noqa: PLC0415  (POSIX only, as terminals are)

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    hidden = [*before]
    hidden[3] &= ~(termios.ECHO | termios.ECHONL)

    def take() -> None:
        # What was typed while it would have been seen is thrown away.
        termios.tcsetattr(fd, termios.TCSAFLUSH, hidden)
        sys.stderr.write(prompt)
        sys.stderr.flush()

    def give_back() -> None:
        with unless_closed():
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    with ExitStack() as stack:
        stack.callback(give_back)
        stack.enter_context(lending(give_back, take))
        take()
        try:
            line = sys.stdin.readline()
        except OSError:  # the terminal was closed
            line = ""
        with suppress(OSError):
            sys.stderr.write("\n")
            sys.stderr.flush()
    if not line:
        return None
    return line.removesuffix("\n")
