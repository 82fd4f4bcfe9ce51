"""Commands close to the wire: decode, record."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO

from rich.text import Text

from stereos_proto import MalformedLine, ProtocolError, Role, message_class
from stereos_proto import decode as decode_line

from ._commands_give import read_bytes
from ._console import clean, console, say, say_error
from ._counts import counted
from ._errors import BROKEN, UsageError, error_document
from ._listen import listening_address
from ._options import JsonLines, option
from ._output import print_result, write_json
from ._reading import MOST_READ
from ._redact import REDACTED, Redactor
from ._signals import ended_by_signals
from ._targets import DEFAULT_PLACE, Place, listening_at
from ._trace import ARROWS, wire_line
from ._transcript import DIRECTIONS, Entry, Recorder, is_transcript, read_transcript


def decode(file: Path, /, *, keep_secrets: bool = False, jsonl: JsonLines = False) -> int:
    """Show a transcript, or lines of the wire.

    With directions, times, and what is wrong. The exit code is 4 when a line
    breaks the protocol.

    For example:

        stereosctl decode session.ndjson

    Args:
        file: A transcript of `stereosctl record`, or lines as they go over the wire; - reads standard input.
        keep_secrets: Show secrets, too.
        jsonl: Print one JSON document per line of the wire.
    """
    data = read_bytes(file, most=MOST_READ)
    entries = read_transcript(data, str(file), cut=True)[1] if is_transcript(data) else list(_bare(data))
    # One for all connections: a guest may quote what it was sent on another one.
    redactor = Redactor()
    target = console()
    wrong = 0
    for entry in entries:
        line = entry.data if keep_secrets else redactor.line(entry.sender, entry.data)
        fault = _fault(entry)
        wrong += fault is not None
        if jsonl:
            write_json(_entry_document(entry, line, fault), indent=False)
        else:
            target.print(_entry_line(entry, line, fault), soft_wrap=True)
    if wrong:
        # The lines themselves say which: no document of an error follows them.
        say_error(f"{counted(wrong, 'line breaks', 'lines break')} the protocol")
        return BROKEN
    return 0


def _bare(data: bytes) -> Iterator[Entry]:
    """Lines of the wire without directions and times: a type tells who sends it."""
    import json  # noqa: PLC0415

    # A line of the wire ends with \n and with nothing else; a \r in the middle is a fault of that line.
    for line in io.BytesIO(data):
        try:
            envelope = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            envelope = None
        type_ = envelope.get("type") if isinstance(envelope, dict) else None
        guests = isinstance(type_, str) and message_class(Role.GUEST, type_) is not None
        yield Entry(0, None, Role.GUEST if guests else Role.HOST, line)


def _fault(entry: Entry) -> ProtocolError | None:
    body = entry.data.rstrip(b"\r\n")
    if not body:
        return None
    if body.startswith(REDACTED.encode()):
        # This is our own redaction marker, not a protocol error of either end.
        return MalformedLine("was no request, and was left out of the recording")
    try:
        decode_line(body, sender=entry.sender)
    except ProtocolError as exc:
        return exc
    return None


def _entry_line(entry: Entry, line: bytes, wrong: ProtocolError | None) -> Text:
    when = "" if entry.ms is None else f"{entry.conn}  {entry.ms / 1000:9.3f} s "
    if entry.event:
        arrow, style = ARROWS[entry.sender]
        return Text.assemble((when, "dim"), (arrow, style), " ", (clean(entry.event), "dim"))
    text = wire_line(entry.sender, line, when)
    if wrong is not None:
        text.append(f"  {clean(str(wrong))}", "bold red")
    return text


def _entry_document(entry: Entry, line: bytes, wrong: ProtocolError | None) -> dict[str, Any]:
    return {
        "conn": entry.conn,
        "ms": entry.ms,
        "dir": DIRECTIONS[entry.sender],
        "event": entry.event or None,
        "line": None if entry.event else line.rstrip(b"\r\n").decode("utf-8", "replace"),
        "error": error_document(wrong),
    }


def record(
    output: Path,
    /,
    guest: Place = DEFAULT_PLACE,
    *,
    listen: Annotated[str, option(takes="ADDRESS", show_default=False)] = "tcp://127.0.0.1:0",
    keep_secrets: bool = False,
) -> None:
    """Record the traffic between hosts and a guest.

    It prints the address that hosts are to use, and ends with Ctrl-C, with exit
    code 0. Secrets are left out of the transcript.

    For example:

        stereosctl record session.ndjson --vm dev --listen unix:///tmp/recorded.sock

    Args:
        guest: Which guest.
        output: The transcript to write. It must not exist yet.
        listen: Where hosts connect. By default a free TCP port of this machine.
        keep_secrets: Write secrets down, too.
    """
    from ._proxy import Proxy  # noqa: PLC0415  (sockets and threads are loaded where they are used)

    address = guest.target().reached()
    place = listening_address(listen)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals(interrupt=True))
        with listening_at(place):
            proxy = stack.enter_context(Proxy(place, address, report=say))
        try:
            file = stack.enter_context(_new_file(output))
        except FileExistsError:
            raise UsageError(f"{output} exists, and no transcript is written over: name another file") from None
        except OSError as exc:
            raise UsageError(f"cannot write {output}: {exc.strerror}") from None
        print_result(str(proxy.address))
        proxy.run(Recorder(file, _meta(address), keep_secrets=keep_secrets))


def _new_file(path: Path) -> TextIO:
    # For its owner alone: redaction is by type, and a guest may say things of its own.
    return open(path, "x", encoding="utf-8", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _meta(address: object) -> dict[str, Any]:
    return {"name": "recording", "description": f"recorded at {address}", "recorded_with": "stereosctl record"}
