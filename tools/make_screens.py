"""Make the screens of the documentation anew: docs/screens/*.svg, each as a wide and as a narrow terminal shows it.

Run it after a change of how things look: `.venv/bin/python tools/make_screens.py`. Every picture is what the command
itself wrote to a terminal; that of `watch`, which draws over itself, is its last drawing.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from stereos_proto import AgentStatus, Health
from stereos_proto_io import TCP
from stereos_proto_io.cli._contact import Row
from stereos_proto_io.cli._observe import Watched
from stereos_proto_io.cli._targets import Target
from stereos_proto_io.cli._watch import single_view
from stereos_proto_io.cli._watch_fleet import FleetScreen
from stereos_proto_io.testing import SimulatedGuest, simulated_guest

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "screens"
WIDTHS: Final = {"": 100, "-narrow": 60}
#: The pictures load no web font: the viewer's own monospace font is used.
WITHOUT_FONTS: Final = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, monospace"
)
AGENTS: Final = (
    AgentStatus("coder", running=True, session="coder"),
    AgentStatus("reviewer", running=False, session="reviewer", restarts=3, error="exit status 1"),
)


def captured(*arguments: str, columns: int, **env: str) -> str:
    """What a command leaves on a terminal. The wait of `demo`, which draws over itself, is left out."""
    master, slave = pty.openpty()
    # What draws over itself on stderr goes to a file, where there are lines instead.
    with tempfile.TemporaryFile() as aside:
        over = arguments[0] in ("demo", "ls") or "--all" in arguments
        with subprocess.Popen(  # noqa: S603  (this interpreter, and our own module)
            [sys.executable, "-m", "stereos_proto_io.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=aside if over else slave,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **env},
        ):
            os.close(slave)
            chunks = []
            try:
                while data := os.read(master, 65536):
                    chunks.append(data)
            except OSError:  # how the end of a terminal looks
                os.close(master)
        aside.seek(0)
        said = [line for line in aside.read().decode().splitlines(keepends=True) if line[:1] not in "·✓✗!"]
    text = b"".join(chunks).decode().replace("\r\n", "\n") + ("" if arguments[0] == "demo" else "".join(said))
    return text.replace(sys.executable, "/usr/bin/python3")


def save(name: str, title: str, columns: int, *parts: object) -> None:
    """Write one picture."""
    screen = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, highlight=False)
    for part in parts:
        screen.print(part)
    screen.save_svg(str(FOLDER / f"{name}.svg"), title=title, code_format=WITHOUT_FONTS)


def command(name: str, suffix: str, columns: int, *arguments: str, shown: str, **env: str) -> None:
    """Run a command and save what it wrote."""
    text = captured(*arguments, columns=columns, **env)
    save(name + suffix, shown, columns, Text(f"$ {shown}", "bold"), Text.from_ansi(text.rstrip()))


def seen(guest: Target, *reports: Health) -> Watched:
    """A guest, watched while it reported this."""
    row = Row(guest.name, rtt_ms=0.6)
    watched = Watched(guest, row)
    for report in reports:
        row.health = report
        watched.see(report)
    return watched


def watching(suffix: str, columns: int, guest: SimulatedGuest) -> None:
    """The last drawing of `watch`, after an agent fell over."""
    before, after = guest.simulator.agents[:1], guest.simulator.agents
    watched = seen(Target.at(guest.address), Health("healthy", before, 754), Health("healthy", after, 755))
    save(f"watch{suffix}", "stereosctl watch", columns, single_view(watched, 40))


def watching_fleet(suffix: str, columns: int) -> None:
    """A drawing of `watch` with many guests, one of which has an agent that fell over."""
    everyone = []
    for number in range(12):
        down = number == 7
        agents = (AgentStatus("coder", True, "coder"), AGENTS[1] if down else AgentStatus("reviewer", True, "reviewer"))
        guest = Target(f"web-{number:02}", TCP("127.0.0.1", 1024 + number))
        everyone.append(seen(guest, Health("degraded" if down else "healthy", agents, 754 + number)))
    screen = FleetScreen(everyone, "name", None)
    screen._console = Console(width=columns, height=24, file=io.StringIO())
    save(f"watch-fleet{suffix}", "stereosctl watch --all", columns, screen._drawing())


def keep(home: Path, name: str, port: int) -> None:
    """Have a virtual machine of mb's."""
    place = home / "vms" / name
    place.mkdir(parents=True)
    (place / "state.json").write_text(json.dumps({"backend": "qemu", "vsock_port": port}))


def fleet(suffix: str, columns: int, folder: str) -> None:
    """Many guests: one that refuses a mount, and a wait for an agent that one of them does not have."""
    home = Path(folder)
    with ExitStack() as stack:
        for number in range(6):
            faults = ["fail:9pnet: no such device@mount"] if number == 3 else []
            guest = stack.enter_context(simulated_guest(faults=faults, poll_interval=0.05))
            assert isinstance(guest.address, TCP)  # noqa: S101  (what simulated_guest gives unless told otherwise)
            keep(home, f"web-{number}", guest.address.port)
        env = {"MB_CONFIG_DIR": folder, **dict.fromkeys(("DEMO_GITHUB_TOKEN", "DEMO_API_KEY"), "x" * 9)}
        shown = "stereosctl provision jcard.toml --all"
        card = str(Path(__file__).resolve().parent.parent / "examples" / "jcard.toml")
        command("provision-fleet", suffix, columns, "provision", card, "--all", shown=shown, **env)
        words = ("wait", "--all", "--for", "agent=coder", "--timeout", "2s")
        command("wait-fleet", suffix, columns, *words, shown=f"stereosctl {' '.join(words)}", **env)


def main() -> None:
    """Make all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        simulated_guest(agents=AGENTS, poll_interval=0.001) as guest,
    ):
        assert isinstance(guest.address, TCP)  # noqa: S101  (what simulated_guest gives unless told otherwise)
        keep(Path(home), "dev", guest.address.port)
        keep(Path(home), "old", 1)
        env = {"MB_CONFIG_DIR": home}
        for suffix, columns in WIDTHS.items():
            for name, machine in (("health", "dev"), ("doctor", "old")):
                command(name, suffix, columns, name, "--vm", machine, shown=f"stereosctl {name} --vm {machine}", **env)
            command("ls", suffix, columns, "ls", shown="stereosctl ls", **env)
            watching(suffix, columns, guest)
            watching_fleet(suffix, columns)
            with tempfile.TemporaryDirectory() as folder:
                fleet(suffix, columns, folder)
            command("demo", suffix, columns, "demo", shown="stereosctl demo")


if __name__ == "__main__":
    main()
