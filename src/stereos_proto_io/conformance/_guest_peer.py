"""A host's end of one connection that trusts nothing from the guest.

It reads bare bytes. Each wait has a deadline. What a guest can send is bounded: the bytes of a line, the bytes and the
replies of a connection. So a guest that sends without end fails a case, and does not hold the run.
"""

from __future__ import annotations

import json
import secrets
import select
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final, Never, Self

import attrs

from stereos_proto import MAX_LINE_SIZE, RemoteProtocolError, Role, decode
from stereos_proto_io.addresses import Address
from stereos_proto_io.blocking._dial import dial
from stereos_proto_io.driver._sync_dial import LONGEST_WAIT

from ._guest_text import LIFECYCLE, Members, fault_of, shown

_CHUNK: Final = 64 * 1024

#: Replies that may come on one connection. No case asks for more than some hundreds.
_MOST_REPLIES: Final = 10_000
#: MiB that may come on one connection. No case asks for more than a few long lines.
_MOST_MIB: Final = 16
#: Bytes of a request that are kept to show them.
_SHOWN: Final = 100


class Deviation(Exception):
    """The guest deviated from the protocol. The text says how."""


class Unsupported(Exception):
    """The guest is an old one, and does not know the type that the case is about (§2)."""


class _TooLateError(Exception):
    """No line was complete in time."""


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
        """Connect, and do what the transport wants first. `timeout` is in seconds, for each wait, and a day at most.

        Raises ConnectError when that fails.
        """
        self.address = address
        # `poll` takes no more than 24 days.
        self.timeout = min(timeout, LONGEST_WAIT)
        self._replies = 0
        #: The beginnings of the lines that wait for a reply, and of one that has not ended yet.
        self._waiting: deque[bytes] = deque()
        self._begun = b""
        self._stream, early = dial(address, self.timeout)
        self._buffer = bytearray(early)
        self._size = len(early)

    def dial(self) -> Peer:
        """Return another connection to the same guest."""
        return Peer(self.address, self.timeout)

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
        *lines, self._begun = (self._begun + data).split(b"\n")
        self._wait_for(*lines)
        until = time.monotonic() + self.timeout
        left = memoryview(data)
        while left:
            if not self._ready(select.POLLOUT, until):
                raise Deviation(f"it did not read for {self.timeout:g} s")
            with suppress(BlockingIOError):
                left = left[self._stream.send(left) :]

    def half_close(self) -> None:
        """End our direction alone."""
        self._wait_for(self._begun)
        self._stream.shutdown(socket.SHUT_WR)

    def _wait_for(self, *lines: bytes) -> None:
        self._waiting.extend(line[:_SHOWN] for line in lines if line.removesuffix(b"\r"))

    def _ready(self, mask: int, until: float) -> bool:
        # A guest that always has more to read, or room for more, is late all the same.
        left = until - time.monotonic()
        poll = select.poll()
        poll.register(self._stream.fileno(), mask)
        return left > 0 and bool(poll.poll(left * 1000))

    def line(self) -> Line | None:
        """Return the next line, None at the end of the stream. Notifications are passed over (§3).

        Raises Deviation when no line is complete in time, notifications aside, when a host cannot read it, or when the
        guest sends too much.
        """
        try:
            return self._next_reply()
        except _TooLateError:
            what = f"sent no reply for {self.timeout:g} s {self._owed()}" if self._waiting else self._no_end()
        except ConnectionResetError:
            what = f"reset the connection before its reply {self._owed()}"
        raise Deviation(f"it {what}")

    def _owed(self) -> str:
        """Say which request the next reply is for, by its place (§3), and how many came before it."""
        request = self._waiting[0] if self._waiting else b"nothing"
        unknown = ", whose type no guest knows" if b'"type":"conformance' in request else ""
        replies = "1 reply" if self._replies == 1 else f"{self._replies} replies"
        return f"to {shown(request)}{unknown}, after {replies}"

    def _no_end(self, which: str = "the connection") -> str:
        return f"did not end {which} for {self.timeout:g} s"

    def _next_reply(self) -> Line | None:
        until = time.monotonic() + self.timeout
        while (raw := self._raw_line(until)) is not None:
            line = Line(raw, _parsed(raw))
            if line.type == "lifecycle":
                check(line.value.get("payload"), LIFECYCLE, "the payload of a lifecycle")
                continue
            self._replies += 1
            if self._replies > _MOST_REPLIES:
                raise Deviation(f"it sent more than {_MOST_REPLIES} replies")
            if self._waiting:
                self._waiting.popleft()
            return line
        return None

    def _raw_line(self, until: float) -> bytes | None:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0 and len(self._buffer) < MAX_LINE_SIZE:
            searched = len(self._buffer)
            if not self._ready(select.POLLIN, until):
                raise _TooLateError
            with suppress(BlockingIOError):
                if not self._receive():
                    return None
        if not 0 <= end < MAX_LINE_SIZE:
            raise Deviation("it sent a line longer than 1 MiB")
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return raw

    def _receive(self) -> int:
        data = self._stream.recv(_CHUNK)
        self._buffer += data
        self._size += len(data)
        if self._size > _MOST_MIB * 1024 * 1024:
            raise Deviation(f"it sent more than {_MOST_MIB} MiB")
        return len(data)

    # -------------------------------------------------------------------------------- exchanges

    def ask(self, *lines: bytes) -> list[Line]:
        """Send `lines` and return all replies to them, however many there are.

        The end is found by an echo: a type that no guest knows, which it has to name in its refusal (§3).
        """
        mark = f"conformance:{secrets.token_hex(8)}"
        self.send(b"".join(line + b"\n" for line in lines) + _request(mark) + b"\n")
        answers: list[Line] = []
        while True:
            line = self.line()
            if line is None:
                raise Deviation(f"it closed the connection before its reply {self._owed()}")
            if line.payload.get("reply_to") == mark:
                break
            answers.append(line)
        for answer in answers:
            type_ = answer.payload.get("reply_to")
            if type_ in _NEWER and answer.payload.get("error") == f"unknown message type: {type_}":
                raise Unsupported(f"the guest does not know {type_}")
        return answers

    def ask_one(self, line: bytes) -> Line:
        """Send `line` and return the one reply to it."""
        answers = self.ask(line)
        if len(answers) != 1:
            raise Deviation(f"{shown(line)} was answered by {len(answers)} replies, not 1")
        return answers[0]

    def ends(self, which: str = "the connection") -> bool:
        """Wait for the end of the stream; whether it comes before any other line.

        Raises Deviation, which calls the connection `which`, when nothing comes in time.
        """
        try:
            return self._next_reply() is None
        except ConnectionResetError:
            return True
        except _TooLateError:
            raise Deviation(f"it {self._no_end(which)}") from None


