"""`stereosctl wait`: until a state, until agents run, or until the guest is gone."""

from __future__ import annotations

import copy
import re
from typing import Annotated, Any, Final

import attrs

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    Health,
    LifecycleState,
    NotReady,
    RequestTimeout,
    StereosError,
)
from stereos_proto.dialogues import READY_STATES, WaitProgress

from ._console import clean, say
from ._contact import Contact
from ._deadline import WAIT_SECONDS
from ._documents import health_document
from ._errors import DEADLINE, UsageError, exit_code
from ._formats import DEFAULT_OUT, Out
from ._jobs import Job, perform
from ._options import refuse_what_is_no_utf8, repeated
from ._output import agents_summary, health_line, print_result
from ._private import nobody_listens
from ._targets import DEFAULT_GUESTS, Guests, Target

#: Seconds between two looks at a guest that is to go away.
_LOOK_AGAIN: Final = 0.25
#: So many connections in a row that end without a reply mean that the guest is off: QEMU's user network accepts
#: connections then, too. A single connection may end for another reason.
_SILENT: Final = 3
#: What the library's sentence repeats of what `--for` says: which agents are wanted, and that all of them are missing.
_WANTED: Final = re.compile(r"; waited for .*?(?=; the guest reports |$)", re.DOTALL)
_NONE_LISTED: Final = re.compile(r"; (?:(?!; ).)* (?:is|are) not listed: an agent", re.DOTALL)
_SHUTDOWN: Final = f"state={LifecycleState.SHUTDOWN}"


@attrs.frozen(eq=False, repr=False)
class _Condition:
    """What `--for` says."""

    #: As the user wrote it.
    texts: tuple[str, ...]
    #: The report has to name one of these states, where there are any.
    states: frozenset[str] = frozenset()
    #: In the same report these agents have to run. They are named in the order in which the user named them.
    agents: tuple[str, ...] = ()
    #: Wait until the guest does not answer any more.
    gone: bool = False

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> _Condition:
        """Raises UsageError."""
        states: set[str] = set()
        agents: dict[str, None] = {}
        gone = False
        for text in texts:
            kind, _, value = text.partition("=")
            if text in ("shutdown", _SHUTDOWN):
                gone = True
            elif kind == "state" and value:
                states |= READY_STATES if value == LifecycleState.READY else {value}
                if value not in [*LifecycleState]:
                    known = ", ".join(LifecycleState)
                    say(f"StereOS has no state {clean(value)} of its own: its states are {known}", style="yellow")
            elif kind == "agent" and value:
                agents[value] = None
            else:
                raise UsageError(f"--for takes state=STATE, agent=NAME or shutdown, not {text!r}")
        if gone and (states or agents):
            raise UsageError("--for shutdown stands alone: a guest that is gone has no state and no agents")
        return cls(texts, frozenset(states), tuple(agents), gone)

    def ended(self, error: NotReady) -> NotReady:
        """The error, with what was waited for, and whether the deadline or the guest ended the wait."""
        why = str(error).removeprefix("the guest is not ready: ")
        if self.agents:
            why = _WANTED.sub("", why, count=1)
            listed = {agent.name for agent in error.health.agents} if error.health else set(self.agents)
            if listed.isdisjoint(self.agents):
                why = _NONE_LISTED.sub("; an agent", why, count=1)
        said = copy.copy(error)
        end = "timed out" if exit_code(error) == DEADLINE else "stopped"
        said.args = (f"{end} waiting for {', '.join(self.texts)}: {why}",)
        return said


def wait(
    guest: Guests = DEFAULT_GUESTS,
    *,
    for_: Annotated[tuple[str, ...], repeated("--for", takes="WHAT")] = ("state=ready",),
    out: Out = DEFAULT_OUT,
) -> int:
    """Wait for a state, an agent, or the end.

    For example:

        stereosctl wait --vm dev --for agent=coder --timeout 2m

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        for_: `state=STATE` (healthy counts as ready), `agent=NAME` or `shutdown`; give it again for more.
        out: How the guest's last report is written.
    """
    refuse_what_is_no_utf8({"--for": "".join(for_)})
    condition = _Condition.parse(for_)

    async def converse(contact: Contact) -> Health | None:
        try:
            if condition.gone:
                return await until_gone(contact, heard=_SHUTDOWN in for_)
            return await contact.dial_when_ready(states=condition.states or None, agents=condition.agents)
        except NotReady as exc:
            raise condition.ended(exc) from exc

    def document(target: Target, report: Health | None) -> dict[str, Any]:
        return {"address": str(target.address), "health": report and health_document(report)}

    def show(target: Target, report: Health | None) -> None:
        print_result(health_line(report, target.name) if report else f"{target.name}  gone")

    def said(report: Health | None) -> str:
        return agents_summary(report) if report else "gone"

    return perform(guest, Job(converse, document, show, said, seconds=WAIT_SECONDS, waits=True), out)


async def until_gone(contact: Contact, *, heard: bool = False) -> Health | None:
    """Poll the guest until nothing listens there, and return None.

    With `heard`, a report of the state `shutdown` ends the wait as well, and is returned.
    """
    progress = WaitProgress()
    target = contact.target
    silent = 0
    error: StereosError
    with contact.show_wait(f"{target.name} to go away", target) as show:
        while True:
            try:
                await contact.dial()
                while True:
                    report = await contact.get_health()
                    silent = 0
                    contact.tell(step="waiting for it to go")
                    progress = WaitProgress(progress.tries + 1, report)
                    show(progress)
                    if heard and report.state == LifecycleState.SHUTDOWN:
                        return report
                    if not contact.deadline.left:
                        raise _still_there(target, progress)
                    await contact.sleep(_LOOK_AGAIN)
            except ConnectError as exc:
                if not exc.retryable:
                    raise
                # This process may have no descriptor left, or the network may be down: that says nothing of the guest.
                gone, silent, error = nobody_listens(target.reached(), exc), 0, exc
            except ConnectionLost as exc:
                silent += 1
                gone, error = silent == _SILENT, exc
            except RequestTimeout as exc:
                if progress.health is None:
                    raise
                raise _still_there(target, progress) from exc
            if gone:
                contact.tell(error="")
                return None
            contact.tell(step="waiting for it to go", error=contact.sentence(error))
            await contact.sleep(_LOOK_AGAIN)
            if not contact.deadline.left:
                text = f"the time was up before it was known whether {target.name} is gone: {error}"
                raise RequestTimeout(text) from error


def _still_there(target: Target, progress: WaitProgress) -> RequestTimeout:
    return RequestTimeout(f"{target.name} is still there ({progress})")
