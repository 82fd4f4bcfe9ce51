"""A recording proxy between hosts and a guest: bytes pass as they are, and a copy of them is written down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, Self

from stereos_proto import Role, StereosError
from stereos_proto_io.addresses import Address, HybridVsock

from ._deadline import ASK_SECONDS, Deadline
from ._private import bind, open_stream, run_preamble
from ._transcript import Recorder

_CHUNK: Final = 64 * 1024
#: Bytes of `CONNECT <u32>` with its ending, at most.
_LONGEST_CONNECT: Final = 20


class Proxy:
    """Listens at `listen` and dials `target` for each host that comes. `report` is told what goes wrong."""

    _recorder: Recorder

    def __init__(self, listen: Address, target: Address, *, report: Callable[[str], None]) -> None:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._endpoint.close()
        for link in tuple(self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def run(self, recorder: Recorder) -> None:
        """Serve hosts, each in a thread, until the process is interrupted."""
        self._recorder = recorder
        while True:
            host, _ = self._endpoint.listener.accept()
            threading.Thread(target=self._serve, args=(host, next(self._numbers)), daemon=True).start()

    def _serve(self, host: socket.socket, number: int) -> None:
        self._links.add(host)
        self._recorder.event(number, Role.HOST, "connect")
        try:
            with host:
                if self._endpoint.ports is not None:
                    _shake_hands(host)
                self._join(host, number)
        except (OSError, StereosError) as exc:
            self._report(f"connection {number}: {exc}")
        finally:
            self._links.discard(host)

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

    def run(self, ends: dict[Role, Any]) -> None:
        threads = [threading.Thread(target=self._carry, args=(role, ends), daemon=True) for role in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _carry(self, sender: Role, ends: dict[Role, Any]) -> None:
        source, sink = ends[sender], ends[sender.peer]
        data = b"?"
        while data:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            self._recorder.data(self._number, sender, data)
            with suppress(OSError):
                # A host that has said all it has to say still gets its replies.
                sink.sendall(data) if data else sink.shutdown(self._how)


def _shake_hands(host: socket.socket) -> None:
    """Answer a hybrid-vsock host's CONNECT (`docs/protocol.md` §8)."""
    line = host.recv(_LONGEST_CONNECT)
    if not line.startswith(b"CONNECT ") or not line.endswith(b"\n"):
        raise ConnectionAbortedError(f"no CONNECT came first, but {len(line)} other bytes")
    host.sendall(b"OK 1024\n")
