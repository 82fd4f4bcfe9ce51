"""Test a host program against a simulated guest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypedDict, Unpack

import attrs

from stereos_proto import AgentStatus, Lifecycle

from .addresses import TCP, Address
from .conformance import ClientCase, ClientReport, check_client, check_loop_client, client_cases
from .guest import Effects, Fault, GuestSimulator
from .guest._agents import Age
from .guest.blocking import GuestServer, serve

__all__ = [
    "ClientCase",
    "ClientReport",
    "GuestOptions",
    "SimulatedGuest",
    "check_client",
    "check_loop_client",
    "client_cases",
    "simulated_guest",
]


class GuestOptions(TypedDict, total=False):
    """The options of a simulated guest: the arguments of `GuestSimulator`, which documents them."""

    #: Seconds for which it says `booting`.
    boot_time: float
    #: Seconds for which it has been up already.
    uptime: float
    #: The agents that it reports.
    agents: Iterable[AgentStatus] | None
    #: The message types that it knows.
    types: Collection[str]
    #: The users whose keys can be set.
    users: Collection[str]
    #: What it does to its machine.
    effects: Effects | None
    #: What goes wrong.
    faults: Iterable[Fault | str]
    #: What returns the time in seconds.
    clock: Callable[[], float]
    #: Seconds between two polls of config and agents.
    poll_interval: float
    #: Whether it is a guest of today, or an older one.
    age: Age | str
    #: Paths of the files in it that a `prompt_file` may name.
    files: Collection[str]
    #: How many requests it shows at most.
    keep_requests: int


@attrs.frozen(repr=False)
class SimulatedGuest:
    """A guest that is up: connect to `address`, look at `simulator` for what it got.

    All methods may be called by any thread.

    Its attributes:

    * `simulator`: the `GuestSimulator`. It has what the guest got, such as `requests` and `secrets`. `simulator.faults`
      are its faults, `simulator.faults.unused` those that have not happened, and `simulator.dropped_requests` how many
      requests `simulator.requests` does not show any more.
    * `server`: the server, with threads of its own; any kind of client may talk to it. `server.join(seconds)` waits
      until the guest is off.
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

    def reboot(self, seconds: float = 0.0) -> None:
        """Reboot the guest, as the fault `reboot` does: its connections end, it loses what a reboot loses, and it
        listens again after `seconds`.

        Returns when the connections have ended; with 0 seconds, when the guest listens again. In a handler or an effect
        it returns at once, and the guest reboots afterwards.

        Raises ValueError when `seconds` is below 0 or not finite, RuntimeError when the guest is off.
        """
        self.server.reboot(seconds)

    def power_off(self) -> None:
        """Take the power away, as the fault `power-off` does: the effects unmount, the connections end, and connections
        are refused from then on.

        Returns when the connections have ended. Twice is fine. In a handler or an effect it returns at once.
        """
        self.server.power_off()

    def __repr__(self) -> str:
        state = "off" if self.server.join(0) else self.simulator.state
        return f"<SimulatedGuest {self.address} {state}>"


@contextmanager
def simulated_guest(address: Address | None = None, **options: Unpack[GuestOptions]) -> Iterator[SimulatedGuest]:
    """Run a simulated guest for the duration of a `with` block.

    For example, `with simulated_guest(faults=["drop@mount#2"]) as guest:` never answers its second mount. It listens on
    `address`, by default on a free TCP port of this machine's loopback. `options` go to `GuestSimulator`: `boot_time`,
    `uptime`, `agents`, `types`, `users`, `effects`, `faults`, `clock`, ...

    Raises OSError when the address cannot be had, TypeError when `address` is not an `Address`, and ValueError and
    TypeError for an option as `GuestSimulator` does.
    """
    _refuse_faults_as_address(address)
    simulator = GuestSimulator(**options)
    with serve(address or TCP("127.0.0.1", 0), simulator) as server:
        yield SimulatedGuest(simulator, server)


def _refuse_faults_as_address(address: Any) -> None:
    """Raise TypeError when `address` is a fault, or a list of them. The text of an address is refused later on."""
    several = address if isinstance(address, (list, tuple)) else [address]
    if any(isinstance(one, Fault) or (isinstance(one, str) and "://" not in one) for one in several):
        raise TypeError(
            "the first argument is the address, such as TCP('127.0.0.1'); faults have a name: faults=['drop@mount#2']"
        )
