"""`stereosctl watch`: what a guest says, as it changes. Polls, and shows what the guest pushes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter
from rich.console import Group
from rich.live import Live
from rich.text import Text

from stereos_proto import ConnectError, ConnectionLost, Health, Notification, RequestTimeout, StereosError
from stereos_proto_io.addresses import Address

from ._console import clean, console
from ._context import ASK_SECONDS, DEFAULT_GUEST, FOREVER, Deadline, Guest, JsonLines, connect
from ._documents import error_document, health_document, message_document
from ._errors import UsageError
from ._output import agent_text, agents_table, brief, health_line, write_json

#: Changes that stay on the screen below the table.
_KEPT: Final = 8

Sight = Health | Notification | StereosError


def watch(
    guest: Guest = DEFAULT_GUEST,
    *,
    interval: Annotated[float, Parameter(name=["--interval", "-i"], metavar="SECONDS")] = 1.0,
    jsonl: JsonLines = False,
) -> None:
    """Watch the guest's state and agents, until Ctrl-C.

    On a terminal the table is drawn anew; elsewhere each change is a line. A guest
    that goes away is dialled again.

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
    sights = _sights(guest, deadline, interval)
    if jsonl:
        for sight in _changes(sights):
            write_json(_document(sight), indent=False)
    elif console().is_terminal:
        _draw(address, sights)
    else:
        target = console()
        for sight in _changes(sights):
            target.print(_line(sight, address))


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


def _kind(sight: Sight) -> Any:
    """What makes a sight a new one: everything but the time."""
    match sight:
        case Health():
            return attrs.evolve(sight, uptime_seconds=0)
        case StereosError():
            return type(sight), str(sight)
        case _:
            return object()


def _changes(sights: Iterator[Sight]) -> Iterator[Sight]:
    last: Any = None
    for sight in sights:
        kind = _kind(sight)
        if kind != last:
            yield sight
            last = kind


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


def _line(sight: Sight, address: Address) -> Text:
    line = Text.assemble((_now().strftime("%H:%M:%S"), "dim"), "  ")
    match sight:
        case Health():
            line.append_text(health_line(sight))
            for agent in sight.agents:
                line.append("  ").append_text(agent_text(agent))
        case Notification():
            line.append(f"pushed  {clean(_pushed(sight))}", "cyan")
        case _:
            line.append(clean(brief(sight, address)), "yellow")
    return line


def _pushed(sight: Notification) -> str:
    document = message_document(sight)
    return "  ".join(str(value) for value in document.values() if value)


def _draw(address: Address, sights: Iterator[Sight]) -> None:
    recent: deque[Text] = deque(maxlen=_KEPT)
    last: Any = None
    top: Any = Text(f"dialling {address}", "dim")
    with Live(top, console=console(), auto_refresh=False) as live:
        try:
            for sight in sights:
                kind = _kind(sight)
                if kind != last:
                    recent.append(_line(sight, address))
                    last = kind
                if not isinstance(sight, Notification):
                    # What was pushed is a change; how the guest is, the next look tells.
                    top = _top(sight, address)
                live.update(Group(_screen(top, recent), Text("Ctrl-C ends this.", "dim")), refresh=True)
        finally:
            # What stays on the terminal is what was seen.
            live.update(_screen(top, recent))


def _top(sight: Health | StereosError, address: Address) -> Group:
    if isinstance(sight, StereosError):
        return Group(Text.assemble((clean(str(address)), "bold"), "  ", (clean(brief(sight, address)), "yellow")), "")
    agents: list[Any] = [agents_table(sight.agents), ""] if sight.agents else []
    return Group(health_line(sight, address), "", *agents)


def _screen(top: Any, recent: deque[Text]) -> Group:
    return Group(top, Text("Changes", "bold"), *recent)
