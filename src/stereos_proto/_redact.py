r"""Taking secrets out of texts that the guest wrote.

A guest may quote what it was sent: in a refusal, in a log line, in a member of a reply. `Redactor` knows the secrets
of some messages and replaces them in any text. It is used by errors and reports, and by programs that show or record
lines of the wire.

**What is found.** A secret is looked for as a whole, if it has at least `SHORTEST` characters. Of a longer one, any
`PART` consecutive characters are found, wherever they begin; so are its lines, and those of its words that have at
least `WORD` characters and do not look like ordinary words. The last rule is there because a config holds prompts
and paths: without it, "no such file or directory" would lose its end to a prompt that speaks of a directory. Secrets
are found as they are, and behind the escapes of JSON, Go's `%q`, C, Python, the shell, URLs and HTML, also where one is
inside another. What overlaps is replaced as one, so a short secret cannot cut a longer one in two.

**What is not found.** Anything that was transformed otherwise (encoded as base64, reversed, spelled out) and shorter
parts. A guest that means to give a secret away can do so: it has the secret, and it runs the agents.

**Time.** Reading a text means to look up one piece of `PART` characters for each position, in one set, and one of
`SHORTEST` characters in another. So the time is linear in the text, whatever the number of secrets, and learning a
secret is linear in its size. (`str.replace` for each secret in turn took 52 s of CPU for a health report of 1 MiB after
a config of 4,000 words.) The set takes about 100 bytes for each character of a secret. Learning costs more than reading
a short sentence, so where many texts are read against the same messages, keep one Redactor for all of them.
"""

from __future__ import annotations

import functools
import operator
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, Never, TypeVar, cast

import attrs

from ._messages import REDACTED, Ack, CustomRequest, Message, Reply, Request, SetConfig
from ._registry import BY_TYPE, Role

#: Shorter secrets are not looked for: they stand inside ordinary words.
SHORTEST: Final = 4
#: Characters of a word that is looked for by itself, where it stands in a longer secret.
WORD: Final = 8
#: Any part of a secret that is as long as this is looked for.
PART: Final = 16
#: Secrets of so many characters are compared with the first short texts, and learnt only when more is to be redacted:
#: learning 1 MiB takes 4 seconds, and a guest may refuse a config of that size with one sentence.
_LONG: Final = 4096
#: Distance of the samples of a long secret, and their length: every PART consecutive characters of the secret contain a
#: whole sample.
_STEP: Final = PART // 2
_SAMPLE: Final = PART - _STEP + 1
#: How often a long secret is searched before it is learnt: learning takes some 400 times as long as a search.
_SEARCHES: Final = 64
#: Characters of a refusal that are kept. A guest may send a mebibyte for each request; a host reads a sentence.
MAX_SENTENCE: Final = 8192
#: How far past the cut a text is read: PART characters, each escaped twice (12 characters).
_SLACK: Final = PART * 12

#: Where a longer secret is cut into words: as a shell or TOML would, and finer.
_CUTS: Final = (re.compile(r"[^\s\"'`]+"), re.compile(r"[^\s\"'`=,;:(){}\[\]<>|&@]+"))

_LETTERS: Final = r"(?:[A-Z]?[a-z]+|[A-Z]+)"
#: An ordinary word: letters of one case, the first may be large; also several of them, as in a path.
_ORDINARY: Final = re.compile(rf"[^\w\s]*(?:{_LETTERS}(?:[-_./]+{_LETTERS})*)?[^\w\s]*")

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Reply)
F = TypeVar("F", bound=Callable[..., Any])


def _discreet(function: F) -> F:
    """Raise an exception again without the frames below: their local variables hold secrets, and a long text takes long
    enough for a KeyboardInterrupt to come.
    """

    @functools.wraps(function)
    def quiet(self: Redactor, value: Any, /, **options: Any) -> Any:
        try:
            return function(self, value, **options)
        except BaseException as exc:  # noqa: BLE001  (it is raised again)
            error = exc.with_traceback(None)
        del value
        raise error

    return cast("F", quiet)


