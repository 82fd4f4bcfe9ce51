"""What a server serves: a simulator, or anybody's handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import attrs

from stereos_proto import Request

from ._listen import Endpoint
from ._session import GuestSession
from .faults import Fault, FaultPlan

#: Takes a request and returns its reply, or what the server's module says instead of it.
Handler = Callable[[Request], Any]


class Guest(Protocol):
    """A guest as an object: `GuestSimulator` is one."""

    faults: FaultPlan

    def handle(self, request: Request) -> Any:
        """Carry `request` out, and return its reply."""
        ...

    def reboot(self) -> None:
        """Start anew."""
        ...

    def power_off(self) -> None:
        """Lose power."""
        ...


@attrs.define
class _Plain:
    """A handler that is only a function."""

    handle: Handler
    faults: FaultPlan

    def reboot(self) -> None:
        """There is nothing that a function could forget."""

    def power_off(self) -> None:
        """There is nothing that a function could put away."""


def as_guest(handler: Handler | Guest, faults: Iterable[Fault | str]) -> Guest:
    """Return `handler` as a guest. A guest has its own faults; a function is given `faults`."""
    if not hasattr(handler, "handle"):
        return _Plain(cast("Handler", handler), FaultPlan(faults))
    if faults:
        raise TypeError("give the faults to the guest object itself: it has some of its own")
    return cast("Guest", handler)


def session_for(endpoint: Endpoint, guest: Guest) -> GuestSession:
    """Return a new session for a stream that came to `endpoint`."""
    return GuestSession(plan=guest.faults, hybrid_ports=endpoint.ports, boundless=endpoint.boundless)
