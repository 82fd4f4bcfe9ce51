"""Lines of the wire without their secrets, for traces, recordings and listings.

Redaction goes by type, from the message classes: of a request only those members stay that its class shows in
its own repr. So new messages are covered by their definition, and a member that nobody knows is never shown.
A redacted line is still a line of the same kind, with the same answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from stereos_proto import MAX_LINE_SIZE, Request, Role, encode
from stereos_proto._registry import BY_TYPE

REDACTED: Final = "[redacted]"

#: Shorter values are not looked for in replies: they stand in ordinary words.
_SHORTEST_SECRET: Final = 4
#: Words of a hidden text that are looked for by themselves: a guest may quote a part of a config.
_LONG_WORD: Final = re.compile(r"[^\s\"']{8,}")
#: Texts that are remembered, to be blotted out should the guest quote them; the oldest are forgotten.
_REMEMBERED: Final = 4096


class Redactor:
    """Takes the lines of a conversation, of both ends, in order."""

    def __init__(self) -> None:
        self._secrets: dict[str, None] = {}

    def line(self, sender: Role, line: bytes) -> bytes:
        """`line`, with or without its ending, less its secrets."""
        body = line.rstrip(b"\r\n")
        if not body:
            return line
        ending = line[len(body) :]
        return (self._request(body) if sender is Role.HOST else self._answer(body)) + ending

    def _request(self, body: bytes) -> bytes:
        envelope = _parsed(body)
        if not isinstance(envelope, dict) or not isinstance(envelope.get("type"), str):
            # It may be a request with a secret that was cut in two. It stays unreadable, and so has its answer.
            self._remember(envelope)
            return f"{REDACTED} {len(body)} bytes".encode()
        shown = {name: self._hidden(value) for name, value in envelope.items() if name not in ("type", "payload")}
        payload = envelope.get("payload")
        if payload is not None:
            shown["payload"] = self._payload(envelope["type"], payload)
        return _written({"type": envelope["type"], **shown})

    def _payload(self, type_: str, payload: Any) -> Any:
        row = BY_TYPE[Role.HOST].get(type_)
        if row is None or not isinstance(payload, dict):
            return self._hidden(payload)
        open_fields = {field.name for field in attrs.fields(row.cls) if field.repr is not False}
        return {
            name: value if name in open_fields and not isinstance(value, (dict, list)) else self._hidden(value)
            for name, value in payload.items()
        }

    def _hidden(self, value: Any) -> str:
        self._remember(value)
        return REDACTED

    def _remember(self, value: Any) -> None:
        for text in (part for whole in _texts(value) for part in (*_LONG_WORD.findall(whole), whole)):
            for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
                if len(form) >= _SHORTEST_SECRET:
                    self._secrets[form] = None
        while len(self._secrets) > _REMEMBERED:
            del self._secrets[next(iter(self._secrets))]

    def _answer(self, body: bytes) -> bytes:
        if not self._secrets:
            return body
        message = _parsed(body)
        if message is None:
            return self.text(body.decode("utf-8", "replace")).encode()
        clean = self._blotted(message)
        return body if clean == message else _written(clean)

    def text(self, text: str) -> str:
        """`text` with the secrets blotted out that were in the requests so far."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        return text

    def _blotted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._blotted(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self._blotted(item) for name, item in value.items()}
        return value


def _parsed(body: bytes) -> Any:
    """The JSON value on a line, None where there is none."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def redactor_of(requests: Iterable[Request]) -> Redactor:
    """A redactor that blots out what is hidden in `requests`."""
    redactor = Redactor()
    for request in requests:
        redactor.line(Role.HOST, encode(request))
    return redactor


class LineTap:
    """Cuts one direction of a stream into lines, without holding back more than a line may have."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take bytes, and yield the lines that they complete, with their endings."""
        self._rest += data
        while (end := self._rest.find(b"\n") + 1) or len(self._rest) > MAX_LINE_SIZE:
            end = end or len(self._rest)
            line = bytes(self._rest[:end])
            del self._rest[:end]
            yield line

    def rest(self) -> bytes:
        """Return what came after the last line, and forget it."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest
