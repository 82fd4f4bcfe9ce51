"""The only place where the command line uses what the library does not offer publicly: to trace, examine and proxy.

Each is imported where it is used, so that what needs the table of messages alone loads no driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from stereos_proto import Role
from stereos_proto._registry import BY_TYPE
from stereos_proto.dialogues import WaitProgress
from stereos_proto_io.addresses import Address

if TYPE_CHECKING:
    from stereos_proto_io.blocking import Client

Wrap = Callable[[Any], Any]

# ruff: noqa: PLC0415


def message_class(sender: Role, type_: str) -> Any:
    """The class of a message type, None where there is none."""
    row = BY_TYPE[sender].get(type_)
    return None if row is None else row.cls


def connect_through(wrap: Wrap, address: Address, by: float, timeout: float) -> Client:
    """`connect`, over what `wrap` makes of the stream. `by` is a time of the monotonic clock."""
    from stereos_proto_io import _blocking_wire
    from stereos_proto_io.blocking import Client

    stream, early = _blocking_wire.dial(address, by)
    client = Client.attach(wrap(stream), label=str(address), timeout=timeout)
    if early:
        client._session.receive(early)
    return client


def connect_when_ready_through(
    wrap: Wrap,
    address: Address,
    by: float,
    timeout: float,
    *,
    states: Collection[str],
    agents: Collection[str],
    on_progress: Callable[[WaitProgress], None],
    request_timeout: float,
) -> Client:
    """`connect_when_ready`, over what `wrap` makes of each stream."""
    from stereos_proto_io._verbs import ready_wait
    from stereos_proto_io.blocking import _Actor

    actor = _Actor(by, dial=lambda until: connect_through(wrap, address, until, request_timeout))
    try:
        actor.wait(ready_wait(states, agents, None, on_progress), timeout, redial=True)
    except BaseException:
        actor.close()
        raise
    return actor._current()


def open_stream(address: Address, by: float) -> Any:
    """A connected stream, before its preamble. Raises ConnectError."""
    from stereos_proto_io import _blocking_wire

    return _blocking_wire.reach(address, by)


def run_preamble(address: Address, stream: Any, by: float) -> bytes:
    """Run the preamble of a stream, and return what came after it. Raises ConnectError."""
    from stereos_proto_io import _blocking_wire

    return _blocking_wire.begin(address, stream, by)


def is_device(address: Address) -> bool:
    """Whether the address is a character device."""
    from stereos_proto_io import _dial

    return _dial.is_device(address)


def bind(address: Address) -> Any:
    """A place to listen at, bound. Raises OSError and ValueError."""
    from stereos_proto_io.guest import _listen

    return _listen.bind_all(address)[0]
