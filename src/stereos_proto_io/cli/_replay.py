"""`stereosctl replay`: send the requests of a recording to a guest, and compare the replies."""

from __future__ import annotations

import json as json_library
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
from rich.text import Text

from stereos_proto import Ack, Health, Message, ProtocolError, Reply, Request, RequestFailed, Role
from stereos_proto import decode as decode_line

from ._commands_give import read_bytes
from ._console import clean, say, say_error
from ._contact import Contact, Row
from ._counts import listed
from ._deadline import WAIT_SECONDS
from ._documents import message_document
from ._errors import REFUSED, UNKNOWN, GuestError, Interrupted, UsageError, code_of, error_document
from ._jobs import converse_with
from ._options import Json, option, whole_number
from ._output import print_result, write_json
from ._reading import MOST_READ
from ._redact import REDACTED, Redactor, redactor_of
from ._signals import hold, keeping_results
from ._targets import DEFAULT_GUEST, Guest
from ._transcript import Entry, read_transcript


def replay(
    file: Path,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    conn: Annotated[int, option(takes="N", converter=whole_number)] = 0,
    json: Json = False,
) -> int:
    """Replay recorded requests to a guest, and compare the replies.

    What was redacted is not sent: the guest would store the redaction. Exit code 1
    when a reply differs; uptimes may. Exit code 5 when the guest goes away after a
    change was sent: to replay again would repeat it.

    For example:

        stereosctl replay session.ndjson --vm test

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        file: A transcript of `stereosctl record`; - reads standard input.
        conn: Which connection to replay.
        json: Print one JSON document.
    """
    target = guest.checked()
    everything = read_transcript(read_bytes(file, most=MOST_READ), str(file))[1]
    entries = [entry for entry in everything if entry.conn == conn and entry.data]
    pairs = list(_pairs(entries))
    if not pairs:
        raise UsageError(f"{file} has no requests on connection {conn}")
    deadline = guest.deadline(WAIT_SECONDS)
    _say_what_is_left_out(everything, conn)
    rows: list[dict[str, Any]] = []
    # A guest may quote what it was sent, and the recorded one may have quoted what it was sent on any connection.
    said = [message for entry in everything if entry.sender is Role.HOST for message in [_message(entry)] if message]
    redactor = redactor_of(each for each in said if isinstance(each, Request))

    async def converse(contact: Contact) -> None:
        contact.redactor = redactor
        await contact.dial()
        for entry, request, recorded in pairs:
            if request is None:
                rows.append({"request": _type(entry), "outcome": "skipped", "recorded": None, "answered": None})
            else:
                rows.append(_compared(request, recorded, await _answer(contact, request), redactor))
            if not json:
                _show_row(rows[-1], "" if request else _why_skipped(entry))

    row = Row(target.name)
    error: GuestError | Interrupted | None = None
    interruption: KeyboardInterrupt | None = None
    with keeping_results():
        try:
            converse_with(target, guest, converse, deadline, row)
        except GuestError as exc:
            error = exc
        except KeyboardInterrupt as exc:
            error, interruption = Interrupted(row.step, sent=row.sent), exc
        hold()
        same = all(each["outcome"] != "different" for each in rows)
        if json:
            write_json({"ok": same and error is None, "requests": rows, "error": error_document(error)})
        elif rows:
            _say_counts(rows)
        if interruption is not None:
            raise interruption
    if error is not None:
        say_error(str(error))
        # Answered or not: to say all of it again would carry out the changes that were sent once more.
        return UNKNOWN if row.sent else code_of(error)
    return 0 if same else REFUSED


def _say_counts(rows: list[dict[str, Any]]) -> None:
    counts = Counter(row["outcome"] for row in rows)
    say(", ".join(f"{counts[outcome]} {outcome}" for outcome in _ROW_MARKS))


def _say_what_is_left_out(everything: list[Entry], conn: int) -> None:
    others = sorted({entry.conn for entry in everything if entry.sender is Role.HOST and entry.data} - {conn})
    if not others:
        return
    named = listed(others, _NAMED)
    say(f"connection {conn} alone is replayed; left out: {named} (--conn N replays another one)", style="yellow")


async def _answer(contact: Contact, request: Request) -> Message:
    try:
        return await contact.ask(request)
    except RequestFailed as exc:
        return Ack(request.type, ok=False, error=exc.error)


#: What stands for the type of a line that is no request.
_UNREADABLE: Final = "?"
#: Connections that are named as left out.
_NAMED: Final = 10
_ROW_MARKS: Final = {"same": ("✓", "green"), "different": ("✗", "bold red"), "skipped": ("–", "dim")}


def _pairs(entries: list[Entry]) -> Iterator[tuple[Entry, Request | None, Message | None]]:
    """Each entry, its request and the reply that it got. None for what cannot be sent again, or was not answered."""
    replies = [message for entry in entries if entry.sender is Role.GUEST for message in [_message(entry)] if message]
    answers = iter([message for message in replies if isinstance(message, Reply)])
    for entry in entries:
        if entry.sender is not Role.HOST or not entry.data.rstrip(b"\r\n"):
            continue
        message = None if REDACTED.encode() in entry.data else _message(entry)
        request = message if isinstance(message, Request) else None
        yield entry, request, next(answers, None)


def _type(entry: Entry) -> str:
    """The type of the request on a line, _UNREADABLE where it has none."""
    try:
        envelope = json_library.loads(entry.data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return _UNREADABLE
    type_ = envelope.get("type") if isinstance(envelope, dict) else None
    return type_ if isinstance(type_, str) and type_ else _UNREADABLE


def _why_skipped(entry: Entry) -> str:
    mark = REDACTED.encode()
    if entry.data.startswith(mark):
        return "its content was left out of the recording"
    return "its secret was redacted" if mark in entry.data else "it is not a request that can be read"


def _message(entry: Entry) -> Message | None:
    try:
        return decode_line(entry.data.rstrip(b"\r\n"), sender=entry.sender)
    except ProtocolError:
        return None


def _compared(request: Request, recorded: Message | None, answered: Message, redactor: Redactor) -> dict[str, Any]:
    def timeless(message: Message | None) -> Message | None:
        return attrs.evolve(message, uptime_seconds=0) if isinstance(message, Health) else message

    return {
        "request": request.type,
        "outcome": "same" if timeless(recorded) == timeless(answered) else "different",
        "recorded": None if recorded is None else message_document(redactor.message(recorded)),
        "answered": message_document(redactor.message(answered)),
    }


def _show_row(row: dict[str, Any], why_skipped: str) -> None:
    line = Text.assemble(_ROW_MARKS[row["outcome"]], " ", clean(row["request"]))
    if row["outcome"] == "skipped":
        line.append(f"  skipped: {why_skipped}", "dim")
    print_result(line)
    if row["outcome"] == "different":
        for side in ("recorded", "answered"):
            print_result(Text.assemble(f"    {side}  ", clean(json_library.dumps(row[side], ensure_ascii=False))))