class Redactor:
    """Knows the secrets of messages (§2), and takes them out of texts. For one thread at a time.

    What a message shows in its own repr is no secret (a name, a path, a public key): it is left in texts also where
    the config repeats it. All else of a request is one: `InjectSecret.value`, the content of a `SetConfig`, the
    payload of a `CustomRequest` with the strings, numbers and member names in it.

    It keeps the messages, and learns their secrets when there is a first text to redact.
    """

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        # By identity: equal messages may be many, and payloads have no hash.
        self._known: dict[int, Message] = {}
        self._new: list[Message] = []
        self._parts: set[str] = set()
        # Long secrets whose parts are not in the set yet, each with what is public of it.
        self._long: list[tuple[str, Collection[str]]] = []
        self._samples: set[str] = set()  # those of the long secrets
        self._read = 0  # characters that were redacted so far
        self._short: set[str] = set()
        # The first characters of the short ones, and how long those are that begin with them.
        self._heads: dict[str, set[int]] = {}
        self._public: set[str] = set()
        self.add(*messages)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._known)} messages>"

    def __reduce__(self) -> Never:
        raise TypeError("a Redactor holds secrets, so it is not pickled; make it where it is needed")

    def add(self, *messages: Message) -> None:
        """Redact the secrets of `messages`, too. A message that was added before costs nothing."""
        for message in messages:
            if id(message) not in self._known:
                # To be learnt before it counts as known: an interrupt may come in between.
                self._new.append(message)
                self._known[id(message)] = message

    @_discreet
    def redact(self, text: str, /, *, max_length: int | None = None) -> str:
        """Return `text` with "[redacted]" in the place of each secret; `text` itself when there is none in it.

        A text that exceeds `max_length` characters by more than 192 is cut to `max_length`, and the rest is not read.
        The tolerance keeps a text that was cut once from being cut again.
        """
        if max_length is None or len(text) <= max_length + _SLACK:
            return self._redacted(text, len(text))
        # A secret that begins before the end is found although its last characters come after it.
        return f"{self._redacted(text[: max_length + _SLACK], max_length)}… ({len(text)} characters)"

    def _redacted(self, text: str, end: int) -> str:
        """The first `end` characters of `text`, redacted."""
        self._learn_new()
        if not self._parts and not self._short and not self._long:
            return text[:end]
        self._read += len(text)
        self._learn_long()
        covered = bytearray(len(text))
        for view, places in _views(text):
            for run in _RUN.finditer(self._marks(view)):
                first, last = places[run.start()], places[run.end()]
                covered[first:last] = b"\x01" * (last - first)
        kept, at = [], 0
        for run in _RUN.finditer(covered[:end]):
            kept += [text[at : run.start()], REDACTED]
            at = run.end()
        return "".join([*kept, text[at:end]]) if kept else text[:end]

    @_discreet
    def redact_reply(self, reply: R, /) -> R:
        """Return `reply` with the secrets taken out of the sentence of a refusal. Other replies stay as they are.

        A sentence that is much longer than `MAX_SENTENCE` characters is cut there.
        """
        if not isinstance(reply, Ack) or not reply.error:
            return reply
        error = self.redact(reply.error, max_length=MAX_SENTENCE)
        return reply if error is reply.error else attrs.evolve(reply, error=error)

    @_discreet
    def redact_message(self, message: M, /) -> M:
        """Return `message` with the secrets taken out of every text in it, names included."""
        clean: M = self._clean(message)
        return clean

    def _clean(self, value: Any) -> Any:
        """`value` without secrets; itself where there are none. A guest chooses how many values there are."""
        if isinstance(value, str):
            return self.redact(value) if len(value) >= SHORTEST else value
        if isinstance(value, (list, tuple)):
            items = [*map(self._clean, value)]
            return value if all(map(operator.is_, items, value)) else type(value)(items)
        if isinstance(value, dict):
            return {self._clean(name): self._clean(item) for name, item in value.items()}
        changed = {}
        for field in getattr(value, "__attrs_attrs__", ()):
            name: str = field.name
            before = getattr(value, name)
            # Most values are neither text nor hold any, or are too short to be a secret.
            if before and type(before) not in _PLAIN and (after := self._clean(before)) is not before:
                changed[name] = after
        return attrs.evolve(value, **changed) if changed else value

    # -- learning ----------------------------------------------------------------------------------------

    def _learn_new(self) -> None:
        """Learn the messages that were added. After an interrupt the next call learns them again: that does no harm."""
        messages = tuple(self._new)
        if not messages:
            return
        texts = [(message, *found) for message in messages for found in _texts(message)]
        # First what is no secret, of all of them: the config comes last in a plan, but not everywhere.
        for _, kind, text in texts:
            if kind is _PUBLIC:
                self._public.update((text, *_words(text), *_parts_of(text)))
        for message, kind, text in texts:
            if kind is _SECRET:
                self._learn(text, but=self._public if type(message) is SetConfig else ())
            elif kind is _NAME:
                self._parts.update(_parts_of(text))
                self._add_piece(text)
        del self._new[: len(messages)]

    def _learn(self, secret: str, but: Collection[str] = ()) -> None:
        if len(secret) < _LONG:
            self._parts.update(part for part in _parts_of(secret) if part not in but)
        else:
            self._long.append((secret, but))
            self._samples.update(secret[at : at + _SAMPLE] for at in range(0, len(secret) - _SAMPLE + 1, _STEP))
        whole = secret.strip()
        if len(whole) < PART:
            self._add(whole)
        for line in whole.splitlines():
            self._add_piece(line.strip())
        for word in _words(whole).difference(but):
            self._add_piece(word)

    def _learn_long(self) -> None:
        """Learn each long secret once as much text has been read as the secret is long: learning then pays off."""
        waiting = []
        for secret, but in self._long:
            if self._read < len(secret):
                waiting.append((secret, but))
            else:
                self._parts.update(part for part in _parts_of(secret) if part not in but)
        # Not before all are learnt: an interrupt may come in between.
        self._long = waiting
        if not waiting:
            self._samples = set()

    def _parts_in(self, view: str) -> set[str]:
        """The parts of the long secrets that stand in `view`, which is short beside them.

        Any part holds a sample that begins at a multiple of `_STEP`. So only these are looked up, and the secrets are
        only searched where one is found: most refusals quote nothing.
        """
        found: set[str] = set()
        samples = {view[at : at + _SAMPLE] for at in range(len(view) - _SAMPLE + 1)} & self._samples
        if not samples:
            return found
        parts = set(_parts_of(view))
        # A search costs time, too, and a guest may send many short texts that each trigger one.
        self._read += sum(len(secret) for secret, _ in self._long) // _SEARCHES
        for secret, but in self._long:
            for at in range(0, len(secret) - _SAMPLE + 1, _STEP):
                if secret[at : at + _SAMPLE] in samples:
                    around = {secret[start : start + PART] for start in range(max(at - _STEP + 1, 0), at + 1)}
                    found |= (around & parts).difference(but)
        return found

    def _add_piece(self, piece: str) -> None:
        """Look for a line, a word or a name by itself: not for ordinary words, nor for what is found by its parts."""
        if len(piece) < PART and not _ORDINARY.fullmatch(piece):
            self._add(piece)

    def _add(self, text: str) -> None:
        # What stands in the replacement itself would be replaced again and again.
        if len(text) >= SHORTEST and text not in REDACTED:
            self._short.add(text)
            self._heads.setdefault(text[:SHORTEST], set()).add(len(text))

    # -- finding -----------------------------------------------------------------------------------------

    def _marks(self, view: str) -> bytearray:
        """Return a byte for each character of `view`, 1 where a secret is."""
        parts, short, heads = self._parts, self._short, self._heads
        if self._long and (found_in_long := self._parts_in(view)):
            parts = parts | found_in_long
        marks = bytearray(len(view))
        if parts:
            for at in [at for at in range(len(view) - PART + 1) if view[at : at + PART] in parts]:
                marks[at : at + PART] = _MARKS[PART]
        if heads:
            for at in [at for at in range(len(view) - SHORTEST + 1) if view[at : at + SHORTEST] in heads]:
                for size in heads[view[at : at + SHORTEST]]:
                    # At the end it may be another one, which is shorter.
                    found = view[at : at + size]
                    if found in short:
                        marks[at : at + len(found)] = _MARKS[len(found)]
        return marks


