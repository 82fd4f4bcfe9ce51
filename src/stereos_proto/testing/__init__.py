"""Tools for tests of programs that speak the protocol. Pure, like the rest of the package.

`stereos_proto.testing.strategies` has hypothesis strategies; it alone needs hypothesis (the extra `testing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any, Final, Literal

from .._codec import decode, encode
from .._connection import Connection
from .._errors import RemoteProtocolError
from .._events import Event
from .._framing import TOO_LONG, LineReader
from .._messages import Message
from .._registry import Role

__all__ = [
    "EOF",
    "Answer",
    "ConnectionPair",
    "End",
    "Expected",
    "Outcome",
    "ScriptedGuest",
    "assert_chunking_invariant",
    "feed_in_chunks",
]


class End(Enum):
    """The type of `EOF`."""

    EOF = "eof"

    def __repr__(self) -> str:
        return self.name


#: In a script: the guest ends its stream here.
EOF: Final[Literal[End.EOF]] = End.EOF

#: What a script waits for: a message, any message of a class, a line byte for byte, or what a function accepts.
#: None waits for nothing.
Expected = Message | type[Message] | bytes | Callable[[Message], bool] | None

#: What a script answers with: messages, raw bytes (sent as they are, newline or not), `EOF`.
Answer = Message | bytes | Literal[End.EOF]

#: What came out of a connection: events, and the error at their end if there was one.
Outcome = list[Event | RemoteProtocolError]


class ConnectionPair:
    """A host and a guest `Connection`, joined. What one sends, the other has read when `send` returns."""

    def __init__(self, **limits: int) -> None:
        """`limits` are the keyword arguments of `Connection`, for both."""
        self.host: Connection = Connection(Role.HOST, **limits)
        self.guest: Connection = Connection(Role.GUEST, **limits)

    def __getitem__(self, role: Role) -> Connection:
        return self.host if role is Role.HOST else self.guest

    def send(self, sender: Role, *messages: Message) -> list[Event]:
        """Send `messages`, and return the events at the other end.

        Raises LocalProtocolError when one may not be sent, RemoteProtocolError when the other end rejects it.
        """
        return self.send_raw(sender, b"".join([self[sender].send(message) for message in messages]))

    def send_raw(self, sender: Role, data: bytes) -> list[Event]:
        """Hand `data` to the other end as if `sender` had written it, and return the events there."""
        receiver = self[sender.peer]
        receiver.receive_data(data)
        return list(receiver.events())

    def send_eof(self, sender: Role) -> list[Event]:
        """End the direction of `sender`, and return the events at the other end."""
        self[sender].send_eof()
        receiver = self[sender.peer]
        receiver.receive_eof()
        return list(receiver.events())


def feed_in_chunks(connection: Connection, data: bytes, cuts: Iterable[int] = (), *, eof: bool = False) -> Outcome:
    """Feed `data` cut at the positions `cuts`, and return what comes out.

    With `eof`, the stream ends after it. A RemoteProtocolError is not raised but stands last in the result.
    """
    outcome: Outcome = []
    positions = [0, *sorted(cuts), len(data)]
    try:
        for start, end in pairwise(positions):
            connection.receive_data(data[start:end])
            outcome.extend(connection.events())
        if eof:
            connection.receive_eof()
            outcome.extend(connection.events())
    except RemoteProtocolError as exc:
        outcome.append(exc)
    return outcome


def assert_chunking_invariant(
    data: bytes, role: Role, *cuts: Sequence[int], sent: Iterable[Message] = (), eof: bool = True, **limits: int
) -> Outcome:
    """Assert that `data` means the same to a connection of `role` in whatever pieces it comes; return what it means.

    `data` is fed whole, byte by byte, and in each of `cuts` (lists of positions), to connections that have sent
    the messages `sent`. Events, error, states, unanswered requests and lifecycle must be equal.
    """
    requests = list(sent)

    def result(positions: Iterable[int]) -> tuple[Outcome, tuple[Any, ...]]:
        connection = Connection(role, **limits)
        for message in requests:
            connection.send(message)
        outcome = feed_in_chunks(connection, data, positions, eof=eof)
        comparable = [_error_key(item) if isinstance(item, RemoteProtocolError) else item for item in outcome]
        states = (connection.our_state, connection.their_state, connection.pending, connection.lifecycle)
        return outcome, (comparable, *states)

    outcome, whole = result(())
    for positions in (range(1, len(data)), *cuts):
        _, other = result(positions)
        if other != whole:
            raise AssertionError(f"cut at {_listed(positions)}, the data are read as {other}; in one piece, as {whole}")
    return outcome


def _error_key(error: RemoteProtocolError) -> tuple[Any, ...]:
    return type(error), str(error), vars(error)


def _listed(positions: Sequence[int]) -> str:
    return "every byte" if isinstance(positions, range) else str(list(positions))


class ScriptedGuest:
    """A guest that follows a script, even if the script violates the protocol.

    A script is a list of steps, each a tuple of what is expected and any number of answers:

        ScriptedGuest([(None, Lifecycle("booting")), (Ping(), Pong()), (Mount, b"half a li", EOF)])

    Bytes from the host go into `receive_data`, which returns the bytes of the guest.
    """

    def __init__(self, script: Iterable[tuple[Expected, *tuple[Answer, ...]]]) -> None:
        self._script = list(script)
        self._step = 0
        self._lines = LineReader()
        self.ended: bool = False

    def data_to_send(self) -> bytes:
        """Return what the guest says before it waits for the next line."""
        said = b""
        while not self.ended and self._step < len(self._script) and self._script[self._step][0] is None:
            said += self._answer()
        return said

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes from the host, and return what the guest says to them. Nothing, once it has ended its stream.

        Raises AssertionError when a line is not what the script expects.
        """
        said = self.data_to_send()
        self._lines.feed(data)
        while not self.ended and (line := self._lines.next_line()) is not None:
            if line is TOO_LONG:
                raise AssertionError(f"{self._where()}, and the host sent a line over the limit")
            self._check(line)
            said += self._answer() + self.data_to_send()
        return said

    def assert_done(self) -> None:
        """Raise AssertionError when the script has not come to its end."""
        if self._step < len(self._script):
            raise AssertionError(f"{self._where()}, and the host sent nothing more")

    def _answer(self) -> bytes:
        _, *answers = self._script[self._step]
        self._step += 1
        said = b""
        for answer in answers:
            if answer is EOF:
                self.ended = True
                break
            said += answer if isinstance(answer, bytes) else encode(answer)
        return said

    def _where(self) -> str:
        if self._step == len(self._script):
            return "the script is at its end"
        return f"step {self._step + 1} of the script expects {self._script[self._step][0]!r}"

    def _check(self, line: bytes) -> None:
        expected = self._script[self._step][0] if self._step < len(self._script) else None
        if isinstance(expected, bytes):
            if line != expected:
                raise AssertionError(f"{self._where()}, and the host sent another line")
            return
        try:
            message = decode(line, sender=Role.HOST)
        except RemoteProtocolError as exc:
            raise AssertionError(f"{self._where()}, and {exc}") from None
        if not _fits(message, expected):
            raise AssertionError(f"{self._where()}, and the host sent {message!r}")


def _fits(message: Message, expected: Message | type[Message] | Callable[[Message], bool] | None) -> bool:
    if expected is None:
        return False
    if isinstance(expected, type):
        return isinstance(message, expected)
    return message == expected if isinstance(expected, Message) else expected(message)
