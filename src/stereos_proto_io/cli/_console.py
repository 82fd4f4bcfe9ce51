"""Where things are written: results on stdout, everything else on stderr. Loaded for every command, so it needs little.

What a guest sends is not trusted: a control character in an agent's name must not steer the terminal.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, AnyStr, Final, TextIO

from rich.console import Console, ConsoleDimensions
from rich.text import Text

from ._errors import BrokenOutput, OutputFailed

#: What stands for standard input. `-` is made into it, which the parser would take for an option.
STDIN: Final = "<stdin>"

#: rich would read [fd00::1] as a style, and :x: as a picture.
_PLAIN: Final[dict[str, Any]] = {"markup": False, "emoji": False}

#: A size that COLUMNS or LINES may have.
_SIZE: Final = re.compile(r"0*[1-9][0-9]{0,3}")
#: Columns for which we write at least. A terminal with fewer breaks the lines itself.
_LEAST: Final = 20

#: Columns where there is no terminal: a row of a table stays one line, however long.
_UNLIMITED: Final = 1_000_000


@contextmanager
def writing() -> Iterator[None]:
    """Turn what is wrong with our output into an error of ours."""
    try:
        yield
    except BrokenPipeError:
        raise BrokenOutput from None
    except OSError as exc:
        raise OutputFailed(f"the output cannot be written: {exc.strerror}") from None


#: Why something of this command could not be written that is not its result, at most once.
_lost: Final[list[BrokenOutput | OutputFailed]] = []


def output_lost(error: BrokenOutput | OutputFailed) -> None:
    """Note that something could not be written which is not the command's result: that is still to come."""
    _lost[:] = [error.with_traceback(None)]


def is_output_lost() -> bool:
    """Whether `output_lost` has noted something in this command."""
    return bool(_lost)


def forget_lost_output() -> None:
    """Begin a command, which has lost nothing yet."""
    _lost.clear()


def raise_lost_output() -> None:
    """Raise what `output_lost` has noted in this command."""
    if _lost:
        raise _lost.pop()


class Output(Console):
    """A console that leaves a broken pipe to us, and that no size of a terminal breaks.

    rich would end the process with an exit code of its own over a broken pipe. With less than three columns it raises
    errors, never ends, or writes nothing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, _environ=_environment(), **options)

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        size = super().size
        return size._replace(width=max(size.width, _LEAST))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self.width, self.height = new_size

    def on_broken_pipe(self) -> None:
        raise BrokenOutput

    @property
    def draws(self) -> bool:
        """Whether what was written can be drawn over. FORCE_COLOR makes no terminal of a pipe."""
        return self.file.isatty() and not self.is_dumb_terminal

    def __exit__(self, *exc: object) -> None:
        # Here rich writes what it has gathered: of `print`, of what is drawn, of what steers the terminal.
        with writing():
            super().__exit__(*exc)


def leave_what_fails() -> None:
    """Let outputs that cannot be written to lead nowhere: what is still in a buffer would fail again at the end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_closed_streams() -> None:
    """Give those standard streams that the process was started without (`>&-`) a file that leads nowhere.

    The file for standard output is opened for reading, so that writing to it fails: the result is lost, and that is an
    error.
    """
    # They keep the number of the stream they stand for, or the next socket would get it.
    for name, mode, flag in (
        ("stdin", "r", os.O_RDONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flag)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  (open until the end)


class _Waiting(io.RawIOBase):
    """A descriptor that waits, also where that is switched off (O_NONBLOCK), as some programs do with a pipe.

    To switch it on again would be felt by all that share the descriptor.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = read_when_there_is(self._number, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Write all of it. A signal handler may write in the middle: a buffer above would refuse that."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:
                select.select([], [self._number], [])
        return len(data)


def read_when_there_is(number: int, most: int) -> bytes:
    """What a descriptor has next, b"" at its end. It waits for it, also where the descriptor does not."""
    while True:
        try:
            return os.read(number, most)
        except BlockingIOError:
            select.select([number], [], [])


def let_streams_wait() -> None:
    """Let the standard streams wait: for input that is still to come, and for the reader of what is written.

    Otherwise a gap in the input would be taken for its end, and a full pipe for an error. With PYTHONUNBUFFERED, Python
    writes to a full pipe without a buffer: when a signal interrupts that, such as the heartbeat, it loses the rest.
    """
    for name in ("stdin", "stdout", "stderr"):
        with suppress(OSError, ValueError, AttributeError):  # a stand-in, without a descriptor
            stream = getattr(sys, name)
            number, buffer = stream.fileno(), stream.buffer
            # Without a buffer, the layer below the text is the raw one.
            raw = getattr(buffer, "raw", buffer)
            if isinstance(raw, _Waiting) or (os.get_blocking(number) and raw is not buffer):
                continue
            waiting: Any = io.BufferedReader(_Waiting(number)) if name == "stdin" else _Waiting(number)
            text = io.TextIOWrapper(waiting, stream.encoding, stream.errors, write_through=True)
            setattr(sys, name, text)


def console() -> Output:
    """For results: stdout."""
    return Output(**_PLAIN, **_fit(sys.stdout))


def help_console() -> Output:
    """For help texts: stdout, wrapped in a pipe, too."""
    return Output()


def error_console(file: TextIO | None = None) -> Output:
    """For progress and errors: stderr, or a `file` that stands for it."""
    return Output(stderr=True, file=file, **_PLAIN, **_fit(file or sys.stderr))


def _environment() -> dict[str, str]:
    """The environment, without a COLUMNS or LINES that makes no sense: then the terminal is asked."""
    return {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES") or _SIZE.fullmatch(value)
    }


def _fit(stream: TextIO) -> dict[str, Any]:
    return {} if stream.isatty() else {"width": _UNLIMITED, "soft_wrap": True}


def clean(text: str) -> str:
    """`text` with what could steer a terminal written as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for a program, as they are."""
    with writing():
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def show_beside(target: Output, text: Text) -> None:
    """Show on stderr what goes on, while the result is still to come. It raises nothing.

    Where it cannot be written, that is no reason to give up a guest that was sent something: the command goes on
    without it, and its exit code tells of it (`output_lost`).
    """
    if is_output_lost():
        return
    try:
        target.print(text, soft_wrap=True)
    except (BrokenOutput, OutputFailed) as exc:
        output_lost(exc)


def say(text: str, *, style: str = "") -> None:
    """Tell the person at the terminal something that is no result."""
    error_console().print(Text(clean(text), style))


def say_error(text: str) -> None:
    """Tell what went wrong, in one line."""
    error_console().print(Text.assemble(("stereosctl: ", "bold red"), clean(text)))


def write_at_once(file: IO[AnyStr], data: AnyStr) -> None:
    """Write and flush.

    After an OSError the file is closed: what is left in its buffer would fail once more when the caller closes it.
    """
    try:
        file.write(data)
        file.flush()
    except OSError:
        with suppress(OSError):
            file.close()
        raise


def our_version() -> str:
    """The version that is installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (slow to load, rarely asked for)

    try:
        return version("stereos-proto")
    except PackageNotFoundError:
        return "of an unknown version (running from a source checkout)"
