"""`stereosctl shell`: one guest, many commands, with line editing, completion, and a history without secrets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cyclopts import App

from ._app import refused, run
from ._complete import Words, completions
from ._console import clean, say
from ._errors import INTERRUPTED, UNHEARD, USAGE, Stopped, UsageError
from ._jobs import load_driver
from ._reading import MOST_SENT
from ._signals import interruption_caught
from ._targets import DEFAULT_PLACE, Place, by_default, in_shell
from ._tree import make_app

_LEAVE: Final = frozenset({"exit", "quit"})
#: Lines with one of these words never go to the history: a secret may be typed where it does not belong.
_FORGOTTEN: Final = frozenset({"secret", "send"})
_HISTORY_LINES: Final = 1000
_BLANKS: Final = " \t\r\n"
#: A piece of a line: blanks, or a part of a word.
_PIECE: Final = re.compile(
    rf"""(?P<blanks>[{_BLANKS}]+)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)"""
    rf"""|(?P<plain>[^{_BLANKS}'"\\]+)""",
    re.DOTALL,
)
#: What a backslash is for within double quotes.
_ESCAPED: Final = re.compile(r'\\(["\\$`])')
#: Words that mean themselves only where they are quoted.
_OPERATORS: Final = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>"})


def shell(guest: Place = DEFAULT_PLACE) -> int:
    """Type commands for one guest.

    Every command of stereosctl works, without its first word; Tab completes.
    Words, quotes, `#` and `~` are as in bash; there are no variables, patterns and pipes.
    `exit` or Ctrl-D leaves, Ctrl-C ends a command and goes back to the prompt. Lines
    may come from a pipe: then no command reads a value from there. The exit code is
    that of the last command.

    For example:

        stereosctl shell --vm dev
    """
    if in_shell():
        raise UsageError("this is a shell already: `exit` leaves it")
    target = guest.target()
    load_driver()
    with by_default(target):
        return _loop(f"{clean(target.name)}> ", make_app())


def _loop(prompt: str, app: App) -> int:
    code = 0
    with _editing(app) as remember:
        while True:
            try:
                line = _typed(prompt) if sys.stdin.isatty() else next(_piped())
            except Stopped:
                raise
            except KeyboardInterrupt:
                interruption_caught()
                say("")
                continue
            except (EOFError, StopIteration):
                return code
            try:
                words = _words(line)
            except ValueError as exc:
                code = refused(UsageError(f"this line is no command: {exc}"), line.split())
                continue
            if words and words[0] in _LEAVE:
                return code
            if words:
                code = run(words, app)
                if code != USAGE and _FORGOTTEN.isdisjoint(words):
                    remember(line)
                if code == UNHEARD or (code == INTERRUPTED and not sys.stdin.isatty()):
                    # The command was interrupted, or nobody reads its output: do not run the remaining lines.
                    return code


def _words(line: str) -> list[str]:
    """Split a line into words as bash does, without variables and patterns. Raises ValueError."""
    words: list[str] = []
    word: list[str] = []
    place = 0
    while place < len(line):
        found = _PIECE.match(line, place)
        if found is None:
            if line[place] == "\\":
                raise ValueError("nothing follows the backslash at its end")
            raise ValueError("a quotation mark in it is not closed")
        kind, text = found.lastgroup, found[found.lastgroup or 0]
        place = found.end()
        if kind == "blanks":
            words += ["".join(word)] if word else []
            word = []
            continue
        if kind == "plain" and not word:
            if text.startswith("#"):
                break
            text = _first_piece(text, is_whole=place == len(line) or line[place] in _BLANKS)
        elif kind == "double":
            text = _ESCAPED.sub(r"\1", text)
        word.append(text)
    return [*words, *(["".join(word)] if word else [])]


def _first_piece(text: str, *, is_whole: bool) -> str:
    """The beginning of a word, which is not quoted, with ~ and ~user expanded. Raises ValueError for an operator."""
    if is_whole and text in _OPERATORS:
        raise ValueError(f"there are no pipes, lists and redirections here; quote a {text} that means itself")
    user, slash, rest = text.partition("/")
    return f"{_expanded(user)}{slash}{rest}" if slash or is_whole else text


def _expanded(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111  (Path's own raises RuntimeError where there is no such folder)


def _typed(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    # Python would write the prompt to stdout, among the results.
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return input()


def _piped() -> Iterator[str]:
    line = sys.stdin.readline(MOST_SENT + 1)
    if len(line) > MOST_SENT:
        raise UsageError(f"a line has more than {MOST_SENT} characters, which is the most that a command may have")
    if line:
        yield line.removesuffix("\n")


@contextmanager
def _editing(app: App) -> Iterator[Any]:
    """Line editing for the length of a `with`. Yields what remembers a line."""
    readline = _readline()
    if readline is None or not sys.stdin.isatty():
        yield lambda _line: None
        return
    path = history_file()
    # Otherwise every line is remembered before it is known whether it may be.
    readline.set_auto_history(False)
    readline.clear_history()
    readline.set_history_length(_HISTORY_LINES)
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_completer(_Completer(app))
    readline.set_completer_delims(" ")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")

    def remember(line: str) -> None:
        readline.add_history(line)
        # At once and at the end of the file: another shell may be open, and this one may be killed.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            readline.append_history_file(1, path)

    try:
        yield remember
    finally:
        readline.set_completer(None)


def _readline() -> ModuleType | None:
    # Some builds of Python have none.
    try:
        import readline  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return readline


def history_file() -> Path:
    """Where the shell's history is kept."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(state) if state else Path.home() / ".local" / "state") / "stereosctl" / "history"
    except RuntimeError:
        # A user without a home folder has a shell without a history.
        return Path(os.devnull)


class _Completer:
    """Completes commands, their options and values, and file names."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._found: list[str] = []

    def __call__(self, text: str, state: int) -> str | None:
        if state == 0:
            readline = _readline()
            line = readline.get_line_buffer()[: readline.get_begidx()] if readline else ""
            self._found = _candidates(self._app, line, text)
        return self._found[state] if state < len(self._found) else None


def _candidates(app: App, line: str, text: str) -> list[str]:
    """What `text` may become after `line`, quoted as the shell reads it. A whole word has a space at its end."""
    try:
        begun = _words(line)
    except ValueError:
        return []
    # The name of a file may have blanks, which are written with a backslash.
    plain = text.replace("\\", "")
    found = completions(app, Words(begun, plain))
    words = [*found.words, *(_LEAVE if not begun else ())]
    choices = [word if word.endswith("=") else f"{word} " for word in words if word.startswith(plain)]
    if found.files:
        # The name may stand behind `--option=`, `NAME=` or both, and may have a = of its own.
        starts = [0, *(match.end() for match in re.finditer("=", plain))]
        choices += [f"{plain[:start]}{path}" for start in starts for path in _paths(plain[start:], at_home=not start)]
    return sorted({f"{_quoted(choice[:-1])}{choice[-1]}" for choice in choices})


def _quoted(word: str) -> str:
    return "".join(char if char.isalnum() or char in "-_./=:@%+,~" else f"\\{char}" for char in word)


def _paths(text: str, *, at_home: bool) -> list[str]:
    """The files whose names begin with `text`, with a slash behind a folder and a space behind any other.

    With `at_home` a ~ at its start is a home folder.
    """
    folder, slash, begun = text.rpartition("/")
    try:
        entries = list(os.scandir((_expanded if at_home else str)(f"{folder}{slash}") or "."))
    except OSError:
        return []
    return [
        f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ' '}"
        for entry in entries
        if entry.name.startswith(begun)
    ]
