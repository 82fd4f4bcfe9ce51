"""Connections for the commands: the blocking client, with a trace of the wire where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import attrs

from stereos_proto.dialogues import WaitProgress
from stereos_proto_io._verbs import ready_wait
from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking import Client, _Actor

from ._context import ASK_SECONDS, Deadline
from ._trace import TracedStream


@attrs.define
class _TracedActor(_Actor):
    """Shows what goes over each connection that it makes, after the bytes before the protocol."""

    def _connect(self, timeout: float) -> None:
        super()._connect(timeout)
        client = self._current()
        client._stream = TracedStream(client._stream, str(self.address))


def _actor(address: Address, deadline: Deadline, *, trace: bool) -> _Actor:
    options: dict[str, Any] = {"timeout": ASK_SECONDS}
    return (_TracedActor if trace else _Actor)(deadline.at, None, address, options)


def dial(address: Address, deadline: Deadline, *, trace: bool = False) -> Client:
    """Connect before the deadline. Raises ConnectError."""
    actor = _actor(address, deadline, trace=trace)
    actor._connect(deadline.left)
    return actor._current()


def dial_when_ready(
    address: Address,
    deadline: Deadline,
    *,
    states: Collection[str],
    agents: Collection[str] = (),
    on_progress: Callable[[WaitProgress], None] | None = None,
    trace: bool = False,
) -> Client:
    """Connect to a guest that may still boot. Raises what `connect_when_ready` raises."""
    actor = _actor(address, deadline, trace=trace)
    try:
        actor.wait(ready_wait(states, agents, None, on_progress), round(deadline.left, 1), redial=True)
    except BaseException:
        if actor.client is not None:
            actor.client.close()
        raise
    return actor._current()
