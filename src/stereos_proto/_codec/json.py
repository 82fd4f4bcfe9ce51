"""Reading JSON exactly as the reference does, where msgspec does not (`docs/protocol.md` §4).

The tolerant lane stands on `parse`: bytes that are not UTF-8 become U+FFFD, lines may nest 10,000 levels, and all
members of an object are kept, also those that stand more than once.

The C scanner of the standard library does the work. Two things it cannot do. It recurses, so a line that nests
deeply would overflow the stack of a small thread. And what it says of a fault depends on the Python version. Both
are left to `_outline`, which never recurses. It stands on this: a text is JSON exactly when

1. every token may follow the token before it. Openings, a scalar or an empty container, closings, a comma: one
   regular expression describes that, and possessive quantifiers keep it linear;
2. every bracket closes the one that was opened last, and every comma suits the bracket around it: a comma before
   `"name":` stands in an object, any other in an array. A short loop over brackets and commas checks that.

The first place at which either rule fails is where the reference stops reading.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from itertools import accumulate, compress, count, repeat
from operator import mul
from typing import Any, Final, Never

from .._constants import MAX_KEPT_NESTING, MAX_NESTING

_PLAIN: Final = r'[^"\\\x00-\x1f]*+'
_ESCAPE: Final = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_OPEN_STRING: Final = rf'"{_PLAIN}(?:{_ESCAPE}{_PLAIN})*+'
_STRING: Final = rf'{_OPEN_STRING}"'
_DIGITS: Final = r"-?(?:0|[1-9][0-9]*+)"
_NUMBER: Final = rf"{_DIGITS}(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+(?![.eE])"
_SCALAR: Final = rf"{_NUMBER}|true|false|null"
_BLANK: Final = r"[ \t\n\r]*+"
_BLANKS: Final = re.compile(_BLANK)

# The first rule. A text is: openings, a leaf, closings, and after each comma the same again.
_OPENINGS: Final = rf"(?:\[{_BLANK}(?!\])|\{{{_BLANK}{_STRING}{_BLANK}:{_BLANK})*+"
_LEAF: Final = rf"(?:{_STRING}|{_SCALAR}|\[{_BLANK}\]|\{{{_BLANK}\}})(?:{_BLANK}[\]}}])*+"
_COMMA: Final = rf"{_BLANK},{_BLANK}(?:{_STRING}{_BLANK}:{_BLANK})?+"
_BEGINNING: Final = rf"{_BLANK}(?:{_OPENINGS}{_LEAF}{_COMMA})*+{_OPENINGS}"

# The second rule. `_STRINGS` is for text that obeys the first, `_NEXT_NAME` for such text with its strings filled.
_STRINGS: Final = r'(?s)("[^"\\]*+(?:\\.[^"\\]*+)*+")'
_NEXT_NAME: Final = rf',(?={_BLANK}"++{_BLANK}:)'
_MARKS: Final = b"[]{},;"
_NO_MARKS: Final = bytes(set(range(256)) - set(_MARKS))
_IS_MARK: Final = bytes(byte in _MARKS for byte in range(256))
#: A bracket or comma → the opening bracket that it needs. A semicolon is a comma in front of a name.
_NEEDS: Final = {ord(mark): ord(opening) for mark, opening in zip("]},;", "[{[{", strict=True)}

# For `nests_deeper`: strings in bytes, also one that never ends, and brackets as 1 and -1.
_SKIPPED_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SIGNS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

# For `_fault`: a token, and a number that may end too early.
_TOKEN: Final = rf"{_BLANK}(?:(?P<mark>[\[\]{{}},:])|(?P<string>{_STRING})|(?P<scalar>{_SCALAR}))"
_BAD_NUMBER: Final = rf"(?:{_DIGITS})?+(?P<point>\.[0-9]*+)?+(?P<exponent>[eE][-+]?[0-9]*+)?+"

_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

#: Digits that `int` takes however low a program has set CPython's guard against quadratic work.
_MAX_DIGITS: Final = 640
_LONG_NUMBER: Final = re.compile(rf"(?<![0-9])[0-9]{{{_MAX_DIGITS + 1}}}".encode())


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """`pattern`, compiled when the first line needs it: few programs meet such lines, and all of them import this."""
    return re.compile(pattern)


class MalformedJSON(ValueError):
    """Not JSON. `column` is the 1-based character at which reading stopped. Never leaves the package."""

    def __init__(self, reason: str, column: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column


#: A JSON object: its members in order, as many as there are. A tuple of pairs is what C code makes of an object
#: without a call into Python, and it takes no memory for an empty one.
Members = tuple[tuple[str, Any], ...]


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


def _no_constant(name: str) -> Never:
    raise ValueError(name)


def _cut_out(_name: str) -> TooDeep:
    return TOO_DEEP


_SCANNER: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_no_constant)
#: For lines with numbers that need a look.
_EXACT_SCANNER: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_no_constant, parse_int=_integer)
#: For lines whose deep values were cut out.
_CUT_SCANNER: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_cut_out, parse_int=_integer)
#: What is put where a value is cut out. It is no JSON, so it stands for nothing else.
_CUT: Final = "NaN"


def parse(line: bytes) -> Any:
    """Return the value on `line`.

    Objects come as `Members`; lone surrogates inside strings are left to `clean_text`.

    Raises MalformedJSON, with a text that repeats at most one character of the line.
    """
    text = line.decode("utf-8", "surrogateescape")
    if not text.isascii():
        text = _ESCAPED_BYTE.sub("\ufffd", text)
    if nests_deeper(line, MAX_KEPT_NESTING):
        return _CUT_SCANNER.decode(_without_deep(text))
    scanner = _EXACT_SCANNER if has_odd_numbers(line) else _SCANNER
    try:
        value, end = scanner.raw_decode(text, _skip_blanks(text, 0))
        if _skip_blanks(text, end) == len(text):
            return value
    except ValueError:
        # Continue after the `try`: an exception raised in here would have this one as its context, and that holds the
        # line.
        pass
    _without_deep(text)
    raise AssertionError("the scanner of the standard library refuses what is JSON")


def nests_deeper(line: bytes, levels: int) -> bool:
    """Whether reading `line` by recursion might go deeper than `levels`, whether it is JSON or not.

    Each step takes longer than the one before it, and is more exact. An array takes a byte at least, an object four
    (`{"":`), the innermost aside. A bracket that opens right after its neighbour has closed adds no level. Brackets
    inside strings are none. In the end the brackets are added up.
    """
    if len(line) <= levels or len(line) // 4 + 1 + _arrays(line) <= levels or _brackets(line, levels) <= levels:
        return False
    bare = _SKIPPED_STRINGS.sub(b"", line)
    if _brackets(bare, levels) <= levels:
        return False
    return max(accumulate(memoryview(bare.translate(_SIGNS, _NO_BRACKETS)).cast("b"))) > levels


def _arrays(line: bytes) -> int:
    # Looked for from both ends: counting takes a twentieth of the time of reading a health report.
    return 1 if line.find(b"[") == line.rfind(b"[") else line.count(b"[")


def _brackets(line: bytes, few: int) -> int:
    """The brackets that open on `line`; where they are not `few`, only those that do not follow a neighbour."""
    brackets = _arrays(line) + line.count(b"{")
    return brackets if brackets <= few else brackets - line.count(b"},{") - line.count(b"],[")


def has_odd_numbers(line: bytes) -> bool:
    """Whether `line` may hold numbers that other readers of JSON take for something else (§4)."""
    return b"-0" in line or (len(line) > _MAX_DIGITS and _LONG_NUMBER.search(line) is not None)


def clean_text(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def clean_value(value: Any) -> Any:
    """A parsed value as plain Python data: what the payload of an unknown type is kept as.

    Raises ValueError when it nests deeper than a kept value may.
    """
    if type(value) is str:
        return clean_text(value)
    if type(value) is tuple:
        return {clean_text(name): clean_value(member) for name, member in value}
    if type(value) is list:
        return [clean_value(item) for item in value]
    if value is TOO_DEEP:
        raise ValueError(f"nests deeper than {MAX_KEPT_NESTING} levels")
    return 0 if type(value) is NegativeZero else value


def json_type(value: Any) -> str:
    """What Go's `encoding/json` calls the type of a parsed value."""
    if value is None:
        return "null"
    names = ((bool, "bool"), (str, "string"), (tuple, "object"), ((list, TooDeep), "array"))
    return next((name for types, name in names if isinstance(value, types)), "number")


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _without_deep(text: str) -> str:
    """`text`, which is checked, with `_CUT` for each value below the levels that are kept."""
    pieces: list[str] = []
    kept = 0
    for start, end in _outline(text):
        pieces += (text[kept:start], _CUT)
        kept = end
    return "".join((*pieces, text[kept:]))


