"""The client of every example, in its event loop, put through the whole of `check_client`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stereos_proto_io import TCP, HybridVsock, UnixSocket
from stereos_proto_io.testing import check_client, client_cases

from .loops import AWAITING_LOOPS, BLOCKING_LOOPS

TESTS = Path(__file__).parents[1]
#: Seconds after which a loop counts as stuck.
PATIENCE = 240
ADDRESSES = {
    "tcp": lambda _folder: TCP("127.0.0.1", 0),
    "unix": lambda folder: UnixSocket(folder / "guest"),
    "hybrid": lambda folder: HybridVsock(folder / "guest", 1024),
}


async def ask(client, message, seconds):
    return (await client._ask_within(seconds, message)).result()


def check(name, address):
    if name in BLOCKING_LOOPS:
        with BLOCKING_LOOPS[name]() as (make, together):
            check_client(make, address=address, together=together, thread=False)
    else:
        make, run = AWAITING_LOOPS[name]()
        # Neither asyncio nor trio, so `check_client` does not know how several tasks are run.
        cases = client_cases(without=["when_ready", *(["together"] if name in ("curio", "handmade") else ())])
        check_client(make, run=run, within=ask, address=address, cases=cases, thread=False)


@pytest.mark.parametrize("kind", ADDRESSES)
@pytest.mark.parametrize("name", [*BLOCKING_LOOPS, *AWAITING_LOOPS])
def test_a_loop(name, kind, tmp_path):
    """In a process of its own: some loops live as long as their process, and one that hangs must not hang the rest."""
    line = [sys.executable, "-m", "client.test_loops", name, kind, str(tmp_path)]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    if name == "glib":
        line[0] = python_with_gi(environment)
    if name == "curio" and sys.version_info >= (3, 12):
        pytest.skip("curio does not run on Python 3.12 and later")
    if name == "tk":
        line = ["xvfb-run", "--auto-servernum", *line]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def python_with_gi(environment):
    """A Python that has PyGObject, which is no wheel but the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        can = subprocess.run(
            [python, "-c", "import gi.repository.GLib, stereos_proto_io"], env=environment, check=False
        )
        if can.returncode == 0:
            return python
    if os.environ.get("CI"):
        pytest.fail("PyGObject is missing (apt install python3-gi)")
    pytest.skip("PyGObject is missing (apt install python3-gi)")


if __name__ == "__main__":
    check(sys.argv[1], ADDRESSES[sys.argv[2]](Path(sys.argv[3])))
