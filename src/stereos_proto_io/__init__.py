"""StereOS guests over real transports: addresses and errors. The drivers are imported by name.

`stereos_proto_io.blocking`, `stereos_proto_io.asyncio` and `stereos_proto_io.trio` are the same client, each
in its runtime's idiom; `stereos_proto_io.guest` is the other end.

Each name is loaded on first use, because the help of `stereosctl`, which is in this package, needs none of them.
"""

from importlib import import_module

TYPE_CHECKING = False  # not from `typing`, which takes longer to load than this module, while Ctrl-C is not handled

if TYPE_CHECKING:
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

if not TYPE_CHECKING:  # a checker is to know every name, and that there are no others

    def __getattr__(name: str) -> object:
        if name in __all__:
            for place in (".addresses", "._files", "stereos_proto"):
                module = import_module(place, __name__)
                if hasattr(module, name):
                    return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
