"""`-v`: what goes over the wire, on stderr, without secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from rich.text import Text

from stereos_proto import Role

from ._console import clean, error_console
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


class TracedStream:
    """A stream of the client's that shows what passes. Everything else is the stream's own."""

    def __init__(self, stream: Any, label: str) -> None:
        self._stream = stream
        self._taps = {role: LineTap() for role in Role}
        self._redactor = Redactor()
        self._console = error_console()
        self._console.print(Text(f"connected to {clean(label)}", "dim"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def recv(self, size: int) -> bytes:
        """Read, and show what came."""
        data: bytes = self._stream.recv(size)
        self._show(Role.GUEST, data)
        if not data:
            self._console.print(Text("the guest closed the connection", "dim"))
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Write, and show what left."""
        size: int = self._stream.send(data)
        self._show(Role.HOST, data[:size])
        return size

    def _show(self, sender: Role, data: bytes | memoryview) -> None:
        when = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        for line in self._taps[sender].feed(data):
            self._console.print(wire_line(sender, self._redactor.line(sender, line), when), soft_wrap=True)
