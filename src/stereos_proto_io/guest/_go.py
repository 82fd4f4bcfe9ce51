"""How the reference writes text and paths: Go's `%q`, `filepath.Clean` and error texts (`docs/protocol.md` §6)."""

from __future__ import annotations

import os
import unicodedata
from typing import Final

_SHORT: Final = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}


def quote(text: str) -> str:
    r"""Return `text` as Go's `%q` prints it: in double quotes, with `\n`, `\x00` and `\u200b` escaped."""
    return f'"{"".join(map(_escape, text))}"'


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    # Go's IsPrint: letters, marks, numbers, punctuation, symbols, and of all spaces only U+0020.
    if character == " " or unicodedata.category(character)[0] in "LMNPS":
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clean_path(path: str) -> str:
    """Return `path` as Go's `filepath.Clean` does: no `.`, no `//`, each `..` resolved by its text alone.

    Not `posixpath.normpath`: that keeps a leading `//`, and some versions of it stop at a NUL.
    """
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts and parts[-1] != "..":
            parts.pop()
        elif not rooted:
            parts.append(part)
    return "/" * rooted + "/".join(parts) or "."


def base_name(path: str) -> str:
    """Return the last element of `path` as Go's `filepath.Base` does: "." for "", "/" for slashes alone."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


def os_error(operation: str, path: str, code: int) -> str:
    """Return what Go says of a system call that failed: `mkdir /w: permission denied`."""
    text = os.strerror(code)
    # Go has its own table, which is the C library's in lower case but for names.
    return f"{operation} {path}: {text[:1].lower()}{text[1:]}"
