"""One connection of the guest's server with threads: one thread reads and handles, one writes."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Protocol

import attrs

from stereos_proto import Lifecycle, Reply

from ._actions import Action, Close, Pause, PowerOff, Reboot
from ._blocking_streams import Stream
from ._listen import Endpoint
from ._served import Guest, attempt, refusal
from ._session import GuestSession, Owed


@attrs.define(eq=False)
class Shared:
    """A session, and what its threads wait on. It outlives a connection where the stream has none."""

    session: GuestSession
    changed: threading.Condition = attrs.field(factory=threading.Condition)


class Home(Protocol):
    """What a connection needs of the server that it belongs to."""

    guest: Guest

    def pause(self, until: threading.Event, seconds: float) -> None:
        """Wait for `seconds`, at most until `until` is set."""
        ...

    def obey(self, order: PowerOff | Reboot) -> None:
        """End everything."""
        ...

    def left(self, link: GuestLink) -> None:
        """Take note that the thread of `link` is about to end."""
        ...


class GuestLink:
    """One connection from a host."""

    def __init__(self, server: Home, endpoint: Endpoint, stream: Stream, shared: Shared) -> None:
        self.endpoint = endpoint
        self._server = server
        self._stream = stream
        self._session = shared.session
        self._changed = shared.changed
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write, name="guest writes", daemon=True)
        self._reader = threading.Thread(target=self._read, name="guest reads", daemon=True)
        self.start, self.join = self._reader.start, self._reader.join

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued; False if the host has left too much unread."""
        with self._changed:
            self._changed.notify_all()
            return self._session.push(notification)

    def end(self, *, reset: bool = False) -> None:
        """End the connection. Its threads end soon after."""
        with self._changed:
            self._over.set()
            self._changed.notify_all()
        self._stream.end(reset=reset)

    def _read(self) -> None:
        self._writer.start()
        while not self._over.is_set():
            with self._changed:
                step = self._session.next_request()
                self._changed.notify_all()
                if step is None and not self._session.wants_data:
                    self._changed.wait_for(lambda: self._over.is_set() or self._session.wants_data)
                    continue
            if isinstance(step, Pause):
                self._server.pause(self._over, step.seconds)
            elif step is None:
                self._receive()
            else:
                self._handle(step)
        self._writer.join()
        self._stream.close()
        self._server.left(self)

    def _receive(self) -> None:
        try:
            data: bytes | None = self._stream.receive()
        except OSError:
            data = None
        if not data and (data is None or self._session.boundless):
            self.end()
        with self._changed:
            if data:
                self._session.receive_data(data)
            else:
                self._session.receive_eof()

    def _handle(self, owed: Owed) -> None:
        result = attempt(self._server.guest, owed)
        if isinstance(result, Future):
            result.add_done_callback(partial(self._settle, owed))
        else:
            self._answer(owed, result)

    def _settle(self, owed: Owed, future: Future[Reply]) -> None:
        fault = CancelledError() if future.cancelled() else future.exception()
        self._answer(owed, refusal(owed.request, fault) if fault else future.result())

    def _answer(self, owed: Owed, reply: Reply) -> None:
        with self._changed:
            self._session.answer(owed, reply)
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over.is_set() or self._session.has_actions)
                if self._over.is_set():
                    return
                action = self._session.next_action()
                self._changed.notify_all()
            try:
                self._perform(action)
            except OSError:
                self.end()

    def _perform(self, action: Action | None) -> None:
        if isinstance(action, bytes):
            self._stream.send(action)
        elif isinstance(action, Pause):
            self._server.pause(self._over, action.seconds)
        elif isinstance(action, Close):
            self.end(reset=action.reset)
        elif isinstance(action, (PowerOff, Reboot)):
            self._server.obey(action)