#: Types whose values hold no text.
_PLAIN: Final = frozenset((bool, int, float))


def redact_reply(reply: R, requests: Iterable[Request]) -> R:
    """Return `reply` with the secrets of `requests` taken out of it, if it is a refusal (§3).

    Costs nothing for other replies, and for refusals without a sentence. Where many replies are read while the same
    requests wait, a `Redactor` of one's own learns the secrets once.
    """
    if not isinstance(reply, Ack) or not reply.error:
        return reply
    try:
        return Redactor(requests).redact_reply(reply)
    except BaseException:
        del reply
        raise


#: One mark for each character of a short secret, or of a part.
_MARKS: Final = tuple(b"\x01" * size for size in range(PART + 1))
_RUN: Final = re.compile(rb"\x01+")


# ---------------------------------------------------------------------------------------------------------
# What is secret
# ---------------------------------------------------------------------------------------------------------

_SECRET, _NAME, _PUBLIC = "secret", "name", "public"


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    """Yield the texts of `message`, each with what it is: a secret, the name of a member of one, or public."""
    for hidden, value in _values(message):
        for is_name, text in _strings(value):
            yield (_NAME if is_name else _SECRET) if hidden else _PUBLIC, text


def _values(message: Message) -> Iterator[tuple[bool, Any]]:
    """Yield the values of `message`, each with whether its class hides it in its repr."""
    for field in attrs.fields(type(message)):
        value = getattr(message, field.name)
        row = BY_TYPE[Role.HOST].get(message.type) if type(message) is CustomRequest else None
        if row is not None and field.name == "payload" and isinstance(value, dict):
            # With the name of a class it is redacted as that class is.
            shown = {member.name for member in attrs.fields(row.cls) if member.repr is not False}
            yield from ((name not in shown, item) for name, item in value.items())
        else:
            yield field.repr is False, value


