"""What is known of a jcard.toml: the names and types of its fields, and how a file is read by them (§10).

One table, `FILE`, says it all. A file is read in one pass, which gives each key the name that the table has for it,
checks the type of each value, and writes down everything that is wrong or doubtful instead of stopping at the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from ._constants import I64_MAX, I64_MIN
from ._toml import Path


@attrs.frozen
class Table:
    """A table with known keys. `open`: unknown keys are kept and sent to the guest, as those of an agent are."""

    fields: Mapping[str, Kind]
    open: bool = False


@attrs.frozen
class Array:
    """A list of values of one kind."""

    item: Kind


@attrs.frozen
class Names:
    """A table of strings under names of the user's own. The reference reads anything else as an empty table."""


Kind = type[str] | type[bool] | type[int] | Table | Array | Names

_STRINGS: Final = Array(str)

AGENT: Final = Table(
    {
        "type": str,
        "name": str,
        "harness": str,
        "prompt": str,
        "prompt_file": str,
        "workdir": str,
        "restart": str,
        "max_restarts": int,
        "timeout": str,
        "grace_period": str,
        "session": str,
        "extra_packages": _STRINGS,
        "replicas": int,
        "env": Names(),
        # The guest knows these two, the reference host does not.
        "memory": str,
        "pid_limit": int,
    },
    open=True,
)
FILE: Final = Table(
    {
        "mixtape": str,
        "mixtape_digest": str,
        "name": str,
        "resources": Table({"cpus": int, "memory": str, "disk": str}),
        "network": Table(
            {
                "mode": str,
                "forwards": Array(Table({"host": int, "guest": int, "proto": str})),
                "egress_allow": _STRINGS,
            }
        ),
        "shared": Array(Table({"host": str, "guest": str, "readonly": bool})),
        "secrets": Names(),
        "agents": Array(AGENT),
        "agent": AGENT,
    }
)

_SECRET_WORD: Final = re.compile(
    r"secret|token(?!s)|password|passwd|passphrase|credential|(?:api|access|private|auth)[-_. ]?key", re.IGNORECASE
)
_OUTSIDE: Final = "looks like a secret outside of [secrets]"
_CALLED: Final[dict[object, str]] = {str: "a string", bool: "true or false", int: "a whole number"}


class Severity(Enum):
    """What a finding is: `FAULT` always an error, `DOUBT` an error unless `strict=False`, `WARNING` never."""

    FAULT = "fault"
    DOUBT = "doubt"
    WARNING = "warning"


@attrs.frozen
class Finding:
    """Something to say about the value at `path`."""

    path: Path
    reason: str
    severity: Severity


@attrs.define
class Findings:
    """All that there is to say about a file, in the order in which it was found."""

    found: list[Finding] = attrs.field(factory=list)

    def fault(self, path: Path, reason: str) -> None:
        """Note what makes the file unusable."""
        self.found.append(Finding(path, reason, Severity.FAULT))

    def doubt(self, path: Path, reason: str) -> None:
        """Note what the reference refuses, and a guest of another make may take."""
        self.found.append(Finding(path, reason, Severity.DOUBT))

    def warn(self, path: Path, reason: str) -> None:
        """Note what the user should know."""
        self.found.append(Finding(path, reason, Severity.WARNING))


def known_name(name: str, fields: Mapping[str, Kind]) -> str | None:
    """The key of `fields` that `name` stands for: the same, else the same but for case; None if there is none.

    Case is ignored by Unicode's simple folding, as in the reference: `ſecrets` is `secrets`. `casefold` folds further
    ("ß" becomes "ss"), which makes a text longer; the keys are ASCII, so equal lengths exclude that.
    """
    if name in fields:
        return name
    folded = name.casefold()
    return folded if len(folded) == len(name) and folded in fields else None


def canonical(path: Path) -> Path:
    """`path` with each known key written as the table of fields has it."""
    kind: Kind | None = FILE
    found: Path = ()
    for part in path:
        if isinstance(kind, Array) and isinstance(part, int):
            kind = kind.item
        elif isinstance(kind, Table) and isinstance(part, str) and (name := known_name(part, kind.fields)):
            part, kind = name, kind.fields[name]
        else:
            kind = None
        found += (part,)
    return found


