"""Where the keys of a TOML text stand.

tomllib does not report positions. This module splits a text that tomllib has accepted into its statements, so that an
error can name a line. The text is known to be valid TOML by then, so nothing is checked. `line_of_a_long_key` is the
exception: it takes any text, before tomllib does.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import attrs

Path = tuple[str | int, ...]

# Possessive throughout, and a string without an end reaches to the end of the text: what has matched once is never
# looked at again, so the time is linear in the text.
_PIECE: Final = re.compile(
    r'"""(?:[^"\\]++|\\.|""?(?!"))*+(?:"{3,5}|\\?\Z)'  # strings, whose brackets, hashes and newlines do not count
    r"|'''(?:[^']++|''?(?!'))*+(?:'{3,5}|\Z)"
    r'|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
    r"|'[^']*+(?:'|\Z)"
    r"|#[^\n]*+"
    r"|[\[\]{}\n]",
    re.DOTALL,
)
#: Names that a key may have. tomllib takes a time for a key that grows with the square of their number.
MAX_NAMES: Final = 100
_LONG_KEY: Final = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_NAMES}}}")
_KEY_PIECE: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|\'[^\']*+\'|[\]=]')
_DEPTH: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


@attrs.frozen
class Statement:
    """A header, or a key with its value."""

    #: Where it leads, with indexes for arrays of tables.
    path: Path
    #: Its first line, 1-based.
    line: int


def line_of_a_long_key(text: str) -> int:
    """The line, 1-based, of a key with more than MAX_NAMES names; 0 where there is none. `text` may be invalid TOML."""
    if text.count(".") < MAX_NAMES:
        return 0
    # Strings and comments may hold dots. In a key, a quoted name counts as any other.
    bare = _PIECE.sub(_bare, text)
    found = _LONG_KEY.search(bare)
    return 0 if found is None else bare.count("\n", 0, found.start()) + 1


def _bare(piece: re.Match[str]) -> str:
    text = piece[0]
    if text[0] in "\"'":
        return "x" + "\n" * text.count("\n")
    return "" if text[0] == "#" else text


def statements(text: str) -> tuple[Statement, ...]:
    """Divide `text` into its statements. Blank lines and comments are none."""
    found: list[Statement] = []
    table: Path = ()
    counts: dict[Path, int] = {}
    for segment, line in _segments(text):
        source = segment.strip()
        if source.startswith("["):
            path = table = _header_path(source, counts)
        elif source and not source.startswith("#"):
            path = (*table, *_key_path(source, "="))
        else:
            continue
        found.append(Statement(path, line))
    return tuple(found)


def _segments(text: str) -> Iterator[tuple[str, int]]:
    """Yield the text and the first line of each statement, comment or blank line."""
    start = depth = 0
    first = line = 1
    for match in _PIECE.finditer(text):
        piece = match[0]
        line += piece.count("\n")
        depth += _DEPTH.get(piece, 0)
        if piece == "\n" and depth == 0:
            yield text[start : match.end()], first
            start, first = match.end(), line
    if start < len(text):
        yield text[start:], first


def _header_path(header: str, counts: dict[Path, int]) -> Path:
    """The place that a header leads to. `counts` has the tables of each array so far, and is brought up to date."""
    names = _key_path(header.lstrip("[ \t"), "]")
    path: Path = ()
    for position, name in enumerate(names):
        path += (name,)
        if position == len(names) - 1 and header.startswith("[["):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path


def _key_path(source: str, stop: str) -> tuple[str, ...]:
    """The names of a dotted key, which ends at `stop`. Quoted names are read by tomllib itself."""
    end = next(match.start() for match in _KEY_PIECE.finditer(source) if match[0] == stop)
    names: list[str] = []
    table: Any = tomllib.loads(f"{source[:end]} = 0")
    while isinstance(table, dict):
        name = next(iter(table))
        names.append(name)
        table = table[name]
    return tuple(names)
