"""`stereosctl demo`: a guest from its boot to its end, in some seconds, with a simulator as the guest."""

from __future__ import annotations

import base64
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from stereos_proto import InjectSSHKey, ProvisionPlan, ProvisionStep, load_jcard
from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking import Client, connect_when_ready

from ._commands_give import read_text
from ._console import console
from ._errors import UsageError
from ._output import agents_table, health_line, step_line
from ._progress import waiting
from ._provision import judge
from ._targets import Target, address_of

#: The guest's: it refuses connections, then boots, and looks at its config every second. All in seconds.
_REFUSES: Final = 1.0
_BOOTS: Final = 2.0
_POLLS: Final = 1.0

#: Seconds for all that the demo waits for.
_PATIENCE: Final = 30.0
#: Seconds for the simulator to end by itself.
_LEAVE: Final = 5.0

_PACKAGED: Final = Path(__file__).with_name("jcard.toml")
_IN_THE_REPOSITORY: Final = Path(__file__).parents[3] / "examples" / "jcard.toml"


def play(file: Path | None) -> None:
    """Play the demo with a jcard.toml, on stdout."""
    screen = console()
    source = file or (_PACKAGED if _PACKAGED.exists() else _IN_THE_REPOSITORY)
    plan = _plan(source)
    _title(screen, "1", "A guest boots", "a simulated one, in a process of its own")
    with _simulator() as address:
        start = time.monotonic()
        with waiting(str(address), Target.at(address)) as report:
            client = connect_when_ready(address, timeout=_PATIENCE, on_progress=report)
        with client:
            _tell(screen, f"it refused connections, booted, and is ready after {time.monotonic() - start:.1f} s")
            _provision(screen, client, plan, str(file or "an example jcard.toml"))
            _look(screen, client, address, plan)
            _title(screen, "4", "It is shut down")
            client.shutdown("end of the demo")
    _tell(screen, "it acknowledged and has powered off; nothing of it is left")
    simulate, watch = (f"stereosctl {words}" for words in ("simulate", "watch ADDRESS"))
    screen.print(Text.assemble("\nNext: ", (simulate, "bold"), ", and in another terminal ", (watch, "bold"), "."))


def _tell(screen: Console, text: str) -> None:
    screen.print(_indented(Text.assemble(("✓", "green"), f" {text}")))


def _indented(part: Any, above: int = 0) -> Padding:
    return Padding(part, (above, 0, 0, 2), expand=False)


def _title(screen: Console, number: str, title: str, rest: str = "") -> None:
    screen.print(Text.assemble("\n", (f"{number}  {title}", "bold"), (f"  {rest}", "dim")))


def _plan(source: Path) -> ProvisionPlan:
    """The plan of a jcard.toml, with secrets and a key that are made up on the spot."""
    # Names only: whatever ${NAME} the file asks for, it gets a value that has never been anywhere else.
    env = _MadeUp()
    key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + secrets.token_bytes(32)
    line = f"ssh-ed25519 {base64.b64encode(key).decode()} demo"
    return load_jcard(read_text(source), env=env, ssh_keys=[InjectSSHKey("agent", line)], source=str(source))


class _MadeUp(dict[str, str]):
    """An environment in which every variable has a random value."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return self.setdefault(name, secrets.token_hex(20))


def _provision(screen: Console, client: Client, plan: ProvisionPlan, name: str) -> None:
    _title(screen, "2", f"It is provisioned from {name}", "in one flight, secrets apart")

    def show(step: ProvisionStep) -> None:
        screen.print(_indented(step_line(step)))

    judge(client.provision(plan, on_step=show, timeout=_PATIENCE))


def _look(screen: Console, client: Client, address: Address, plan: ProvisionPlan) -> None:
    _title(screen, "3", "Its agents start", "the guest looks at its config from time to time")
    with waiting(f"the agents {', '.join(plan.agents)}", Target.at(address)) as report:
        health = client.wait_ready(agents=plan.agents, on_progress=report, timeout=_PATIENCE)
    screen.print(_indented(health_line(health, address)))
    screen.print(*(_indented(part, above=1) for part in agents_table(health.agents)))


@contextmanager
def _simulator() -> Iterator[Address]:
    """A simulator in a process of its own, for the length of a `with`. It never outlives it."""
    command = [sys.executable, "-m", "stereos_proto_io.cli", "simulate", "--quiet", "--attached"]
    command += ["--fault", f"refuse:{_REFUSES}s", "--boot-time", f"{_BOOTS}", "--poll-interval", f"{_POLLS}"]
    # In a group of its own, Ctrl-C is ours alone; the end of its standard input is the end of it.
    with subprocess.Popen(  # noqa: S603  (this interpreter, and our own module)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise UsageError("the simulator did not start; what it said stands above")
            yield address_of(line.strip())
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE)
        finally:
            process.kill()
