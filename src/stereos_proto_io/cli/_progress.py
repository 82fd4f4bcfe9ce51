"""What a person sees while a guest is waited for: state, tries, seconds, the last error. On stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.text import Text

from stereos_proto.dialogues import WaitProgress

from ._console import Output, clean, error_console, show_beside
from ._counts import counted
from ._output import brief, state_text
from ._signals import drawing
from ._targets import Target

_MOVING: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

Report = Callable[[WaitProgress], None]


class _Waiting:
    """One line that is drawn again and again; the seconds go on between two tries."""

    def __init__(self, subject: str, target: Target) -> None:
        self._subject = subject
        self._target = target
        self._start = time.monotonic()
        self.progress = WaitProgress()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def line(self) -> Text:
        progress = self.progress
        line = Text.assemble("waiting for ", (clean(self._subject), "bold"))
        if progress.state is not None:
            line.append("  state ").append_text(state_text(progress.state))
        line.append(f"  {counted(progress.tries, 'try', 'tries')}  {self.seconds:.1f} s", "dim")
        if progress.error is not None:
            said = brief(self._target.sentence(progress.error), self._target.name)
            line.append(f"  {clean(said)}", "yellow")
        return line

    def __rich__(self) -> Text:
        moving = _MOVING[int(self.seconds * 12) % len(_MOVING)]
        return Text.assemble((moving, "cyan"), " ", self.line())


@contextmanager
def waiting(subject: str, target: Target, *, traced: bool = False) -> Iterator[Report]:
    """Show a wait for its length: a moving line on a terminal, else a line per change. Yields what to report to.

    `subject` is what is waited for, `target` the guest that it is about.

    A moving line and a trace of the wire would draw over each other.
    """
    shown = _Waiting(subject, target)
    console = error_console()
    if traced or not console.draws:
        yield _line_per_change(shown, console)
        return
    with drawing(lambda: shown, console):

        def report(progress: WaitProgress) -> None:
            shown.progress = progress

        yield report


def _line_per_change(shown: _Waiting, console: Output) -> Report:
    last: object = None
    waits: Text | None = None

    def report(progress: WaitProgress) -> None:
        nonlocal last, waits
        if waits is not None:
            # Only now it is known that the wait went on: a guest that is ready at once is no news.
            show_beside(console, waits)
            waits = None
        shown.progress = progress
        seen = (progress.state, type(progress.error))
        if seen != last:
            last = seen
            waits = shown.line()

    return report