def read_fields(document: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """`document` under canonical names, less what is unknown.

    A value of the wrong type, which is noted as a fault, is None.
    """
    for path in _wide_numbers(document):
        findings.fault(path, "must be a whole number of at most 64 bits")
    return _table(document, FILE, (), findings)


def _table(table: Mapping[str, Any], kind: Table, path: Path, findings: Findings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in table.items():
        name = known_name(key, kind.fields)
        if name is None:
            if kind.open:
                found[key] = value
            _warn_of_unknown(value, (*path, key), findings, sent=kind.open, meant=_meant(key, kind.fields))
        elif name in spelled:
            findings.fault((*path, key), f"and {spelled[name]} are two spellings of one name")
        else:
            spelled[name] = key
            found[name] = _value(value, kind.fields[name], (*path, name), findings)
    return found


def _meant(name: str, fields: Mapping[str, Kind]) -> str:
    """The key that a misspelt one most likely stands for, such as `readonly` for `read_only`; "" if there is none."""
    from difflib import get_close_matches  # noqa: PLC0415  (few files have such a key)

    plain = {field.replace("_", ""): field for field in fields}
    close = get_close_matches(re.sub("[-_. ]", "", name).casefold()[:64], plain, n=1, cutoff=0.8)
    return plain[close[0]] if close else ""


def _warn_of_unknown(value: Any, path: Path, findings: Findings, *, sent: bool, meant: str) -> None:
    """Warn of the unknown key at `path`, and of names in it that look like secrets."""
    said = "is unknown here, and is sent as it is" if sent else "is unknown, and is not sent"
    if meant:
        said += f" (is {meant} meant?)"
    secret = "looks like a secret, and everyone in the guest can read it" if sent else _OUTSIDE
    inside = [*_secrets_at(path, value)]
    findings.warn(path, f"{said}; it {secret}" if path in inside else said)
    for place in inside:
        if place != path:
            findings.warn(place, secret)


def _secrets_at(path: Path, value: Any) -> Iterator[Path]:
    """The places from `path` on whose names look like secrets, less those inside of one that does."""
    rest = [(path, value)]
    while rest:
        path, value = rest.pop()
        if isinstance(path[-1], str) and looks_secret(path[-1]):
            yield path
        else:
            rest += reversed(_members(path, value))


def _members(path: Path, value: Any) -> list[tuple[Path, Any]]:
    """What is directly inside of a value, with its place."""
    match value:
        case dict():
            return [((*path, name), member) for name, member in value.items()]
        case list():
            return [((*path, index), member) for index, member in enumerate(value)]
        case _:
            return []


def looks_secret(name: str) -> bool:
    """Whether a key of this name is likely to hold a secret, as `max_tokens` is not."""
    return _SECRET_WORD.search(name) is not None


def _value(value: Any, kind: Kind, path: Path, findings: Findings) -> Any:
    match kind:
        case Table():
            if isinstance(value, dict):
                return _table(value, kind, path, findings)
            wanted = "a table"
        case Array(item=item):
            if isinstance(value, list):
                return [_value(member, item, (*path, index), findings) for index, member in enumerate(value)]
            wanted = "an array of tables, in [[ ]]" if isinstance(item, Table) else "an array"
        case Names():
            if isinstance(value, dict):
                return {name: _value(member, str, (*path, name), findings) for name, member in value.items()}
            findings.warn(path, "is not a table, and is treated as empty")
            return {}
        case _:
            # Not isinstance, to which a flag is a number.
            if type(value) is kind:
                return value
            wanted = _CALLED[kind]
    findings.fault(path, f"must be {wanted}")
    return None


def _wide_numbers(document: Mapping[str, Any]) -> Iterator[Path]:
    """The places of whole numbers that the reference cannot read. No recursion: dotted keys nest without limit."""
    rest: list[tuple[Path, Any]] = [((), document)]
    while rest:
        path, value = rest.pop()
        rest += reversed(_members(path, value))
        if isinstance(value, int) and not I64_MIN <= value <= I64_MAX:
            yield path
