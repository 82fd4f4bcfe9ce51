"""How things look: guests, agents, steps, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from stereos_proto import Ack, AgentStatus, Health, LifecycleState, Message, ProvisionStep, StepStatus

from ._console import clean, console, writing
from ._counts import listed

STATE_STYLES: Final[dict[str, str]] = {
    LifecycleState.BOOTING: "yellow",
    LifecycleState.READY: "green",
    LifecycleState.HEALTHY: "bold green",
    LifecycleState.DEGRADED: "bold yellow",
    LifecycleState.SHUTDOWN: "red",
}
STEP_MARKS: Final[dict[StepStatus, tuple[str, str]]] = {
    StepStatus.DONE: ("✓", "green"),
    StepStatus.REFUSED: ("✗", "bold red"),
    StepStatus.UNKNOWN: ("?", "bold yellow"),
    StepStatus.NOT_SENT: ("–", "dim"),
}

#: Agents that a table shows at most, and characters of a cell: whatever the guest sends, it is drawn within a second.
MOST_AGENTS: Final = 500
CELL_SIZE: Final = 256


def write_json(document: object, *, indent: bool = True) -> None:
    """Write one JSON document: indented for `--json`, on one line for `--jsonl`."""
    text = json.dumps(document, indent=2 if indent else None, separators=None if indent else (",", ":"))
    with writing():
        print(text, flush=True)


def state_text(state: str) -> Text:
    """A lifecycle state in its colour."""
    return Text(short(state, CELL_SIZE), STATE_STYLES.get(state, ""))


def duration(seconds: float) -> str:
    """`3 d 4 h`, `5 min 6 s`, `7 s`: the two largest units, in whole numbers. A guest may report less than nothing."""
    left, sign = abs(int(seconds)), "-" * (seconds <= -1)
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return sign + " ".join(parts[:2])


#: Columns whose words are never broken, however narrow the terminal.
_WHOLE: Final = frozenset({"STATE", "STATUS", "UPTIME", "RESTARTS"})


def columns(*headers: str) -> Table:
    """An empty table with the look of all our tables."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in _WHOLE)
    return table


def brief(sentence: str, name: object) -> str:
    """An error's sentence, where the guest's name stands beside it already."""
    return sentence.removeprefix("cannot connect to ").removeprefix(f"{name}").removeprefix(":").lstrip()


def short(text: str, size: int) -> str:
    """`text`, cleaned, in `size` characters at most."""
    text = clean(text[: 2 * size])
    return text if len(text) <= size else f"{text[: size - 1]}…"


def agent_text(agent: AgentStatus, size: int = CELL_SIZE) -> Text:
    """An agent in one word, which no line break parts: a mark, since a colour may not be seen, and its name."""
    mark, style = ("●", "green") if agent.running else ("○", "red")
    return Text(f"{mark}{short(agent.name, size)}", style)


def agents_table(agents: Iterable[AgentStatus], *, most: int = MOST_AGENTS) -> list[Any]:
    """The agents of a guest, one a row, and how many more there are. Columns that say why are left out if all is well.

    A report may hold a hundred thousand agents. Those that do not run come first where not all of them are shown.
    """
    everyone = tuple(agents)
    agents = everyone
    if len(everyone) > most:
        agents = sorted(everyone, key=lambda agent: agent.running)[:most]
    restarts = any(agent.restarts for agent in agents)
    errors = any(agent.error for agent in agents)
    headers = ["AGENT", "STATUS", "SESSION", *(["RESTARTS"] if restarts else []), *(["ERROR"] if errors else [])]
    table = columns(*headers)
    for agent in agents:
        row = [
            Text(short(agent.name, CELL_SIZE), "bold"),
            Text("● running", "green") if agent.running else Text("○ stopped", "red"),
            Text(short(agent.session, CELL_SIZE)),
        ]
        if restarts:
            row.append(Text(str(agent.restarts)))
        if errors:
            row.append(Text(short(agent.error, CELL_SIZE), "red"))
        table.add_row(*row)
    more = len(everyone) - len(agents)
    return [table, *([Text(f"and {more} more", "dim")] if more else [])]


def agents_summary(health: Health) -> str:
    """How many agents of a guest run, and which do not."""
    if not health.agents:
        return "no agents"
    down = [agent for agent in health.agents if not agent.running]
    text = f"{len(health.agents) - len(down)} of {len(health.agents)} agents running"
    return f"{text}; not: {listed(down, 3, lambda agent: short(agent.name, 40))}" if down else text


def health_line(health: Health, label: object = "") -> Text:
    """A guest in one line: where, its state, since when, how many agents run."""
    running = sum(agent.running for agent in health.agents)
    line = Text.assemble((f"{clean(str(label))}  " if label else "", "bold"), state_text(health.state))
    line.append(f"  up {duration(health.uptime_seconds)}")
    if health.agents:
        line.append(f"  {running} of {len(health.agents)} agents running")
    else:
        line.append("  no agents", "dim")
    return line


def reply_parts(reply: Message) -> list[Any]:
    """A reply in the words that the other commands have for it."""
    match reply:
        case Health():
            return [health_line(reply), *(["", *agents_table(reply.agents)] if reply.agents else [])]
        case Ack(ok=True):
            return [Text.assemble(STEP_MARKS[StepStatus.DONE], " ", clean(reply.reply_to))]
        case Ack():
            mark, style = STEP_MARKS[StepStatus.REFUSED]
            error = f": {clean(reply.error)}"
            return [Text.assemble((mark, style), " ", clean(reply.reply_to), ("  refused", style), error)]
        case _:
            return [Text(clean(reply.type))]


def step_line(step: ProvisionStep) -> Text:
    """One step of a provisioning, and why it did not work."""
    mark, style = STEP_MARKS[step.status]
    line = Text.assemble((mark, style), " ", clean(step.label))
    if step.status is not StepStatus.DONE:
        line.append(f"  {step.status.value}", style)
        line.append(f": {clean(str(step.error))}" if step.error else "")
    return line


def print_result(*parts: Any) -> None:
    """Print parts of a result on stdout, each on its own line. A text is cleaned."""
    target = console()
    for part in parts:
        target.print(Text(clean(part)) if isinstance(part, str) else part)
