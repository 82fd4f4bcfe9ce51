"""The rules of `docs/protocol.md`, written a second time, slowly and without a line of the library's own code.

What the library makes of its input is compared with what stands here. This file imports only the standard
library; it speaks of messages by their names on the wire, and of values as plain JSON.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, NamedTuple

#: Levels up to which the standard library's parser is asked. Deeper lines have tests of their own.
DEEPEST = 100

#: Digits up to which a whole number of an unknown payload is kept as one. Longer ones are doubles, as all
#: numbers are to the reference.
LONGEST_INTEGER = 640

STR, BOOL, U32, I64, AGENTS = "str", "bool", "u32", "i64", "agents"

AGENT = {"name": STR, "running": BOOL, "session": STR, "restarts": I64, "error": STR}
#: §2: sender, type → members in wire order.
PAYLOADS: dict[str, dict[str, dict[str, str]]] = {
    "host": {
        "ping": {},
        "get_health": {},
        "set_config": {"content": STR},
        "inject_secret": {"name": STR, "value": STR, "mode": U32},
        "inject_ssh_key": {"user": STR, "public_key": STR},
        "mount": {"tag": STR, "guest_path": STR, "fs_type": STR, "read_only": BOOL},
        "shutdown": {"reason": STR},
    },
    "guest": {
        "pong": {},
        "ack": {"reply_to": STR, "ok": BOOL, "error": STR},
        "health": {"state": STR, "agents": AGENTS, "uptime_seconds": I64},
        "lifecycle": {"state": STR, "message": STR},
    },
}
NEED_PAYLOAD = {"set_config", "inject_secret", "inject_ssh_key", "mount"}
ZERO = {STR: "", BOOL: False, U32: 0, I64: 0, AGENTS: []}
LOW = {U32: 0, I64: -(2**63)}
HIGH = {U32: 2**32 - 1, I64: 2**63 - 1}

MALFORMED, INVALID, MESSAGE, UNKNOWN = "malformed", "invalid", "message", "unknown"


class Read(NamedTuple):
    """What one line is. `payload` is a dict for a known type, any JSON for an unknown one."""

    kind: str
    type: str = ""
    payload: Any = None


class Number(NamedTuple):
    """A number as it was written."""

    text: str


class Pairs(list[tuple[str, Any]]):
    """An object with all its members, in order."""


class Misfit(Exception):
    """A value that does not fit its place."""


def _not_json(_name: str) -> None:
    raise Misfit


def lines(stream: bytes, limit: int, *, ended: bool) -> tuple[list[bytes], bool]:
    """§1: the lines of a stream, and whether a line over the limit came after them."""
    found = []
    *whole, last = stream.split(b"\n")
    for index, line in enumerate((*whole, last)):
        terminated = index < len(whole)
        if len(line) + 1 > limit:
            return found, True
        if terminated or ended:
            content = line[:-1] if line.endswith(b"\r") else line
            if content:
                found.append(content)
    return found, False


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_not_json)


# Several cuttings of one stream ask for the same lines.
@functools.lru_cache(maxsize=64)
def read(line: bytes, sender: str) -> Read | None:
    """§2 to §4: what `line` is. None: it nests so deeply that this is the wrong place to ask."""
    text = re.sub("[\udc80-\udcff]", "\ufffd", line.decode("utf-8", "surrogateescape"))
    if text.count("[") + text.count("{") > DEEPEST:
        return None
    try:
        value = _DECODER.decode(text)
    except (ValueError, Misfit):
        return Read(MALFORMED)
    if value is None:
        value = Pairs()
    if not isinstance(value, Pairs):
        return Read(MALFORMED)
    members = [(clean(name), member) for name, member in value]
    types = [member for name, member in members if name == "type"]
    if any(type_ is not None and not isinstance(type_, str) for type_ in types):
        return Read(MALFORMED)
    # A later null leaves an earlier text as it was.
    named = [type_ for type_ in types if type_ is not None]
    type_ = clean(named[-1]) if named else ""
    payloads = [member for name, member in members if name == "payload"]
    return _message(type_, payloads, sender)


def _message(type_: str, payloads: list[Any], sender: str) -> Read:
    wanted = PAYLOADS[sender].get(type_)
    if wanted is None:
        return Read(UNKNOWN, type_, plain(payloads[-1]) if payloads else None)
    if not wanted:
        return Read(MESSAGE, type_, {})
    if not payloads and type_ in NEED_PAYLOAD:
        return Read(INVALID, type_)
    try:
        return Read(MESSAGE, type_, structure(payloads[-1] if payloads else None, wanted))
    except Misfit:
        return Read(INVALID, type_)


def structure(value: Any, wanted: dict[str, str], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """§4: an object as the members that are wanted, read over `before` where something was there already."""
    result = dict(before) if before else {name: ZERO[kind] for name, kind in wanted.items()}
    if value is None:
        return result
    if not isinstance(value, Pairs):
        raise Misfit
    memories: dict[str, list[dict[str, Any]]] = {}
    for name, member in value:
        name = clean(name)
        if name not in wanted:
            continue
        if wanted[name] == AGENTS:
            result[name] = listed(member, memories.setdefault(name, []))
        elif member is not None:
            result[name] = scalar(member, wanted[name])
    return result


def listed(value: Any, memory: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """§4: a list of agents. `memory` holds the items of the lists of this name that came before it."""
    if value is not None and (not isinstance(value, list) or isinstance(value, Pairs)):
        raise Misfit
    if not value:
        memory.clear()
        return []
    for index, item in enumerate(value):
        if index < len(memory):
            memory[index] = structure(item, AGENT, memory[index])
        else:
            memory.append(structure(item, AGENT))
    return memory[: len(value)]


def scalar(value: Any, kind: str) -> Any:
    """§4: a value of exactly the right type. Nothing is coerced."""
    if kind == STR and isinstance(value, str):
        return clean(value)
    if kind == BOOL and isinstance(value, bool):
        return value
    if kind in LOW and isinstance(value, Number) and re.fullmatch("-?[0-9]+", value.text):
        if len(value.text) > 20 or (kind == U32 and value.text.startswith("-")):
            raise Misfit
        if LOW[kind] <= int(value.text) <= HIGH[kind]:
            return int(value.text)
    raise Misfit


def plain(value: Any) -> Any:
    """A value of an unknown payload as Python data."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Number):
        whole = re.fullmatch("-?[0-9]+", value.text) and len(value.text.removeprefix("-")) <= LONGEST_INTEGER
        return int(value.text) if whole else float(value.text)
    if isinstance(value, Pairs):
        return {clean(name): plain(member) for name, member in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def clean(text: str) -> str:
    """§4: a lone surrogate is U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def fits(reply: str, payload: dict[str, Any], request: str) -> bool:
    """§3: whether a reply can answer a request of that type."""
    if reply == "ack":
        if not payload["ok"]:
            return payload["reply_to"] in (request, "")
        return request not in ("ping", "get_health") and payload["reply_to"] == request
    return {"pong": "ping", "health": "get_health"}[reply] == request
