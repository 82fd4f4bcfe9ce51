"""What went over the wire of one case, for the error of that case: the last messages of both ends, without secrets."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from stereos_proto import Reply, Request, Role, StereosError, decode

#: The value of every secret that a case sends. It never stands in an error.
SECRET: Final = "s3cr3t-value"  # noqa: S105

#: Messages that are kept, and characters of each.
_KEPT: Final = 12
_WIDTH: Final = 150


class WireLog:
    """The last messages of one case. Several threads may add to it."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lines: deque[str] = deque(maxlen=_KEPT)

    def add(self, sender: Role, what: bytes | Request | Reply) -> None:
        """Record a message, or bytes that are lines or parts of lines."""
        if isinstance(what, bytes):
            for line in what.splitlines()[:_KEPT]:
                self._add(sender, _shown(sender, line))
        else:
            self._add(sender, repr(what))

    def note(self, text: str) -> None:
        """Record something other than a message: a connection that begins or ends."""
        self._lines.append(f"{self._now()}  {text}")

    def _add(self, sender: Role, text: str) -> None:
        self._lines.append(f"{self._now()}  {'host ' if sender is Role.HOST else 'guest'} | {without_secret(text)}")

    def _now(self) -> str:
        return f"{time.monotonic() - self._started:7.3f}"

    def __str__(self) -> str:
        return "\n".join(self._lines) or "  nothing"


def without_secret(text: Any) -> str:
    """Return `text` without the secret, and not longer than a line of a terminal."""
    text = str(text).replace(SECRET, "[redacted]")
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text)} characters)"


def _shown(sender: Role, line: bytes) -> str:
    """The message of a line, which hides its secrets in its own repr; bytes where there is no message."""
    try:
        return repr(decode(line, sender=sender))
    except (StereosError, RecursionError):
        return f"{len(line)} bytes: {line[:60].decode(errors='replace')!r}"
