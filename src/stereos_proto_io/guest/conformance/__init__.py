"""Does a guest speak the protocol? Any guest: this talks to an address, and knows nothing else of it.

`run(address)` goes through `CASES`, each named after a sentence of `docs/protocol.md` with its section, and
returns a `Report`. The cases that would change the guest are left out unless they are allowed.
"""

from ._cases import CASES, Case, Need
from ._peer import Deviation
from ._report import Outcome, Report, Result
from ._run import run

__all__ = ["CASES", "Case", "Deviation", "Need", "Outcome", "Report", "Result", "run"]
