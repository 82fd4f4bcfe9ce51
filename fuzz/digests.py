"""Digests of code, by which a figure is known to be of the code as it is."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path


def code(path: Path) -> str:
    """What a module does, whatever its comments and docstrings say, and wherever its lines are broken."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return ast.dump(tree)


def digest(paths: Iterable[Path]) -> str:
    """A name for what these modules do."""
    summed = hashlib.sha256()
    for path in paths:
        summed.update(code(path).encode())
    return summed.hexdigest()[:12]
