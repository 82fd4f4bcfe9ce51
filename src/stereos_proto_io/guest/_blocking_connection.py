"""One connection of the guest's server with threads: one reads, handles and writes.

Bytes are written at once by the thread that has them: the reader after a handler has returned, another thread that
pushes a notification or settles a Future. That costs no switch of threads. Only when the host does not read, so that
nothing goes out without waiting, a second thread is started that waits for it; it ends when all is written. A third
one exists for as long as a fault pauses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from stereos_proto import NEED_DATA, Lifecycle, PendingRequest, Reply

from ._blocking_transport import Transport
from ._faulty_session import Session
from ._listen import Endpoint
from ._orders import Close, Order, Pause
from ._server import LOG, BaseConnection, refusal

if TYPE_CHECKING:
    from .blocking import GuestServer


@attrs.define(eq=False)
class Shared:
    """A session, and what its threads wait on. It outlives a connection where the stream has none."""

    #: The conversation.
    session: Session
    #: Guards the session. Reentrant, since obeying an order may come back to the connection.
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    #: Told whenever reading may go on.
    changed: threading.Condition = attrs.field(init=False)
    #: The connection that the session is on now.
    current: GuestConnection | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.changed = threading.Condition(self.lock)


class GuestConnection(BaseConnection):
    """One connection from a host."""

    def __init__(self, server: GuestServer, endpoint: Endpoint, transport: Transport, shared: Shared) -> None:
        super().__init__(server.guest, endpoint, shared.session)
        self._server = server
        self._transport = transport
        self._shared = shared
        self._lock = shared.lock
        self._ending = False  # whether the connection is to end
        self._over = threading.Event()  # set then, for what pauses
        self._gone = threading.Event()  # set when it has ended, and its transport is closed
        self._draining = False  # whether a thread waits for the host to read
        self._helpers: set[threading.Thread] = set()
        self._reader = threading.Thread(target=self._run, name="guest reads", daemon=True)

    def start(self) -> None:
        """Begin. Raises RuntimeError where the system has no thread left."""
        self._reader.start()

    def runs_in(self, thread: threading.Thread) -> bool:
        """Whether `thread` is one of its own."""
        return thread is self._reader or thread in self._helpers

    def join(self) -> None:
        """Wait until all threads have ended."""
        # Not by the thread alone: CPython 3.11 takes one for ended whose join was interrupted.
        self._gone.wait()
        self._reader.join()

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        with self._lock:
            pushed = self.session.push(notification)
            self._write()
        return pushed

    def end(self, *, reset: bool = False) -> None:
        """End the connection. Its threads end soon after."""
        with self._lock:
            self._ending = True
            self._over.set()
            self._shared.changed.notify_all()
        self._transport.end(reset=reset)

    # ----------------------------------------------------------------------------- the thread that reads

    def _run(self) -> None:
        try:
            with self._lock:
                self._shared.current = self
            while not self._ending:
                self._step()
        except BaseException:  # noqa: BLE001  (whatever it is, the host is not left waiting)
            LOG.exception("the connection to %s ends over an error", self.endpoint.address)
        if not self._ending:
            self.end()
        with self._lock:
            if self._shared.current is self:
                self._shared.current = None
            if self.session.has_connections:
                self.session.close()
        # A helper removes itself at its end, between any two steps of this thread.
        while helpers := self._helpers.copy():
            helpers.pop().join()
        self._transport.close()
        self._server._left(self)
        self._gone.set()

    def _step(self) -> None:
        session = self.session
        with self._lock:
            event = session.next_event()
            if event is NEED_DATA:
                if session.wants_write or not session.wants_data or self._faulty is not None:
                    self._write()
                if not (session.wants_data or self._ending):
                    self._shared.changed.wait()
                    return
        if event is not NEED_DATA:
            self.on_event(event)
        elif not self._ending:
            self._receive()

    def _receive(self) -> None:
        try:
            data: bytes | None = self._transport.receive()
        except OSError:
            data = None
        if not data and (data is None or not self.session.has_connections):
            self.end()
        with self._lock:
            if data:
                self.session.receive_data(data)
            else:
                self.session.receive_eof()

    def handled(self, pending: PendingRequest, result: Any) -> None:
        """Take the reply, or wait for it."""
        if isinstance(result, Future):
            result.add_done_callback(partial(self._settle, pending))
        else:
            self.reply(pending, result)

    def _settle(self, pending: PendingRequest, future: Future[Reply]) -> None:
        fault = CancelledError() if future.cancelled() else future.exception()
        self.reply(pending, refusal(pending.request, fault) if fault else future.result())

    def reply(self, pending: PendingRequest, message: Any) -> None:
        """Answer `pending`, and write what can be written: to this host, or the one that took its place."""
        with self._lock:
            self.session.reply(pending, message)
            self._go_on()

    def _go_on(self) -> None:
        if (connection := self._shared.current) is not None:
            connection._write()
        if threading.current_thread() is not self._reader:
            self._shared.changed.notify_all()

    # ----------------------------------------------------------------------------- any thread, with the lock

    def _write(self) -> None:
        """Obey and write what can be done at once."""
        while not (self._draining or self._ending) and (data := self._next_bytes()):
            try:
                self.session.data_sent(self._transport.send(data, wait=False))
            except BlockingIOError:
                self._draining = True
                self._help("guest writes", self._drain)
            except OSError as exc:
                self._fail(exc)

    def _next_bytes(self) -> bytes | memoryview:
        """What to write next; b"" when there is nothing, or another thing to do first."""
        if self._faulty is None:
            if data := self.session.data_to_send():
                return data
            while self.session.ended and (event := self.session.next_event()) is not NEED_DATA:
                self.on_event(event)
            return b""
        while not self._ending and (order := self._faulty.next_order()) is not None:
            self.obey(order)
        return b"" if self._ending else self._faulty.data_to_send()

    def obey(self, order: Order) -> None:
        """Pause, close, or end the whole guest."""
        if isinstance(order, Pause):
            self._help("guest pauses", lambda: self._pause(order))
        elif isinstance(order, Close):
            self.end(reset=order.reset)
        else:
            self._server._obey(order)

    def _fail(self, exc: OSError) -> None:
        self.session.write_failed(exc)
        self.end()

    # ----------------------------------------------------------------------------- threads that help

    def _help(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                self._helpers.discard(thread)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._helpers.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            LOG.warning("a connection to %s ends: no thread is left to write it", self.endpoint.address)
            self._helpers.discard(thread)
            self.end()

    def _drain(self) -> None:
        """Write while that means waiting for the host."""
        while True:
            with self._lock:
                data = b"" if self._ending else self._next_bytes()
                if not data:
                    self._draining = False
                    return
            try:
                sent = self._transport.send(data, wait=True)
            except OSError as exc:
                with self._lock:
                    self._fail(exc)
                return
            with self._lock:
                self.session.data_sent(sent)
                self._shared.changed.notify_all()

    def _pause(self, pause: Pause) -> None:
        self._server._pause(self._over, pause.seconds)
        with self._lock:
            if self._faulty is not None:
                self._faulty.resume(pause)
                self._go_on()
