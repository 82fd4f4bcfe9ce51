"""Just enough of TOML's grammar to cut a table out of a text that tomllib has accepted.

tomllib reads, and tells no places; a writer would lose comments and layout. Here a text is only divided into
statements. The text is known to be TOML, so nothing is checked.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import attrs

Path = tuple[str | int, ...]

# Possessive throughout: what has matched once is never looked at again, so the time is linear in the text.
_PIECE: Final = re.compile(
    r'"""(?:[^"\\]++|\\.|""?(?!"))*+"{3,5}'  # strings, whose brackets, hashes and newlines do not count
    r"|'''(?:[^']++|''?(?!'))*+'{3,5}"
    r'|"(?:[^"\\]++|\\.)*+"'
    r"|'[^']*+'"
    r"|#[^\n]*+"
    r"|[\[\]{}\n]",
    re.DOTALL,
)
_KEY_PIECE: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|\'[^\']*+\'|[\]=]')
_DEPTH: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


@attrs.frozen
class Statement:
    """A header or a key with its value.

    `path` is where it leads, with indexes for arrays of tables. `line` is its 1-based line, `start` and `end`
    its place in the text, from the start of its line to the start of the line after it.
    """

    path: Path
    line: int
    start: int
    end: int


def statements(text: str) -> tuple[Statement, ...]:
    """Divide `text` into its statements. Blank lines and comments between them belong to none."""
    found: list[Statement] = []
    table: Path = ()
    counts: dict[Path, int] = {}
    for start, end, line in _segments(text):
        source = text[start:end].strip()
        if source.startswith("["):
            path = table = _header_path(source, counts)
        elif source and not source.startswith("#"):
            path = (*table, *_key_path(source, "="))
        else:
            continue
        found.append(Statement(path, line, start, end))
    return tuple(found)


def without_table(text: str, name: str) -> str:
    """`text` without the top-level table `name`, in whichever way it is written.

    The table reaches to the next statement outside it, less the comment that stands right above that one. So
    the comments inside go too: a secret that was commented out is still a secret. Every other byte stays.
    """
    kept: list[str] = []
    position = 0
    inside = False
    for statement in statements(text):
        gap = text[position : statement.start]
        if statement.path[0] != name:
            kept += (_comment_above(gap) if inside else gap, text[statement.start : statement.end])
            inside = False
        elif not inside:
            kept.append(gap)
            inside = True
        position = statement.end
    if not inside:
        kept.append(text[position:])
    return "".join(kept)


def _comment_above(gap: str) -> str:
    """What is kept of the lines between a removed table and the next statement."""
    # Not splitlines, to which a comment may hold ends of line that are none to TOML.
    lines = gap.split("\n")[:-1]
    blank = next((index for index in reversed(range(len(lines))) if not lines[index].strip()), None)
    # Right below the last setting, or with a setting in it, a comment is rather the table's.
    if blank is None or "=" in (comment := "\n".join([*lines[blank:], ""])):
        return ""
    return comment


def _segments(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield the start, the end and the first line of each statement, comment or blank line."""
    start = depth = 0
    first = line = 1
    for match in _PIECE.finditer(text):
        piece = match[0]
        line += piece.count("\n")
        depth += _DEPTH.get(piece, 0)
        if piece == "\n" and depth == 0:
            yield start, match.end(), first
            start, first = match.end(), line
    if start < len(text):
        yield start, len(text), first


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
