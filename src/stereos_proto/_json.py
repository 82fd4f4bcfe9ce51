"""Reading JSON exactly as the reference does, where msgspec does not (`docs/protocol.md` §4).

The tolerant lane of the codec stands on this: bytes that are no UTF-8 and lone surrogates become U+FFFD, lines
may nest 10,000 levels, a member that stands twice is checked twice and its last value wins.

The standard library's C scanner does the work. It recurses, and what it says of a fault depends on the
Python version; so lines that nest deeply, and lines that are no JSON, are read again by a loop of our own,
which needs no recursion and words a fault as the reference does.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Never

from ._constants import MAX_KEPT_NESTING, MAX_NESTING

_PLAIN: Final = r'[^"\\\x00-\x1f]*+'
_ESCAPE: Final = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_STRING: Final = rf'"{_PLAIN}(?:{_ESCAPE}{_PLAIN})*+'
_DIGITS: Final = r"-?(?:0|[1-9][0-9]*+)"
_NUMBER: Final = rf"{_DIGITS}(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+(?![.eE])"
_TOKEN: Final = re.compile(
    rf'[ \t\n\r]*+(?:(?P<mark>[\[\]{{}},:])|(?P<string>{_STRING}")|(?P<scalar>{_NUMBER}|true|false|null)|(?P<end>\Z)|)'
)
_BLANKS: Final = re.compile(r"[ \t\n\r]*+")
_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_BAD_STRING: Final = re.compile(_STRING)
_BAD_NUMBER: Final = re.compile(rf"(?:{_DIGITS})?+(?P<point>\.[0-9]*+)?+(?P<exponent>[eE][-+]?[0-9]*+)?+")
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

#: Digits that `int` takes however low a program has set CPython's guard against quadratic work.
_MAX_DIGITS: Final = 640


class MalformedJSON(ValueError):
    """Not JSON. `column` is the 1-based character at which reading stopped. Never leaves the package."""

    def __init__(self, reason: str, column: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column


class Members(dict[str, Any]):
    """A JSON object. `shadowed` holds the earlier values of members that stand more than once."""

    __slots__ = ("shadowed",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__()
        shadowed: list[tuple[str, Any]] = []
        for name, value in pairs:
            clean = clean_text(name)
            if clean in self:
                shadowed.append((clean, self[clean]))
            self[clean] = value
        self.shadowed = tuple(shadowed)


class NegativeZero(int):
    """The number `-0`: an integer for signed fields, an error for unsigned ones, as in the reference."""


class TooDeep:
    """Stands for a value that nests more levels than a kept value may."""


TOO_DEEP: Final = TooDeep()


def _integer(digits: str) -> int | float:
    if digits == "-0":
        return NegativeZero()
    # A longer one is infinite as a double, and quadratic work as an integer.
    return int(digits) if len(digits.removeprefix("-")) <= _MAX_DIGITS else float(digits)


def _constant(_name: str) -> Never:
    raise MalformedJSON("NaN and Infinity are no JSON", 0)


_SCANNER: Final = json.JSONDecoder(object_pairs_hook=Members, parse_int=_integer, parse_constant=_constant)


def parse(line: bytes) -> Any:
    """Return the value on `line`.

    Objects come as `Members`; lone surrogates inside strings are left to `clean_text`.

    Raises MalformedJSON, with a text that repeats at most one character of the line.
    """
    text = _ESCAPED_BYTE.sub("\ufffd", line.decode("utf-8", "surrogateescape"))
    if text.count("[") + text.count("{") > MAX_KEPT_NESTING:
        depth = _nesting(text)
        if depth > MAX_NESTING:
            raise MalformedJSON("exceeded max depth", 0)
        if depth > MAX_KEPT_NESTING:
            return _Loop(text).read()
    try:
        value, end = _SCANNER.raw_decode(text, _skip_blanks(text, 0))
        if _skip_blanks(text, end) == len(text):
            return value
    except ValueError:
        pass
    return _Loop(text).read()


def clean_text(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def clean_value(value: Any) -> Any:
    """A parsed value as plain Python data: what the payload of an unknown type is kept as.

    Raises ValueError when it nests deeper than a kept value may.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {name: clean_value(member) for name, member in value.items()}
    if isinstance(value, list):
        return [clean_value(item) for item in value]
    if value is TOO_DEEP:
        raise ValueError(f"nests deeper than {MAX_KEPT_NESTING} levels")
    return 0 if type(value) is NegativeZero else value


def json_type(value: Any) -> str:
    """What JSON calls the type of a parsed value."""
    if value is None:
        return "null"
    names = ((bool, "bool"), (str, "string"), (dict, "object"), ((list, TooDeep), "array"))
    return next((name for types, name in names if isinstance(value, types)), "number")


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _nesting(text: str) -> int:
    depth = deepest = 0
    for match in _BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in "]}":
            depth -= 1
    return deepest


