"""`-v`: what goes over the wire, on stderr, without secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.text import Text

from stereos_proto import Role

from ._console import clean, error_console, is_output_lost, show_beside
from ._redact import LineTap, Redactor

ARROWS: Final[dict[Role, tuple[str, str]]] = {Role.HOST: ("→", "cyan"), Role.GUEST: ("←", "magenta")}

#: Characters of a line that are shown.
_SHOWN: Final = 2000


def wire_line(sender: Role, line: bytes, when: str) -> Text:
    """A line of the wire with its direction and time. Secrets are the caller's to take out."""
    arrow, style = ARROWS[sender]
    text = clean(line.rstrip(b"\r\n").decode("utf-8", "backslashreplace"))
    rest = f" … {len(line)} bytes" if len(text) > _SHOWN else ""
    return Text.assemble((f"{when} " if when else "", "dim"), (arrow, style), " ", text[:_SHOWN], (rest, "dim"))


class Tracer:
    """The `trace` of a client: shows each line that goes over the wire. One for each connection."""

    def __init__(self, name: str, redactor: Redactor, *, many: bool) -> None:
        self._name = name
        self._many = many
        self._taps = {role: LineTap() for role in Role}
        # Not of this connection alone: a guest may quote what it was given on another one.
        self._redactor = redactor
        self._console = error_console()

    def __call__(self, sender: Role, data: bytes | memoryview) -> None:
        """Show what was sent. It raises nothing."""
        if is_output_lost():
            return
        when = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        head = Text(f"{clean(self._name)}  " if self._many else "", "bold")
        for line in self._taps[sender].feed(data):
            shown = wire_line(sender, self._redactor.line(sender, line), when)
            show_beside(self._console, Text.assemble(head, shown))
