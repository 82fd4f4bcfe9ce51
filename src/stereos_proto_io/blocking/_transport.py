"""Waiting for a stream in a thread. Reading and writing are the client's own (`driver.SyncClient`)."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from stereos_proto_io.driver import READ, WRITE


def pollers(stream: Any) -> dict[int, Callable[[float], list[tuple[int, int]]]]:
    """Return, for each mask to wait for, a function that waits for so many milliseconds (`select.poll`)."""
    found: dict[int, Callable[[float], list[tuple[int, int]]]] = {}
    for mask in (READ, WRITE, READ | WRITE):
        poller = select.poll()
        poller.register(stream.fileno(), select.POLLIN * bool(mask & READ) | select.POLLOUT * bool(mask & WRITE))
        found[mask] = poller.poll
    return found