def _outline(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each value below the levels that are kept begins and ends. Raises MalformedJSON."""
    opened: list[int] = []
    sound, expected = _first_rule(text)
    start = 0
    for position, mark in _marks(text[:sound]):
        needed = _NEEDS.get(mark)
        if needed is None:
            opened.append(mark)
            if len(opened) == MAX_KEPT_NESTING + 1:
                start = position
            elif len(opened) > MAX_NESTING:
                raise MalformedJSON("exceeded max depth", 0)
            continue
        if not opened or opened[-1] != needed:
            raise _fault(text, position, opened, "more")
        if mark in b"]}":
            opened.pop()
            if len(opened) == MAX_KEPT_NESTING:
                yield start, position + 1
    if opened or expected != "more" or _skip_blanks(text, sound) < len(text):
        raise _fault(text, sound, opened, expected)


def _first_rule(text: str) -> tuple[int, str]:
    """Up to where `text` obeys the first rule, and what is expected there: a "value", or "more" after a value."""
    match = _compiled(_BEGINNING).match(text)
    end = match.end() if match else 0
    leaf = _compiled(_LEAF).match(text, end)
    return (leaf.end(), "more") if leaf else (end, "value")


def _marks(text: str) -> Iterator[tuple[int, int]]:
    """Position and character of each bracket and comma outside strings, a comma before a name as a semicolon."""
    pieces = _compiled(_STRINGS).split(text)
    # Filled with as many quotes, so that positions stay.
    pieces[1::2] = map(mul, repeat('"'), map(len, pieces[1::2]))
    filled = _compiled(_NEXT_NAME).sub(";", "".join(pieces)).encode()
    return zip(compress(count(), filled.translate(_IS_MARK)), filled.translate(None, _NO_MARKS), strict=True)


#: What is expected → the tokens that may come, and what is expected after each. "more" is what follows a complete
#: value. Only the steps that `_fault` can come to: the first rule has taken all others.
_STEPS: Final[dict[str, dict[str, str]]] = {
    "value": {"{": "first name", "string": "more", "scalar": "more"},
    "first name": {"string": "colon"},
    "name": {"string": "colon"},
    "colon": {":": "value"},
    "more in [": {",": "value"},
    "more in {": {",": "name"},
    "nothing": {},
}
#: How the reference words a character that does not belong.
_PLACES: Final = {
    "value": "looking for beginning of value",
    "first name": "looking for beginning of object key string",
    "name": "looking for beginning of object key string",
    "colon": "after object key",
    "more in [": "after array element",
    "more in {": "after object key:value pair",
    "nothing": "after top-level value",
}


def _fault(text: str, position: int, opened: list[int], expected: str) -> MalformedJSON:
    """What is wrong at `position` or a few tokens later, where `opened` brackets are open."""
    after = f"more in {chr(opened[-1])}" if opened else "nothing"
    while True:
        expected = after if expected == "more" else expected
        match = _compiled(_TOKEN).match(text, position)
        kind = match.lastgroup if match else None
        step = _STEPS[expected].get(match["mark"] if match and kind == "mark" else str(kind))
        if match is None or step is None:
            return _worded(text, _skip_blanks(text, position), expected, after)
        position, expected = match.end(), step


def _worded(text: str, position: int, expected: str, after: str) -> MalformedJSON:
    """The fault at `position`, in the words of the reference. `after` is what may follow a number there."""
    rest = text[position : position + 1]
    place = _PLACES[expected]
    steps = _STEPS[expected]
    if rest == '"' and "string" in steps:
        position, place = _fault_in_string(text, position)
    elif "scalar" in steps and rest and rest in "-0123456789":
        position, place = _fault_in_number(text, position, _PLACES[after])
    elif "scalar" in steps and rest and rest in "tfn":
        position, place = _fault_in_literal(text, position)
    if position >= len(text):
        return MalformedJSON("unexpected end of JSON input", len(text) + 1)
    return MalformedJSON(f"invalid character {_quoted(text[position])} {place}", position + 1)


def _fault_in_string(text: str, start: int) -> tuple[int, str]:
    match = _compiled(_OPEN_STRING).match(text, start)
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
    match = _compiled(_BAD_NUMBER).match(text, start)
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
