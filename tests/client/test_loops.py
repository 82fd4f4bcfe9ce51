"""The client of every example, in its event loop, put through the whole of `check_client`."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stereos_proto import ConnectionLost, GetHealth, Mount, Ping, Pong, SessionEnded
from stereos_proto_io import TCP, HybridVsock, UnixSocket
from stereos_proto_io.testing import check_client, check_loop_client, client_cases, simulated_guest

from .loops import CALLBACK_LOOPS, OTHER_CLIENTS, example

TESTS = Path(__file__).parents[1]
#: Seconds after which a loop counts as stuck.
PATIENCE = 240
ADDRESSES = {
    "tcp": lambda _folder: TCP("127.0.0.1", 0),
    "unix": lambda folder: UnixSocket(folder / "guest"),
    "hybrid": lambda folder: HybridVsock(folder / "guest", 1024),
}


def check(name, address):
    """Nothing is left out: each client dials until the guest is ready, has many callers, and is cancelled."""
    if name in CALLBACK_LOOPS:
        with CALLBACK_LOOPS[name]() as (make, turn):
            report = check_loop_client(make, turn, address=address)
    else:
        report = check_client(**OTHER_CLIENTS[name](), address=address, thread=False)
    assert report.passed == tuple(case.name for case in client_cases())


@pytest.mark.parametrize("name", [*CALLBACK_LOOPS, *OTHER_CLIENTS])
def test_a_loop(name, tmp_path):
    """In processes of their own: some loops live as long as their process, and one that hangs must not hang the rest.

    Over all kinds of address at once: they wait for most of their time.
    """
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    if name == "curio" and sys.version_info >= (3, 12):
        pytest.skip("curio does not run on Python 3.12 and later")
    python = python_with_gi(environment) if name == "glib" else sys.executable
    screen = ["xvfb-run", "--auto-servernum"] if name == "tk" else []

    def run(kind):
        (tmp_path / kind).mkdir()
        line = [*screen, python, "-m", "client.test_loops", name, kind, str(tmp_path / kind)]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)

    # Screens are numbered by whoever starts first, so there is one at a time.
    with ThreadPoolExecutor(1 if screen else len(ADDRESSES)) as pool:
        for kind, done in zip(ADDRESSES, pool.map(run, ADDRESSES), strict=True):
            assert done.returncode == 0, f"{kind}: {done.stdout}{done.stderr}"


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


def test_a_thread_refuses_work_that_comes_too_late():
    """What is handed over while the thread ends must not be lost: its caller would wait for ever."""
    late = []

    def on_event(event):
        if isinstance(event, SessionEnded):
            late.append(client.do(client.request, Ping()))

    with simulated_guest() as guest:
        client = example("loop_threads").ThreadClient(guest.address, on_event)
        client.do(client.request, Ping()).result(PATIENCE)
        client.stop()
    late.append(client.do(client.request, Ping()))
    for future in late:
        with pytest.raises(ConnectionLost):
            future.result(5)
    assert len(late) == 2


def test_a_future_of_a_thread_is_cancelled(capfd):
    """The call is given up, the thread goes on, and nothing is complained about."""
    with simulated_guest(faults=["late:0.2s@mount"]) as guest:
        client = example("loop_threads").ThreadClient(guest.address)
        try:
            future = client.do(client.request, Mount("t", "/workspace", "9p"))
            client.do(client.request, GetHealth()).cancel()
            assert future.cancel()
            assert client.do(client.request, Ping(), timeout=5).result(PATIENCE) == Pong()
        finally:
            client.stop()
        asked = [request.type for request in guest.simulator.requests]
    assert asked[-1] == "ping"
    assert capfd.readouterr().err == ""


if __name__ == "__main__":
    check(sys.argv[1], ADDRESSES[sys.argv[2]](Path(sys.argv[3])))
