"""Commands of this machine: ls, completion, version."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from rich.text import Text

from stereos_proto import LifecycleState

from ._console import clean, console, our_version, say
from ._contact import Row
from ._documents import health_document
from ._errors import UsageError, error_document
from ._formats import DEFAULT_OUT, Out
from ._jobs import FIELDS, Job, ask_health, check_states, interruption_told, limits_of, merged, run_fleet
from ._machines import STATES_OF_MACHINES, Machine, machines, machines_folder, no_machines, nothing_named
from ._options import DURATION, MANY, ConfigDir, option, repeated, whole_number
from ._output import CELL_SIZE, agent_text, brief, duration, print_result, short, write_json
from ._targets import AT_ONCE, Guests, Target, checked_seconds, looks_like_address

if TYPE_CHECKING:
    from ._fleet import Outcome

#: Seconds that each virtual machine has to answer.
_PATIENCE: Final = 2.0
#: Agents whose names a row has: those first that do not run.
_NAMED: Final = 3
_NAME_SIZE: Final = 24
#: The last column of the table.
_NAMES: Final = "AGENT NAMES"


def ls(
    pattern: str | None = None,
    /,
    *,
    watch: Annotated[bool, option("--watch", "-w")] = False,
    state: Annotated[tuple[str, ...], repeated("--state", takes="STATE")] = (),
    timeout: Annotated[float | None, option(**DURATION)] = None,
    parallel: Annotated[int, option("--parallel", takes="N", group=MANY, converter=whole_number)] = AT_ONCE,
    config_dir: ConfigDir = None,
    out: Out = DEFAULT_OUT,
) -> int:
    """List mb's virtual machines, and what their guests say.

    All are asked at once. A machine that is stopped, or does not answer, is a row
    like the others; the exit code is 0.

    For example:

        stereosctl ls 'web-*' -o wide

    Args:
        pattern: Only machines whose names match, such as 'web-*'.
        watch: Go on, as `stereosctl watch --all` does.
        state: Only guests in this state, `stopped` and `unreachable` included; give it again for more.
        timeout: How long each of them has to answer. By default 2 s.
        parallel: How many are asked at the same time.
        config_dir: mb's configuration folder.
        out: How the result is written.
    """
    if pattern is not None and looks_like_address(pattern):
        raise UsageError(
            f"ls lists the machines of mb by their names; for an address: stereosctl health {short(pattern, CELL_SIZE)}"
        )
    patience = _PATIENCE if timeout is None else checked_seconds("--timeout", timeout)
    if watch:
        _refuse_for_watch(state, timeout, out)
        from ._watch import LinesOut  # noqa: PLC0415  (only where it is asked for)
        from ._watch import watch as watch_guests  # noqa: PLC0415

        vm = () if pattern is None else (pattern,)
        guests = Guests(vm=vm, all=pattern is None, state=state, parallel=parallel, config_dir=config_dir)
        return watch_guests(guests, out=LinesOut(jsonl=out.kind == "jsonl"))
    out.check(FIELDS)
    guests = Guests(parallel=parallel, timeout=patience)
    guests.check()
    folder = machines_folder(flag=config_dir)
    everyone = machines(folder)
    found = [machine for machine in everyone if pattern is None or fnmatchcase(machine.name, pattern)]
    row = Row("", "the guests are asked", sent=None)
    with interruption_told(out.write_document if out.is_json else None, row):
        seen = _ask_all(found, guests)
    states = [_state(*each) for each in seen]
    check_states(state, (*LifecycleState, *STATES_OF_MACHINES), states)
    seen = [each for each, its in zip(seen, states, strict=True) if not state or its in state]
    if seen or not out.for_people:
        _write(seen, out)
    elif found:
        which = "" if pattern is None else f" that matches {pattern!r}"
        say(f"no virtual machine{which} is {' or '.join(state)}")
    elif pattern is not None:
        say(nothing_named(pattern, folder, [machine.name for machine in everyone]))
    else:
        say(no_machines(folder))
    return 0


#: What stands in the column STATE of a machine whose guest reports none.
_STOPPED, _NO_ADDRESS, _UNREACHABLE = STATES_OF_MACHINES


def _refuse_for_watch(states: Sequence[str], timeout: float | None, out: Out) -> None:
    """Raise UsageError for what `ls` takes and `ls -w` does not."""
    if not out.for_people and out.kind != "jsonl":
        raise UsageError("ls -w goes on until Ctrl-C: it prints -o jsonl, or for people")
    if timeout is not None:
        raise UsageError(
            "--timeout is for one look, and ls -w looks until Ctrl-C; "
            "`stereosctl watch --all --timeout DURATION` ends when its time is up"
        )
    for state in states:
        if state in STATES_OF_MACHINES:
            option_ = f"--state {shlex.quote(state)}"
            raise UsageError(
                f"{option_} is for machines whose guest does not answer, and ls -w watches guests: "
                f"`stereosctl ls {option_}` lists them once, and ls -w takes one of {', '.join(LifecycleState)}"
            )


_Seen = tuple[Machine, "Outcome"]


def _ask_all(found: Sequence[Machine], guests: Guests) -> list[_Seen]:
    if not found:
        return []
    job = Job(ask_health, lambda _target, _value: {}, lambda _target, _value: None, str)
    targets = [Target(machine.name, machine.address, machine.problem) for machine in found]
    outcomes, interrupted = run_fleet(targets, limits_of(guests, guests.end(), guests.seconds(_PATIENCE)), job)
    if interrupted:
        raise KeyboardInterrupt
    return list(zip(found, outcomes, strict=True))


def _state(machine: Machine, outcome: Outcome) -> str:
    """What stands in the column STATE."""
    if machine.stopped:
        return _STOPPED
    if machine.address is None:
        return _NO_ADDRESS
    return _UNREACHABLE if outcome.error is not None else str(outcome.value.state)


def _problem(machine: Machine, outcome: Outcome) -> str:
    """Why nothing is known of the guest, "" where something is."""
    if machine.problem:
        return machine.problem
    return "" if outcome.error is None else brief(str(outcome.error), machine.name)


def _document(machine: Machine, outcome: Outcome) -> dict[str, Any]:
    error = error_document(UsageError(machine.problem)) if machine.problem else error_document(outcome.error)
    return {
        "name": machine.name,
        "address": None if machine.address is None else str(machine.address),
        "state": _state(machine, outcome),
        "health": None if outcome.error is not None else health_document(outcome.value),
        "error": error,
    }


def _write(seen: list[_Seen], out: Out) -> None:
    kind = out.kind
    if kind == "json":
        write_json({"machines": [_document(*each) for each in seen]})
    elif kind == "jsonl":
        for each in seen:
            out.write_document(_document(*each))
    elif kind in ("name", "template"):
        for machine, outcome in seen:
            out.write_line(_fields(machine, outcome))
    else:
        _write_table(seen, wide=kind == "wide")


def _fields(machine: Machine, outcome: Outcome) -> dict[str, Any]:
    health = outcome.value
    agents = () if health is None else health.agents
    error = _document(machine, outcome)["error"]
    return {
        "name": machine.name,
        "address": machine.address,
        "state": _state(machine, outcome),
        "uptime": health and duration(health.uptime_seconds),
        "agents": len(agents),
        "running": sum(agent.running for agent in agents),
        "rtt_ms": outcome.row.rtt_ms,
        "result": "",
        "error": _problem(machine, outcome),
        "kind": error and error["kind"],
        "code": outcome.code,
    }


def _write_table(seen: list[_Seen], *, wide: bool) -> None:
    from ._fleet_view import agents_count, name_text, one_line_table, row_rtt, row_state  # noqa: PLC0415

    headers = ["GUEST", "STATE", "AGENTS", *(["RTT"] if wide else []), "UPTIME", *(["ADDRESS"] if wide else [])]
    headers.append(_NAMES)
    grows = _NAMES if console().is_terminal else ""
    table = one_line_table(*headers, grows=grows, names=[machine.name for machine, _ in seen])
    for machine, outcome in seen:
        row, health = outcome.row, outcome.value
        state = row_state(row) if health else Text(_state(machine, outcome), "dim" if machine.stopped else "red")
        up = "" if health is None else duration(health.uptime_seconds)
        rtt, address = row_rtt(row), Text(clean(str(machine.address or "")), "dim")
        cells = [name_text(machine.name), state, agents_count(row), *([rtt] if wide else []), Text(up)]
        table.add_row(*cells, *([address] if wide else []), _agents(health, every=wide))
    print_result(table)
    problems = ((machine.name, _problem(machine, outcome)) for machine, outcome in seen if not machine.stopped)
    for who, problem in merged((name, problem) for name, problem in problems if problem):
        say(f"{who}: {problem}", style="yellow")


def _agents(health: Any, *, every: bool) -> Text:
    """A guest's agents in one cell, however many there are."""
    if health is None:
        return Text("")
    agents = sorted(health.agents, key=lambda agent: agent.running)
    shown = agents[: 10 * _NAMED if every else _NAMED]
    words = [agent_text(agent, _NAME_SIZE) for agent in shown]
    if len(agents) > len(shown):
        words.append(Text(f"+{len(agents) - len(shown)}", "dim"))
    return Text("  ").join(words)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell.

    For example:

        stereosctl completion fish > ~/.config/fish/completions/stereosctl.fish

    Args:
        shell: Which one.
    """
    from ._complete import script  # noqa: PLC0415

    print_result(Text(script(shell)))


def version() -> None:
    """Print the version.

    For example:

        stereosctl version
    """
    print_result(our_version())
