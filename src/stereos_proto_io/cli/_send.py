"""`stereosctl send`: a request of any type."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from stereos_proto import Ack, CustomRequest, ProtocolError, Reply, Request, RequestFailed, Role, message_class
from stereos_proto import decode as decode_line

from ._commands_give import read_text
from ._console import STDIN
from ._contact import Contact, Row
from ._documents import message_document
from ._errors import SaidNo, UsageError
from ._jobs import converse_with, interruption_told
from ._options import Json, refuse_what_is_no_utf8
from ._output import print_result, reply_parts, write_json
from ._redact import redactor_of
from ._targets import DEFAULT_GUEST, Guest, looks_like_address


def send(
    type: str,
    payload: str | None = None,
    /,
    guest: Guest = DEFAULT_GUEST,
    *,
    json: Json = False,
) -> None:
    """Send a request of any type, and show the reply.

    Give a payload that holds a secret on standard input: everyone on this machine can
    read a command line.

    For example:

        stereosctl send stop_agent '{"name":"coder"}' --vm dev

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        type: The type on the wire. It may be one that stereosctl does not know.
        payload: The payload as JSON; - reads standard input.
        json: Print the reply as one JSON document.
    """
    if payload is not None and guest.address is None and looks_like_address(payload):
        # `send TYPE ADDRESS`: no JSON value begins like that.
        guest, payload = attrs.evolve(guest, address=payload), None
    refuse_what_is_no_utf8({"TYPE": type, "PAYLOAD": payload or ""})
    # Before the user types a payload for a command that is refused.
    target = guest.checked(secret=_ON_STANDARD_INPUT)
    request, deadline = _request(type, payload), guest.deadline()

    # The guest may quote what it was sent, and that may be a secret.
    redactor = redactor_of([request])

    async def converse(contact: Contact) -> Reply:
        contact.redactor = redactor
        await contact.dial()
        try:
            return await contact.ask(request)
        except RequestFailed as exc:
            return Ack(request.type, ok=False, error=exc.error)

    row = Row(target.name)
    with interruption_told(write_json if json else None, row):
        reply: Reply = converse_with(target, guest, converse, deadline, row)
    shown = redactor.message(reply)
    if json:
        write_json(message_document(shown))
    else:
        print_result(*reply_parts(shown))
    if isinstance(reply, Ack) and not reply.ok:
        raise SaidNo


_ON_STANDARD_INPUT: Final = "a payload with a secret is never an argument: give it on standard input (send TYPE -)"


def _request(type_: str, payload: str | None) -> Request:
    cls = message_class(Role.HOST, type_)
    secret = cls is not None and any(field.repr is False for field in attrs.fields(cls))
    if secret and payload not in (None, STDIN):
        raise UsageError(f"{type_} carries a secret: give its payload on standard input (send {type_} -)")
    other = "" if secret else ", or give it in the place of -"
    text = read_text(Path(STDIN), f"write the payload to it, as JSON{other}") if payload == STDIN else payload
    import json  # noqa: PLC0415  (the commands' own parameter has the name)

    envelope = json.dumps({"type": type_}).encode()
    if text is not None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError(f"the payload of {type_} is not JSON") from None
        members = [field.name for field in attrs.fields(cls)] if cls is not None else None
        if members == [] and value not in (None, {}):
            raise UsageError(f"{type_} takes no payload: leave it out (send {type_})")
        if members is not None and isinstance(value, dict) and not value.keys() <= set(members):
            raise UsageError(f"the payload of {type_} has no other members than: {', '.join(members)}")
        envelope = b'%b,"payload":%b}' % (envelope[:-1], " ".join(text.split("\n")).encode())
    try:
        message = decode_line(envelope, sender=Role.HOST)
    except ProtocolError as exc:
        # The sentence is about a host that sent it; here it is not sent.
        why = str(exc).removeprefix(f"the host sent {type_} with ")
        raise UsageError(f"cannot send {type_}: {why}") from None
    return message if isinstance(message, Request) else CustomRequest(type_)
