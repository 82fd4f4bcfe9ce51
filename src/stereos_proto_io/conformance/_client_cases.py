"""All cases of a client."""

from __future__ import annotations

from collections.abc import Iterable

from . import _client_cases_calls, _client_cases_dialogues, _client_cases_ends, _client_cases_simulated  # noqa: F401
from ._client_case import CASES, ClientCase


def client_cases(*, ends: bool = True, scripted: bool = True, without: Iterable[str] = ()) -> tuple[ClientCase, ...]:
    """Return the cases of `check_client`.

    Without `ends`: those alone that a stream without connections can be put through (§9). Without `scripted`: those
    alone whose guest is a simulator. `without` are verbs that the client lacks (`"notifications"`), and abilities:
    `"together"` (several callers at once), `"when_ready"` (dialling until the guest is ready), `"unix"` and
    `"hybrid"` (dialling such an address). Cases that need them are left out. Raises ValueError for a word that no
    case needs.
    """
    lacking = frozenset(without)
    unknown = lacking.difference(*(case.needs for case in CASES))
    if unknown:
        raise ValueError(f"no case needs {', '.join(sorted(unknown))}")
    return tuple(
        case
        for case in CASES
        if (ends or not case.ends) and (scripted or case.script is None) and not lacking & case.needs
    )
