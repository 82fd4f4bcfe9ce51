"""Commands of this machine: ls, completion."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

import attrs
from rich.text import Text

from stereos_proto import Health, StereosError

from ._console import clean, say
from ._context import Guest, Json
from ._documents import error_document, health_document
from ._errors import UsageError
from ._machines import Machine, machines, machines_folder
from ._output import columns, duration, print_result, state_text, write_json

#: Seconds that each virtual machine has to answer, and how many are asked at once.
_PATIENCE: Final = 2.0
_AT_ONCE: Final = 32


@attrs.frozen
class _Seen:
    """A virtual machine and what its guest says."""

    machine: Machine
    health: Health | None = None
    error: StereosError | None = None

    def document(self) -> dict[str, Any]:
        address = self.machine.address
        error = error_document(self.error)
        if self.machine.problem:
            error = {"error": "UsageError", "text": self.machine.problem}
        return {
            "name": self.machine.name,
            "address": None if address is None else str(address),
            "health": None if self.health is None else health_document(self.health),
            "error": error,
        }


def ls(*, timeout: float = _PATIENCE, json: Json = False) -> None:
    """List mb's virtual machines, and what their guests say.

    All are asked at once.

    For example:

        stereosctl ls

    Args:
        timeout: Seconds that each of them has to answer.
        json: Print one JSON document.
    """
    if not timeout > 0:
        raise UsageError(f"--timeout must be more than 0 seconds, not {timeout:g}")
    found = machines()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        seen = list(pool.map(lambda machine: _ask(machine, timeout), found))
    if json:
        write_json({"machines": [each.document() for each in seen]})
    elif seen:
        table = columns("NAME", "STATE", "UPTIME", "AGENTS", "ADDRESS")
        for each in seen:
            table.add_row(*_row(each))
        print_result(table)
    else:
        say(f"mb has no virtual machines in {machines_folder()}")


def _ask(machine: Machine, timeout: float) -> _Seen:
    from ._dialling import dial  # noqa: PLC0415  (the driver is loaded where a guest is dialled)

    if machine.address is None:
        return _Seen(machine)
    deadline = Guest(timeout=timeout).deadline()
    try:
        with dial(machine.address, deadline) as client:
            return _Seen(machine, health=client.get_health(timeout=deadline.left))
    except StereosError as exc:
        return _Seen(machine, error=exc)


def _row(seen: _Seen) -> list[Text]:
    name = Text(clean(seen.machine.name), "bold")
    address = Text(clean(str(seen.machine.address or "")), "dim")
    if seen.health is None:
        # The address has a column of its own.
        error = str(seen.error).removeprefix(f"cannot connect to {seen.machine.address}: ")
        problem = Text(clean(seen.machine.problem or error), "yellow")
        return [name, Text("unreachable", "red"), Text(""), problem, address]
    agents = Text(", ").join(
        Text(clean(agent.name), "green" if agent.running else "red strike") for agent in seen.health.agents
    )
    return [name, state_text(seen.health.state), Text(duration(seen.health.uptime_seconds)), agents, address]


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell.

    For example:

        stereosctl completion fish > ~/.config/fish/completions/stereosctl.fish

    Args:
        shell: Which one.
    """
    from ._app import make_app  # noqa: PLC0415  (it is what loads this file)

    print_result(Text(make_app().generate_completion(shell=shell)))
