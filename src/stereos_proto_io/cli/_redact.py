"""Lines of the wire without their secrets, for traces, recordings and listings.

The secrets and how they are found are the core's (`stereos_proto.Redactor`). Here are the lines: what of a request is
shown at all, and how a line of the guest is changed without becoming another line. Of a request only those members
stay that its class shows in its own repr. So new messages are covered by their definition, and an unknown member
is never shown. A redacted line is still a line of the same kind, with the same answer.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar, cast

import attrs

import stereos_proto
from stereos_proto import (
    MAX_LINE_SIZE,
    CustomRequest,
    LifecycleState,
    Message,
    MessageType,
    RemoteProtocolError,
    Request,
    RequestFailed,
    Role,
    StereosError,
    decode,
    encode,
    message_class,
)

M = TypeVar("M", bound=Message)

#: What is shown in the place of a secret.
REDACTED: Final = stereos_proto.REDACTED

#: Characters of requests that are remembered for certain, to be redacted should the guest quote them.
_REMEMBERED: Final = 1024 * 1024

#: Public words in one text that stay.
_NAMED: Final = 8
#: Characters on both sides of a public word in which a secret is looked for that extends into it: more than any piece
#: has that is looked for (`stereos_proto.Redactor`), each of its characters an escape of an escape.
_AROUND: Final = 512

#: The texts of a line, also one that is cut off.
_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?$)', re.DOTALL)

#: The protocol's own words, which stay where one is a whole text: else a secret "ready" would change what a line means.
_WORDS: Final = frozenset(
    {"type", "payload", *LifecycleState}
    | set(MessageType)
    | {
        field.name
        for role in Role
        for type_ in MessageType
        if (cls := message_class(role, type_)) is not None
        for field in attrs.fields(cls)
    }
    | {field.name for field in attrs.fields(stereos_proto.AgentStatus)}
)


class Redactor:
    """Takes the lines of a conversation, of both ends, in order.

    It remembers in two generations: when the younger has seen enough, it takes the place of the older, which is
    forgotten. So a recording of days does not keep everything that was ever sent. What is `known` from elsewhere, such
    as the requests of a whole plan, is never forgotten. Redactors may share it.
    """

    def __init__(self, known: stereos_proto.Redactor | None = None) -> None:
        self._known = known
        self._older = stereos_proto.Redactor()
        self._younger = stereos_proto.Redactor()
        self._seen = 0

    def line(self, sender: Role, line: bytes) -> bytes:
        """`line`, with or without its ending, less its secrets."""
        body = line.rstrip(b"\r\n")
        if not body:
            return line
        ending = line[len(body) :]
        shown = self._request(body) if sender is Role.HOST else self._answer(body)
        return line if shown is body else shown + ending

    def text(self, text: str, public: Collection[str] = ()) -> str:
        """`text` with the secrets redacted that were in the requests so far, or are known from elsewhere.

        What is `public` stays, even where it is in a secret as well: the config often has the guest's name. But it is
        redacted where it stands in a text as a part of a secret.
        """
        redacted = self._redacted(text)
        if redacted == text or not any(public):
            return redacted
        kept, end = [], 0
        words = "|".join(re.escape(word) for word in sorted(filter(None, public), key=len, reverse=True))
        # As many as a sentence of ours has: a guest may write any number of them.
        for found in islice(re.finditer(words, text), _NAMED):
            if self._stands_alone(text, *found.span()):
                kept += [self._redacted(text[end : found.start()]), found[0]]
                end = found.end()
        return "".join([*kept, self._redacted(text[end:])])

    def _redacted(self, text: str) -> str:
        for redactor in self._redactors:
            text = redactor.redact(text)
        return text

    def _stands_alone(self, text: str, start: int, end: int) -> bool:
        """Whether no secret in `text` extends over an end of this part of it: to cut it out takes no secret apart."""
        parts = text[max(start - _AROUND, 0) : start], text[start:end], text[end : end + _AROUND]
        around = "".join(parts)
        # Each by itself: what one of them has redacted could hide from the next what it knows.
        return all(each.redact(around) == "".join(map(each.redact, parts)) for each in self._redactors)

    @property
    def _redactors(self) -> list[stereos_proto.Redactor]:
        known = [] if self._known is None else [self._known]
        return [*known, self._younger, self._older]

    def message(self, message: M) -> M:
        """A message of the guest, less the secrets that it quotes. The protocol's own words stay."""
        if self._known is None and not self._seen:
            # A report of a mebibyte need not be read for nothing.
            return message
        line = encode(message)
        shown = self.line(Role.GUEST, line)
        return message if shown is line else cast("M", decode(shown.rstrip(b"\n"), sender=Role.GUEST))

    def error(self, error: StereosError, public: Collection[str] = ()) -> StereosError:
        """An error, less the secrets in its sentence. What is `public` stays, as in `text`."""
        if isinstance(error, RequestFailed):
            return RequestFailed(error.request, self.text(error.error, public))
        return with_sentence(error, self.text(str(error), public))

    def _request(self, body: bytes) -> bytes:
        if (seen := self._seen + len(body)) > _REMEMBERED:
            self._older, self._younger, seen = self._younger, stereos_proto.Redactor(), len(body)
        self._seen = seen
        envelope = _parsed(body)
        if not isinstance(envelope, dict) or not isinstance(envelope.get("type"), str):
            # It may be a request with a secret that was cut in two. It stays unreadable, and so has its answer.
            text = body.decode("utf-8", "replace")
            self._remember([text, *(word for word in map(_unquoted, _TEXT.findall(text)) if word not in _WORDS)])
            return f"{REDACTED} {len(body)} bytes".encode()
        try:
            self._younger.add(decode(body, sender=Role.HOST))
        except RemoteProtocolError:
            # A payload that does not fit its type. No member of it is shown then.
            self._remember(envelope.get("payload"))
            members: frozenset[str] = frozenset()
        else:
            members = _members(envelope["type"])
        shown = {name: self._hidden(value) for name, value in envelope.items() if name not in ("type", "payload")}
        if envelope.get("payload") is not None:
            shown["payload"] = self._payload(envelope["payload"], members)
        return _written({"type": envelope["type"], **shown})

    def _payload(self, payload: Any, members: frozenset[str]) -> Any:
        if not isinstance(payload, dict):
            return self._hidden(payload)
        return {
            name: value if name in members and not isinstance(value, (dict, list)) else self._hidden(value)
            for name, value in payload.items()
        }

    def _hidden(self, value: Any) -> str:
        self._remember(value)
        return REDACTED

    def _remember(self, value: Any) -> None:
        # A payload of its own: what a JSON value holds is then found as it is in any other.
        self._younger.add(CustomRequest("", value))

    def _answer(self, body: bytes) -> bytes:
        text = body.decode("utf-8", "replace")
        clean = self.text(text) if _parsed(body) is None else _TEXT.sub(self._clean, text)
        return body if clean == text else clean.encode("utf-8", "replace")

    def _clean(self, found: re.Match[str]) -> str:
        """A text on a line of JSON, less its secrets. One by one, since a member may stand there twice."""
        text = json.loads(found[0])
        clean = text if text in _WORDS else self.text(text)
        return found[0] if clean is text else json.dumps(clean, ensure_ascii=False)


