"""Just enough of TOML's grammar to cut a table out of a text that tomllib has accepted.

tomllib reads, and tells no places; a writer would lose comments and layout. Here a text is only divided into
statements. The text is known to be TOML, so nothing is checked.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import attrs

_PIECE: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # strings, whose brackets, hashes and newlines do not count
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[{]|[\]}]|\n",
    re.DOTALL,
)
_HEADER: Final = re.compile(r"\s*\[\[?")
_ASSIGNMENT: Final = re.compile(r"\s*#+\s*[\w\"'.-]+\s*=")


@attrs.frozen
class Statement:
    """A header or a key with its value.

    `path` is where it leads, with indexes for arrays of tables. `line` is its 1-based line, `start` and `end`
    its place in the text, from the start of its line to the start of the line after it.
    """

    path: tuple[str | int, ...]
    line: int
    start: int
    end: int
    is_header: bool


def statements(text: str) -> tuple[Statement, ...]:
    """Divide `text` into its statements. Blank lines and comments between them belong to none."""
    found: list[Statement] = []
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    position = 0
    while position < len(text):
        end = _end_of_statement(text, position)
        source = text[position:end]
        stripped = source.strip()
        if stripped and not stripped.startswith("#"):
            is_header = bool(_HEADER.match(source))
            if is_header:
                table = _header_path(stripped, counts)
                path = table
            else:
                path = (*table, *_key_path(source, "="))
            line = text.count("\n", 0, position) + 1
            found.append(Statement(path, line, position, end, is_header))
        position = end
    return tuple(found)


def without_table(text: str, name: str) -> str:
    """`text` without the top-level table `name`, in whichever way it is written.

    What stands between its statements goes with it, and so do comments that look like one of its settings:
    a secret that was commented out is still a secret. Every other byte stays.
    """
    kept: list[str] = []
    position = 0
    inside = False
    for statement in statements(text):
        gap = text[position : statement.start]
        ours = statement.path[0] == name
        if inside:
            kept.append("" if ours else _after_table(gap))
        else:
            kept.append(gap)
        if not ours:
            kept.append(text[statement.start : statement.end])
        inside = ours
        position = statement.end
    rest = text[position:]
    return "".join([*kept, _after_table(rest) if inside else rest])


def _after_table(gap: str) -> str:
    """What is kept of the lines between the end of a removed table and the next statement."""
    lines = gap.splitlines(keepends=True)
    # Comments right below the last setting belong to it.
    first_blank = next((index for index, line in enumerate(lines) if not line.strip()), len(lines))
    return "".join(line for line in lines[first_blank:] if not _ASSIGNMENT.match(line))


def _end_of_statement(text: str, start: int) -> int:
    """The start of the line after the statement (or comment, or blank line) that starts at `start`."""
    depth = 0
    for match in _PIECE.finditer(text, start):
        piece = match[0]
        if piece in "[{":
            depth += 1
        elif piece in "]}":
            depth -= 1
        elif piece == "\n" and depth == 0:
            return match.end()
    return len(text)


def _header_path(header: str, counts: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """The place that a header leads to. `counts` has the tables of each array so far, and is brought up to date."""
    is_array = header.startswith("[[")
    names = _key_path(header.strip("[ \t"), "]")
    path: tuple[str | int, ...] = ()
    for position, name in enumerate(names):
        path += (name,)
        last = position == len(names) - 1
        if last and is_array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path


def _key_path(source: str, stop: str) -> tuple[str, ...]:
    """The names of a dotted key, which ends at `stop`. Quoted names are read by tomllib itself."""
    end = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[\]=]', source):
        if match[0] == stop:
            end = match.start()
            break
    names: list[str] = []
    table: Any = tomllib.loads(f"{source[:end]} = 0")
    while isinstance(table, dict):
        name = next(iter(table))
        names.append(name)
        table = table[name]
    return tuple(names)
