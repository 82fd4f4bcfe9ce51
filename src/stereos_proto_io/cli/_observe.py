"""What `watch` sees of a guest: its reports, its pushes, how many were dropped, and when it cannot be reached."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import attrs
from rich.text import Text

from stereos_proto import AgentStatus, ConnectError, ConnectionLost, Health, Notification, RequestTimeout, StereosError

from ._console import clean
from ._contact import Contact, Row
from ._counts import counted
from ._deadline import ASK_SECONDS
from ._documents import health_document, message_document
from ._errors import DEADLINE, INTERRUPTED, UsageError, error_document
from ._output import agent_text, brief, health_line, short
from ._targets import Target

#: Changes that are kept of a guest, and of a fleet.
KEPT: Final = 50
#: Agents that a line of a change names, and characters of a text in it.
_NAMED: Final = 8
_TEXT_SIZE: Final = 200


@attrs.frozen
class Dropped:
    """So many pushes were dropped, since they came faster than they were taken."""

    count: int


#: Why nothing is heard of a guest: an error on the way to it, or what is wrong with its machine.
Failure = StereosError | UsageError

Sight = Health | Notification | Dropped | Failure


def now() -> datetime:
    """The time here."""
    return datetime.now().astimezone()


@attrs.define
class Watched:
    """A guest that is watched, and what was seen of it."""

    target: Target
    row: Row
    #: The last report or error.
    last: Health | Failure | None = None
    #: The last report.
    health: Health | None = None
    #: How many pushes came, and how many were dropped.
    pushes: int = 0
    dropped: int = 0
    #: When something changed last.
    changed: datetime | None = None
    #: The last changes, each a line.
    recent: deque[Text] = attrs.field(factory=lambda: deque(maxlen=KEPT))

    @property
    def state(self) -> str:
        """The state that it reported last, or why there is none: it is dialled, unreachable, or has failed for good."""
        if isinstance(self.last, Health):
            return self.last.state
        if self.last is None:
            return "dialling"
        # The end of the watch, by the user or at the deadline, is no failure of the guest.
        failed = self.row.code not in (None, INTERRUPTED, DEADLINE)
        return "failed" if failed else "unreachable"

    def see(self, sight: Sight) -> Text | None:
        """Record an observation. Return the line for the change, None if only the uptime has changed."""
        line = self._line(sight) if self._is_new(sight) else None
        match sight:
            case Notification():
                self.pushes += 1
            case Dropped(count):
                self.dropped += count
            case Health():
                self.last = self.health = sight
            case _:
                self.last = sight
        if line is not None:
            self.changed = now()
            self.recent.append(line)
        return line

    def _is_new(self, sight: Sight) -> bool:
        last = self.last
        if isinstance(sight, Health) and isinstance(last, Health):
            return self._rebooted(sight) or attrs.evolve(sight, uptime_seconds=0) != attrs.evolve(
                last, uptime_seconds=0
            )
        return isinstance(sight, Notification | Dropped) or (type(sight), str(sight)) != (type(last), str(last))

    def _rebooted(self, report: Health) -> bool:
        """Whether a report says that the guest has booted anew since the last one."""
        return self.health is not None and report.uptime_seconds < self.health.uptime_seconds

    def _line(self, sight: Sight) -> Text:
        line = Text.assemble((now().strftime("%H:%M:%S"), "dim"), "  ")
        match sight:
            case Health() as report:
                if self._rebooted(report):
                    line.append("rebooted  ", "bold yellow")
                line.append_text(health_line(report))
                for each in _changed_agents(report.agents, () if self.health is None else self.health.agents):
                    line.append("  ").append_text(each)
            case Notification() as pushed:
                line.append(f"pushed  {short(_pushed(pushed), _TEXT_SIZE)}", "cyan")
            case Dropped(count):
                line.append(f"{count} pushes were dropped: they came faster than they were taken", "yellow")
            case error:
                line.append(short(brief(self.target.sentence(error), self.target.name), _TEXT_SIZE), "yellow")
        return line

    def document(self, sight: Sight) -> dict[str, Any]:
        """The sight as JSON."""
        head = {"time": now().isoformat(timespec="milliseconds"), "guest": self.target.name}
        match sight:
            case Health():
                return {**head, "event": "health", "health": health_document(sight)}
            case Notification():
                return {**head, "event": "notification", "notification": message_document(sight)}
            case Dropped(count):
                return {**head, "event": "dropped", "dropped": count}
            case _:
                error = error_document(sight)
                # Only questions are asked here, of which none can be lost.
                return {**head, "event": "unreachable", "error": {**error, "sent": error["sent"] and None}}


def _pushed(sight: Notification) -> str:
    return "  ".join(str(value) for value in message_document(sight).values() if value)


def _changed_agents(now_: Sequence[AgentStatus], before: Sequence[AgentStatus]) -> Iterator[Text]:
    """The agents that are not as they were."""
    known = set(before)
    changed = [agent for agent in now_ if agent not in known]
    for agent in changed[:_NAMED]:
        text = agent_text(agent, _TEXT_SIZE)
        if agent.restarts:
            text.append(f", {counted(agent.restarts, 'restart')}")
        if agent.error:
            text.append(f": {short(agent.error, _TEXT_SIZE)}")
        yield text
    if len(changed) > _NAMED:
        yield Text(f"and {len(changed) - _NAMED} more", "dim")
    names = {agent.name for agent in now_}
    gone = [agent for agent in before if agent.name not in names]
    for agent in gone[:_NAMED]:
        yield Text(f"{short(clean(agent.name), _TEXT_SIZE)} is no more", "dim")
    if len(gone) > _NAMED:
        yield Text(f"and {len(gone) - _NAMED} more are no more", "dim")


async def observe(contact: Contact, interval: float, see: Callable[[Sight], None]) -> None:
    """Look at a guest every `interval` seconds, dialling again when it goes away. Raises RequestTimeout at the end."""
    while True:
        try:
            await contact.dial(within=ASK_SECONDS)
            await _look(contact, interval, see)
        except (ConnectError, ConnectionLost) as exc:
            if isinstance(exc, ConnectError) and not exc.retryable:
                raise
            see(exc)
        except RequestTimeout as exc:
            if not contact.deadline.left:
                raise
            see(exc)
        if not contact.deadline.left:
            raise RequestTimeout("the deadline has passed")
        await contact.sleep(interval)


async def _look(contact: Contact, interval: float, see: Callable[[Sight], None]) -> None:
    dropped = 0
    while True:
        see(await contact.get_health(within=ASK_SECONDS))
        pause = contact.deadline.or_in(interval)
        # What is pushed is shown at once, and a guest that pushes all the time is still asked.
        while pause.left and (pushed := await contact.next_push(pause.left)) is not None:
            see(pushed)
        if contact.dropped > dropped:
            see(Dropped(contact.dropped - dropped))
            dropped = contact.dropped
        if not contact.deadline.left:
            raise RequestTimeout("the deadline has passed")
