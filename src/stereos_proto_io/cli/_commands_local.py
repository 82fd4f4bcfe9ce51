"""Commands of this machine: ls, completion."""

from __future__ import annotations

import threading
from operator import itemgetter
from queue import SimpleQueue
from typing import Annotated, Any, Final, Literal

import attrs
from cyclopts import Parameter
from rich.text import Text

from stereos_proto import Health, StereosError

from ._console import clean, say
from ._context import Json, checked_seconds
from ._deadline import Deadline
from ._documents import error_document, health_document
from ._machines import Machine, machines, machines_folder
from ._output import agent_text, brief, columns, duration, print_result, state_text, write_json

#: Seconds that each virtual machine has to answer, and how many are asked at once.
_PATIENCE: Final = 2.0
_AT_ONCE: Final = 32


@attrs.frozen
class _Seen:
    """A virtual machine and what its guest says."""

    machine: Machine
    health: Health | None = None
    error: StereosError | None = None

    @property
    def problem(self) -> str:
        """Why nothing is known of the guest, "" where something is."""
        return self.machine.problem or ("" if self.error is None else brief(self.error, self.machine.address))

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


def ls(*, timeout: Annotated[float, Parameter(metavar="SECONDS")] = _PATIENCE, json: Json = False) -> None:
    """List mb's virtual machines, and what their guests say.

    All are asked at once.

    For example:

        stereosctl ls

    Args:
        timeout: Seconds that each of them has to answer.
        json: Print one JSON document.
    """
    patience = checked_seconds("--timeout", timeout)
    seen = _ask_all(machines(), patience)
    if json:
        write_json({"machines": [each.document() for each in seen]})
        return
    if not seen:
        say(f"mb has no virtual machines in {machines_folder()}")
        return
    table = columns("NAME", "STATE", "UPTIME", "AGENTS", "ADDRESS")
    for each in seen:
        table.add_row(*_row(each))
    print_result(table)
    for each in seen:
        if each.problem:
            say(f"{each.machine.name}: {each.problem}", style="yellow")


def _ask_all(found: list[Machine], patience: float) -> list[_Seen]:
    """Ask each in a thread of its own. Ctrl-C waits for none of them."""
    answers: SimpleQueue[tuple[int, _Seen]] = SimpleQueue()
    room = threading.Semaphore(_AT_ONCE)

    def ask(number: int, machine: Machine) -> None:
        with room:
            answers.put((number, _ask(machine, patience)))

    for each in enumerate(found):
        threading.Thread(target=ask, args=each, daemon=True).start()
    return [seen for _, seen in sorted((answers.get() for _ in found), key=itemgetter(0))]


def _ask(machine: Machine, patience: float) -> _Seen:
    from ._dialling import dial  # noqa: PLC0415  (the driver is loaded where a guest is dialled)

    if machine.address is None:
        return _Seen(machine)
    deadline = Deadline.after(patience)
    try:
        with dial(machine.address, deadline) as client:
            return _Seen(machine, health=client.get_health(timeout=deadline.left))
    except StereosError as exc:
        return _Seen(machine, error=exc)


def _row(seen: _Seen) -> list[Text]:
    name = Text(clean(seen.machine.name), "bold")
    address = Text(clean(str(seen.machine.address or "")), "dim")
    if seen.health is None:
        state = "unreachable" if seen.machine.address else "no address"
        return [name, Text(state, "red"), Text(""), Text(""), address]
    agents = Text("  ").join(map(agent_text, seen.health.agents))
    return [name, state_text(seen.health.state), Text(duration(seen.health.uptime_seconds)), agents, address]


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell.

    For example:

        stereosctl completion fish > ~/.config/fish/completions/stereosctl.fish

    Args:
        shell: Which one.
    """
    from ._app import make_app  # noqa: PLC0415  (it is what loads this file)

    script = make_app().generate_completion(shell=shell)
    print_result(Text(script + _ZSH_END if shell == "zsh" else script))


#: What cyclopts leaves out. In a folder of `$fpath` the script is the body of the function that is asked; sourced, it
#: has to say whose it is.
_ZSH_END: Final = """\
if [ "$funcstack[1]" = "_stereosctl" ]; then
  _cyclopts_stereosctl "$@"
else
  compdef _cyclopts_stereosctl stereosctl
fi
"""
