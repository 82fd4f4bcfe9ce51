"""What the three servers have in common: what they serve, where, and whom they know."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import attrs

from stereos_proto import Ack, Lifecycle, Request
from stereos_proto_io.addresses import Address

from ._listen import Endpoint, bind_all
from ._session import GuestSession, Owed
from .faults import Fault, FaultPlan
from .simulator import RequestRefused

_LOG: Final = logging.getLogger("stereos_proto_io.guest")

#: Takes a request and returns its reply, or what the server's module says instead of it.
Handler = Callable[[Request], Any]


class Guest(Protocol):
    """A guest as an object: `GuestSimulator` is one."""

    faults: FaultPlan

    def handle(self, request: Request, /) -> Any:
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
        function: Any = handler
        return _Plain(function, FaultPlan(faults))
    if faults:
        raise TypeError("give the faults to the guest object itself: it has some of its own")
    return cast("Guest", handler)


def attempt(guest: Guest, owed: Owed) -> Any:
    """Let `guest` handle what is owed; return its reply, what it returns instead of one, or a refusal."""
    try:
        return guest.handle(owed.request)
    except Exception as exc:  # noqa: BLE001  (whatever it is, the host is owed a reply)
        return refusal(owed.request, exc)


async def finish(owed: Owed, result: Awaitable[Any]) -> Any:
    """Wait for the reply of a handler that takes its time, on any event loop."""
    try:
        return await result
    except Exception as exc:  # noqa: BLE001
        return refusal(owed.request, exc)


def refusal(request: Request, exc: BaseException) -> Ack:
    """Return what the host is told when the handler of `request` raised `exc`.

    A RequestRefused says what the host is to see. Everything else is a fault of the handler: it is logged, and
    only its class goes over the wire.
    """
    if isinstance(exc, RequestRefused):
        return Ack(request.type, False, str(exc))
    _LOG.error("the handler of %s failed", request.type, exc_info=exc)
    return Ack(request.type, False, f"internal error: {type(exc).__name__}")


class Link(Protocol):
    """One connection from a host, or one stream that has none."""

    endpoint: Endpoint

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        ...


LinkT = TypeVar("LinkT", bound=Link)
LastingT = TypeVar("LastingT")


class Server(Generic[LinkT, LastingT]):
    """A guest that is up, or about to be. `addresses` are those bound, port 0 resolved."""

    def __init__(self, address: Address | Sequence[Address], guest: Guest) -> None:
        self.guest = guest
        self._endpoints = bind_all(address)
        self._links: set[LinkT] = set()
        self._lasting: dict[Address, LastingT] = {}
        self.addresses = tuple(endpoint.address for endpoint in self._endpoints)

    @property
    def address(self) -> Address:
        """The first address, port 0 resolved."""
        return self.addresses[0]

    @property
    def connections(self) -> tuple[LinkT, ...]:
        """The connections that are open now. Each has `push`."""
        return tuple(self._links)

    def push(self, notification: Lifecycle) -> int:
        """Send `notification` to every connection; return how many took it."""
        return sum(link.push(notification) for link in self.connections)

    def _state_for(self, endpoint: Endpoint, make: Callable[[GuestSession], LastingT]) -> LastingT:
        """What a stream that came to `endpoint` works on: something new, or what the last host left behind (§8)."""
        if endpoint.address in self._lasting:
            return self._lasting[endpoint.address]
        state = make(GuestSession(plan=self.guest.faults, hybrid_ports=endpoint.ports, boundless=endpoint.boundless))
        if endpoint.boundless:
            self._lasting[endpoint.address] = state
        return state

    @property
    def _fleeting(self) -> list[Endpoint]:
        """The endpoints that a reboot closes. A serial port is the hypervisor's: it stays, with the host on it."""
        return [endpoint for endpoint in self._endpoints if not endpoint.boundless]
