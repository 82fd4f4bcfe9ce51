"""The stand-in for a secret, and the check that no error shows it."""

from __future__ import annotations

import json
from typing import Any

#: Stands for a secret wherever one may stand. The mutators write it into lines.
SENTINEL = "S3NT1NEL"


def check_silent(error: BaseException, line: bytes) -> None:
    """No secret from `line` is in what `error` says. Types are no secrets, and errors name them."""
    if SENTINEL.encode() not in line or _in_a_type(line):
        return
    assert SENTINEL not in shown(error)


def shown(error: BaseException) -> str:
    """All that an error says by itself."""
    # `reply` is what the guest said, and is there to be looked at.
    values = {name: value for name, value in vars(error).items() if name != "reply"}
    return "\n".join([str(error), repr(error), repr(error.args), repr(values)])


def _in_a_type(line: bytes) -> bool:
    try:
        found: list[Any] = []
        json.loads(line.decode("utf-8", "replace"), object_pairs_hook=found.extend)
    except (ValueError, RecursionError):
        return False
    return any(name in ("type", "reply_to") and SENTINEL in str(value) for name, value in found)
