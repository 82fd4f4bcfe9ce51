"""Files and standard input that never end are read within bounds, and what comes late is waited for."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from cli_harness import COMMAND, LIMITED_ENV, PATIENCE, piped
from stereos_proto import MAX_LINE_SIZE, AgentStatus
from stereos_proto_io.cli._reading import MOST_READ, TooLong, read_at_most
from stereos_proto_io.testing import simulated_guest
from waiting import until

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


# ------------------------------------------------------------------- an input that does not wait (O_NONBLOCK)


def waiting_bytes(pipe):
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def wait_until_read(process):
    """Wait until the process has read all that was written to it."""
    until(lambda: not waiting_bytes(process.stdin), process)


def with_input_that_does_not_wait(*words):
    return piped(*words, preexec_fn=lambda: os.set_blocking(0, False))


def fed_in_halves(first, second, *words):
    """Run a command that reads the first half before the second one is written."""
    with with_input_that_does_not_wait(*words) as process:
        process.stdin.write(first)
        process.stdin.flush()
        wait_until_read(process)
        out, err = process.communicate(second, timeout=PATIENCE)
    assert process.returncode == 0, (out, err)
    return out


def test_a_secret_that_comes_in_halves_is_sent_whole():
    with simulated_guest() as guest:
        fed_in_halves("first,", "second\n", "secret", "set", "A", str(guest.address))
        assert guest.simulator.secrets["A"].value == "first,second"


def test_a_jcard_that_comes_in_halves_is_sent_whole():
    with simulated_guest() as guest:
        first, second = '[[shared]]\nhost = "."\nguest = "/a"\n', '[[shared]]\nhost = "."\nguest = "/b"\n'
        fed_in_halves(first, second, "provision", "-", str(guest.address))
        assert [mount.guest_path for mount in guest.simulator.mounts] == ["/a", "/b"]


def test_a_shell_waits_for_its_lines():
    with simulated_guest() as guest:
        out = fed_in_halves("pi", "ng\nping\n", "shell", str(guest.address))
    assert out.count("pong") == 2


def test_a_simulator_that_is_attached_lasts_as_long_as_its_input():
    with with_input_that_does_not_wait("simulate", "--attached", "-q") as process:
        assert process.stdout.readline().startswith("tcp://")
        process.stdin.write("x")
        process.stdin.flush()
        wait_until_read(process)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


# ------------------------------------------------------------------------------------------ a reader that is slow


@pytest.mark.parametrize("how", ["a buffer", "no buffer", "no waiting"])
def test_a_result_is_whole_however_slowly_it_is_read(how):
    """Signals interrupt the write to a full pipe, and without a buffer Python itself loses the rest then."""
    agents = tuple(AgentStatus(f"agent-{number}", True, error="e" * 100) for number in range(3000))
    env = {"PYTHONUNBUFFERED": "1" if how == "no buffer" else ""}
    with simulated_guest(agents=agents) as guest:
        words = ("health", str(guest.address), "--json")
        with piped(*words, env=env, preexec_fn=lambda: os.set_blocking(1, how != "no waiting")) as process:
            size = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
            until(lambda: waiting_bytes(process.stdout) == size, process)
            for _ in range(3):
                os.kill(process.pid, signal.SIGURG)
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert len(json.loads(out)["agents"]) == len(agents)