#: What may follow, by what is expected: token → what is expected then, or a step to take. "push" and "pop"
#: open and close a container, "key" is a member's name, "item" a complete value.
_GRAMMAR: Final[dict[str, dict[str, str]]] = {
    "value": {"[": "push", "{": "push", "string": "item", "scalar": "item"},
    "first": {"[": "push", "{": "push", "string": "item", "scalar": "item", "]": "pop"},
    "name or end": {"string": "key", "}": "pop"},
    "name": {"string": "key"},
    "colon": {":": "value"},
    "more in [": {",": "value", "]": "pop"},
    "more in {": {",": "name", "}": "pop"},
    "nothing": {"end": "done"},
}
#: How the reference words a character that does not belong.
_PLACES: Final = {
    "value": "looking for beginning of value",
    "first": "looking for beginning of value",
    "name or end": "looking for beginning of object key string",
    "name": "looking for beginning of object key string",
    "colon": "after object key",
    "more in [": "after array element",
    "more in {": "after object key:value pair",
    "nothing": "after top-level value",
}


class _Loop:
    """JSON by a loop instead of by recursion. What nests too deep to be kept is checked, then forgotten."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open: list[tuple[str, list[Any]]] = []  # per open container: its bracket; its items or pairs
        self._names: list[str] = []  # of members that still wait for their value
        self._expect = "value"
        self._value: Any = None

    def read(self) -> Any:
        position = 0
        while self._expect != "done":
            match = _TOKEN.match(self._text, position)
            kind = match.lastgroup if match else None
            token = match[kind] if match and kind else ""
            step = _GRAMMAR[self._expect].get(token if kind == "mark" else str(kind))
            if match is None or kind is None or step is None:
                raise self._fault(_skip_blanks(self._text, position))
            position = match.end()
            self._take(step, token)
        return self._value

    def _take(self, step: str, token: str) -> None:
        if step == "push":
            self._open.append((token, []))
            self._expect = {"[": "first", "{": "name or end"}[token]
        elif step == "pop":
            bracket, items = self._open.pop()
            value = items if bracket == "[" else Members(items)
            self._finish(value if len(self._open) < MAX_KEPT_NESTING else TOO_DEEP)
        elif step == "key":
            self._names.append(_SCANNER.raw_decode(token)[0])
            self._expect = "colon"
        elif step == "item":
            self._finish(_SCANNER.raw_decode(token)[0])
        else:
            self._expect = step

    def _finish(self, value: Any) -> None:
        if not self._open:
            self._value, self._expect = value, "nothing"
            return
        bracket, items = self._open[-1]
        items.append(value if bracket == "[" else (self._names.pop(), value))
        self._expect = f"more in {bracket}"

    def _fault(self, position: int) -> MalformedJSON:
        rest = self._text[position : position + 1]
        place = _PLACES[self._expect]
        after = _PLACES[f"more in {self._open[-1][0]}" if self._open else "nothing"]
        grammar = _GRAMMAR[self._expect]
        if rest == '"' and "string" in grammar:
            position, place = _fault_in_string(self._text, position)
        elif "scalar" in grammar and rest and rest in "-0123456789":
            position, place = _fault_in_number(self._text, position, after)
        elif "scalar" in grammar and rest and rest in "tfn":
            position, place = _fault_in_literal(self._text, position)
        if position >= len(self._text):
            return MalformedJSON("unexpected end of JSON input", len(self._text) + 1)
        return MalformedJSON(f"invalid character {_quoted(self._text[position])} {place}", position + 1)


def _fault_in_string(text: str, start: int) -> tuple[int, str]:
    match = _BAD_STRING.match(text, start)
    position = match.end() if match else start
    if text[position : position + 1] != "\\":
        return position, "in string literal"
    if text[position + 1 : position + 2] != "u":
        return position + 1, "in string escape code"
    position += 2
    while text[position : position + 1] in tuple("0123456789abcdefABCDEF"):
        position += 1
    return position, r"in \u hexadecimal character escape"


def _fault_in_number(text: str, start: int, after: str) -> tuple[int, str]:
    match = _BAD_NUMBER.match(text, start)
    if match is None or match.end() == start:
        return start + 1, "in numeric literal"
    for group, place in (
        ("point", "after decimal point in numeric literal"),
        ("exponent", "in exponent of numeric literal"),
    ):
        if match[group] and not match[group][-1].isdigit():
            return match.end(group), place
    # Nothing wrong with it but what follows: a second point or exponent.
    return match.end(), after


def _fault_in_literal(text: str, start: int) -> tuple[int, str]:
    word = {"t": "true", "f": "false", "n": "null"}[text[start]]
    offset = next(offset for offset, letter in enumerate(word) if text[start + offset : start + offset + 1] != letter)
    return start + offset, f"in literal {word} (expecting '{word[offset]}')"


def _quoted(character: str) -> str:
    named = {"'": r"'\''", '"': "'\"'", "\\": r"'\\'", "\n": r"'\n'", "\t": r"'\t'", "\r": r"'\r'"}
    if character in named:
        return named[character]
    # The reference scans bytes, so it names the first byte of a character.
    byte = character.encode("utf-8", "replace")[0]
    return f"'{chr(byte)}'" if chr(byte).isprintable() else f"'\\x{byte:02x}'"
