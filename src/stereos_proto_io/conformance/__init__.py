"""Does it speak the protocol? One suite for any guest, and one for any client.

`run(address)` examines the guest that listens at an address, and knows nothing else of it. It goes through `CASES`,
each named after a sentence of `docs/protocol.md` with its section, and returns a `Report`. The cases that would
change the guest are left out unless they are allowed.

`check_client(make_client)` puts a client through `client_cases()`, each with a guest of its own, and raises an
AssertionError that names the first case that the client fails. `check_loop_client(make_client, turn)` does that for
clients of loops that call back.
"""

from ._client_case import ClientCase
from ._client_cases import client_cases
from ._client_check import ClientReport, check_client
from ._client_loop import check_loop_client
from ._guest_case import Case, Need
from ._guest_cases import CASES
from ._guest_peer import Deviation
from ._guest_report import Outcome, Report, Result
from ._guest_run import run

__all__ = [
    "CASES",
    "Case",
    "ClientCase",
    "ClientReport",
    "Deviation",
    "Need",
    "Outcome",
    "Report",
    "Result",
    "check_client",
    "check_loop_client",
    "client_cases",
    "run",
]
