"""What `stereosctl watch` shows of one guest: its health, as many of its agents as there is room for, its changes."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Group
from rich.text import Text

from stereos_proto import Health

from ._console import clean
from ._observe import Watched
from ._output import agents_table, brief, health_line

#: Changes that stay on the screen below the table of a single guest.
_SHOWN: Final = 8
#: Lines of the screen that are neither changes nor agents: the guest, headings, what Ctrl-C does, some that wrap.
_AROUND: Final = 10


def guest_view(watched: Watched, height: int) -> Group:
    """A guest, as many of its agents as there is room for, and its last changes."""
    counts = Text("Changes", "bold")
    if watched.pushes or watched.dropped:
        counts.append(f"  {watched.pushes} pushes, {watched.dropped} dropped", "dim")
    return Group(_top(watched, height - _SHOWN - _AROUND), counts, *list(watched.recent)[-_SHOWN:])


def _top(watched: Watched, rows: int) -> Group:
    """The guest, with as many of its agents as there are rows: those first that do not run."""
    name, last = clean(watched.target.name), watched.last
    if last is None:
        return Group(Text(f"dialling {name}", "dim"), "")
    if not isinstance(last, Health):
        said = brief(watched.target.sentence(last), watched.target.name)
        return Group(Text.assemble((name, "bold"), "  ", (clean(said), "yellow")), "")
    parts: list[Any] = [health_line(last, name), ""]
    if last.agents:
        parts += [*agents_table(last.agents, most=max(rows, 1)), ""]
    return Group(*parts)
