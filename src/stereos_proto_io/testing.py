"""Test your host against a guest that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from stereos_proto import Lifecycle

from .addresses import TCP, Address
from .conformance import ClientCase, ClientReport, check_client, check_loop_client, client_cases
from .guest import GuestSimulator
from .guest.blocking import GuestServer, serve

__all__ = [
    "ClientCase",
    "ClientReport",
    "SimulatedGuest",
    "check_client",
    "check_loop_client",
    "client_cases",
    "simulated_guest",
]


@attrs.frozen
class SimulatedGuest:
    """A guest that is up: connect to `address`, look at `simulator` for what it got.

    `server` is what listens, with threads of its own; any kind of client may talk to it.
    """

    simulator: GuestSimulator
    server: GuestServer

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.server.address

    def push(self, notification: Lifecycle) -> int:
        """Send `notification` to every connection; return how many took it."""
        return self.server.push(notification)


@contextmanager
def simulated_guest(address: Address | None = None, **options: Any) -> Iterator[SimulatedGuest]:
    """Have a guest for the length of a `with`.

    `with simulated_guest(faults=["drop@mount#2"]) as guest:` is one that never answers its second mount. It
    listens on `address`, by default on a free TCP port of this machine's loopback. `options` go to
    `GuestSimulator`: `boot_time`, `agents`, `types`, `users`, `effects`, `faults`, `clock`, ...
    """
    simulator = GuestSimulator(**options)
    with serve(address or TCP("127.0.0.1", 0), simulator) as server:
        yield SimulatedGuest(simulator, server)
