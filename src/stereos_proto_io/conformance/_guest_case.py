"""One case of a guest, the list that the modules of cases fill, and what their checks are written with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

import attrs

from ._guest_peer import Deviation, Line, Peer
from ._guest_text import short

#: The largest number of a secret's `mode` (§2).
U32_MAX: Final = 2**32 - 1


class Need(Enum):
    """What a case does to the guest, and the caller of `run` has to allow."""

    NOTHING = "nothing"
    EFFECTS = "effects"
    SHUTDOWN = "shutdown"


@attrs.frozen
class Case:
    """A sentence of the protocol (`name`, `section`), and the check of it."""

    name: str
    section: str
    check: Callable[[Peer], None]
    need: Need = Need.NOTHING
    needs_connections: bool = False
    needs_half_close: bool = False


CASES: Final[list[Case]] = []


def add(section: str, name: str, **needs: Any) -> Callable[[Callable[[Peer], None]], Callable[[Peer], None]]:
    """Add a case: its section and its sentence."""

    def keep(check: Callable[[Peer], None]) -> Callable[[Peer], None]:
        CASES.append(Case(name, section, check, **needs))
        return check

    return keep


# ------------------------------------------------------------------------------------------- the tools

PING: Final = b'{"type":"ping"}'
PONG: Final = {"type": "pong"}


def request(type_: str, payload: Any = None) -> bytes:
    """Return the line of a message."""
    message = {"type": type_} if payload is None else {"type": type_, "payload": payload}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def ack(type_: str, error: str = "") -> dict[str, Any]:
    """Return the value of an ack: a refusal when there is an `error`."""
    return {"type": "ack", "payload": {"reply_to": type_, "ok": not error, **({"error": error} if error else {})}}


def unknown(type_: str) -> dict[str, Any]:
    """Return the refusal of an unknown type."""
    return ack(type_, f"unknown message type: {type_}")


def same(got: Any, want: Any) -> bool:
    """Whether two values of JSON are equal, and of the same types: to Python, 1 and 1.0 equal True."""
    if type(got) is not type(want):
        return False
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(same(got[name], value) for name, value in want.items())
    if isinstance(want, list):
        return len(got) == len(want) and all(map(same, got, want))
    return bool(got == want)


def compare(got: Iterable[Line], expected: Iterable[Any], about: str = "it") -> None:
    """Raise Deviation unless those replies came, in that order."""
    values, wanted = [line.value for line in got], [*expected]
    if len(values) != len(wanted):
        raise Deviation(f"{about} was answered by {len(values)} replies, not {len(wanted)}")
    for value, want in zip(values, wanted, strict=True):
        if not same(value, want):
            raise Deviation(f"{about} was answered by {short(value)}, not {short(want)}")


def answers(peer: Peer, line: bytes, *expected: Any) -> None:
    """Raise Deviation unless `line` gets those replies."""
    compare(peer.ask(line), expected, short(line[:60].decode(errors="replace")))


def refuses(peer: Peer, line: bytes, reply_to: str, start: str) -> None:
    """Raise Deviation unless `line` gets one refusal, whose text begins with `start`."""
    reply = peer.ask_one(line)
    error = reply.payload.get("error")
    refused = reply.type == "ack" and reply.payload.get("ok") is False and reply.payload.get("reply_to") == reply_to
    if not refused or not isinstance(error, str) or not error.startswith(start):
        about = short(line[:60].decode(errors="replace"))
        raise Deviation(f"{about} was answered by {short(reply.value)}, not by a refusal that begins with {start!r}")


def malformed(peer: Peer, *lines: bytes) -> None:
    """Raise Deviation unless each line is refused as malformed, and the connection goes on."""
    for line in lines:
        refuses(peer, line, "", "malformed JSON: ")
    answers(peer, PING, PONG)


#: The refusal of a secret without a name.
EMPTY_NAME: Final = ack("inject_secret", "secret name cannot be empty")

#: What the guest calls the payload of a type. Those that an old guest does not know come last: they end the case.
NOUNS: Final = {"inject_secret": "secret", "mount": "mount", "set_config": "config", "inject_ssh_key": "ssh key"}
