"""All cases of a client, the simple ones first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from . import _client_cases_calls as calls
from . import _client_cases_dialogues as dialogues
from . import _client_cases_ends as ends_and_outcomes
from . import _client_cases_simulated as simulated
from ._client_case import CASES, ClientCase

#: The modules that have added cases, in the order in which a client is put through them.
_ORDER: Final = [module.__name__ for module in (simulated, calls, ends_and_outcomes, dialogues)]

_CASES: Final = sorted(CASES, key=lambda case: _ORDER.index(case.check.__module__))


def client_cases(*, ends: bool = True, scripted: bool = True, without: Iterable[str] = ()) -> tuple[ClientCase, ...]:
    """Return the cases of `check_client`.

    Without `ends`: those alone that a stream without connections can be put through (§9). Without `scripted`: those
    alone whose guest is a simulator. `without` are verbs that the client lacks (`"notifications"`), options that
    its verbs lack (`"wait_ready.states"`), and abilities: `"together"` (several callers at once), `"when_ready"`
    (dialling until the guest is ready), `"unix"` and `"hybrid"` (dialling such an address). Cases that need them are
    left out. Raises ValueError for a word that no case needs.
    """
    lacking = frozenset([without] if isinstance(without, str) else without)
    unknown = lacking.difference(*map(_words, _CASES))
    if unknown:
        raise ValueError(f"no case needs {', '.join(sorted(unknown))}")
    return tuple(
        case
        for case in _CASES
        if (ends or not case.ends) and (scripted or case.script is None) and not lacking & _words(case)
    )


def _words(case: ClientCase) -> frozenset[str]:
    """What the case needs, and the verbs whose options it needs."""
    return case.needs | {word.partition(".")[0] for word in case.needs}
