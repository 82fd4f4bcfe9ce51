"""Runs the cases, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from stereos_proto import StereosError
from stereos_proto_io.addresses import Address

from ._guest_case import Case, Need
from ._guest_cases import CASES
from ._guest_peer import Deviation, Peer, Unsupported
from ._guest_report import Outcome, Report, Result

#: The case that the others build on: by its echo they find the end of the replies.
_ECHO: Final = CASES[0]

#: Why a case was left out whose need was not allowed. The option stands as an argument of `run`, and as an option of
#: the command line.
_NOT_ALLOWED: Final = "not allowed without allow_{0} (--allow-{0})"


def run(
    address: Address,
    *,
    allow_effects: bool = False,
    allow_shutdown: bool = False,
    timeout: float = 5.0,
    cases: Iterable[Case] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Examine the guest at `address`, and return what was found. Raises nothing because of the guest.

    * `allow_effects`: also run the cases that change the guest. They replace its config and the keys of `admin`,
      leave a secret behind, and may mount three times at one place.
    * `allow_shutdown`: also run the last case, which shuts the guest down.
    * `timeout`: seconds for each wait: for a connection, for a reply, and for the guest to read what a case sends.
    * `cases`: the cases to go through; None: all of them.
    * `on_result`: is called with the result of each case as it ends. What it raises ends the run.

    When the first of `CASES` fails, the others are left out: they need what it tries.

    A guest that sends too much fails the case: a line may have 1 MiB, and one connection 10,000 replies and 16 MiB.
    """
    allowed = {Need.NOTHING: True, Need.EFFECTS: allow_effects, Need.SHUTDOWN: allow_shutdown}
    results = []
    unfit = ""
    for case in CASES if cases is None else cases:
        not_allowed = "" if allowed[case.need] else _NOT_ALLOWED.format(case.need.value)
        reason = _why_not(case, address) or not_allowed or unfit
        result = Result(case.name, case.section, Outcome.SKIPPED, reason) if reason else _run(case, address, timeout)
        results.append(result)
        if case is _ECHO and result.outcome is Outcome.FAILED:
            unfit = f"left out, because the first case failed: {result.reason}"
        if on_result is not None:
            on_result(result)
    return Report(str(address), tuple(results))


def _why_not(case: Case, address: Address) -> str:
    """Why the transport of `address` cannot show what the case is about; "" if it can."""
    kind = type(address).__name__
    if case.needs_connections and not address.has_connections:
        return f"a stream of {kind} has no connections"
    if case.needs_half_close and not address.can_half_close:
        return f"a stream of {kind} may end at a half-close"
    return ""


def _run(case: Case, address: Address, timeout: float) -> Result:
    started = time.monotonic()
    outcome, reason = Outcome.PASSED, ""
    try:
        with Peer(address, timeout) as peer:
            case.check(peer)
    except Unsupported as exc:
        outcome, reason = Outcome.SKIPPED, str(exc)
    except (Deviation, OSError, StereosError) as exc:
        outcome, reason = Outcome.FAILED, str(exc) or type(exc).__name__
    except Exception as exc:  # noqa: BLE001  (a guest may have brought it about, and the other cases are still to run)
        outcome, reason = Outcome.FAILED, f"the suite could not carry the case out: {type(exc).__name__}: {exc}"
    return Result(case.name, case.section, outcome, reason, time.monotonic() - started)
