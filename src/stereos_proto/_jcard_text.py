"""The text of a jcard.toml, and how to speak of its places: errors and warnings with line and key (§10)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ._errors import JcardError, JcardFault
from ._jcard_fields import Finding, Severity, canonical
from ._toml import MAX_NAMES, Path, line_of_a_long_key, statements

#: Levels of keys that anything is said of.
_DEEPEST: Final = 8
#: Characters of a key that are looked at and shown. Many faults may lie below one long name.
MAX_SHOWN_KEY: Final = 512


class JcardText:
    """The text of a jcard.toml, and how to speak of its places."""

    def __init__(self, name: str, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"the text of a jcard must be a str, not {type(text).__name__}")
        self._name = name
        self._text = text.removeprefix("\ufeff")

    def parse(self) -> dict[str, Any]:
        """The document. Raises JcardError when the text is not valid TOML, or has a key of too many names."""
        if line := line_of_a_long_key(self._text):
            raise self.error(f"a key has more than {MAX_NAMES} names", line)
        try:
            return tomllib.loads(self._text)
        except ValueError as exc:  # not only TOMLDecodeError: Python limits the digits of a number, too
            reason = str(exc)
        except RecursionError:
            reason = "it nests too deeply"
        line = 0
        if found := re.search(r"at line (\d+)", reason):
            line = int(found[1])
        elif reason.endswith("(at end of document)"):
            line = self._text.count("\n") + 1
        raise self.error(f"invalid TOML: {_anonymous(reason)}", line)

    def error(self, reason: str, line: int = 0) -> JcardError:
        """The error about the file as a whole."""
        return self._error([JcardFault(line, "", reason)])

    def judge(self, findings: Sequence[Finding], *, strict: bool) -> tuple[str, ...]:
        """Raise the error that names all faults; return the warnings, in the order of their lines."""
        if not findings:
            return ()
        lines = self._lines()
        worst = (Severity.FAULT, Severity.DOUBT) if strict else (Severity.FAULT,)
        faults: list[JcardFault] = []
        warnings: list[JcardFault] = []
        for finding in findings:
            path = _cut(finding.path)
            key = _key(path)
            said = JcardFault(_nearest(lines, path), key, f"{key} {finding.reason}")
            (faults if finding.severity in worst else warnings).append(said)
        if faults:
            raise self._error(sorted(faults, key=lambda fault: fault.line))
        return tuple(f"{self._place(said.line)}: {said.text}" for said in sorted(warnings, key=lambda said: said.line))

    def _lines(self) -> dict[Path, int]:
        """The line of each place: of its own statement, else of the first one inside it."""
        exact: dict[Path, int] = {}
        folded: dict[Path, int] = {}
        inside: dict[Path, int] = {}
        for statement in statements(self._text):
            written = _cut(statement.path)
            path = canonical(written)
            exact.setdefault(written, statement.line)
            folded.setdefault(path, statement.line)
            for size in range(1, min(len(path), _DEEPEST)):
                inside.setdefault(path[:size], statement.line)
                inside.setdefault(written[:size], statement.line)
        return inside | folded | exact

    def _error(self, faults: Sequence[JcardFault]) -> JcardError:
        first = faults[0]
        if len(faults) == 1:
            text = f"{self._place(first.line)}: {first.text}"
        else:
            text = f"{self._name} has {len(faults)} faults: " + "; ".join(
                f"line {fault.line}: {fault.text}" for fault in faults
            )
        return JcardError(text, line=first.line, key=first.key, faults=faults)

    def _place(self, line: int) -> str:
        return f"{self._name}, line {line}" if line else self._name


def _nearest(lines: Mapping[Path, int], path: Path) -> int:
    """The line of the statement that is nearest to `path`."""
    return next((lines[path[:size]] for size in range(len(path), 0, -1) if path[:size] in lines), 0)


def _cut(path: Path) -> Path:
    # One character more than is shown, by which `_key` sees that it is too long.
    return tuple(part[: MAX_SHOWN_KEY + 1] if isinstance(part, str) else part for part in path)


def _key(path: Path) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in path)[1:]
    return key if len(key) <= MAX_SHOWN_KEY else f"{key[:MAX_SHOWN_KEY]}…"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


# What tomllib quotes: what it has expected, and characters that have a meaning; or else something of the text.
_IN_QUOTES: Final = re.compile(r"""('(?:=|\]\]?|\}|\\n|\\)'|"'{1,3}")|'.*'|".*\"""", re.DOTALL)


def _anonymous(reason: str) -> str:
    """A sentence of tomllib's without what it quotes from the text, which may be a secret."""
    return _IN_QUOTES.sub(lambda quoted: quoted[1] or "…", reason)
