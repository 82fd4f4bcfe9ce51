"""A host's end of one connection, which takes nothing for granted: bare bytes, and a deadline for each read."""

from __future__ import annotations

import json
import secrets
import select
import socket
import time
from contextlib import suppress
from typing import Any, Final, Self

import attrs

from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking._dial import dial

_CHUNK: Final = 64 * 1024


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

        Raises ConnectError when that fails.
        """
        self.address = address
        self._timeout = timeout
        self._stream, self._buffer = dial(address, timeout)

    def dial(self) -> Peer:
        """Return another connection to the same guest."""
        return Peer(self.address, self._timeout)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------- bytes

    def send(self, data: bytes) -> None:
        """Write all of `data`."""
        until = time.monotonic() + self._timeout
        left = memoryview(data)
        while left:
            self._wait(select.POLLOUT, until, "it did not read")
            with suppress(BlockingIOError):
                left = left[self._stream.send(left) :]

    def half_close(self) -> None:
        """End our direction alone."""
        self._stream.shutdown(socket.SHUT_WR)

    def _wait(self, mask: int, until: float, what: str) -> None:
        poll = select.poll()
        poll.register(self._stream.fileno(), mask)
        if not poll.poll(max(until - time.monotonic(), 0.001) * 1000):
            raise Deviation(f"{what} for {self._timeout:g} s")

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
            self._wait(select.POLLIN, until, "nothing came")
            with suppress(BlockingIOError):
                data = self._stream.recv(_CHUNK)
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
