"""Conversations as files: one JSON object a line, as the project's own test vectors have them.

First a line of meta, then `{"seq", "conn", "ms", "dir", "b64" | "event"}`: `dir` is `c2s` (from the host) or `s2c`,
`b64` a line with its ending, `event` what happened to the connection (`connect`, `close`).
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, TextIO

import attrs

from stereos_proto import Role

from ._console import say, write_at_once
from ._errors import UsageError
from ._numbers import finite
from ._redact import LineTap, Redactor

DIRECTIONS: Final[dict[Role, str]] = {Role.HOST: "c2s", Role.GUEST: "s2c"}
_ROLES: Final = {name: role for role, name in DIRECTIONS.items()}


@attrs.frozen
class Entry:
    """A line of the wire, or an event of a connection. `ms` is since the beginning, None where that is not known."""

    conn: int
    ms: float | None
    sender: Role
    data: bytes = attrs.field(default=b"", repr=False)
    event: str = ""

    def document(self, seq: int) -> dict[str, Any]:
        """The entry as it is written."""
        what = {"event": self.event} if self.event else {"b64": base64.b64encode(self.data).decode()}
        return {"seq": seq, "conn": self.conn, "ms": self.ms, "dir": DIRECTIONS[self.sender], **what}


class Recorder:
    """Writes a transcript. Threads may share it. All of it raises UsageError once the file cannot be written."""

    def __init__(self, file: TextIO, meta: dict[str, Any], *, keep_secrets: bool) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._seq = 0
        self._keep = keep_secrets
        self._failure: UsageError | None = None
        self._conversations: dict[int, tuple[Redactor, dict[Role, LineTap]]] = {}
        self._write({"meta": True, **meta, "redacted": not keep_secrets})

    def event(self, conn: int, sender: Role, event: str) -> None:
        """Write that something happened to a connection: `connect`, `close`."""
        with self._lock:
            self._add(conn, sender, event=event)

    def data(self, conn: int, sender: Role, data: bytes) -> None:
        """Take what one end sent; b"" is its end."""
        with self._lock:
            redactor, taps = self._conversations.setdefault(conn, (Redactor(), {role: LineTap() for role in Role}))
            lines = list(taps[sender].feed(data)) if data else [rest for rest in [taps[sender].rest()] if rest]
            for line in lines:
                self._add(conn, sender, data=line if self._keep else redactor.line(sender, line))
            if not data:
                self._add(conn, sender, event="close")

    def forget(self, conn: int) -> None:
        """Drop what is remembered of a connection that has ended, its secrets included."""
        with self._lock:
            self._conversations.pop(conn, None)

    def _add(self, conn: int, sender: Role, **what: Any) -> None:
        ms = round((time.monotonic() - self._start) * 1000, 3)
        self._write(Entry(conn, ms, sender, **what).document(self._seq))
        self._seq += 1

    def _write(self, document: dict[str, Any]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            write_at_once(self._file, json.dumps(document, separators=(",", ":")) + "\n")
        except OSError as exc:
            self._failure = UsageError(f"cannot write {self._file.name}: {exc.strerror}; the recording ends here")
            raise self._failure from None
        except ValueError:
            # Closed: the recording has ended, and a connection is still heard.
            raise UsageError("the recording has ended") from None


def is_transcript(data: bytes) -> bool:
    """Whether a file is a transcript, and not the wire itself."""
    first = _json(data.partition(b"\n")[0])
    return isinstance(first, dict) and first.get("meta") is True


def read_transcript(data: bytes, source: str, *, cut: bool = False) -> tuple[dict[str, Any], list[Entry]]:
    """The meta line and the entries of a transcript. Raises UsageError with the line that is wrong.

    With `cut`, a last line without its ending is no fault, and left out: the recording may be under way, or was killed.
    """
    lines = data.split(b"\n")
    if not is_transcript(data):
        raise UsageError(f"{source} is not a transcript: its first line is not one of meta; see `stereosctl record`")
    last = lines.pop()
    if last.strip() and not (cut and _json(last) is None):
        lines.append(last)
    elif last.strip():
        say(f"{source}: its last line is cut, and was left out", style="yellow")
    return _json(lines[0]), list(_entries(lines[1:], source))


def _json(line: bytes) -> Any:
    """The value on a line, None where there is none. A byte that is not UTF-8 can only stand in a text."""
    try:
        return json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _entries(lines: Iterable[bytes], source: str) -> Iterator[Entry]:
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        row = _json(line)
        try:
            data = base64.b64decode(row.get("b64", ""), validate=True)
            conn, ms = int(finite(row["conn"])), finite(row["ms"])
            yield Entry(conn, ms, _ROLES[row["dir"]], data, str(row.get("event", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise UsageError(f"{source}, line {number}: no entry of a transcript ({type(exc).__name__})") from None
