"""A character device, such as a virtio-serial port, with the methods of a non-blocking socket (`docs/protocol.md` §8).

Both ends use it: a host that is handed a terminal or a port, and a guest, where the port is a device. A device has no
connections, so reading nothing (b"") means that the other end is away. What follows from that is for the user to say:
a host takes it for the end of the stream, a guest waits for the next host. While the other end is away, poll reports
"readable" all the time (POLLHUP), so a guest has to wait by the clock: `AWAY_PAUSE`.
"""

from __future__ import annotations

import errno
import os
import select
from typing import Final

#: Seconds between looks at a device whose other end is away.
AWAY_PAUSE: Final = 0.05
#: Bytes that one write hands to the device. The virtio-serial driver takes no more, and says so only by returning less.
LARGEST_WRITE: Final = 32 * 1024


class Device:
    """An open character device (§8). Nothing here waits. One program at a time may have a virtio-serial port open."""

    def __init__(self, path: str) -> None:
        """Raises OSError: EBUSY where another program has the port open already, ENOTTY for what is never silent.

        `/dev/null` and `/dev/zero` are such devices: nothing can wait until there is something to read.
        """
        # A Python file, because that warns when it is collected unclosed. Its own read and write are not used: they
        # return None where the device would have to wait.
        self._file = open(path, "r+b", buffering=0, opener=_open)  # noqa: SIM115
        try:
            if not _can_wait(self._file.fileno()):
                raise OSError(errno.ENOTTY, "not a device that can be waited on", path)  # noqa: TRY301
        except BaseException:
            self._file.close()
            raise

    def fileno(self) -> int:
        """The descriptor, to wait on; -1 when it is closed."""
        return -1 if self._file.closed else self._file.fileno()

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes; b"" when the other end is away. Raises BlockingIOError when it is silent."""
        try:
            return os.read(self.fileno(), size)
        except OSError as exc:
            # What a pseudo-terminal says instead of nothing.
            if exc.errno == errno.EIO:
                return b""
            raise

    def send(self, data: bytes | memoryview) -> int:
        """Write some of `data` and return how much, at least 1. Raises BlockingIOError when nothing can be written."""
        written = os.write(self.fileno(), memoryview(data)[:LARGEST_WRITE])
        if not written:
            # A port whose host is away may take nothing without an error.
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return written

    @property
    def is_away(self) -> bool:
        """Whether the other end is away. As long as that is so, waiting on the descriptor returns at once."""
        poll = select.poll()
        poll.register(self.fileno(), 0)
        return any(what & (select.POLLHUP | select.POLLERR) for _, what in poll.poll(0))

    def close(self) -> None:
        """Close the device. Closing twice is fine."""
        self._file.close()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)


def _can_wait(descriptor: int) -> bool:
    """Whether the system tells when a device is readable. epoll refuses others, and poll calls them readable always."""
    if not hasattr(select, "epoll"):
        return True
    with select.epoll() as epoll:
        try:
            epoll.register(descriptor)
        except PermissionError:
            return False
    return True
