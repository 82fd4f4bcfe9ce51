"""Commands close to the wire: send, decode, record, replay."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import attrs
from cyclopts import Parameter
from rich.text import Text

from stereos_proto import (
    Ack,
    CustomRequest,
    Health,
    MalformedLine,
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
from ._context import (
    DEFAULT_GUEST,
    DEFAULT_PLACE,
    Guest,
    Json,
    JsonLines,
    Place,
    address_of,
    connect,
    listening_at,
    whole_number,
)
from ._deadline import WAIT_SECONDS, Deadline
from ._documents import message_document
from ._errors import SaidNo, UsageError
from ._output import print_result, reply_parts, write_json
from ._redact import REDACTED, Redactor, redactor_of
from ._trace import ARROWS, wire_line
from ._transcript import DIRECTIONS, Entry, Recorder, is_transcript, read_transcript

if TYPE_CHECKING:
    from stereos_proto_io.blocking import Client

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
        print_result(*reply_parts(shown))
    if isinstance(reply, Ack) and not reply.ok:
        raise SaidNo


def _request(type_: str, payload: str | None) -> Request:
    row = BY_TYPE[Role.HOST].get(type_)
    secret = row is not None and any(field.repr is False for field in attrs.fields(row.cls))
    if secret and payload not in (None, STDIN):
        raise UsageError(f"{type_} carries a secret: give its payload on standard input (send {type_} -)")
    text = read_text(Path(STDIN)) if payload == STDIN else payload
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
        # The sentence is about a host that sent it; here it is not sent.
        why = str(exc).removeprefix(f"the host sent {type_} with ")
        raise UsageError(f"cannot send {type_}: {why}") from None
    return message if isinstance(message, Request) else CustomRequest(type_)


# ------------------------------------------------------------------------------------------------- decode


def decode(file: Path, /, *, keep_secrets: bool = False, jsonl: JsonLines = False) -> None:
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
    entries = read_transcript(text, str(file))[1] if is_transcript(text) else list(_bare(text))
    redactors: dict[int, Redactor] = {}
    target = console()
    wrong = 0
    for entry in entries:
        redactor = redactors.setdefault(entry.conn, Redactor())
        line = entry.data if keep_secrets else redactor.line(entry.sender, entry.data)
        fault = _fault(entry)
        wrong += fault is not None
        if jsonl:
            write_json(_entry_document(entry, line, fault), indent=False)
        else:
            target.print(_entry_line(entry, line, fault), soft_wrap=True)
    if wrong:
        raise MalformedLine(f"{wrong} {'line breaks' if wrong == 1 else 'lines break'} the protocol")


def _bare(text: str) -> Iterator[Entry]:
    """Lines of the wire without directions and times: a type tells who sends it."""
    import json  # noqa: PLC0415

    for line in text.encode().splitlines(keepends=True):
        try:
            envelope = json.loads(line)
        except (ValueError, RecursionError):
            envelope = None
        type_ = envelope.get("type") if isinstance(envelope, dict) else None
        sender = Role.GUEST if isinstance(type_, str) and type_ in BY_TYPE[Role.GUEST] else Role.HOST
        yield Entry(0, None, sender, line)


def _fault(entry: Entry) -> ProtocolError | None:
    body = entry.data.rstrip(b"\r\n")
    if not body:
        return None
    if body.startswith(REDACTED.encode()):
        # What stands here is our own mark, and no fault of anybody's.
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
        "error": None if wrong is None else {"error": wrong.__class__.__name__, "text": str(wrong)},
    }


# ------------------------------------------------------------------------------------------------- record


def record(
    output: Path,
    /,
    guest: Place = DEFAULT_PLACE,
    *,
    listen: Annotated[str, Parameter(metavar="ADDRESS", show_default=False)] = "tcp://127.0.0.1:0",
    keep_secrets: bool = False,
) -> None:
    """Stand between hosts and a guest, and write down what they say.

    It prints the address that hosts are to use, and ends with Ctrl-C. Secrets are
    left out of the transcript.

    For example:

        stereosctl record session.ndjson --vm dev --listen unix:///tmp/recorded.sock

    Args:
        guest: Which guest.
        output: The transcript to write. It must not exist yet.
        listen: Where hosts connect. By default a free TCP port of this machine.
        keep_secrets: Write secrets down, too.
    """
    from ._proxy import Proxy  # noqa: PLC0415  (sockets and threads are loaded where they are used)

    address = guest.resolve()
    place = address_of(listen)
    with ExitStack() as stack:
        stack.enter_context(_terminated_cleanly())
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


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind, so that the socket's file is removed."""
    before = signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _new_file(path: Path) -> TextIO:
    # For its owner alone: redaction is by type, and a guest may say things of its own.
    import os  # noqa: PLC0415

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return open(descriptor, "w", encoding="utf-8")  # noqa: PTH123  (a descriptor, not a path)


def _meta(address: object) -> dict[str, Any]:
    return {"name": "recording", "description": f"recorded at {address}", "recorded_with": "stereosctl record"}


# ------------------------------------------------------------------------------------------------- replay


def replay(
    file: Path,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    conn: Annotated[int, Parameter(metavar="N", converter=whole_number)] = 0,
    json: Json = False,
) -> None:
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
    entries = [entry for entry in read_transcript(read_text(file), str(file))[1] if entry.conn == conn and entry.data]
    pairs = list(_pairs(entries))
    if not pairs:
        raise UsageError(f"{file} has no requests on connection {conn}")
    deadline = guest.deadline(WAIT_SECONDS)
    rows: list[dict[str, Any]] = []
    with connect(guest, deadline) as client:
        for request, recorded in pairs:
            if request is None:
                rows.append({"request": "?", "outcome": "skipped", "recorded": None, "answered": None})
            else:
                rows.append(_compared(request, recorded, _answer(client, request, deadline)))
            if not json:
                _show_row(rows[-1])
    same = all(row["outcome"] != "different" for row in rows)
    if json:
        write_json({"ok": same, "requests": rows})
    else:
        counts = Counter(row["outcome"] for row in rows)
        say(", ".join(f"{counts[outcome]} {outcome}" for outcome in _ROW_MARKS))
    if not same:
        raise SaidNo


def _answer(client: Client, request: Request, deadline: Deadline) -> Message:
    try:
        return client.request(request, timeout=deadline.left)
    except RequestFailed as exc:
        return Ack(request.type, ok=False, error=exc.error)


_ROW_MARKS: Final = {"same": ("✓", "green"), "different": ("✗", "bold red"), "skipped": ("–", "dim")}


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
    import json  # noqa: PLC0415

    line = Text.assemble(_ROW_MARKS[row["outcome"]], " ", clean(row["request"]))
    if row["outcome"] == "skipped":
        line.append("  skipped: it was redacted, or is no request", "dim")
    print_result(line)
    if row["outcome"] == "different":
        for side in ("recorded", "answered"):
            print_result(Text.assemble(f"    {side}  ", clean(json.dumps(row[side], ensure_ascii=False))))
