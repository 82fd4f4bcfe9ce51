"""The client for green threads: gevent, eventlet, and their like."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from stereos_proto_io._errors import lookup_timeout
from stereos_proto_io.addresses import Address, Attempt

from ._dialling import READ, WRITE
from ._sync_client import Event, SyncClient
from ._sync_dial import dial


class GreenClient(SyncClient):
    """A connection to a guest, for green threads of one hub (§3). Any number of them may share it.

    A driver brings six functions of its runtime: `event`, `spawn`, `kill`, `readable`, `writable` and `lookup`. No
    function of this library blocks the hub. What one of the six raises, the caller gets.

    A green thread is cancelled by an exception that its runtime raises inside one of the waits (`gevent.Timeout`,
    `eventlet.Timeout`, `kill`). The wait must not catch that exception: a wait that uses an exception for its own
    timeout needs a class of its own.
    """

    # -- what a driver brings ------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def event() -> Event:
        """Return a new event: `set()`, and `wait(seconds)`, which lets other green threads run until it is set.

        `set` may be called twice, and before `wait`. What `wait` returns does not matter. `seconds` is finite.
        """

    @staticmethod
    @abstractmethod
    def spawn(function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in a green thread, and return that."""

    @staticmethod
    @abstractmethod
    def kill(thread: Any) -> None:
        """End a green thread. One that has ended, or has not begun, is fine."""

    @staticmethod
    @abstractmethod
    def readable(descriptor: int, seconds: float) -> bool:
        """Wait until a descriptor is readable, or for `seconds`; return whether it is.

        One green thread at a time waits for the reading of a connection, and another may wait for its writing.
        """

    @staticmethod
    @abstractmethod
    def writable(descriptor: int, seconds: float) -> bool:
        """Wait until a descriptor is writable, or for `seconds`; return whether it is.

        Several green threads may wait for the same descriptor at once.
        """

    @staticmethod
    @abstractmethod
    def lookup(host: str, port: int) -> list[Attempt]:
        """Look a host up without blocking the hub; return (family, target) pairs, as `driver.lookup` does.

        A runtime with a pool of threads calls `driver.lookup` there. Raises OSError.
        """

    # -- what the client needs -----------------------------------------------------------------------------

    # No green thread runs within a locked region, but a signal handler or a finalizer may.
    _make_lock = staticmethod(threading.RLock)

    @classmethod
    def _event(cls) -> Event:
        return cls.event()

    @classmethod
    def _sleep(cls, seconds: float) -> None:
        cls.event().wait(seconds)

    def _poll(self, mask: int, seconds: float) -> int:
        ready = self._ready([(self._stream, mask)], seconds)
        return ready[0][1] if ready else 0

    @classmethod
    def _ready(cls, watched: list[tuple[Any, int]], seconds: float) -> list[tuple[Any, int]]:
        """Wait until one of the streams is ready for its mask, or for `seconds`; return those that are."""
        waits = [(stream, bit) for stream, mask in watched for bit in (READ, WRITE) if mask & bit]
        if len(waits) == 1:
            stream, bit = waits[0]
            return [waits[0]] if cls._wait_one(stream, bit, seconds) else []
        ready: list[tuple[Any, int]] = []
        failures: list[Exception] = []
        event = cls.event()

        def wait(stream: Any, bit: int) -> None:
            try:
                if cls._wait_one(stream, bit, seconds):
                    ready.append((stream, bit))
                    event.set()
            except Exception as exc:  # noqa: BLE001  (it is raised in the thread that waits)
                failures.append(exc)
                event.set()

        threads = [cls.spawn(wait, *each) for each in waits]
        try:
            event.wait(seconds)
        finally:
            for thread in threads:
                cls.kill(thread)
        if failures:
            raise failures[0]
        return ready

    @classmethod
    def _wait_one(cls, stream: Any, bit: int, seconds: float) -> bool:
        return (cls.readable if bit == READ else cls.writable)(stream.fileno(), seconds)

    # -- dialling ------------------------------------------------------------------------------------------

    @classmethod
    def _dial(cls, address: Address, limit: float) -> tuple[Any, bytes]:
        return dial(address, limit, cls._look_up, cls._ready)

    @classmethod
    def _look_up(cls, name: tuple[str, int], limit: float) -> list[Attempt] | OSError:
        """Look up a name within `limit` seconds; return what was found, or the error."""
        found: list[list[Attempt] | Exception] = []
        event = cls.event()

        def look_up() -> None:
            try:
                found.append(cls.lookup(*name))
            except Exception as exc:  # noqa: BLE001  (it is raised in the thread that waits)
                found.append(exc)
            event.set()

        thread = cls.spawn(look_up)
        try:
            event.wait(limit)
        finally:
            cls.kill(thread)
        outcome = found[0] if found else lookup_timeout(name[0])
        if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
            raise outcome
        return outcome
