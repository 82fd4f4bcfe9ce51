"""The screen of `watch` with many guests: a sorted table, one guest a line, and a look into one of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from stereos_proto import Health

from ._console import clean, console
from ._fleet_view import agents_count, name_text, one_line_table, row_rtt, row_state
from ._guest_view import guest_view
from ._machines import natural
from ._observe import Sight, Watched
from ._output import brief, short
from ._signals import drawing, lending, unless_closed

#: Seconds between two drawings at least: over a slow line, each is a screen full of characters.
_FRAME: Final = 0.1
#: Lines that are no guests: the summary, the heading, an empty one, what the keys do.
_AROUND: Final = 4
#: Changes below the table, where there is room.
_CHANGES: Final = 6

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def _running(watched: Watched) -> float:
    agents = () if watched.health is None else watched.health.agents
    return sum(agent.running for agent in agents) / len(agents) if agents else 1.0


#: What a guest is sorted by: for a name of `--sort`, a key. Trouble comes first.
_ORDERS: Final[dict[str, Callable[[Watched], Any]]] = {
    "name": lambda watched: natural(watched.target.name),
    "state": lambda watched: (isinstance(watched.last, Health), watched.health.state if watched.health else ""),
    "agents": _running,
    "rtt": lambda watched: -(watched.row.rtt_ms or 0.0),
    "pushes": lambda watched: -(watched.pushes + watched.dropped),
    "changed": lambda watched: -(watched.changed or _LONG_AGO).timestamp() if watched.changed else 0.0,
}


class FleetScreen:
    """The screen, and how it reacts to keys."""

    def __init__(self, watched: list[Watched], sort: str, look: str | None) -> None:
        self._watched = watched
        self._sort = sort
        names = [each.target.name for each in watched]
        #: The guest that the arrow keys have chosen, by name: the table may be sorted anew below them.
        self._chosen = look if look is not None else next(iter(names), "")
        self._inside = look is not None
        self._recent: deque[Text] = deque(maxlen=_CHANGES)
        self._console = console()
        self._live: Live | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draws_soon = False

    def sink(self, watched: Watched) -> Callable[[Sight], None]:
        """What takes the sights of one guest."""

        def see(sight: Sight) -> None:
            line = watched.see(sight)
            if line is not None:
                self._recent.append(Text.assemble((f"{short(watched.target.name, 30)}  ", "bold"), line))
            self._draw_soon()

        return see

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the screen and handle keys, for the duration of a `with` inside the loop."""
        self._loop = asyncio.get_running_loop()
        try:
            with (
                drawing(self._drawing, self._console, screen=True, moving=False) as self._live,
                _keys(self._loop, self._press),
            ):
                self._live.refresh()
                yield
        finally:
            # What stays on the terminal is what was seen, where it has not been closed.
            with unless_closed():
                self._console.print(self._table(len(self._watched)), *self._recent, sep="\n")

    def _draw_soon(self) -> None:
        if self._loop is not None and not self._draws_soon:
            self._draws_soon = True
            self._loop.call_later(_FRAME, self._draw)

    def _draw(self) -> None:
        self._draws_soon = False
        if self._live is not None and self._live.is_started:
            self._live.refresh()

    # ----------------------------------------------------------------------------------------------- drawing

    def _sorted(self) -> list[Watched]:
        return sorted(self._watched, key=_ORDERS[self._sort])

    def _drawing(self) -> Group:
        height = self._console.height
        if self._inside:
            chosen = next(each for each in self._watched if each.target.name == self._chosen)
            # First, as a long view is cut off at the bottom of the screen.
            return Group(Text("Esc goes back. q or Ctrl-C ends.", "dim"), guest_view(chosen, height))
        room = max(height - _AROUND, 1)
        changes = list(self._recent)[-max(min(_CHANGES, room - len(self._watched) - 1), 0) :]
        if room <= len(self._watched) + 1:
            changes = []
        keys = Text("↑↓ choose  Enter looks into it  s sorts  q or Ctrl-C ends", "dim", no_wrap=True)
        for line in changes:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(self._summary(), self._table(room), "", *changes, keys)

    def _summary(self) -> Text:
        states: Counter[str] = Counter()
        for each in self._watched:
            states[short(each.state, 12)] += 1
        counts = "  ".join(f"{count} {clean(state)}" for state, count in states.most_common(5))
        dropped = sum(each.dropped for each in self._watched)
        text = Text.assemble((f"{len(self._watched)} guests  ", "bold"), counts, (f"  by {self._sort}", "dim"))
        if dropped:
            text.append(f"  {dropped} pushes dropped", "yellow")
        text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def _table(self, room: int) -> Any:
        everyone = self._sorted()
        at = next((n for n, each in enumerate(everyone) if each.target.name == self._chosen), 0)
        first = min(max(at - room // 2, 0), max(len(everyone) - room, 0))
        rows = everyone[first : first + room]
        cells = {header: [make(each) for each in rows] for header, make in _COLUMNS.items()}
        for header in sorted(_GIVING_WAY, key=lambda header: header.lower() == self._sort):
            if self._console.width - _width(cells) < _LEAST_CHANGE:
                del cells[header]
        table = one_line_table("", *cells, grows=_CHANGE, names=[each.target.name for each in rows])
        for each, *row in zip(rows, *cells.values(), strict=True):
            chosen = each.target.name == self._chosen
            table.add_row(Text("▸" if chosen else " ", "cyan"), *row, style="reverse" if chosen else "")
        return table

    # -------------------------------------------------------------------------------------------------- keys

    def _press(self, key: str) -> None:
        if key in ("q", "Q"):
            signal.raise_signal(signal.SIGINT)
        elif key in ("\r", "\n"):
            self._inside = not self._inside
        elif key in ("\x1b", "\x7f", "\x1b[D"):
            self._inside = False
        elif key == "s":
            orders = list(_ORDERS)
            self._sort = orders[(orders.index(self._sort) + 1) % len(orders)]
        elif key in _STEPS:
            self._choose(_STEPS[key])
        self._draw()

    def _choose(self, step: int) -> None:
        names = [each.target.name for each in self._sorted()]
        if names:
            self._chosen = names[min(max(names.index(self._chosen) + step, 0), len(names) - 1)]


_STEPS: Final = {"\x1b[A": -1, "k": -1, "\x1b[B": 1, "j": 1, "\x1b[5~": -10, "\x1b[6~": 10}


def _state(watched: Watched) -> Text:
    return row_state(watched.row) if isinstance(watched.last, Health) else Text(watched.state, "yellow")


def _pushes(watched: Watched) -> Text:
    return Text(f"{watched.pushes}" + (f" -{watched.dropped}" if watched.dropped else ""))


def _last_change(watched: Watched) -> Text:
    last = watched.last
    if last is not None and not isinstance(last, Health):
        return Text(short(brief(watched.target.sentence(last), watched.target.name), 200), "yellow")
    return watched.recent[-1] if watched.recent else Text("")


_CHANGE: Final = "LAST CHANGE"
#: The columns, and what each holds.
_COLUMNS: Final[dict[str, Callable[[Watched], Text]]] = {
    "GUEST": lambda watched: name_text(watched.target.name),
    "STATE": _state,
    "AGENTS": lambda watched: agents_count(watched.row),
    "RTT": lambda watched: row_rtt(watched.row),
    "PUSHES": _pushes,
    _CHANGE: _last_change,
}
#: Those that are left out where the last change has not the room for a time and a state. That by which the guests are
#: sorted comes last.
_GIVING_WAY: Final = ("PUSHES", "RTT")
_LEAST_CHANGE: Final = len("00:00:00  degraded")
#: Characters between two columns.
_GAP: Final = 2


def _width(cells: dict[str, list[Text]]) -> int:
    """Characters of a line that a table takes besides the last change."""
    texts = [
        [len(header), *(cell.cell_len for cell in column)] for header, column in cells.items() if header != _CHANGE
    ]
    return sum(max(lengths) + _GAP for lengths in ([1], *texts))


#: One key of what is read, which may be several: those of a cursor key come in one piece, Esc alone is Esc.
_KEY: Final = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|.", re.DOTALL)


@contextmanager
def _keys(loop: asyncio.AbstractEventLoop, press: Callable[[str], None]) -> Iterator[None]:
    """Read keys as they are pressed, unseen, for the length of a `with`. Without a terminal there are none."""
    if not sys.stdin.isatty():
        yield
        return
    import termios  # noqa: PLC0415  (POSIX only, as terminals are)

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    raw = [*before]
    raw[3] &= ~(termios.ICANON | termios.ECHO)

    def take() -> None:
        termios.tcsetattr(fd, termios.TCSADRAIN, raw)

    def give_back() -> None:
        with unless_closed():
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def read() -> None:
        data = ""
        with suppress(OSError):  # the terminal was closed
            data = os.read(fd, 64).decode("utf-8", "replace")
        if not data:
            loop.remove_reader(fd)
            return
        for key in _KEY.findall(data):
            press(key)

    with ExitStack() as stack:
        stack.callback(give_back)
        stack.enter_context(lending(give_back, take))
        take()
        loop.add_reader(fd, read)
        stack.callback(loop.remove_reader, fd)
        yield
