"""Connections for the commands: the blocking client, with a trace of the wire where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection

from stereos_proto.dialogues import WaitProgress
from stereos_proto_io import _blocking_wire
from stereos_proto_io._verbs import ready_wait
from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking import Client, _Actor

from ._deadline import ASK_SECONDS, Deadline
from ._trace import TracedStream


def _connect(address: Address, by: float, *, trace: bool) -> Client:
    stream, early = _blocking_wire.dial(address, by)
    if trace:
        stream = TracedStream(stream, str(address))
    client = Client.attach(stream, label=str(address), timeout=ASK_SECONDS)
    if early:
        client._session.receive(early)
    return client


def dial(address: Address, deadline: Deadline, *, trace: bool = False) -> Client:
    """Connect before the deadline. Raises ConnectError."""
    return _connect(address, deadline.at, trace=trace)


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
    actor = _Actor(deadline.at, dial=lambda by: _connect(address, by, trace=trace))
    try:
        actor.wait(ready_wait(states, agents, None, on_progress), deadline.tenths, redial=True)
    except BaseException:
        actor.close()
        raise
    return actor._current()