def _strings(value: Any) -> Iterator[tuple[bool, str]]:
    """Yield the texts in a JSON value, each with whether it is the name of a member. Numbers count as texts."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield False, item
        elif isinstance(item, (dict, list, tuple)):
            # A value that holds itself cannot be sent, but it can be asked about.
            if id(item) not in seen:
                seen.add(id(item))
                waiting += item.values() if isinstance(item, dict) else item
                yield from ((True, name) for name in item if isinstance(item, dict) and isinstance(name, str))
        elif isinstance(item, (int, float)) and not isinstance(item, bool) and abs(item) < _LONGEST_NUMBER:
            yield False, str(item)


#: Larger numbers are not written as text: Python may refuse to.
_LONGEST_NUMBER: Final = 10**300


def _parts_of(text: str) -> Iterator[str]:
    return (text[at : at + PART] for at in range(len(text) - PART + 1))


def _words(text: str) -> set[str]:
    """The words of `text` that are too long to be ignored, and too short to be found by their parts."""
    return {word for cut in _CUTS for word in cut.findall(text) if WORD <= len(word) < PART}


# ---------------------------------------------------------------------------------------------------------
# Escapes
# ---------------------------------------------------------------------------------------------------------


def _views(text: str) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield `text` as it is, and as it reads without its escapes; with each, where its characters are in `text`.

    Places have one more item than the view has characters: the end. Backslashes are taken away twice, because a line
    of JSON may be quoted in a sentence.
    """
    places: Sequence[int] = range(len(text) + 1)
    yield text, places
    for sign, escape, plain in _ONCE:
        if sign in text:
            yield _unescaped(text, places, escape, plain)
    view = text
    for _ in range(2):
        if "\\" not in view:
            break
        view, places = _unescaped(view, places, _BACKSLASH, _from_backslash)
        yield view, places


def _unescaped(text: str, places: Sequence[int], escape: str, plain: Callable[[str], str]) -> tuple[str, Sequence[int]]:
    """Return `text` with each `escape` replaced by the one character that it stands for, and the places."""
    kept: list[str] = []
    origins = array("Q")
    at = 0
    for found in _compiled(escape).finditer(text):
        kept += [text[at : found.start()], plain(found[0])]
        origins.extend(places[at : found.start() + 1])
        at = found.end()
    origins.extend(places[at:])
    return "".join([*kept, text[at:]]), origins


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """`pattern`, compiled when the first text needs it: most texts have no escape, and every program imports this."""
    return re.compile(pattern)


