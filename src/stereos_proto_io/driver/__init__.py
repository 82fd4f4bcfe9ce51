"""The parts of a client for any event loop.

* threads: `SyncClient` (`stereos_proto_io.blocking` is one). You bring a lock, an event, a poll and a sleep.
* green threads: `GreenClient`. You bring event, spawn, kill, readable, writable and lookup.
* a loop that awaits, and waits for descriptors: `FdClient` (`stereos_proto_io.trio` is one). You bring eight functions.
* a loop that awaits, and has transports that call back: `AsyncClient` (`stereos_proto_io.asyncio` is one).
* a loop that calls back when a descriptor is ready: `LoopClient`. You bring watch, set_timer and call_soon.
* a loop that polls descriptors by hand: `PollClient`. You bring the waiting.
* anything else: `stereos_proto.HostClient`, and `Dialling`.
"""

from stereos_proto import seconds
from stereos_proto_io._errors import connect_error

from ._async_client import AsyncClient, AsyncRunner
from ._async_dial import Connecting, open_stream
from ._device import Device
from ._dialling import ATTEMPT_DELAY, READ, WRITE, Dialling, attempts, begin_lookup, lookup, lookup_number, names
from ._fd_client import FdClient
from ._green_client import GreenClient
from ._loop_client import LoopClient
from ._outcomes import again, replies
from ._poll_client import PollClient
from ._streams import EVENTS_PER_TURN, READ_SIZE, Encrypted, Stream, as_stream
from ._sync_client import Event, SyncClient
from ._sync_runner import SyncRunner
from ._verbs import READY_TIMEOUT, AsyncVerbs, Limits, SyncVerbs, check_limits, ready_wait

__all__ = [
    "ATTEMPT_DELAY",
    "EVENTS_PER_TURN",
    "READ",
    "READY_TIMEOUT",
    "READ_SIZE",
    "WRITE",
    "AsyncClient",
    "AsyncRunner",
    "AsyncVerbs",
    "Connecting",
    "Device",
    "Dialling",
    "Encrypted",
    "Event",
    "FdClient",
    "GreenClient",
    "Limits",
    "LoopClient",
    "PollClient",
    "Stream",
    "SyncClient",
    "SyncRunner",
    "SyncVerbs",
    "again",
    "as_stream",
    "attempts",
    "begin_lookup",
    "check_limits",
    "connect_error",
    "lookup",
    "lookup_number",
    "names",
    "open_stream",
    "ready_wait",
    "replies",
    "seconds",
]
