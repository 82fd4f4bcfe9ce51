"""What is shown of lines and values, and what a message has to hold."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs

from stereos_proto import MessageType

#: A member that may hold a secret (§2). What follows it is not shown: where it ends cannot be told in a broken line.
_SECRET: Final = re.compile(r'"(?:value|content)\\*"\s*:')
#: The same for a line of a type that is not in the table: what its payload holds is not known.
_OPEN_SECRET: Final = re.compile(r'"(?:value|content|payload)\\*"\s*:')
_KNOWN: Final = re.compile(rf'"type\\*"\s*:\s*\\*"(?:{"|".join(MessageType)})\\*"')
_LONGEST: Final = 200


def short(value: Any) -> str:
    """Return a value as text that fits into a reason, holds no secret, and does nothing to a terminal."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a value that nests too deeply to be shown"
    return _shortened(text)


def shown(line: bytes) -> str:
    """Return a line, or its beginning, as such a text."""
    return _shortened(line[: 4 * _LONGEST].decode(errors="backslashreplace"))


def _shortened(text: str) -> str:
    secret = (_SECRET if _KNOWN.search(text) else _OPEN_SECRET).search(text)
    kept = text[: min(_LONGEST, secret.end() if secret else _LONGEST)]
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in kept)
    return clean if len(kept) == len(text) else f"{clean}…"


@attrs.frozen
class Member:
    """A member of a payload (§2): its type, and whether it is left out when it is empty."""

    type: type
    left_out: bool = False


#: The members of a payload by name, in the order of the wire.
Members = dict[str, Member]

#: What a guest writes (§2).
ACK: Final[Members] = {"reply_to": Member(str), "ok": Member(bool), "error": Member(str, left_out=True)}
HEALTH: Final[Members] = {"state": Member(str), "agents": Member(list, left_out=True), "uptime_seconds": Member(int)}
LIFECYCLE: Final[Members] = {"state": Member(str), "message": Member(str, left_out=True)}
AGENT: Final[Members] = {
    "name": Member(str),
    "running": Member(bool),
    "session": Member(str, left_out=True),
    "restarts": Member(int),
    "error": Member(str, left_out=True),
}


def fault_of(value: Any, members: Members, what: str) -> str:
    """Return what `value`, which is called `what`, lacks or has too much of; "" where it is as in the table."""
    if not isinstance(value, dict):
        return f"{what} is {short(value)}, no object"
    for name, member in members.items():
        if name not in value:
            if not member.left_out:
                return f"{what} has no `{name}`, which is always written"
        elif type(value[name]) is not member.type:
            return f"{what} has {short(value[name])} as its `{name}`"
        elif member.left_out and not value[name]:
            return f"{what} has an empty `{name}`, which is left out when it is empty"
    return ""
