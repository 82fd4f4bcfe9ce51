"""Files and standard input that never end: they are read within bounds."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from cli_harness import COMMAND, LIMITED_ENV, PATIENCE
from stereos_proto import MAX_LINE_SIZE
from stereos_proto_io.cli._reading import MOST_READ, TooLong, read_at_most

SENT = f"{MAX_LINE_SIZE} bytes, which is the most that can be sent"
READ = f"{MOST_READ} bytes, which is the most that can be read"
ZERO = Path("/dev/zero")
NOBODY = "tcp://127.0.0.1:1"
#: Bytes of memory that a command has: it would take all there is.
_MEMORY = 3 * 1024**3


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def fed_without_end(*words):
    """Run a command whose standard input never ends, and whose memory is limited."""
    with ZERO.open("rb") as zero:
        return subprocess.run(
            [*COMMAND, *words],
            stdin=zero,
            capture_output=True,
            text=True,
            env=LIMITED_ENV,
            timeout=PATIENCE,
            check=False,
            preexec_fn=limit,
        )


@pytest.mark.parametrize(
    ("words", "name", "most"),
    [
        (
            ["config", "set", "/dev/zero", NOBODY],
            "/dev/zero",
            SENT,
        ),
        (
            ["config", "set", "-", NOBODY],
            "standard input",
            SENT,
        ),
        (
            ["secret", "set", "A", NOBODY],
            "standard input",
            SENT,
        ),
        (["secret", "set", "A", NOBODY, "--file", "/dev/zero"], "/dev/zero", SENT),
        (["ssh-key", "add", "/dev/zero", NOBODY, "--user", "admin"], "/dev/zero", SENT),
        (["send", "ping", "-", NOBODY], "standard input", SENT),
        (["decode", "/dev/zero"], "/dev/zero", READ),
        (["replay", "-", NOBODY], "standard input", READ),
        (["provision", "/dev/null", "--resume", "/dev/zero"], "/dev/zero", READ),
    ],
)
def test_a_file_that_never_ends_is_refused(words, name, most):
    done = fed_without_end(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"stereosctl: cannot read {name}: it is longer than {most}")
    assert done.stderr.count("\n") == 1


def test_a_line_of_the_shell_that_never_ends_is_refused():
    done = fed_without_end("shell", NOBODY)
    assert done.returncode == 2
    assert f"a line has more than {MAX_LINE_SIZE} characters" in done.stderr


def test_as_much_as_fits_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_at_most(path, 100) == b"x" * 100
    with pytest.raises(TooLong):
        read_at_most(path, 99)
