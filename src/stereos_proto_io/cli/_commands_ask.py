"""Commands that ask a guest: ping, health, agents, wait, watch; and shutdown."""

from __future__ import annotations

import time
from typing import Annotated, Final

from cyclopts import Parameter

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    Health,
    LifecycleState,
    NotReady,
    RequestTimeout,
)
from stereos_proto.dialogues import READY_STATES, WaitProgress

from ._console import say
from ._context import DEFAULT_GUEST, Guest, Json, connect, connect_when_ready, load_driver, whole_number
from ._deadline import ASK_SECONDS, FOREVER, WAIT_SECONDS, Deadline
from ._documents import agent_document, health_document
from ._errors import SaidNo, UsageError
from ._output import agents_table, health_line, print_result, write_json
from ._progress import Report, waiting

#: Seconds between two looks at a guest that is to go away.
_LOOK_AGAIN: Final = 0.25
_READY: Final = f"state={LifecycleState.READY}"


def ping(
    guest: Guest = DEFAULT_GUEST,
    *,
    count: Annotated[int, Parameter(name=["--count", "-c"], metavar="N", converter=whole_number)] = 1,
    interval: Annotated[float, Parameter(name=["--interval", "-i"], metavar="SECONDS")] = 1.0,
    json: Json = False,
) -> None:
    """See whether the guest answers, and how fast.

    Each ping has 10 seconds; with --timeout, all together have that long.

    For example:

        stereosctl ping tcp://127.0.0.1:1024 -c 5 -i 0.2

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        count: How many times; 0 is until Ctrl-C.
        interval: Seconds between two pings.
        json: Print one JSON document.
    """
    if count < 0:
        raise UsageError("--count cannot be negative; 0 is until Ctrl-C")
    if not interval >= 0:
        raise UsageError("--interval cannot be negative")
    deadline = guest.deadline(FOREVER)
    times: list[float] = []
    address = guest.resolve()
    with connect(guest, guest.deadline()) as client:
        try:
            while not count or len(times) < count:
                if times:
                    time.sleep(deadline.within(interval))
                start = time.perf_counter()
                client.ping(timeout=deadline.within(ASK_SECONDS))
                times.append(round((time.perf_counter() - start) * 1000, 3))
                if not json:
                    print_result(f"pong from {address}  #{len(times)}  {times[-1]:.3f} ms")
        finally:
            _show_times(str(address), times, json=json)


def _show_times(address: str, times: list[float], *, json: bool) -> None:
    if not times:
        return
    least, mean, most = min(times), round(sum(times) / len(times), 3), max(times)
    if json:
        summary = {"min_ms": least, "avg_ms": mean, "max_ms": most}
        write_json({"address": address, "replies": len(times), "times_ms": times, **summary})
    elif len(times) > 1:
        print_result(f"{len(times)} replies  min/avg/max {least:.3f}/{mean:.3f}/{most:.3f} ms")


def health(guest: Guest = DEFAULT_GUEST, *, json: Json = False) -> None:
    """Show what the guest says of itself.

    For example:

        stereosctl health unix:///run/vm/stereos.sock --json

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        json: Print one JSON document.
    """
    address = guest.resolve()
    deadline = guest.deadline()
    with connect(guest, deadline) as client:
        report = client.get_health(timeout=deadline.left)
    if json:
        write_json({"address": str(address), **health_document(report)})
        return
    print_result(health_line(report, address))
    if report.agents:
        print_result("", agents_table(report.agents))


def agents(guest: Guest = DEFAULT_GUEST, *, json: Json = False) -> None:
    """List the guest's agents.

    Exit code 1 when one of them does not run.

    For example:

        stereosctl agents --vm dev

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        json: Print one JSON document.
    """
    deadline = guest.deadline()
    with connect(guest, deadline) as client:
        report = client.get_health(timeout=deadline.left)
    if json:
        write_json({"agents": [agent_document(agent) for agent in report.agents]})
    elif report.agents:
        print_result(agents_table(report.agents))
    else:
        say("the guest has no agents")
    if not all(agent.running for agent in report.agents):
        raise SaidNo


