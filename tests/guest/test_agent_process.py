"""How `python -m stereos_proto_io.guest` ends: by signals, and where its output cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from guest_harness import PATIENCE, Host
from stereos_proto import Mount
from stereos_proto_io import UnixSocket
from waiting import until

#: Runs the agent; a callback of a weak reference, whose exceptions Python discards, gets the signal.
LOST = """
import os, sys, weakref
import stereos_proto_io.guest.__main__ as agent
number = int(sys.argv.pop(1))
serve = agent.serve
class Thing:
    pass
def get_signal(*_):
    os.kill(os.getpid(), number)
    # The handler runs between these.
    for _ in range(100):
        pass
def serve_and_lose(*arguments):
    thing = Thing()
    reference = weakref.ref(thing, get_signal)
    del thing
    return serve(*arguments)
agent.serve = serve_and_lose
sys.exit(agent.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_whose_exception_is_discarded_ends_the_agent(number, tmp_path):
    command = [sys.executable, "-c", LOST, str(int(number)), f"unix://{tmp_path}/s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout.readline().startswith("listening on")
            assert process.wait(PATIENCE) == 128 + number
        finally:
            process.kill()
    assert not (tmp_path / "s").exists()


@contextmanager
def hanging_mount(folder):
    """An agent whose mount(8) tells its process id through a FIFO, and hangs. Yields both."""
    (folder / "bin").mkdir()
    told = folder / "told"
    os.mkfifo(told)
    script = folder / "bin" / "mount"
    script.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 600\n")
    script.chmod(0o755)
    command = [sys.executable, "-m", "stereos_proto_io.guest", "--root", str(folder / "root"), "--mount"]
    with subprocess.Popen(
        [*command, f"unix://{folder}/s"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
    ) as process:
        child = 0
        try:
            process.stdout.readline()
            with Host(UnixSocket(folder / "s")) as host:
                host.send(Mount("tag", "/work", "9p"))
                child = int(told.read_text())
                yield process, child
        finally:
            process.kill()
            if child and runs(child):
                os.kill(child, signal.SIGKILL)


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_the_agent_and_the_mount_that_hangs(second, tmp_path):
    with hanging_mount(tmp_path) as (process, child):
        end = time.monotonic() + PATIENCE
        # A second one that comes at once counts as the first one.
        while process.poll() is None:
            assert time.monotonic() < end
            process.send_signal(second)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert process.returncode == 128 + second
        # Killed, and taken by whoever adopts it.
        until(lambda: state_of(child) in ("gone", "Z"))


def state_of(pid):
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] or "gone"


@pytest.mark.parametrize("kind", ["full", "closed"])
def test_an_agent_that_cannot_say_where_it_listens_ends_with_one_sentence(kind, tmp_path):
    read, write = os.pipe()
    os.close(read)
    target = write if kind == "closed" else os.open("/dev/full", os.O_WRONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "stereos_proto_io.guest", f"unix://{tmp_path}/s"],
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(write)
        if kind == "full":
            os.close(target)
    why = {"full": "No space left on device", "closed": "Broken pipe"}[kind]
    assert done.returncode == 2
    assert done.stderr == f"cannot write the addresses to standard output: {why}\n"
    assert not (tmp_path / "s").exists()
