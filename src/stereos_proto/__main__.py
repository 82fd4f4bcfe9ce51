"""Read recorded lines: `python -m stereos_proto [FILE] [--sender host|guest]`.

One message a line goes to stdout. The first line that is no message goes to stderr with its line and column,
and the exit code is 1. Secrets are not shown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ._codec import reader
from ._constants import MAX_LINE_SIZE
from ._errors import LineTooLong, MalformedLine, RemoteProtocolError
from ._messages import Message, UnknownMessage
from ._registry import Role


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv`, and return its exit code."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal cannot show is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if arguments.file is None:
            return _print_messages(sys.stdin.buffer, "stdin", arguments.sender)
        with arguments.file.open("rb") as source:
            return _print_messages(source, str(arguments.file), arguments.sender)
    except BrokenPipeError:
        # The reader of our output has seen enough. Closed here, or the interpreter complains when it exits.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.close()
        return 0
    except OSError as exc:
        print(f"{arguments.file or 'stdin'}: {exc.strerror}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m stereos_proto", description="Print recorded messages, one per line.")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="lines of JSON (default: stdin)")
    parser.add_argument(
        "--sender",
        type=Role,
        choices=tuple(Role),
        metavar="host|guest",
        help="who sent the lines (default: the end that sends that type, line by line)",
    )
    return parser


def _print_messages(source: BinaryIO, name: str, sender: Role | None) -> int:
    for number, line in _numbered_lines(source):
        message = _too_long() if len(line) >= MAX_LINE_SIZE else _read(line, sender)
        if isinstance(message, RemoteProtocolError):
            column, text = (message.column, message.reason) if isinstance(message, MalformedLine) else (0, message)
            print(f"{name}:{number}:{column or 1}: {text}", file=sys.stderr)
            return 1
        print(message, flush=True)
    return 0


def _numbered_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of `source` that are not empty, as on the wire (§1), each with its number.

    A line of MAX_LINE_SIZE bytes is the start of one over the limit.
    """
    for number, raw in enumerate(iter(lambda: source.readline(MAX_LINE_SIZE + 1), b""), 1):
        line = raw[:-1] if raw.endswith(b"\n") else raw
        if len(line) < MAX_LINE_SIZE and line.endswith(b"\r"):
            line = line[:-1]
        if line:
            yield number, line


def _too_long() -> LineTooLong:
    return LineTooLong(f"the line is longer than {MAX_LINE_SIZE} bytes", limit=MAX_LINE_SIZE)


def _read(line: bytes, sender: Role | None) -> Message | RemoteProtocolError:
    message = reader(sender or Role.GUEST)(line)
    if sender is None and isinstance(message, UnknownMessage):
        # No type of the guest's: one of the host's then, or an unknown one.
        return reader(Role.HOST)(line)
    return message


if __name__ == "__main__":
    sys.exit(main())
