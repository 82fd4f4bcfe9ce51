"""What is seen while many guests are talked to: a live table of one line a guest, or a line per change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ._console import clean, console, error_console, show_beside
from ._contact import Row
from ._errors import DONE, REFUSED
from ._output import brief, duration, short, state_text
from ._signals import drawing

if TYPE_CHECKING:
    from ._fleet import Outcome

#: Characters that a cell may have, whatever the guest sends.
NAME_SIZE: Final = 40
STATE_SIZE: Final = 12
#: Characters of a name that are shown even where there is room for little else.
_NAME_WIDTH: Final = 16
TEXT_SIZE: Final = 300
#: Lines of the screen that are no guests: heading, summary, prompt.
_AROUND: Final = 4

_MARKS: Final = {DONE: ("✓", "green"), REFUSED: ("✗", "bold red")}


def mark(code: int | None) -> tuple[str, str]:
    """The mark of a guest that comes to this exit code."""
    return ("·", "cyan") if code is None else _MARKS.get(code, ("!", "bold yellow"))


def one_line_table(*headers: str, names: Iterable[str], grows: str = "") -> Table:
    """A table in which each row is one line, however narrow the terminal: what does not fit ends in `…`.

    The column of the guests' `names` gives way last.
    """
    width = min(max(map(len, names), default=0), _NAME_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=bool(grows))
    for header in headers:
        ratio = 1 if header == grows else None
        least = width if header == "GUEST" else None
        table.add_column(header, no_wrap=True, overflow="ellipsis", ratio=ratio, min_width=least)
    return table


def name_text(name: str) -> Text:
    """A guest's name. Of an address the end tells most."""
    text = clean(name[-4 * NAME_SIZE :])
    return Text(text if len(text) <= NAME_SIZE else f"…{text[1 - NAME_SIZE :]}", "bold")


def agents_count(row: Row) -> Text:
    """How many of a guest's agents run."""
    if row.health is None:
        return Text("")
    running = sum(agent.running for agent in row.health.agents)
    return Text(f"{running}/{len(row.health.agents)}", "" if running == len(row.health.agents) else "red")


def row_state(row: Row) -> Text:
    """A guest's state."""
    if row.health is None:
        return Text("")
    return state_text(short(row.health.state, STATE_SIZE))


def row_rtt(row: Row) -> Text:
    """How long the guest took to answer last."""
    return Text("" if row.rtt_ms is None else f"{row.rtt_ms:.1f} ms", "dim")


def row_error(row: Row) -> str:
    """What went wrong last with the guest."""
    return short(brief(row.error, row.name), TEXT_SIZE)


def _line(row: Row) -> list[Text]:
    code = row.code
    symbol, style = mark(code)
    text = Text(row_error(row), "yellow") if row.error else Text("" if code is not None else short(row.step, 40))
    return [Text(symbol, style), name_text(row.name), row_state(row), agents_count(row), row_rtt(row), text]


class _Table:
    """The rows as they are when they are drawn, as many as fit: those first that are at work or failed."""

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        self._rows = rows
        self._console = console

    def __rich__(self) -> Group:
        rows: Sequence[Row] = self._rows
        room = max(self._console.height - _AROUND, 1)
        if len(rows) > room:
            rows = sorted(rows, key=_urgency)[:room]
        table = one_line_table(
            "", "GUEST", "STATE", "AGENTS", "RTT", "STEP", grows="STEP", names=[row.name for row in rows]
        )
        for row in rows:
            table.add_row(*_line(row))
        more = len(self._rows) - len(rows)
        done = sum(row.code is not None for row in self._rows)
        rest = f"; {more} more are not shown" if more else ""
        return Group(table, Text(f"{done} of {len(self._rows)} guests are done{rest}", "dim"))


def _urgency(row: Row) -> int:
    """At work first, then what failed, then what is queued, then what is done."""
    if row.code is None:
        return 0 if row.step != Row("").step else 2
    return 3 if row.code == DONE else 1


@contextmanager
def shown(rows: Sequence[Row], *, changes: bool, traced: bool) -> Iterator[Callable[[Row], None]]:
    """Show guests at work, on stderr. Yields what is told of each change.

    Without a terminal, or beside a trace, there is a line per change, where `changes` says that there is something to
    wait for.
    """
    target = error_console()
    if target.draws and not traced:
        table = _Table(rows, target)
        with drawing(lambda: table, target):
            yield lambda _row: None
        return
    seen: dict[str, object] = {}

    def note(row: Row) -> None:
        now = (row.step, row.health and row.health.state, row.error, row.code)
        if changes and seen.get(row.name) != now:
            seen[row.name] = now
            show_beside(target, Text("  ").join(_cells(row)))

    yield note


def _cells(row: Row) -> Iterable[Text]:
    return [cell for cell in _line(row) if cell.plain]


def outcomes_table(outcomes: Sequence[Outcome], said: Callable[[Any], str], *, wide: bool) -> Table:
    """What became of each guest, one a line; `said` puts the result of one that did not fail into words."""
    rows = [outcome.row for outcome in outcomes]
    reports = any(row.health is not None for row in rows)
    times = any(row.rtt_ms is not None for row in rows)
    headers = ["", "GUEST", *(["STATE", "AGENTS"] if reports else []), *(["RTT"] if times else [])]
    headers += ["UPTIME", "ADDRESS"] if wide else []
    grows = "RESULT" if console().is_terminal else ""
    table = one_line_table(*headers, "RESULT", grows=grows, names=[row.name for row in rows])
    for outcome in outcomes:
        row = outcome.row
        cells = [Text(*mark(outcome.code)), name_text(row.name)]
        cells += [row_state(row), agents_count(row)] if reports else []
        cells += [row_rtt(row)] if times else []
        if wide:
            up = "" if row.health is None else duration(row.health.uptime_seconds)
            cells += [Text(up), Text(clean(str(outcome.target.address or "")), "dim")]
        failed = outcome.error is not None
        result = Text(row_error(row), "yellow") if failed else Text(short(said(outcome.value), TEXT_SIZE))
        table.add_row(*cells, result)
    return table
