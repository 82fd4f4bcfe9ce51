"""The client for loops of callbacks: the loop watches descriptors, the client works.

The interface resembles curl's multi interface. The client says which streams to watch (`changes`) and when it has to be
called at the latest (`next_deadline`); the loop reports which stream is ready (`ready`), or that time has passed
(`expire`); then the client returns what happened (`events`). A whole turn of a loop:

    client.ready(stream, mask)                  # for each stream that is ready
    for event in client.events():
        ...                                     # CallDone, TaskDone, NotificationReceived, SessionEnded, …
    client.expire()
    for event in client.events():
        ...                                     # the same: what was too late
    for stream, mask in client.changes():
        ...                                     # watch the stream for mask; 0: watch it no more
    ...                                         # a timer for client.next_deadline(), if it is not None

Do all of it but the first step after calling `request`, `run`, `wait_ready`, `provision`, `cancel` or `close`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Literal

from stereos_proto import (
    MAX_PENDING,
    NEED_DATA,
    ClientEvent,
    ConnectError,
    DialWanted,
    HostClient,
    Need,
    Role,
    SessionEnded,
)
from stereos_proto_io._errors import connect_error, lookup_timeout
from stereos_proto_io.addresses import Address, Attempt, check_address

from ._dialling import READ, WRITE, Dialling, attempts, begin_lookup, lookup_number, names, open_now
from ._log import log_for
from ._streams import read, write
from ._sync_dial import LONGEST_WAIT

#: Bytes that one turn reads. Many guests share a loop, and none of them may keep it long.
_READ_SIZE: Final = 16 * 1024

#: Seconds that a dial takes at most where its caller set no time.
_CONNECT_TIMEOUT: Final = 10.0


class PollClient(HostClient):
    """A client of one guest for a loop that watches descriptors (§3, §7, §8).

    It dials by itself: at the first request, and whenever a dialogue or `connect` wants it. Names are looked up in a
    thread. For the loop's thread only.

    Read-only attributes:

    * `is_connected`: whether there is a connection.
    * `session`: the `HostSession` of the current connection, or of the last one. Each connection has its own.
    * `address`: the address of the guest, and `label`: its text, as in errors and logs.
    * `clock`: the function that returns the time, in seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_pending: int = MAX_PENDING,
        trace: Callable[[Role, bytes], object] | None = None,
    ) -> None:
        """`clock` returns seconds that only grow. `trace` is that of `HostSession`.

        Raises ValueError when `max_pending` is below 1, TypeError when `address` is no `Address`.
        """
        log = log_for(address)
        super().__init__(str(address), clock=clock, max_pending=max_pending, trace=trace, log=log)
        self.address: Address = check_address(address)
        # The connection's stream, the dial in progress, the look-up before it, and their deadline.
        self._stream: Any = None
        self._dialler: Dialling | None = None
        self._lookup: _Lookup | None = None
        self._deadline = 0.0
        # What the loop was told to watch, and the streams to close once it has let go of them.
        self._told: dict[Any, int] = {}
        self._dropped: list[Any] = []

    def __repr__(self) -> str:
        # What is set last is missing where an option was refused, and a traceback shows this client.
        return super().__repr__() if hasattr(self, "_dropped") else f"<{type(self).__name__}, not made>"

    # -- what the loop says --------------------------------------------------------------------------------

    def ready(self, stream: Any, mask: int) -> None:
        """Handle a stream that is ready for `mask` (`READ`, `WRITE` or both). Reads once.

        What it can write is written as events are pulled. A stream that the client has let go of is ignored.

        Raises TypeError for what is no stream, such as a descriptor.
        """
        if not hasattr(stream, "fileno"):
            raise TypeError("pass the stream that `changes` (or `watch`) gave, not its descriptor")
        if self._lookup is not None and stream is self._lookup.stream:
            self._dial_to(self._lookup.take())
        elif self._dialler is not None:
            self._dialler.ready(stream, self.clock())
            self._look_at_dialler()
        elif stream is self._stream and mask & READ:
            read(self.session, self._stream, _READ_SIZE)

    def expire(self) -> None:
        """Do what is due. Pull events before: a reply that has arrived counts."""
        if self._dialler is not None:
            self._dialler.expire(self.clock())
            self._look_at_dialler()
        elif self._lookup is not None and self.clock() >= self._deadline:
            self._fail(lookup_timeout(self._lookup.host))
        super().expire()

    def next_deadline(self) -> float | None:
        """Return when to call `expire` and pull events next, on the client's clock; None: there is no deadline.

        It is a day from now at most, since not every loop can wait for longer: there may be nothing to do yet then.
        """
        own = self._dialler.next_deadline() if self._dialler else self._deadline if self._lookup else None
        ends = [end for end in (own, super().next_deadline()) if end is not None]
        return min(*ends, self.clock() + LONGEST_WAIT) if ends else None

    def changes(self) -> Iterator[tuple[Any, int]]:
        """Yield what to watch differently from now on: streams with `READ`, `WRITE`, both, or 0 for not any more.

        Go through all of them: a stream with 0 is closed when you go on to the next, that is, once you have let go
        of it.
        """
        self._write()
        wanted = self._wanted_watches()
        for stream in [stream for stream in self._told if stream not in wanted]:
            del self._told[stream]
            yield stream, 0
        for dropped in self._dropped:
            dropped.close()
        self._dropped.clear()
        for stream, mask in wanted.items():
            if self._told.get(stream) != mask:
                self._told[stream] = mask
                yield stream, mask

    def _wanted_watches(self) -> dict[Any, int]:
        if self._dialler is not None:
            return dict(self._dialler.watch())
        if self._lookup is not None:
            return {self._lookup.stream: READ}
        if self._stream is None:
            return {}
        waits = self.session.wants_write and not getattr(self._stream, "reads_to_write", False)
        return {self._stream: READ | WRITE * waits}

    def next_event(self) -> ClientEvent | Literal[Need.DATA]:
        """Return what happened next, or NEED_DATA; raises as `HostClient.next_event` does.

        There is no `DialWanted` event: the client dials.
        """
        while True:
            event = super().next_event()
            if type(event) is DialWanted:
                self._begin_to_dial(event.deadline)
            elif type(event) is SessionEnded:
                self._drop_stream()
                return event
            elif event is not NEED_DATA:
                return event
            else:
                self._write()
                # Calls settle where writing fails.
                if not self.session.owes_events:
                    return event

    def close(self) -> None:
        """End the connection, the dial and every task. Then pull `events` and go through `changes` once more."""
        super().close()
        if self._dialler is not None:
            self._dialler.cancel()
            self._dropped += self._dialler.discarded
            self._dialler = None
        self._drop_lookup()
        self._drop_stream()

    # -- the stream ----------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what the stream takes."""
        if self._stream is not None and self.session.ended is None:
            write(self.session, self._stream)

    def _drop_stream(self) -> None:
        """Shut the stream down now, so that the guest sees the end. Close it once the loop has stopped watching it."""
        if self._stream is not None:
            with suppress(OSError, AttributeError):
                self._stream.shutdown(socket.SHUT_RDWR)
            self._dropped.append(self._stream)
            self._stream = None

    # -- dialling ------------------------------------------------------------------------------------------

    def _begin_to_dial(self, deadline: float | None) -> None:
        self._deadline = self.clock() + _CONNECT_TIMEOUT if deadline is None else deadline
        try:
            stream = open_now(self.address)
            name = None if stream is not None else names(self.address)
            if name is None:
                self._dial_to([], stream)
            elif (found := lookup_number(*name)) is not None:
                self._dial_to(found)
            else:
                self._lookup = _Lookup(*name)
        except Exception as exc:  # noqa: BLE001  (the function of a `Dial` may raise anything, and `next_event` nothing)
            self._fail(exc)

    def _dial_to(self, found: list[Attempt] | OSError, stream: Any = None) -> None:
        self._drop_lookup()
        try:
            places = [] if stream is not None else attempts(self.address, found)
        except ConnectError as exc:
            self._fail(exc)
            return
        self._dialler = Dialling(self.address, places, now=self.clock(), deadline=self._deadline, stream=stream)
        self._look_at_dialler()

    def _look_at_dialler(self) -> None:
        dialler = self._dialler
        if dialler is None:
            return
        self._dropped += dialler.discarded
        dialler.discarded.clear()
        if isinstance(dialler.outcome, ConnectError):
            self._fail(dialler.outcome)
        elif dialler.outcome is not None:
            self._dialler = None
            self._stream = dialler.outcome
            self.connected(dialler.early)

    def _fail(self, cause: Exception) -> None:
        self._dialler = None
        self._drop_lookup()
        self.dial_failed(connect_error(self.address, cause))

    def _drop_lookup(self) -> None:
        if self._lookup is not None:
            self._dropped.append(self._lookup.stream)
            self._lookup = None


class _Lookup:
    """A look-up of a name in a thread. `stream` is readable when it is over."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.stream, self._bell = socket.socketpair()
        self._found: list[Attempt] | OSError = []
        try:
            begin_lookup(host, port, self._tell)
        except BaseException:  # no thread can be started
            self.stream.close()
            self._bell.close()
            raise

    def _tell(self, found: list[Attempt] | OSError) -> None:
        self._found = found
        self._bell.close()  # its end is what the loop sees

    def take(self) -> list[Attempt] | OSError:
        """Return what was found."""
        return self._found
