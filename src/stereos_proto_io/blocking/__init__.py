"""The client for programs that block: plain calls, any number of threads.

There is no thread behind it. The thread that waits first reads for all, and hands over to the next when it has its
own reply (leader and followers, `stereos_proto.Turns`).
"""

from __future__ import annotations

import select
import threading
import time
from contextlib import suppress
from typing import Any, Final

from stereos_proto_io.addresses import Address
from stereos_proto_io.driver import READ, WRITE, Event, SyncClient
from stereos_proto_io.driver._streams import check_usable

from ._dial import dial
from ._transport import pollers

__all__ = ["Client", "connect", "connect_when_ready"]


class _Wakeup:
    """What wakes one follower once.

    `threading.Event` will not do: its lock is not reentrant. A signal handler that closes the client may interrupt
    `wait` in this very thread while that holds the lock, and `set` would then wait for it for ever.
    """

    def __init__(self) -> None:
        # Locked until it is set.
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let `wait` return. Twice is fine."""
        with suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout: float, /) -> None:
        """Wait until it is set, or for `timeout` seconds."""
        self._lock.acquire(timeout=timeout)


class Client(SyncClient):
    """A connection to a guest. Threads may share it; each gets its own replies (§3).

    Processes may not: a child that was forked finds its copy closed. `connect` or `Client.attach` make one; `close`
    it, or use it in `with`.
    """

    _make_lock = staticmethod(threading.RLock)

    @classmethod
    def _event(cls) -> Event:
        return _Wakeup()

    def __init__(self, stream: Any, **options: Any) -> None:
        check_usable(stream)
        self._pollers = pollers(stream)
        super().__init__(stream, **options)

    def _poll(self, mask: int, seconds: float) -> int:
        for _, events in self._pollers[mask](seconds * 1000):
            # A waiter that only writes leaves reading to the leader. An error or the end counts as readable.
            return (READ if events & ~select.POLLOUT else 0) & mask or WRITE
        return 0

    @classmethod
    def _sleep(cls, seconds: float) -> None:
        time.sleep(seconds)

    @classmethod
    def _dial(cls, address: Address, limit: float) -> tuple[Any, bytes]:
        return dial(address, limit)


connect: Final = Client.connect
connect_when_ready: Final = Client.connect_when_ready
