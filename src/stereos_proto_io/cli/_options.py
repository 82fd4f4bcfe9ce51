"""How options are declared: their names, what they take, and the conversions that the parser itself gets wrong.

The classes that every command loads are without `__eq__` and `__repr__`: attrs compiles these when a class is made,
which costs a millisecond of every command for each class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from cyclopts import Group, Parameter, Token

from ._errors import UsageError

GUEST: Final = Group("Guest", sort_key=10)
MANY: Final = Group("Many guests", sort_key=11)
OUTPUT: Final = Group("Output", sort_key=20)

#: cyclopts 4 has no `metavar`: there the help shows the option's name alone.
_HAS_METAVAR: Final = "metavar" in inspect.signature(Parameter).parameters

_SECONDS_IN: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|min|m|h|d)")
_NUMBER: Final = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def option(*names: str, takes: str | None = None, **rest: Any) -> Parameter:
    """An option. `takes` is what the help calls its value; `names` are those that the argument itself does not give."""
    shown: dict[str, Any] = {"metavar": takes} if takes and _HAS_METAVAR else {}
    return Parameter(name=names or None, **shown, **rest)


def repeated(*names: str, takes: str, **rest: Any) -> Parameter:
    """An option that may be given several times, with one value each."""
    return option(*names, takes=takes, consume_multiple=False, **rest)


def whole_number(_type: type, tokens: Sequence[Token]) -> int:
    """Convert an argument. The parser itself would take 1.5 for 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"it takes a whole number, not {text!r}") from None


def refuse_what_is_no_utf8(texts: Mapping[str, str]) -> None:
    """Raise UsageError for a text that UTF-8 cannot carry: Python keeps bytes that are none as lone surrogates.

    `texts` is by what the user calls them. The text itself may be a secret, and is not shown.
    """
    for called, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{called} is not UTF-8, and nothing else can be sent to a guest; write it in UTF-8"
            ) from None


def duration_of(text: str) -> float:
    """Seconds of `90`, `1.5`, `500ms`, `30s`, `2m`, `1h30m`. Raises ValueError."""
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text or _PART.sub("", text):
        raise ValueError(f"it takes a duration such as 1.5, 30s, 2m or 1h30m, not {text!r}")
    return sum(float(number) * _SECONDS_IN[unit] for number, unit in _PART.findall(text))


def _duration(_type: type, tokens: Sequence[Token]) -> float:
    return duration_of(tokens[0].value)


#: What options for a length of time share.
DURATION: Final[dict[str, Any]] = {"takes": "DURATION", "converter": _duration}

Verbose = Annotated[bool, option("--verbose", "-v", group=OUTPUT)]
ConfigDir = Annotated[str | None, option("--config-dir", takes="DIR", group=GUEST)]
Json = Annotated[bool, option("--json", group=OUTPUT)]
JsonLines = Annotated[bool, option("--jsonl", group=OUTPUT)]
