"""Commands close to the wire: send, decode, record, replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import attrs
from rich.text import Text

from stereos_proto import (
    Ack,
    CustomRequest,
    Health,
    Message,
    ProtocolError,
    Reply,
    Request,
    RequestFailed,
    Role,
    encode,
)
from stereos_proto import (
    decode as decode_line,
)
from stereos_proto._registry import BY_TYPE

from ._commands_give import read_text
from ._console import STDIN, clean, console, say
from ._context import DEFAULT_GUEST, Guest, Json, JsonLines, address_of, connect
from ._documents import message_document
from ._errors import SaidNo, UsageError
from ._output import print_result, write_json
from ._redact import REDACTED, Redactor, redactor_of
from ._trace import wire_line
from ._transcript import DIRECTIONS, Entry, Recorder, is_transcript, read_transcript

# --------------------------------------------------------------------------------------------------- send


def send(
    type: str,
    payload: str | None = None,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    json: Json = False,
) -> None:
    """Send a request of any type, and show the reply.

    A payload that holds a secret is read from standard input: what stands on a
    command line is no secret.

    For example:

        stereosctl send stop_agent '{"name":"coder"}' --vm dev

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        type: The type on the wire, one that is unknown here included.
        payload: The payload as JSON, - for standard input.
        json: Print the reply as one JSON document.
    """
    if payload is not None and guest.address is None and "://" in payload:
        # `send TYPE ADDRESS`: no JSON value looks like that.
        guest, payload = attrs.evolve(guest, address=payload), None
    request = _request(type, payload)
    deadline = guest.deadline()
    with connect(guest, deadline) as client:
        try:
            reply = client.request(request, timeout=deadline.left)
        except RequestFailed as exc:
            reply = Ack(request.type, ok=False, error=exc.error)
    # The guest may quote what it was sent, and that may be a secret.
    redactor = redactor_of([request])
    shown = decode_line(redactor.line(Role.GUEST, encode(reply)), sender=Role.GUEST)
    if json:
        write_json(message_document(shown))
    else:
        print_result(Text(clean(repr(shown))))
    if isinstance(reply, Ack) and not reply.ok:
        raise SaidNo


def _request(type_: str, payload: str | None) -> Request:
    row = BY_TYPE[Role.HOST].get(type_)
    secret = row is not None and any(field.repr is False for field in attrs.fields(row.cls))
    if secret and payload not in (None, STDIN):
        raise UsageError(f"{type_} carries a secret: give its payload on standard input (send {type_} -)")
    text = read_text(STDIN) if payload == STDIN else payload
    import json  # noqa: PLC0415  (the commands' own parameter has the name)

    envelope = json.dumps({"type": type_}).encode()
    if text is not None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError(f"the payload of {type_} is no JSON") from None
        members = [field.name for field in attrs.fields(row.cls)] if row is not None else None
        if members is not None and isinstance(value, dict) and not value.keys() <= set(members):
            raise UsageError(f"the payload of {type_} has no other members than: {', '.join(members) or 'none'}")
        envelope = b'%b,"payload":%b}' % (envelope[:-1], " ".join(text.split("\n")).encode("utf-8", "surrogateescape"))
    try:
        message = decode_line(envelope, sender=Role.HOST)
    except ProtocolError as exc:
        raise UsageError(f"this is no {type_}: {exc}") from None
    return message if isinstance(message, Request) else CustomRequest(type_)


# ------------------------------------------------------------------------------------------------- decode


def decode(file: str, /, *, keep_secrets: bool = False, jsonl: JsonLines = False) -> None:
    """Show a transcript, or lines of the wire.

    With directions, times, and what is wrong. The exit code is 4 when a line
    breaks the protocol.

    For example:

        stereosctl decode session.ndjson

    Args:
        file: A transcript of `stereosctl record`, or lines as they go over the wire; - for standard input.
        keep_secrets: Show secrets, too.
        jsonl: Print one JSON document per line of the wire.
    """
    text = read_text(file)
    entries = read_transcript(text, file)[1] if is_transcript(text) else list(_bare(text))
    redactors: dict[int, Redactor] = {}
    target = console()
    fault: ProtocolError | None = None
    for entry in entries:
        redactor = redactors.setdefault(entry.conn, Redactor())
        line = entry.data if keep_secrets else redactor.line(entry.sender, entry.data)
        wrong = _fault(entry)
        fault = fault or wrong
        if jsonl:
            write_json(_entry_document(entry, line, wrong), indent=False)
        else:
            target.print(_entry_line(entry, line, wrong), soft_wrap=True)
    if fault is not None:
        raise fault


def _bare(text: str) -> Iterator[Entry]:
    """Lines of the wire without directions: a type tells who sends it."""
    import json  # noqa: PLC0415

    for line in text.encode().splitlines(keepends=True):
        try:
            envelope = json.loads(line)
        except (ValueError, RecursionError):
            envelope = None
        type_ = envelope.get("type") if isinstance(envelope, dict) else None
        sender = Role.GUEST if isinstance(type_, str) and type_ in BY_TYPE[Role.GUEST] else Role.HOST
        yield Entry(0, 0.0, sender, line)


def _fault(entry: Entry) -> ProtocolError | None:
    body = entry.data.rstrip(b"\r\n")
    if not body:
        return None
    try:
        decode_line(body, sender=entry.sender)
    except ProtocolError as exc:
        return exc
    return None


def _entry_line(entry: Entry, line: bytes, wrong: ProtocolError | None) -> Text:
    when = f"{entry.conn}  {entry.ms / 1000:9.3f} s"
    if entry.event:
        return Text.assemble((when, "dim"), "   ", (entry.event, "dim"))
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
        "error": None if wrong is None else {"error": wrong.__class__.__name__, "text": str(wrong)},
    }


# ------------------------------------------------------------------------------------------------- record


def record(
    output: Path,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    listen: str = "tcp://127.0.0.1:0",
    keep_secrets: bool = False,
) -> None:
    """Stand between hosts and a guest, and write down what they say.

    It ends with Ctrl-C. It prints the address that hosts are to use. Secrets are
    left out of the transcript.

    For example:

        stereosctl record session.ndjson --vm dev --listen unix:///tmp/recorded.sock

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        output: The transcript to write. It must not exist yet.
        listen: Where hosts connect. By default a free TCP port of this machine.
        keep_secrets: Write secrets down, too.
    """
    from ._proxy import Proxy  # noqa: PLC0415  (sockets and threads are loaded where they are used)

    address = guest.resolve()
    place = address_of(listen)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_new_file(output))
            proxy = stack.enter_context(
                Proxy(place, address, Recorder(file, _meta(address), keep_secrets=keep_secrets), report=say)
            )
        except (OSError, ValueError) as exc:
            raise UsageError(f"cannot record from {place} to {output}: {exc}") from None
        print_result(str(proxy.address))
        proxy.run()


def _new_file(path: Path) -> TextIO:
    # For its owner alone: redaction is by type, and a guest may say things of its own.
    import os  # noqa: PLC0415

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return open(descriptor, "w", encoding="utf-8")  # noqa: PTH123  (a descriptor, not a path)


def _meta(address: object) -> dict[str, Any]:
    return {"name": "recording", "description": f"recorded at {address}", "recorded_with": "stereosctl record"}


# ------------------------------------------------------------------------------------------------- replay


def replay(file: str, /, guest: Guest = DEFAULT_GUEST, *, conn: int = 0, json: Json = False) -> None:
    """Say to a guest what a recorded host said, and compare the answers.

    What was redacted is not sent: the guest would store the redaction. Exit code 1
    when an answer differs; uptimes may.

    For example:

        stereosctl replay session.ndjson --vm test

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        file: A transcript of `stereosctl record`, - for standard input.
        conn: Which of its connections.
        json: Print one JSON document.
    """
    entries = [entry for entry in read_transcript(read_text(file), file)[1] if entry.conn == conn and entry.data]
    pairs = list(_pairs(entries))
    if not pairs:
        raise UsageError(f"{file} has no requests on connection {conn}")
    deadline = guest.deadline(60.0)
    rows: list[dict[str, Any]] = []
    with connect(guest, deadline) as client:
        for request, recorded in pairs:
            if request is None:
                rows.append({"request": "?", "outcome": "skipped", "recorded": None, "answered": None})
                continue
            try:
                answered: Message = client.request(request, timeout=deadline.left)
            except RequestFailed as exc:
                answered = Ack(request.type, ok=False, error=exc.error)
            rows.append(_compared(request, recorded, answered))
            if not json:
                _show_row(rows[-1])
    same = all(row["outcome"] != "different" for row in rows)
    if json:
        write_json({"ok": same, "requests": rows})
    else:
        skipped = sum(row["outcome"] == "skipped" for row in rows)
        say(f"{len(rows)} requests, {skipped} skipped because they were redacted or unreadable")
    if not same:
        raise SaidNo


def _pairs(entries: list[Entry]) -> Iterator[tuple[Request | None, Message | None]]:
    """Each request with the reply that it got. None for what cannot be sent again, or was not answered."""
    replies = [message for entry in entries if entry.sender is Role.GUEST for message in [_message(entry)] if message]
    answers = iter([message for message in replies if isinstance(message, Reply)])
    for entry in entries:
        if entry.sender is not Role.HOST or not entry.data.rstrip(b"\r\n"):
            continue
        message = None if REDACTED.encode() in entry.data else _message(entry)
        yield message if isinstance(message, Request) else None, next(answers, None)


def _message(entry: Entry) -> Message | None:
    try:
        return decode_line(entry.data.rstrip(b"\r\n"), sender=entry.sender)
    except ProtocolError:
        return None


def _compared(request: Request, recorded: Message | None, answered: Message) -> dict[str, Any]:
    def timeless(message: Message | None) -> Message | None:
        return attrs.evolve(message, uptime_seconds=0) if isinstance(message, Health) else message

    return {
        "request": request.type,
        "outcome": "same" if timeless(recorded) == timeless(answered) else "different",
        "recorded": None if recorded is None else message_document(recorded),
        "answered": message_document(answered),
    }


def _show_row(row: dict[str, Any]) -> None:
    same = row["outcome"] == "same"
    line = Text.assemble(("✓", "green") if same else ("✗", "bold red"), " ", clean(row["request"]))
    if not same:
        line.append(f"  recorded {clean(str(row['recorded']))}, answered {clean(str(row['answered']))}")
    print_result(line)
