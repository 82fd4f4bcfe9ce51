"""The client for programs that block: plain calls, any number of threads.

There is no thread behind it. The thread that waits first reads for all, and hands over to the next when it has its
own reply (leader and followers, `stereos_proto.Turns`).
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Self, Unpack

from stereos_proto import DEFAULT_TIMEOUT
from stereos_proto.dialogues import Backoff, WaitProgress
from stereos_proto_io.addresses import Address
from stereos_proto_io.driver import (
    READ,
    READY_TIMEOUT,
    WRITE,
    Event,
    Limits,
    SyncClient,
    SyncRunner,
    check_limits,
    ready_wait,
    seconds,
)
from stereos_proto_io.driver._streams import check_usable, handed_over

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
    def attach(
        cls, stream: Any, *, label: str = "the guest", timeout: float = DEFAULT_TIMEOUT, **limits: Unpack[Limits]
    ) -> Self:
        """Return a client over a connected socket, or another object that keeps the rules of `driver.Stream`.

        A socket may be one of TLS. The client owns the stream from then on, and makes a socket non-blocking. `timeout`
        (seconds) is what each verb waits unless told otherwise. `max_pending` bounds the requests in flight,
        `max_notifications` the notifications kept for `notifications()`.

        Raises TypeError when `stream` is no stream, OSError when it is closed, ValueError for a bad limit.
        """
        return cls(stream, label=label, timeout=timeout, **limits)


def connect(address: Address, *, timeout: float | None = DEFAULT_TIMEOUT, **limits: Unpack[Limits]) -> Client:
    """Dial a guest, within `timeout` seconds, and return a client. `timeout` is each verb's, too.

    It bounds everything but the function of a `Dial`. `limits` are those of `Client.attach`. A connection does not
    mean that the guest is there (§8): see `connect_when_ready`.

    Raises ConnectError.
    """
    limit = seconds(timeout)
    check_limits(**limits)
    return _connect(address, limit, limit, limits)


def connect_when_ready(
    address: Address,
    *,
    timeout: float | None = READY_TIMEOUT,
    states: Collection[str] | None = None,
    agents: Collection[str] = (),
    backoff: Backoff | None = None,
    on_progress: Callable[[WaitProgress], None] | None = None,
    request_timeout: float = DEFAULT_TIMEOUT,
    **limits: Unpack[Limits],
) -> Client:
    """Dial until there is a guest, wait until it is ready, and return a client; all within `timeout` seconds.

    Dial, preamble and first probe are one try; a connection that dies, or stays silent, is dialled again (§8).
    `states`, `agents`, `backoff` and `on_progress` are those of `Client.wait_ready`; `request_timeout` is what
    each verb of the client waits later; `limits` are those of `Client.attach`.

    Raises NotReady, with the last state and the last error; ConnectError when another try cannot help;
    RemoteProtocolError when what answers does not speak the protocol.
    """
    wait = ready_wait(states, agents, backoff, on_progress)
    patience = seconds(request_timeout)
    check_limits(**limits)
    runner = SyncRunner(Client, dial=lambda limit: _connect(address, limit, patience, limits), label=str(address))
    try:
        runner.run(wait.run(redial=True), seconds(timeout))
    except BaseException:
        runner.close()
        raise
    return runner.found(Client)


def _connect(address: Address, limit: float, timeout: float, limits: Limits) -> Client:
    stream, early = dial(address, limit)
    with handed_over(stream, address):
        return Client(stream, label=str(address), timeout=timeout, early=early, **limits)
