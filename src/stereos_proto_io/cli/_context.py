"""What the commands have in common: which guest, until when, with or without a trace."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Final

import attrs
from cyclopts import Group, Parameter, Token

from stereos_proto.dialogues import READY_STATES
from stereos_proto_io.addresses import _PARSERS, Address, parse_address

from . import plain_interrupts
from ._deadline import ASK_SECONDS, FOREVER, Deadline
from ._errors import UsageError

if TYPE_CHECKING:
    from stereos_proto_io.blocking import Client

_SCHEMES: Final = frozenset(_PARSERS)

_GUEST: Final = Group("Guest", sort_key=10)
_OUTPUT: Final = Group("Output", sort_key=20)


@Parameter(name="*")
@attrs.frozen
class Place:
    """Which guest."""

    address: Annotated[str | None, Parameter(group=_GUEST)] = None
    """tcp://HOST:PORT, vsock://CID:PORT, unix:///PATH, hvsock:///PATH:PORT or serial:///PATH; else STEREOS_ADDRESS."""

    vm: Annotated[str | None, Parameter(name="--vm", metavar="NAME", group=_GUEST)] = attrs.field(
        default=None, kw_only=True
    )
    """The name of a virtual machine of mb's, instead of an address. `stereosctl ls` lists them."""

    def resolve(self) -> Address:
        """The address that was given in one of the ways. Raises UsageError."""
        if self.vm is not None and self.address is not None:
            raise UsageError("which guest? Give its address or --vm NAME, and not both")
        if self.vm is not None:
            from ._machines import find  # noqa: PLC0415  (only where it is asked for)

            return find(self.vm)
        # Read here and not by the parser, for which it would be as if it had been typed.
        address = self.address or os.environ.get("STEREOS_ADDRESS")
        if not address:
            raise UsageError(
                "which guest? Give its address (tcp://127.0.0.1:1024), --vm NAME, or set STEREOS_ADDRESS; "
                "`stereosctl ls` lists mb's virtual machines, `stereosctl simulate` makes a guest to try"
            )
        return address_of(address)


@Parameter(name="*")
@attrs.frozen
class Guest(Place):
    """Which guest, how long, and whether to show the wire."""

    timeout: Annotated[float | None, Parameter(name="--timeout", metavar="SECONDS", group=_GUEST)] = attrs.field(
        default=None, kw_only=True
    )
    """Seconds for everything together, dialling included. By default 10, or 60 for what waits for a guest."""

    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], group=_OUTPUT)] = attrs.field(
        default=False, kw_only=True
    )
    """Trace the wire on stderr, without secrets."""

    def deadline(self, default: float = ASK_SECONDS) -> Deadline:
        """When the command has to be done. Raises UsageError."""
        return Deadline.after(default if self.timeout is None else checked_seconds("--timeout", self.timeout))


def checked_seconds(option: str, value: float) -> float:
    """`value`, where it can be waited for. Raises UsageError."""
    if not value > 0:
        raise UsageError(f"{option} must be more than 0 seconds, not {value:g}")
    return min(value, FOREVER)


def whole_number(_type: type, tokens: Sequence[Token]) -> int:
    """Convert an argument. The parser itself would take 1.5 for 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"it takes a whole number, not {text!r}") from None


#: What a command's `guest` is when nothing was said about it.
DEFAULT_PLACE: Final = Place()
DEFAULT_GUEST: Final = Guest()

Json = Annotated[bool, Parameter(name="--json", group=_OUTPUT)]
JsonLines = Annotated[bool, Parameter(name="--jsonl", group=_OUTPUT)]


def address_of(text: str) -> Address:
    """`parse_address`, with a UsageError.

    What does not even begin like an address is not repeated: it may be a secret in the wrong place.
    """
    if text.partition("://")[0].lower() not in _SCHEMES:
        raise UsageError(
            "what was given as the guest's address is none; one looks like tcp://HOST:PORT, vsock://CID:PORT, "
            "unix:///PATH, serial:///PATH or hvsock:///PATH:PORT"
        )
    try:
        return parse_address(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from None


@contextmanager
def listening_at(*places: Address) -> Iterator[None]:
    """Turn what is wrong with places to listen at into a UsageError."""
    try:
        yield
    except OSError as exc:
        raise UsageError(f"cannot listen at {', '.join(map(str, places))}: {exc.strerror}") from None
    except ValueError as exc:
        raise UsageError(str(exc)) from None


def load_driver() -> None:
    """Load what dials. Ctrl-C then ends the process at once, so nothing may be drawn yet that is to be taken back."""
    if f"{__package__}._dialling" not in sys.modules:
        with plain_interrupts():
            import_module("._dialling", __package__)


def connect(guest: Guest, deadline: Deadline) -> Client:
    """A connection to the guest. Raises ConnectError."""
    load_driver()
    from ._dialling import dial  # noqa: PLC0415  (the driver is loaded where a guest is dialled)

    return dial(guest.resolve(), deadline, trace=guest.verbose)


def connect_when_ready(
    guest: Guest,
    deadline: Deadline,
    *,
    states: Collection[str] = READY_STATES,
    agents: Collection[str] = (),
) -> Client:
    """A connection to a guest that may still boot. The wait is shown."""
    load_driver()
    from ._dialling import dial_when_ready  # noqa: PLC0415
    from ._progress import waiting  # noqa: PLC0415

    address = guest.resolve()
    with waiting(address, traced=guest.verbose) as report:
        return dial_when_ready(address, deadline, states=states, agents=agents, on_progress=report, trace=guest.verbose)