def check(value: Any, members: Members, what: str) -> None:
    """Raise Deviation unless `value`, which is called `what`, has these members."""
    if fault := fault_of(value, members, what):
        raise Deviation(fault)


def _request(type_: str, payload: Any = None) -> bytes:
    message = {"type": type_} if payload is None else {"type": type_, "payload": payload}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _parsed(raw: bytes) -> Any:
    """Return the value of a line. Raises Deviation where a host would not read it, or would read something else."""
    if not raw.removesuffix(b"\r"):
        raise Deviation("it sent an empty line")
    try:
        # Given bytes, `json` would read UTF-16 as well, and pass over a byte order mark.
        value = json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_members)
        decode(raw, sender=Role.GUEST)
    except UnicodeDecodeError:
        fault = "it sent a line that is no UTF-8"
    except json.JSONDecodeError:
        fault = "it sent a line that is no JSON"
    except _MemberTwice:
        fault = "it sent a line with a member that stands more than once"
    except ValueError:
        fault = "it sent a line with a number too long to be read"
    except RecursionError:
        fault = "it sent a line that nests too deeply to be read"
    except RemoteProtocolError as exc:
        fault = str(exc)
    else:
        return value
    raise Deviation(f"{fault}: {shown(raw)}")


class _MemberTwice(ValueError):
    """An object has two members of one name. A guest writes each member of the table once (§2)."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _MemberTwice
    return members


def _refuse_constant(name: str) -> Never:
    """Refuse NaN and Infinity, which `json` reads and which are no JSON (§4)."""
    raise json.JSONDecodeError("no JSON", name, 0)
