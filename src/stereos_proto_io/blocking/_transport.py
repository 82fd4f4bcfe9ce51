"""Waiting for a stream in a thread. Reading and writing are the client's own (`driver.SyncClient`)."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from stereos_proto_io.driver import READ, WRITE


def poll(stream: Any) -> Callable[[int, float], int]:
    """Return a function that waits until `stream` is ready for a mask, or for so many seconds.

    It returns what the stream is ready for; an error or the end counts as readable.
    """
    wait_for: dict[int, Callable[[float], list[tuple[int, int]]]] = {}
    for mask in (READ, WRITE, READ | WRITE):
        poller = select.poll()
        poller.register(stream.fileno(), select.POLLIN * bool(mask & READ) | select.POLLOUT * bool(mask & WRITE))
        wait_for[mask] = poller.poll

    def wait(mask: int, seconds: float) -> int:
        for _, events in wait_for[mask](seconds * 1000):
            # A waiter that only writes leaves reading to the leader.
            return (READ if events & ~select.POLLOUT else 0) & mask or WRITE
        return 0

    return wait