def _members(type_: str) -> frozenset[str]:
    """The members of a payload that are shown: those that the class of its type shows in its repr."""
    cls = message_class(Role.HOST, type_)
    shown = () if cls is None else (field.name for field in attrs.fields(cls) if field.repr is not False)
    return frozenset(shown)


def _parsed(body: bytes) -> Any:
    """The JSON value on a line, None where there is none."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _unquoted(text: str) -> str:
    """What stands between the quotes of a text on a line that is no JSON."""
    return text.strip('"')


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def redactor_of(requests: Iterable[Request]) -> Redactor:
    """A redactor that knows what is hidden in `requests`."""
    return Redactor(stereos_proto.Redactor(requests))


def with_sentence(error: StereosError, sentence: str) -> StereosError:
    """A copy of an error that says this instead, where its text is all that it was made of."""
    if error.args != (str(error),) or sentence == str(error):
        return error
    error = copy.copy(error)
    error.args = (sentence,)
    return error


class LineTap:
    """Cuts one direction of a stream into lines, without holding back more than a line may have."""

    def __init__(self) -> None:
        self._rest = bytearray()
        #: Bytes of it that have no line end.
        self._searched = 0

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take bytes, and yield the lines that they complete, with their endings."""
        self._rest += data
        while (end := self._rest.find(b"\n", self._searched) + 1) or len(self._rest) > MAX_LINE_SIZE:
            end = end or len(self._rest)
            line = bytes(self._rest[:end])
            del self._rest[:end]
            self._searched = 0
            yield line
        self._searched = len(self._rest)

    def rest(self) -> bytes:
        """Return what came after the last line, and forget it."""
        rest, self._rest, self._searched = bytes(self._rest), bytearray(), 0
        return rest