def wait(
    guest: Guest = DEFAULT_GUEST,
    *,
    for_: Annotated[tuple[str, ...], Parameter(name="--for", metavar="WHAT", consume_multiple=False)] = (
        "state=ready",
    ),
    json: Json = False,
) -> None:
    """Wait for a state, an agent, or the end.

    For example:

        stereosctl wait --vm dev --for agent=coder --timeout 120

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        for_: `state=STATE` (who is healthy is ready), `agent=NAME`, `shutdown` (nobody answers); again for more.
        json: Print the guest's last health as one JSON document.
    """
    states, names, gone = _conditions(for_)
    deadline = guest.deadline(WAIT_SECONDS)
    try:
        if gone:
            report = _wait_until_gone(guest, deadline, heard=f"state={LifecycleState.SHUTDOWN}" in for_)
        else:
            report = _wait_for(guest, deadline, states, names)
    except NotReady as exc:
        why = str(exc).removeprefix("the guest is not ready: ")
        text = f"waited in vain for {', '.join(for_)}: {why}"
        raise NotReady(text, last_state=exc.last_state, last_error=exc.last_error, tries=exc.tries) from exc
    if json:
        write_json({"address": str(guest.resolve()), "health": report and health_document(report)})
    elif report:
        print_result(health_line(report, guest.resolve()))
    else:
        print_result(f"{guest.resolve()}  gone")


def _conditions(texts: tuple[str, ...]) -> tuple[set[str], set[str], bool]:
    states: set[str] = set()
    names: set[str] = set()
    gone = False
    for text in texts:
        kind, _, value = text.partition("=")
        if text in ("shutdown", f"state={LifecycleState.SHUTDOWN}"):
            gone = True
        elif kind == "state" and value:
            states |= READY_STATES if value == LifecycleState.READY else {value}
        elif kind == "agent" and value:
            names.add(value)
        else:
            raise UsageError(f"--for takes state=STATE, agent=NAME or shutdown, not {text!r}")
    if gone and (states or names):
        raise UsageError("--for shutdown stands alone: a guest that is gone has no state and no agents")
    return states, names, gone


def _wait_for(guest: Guest, deadline: Deadline, states: set[str], names: set[str]) -> Health:
    with connect_when_ready(guest, deadline, states=states, agents=() if states else names) as client:
        if states and names:
            with waiting(f"the agents {', '.join(sorted(names))}", traced=guest.verbose) as report:
                return client.wait_ready(agents=names, on_progress=report, timeout=deadline.tenths)
        return client.get_health(timeout=deadline.left)


def _wait_until_gone(guest: Guest, deadline: Deadline, *, heard: bool = False) -> Health | None:
    """Look until nobody answers any more; with `heard`, or until the guest says that it shuts down: that report."""
    load_driver()
    progress = WaitProgress()
    with waiting(f"{guest.resolve()} to go away", traced=guest.verbose) as report:
        while True:
            try:
                with connect(guest, deadline) as client:
                    while True:
                        health = client.get_health(timeout=deadline.left)
                        progress = _seen(progress, report, health)
                        if heard and health.state == LifecycleState.SHUTDOWN:
                            return health
                        if not deadline.left:
                            raise _still_there(guest, progress)
                        time.sleep(deadline.within(_LOOK_AGAIN))
            except (ConnectError, ConnectionLost) as exc:
                if isinstance(exc, ConnectError) and not exc.retryable:
                    raise
                if not deadline.left:
                    raise RequestTimeout("nothing is known about the guest: the time was up") from None
                return None
            except RequestTimeout:
                if progress.health is None:
                    raise
                raise _still_there(guest, progress) from None


def _still_there(guest: Guest, progress: WaitProgress) -> RequestTimeout:
    return RequestTimeout(f"{guest.resolve()} is still there ({progress})")


def _seen(progress: WaitProgress, report: Report, health: Health) -> WaitProgress:
    progress = WaitProgress(progress.tries + 1, health)
    report(progress)
    return progress


def shutdown(
    guest: Guest = DEFAULT_GUEST,
    *,
    reason: str = "stereosctl shutdown",
    wait: bool = False,
    json: Json = False,
) -> None:
    """Power the guest off.

    The guest acknowledges and goes at once, so its answer can be lost on the way;
    that counts as done.

    For example:

        stereosctl shutdown --vm dev --wait

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        reason: What the guest writes in its log.
        wait: Wait until nobody answers any more.
        json: Print one JSON document.
    """
    deadline = guest.deadline(WAIT_SECONDS if wait else 10.0)
    with connect(guest, deadline) as client:
        ack = client.shutdown(reason, timeout=deadline.left)
    if wait:
        _wait_until_gone(guest, deadline)
    if json:
        write_json({"address": str(guest.resolve()), "acknowledged": ack is not None, "gone": wait})
    else:
        said = "the guest powers off" if ack else "the guest went before it answered: most likely it powers off"
        print_result("the guest is gone" if wait else said)
