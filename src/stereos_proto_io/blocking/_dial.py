"""Dialling for programs that block."""

from __future__ import annotations

import select
from queue import Empty, SimpleQueue
from typing import Any

from stereos_proto_io._errors import lookup_timeout
from stereos_proto_io.addresses import Address, Attempt
from stereos_proto_io.driver import READ, begin_lookup
from stereos_proto_io.driver._sync_dial import dial as dial_with


def dial(address: Address, limit: float) -> tuple[Any, bytes]:
    """Connect to a guest within `limit` seconds. Return the stream, and the bytes that came early.

    Raises ConnectError.
    """
    return dial_with(address, limit, _look_up, _wait)


def _look_up(name: tuple[str, int], limit: float) -> list[Attempt] | OSError:
    """Look up a name within `limit` seconds; return what was found, or the error.

    The system's resolver knows no deadline, so it is left.
    """
    answers: SimpleQueue[list[Attempt] | OSError] = SimpleQueue()
    begin_lookup(*name, answers.put)
    try:
        return answers.get(timeout=limit)
    except Empty:
        return lookup_timeout(name[0])


def _wait(watched: list[tuple[Any, int]], limit: float) -> list[tuple[Any, int]]:
    """Wait until one of the streams is ready for its mask, or for `limit` seconds; return those that are."""
    poll = select.poll()
    streams = {}
    for stream, mask in watched:
        poll.register(stream.fileno(), select.POLLIN if mask & READ else select.POLLOUT)
        streams[stream.fileno()] = stream, mask
    return [streams[descriptor] for descriptor, _ in poll.poll(limit * 1000)]
