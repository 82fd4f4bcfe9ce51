"""StereOS guests over real transports: addresses and errors. The drivers are imported by name.

`stereos_proto_io.blocking`, `stereos_proto_io.asyncio` and `stereos_proto_io.trio` are the same client, each
in its runtime's idiom; `stereos_proto_io.guest` is the other end.
"""

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    IncompleteLine,
    InvalidMessage,
    JcardError,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    NotReady,
    OutcomeUnknown,
    PreambleError,
    ProtocolError,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    StereosError,
    UnexpectedReply,
)

from ._files import read_jcard
from .addresses import TCP, Address, Dial, HybridVsock, UnixSocket, VirtioSerial, Vsock, parse_address

__all__ = [
    "TCP",
    "Address",
    "ConnectError",
    "ConnectionLost",
    "Dial",
    "HybridVsock",
    "IncompleteLine",
    "InvalidMessage",
    "JcardError",
    "LineTooLong",
    "LocalProtocolError",
    "MalformedLine",
    "NotReady",
    "OutcomeUnknown",
    "PreambleError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestFailed",
    "RequestTimeout",
    "StereosError",
    "UnexpectedReply",
    "UnixSocket",
    "VirtioSerial",
    "Vsock",
    "parse_address",
    "read_jcard",
]
