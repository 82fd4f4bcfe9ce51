"""What the operating system says, in sentences about the guest (`docs/protocol.md` §8)."""

from __future__ import annotations

import errno
import re
import socket
from typing import Final

from stereos_proto import ConnectError, PreambleError

from .addresses import Address, Vsock

#: errno → what it means here, and whether a later try may succeed by itself.
_MEANINGS: Final[dict[int, tuple[str, bool]]] = {
    errno.ECONNREFUSED: ("nobody listens there yet", True),
    errno.ECONNRESET: ("it was reset: nobody listens there yet", True),
    errno.EPIPE: ("it was closed at once: nobody listens there yet", True),
    errno.ENOENT: ("there is no such socket yet; is the virtual machine running?", True),
    errno.ENODEV: ("no virtual machine with this CID is running", True),
    errno.ETIMEDOUT: ("no answer; is the guest booting, or paused?", True),
    errno.EHOSTUNREACH: ("the host is not reachable", True),
    errno.ENETUNREACH: ("the network is not reachable", True),
    errno.EAGAIN: ("its queue of waiting connections is full", True),
    errno.EBUSY: ("somebody else has it open", True),
    errno.EACCES: ("permission denied; see the socket's owner and mode", False),
    errno.EPERM: ("permission denied", False),
    errno.ENOTSOCK: ("this is no socket", False),
    errno.ENOTDIR: ("a part of the path is no folder", False),
    errno.ENAMETOOLONG: ("the path is too long", False),
    errno.EAFNOSUPPORT: ("this system does not know this kind of address", False),
    errno.EPROTOTYPE: ("this is a socket of another kind", False),
}
#: What is not known may pass by itself; the deadline bounds the tries.
_UNKNOWN: Final = ("the system refused it", True)


def _errno(cause: BaseException) -> int:
    """The system's number for `cause`; 0 where it has none. A dial to several addresses hides those of its tries:
    trio has them in a group, and asyncio in its text alone.
    """
    if isinstance(cause, OSError) and cause.errno:
        return cause.errno
    tries = cause.__cause__.exceptions if isinstance(cause.__cause__, BaseExceptionGroup) else ()
    told = re.search(r"\[Errno (\d+)\]", str(cause))
    return next(filter(None, map(_errno, tries)), int(told[1]) if told else 0)


def connect_error(address: Address, cause: BaseException) -> ConnectError:
    """The error for a dial that failed with `cause`, chained to it."""
    if isinstance(cause, PreambleError):
        text, retryable = str(cause), cause.failure.retryable
    elif isinstance(cause, socket.gaierror):
        # Its numbers are a name space of their own, which on macOS overlaps with errno's.
        text, retryable = f"this name is not known ({cause})", True
    elif isinstance(cause, TimeoutError) and not cause.errno:
        text, retryable = "no answer in time; is the guest booting, or paused?", True
    else:
        meaning, retryable = _MEANINGS.get(_errno(cause), _UNKNOWN)
        text = f"{meaning} ({cause})"
    error = ConnectError(f"cannot connect to {address}: {text}", retryable=retryable)
    error.__cause__ = cause
    return error


def no_vsock(address: Vsock) -> ConnectError:
    """The error where Python or the system has no AF_VSOCK."""
    return ConnectError(
        f"cannot connect to {address}: this Python has no AF_VSOCK, which only Linux builds have; "
        "use the hypervisor's unix socket or TCP forwarding instead",
        retryable=False,
    )
