"""Dialling for programs that block."""

from __future__ import annotations

import select
import time
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, Final

from stereos_proto import PreambleError
from stereos_proto_io.addresses import Address, Attempt
from stereos_proto_io.driver import READ, Dialling, attempts, begin_lookup, connect_error, lookup_number, names

#: Seconds that one wait lasts at most: `poll` takes no more than 24 days.
_LONGEST_WAIT: Final = 86_400.0


def dial(address: Address, limit: float) -> tuple[Any, bytes]:
    """Connect to a guest within `limit` seconds. Return the stream, and the bytes that came early.

    Raises ConnectError.
    """
    deadline = time.monotonic() + limit
    try:
        stream = address.open()
        places = [] if stream is not None else attempts(address, _found(address, deadline))
        dialling = Dialling(
            address, places, now=time.monotonic(), deadline=None if limit == inf else deadline, stream=stream
        )
    except (OSError, PreambleError) as exc:
        raise connect_error(address, exc) from exc
    try:
        while dialling.outcome is None:
            _wait(dialling)
    except BaseException:
        dialling.cancel()
        raise
    finally:
        for discarded in dialling.discarded:
            discarded.close()
    if isinstance(dialling.outcome, Exception):
        raise dialling.outcome
    return dialling.outcome, dialling.early


def _found(address: Address, deadline: float) -> list[Attempt]:
    """Look up the name of an address before `deadline`. The system's resolver knows no deadline, so it is left."""
    name = names(address)
    if name is None:
        return []
    numbers = lookup_number(*name)
    if numbers is not None:
        return numbers
    answers: SimpleQueue[list[Attempt] | OSError] = SimpleQueue()
    begin_lookup(*name, answers.put)
    try:
        found = answers.get(timeout=min(max(deadline - time.monotonic(), 0), _LONGEST_WAIT))
    except Empty:
        raise TimeoutError(f"the name {name[0]} was not looked up in time") from None
    if isinstance(found, OSError):
        raise found
    return found


def _wait(dialling: Dialling) -> None:
    """Wait for one of the streams that a dial watches, or for its next deadline."""
    poll = select.poll()
    streams = {}
    for stream, mask in dialling.watch():
        poll.register(stream.fileno(), select.POLLIN if mask & READ else select.POLLOUT)
        streams[stream.fileno()] = stream
    deadline = dialling.next_deadline()
    left = _LONGEST_WAIT if deadline is None else min(max(deadline - time.monotonic(), 0), _LONGEST_WAIT)
    for descriptor, _ in poll.poll(left * 1000):
        dialling.ready(streams[descriptor], time.monotonic())
    # Also when a stream was ready: a peer that never stops talking must not hold the caller past the deadline.
    dialling.expire(time.monotonic())
