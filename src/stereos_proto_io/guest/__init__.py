"""The guest's end: a simulator to test hosts against, and servers for it or for a handler of your own.

`GuestSimulator` is a guest without a machine. `serve` is in `stereos_proto_io.guest.blocking`, `.asyncio` and
`.trio`: `serve(address, GuestSimulator())`, or `serve(address, handler)` with a function that takes a request and
returns its reply. Faults are in `stereos_proto_io.guest.faults`. For tests, begin with
`stereos_proto_io.testing.simulated_guest`.
"""

from ._dialects import FORK_TYPES, OLD_TYPES, REFERENCE_TYPES
from .faults import FAULTS, Fault, FaultPlan, parse_fault
from .simulator import (
    Effects,
    GuestSimulator,
    RequestRefused,
    Secret,
)

__all__ = [
    "FAULTS",
    "FORK_TYPES",
    "OLD_TYPES",
    "REFERENCE_TYPES",
    "Effects",
    "Fault",
    "FaultPlan",
    "GuestSimulator",
    "RequestRefused",
    "Secret",
    "parse_fault",
]
