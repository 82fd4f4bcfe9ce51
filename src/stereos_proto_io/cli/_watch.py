"""`stereosctl watch`: what a guest says, as it changes. Polls, and shows what the guest pushes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter
from rich.console import Group
from rich.live import Live
from rich.text import Text

from stereos_proto import AgentStatus, ConnectError, ConnectionLost, Health, Notification, RequestTimeout, StereosError
from stereos_proto_io.addresses import Address

from ._console import clean, console
from ._context import DEFAULT_GUEST, Guest, JsonLines, connect, load_driver
from ._deadline import ASK_SECONDS, FOREVER, Deadline
from ._documents import error_document, health_document, message_document
from ._errors import UsageError
from ._output import agent_text, agents_table, brief, health_line, write_json

#: Changes that stay on the screen below the table.
_KEPT: Final = 8
#: Lines of the screen that are neither changes nor agents: the guest, headings, what Ctrl-C does, some that wrap.
_AROUND: Final = 10
#: Agents that a line of a change names.
_NAMED: Final = 8

Sight = Health | Notification | StereosError


def watch(
    guest: Guest = DEFAULT_GUEST,
    *,
    interval: Annotated[float, Parameter(name=["--interval", "-i"], metavar="SECONDS")] = 1.0,
    jsonl: JsonLines = False,
) -> None:
    """Watch the guest's state and agents, until Ctrl-C.

    On a terminal the table is drawn anew; elsewhere, and beside a trace, each change
    is a line. A guest that goes away is dialled again.

    For example:

        stereosctl watch tcp://127.0.0.1:1024 -i 0.5

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        interval: Seconds between two looks. What the guest pushes is shown at once.
        jsonl: Print one JSON document per change, each on its line.
    """
    if not interval > 0:
        raise UsageError("--interval must be more than 0 seconds")
    address = guest.resolve()
    deadline = guest.deadline(FOREVER)
    load_driver()
    sights = _sights(guest, deadline, interval)
    if jsonl:
        for look in _compared(sights):
            if look.new:
                write_json(_document(look.sight), indent=False)
    elif console().draws and not guest.verbose:
        _draw(address, sights)
    else:
        target = console()
        for look in _compared(sights):
            if look.new:
                target.print(_line(look, address))


def _sights(guest: Guest, deadline: Deadline, interval: float) -> Iterator[Sight]:
    """What is seen of the guest, until the deadline. Raises RequestTimeout then."""
    while True:
        try:
            yield from _looks(guest, deadline, interval)
        except (ConnectError, ConnectionLost) as exc:
            if isinstance(exc, ConnectError) and not exc.retryable:
                raise
            yield exc
        except RequestTimeout as exc:
            if not deadline.left:
                raise
            yield exc
        if not deadline.left:
            raise RequestTimeout("the deadline has passed")
        time.sleep(deadline.within(interval))


def _looks(guest: Guest, deadline: Deadline, interval: float) -> Iterator[Sight]:
    with connect(guest, Deadline(min(deadline.at, time.monotonic() + ASK_SECONDS))) as client:
        while True:
            yield client.get_health(timeout=deadline.within(ASK_SECONDS))
            pause = Deadline(time.monotonic() + deadline.within(interval))
            # RequestTimeout: nothing (more) was pushed in this interval.
            with suppress(RequestTimeout):
                while True:
                    yield next(client.notifications(timeout=pause.left))
            if not deadline.left:
                raise RequestTimeout("the deadline has passed")


@attrs.frozen
class _Look:
    """A sight, whether it is news, and the report before it."""

    sight: Sight
    new: bool
    before: Health | None = None


def _compared(sights: Iterator[Sight]) -> Iterator[_Look]:
    last: Sight | None = None
    before: Health | None = None
    for sight in sights:
        yield _Look(sight, _is_new(sight, last), before)
        if not isinstance(sight, Notification):
            last = sight
        if isinstance(sight, Health):
            before = sight


def _is_new(sight: Sight, last: Sight | None) -> bool:
    """Whether more than the time has changed."""
    if isinstance(sight, Health) and isinstance(last, Health):
        rebooted = sight.uptime_seconds < last.uptime_seconds
        return rebooted or attrs.evolve(sight, uptime_seconds=0) != attrs.evolve(last, uptime_seconds=0)
    return isinstance(sight, Notification) or (type(sight), str(sight)) != (type(last), str(last))


def _now() -> datetime:
    return datetime.now().astimezone()


def _document(sight: Sight) -> dict[str, Any]:
    time_ = _now().isoformat(timespec="milliseconds")
    match sight:
        case Health():
            return {"time": time_, "event": "health", "health": health_document(sight)}
        case Notification():
            return {"time": time_, "event": "notification", "notification": message_document(sight)}
        case _:
            return {"time": time_, "event": "unreachable", "error": error_document(sight)}


def _line(look: _Look, address: Address) -> Text:
    line = Text.assemble((_now().strftime("%H:%M:%S"), "dim"), "  ")
    match look.sight:
        case Health() as health:
            line.append_text(health_line(health))
            for each in _changed_agents(health.agents, () if look.before is None else look.before.agents):
                line.append("  ").append_text(each)
        case Notification() as pushed:
            line.append(f"pushed  {clean(_pushed(pushed))}", "cyan")
        case error:
            line.append(clean(brief(error, address)), "yellow")
    return line


def _changed_agents(now: Sequence[AgentStatus], before: Sequence[AgentStatus]) -> Iterator[Text]:
    """The agents that are not as they were."""
    changed = [agent for agent in now if agent not in before]
    for agent in changed[:_NAMED]:
        text = agent_text(agent)
        if agent.error:
            text.append(f": {clean(agent.error)}")
        yield text
    if len(changed) > _NAMED:
        yield Text(f"and {len(changed) - _NAMED} more", "dim")
    names = {agent.name for agent in now}
    for agent in before:
        if agent.name not in names:
            yield Text(f"{clean(agent.name)} is no more", "dim")


def _pushed(sight: Notification) -> str:
    document = message_document(sight)
    return "  ".join(str(value) for value in document.values() if value)


def _draw(address: Address, sights: Iterator[Sight]) -> None:
    recent: deque[Text] = deque(maxlen=_KEPT)
    top: Any = Text(f"dialling {address}", "dim")
    with Live(top, console=console(), auto_refresh=False) as live:
        try:
            for look in _compared(sights):
                if look.new:
                    recent.append(_line(look, address))
                if not isinstance(look.sight, Notification):
                    # What was pushed is a change; how the guest is, the next look tells.
                    top = _top(look.sight, address, live.console.height - _KEPT - _AROUND)
                live.update(Group(_screen(top, recent), Text("Ctrl-C ends this.", "dim")), refresh=True)
        finally:
            # What stays on the terminal is what was seen.
            live.update(_screen(top, recent))


def _top(sight: Health | StereosError, address: Address, rows: int) -> Group:
    """The guest, with as many of its agents as there are rows: those first that do not run."""
    if isinstance(sight, StereosError):
        return Group(Text.assemble((clean(str(address)), "bold"), "  ", (clean(brief(sight, address)), "yellow")), "")
    parts: list[Any] = [health_line(sight, address), ""]
    agents = sight.agents
    if len(agents) > rows:
        agents = tuple(sorted(agents, key=lambda agent: agent.running))[: max(rows, 1)]
    if agents:
        parts += [agents_table(agents)]
        parts += [Text(f"and {len(sight.agents) - len(agents)} more", "dim")] if agents is not sight.agents else []
        parts += [""]
    return Group(*parts)


def _screen(top: Any, recent: deque[Text]) -> Group:
    return Group(top, Text("Changes", "bold"), *recent)