def _bytes(prefix: str, *, leads: tuple[str, str, str], more: str, one: str) -> str:
    """A pattern for one character in bytes that are each written as `prefix` and a number: UTF-8, or Latin-1."""
    longer = (prefix + lead + (prefix + more) * count for count, lead in enumerate(leads, 1))
    return "|".join((*longer, prefix + one))


_HEX: Final[dict[str, Any]] = {
    "leads": ("[cdCD][0-9a-fA-F]", "[eE][0-9a-fA-F]", "[fF][0-7]"),
    "more": "[89abAB][0-9a-fA-F]",
    "one": "[0-9a-fA-F]{2}",
}
_OCTAL: Final[dict[str, Any]] = {
    "leads": ("3[0-3][0-7]", "3[45][0-7]", "36[0-7]"),
    "more": "2[0-7]{2}",
    "one": "[0-3][0-7]{2}",
}
#: Bytes; UTF-16 and code points; a letter; any other sign stands for itself.
_BACKSLASH: Final = "|".join(
    (
        _bytes(r"\\x", **_HEX),
        _bytes(r"\\", **_OCTAL),
        r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U00[01][0-9a-fA-F]{5}",
        r"\\[abefnrtv0]|\\\W",
    )
)
_LETTER_ESCAPES: Final = dict(zip("abefnrtv0", "\a\b\x1b\f\n\r\t\v\0", strict=True))

_PERCENT: Final = _bytes("%", **_HEX)

#: In a form that a browser sends, a plus stands for a blank.
_PLUS: Final = rf"\+|{_PERCENT}"

#: The entities of HTML and XML that stand for signs. Others are numbers.
_ENTITIES: Final = {
    "&lt;": "<",
    "&gt;": ">",
    "&amp;": "&",
    "&quot;": '"',
    "&apos;": "'",
}
_ENTITY: Final = "|".join((*_ENTITIES, "&#[0-9]{1,7};", "&#[xX][0-9a-fA-F]{1,6};"))


def _character(codes: list[int]) -> str:
    """The character that some bytes stand for: UTF-8, or a byte alone."""
    text = bytes(codes).decode("utf-8", "replace")
    return text if len(text) == 1 and len(codes) > 1 else chr(codes[0])


def _code_point(code: int) -> str:
    # Beyond Unicode there is nothing that a secret could hold.
    return chr(code) if code <= 0x10FFFF else "\ufffd"


def _from_percent(escape: str) -> str:
    return _character([int(number, 16) for number in escape.split("%")[1:]])


def _from_plus(escape: str) -> str:
    return " " if escape == "+" else _from_percent(escape)


def _from_entity(escape: str) -> str:
    if escape in _ENTITIES:
        return _ENTITIES[escape]
    digits = escape[2:-1]
    return _code_point(int(digits[1:], 16) if digits[0] in "xX" else int(digits))


def _from_shell(_escape: str) -> str:
    return "'"


#: A sign that such an escape has, the escape, and what it stands for.
_ONCE: Final[tuple[tuple[str, str, Callable[[str], str]], ...]] = (
    ("%", _PERCENT, _from_percent),
    ("+", _PLUS, _from_plus),
    ("&", _ENTITY, _from_entity),
    # Two ways to write a quote inside of quotes.
    ("'", r"'\\''|'\"'\"'", _from_shell),
)


def _from_backslash(escape: str) -> str:
    kind = escape[1]
    if kind == "x":
        return _character([int(number, 16) for number in escape.split(r"\x")[1:]])
    if kind in "uU":
        return _utf16([int(number, 16) for number in re.split(r"\\[uU]", escape)[1:]])
    if len(escape) > 2:
        return _character([int(number, 8) for number in escape.split("\\")[1:]])
    return _LETTER_ESCAPES.get(kind, kind)


def _utf16(codes: list[int]) -> str:
    if len(codes) == 1:
        return _code_point(codes[0])
    return chr(0x10000 + ((codes[0] - 0xD800) << 10) + (codes[1] - 0xDC00))
