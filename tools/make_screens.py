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
from collections import deque
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from stereos_proto import AgentStatus
from stereos_proto_io import TCP
from stereos_proto_io.cli import _watch
from stereos_proto_io.testing import SimulatedGuest, simulated_guest

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "screens"
WIDTHS: Final = {"": 100, "-narrow": 60}
#: A picture asks nobody for a font: the reader's own is as good.
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
    with subprocess.Popen(  # noqa: S603  (this interpreter, and our own module)
        [sys.executable, "-m", "stereos_proto_io.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.DEVNULL if "demo" in arguments else slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **env},
    ):
        os.close(slave)
        chunks = []
        try:
            while data := os.read(master, 65536):
                chunks.append(data)
        except OSError:  # how the end of a terminal looks
            os.close(master)
    return b"".join(chunks).decode().replace("\r\n", "\n").replace(sys.executable, "/usr/bin/python3")


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


def watching(suffix: str, columns: int, guest: SimulatedGuest) -> None:
    """The last drawing of `watch`, after an agent fell over."""
    before, after = guest.simulator.agents[:1], guest.simulator.agents
    recent: deque[Text] = deque()
    reports = [_watch.Health("healthy", agents, 754) for agents in (before, after)]
    for look in _watch._compared(iter(reports)):
        recent.append(_watch._line(look, guest.address))
    top = _watch._top(reports[-1], guest.address, len(after))
    save(f"watch{suffix}", "stereosctl watch", columns, _watch._screen(top, recent))


def main() -> None:
    """Make all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        simulated_guest(agents=AGENTS, poll_interval=0.001) as guest,
    ):
        assert isinstance(guest.address, TCP)  # noqa: S101  (what simulated_guest gives unless told otherwise)
        for name, port in (("dev", guest.address.port), ("old", 1)):
            place = Path(home) / "vms" / name
            place.mkdir(parents=True)
            (place / "state.json").write_text(json.dumps({"backend": "qemu", "vsock_port": port}))
        env = {"MB_CONFIG_DIR": home}
        for suffix, columns in WIDTHS.items():
            for name, machine in (("health", "dev"), ("doctor", "old")):
                command(name, suffix, columns, name, "--vm", machine, shown=f"stereosctl {name} --vm {machine}", **env)
            command("ls", suffix, columns, "ls", shown="stereosctl ls", **env)
            watching(suffix, columns, guest)
            command("demo", suffix, columns, "demo", shown="stereosctl demo")


if __name__ == "__main__":
    main()
