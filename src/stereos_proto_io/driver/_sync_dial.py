"""One dial for callers that block, whatever they wait with: `select.poll`, or the hub of green threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

from stereos_proto_io.addresses import Address, Attempt, check_address

from ._dialling import Dialling, attempts, lookup_number, names, open_now, refused

#: Seconds that one wait lasts at most: `poll` takes no more than 24 days, and no call of the system takes infinity.
LONGEST_WAIT: Final = 86_400.0


def dial(
    address: Address,
    limit: float,
    look_up: Callable[[tuple[str, int], float], list[Attempt] | OSError],
    wait: Callable[[list[tuple[Any, int]], float], Iterable[tuple[Any, int]]],
) -> tuple[Any, bytes]:
    """Connect to a guest within `limit` seconds. Return the stream, and the bytes that came early (§8).

    `look_up` looks a host and port up within some seconds, and returns what it found, or the error. `wait` waits until
    one of the streams is ready for its mask, or for some seconds, and returns those that are.

    Raises ConnectError, and what `look_up` and `wait` raise: a caller is cancelled by an exception inside a wait, which
    may be an OSError, such as a TimeoutError.
    """
    deadline = time.monotonic() + limit
    with refused(address):
        stream = open_now(check_address(address))
    found: list[Attempt] | OSError = []
    if stream is None and (name := names(address)):
        numbers = lookup_number(*name)
        found = look_up(name, left(deadline)) if numbers is None else numbers
    with refused(address):
        dialling = Dialling(
            address,
            attempts(address, found) if stream is None else (),
            now=time.monotonic(),
            deadline=None if limit == inf else deadline,
            stream=stream,
        )
    try:
        while dialling.outcome is None:
            until = dialling.next_deadline()
            for ready, _ in wait(dialling.watch(), LONGEST_WAIT if until is None else left(until)):
                dialling.ready(ready, time.monotonic())
            # Also when a stream was ready: a peer that never stops talking must not hold the caller past the deadline.
            dialling.expire(time.monotonic())
    except BaseException:
        dialling.cancel()
        raise
    finally:
        for discarded in dialling.discarded:
            discarded.close()
    if isinstance(dialling.outcome, Exception):
        raise dialling.outcome
    return dialling.outcome, dialling.early


def left(deadline: float) -> float:
    """The seconds until `deadline`, as one wait may last."""
    return min(max(deadline - time.monotonic(), 0.0), LONGEST_WAIT)
