"""What a client on trio reads and writes: sockets as they are, and trio's streams as streams of `driver`'s kind."""

from __future__ import annotations

import math
import os
import socket
from contextlib import suppress
from typing import Any, Final

import trio

from stereos_proto_io.driver import READ_SIZE

#: Seconds for which a stream is read after writing to it has failed.
_LAST_READS: Final = 1.0


def adopt(stream: Any) -> Any:
    """Return what the client reads and writes for a socket (trio's or the standard library's) or a stream."""
    if isinstance(stream, trio.SocketStream):
        stream = stream.socket
    if isinstance(stream, trio.socket.SocketType):
        # trio does not give its socket away, but another descriptor of it can be had.
        family, descriptor = stream.family, os.dup(stream.fileno())
        stream.close()
        stream = socket.socket(family, socket.SOCK_STREAM, fileno=descriptor)
    return StreamTransport(stream) if isinstance(stream, trio.abc.Stream) else stream


class StreamTransport:
    """A `trio.abc.Stream` with the methods of a socket that does not block, and two to wait.

    A stream's `send_all` cannot tell how far it got when it is cancelled. So it runs in a system task of trio, which is
    not cancelled together with the caller: `send` takes everything at once, and the next `send` waits until that is
    sent.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        # What was read and not yet taken: one read at a time, b"" at the end.
        self._received: bytes | None = None
        # Set while nothing is being sent.
        self._idle: trio.Event | None = None
        self._failure: OSError | None = None
        # The read that goes on, and the time until which reading goes on once writing has failed.
        self._reading: trio.CancelScope | None = None
        self._last_read = math.inf
        self._aborted = False
        # Set once the handshake of TLS is over; None: there is none to wait for.
        self._shaken: trio.Event | None = None
        if isinstance(stream, trio.SSLStream):
            self._shaken = trio.Event()
            trio.lowlevel.spawn_system_task(self._shake_hands, stream, self._shaken)

    @staticmethod
    async def _shake_hands(stream: trio.SSLStream[Any], over: trio.Event) -> None:
        """Make the handshake, which the first read would do: that is cancelled together with its caller."""
        # The first read or write raises what this raised.
        with suppress(Exception):
            await stream.do_handshake()
        over.set()

    def fileno(self) -> int:
        """Return -1 when it is closed; the descriptor of a stream is unknown."""
        return -1 if self._aborted else 0

    async def wait_readable(self) -> None:
        """Wait until `recv` has something. Raises OSError when it never will have.

        After a failed write only for a second: there may be replies that came before, but a stream that is broken
        need not end.
        """
        if self._received is not None:
            return
        with trio.CancelScope(deadline=self._last_read) as self._reading:
            if self._shaken is not None:
                await self._shaken.wait()
            try:
                self._received = bytes(await self._stream.receive_some(READ_SIZE))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise _reset(exc) from exc
        if self._received is None and self._failure is not None:
            raise self._failure

    def recv(self, _size: int) -> bytes:
        """Return what was read."""
        if self._received is None:
            raise BlockingIOError
        data, self._received = self._received, None
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Take all of `data`, and send it in the background. Raises OSError when the last one failed."""
        if self._failure is not None:
            raise self._failure
        if self._idle is not None:
            raise BlockingIOError
        self._idle = trio.Event()
        trio.lowlevel.spawn_system_task(self._send, bytes(data), self._idle)
        return len(data)

    async def _send(self, data: bytes, idle: trio.Event) -> None:
        try:
            if self._shaken is not None:
                await self._shaken.wait()
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._failure = _reset(exc)
        except OSError as exc:
            self._failure = exc
        except Exception as exc:  # noqa: BLE001  (a system task that fails takes all of trio with it)
            self._failure = _reset(exc)
        finally:
            self._idle = None
            idle.set()
        if self._failure is not None:
            self._last_read = trio.current_time() + _LAST_READS
            if self._reading is not None:
                self._reading.deadline = self._last_read

    async def wait_writable(self) -> None:
        """Wait until `send` takes something."""
        if self._idle is not None:
            await self._idle.wait()
        else:
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once, as far as that goes without waiting."""
        if not self._aborted:
            self._aborted = True
            trio.lowlevel.spawn_system_task(self._close)

    async def closed(self) -> None:
        """Close it, and wait for that."""
        await self._close()

    async def _close(self) -> None:
        # However it ends, it is closed. A task of the system that fails takes all of trio with it.
        with suppress(Exception):
            await trio.aclose_forcefully(self._stream)


def _reset(error: Exception) -> OSError:
    return ConnectionResetError(str(error) or "the stream broke")
