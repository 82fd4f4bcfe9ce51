"""A recording proxy between hosts and a guest: bytes pass as they are, and a copy of them is written down."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, Self

from stereos_proto import Role, StereosError
from stereos_proto_io.addresses import Address, HybridVsock

from ._deadline import ASK_SECONDS, Deadline
from ._errors import BrokenOutput, OutputFailed, UsageError
from ._private import bind, load_what_dials, open_stream, run_preamble
from ._transcript import Recorder

_CHUNK: Final = 64 * 1024
#: Bytes of `CONNECT <u32>` with its ending, at most.
_LONGEST_CONNECT: Final = 20
#: Seconds until hosts are accepted again after the system had no descriptor or no thread left for one.
_PAUSE: Final = 0.1
#: What ends the whole recording, and not one connection alone: the transcript or stderr cannot be written.
_ENDING: Final = (UsageError, BrokenOutput, OutputFailed)


class Proxy:
    """Listens at `listen` and dials `target` for each host that comes. `report` is told what goes wrong."""

    _recorder: Recorder

    def __init__(self, listen: Address, target: Address, *, report: Callable[[str], None]) -> None:
        load_what_dials()
        self._endpoint = bind(listen)
        if self._endpoint.sock is None:
            self._endpoint.close()
            raise ValueError(f"hosts cannot connect to {listen}: it is a device")
        if target.device:
            self._endpoint.close()
            raise ValueError(f"{target} is a device, and not a connection that could be passed on")
        self._endpoint.listen()
        self.address = self._endpoint.address
        self._target = target
        self._report = report
        self._links: set[socket.socket] = set()
        self._numbers = count()
        # Wake-up pipe: a thread that ends the recording writes to one end, and the main thread watches the other.
        self._rings, self._hears = socket.socketpair()
        self._failure: Exception | None = None
        #: Whether it was told that no host can be accepted now.
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._endpoint.close()
        for link in tuple(self._links):
            _cut(link)
        self._rings.close()
        self._hears.close()

    def run(self, recorder: Recorder) -> None:
        """Serve hosts, each in a thread, until the process is interrupted.

        Raises UsageError when the transcript cannot be written any more.
        """
        self._recorder = recorder
        listener = self._endpoint.listener
        listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(self._hears, selectors.EVENT_READ)
            while self._failure is None:
                if listener in [key.fileobj for key, _ in selector.select()]:
                    self._accept(listener)
        raise self._failure

    def _accept(self, listener: socket.socket) -> None:
        try:
            host, _ = listener.accept()
        except BlockingIOError:
            return  # the host has gone again
        except OSError as exc:
            self._wait_for_room(str(exc.strerror))
            return
        host.setblocking(True)
        try:
            threading.Thread(target=self._serve, args=(host, next(self._numbers)), daemon=True).start()
        except RuntimeError as exc:  # the system has no thread left
            host.close()
            self._wait_for_room(str(exc))
            return
        self._told = False

    def _wait_for_room(self, why: str) -> None:
        if not self._told:
            self._report(f"no other host can connect now: {why}; the recording goes on")
        self._told = True
        time.sleep(_PAUSE)

    def _serve(self, host: socket.socket, number: int) -> None:
        self._links.add(host)
        try:
            with host:
                self._attend(host, number)
        except _ENDING as exc:
            self._failure = exc
            with suppress(OSError):  # the main thread has closed it already
                self._rings.send(b"!")
        finally:
            self._links.discard(host)
            self._recorder.forget(number)

    def _attend(self, host: socket.socket, number: int) -> None:
        try:
            self._recorder.event(number, Role.HOST, "connect")
            if self._endpoint.ports is not None:
                _shake_hands(host)
            self._join(host, number)
        except (OSError, StereosError) as exc:
            self._report(f"connection {number}: {exc}")

    def _join(self, host: socket.socket, number: int) -> None:
        deadline = Deadline.after(ASK_SECONDS)
        guest = open_stream(self._target, deadline.at)
        try:
            trailing = run_preamble(self._target, guest, deadline.at)
            if hasattr(guest, "settimeout"):
                guest.settimeout(None)
            if trailing:
                self._recorder.data(number, Role.GUEST, trailing)
                host.sendall(trailing)
            # The end of one direction alone kills a hybrid-vsock connection before its last replies.
            how = socket.SHUT_RDWR if isinstance(self._target, HybridVsock) else socket.SHUT_WR
            _Pump(self._recorder, number, how).run({Role.HOST: host, Role.GUEST: guest})
        finally:
            guest.close()


class _Pump:
    """Carries bytes both ways between two sockets until both have ended."""

    def __init__(self, recorder: Recorder, number: int, how: int) -> None:
        self._recorder = recorder
        self._number = number
        self._how = how
        self._failures: list[UsageError] = []

    def run(self, ends: dict[Role, Any]) -> None:
        """Raises UsageError when the transcript cannot be written."""
        threads = [threading.Thread(target=self._carry, args=(role, ends), daemon=True) for role in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for failure in self._failures:
            raise failure

    def _carry(self, sender: Role, ends: dict[Role, Any]) -> None:
        source, sink = ends[sender], ends[sender.peer]
        data = b"?"
        try:
            while data:
                try:
                    data = source.recv(_CHUNK)
                except OSError:
                    data = b""
                self._recorder.data(self._number, sender, data)
                with suppress(OSError):
                    # A host that has said all it has to say still gets its replies.
                    sink.sendall(data) if data else sink.shutdown(self._how)
        except UsageError as exc:
            self._failures.append(exc)
            for end in ends.values():
                _cut(end)


def _cut(end: Any) -> None:
    """End both directions of a connection, so that the threads that wait for it go on."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _shake_hands(host: socket.socket) -> None:
    """Answer a hybrid-vsock host's CONNECT (`docs/protocol.md` §8)."""
    line = host.recv(_LONGEST_CONNECT)
    if not line.startswith(b"CONNECT ") or not line.endswith(b"\n"):
        raise ConnectionAbortedError(f"expected CONNECT first, got {len(line)} other bytes")
    host.sendall(b"OK 1024\n")
