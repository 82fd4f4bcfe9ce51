"""Guests for the cases of clients: a simulator whose messages are recorded, and guests that follow a script.

A scripted guest does what no simulator does: it stops reading, ends one direction, cuts a line at any byte. The script
runs in a thread and waits only for the host or the case, so its course does not depend on timing.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from stereos_proto import (
    Ack,
    Health,
    LifecycleState,
    Pong,
    Reply,
    Request,
    Role,
    encode,
)
from stereos_proto_io.addresses import Address
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest._listen import reset_on_close

from ._client_wire import WireLog, without_secret

#: Seconds that a script waits for the host, or for room to write, unless told otherwise.
PATIENCE: Final = 6.0

#: Bytes that the kernel is asked to keep for a guest that does not read.
_SMALL_BUFFER: Final = 4096

_CHUNK: Final = 64 * 1024

Script = Callable[["End"], None]


class ScriptError(AssertionError):
    """The host did not do what the script of its guest expects."""


class RecordedGuest:
    """A simulator, and a record of what it was asked and what it replied. It has everything that the simulator has."""

    def __init__(self, simulator: GuestSimulator, log: WireLog) -> None:
        self._simulator = simulator
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simulator, name)

    def handle(self, request: Request) -> Reply:
        """Let the simulator handle `request`."""
        self._log.add(Role.HOST, request)
        reply: Reply = self._simulator.handle(request)
        self._log.add(Role.GUEST, reply)
        return reply


class ScriptedGuest:
    """A guest that listens at `address` and runs `script(end)` in a thread of its own for each connection.

    `received` are the lines that came, of all connections. `go` is set by the case, for a script that waits for it.
    """

    def __init__(self, address: Address, script: Script, log: WireLog, *, patience: float = PATIENCE) -> None:
        """`patience` is how many seconds the script waits for the host, or for room to write."""
        self.patience = patience
        family, target = address.listeners()[0]
        self._script = script
        self._log = log
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        self._listener.bind(target)
        self._listener.listen()
        self.address = address.bound(self._listener)
        self.received: list[bytes] = []
        self.go = threading.Event()
        self.failures: list[BaseException] = []
        # Held from accepting a connection until its script runs.
        self._lock = threading.Lock()
        self._ends: list[End] = []
        self._threads: list[threading.Thread] = []
        # Closed to end the thread that accepts. Shutting the listener down does not wake it on every transport, and a
        # listener that is closed while a thread polls it keeps its port.
        self._bell, self._hears = socket.socketpair()
        self._accepting = threading.Thread(target=self._accept, name="scripted guest", daemon=True)
        self._accepting.start()

    def types(self) -> list[str]:
        """Return the types of the lines that came."""
        return [json.loads(line)["type"] for line in self.received]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def check(self) -> None:
        """Wait until the scripts have ended, which most do when the host closes. Raises the first failure of one."""
        while self._ready(0, self._listener):
            time.sleep(0.001)  # it is about to be accepted
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(self.patience + 1)
        for failure in self.failures:
            raise failure

    def close(self) -> None:
        """End every connection, and listen no more. Twice is fine."""
        self.go.set()
        self._bell.close()
        self._accepting.join(self.patience)
        self._hears.close()
        self._listener.close()
        for end in self._ends:
            end.hang_up()
        if self.address.socket_file:
            Path(self.address.socket_file).unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while self._hears.fileno() not in self._ready(None, self._listener, self._hears):
                with self._lock:
                    sock, _ = self._listener.accept()
                    end = End(self, sock, len(self._ends), self._log)
                    self._ends.append(end)
                    thread = threading.Thread(target=self._run, args=(end,), name="script of a guest", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    @staticmethod
    def _ready(seconds: float | None, *sockets: socket.socket) -> list[int]:
        """The descriptors of the sockets that are readable, within `seconds` (None: wait for one)."""
        poll = select.poll()
        for each in sockets:
            poll.register(each, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)]

    def _run(self, end: End) -> None:
        self._log.note(f"connection {end.number + 1} begins")
        try:
            if self.address.hybrid_ports is not None and not getattr(self._script, "shakes_hands", False):
                end.shake_hands()
            self._script(end)
        except ScriptError as exc:
            self.failures.append(exc)
        except OSError as exc:
            # The host ended the connection, as it may.
            self._log.note(f"connection {end.number + 1} broke: {exc}")
        except Exception as exc:  # noqa: BLE001  (`check` raises it in the thread of the case)
            self.failures.append(
                ScriptError(f"the script of the guest broke: {type(exc).__name__}: {without_secret(exc)}")
            )
        finally:
            end.hang_up()


class End:
    """The guest's end of one connection, for a script. `number` counts the connections, from 0."""

    def __init__(self, guest: ScriptedGuest, sock: socket.socket, number: int, log: WireLog) -> None:
        self.guest = guest
        self.number = number
        self._log = log
        self._socket = sock
        self._buffer = b""
        sock.settimeout(guest.patience)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- reading -------------------------------------------------------------------------------------------

    def take(self, size: int) -> int:
        """Read up to `size` bytes; return how many came, 0 at the end."""
        try:
            data = self._socket.recv(size)
        except TimeoutError:
            raise ScriptError(f"nothing came from the host for {self.guest.patience:g} s") from None
        self._buffer += data
        return len(data)

    def line(self, size: int = _CHUNK) -> bytes:
        """Return the next line. `size` is what one read takes. Raises ScriptError when the host ends first."""
        line = self._line(size)
        if line is None:
            raise ScriptError("the host ended the connection before its request came")
        return line

    def lines(self, count: int) -> list[bytes]:
        """Return the next lines. Nothing is answered meanwhile."""
        return [self.line() for _ in range(count)]

    def lines_until_go(self) -> list[bytes]:
        """Return the lines that come before the case sets `go`."""
        lines = []
        self._socket.settimeout(0.02)
        while not self.guest.go.is_set():
            with suppress(TimeoutError):
                self._buffer += self._socket.recv(_CHUNK)
            while b"\n" in self._buffer:
                lines.append(self.line())
        self._socket.settimeout(self.guest.patience)
        return lines

    def rest(self) -> Iterator[bytes]:
        """Yield the lines that come, until the host ends the connection."""
        while (line := self._line(_CHUNK)) is not None:
            yield line

    def _line(self, size: int) -> bytes | None:
        while b"\n" not in self._buffer:
            try:
                if not self.take(size):
                    return None
            except ConnectionResetError:
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._log.add(Role.HOST, line)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise ScriptError(f"the host sent a line of {len(line)} bytes that is no JSON") from None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ScriptError(f"the host sent a line of {len(line)} bytes that is no message")
        self.guest.received.append(line)
        return line

    def wait_for_go(self) -> None:
        """Wait until the case sets `go`. That is so at its end, too, and the case has a deadline."""
        self.guest.go.wait()

    # -- writing -------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write all of `data`. A host on a slow machine may take its time, as long as it reads on."""
        self._log.add(Role.GUEST, data[:4096])
        rest = memoryview(data)
        try:
            # Not `sendall`, whose timeout is for all of it.
            while rest:
                rest = rest[self._socket.send(rest) :]
        except TimeoutError:
            raise ScriptError(
                f"the host did not read for {self.guest.patience:g} s while the guest was talking"
            ) from None

    def trickle(self, data: bytes) -> None:
        """Write `data` a byte at a time, slowly enough that most bytes come in a read of their own."""
        self._log.add(Role.GUEST, data)
        for byte in data:
            self._socket.sendall(bytes([byte]))
            self.guest.go.wait(0.0003)

    def answer(self, line: bytes) -> None:
        """Answer `line`."""
        self.send(answer(line))

    def answer_rest(self) -> None:
        """Answer every line, until the host ends the connection."""
        for line in self.rest():
            self.answer(line)

    # -- ending --------------------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """End the host's direction alone: what it writes from now on fails. On a unix socket."""
        self._socket.shutdown(socket.SHUT_RD)
        self._log.note("the guest reads no more")

    def drop_unread(self) -> None:
        """Drop what the host wrote before `stop_reading`. A host that waits for room only then tries to write."""
        while self._socket.recv(_CHUNK):
            pass

    def wait_for_end(self) -> None:
        """Read on until the host ends the connection, and answer nothing."""
        for _ in self.rest():
            pass

    def reset(self) -> None:
        """Break the connection off."""
        reset_on_close(self._socket)
        self._socket.close()

    def hang_up(self) -> None:
        """Close the connection. Twice is fine."""
        with suppress(OSError):
            # Wakes the thread that reads or writes, which closing alone does not.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._log.note(f"connection {self.number + 1} ends")
        self._socket.close()

    def shake_hands(self) -> None:
        """Take and answer the CONNECT of hybrid vsock (§8)."""
        while b"\n" not in self._buffer:
            if not self.take(_CHUNK):
                raise ScriptError("the host ended the connection before its CONNECT came")
        line, _, self._buffer = self._buffer.partition(b"\n")
        if not line.startswith(b"CONNECT "):
            raise ScriptError("the host began without a CONNECT")
        self._socket.sendall(b"OK 1073741824\n")


# ------------------------------------------------------------------------------------------------- what guests say


def ack(type_: str, error: str = "") -> bytes:
    """Return the line of an ack: a refusal when there is an `error`."""
    return encode(Ack(type_, not error, error))


#: A notification.
NOTICE: Final = b'{"type":"lifecycle","payload":{"state":"degraded","message":"slow"}}\n'


def answer(line: bytes) -> bytes:
    """Return the line that a guest in good health answers `line` with."""
    type_ = json.loads(line)["type"]
    if type_ == "ping":
        return encode(Pong())
    if type_ == "get_health":
        return encode(Health(LifecycleState.READY))
    known = type_ in ("set_config", "inject_secret", "inject_ssh_key", "mount", "shutdown")
    return ack(type_, "" if known else f"unknown message type: {type_}")
