"""Runs `stereosctl` as a person or a program would: in a pseudo-terminal or in pipes, here or as a process."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import attrs

from stereos_proto_io.cli import main

#: Seconds without a word after which a command is taken to hang.
PATIENCE = 60.0

COMMAND = (sys.executable, "-m", "stereos_proto_io.cli")

#: An environment in which the settings of the test machine do not change the output.
CLEAN_ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("STEREOS_", "MB_", "XDG_", "TTY_", "COV_"))
    and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI")
} | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"}

#: For processes that may hardly write, or open, anything: coverage is not measured in them. They write no bytecode:
#: CPython moves a file of which the system took only a part into place, and every later process fails to load it.
LIMITED_ENV = {name: value for name, value in CLEAN_ENV.items() if not name.startswith("COVERAGE_")} | {
    "PYTHONDONTWRITEBYTECODE": "1"
}

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


def plain(text: str) -> str:
    """`text` without what steers a terminal."""
    return _ESCAPE.sub("", text).replace("\r\n", "\n")


@attrs.frozen
class Result:
    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err


class _End:
    """One output of the command: a pipe or a terminal, read by a thread until it ends."""

    def __init__(self, *, tty: bool, columns: int = 100):
        if tty:
            self._read, self.fd = pty.openpty()
            resize(self.fd, columns)
        else:
            self._read, self.fd = os.pipe()
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self):
        while True:
            try:
                data = os.read(self._read, 65536)
            except OSError:  # how the end of a terminal looks
                return
            if not data:
                return
            self._chunks.append(data)

    def text(self) -> str:
        self._thread.join()
        os.close(self._read)
        return b"".join(self._chunks).decode("utf-8", "replace")


def resize(fd: int, columns: int, rows: int = 40) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def run_cli(
    monkeypatch, *arguments: str, tty: bool = False, stdin: bytes = b"", env=None, columns: int = 100
) -> Result:
    """Run a command in this process, with real descriptors as its standard streams."""
    out, err = _End(tty=tty, columns=columns), _End(tty=tty, columns=columns)
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    with monkeypatch.context() as patch:
        for name in set(os.environ) - set(CLEAN_ENV):
            patch.delenv(name, raising=False)
        for name, value in {**CLEAN_ENV, "COLUMNS": str(columns), **(env or {})}.items():
            patch.setenv(name, value)
        streams = [os.fdopen(end.fd, "w", encoding="utf-8") for end in (out, err)]
        patch.setattr(sys, "stdin", given)
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        try:
            code = main(arguments)
        finally:
            for stream in streams:
                stream.close()
            texts = out.text(), err.text()
    return Result(code, *texts)


def run_process(*arguments: str, stdin: bytes = b"", env=None) -> Result:
    """Run a command as a process of its own, in pipes."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        env={**CLEAN_ENV, **(env or {})},
        timeout=PATIENCE,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


#: Characters of what a command has written that are looked at: to take the colours out of all of it, again and again,
#: takes longer than `watch` takes to write more.
_LOOKED_AT = 65536


class TerminalProcess:
    """A command in a process with a terminal as its own: what is typed, Ctrl-C included, reaches it.

    `out` is a file for its standard output, instead of the terminal.
    """

    def __init__(self, *arguments: str, env=None, columns: int = 100, out: Path | None = None):
        self._master, slave = pty.openpty()
        resize(slave, columns)
        name = os.ttyname(slave)
        # The first terminal that a session's leader opens becomes the session's.
        script = 'exec <>"$0" 2>&0 >"$1"; shift; exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script, name, str(out or name), *COMMAND, *arguments],
            env={**CLEAN_ENV, **(env or {})},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._slave = slave
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        self.type("\x03")

    def wait_for(self, text: str) -> None:
        """Read until `text` is on the screen."""
        end = time.monotonic() + PATIENCE
        while text not in plain(self.seen[-_LOOKED_AT:]):
            self.seen += self._read(end)

    def _read(self, end: float) -> str:
        while not select.select([self._master], [], [], 0.1)[0]:
            if self.process.poll() is not None:
                raise EOFError(self.seen)
            assert time.monotonic() < end, self.seen[-_LOOKED_AT:]
        # Also of a command that writes all the time: a failure, rather than a run of the tests that never ends.
        assert time.monotonic() < end, self.seen[-_LOOKED_AT:]
        data = os.read(self._master, 65536)
        if not data:
            raise EOFError(self.seen)
        return data.decode("utf-8", "replace")

    def end(self) -> int:
        """Wait until the command has ended, and return its exit code."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.seen += self._read(end)
            except EOFError:
                return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def terminal(*arguments: str, **options):
    process = TerminalProcess(*arguments, **options)
    try:
        yield process
    finally:
        process.close()


@contextmanager
def piped(*arguments: str, env=None, clean=CLEAN_ENV, **options):
    """A command as a process, its streams in the caller's hand."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**clean, **(env or {})},
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
