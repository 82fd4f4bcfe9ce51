"""A virtio-serial port as the guest sees it: a character device (`docs/protocol.md` §8).

One program may have it open. Reading nothing means that the host is away, not that the port has ended; poll
says "readable" all that time, so whoever reads has to wait by the clock.
"""

from __future__ import annotations

import errno
import os
import select
from typing import Final

#: Seconds between looks at a port whose host is away.
AWAY_PAUSE: Final = 0.05
#: Bytes that the driver takes in one write; it says so only by returning less.
LARGEST_WRITE: Final = 32 * 1024


class Device:
    """An open port. Nothing here waits."""

    def __init__(self, path: str) -> None:
        """Raises OSError: EBUSY where somebody has the port open already."""
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._fd

    def read(self, size: int) -> bytes | None:
        """Return what has come, b"" when the host is away, None when it is silent."""
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            return None
        except OSError as exc:
            # What a pseudo-terminal says instead of nothing.
            if exc.errno == errno.EIO:
                return b""
            raise

    def write(self, data: memoryview) -> int:
        """Write some of `data` and return how much; 0 when the port takes nothing now."""
        try:
            return os.write(self._fd, data[:LARGEST_WRITE])
        except BlockingIOError:
            return 0

    @property
    def is_away(self) -> bool:
        """Whether there is no host. As long as that is so, waiting on the descriptor returns at once."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return any(what & (select.POLLHUP | select.POLLERR) for _, what in poll.poll(0))

    def close(self) -> None:
        """Close the port."""
        os.close(self._fd)
