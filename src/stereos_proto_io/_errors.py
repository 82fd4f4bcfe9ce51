"""What the operating system says, in sentences about the guest (`docs/protocol.md` §8)."""

from __future__ import annotations

import errno
import socket
from typing import Final

from stereos_proto import ConnectError, PreambleError

from .addresses import Address, Vsock, check_address

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
    errno.EBUSY: ("another program has it open", True),
    errno.EACCES: ("permission denied; see the socket's owner and mode", False),
    errno.EPERM: ("permission denied", False),
    errno.ENOTSOCK: ("this is not a socket", False),
    errno.ENOTTY: ("only a terminal or a virtio-serial port can be used", False),
    errno.ENOTDIR: ("a component of the path is not a directory", False),
    errno.ENAMETOOLONG: ("the path is too long", False),
    errno.EAFNOSUPPORT: ("this system does not know this kind of address", False),
    errno.EPROTOTYPE: ("this is a socket of another type", False),
}
#: Errors that mean that no guest listens. With any other error the guest may be running, and out of reach.
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOENT, errno.ENODEV})
#: What is not known may pass by itself; the deadline bounds the tries.
_UNKNOWN: Final = ("the system refused it", True)


class LookupTimeoutError(TimeoutError):
    """The system's resolver did not answer in time."""


def lookup_timeout(name: str) -> LookupTimeoutError:
    """The error for a name that was not looked up in time. It can be pickled, as its only argument is its text."""
    return LookupTimeoutError(f"the name {name} was not looked up in time")


def _errno(cause: BaseException) -> int:
    """The system's number for `cause`; 0 where it has none."""
    return cause.errno or 0 if isinstance(cause, OSError) else 0


def connect_error(address: Address, cause: BaseException) -> ConnectError:
    """The error for a dial that failed with `cause`, chained to it (§8). A ConnectError is returned as it is.

    `address` may be a `Dial(function, label=...)` where there is no other. `retryable` and `timed_out` follow from
    `cause`.

    Raises TypeError when `address` is no `Address`.
    """
    check_address(address)
    if isinstance(cause, ConnectError):
        return cause
    timed_out = isinstance(cause, TimeoutError)
    if isinstance(cause, PreambleError):
        text, retryable = str(cause), cause.failure.retryable
    elif not isinstance(cause, OSError):
        # Raised by the function of a `Dial`.
        text, retryable = f"its dial raised {type(cause).__name__} ({cause})", False
    elif isinstance(cause, socket.gaierror):
        text, retryable = _name_error(cause)
    elif isinstance(cause, LookupTimeoutError):
        text, retryable = f"{cause}; see whether the resolver of this machine answers, or use an IP address", True
    elif timed_out and not _errno(cause):
        return no_answer(str(address), cause)
    elif not cause.errno:
        # Said by an address: this system cannot connect to such a place.
        text, retryable = str(cause), False
    else:
        meaning, retryable = _MEANINGS.get(_errno(cause), _UNKNOWN)
        if fault := address.fault():
            meaning, retryable = fault, False
        text = f"{meaning} ({cause})"
    error = ConnectError(f"cannot connect to {address}: {text}", retryable=retryable, timed_out=timed_out)
    error.__cause__ = cause.with_traceback(None)
    return error.about(str(address))


def nobody_listens(address: Address, error: ConnectError) -> bool:
    """Return whether a dial to `address` failed because no guest listens there, as after a power-off.

    False where the guest may be there all the same: this process has no descriptor left, the name cannot be looked up,
    the network is down, a queue is full, or nothing came in time.
    """
    cause = error.__cause__
    if isinstance(cause, PreambleError):
        return cause.failure.retryable
    if isinstance(cause, socket.gaierror):
        return False
    number = _errno(cause) if cause is not None else 0
    # The kernel of the host gives up a vsock connection within seconds; over TCP the packets may be lost on the way.
    return number in _NOBODY or (number == errno.ETIMEDOUT and isinstance(address, Vsock))


def no_answer(guest: str, cause: BaseException | None = None) -> ConnectError:
    """The error for a dial that had no answer in time (§8). `guest` is the address, as text."""
    text = f"cannot connect to {guest}: no answer in time; is the guest booting, or paused?"
    error = ConnectError(text, timed_out=True)
    error.__cause__ = cause.with_traceback(None) if cause else None
    return error.about(guest)


def _name_error(cause: socket.gaierror) -> tuple[str, bool]:
    # The numbers of name errors are a name space of their own, which on macOS overlaps with errno's.
    if cause.errno == socket.EAI_AGAIN:
        return f"the name could not be looked up for now ({cause.strerror})", True
    return f"this name is not known ({cause.strerror})", True
