"""The cases. Each is a sentence of `docs/protocol.md`, its section, and a check that raises Deviation."""

from __future__ import annotations

from typing import Final

from . import _guest_case, _guest_cases_json, _guest_cases_lines, _guest_cases_requests
from ._guest_case import Case

_ORDER: Final = [module.__name__ for module in (_guest_cases_lines, _guest_cases_json, _guest_cases_requests)]

#: Every case, in the order in which they run. The last one shuts the guest down.
CASES: Final[tuple[Case, ...]] = tuple(sorted(_guest_case.CASES, key=lambda case: _ORDER.index(case.check.__module__)))
