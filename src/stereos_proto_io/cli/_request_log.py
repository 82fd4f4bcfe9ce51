"""What `simulate` shows on stderr: a line for each request of all connections, whose threads share it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Full, Queue
from typing import Final, Self, TextIO

from rich.text import Text

from stereos_proto import Ack, Reply, Request

from ._console import Output, clean, error_console
from ._errors import BrokenOutput, OutputFailed

#: Lines that wait at most until they are written.
_MOST_LINES: Final = 256
#: Seconds for which a request waits for stderr, and the end of the command: a pipe may be read slowly, or never.
_PATIENCE: Final = 1.0
_ARROW: Final = Text("→ ", "cyan")


class RequestLog:
    """Shows requests on stderr, in a thread of its own, for the length of a `with`.

    A reader that does not read holds up neither hosts nor the end.

    Where stderr cannot be written, no request is carried out unseen: `stop` is set, and `close` raises what went wrong.
    Where it is not read, requests are carried out all the same, and lines that do not fit are counted.
    """

    def __init__(self, stop: threading.Event, *, quiet: bool) -> None:
        self._stop = stop
        self._quiet = quiet
        #: Requests; lines without an arrow; events, to be set once stderr was seen to be writable; and None at the end.
        self._queue: Queue[Text | str | threading.Event | None] = Queue(_MOST_LINES)
        #: Whether the last request that waited for stderr waited in vain.
        self._behind = False
        self._failure: BrokenOutput | OutputFailed | None = None
        self._lock = threading.Lock()
        self._lost = 0
        self._writer: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._quiet:
            # Not in the thread: it may begin when standard error is another one.
            stderr = _own_stderr()
            target = partial(self._write_all, error_console(stderr), stderr)
            self._writer = threading.Thread(target=target, name="request log", daemon=True)
            self._writer.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with suppress(Full):
            self._queue.put_nowait(None)

    def handled(self, request: Request, handle: Callable[[Request], Reply]) -> Reply:
        """Carry out a request, and show it. Raises RequestRefused where nothing can be shown."""
        if self._quiet:
            return handle(request)
        self._check_writable()
        reply = handle(request)
        # A message's repr hides its secrets.
        line = Text(clean(repr(request)))
        if isinstance(reply, Ack) and not reply.ok:
            line.append("  refused", "red")
            line.append(f": {clean(reply.error)}")
        try:
            self._queue.put_nowait(line)
        except Full:
            with self._lock:
                self._lost += 1
        return reply

    def _check_writable(self) -> None:
        from stereos_proto_io.guest import RequestRefused  # noqa: PLC0415

        if not self._behind:
            written = threading.Event()
            try:
                self._queue.put_nowait(written)
            except Full:
                self._behind = True
            else:
                self._behind = not written.wait(_PATIENCE)
        if self._failure is not None:
            # Not by the writing thread: the server could be closed before the host has its answer.
            self._stop.set()
            raise RequestRefused("the simulator ends: it cannot show what it is asked")

    def close(self, last: str = "") -> None:
        """Write what is left, and a last line, within some seconds. Raises what went wrong."""
        if self._writer is None:
            return
        lost = f"{self._lost} requests are not shown: standard error was not read in time" if self._lost else ""
        try:
            for text in (lost, last):
                if text:
                    self._queue.put(text, timeout=_PATIENCE)
            self._queue.put(None, timeout=_PATIENCE)
        except Full:
            # The stream is not read: the thread ends with the process.
            return
        self._writer.join(_PATIENCE)
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------------------- the thread that writes

    def _write_all(self, output: Output, stderr: TextIO) -> None:
        try:
            self._write_queue(output)
        finally:
            if stderr is not sys.stderr:
                with suppress(OSError):
                    stderr.close()

    def _write_queue(self, output: Output) -> None:
        arrow = False
        while (item := self._queue.get()) is not None:
            if not isinstance(item, str) and not arrow:
                # Before a request is carried out; what it is follows on the same line.
                self._write(output, _ARROW, "")
            if isinstance(item, threading.Event):
                arrow = True
                item.set()
            else:
                self._write(output, item, "\n")
                arrow = False
                if self._failure is not None:
                    self._stop.set()

    def _write(self, output: Output, text: Text | str, end: str) -> None:
        try:
            if self._failure is None:
                output.print(text, end=end)
                self._behind = False
        except (BrokenOutput, OutputFailed) as exc:
            self._failure = exc


def _own_stderr() -> TextIO:
    """Standard error as a file of its own: at its end Python waits for threads that write to `sys.stderr`."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="backslashreplace")
    except (OSError, ValueError, AttributeError):
        return sys.stderr
