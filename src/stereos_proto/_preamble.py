"""What some transports want before the first message (`docs/protocol.md` §8, §9).

A preamble is a small state machine without IO, like `Connection`: write `data_to_send()`, feed it the received bytes
until `done`, then give `trailing_data` to the connection. It holds no clock; the caller bounds the wait.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from ._codec import decode
from ._constants import GUEST_PORT, MAX_HYBRID_VSOCK_ANSWER, MAX_LINE_SIZE, U32_MAX
from ._errors import PreambleError, PreambleFailure, RemoteProtocolError
from ._messages import Ack
from ._registry import Role


class Preamble(Protocol):
    """What the two preambles have in common (§8, §9)."""

    @property
    def done(self) -> bool:
        """Whether the protocol proper may begin."""
        ...

    @property
    def trailing_data(self) -> bytes:
        """Bytes after the preamble: the first that belong to the connection."""
        ...

    def data_to_send(self) -> bytes:
        """Return what is to be written now, in one write; b"" when that was returned before."""
        ...

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer. Raises PreambleError when they do not lead to the protocol."""
        ...

    def receive_eof(self) -> None:
        """Record that the stream has ended. Raises PreambleError unless `done`."""
        ...


class _Preamble:
    def __init__(self, opening: bytes) -> None:
        self._opening = opening
        self._buffer = bytearray()
        self._done = False

    @property
    def done(self) -> bool:
        """Whether the protocol proper may begin."""
        return self._done

    @property
    def trailing_data(self) -> bytes:
        """Bytes after the preamble: the first that belong to the connection. b"" before `done`."""
        return bytes(self._buffer) if self._done else b""

    def data_to_send(self) -> bytes:
        """Return what is to be written now, in one write; b"" when that was returned before."""
        data, self._opening = self._opening, b""
        return data


class HybridVsockPreamble(_Preamble):
    """The handshake of Firecracker's kind of vsock: `CONNECT <port>`, answered by `OK <number>` (§8).

    Send nothing after the opening until `done`: some hypervisors drop it without an error. Wait 2 to 5 seconds.
    """

    def __init__(self, port: int = GUEST_PORT) -> None:
        """Raises ValueError when `port` is no whole number from 0 to 4294967295."""
        if not isinstance(port, int) or not 0 <= port <= U32_MAX:
            raise ValueError(f"a vsock port is a whole number from 0 to {U32_MAX}, not {port!r}")
        super().__init__(b"CONNECT %d\n" % port)
        self._port = port

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the host's socket.

        Raises PreambleError when the answer is not OK, or has no newline in its first 32 bytes.
        """
        self._buffer += data
        if self._done:
            return
        end = self._buffer.find(b"\n", 0, MAX_HYBRID_VSOCK_ANSWER)
        if end < 0:
            if len(self._buffer) >= MAX_HYBRID_VSOCK_ANSWER:
                raise PreambleError(
                    f"the answer to CONNECT {self._port} is longer than {MAX_HYBRID_VSOCK_ANSWER} bytes; "
                    "is this a hybrid-vsock socket?",
                    failure=PreambleFailure.TOO_LONG,
                )
            return
        word, _, number = bytes(self._buffer[:end]).partition(b" ")
        if word != b"OK" or not number.isdigit():
            raise PreambleError(
                f"the answer to CONNECT {self._port} is not OK; is this a hybrid-vsock socket?",
                failure=PreambleFailure.GARBAGE,
            )
        del self._buffer[: end + 1]
        self._done = True

    def receive_eof(self) -> None:
        """Record the end. Raises PreambleError: nobody listens, or the answer was cut."""
        if self._done:
            return
        if self._buffer:
            raise PreambleError(
                f"the connection ended in the middle of the answer to CONNECT {self._port}",
                failure=PreambleFailure.CUT,
            )
        raise PreambleError(
            f"nobody listens on vsock port {self._port} of the guest yet",
            failure=PreambleFailure.NOBODY_LISTENS,
        )


#: Bytes of the shortest line that can end a resynchronisation.
_SHORTEST_ACK: Final = len(b'{"type":"ack","payload":{"reply_to":"sync:x"}}')


class ResyncPreamble(_Preamble):
    """Find the start of our own conversation on a stream without connections, like virtio-serial (§9).

    A newline ends a partial line that an earlier host may have left, and a request of a made-up type makes the guest
    send an ack that names it. Everything up to and including that ack is discarded. Use a fresh `nonce` for every try.
    """

    def __init__(self, nonce: str) -> None:
        """Raises ValueError when `nonce` is not 1 to 64 ASCII letters, digits, "-" or "_"."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", nonce):
            raise ValueError("a nonce is 1 to 64 ASCII letters, digits, '-' or '_'")
        self._type = f"sync:{nonce}"
        self._nonce = nonce.encode()
        self._searched = 0
        self._skipping = False
        super().__init__(b'\n{"type":"%s"}\n' % self._type.encode())

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the guest. Raises nothing: it skips all data that is not ours."""
        buffer = self._buffer
        buffer += data
        while not self._done:
            end = buffer.find(b"\n", self._searched)
            if end < 0:
                # No line of the guest's is that long. Dropped, so that memory stays bounded, up to its end: the
                # rest could be taken for a line.
                if len(buffer) >= MAX_LINE_SIZE:
                    buffer.clear()
                    self._skipping = True
                self._searched = len(buffer)
                return
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            self._searched = 0
            self._done = not self._skipping and end < MAX_LINE_SIZE and self._is_ours(line)
            self._skipping = False

    def _is_ours(self, line: bytes) -> bool:
        # Decoding every line of a flood of short ones would take seconds. A nonce has no other escape than "\\u…".
        if self._nonce not in line and (len(line) < _SHORTEST_ACK or b"\\u" not in line):
            return False
        try:
            message = decode(line, sender=Role.GUEST)
        except RemoteProtocolError:
            return False
        return isinstance(message, Ack) and message.reply_to == self._type

    def receive_eof(self) -> None:
        """Record the end. Raises PreambleError unless `done`."""
        if not self._done:
            raise PreambleError(
                "the connection ended before the guest answered the resynchronisation",
                failure=PreambleFailure.CUT,
            )
