"""Count lines of code: without blank lines, comments and docstrings.

    python tools/count_lines.py src examples/loop_tk.py:TkClient

Arguments are files, folders, and `FILE:NAME` for one class or function. A folder prints each file and the sum.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import Final

_NO_CODE: Final = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> set[int]:
    """The numbers of the lines of `text` that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines


def count(path: Path, name: str = "") -> int:
    """Count the lines of code of a file, or of one class or function of it. Raises LookupError."""
    text = path.read_text(encoding="utf-8")
    lines = code_lines(text)
    if not name:
        return len(lines)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return len(lines.intersection(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
    raise LookupError(f"there is no {name} in {path}")


def count_without_main(path: Path) -> int:
    """Count the lines of code of a script without its function `main` and what runs that."""
    lines = code_lines(text := path.read_text(encoding="utf-8"))
    for node in ast.parse(text).body:
        if isinstance(node, ast.If) or getattr(node, "name", "") == "main":
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main(arguments: list[str]) -> None:
    """Print a count for each argument."""
    for argument in arguments:
        place, _, name = argument.partition(":")
        path = Path(place)
        files = sorted(path.rglob("*.py")) if path.is_dir() else []
        counts = {file: count(file) for file in files} if files else {argument: count(path, name)}
        for file, lines in counts.items():
            print(f"{lines:6}  {file}")
        if files:
            print(f"{sum(counts.values()):6}  {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
