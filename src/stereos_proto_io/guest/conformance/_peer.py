"""A host's end of one connection, which takes nothing for granted: bare bytes, and a deadline for each read."""

from __future__ import annotations

import json
import secrets
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final, Self

import attrs

from stereos_proto import HybridVsockPreamble, Preamble, ResyncPreamble
from stereos_proto_io.addresses import TCP, Address, Dial, HybridVsock, UnixSocket, VirtioSerial, Vsock

_CHUNK: Final = 64 * 1024
#: Seconds after which a resynchronisation is repeated (§9).
_RESYNC_PATIENCE: Final = 1.0


class Deviation(Exception):
    """The guest did something else than the protocol says. The text says what."""


class Unsupported(Exception):
    """The guest is an old one, and does not know the type that the case is about (§2)."""


#: Types that today's guest knows and an old one does not (§2).
_NEWER: Final = {"get_health", "set_config", "inject_ssh_key"}


@attrs.frozen
class Line:
    """A line from the guest: its bytes without the ending, and the `value` that they stand for."""

    raw: bytes
    value: Any

    @property
    def type(self) -> Any:
        """The message's type, None where there is none."""
        return self.value.get("type") if isinstance(self.value, dict) else None

    @property
    def payload(self) -> dict[str, Any]:
        """The message's payload, empty where there is none."""
        payload = self.value.get("payload") if isinstance(self.value, dict) else None
        return payload if isinstance(payload, dict) else {}


class Peer:
    """A connection to the guest that is examined. `dial` makes another one like it."""

    def __init__(self, address: Address, timeout: float) -> None:
        """Connect, and do what the transport wants first. `timeout` is in seconds, for each wait.

        Raises OSError or StereosError when that fails.
        """
        self.address = address
        self._timeout = timeout
        self._buffer = b""
        self._socket = _connect(address, timeout)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def dial(self) -> Peer:
        """Return another connection to the same guest."""
        return Peer(self.address, self._timeout)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _open(self) -> None:
        if isinstance(self.address, HybridVsock):
            self._run(HybridVsockPreamble(self.address.port), self._timeout)
        elif isinstance(self.address, VirtioSerial):
            until = time.monotonic() + self._timeout
            while not self._run(ResyncPreamble(secrets.token_hex(8)), _RESYNC_PATIENCE):
                if time.monotonic() > until:
                    raise Deviation("it did not answer the resynchronisation")

    def _run(self, preamble: Preamble, patience: float) -> bool:
        self.send(preamble.data_to_send())
        until = time.monotonic() + patience
        while not preamble.done:
            if not select.select([self._socket], [], [], max(until - time.monotonic(), 0))[0]:
                return False
            data = self._socket.recv(_CHUNK)
            if data:
                preamble.receive_data(data)
            else:
                preamble.receive_eof()
        self._buffer = preamble.trailing_data
        return True

    # ----------------------------------------------------------------------------------- bytes

    def send(self, data: bytes) -> None:
        """Write all of `data`."""
        self._socket.sendall(data)

    def half_close(self) -> None:
        """End our direction alone."""
        self._socket.shutdown(socket.SHUT_WR)

    def line(self) -> Line | None:
        """Return the next line, None at the end of the stream. Notifications are passed over (§3)."""
        while True:
            raw = self._raw_line()
            if raw is None:
                return None
            line = Line(raw, _parsed(raw))
            if line.type != "lifecycle":
                return line

    def _raw_line(self) -> bytes | None:
        until = time.monotonic() + self._timeout
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                raise Deviation(f"nothing came for {self._timeout:g} s") from None
            if not data:
                return None
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\n")
        return raw

    # -------------------------------------------------------------------------------- exchanges

    def ask(self, *lines: bytes) -> list[Line]:
        """Send `lines` and return all that they are answered by, however much that is.

        The end is found by an echo: a type that no guest knows, which it has to name in its refusal (§3).
        """
        mark = f"conformance:{secrets.token_hex(8)}"
        self.send(b"".join(line + b"\n" for line in lines) + _request(mark) + b"\n")
        answers: list[Line] = []
        while True:
            line = self.line()
            if line is None:
                raise Deviation(f"it closed the connection after {len(answers)} replies")
            type_ = line.payload.get("reply_to")
            if type_ == mark:
                return answers
            if type_ in _NEWER and line.payload.get("error") == f"unknown message type: {type_}":
                raise Unsupported(f"the guest does not know {type_}")
            answers.append(line)

    def ask_one(self, line: bytes) -> Line:
        """Send `line` and return the one reply to it."""
        answers = self.ask(line)
        if len(answers) != 1:
            raise Deviation(f"{len(answers)} replies came to one request")
        return answers[0]

    def ends(self) -> bool:
        """Wait for the end of the stream; whether it comes before any other line."""
        try:
            return self.line() is None
        except ConnectionResetError:
            return True


def _request(type_: str, payload: Any = None) -> bytes:
    message = {"type": type_} if payload is None else {"type": type_, "payload": payload}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        raise Deviation("it sent a line that is no JSON") from None


def _connect(address: Address, timeout: float) -> socket.socket:
    return _DIALS[type(address)](address, timeout)


def _connect_tcp(address: TCP, timeout: float) -> socket.socket:
    sock = socket.create_connection((address.host, address.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _connect_unix(address: UnixSocket | HybridVsock | VirtioSerial, timeout: float) -> socket.socket:
    return _connected(socket.AF_UNIX, address.path, timeout)


def _connect_vsock(address: Vsock, timeout: float) -> socket.socket:
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise OSError(f"this Python has no AF_VSOCK, so it cannot reach {address}")
    return _connected(family, (address.cid, address.port), timeout)


def _connected(family: int, place: Any, timeout: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _dial(address: Dial, timeout: float) -> socket.socket:
    sock = address.function()
    if not isinstance(sock, socket.socket):
        raise TypeError(f"{address} must return a connected socket")
    sock.settimeout(timeout)
    return sock


_DIALS: Final[dict[type[Address], Callable[[Any, float], socket.socket]]] = {
    TCP: _connect_tcp,
    Vsock: _connect_vsock,
    UnixSocket: _connect_unix,
    HybridVsock: _connect_unix,
    VirtioSerial: _connect_unix,
    Dial: _dial,
}
