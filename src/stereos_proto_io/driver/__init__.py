"""What a client for any event loop is made of."""

from stereos_proto_io._errors import connect_error

from ._dialling import READ, WRITE, Dialling, attempts, lookup, names
from ._streams import READ_SIZE, Device, as_stream

__all__ = [
    "READ",
    "READ_SIZE",
    "WRITE",
    "Device",
    "Dialling",
    "as_stream",
    "attempts",
    "connect_error",
    "lookup",
    "names",
]
