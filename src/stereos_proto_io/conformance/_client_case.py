"""One case of a client, and the list that the modules of cases fill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from ._client_bench import Bench
from ._client_guest import Script

#: What a client needs beside verbs, as words for `ClientCase.needs` and `client_cases(without=…)`.
ABILITIES: Final = {
    "together": "several callers at once",
    "when_ready": "dialling until the guest is ready, as `connect_when_ready` does",
    "unix": "dialling a `UnixSocket`",
    "hybrid": "dialling a `HybridVsock`",
}


@attrs.frozen
class ClientCase:
    """One case that a client is put through."""

    # What the client has to get right, as words with underscores.
    name: str
    # The check.
    check: Callable[[Bench], Awaitable[None]] = attrs.field(repr=False)
    # The faults of the simulator that is its guest, and its other options.
    faults: tuple[str, ...] = ()
    options: dict[str, Any] = attrs.field(factory=dict)
    # What its guest does, where that is no simulator.
    script: Script | None = attrs.field(default=None, repr=False)
    # Whether it needs a stream that has connections, which end.
    ends: bool = False
    # Verbs beside `request`, options of verbs (`wait_ready.states`), and `ABILITIES`, without which a client cannot be
    # put through it.
    needs: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        """The kind of address that its guest must listen at: "unix", "hybrid", or "" for any."""
        return next((place for place in ("unix", "hybrid") if place in self.needs), "")


CASES: Final[list[ClientCase]] = []

Check = Callable[[Bench], Awaitable[None]]


def simulated(*faults: str, ends: bool = False, needs: str = "", **options: Any) -> Callable[[Check], Check]:
    """Add a case whose guest is a simulator with `faults` and `options`. `needs` are words."""

    def keep(check: Check) -> Check:
        CASES.append(ClientCase(_name(check), check, faults, options, ends=ends, needs=frozenset(needs.split())))
        return check

    return keep


def scripted(script: Script, *, needs: str = "", name: str = "") -> Callable[[Check], Check]:
    """Add a case whose guest follows `script`. `needs` are words."""

    def keep(check: Check) -> Check:
        case = ClientCase(name or _name(check), check, script=script, ends=True, needs=frozenset(needs.split()))
        CASES.append(case)
        return check

    return keep


def _name(check: Check) -> str:
    return str(getattr(check, "__name__", "")).strip("_")
