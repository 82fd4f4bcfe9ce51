"""Every example, run as its reader would run it, against a guest that shows whether it keeps its promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stereos_proto import AgentStatus, PendingRequest, Ping, Pong, Role, decode, encode
from stereos_proto_io import TCP, conformance, parse_address
from stereos_proto_io.testing import simulated_guest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: Seconds after which an example counts as stuck.
PATIENCE = 60


def command(name, *arguments, python=sys.executable):
    return [str(python), str(EXAMPLES / name), *map(str, arguments)]


@contextlib.asynccontextmanager
async def running(*line, env=None, stdin=None, patience=PATIENCE):
    """A process for the length of an `async with`."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *line, env={**os.environ, **(env or {})}, stdin=stdin, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(patience):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(*line, code=0, env=None, text=None):
    """Run a command to its end; return the lines that it said. It must not complain."""
    async with running(*map(str, line), env=env, stdin=asyncio.subprocess.PIPE) as process:
        out, err = await process.communicate(text and text.encode())
    assert (process.returncode, err.decode()) == (code, ""), out.decode()
    return out.decode().splitlines()


#: What each example of an event loop says of one guest: the replies to what it asks, in any order.
PONG, HEALTH = "Pong()", "Health(state=<LifecycleState.READY: 'ready'>, agents=(), uptime_seconds=0)"
LOOPS = {
    "curio": {PONG, HEALTH},
    "gevent": {PONG, HEALTH},
    "glib": {"the guest is ready", HEALTH},
    "handmade": {PONG, HEALTH},
    "qt": {"the guest is ready", HEALTH},
    "selectors": {"{address} is ready", HEALTH},
    "threads": {"the guest is ready", PONG},
    "tk": {HEALTH},
    "tornado": {"the guest is ready", HEALTH},
    "twisted": {"the guest is ready", HEALTH},
    "uvloop": {f"[{PONG}, {HEALTH}]"},
}


def talk(*line, env=None):
    """Run an example against a guest; return what it said, the address, and the types that the guest was asked."""
    # No time passes in it: the state and the uptime stay what they are.
    with simulated_guest(clock=lambda: 0.0) as guest:
        said = asyncio.run(run(*line, guest.address, env=env))
        return said, guest.address, [request.type for request in guest.simulator.requests]


@pytest.mark.parametrize("name", LOOPS)
def test_an_event_loop(name):
    if name == "curio" and sys.version_info >= (3, 12):
        pytest.skip("curio does not run on Python 3.12 and later")
    python, env = python_with_gi() if name == "glib" else (sys.executable, {"QT_QPA_PLATFORM": "offscreen"})
    screen = ["xvfb-run", "--auto-servernum"] if name == "tk" else []
    said, address, asked = talk(*screen, *command(f"loop_{name}.py", python=python), env=env)
    assert {text.format(address=address) for text in LOOPS[name]} <= set(said)
    assert "get_health" in asked


@pytest.mark.parametrize("name", [*LOOPS, "anyio"])
def test_an_event_loop_ends_where_the_guest_falls_silent(name):
    """Each request has a bound. An exception of a callback does not end every loop."""
    if name == "curio" and sys.version_info >= (3, 12):
        pytest.skip("curio does not run on Python 3.12 and later")
    python, env = python_with_gi() if name == "glib" else (sys.executable, {"QT_QPA_PLATFORM": "offscreen"})
    screen = ["xvfb-run", "--auto-servernum"] if name == "tk" else []
    # A wait asks first. What the example asks is its second get_health, or a ping.
    asks = "ping" if name == "threads" else "get_health#2"
    with simulated_guest(faults=[f"stall@{asks}"]) as guest:
        arguments = ["trio", guest.address] if name == "anyio" else [guest.address]
        line = [*screen, *command(f"loop_{name}.py", *arguments, python=python)]
        done = subprocess.run(
            line, env={**os.environ, **env}, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert re.search("in time|Timeout", done.stdout + done.stderr)


def test_a_thread_is_told_the_end_of_the_session():
    said, address, _asked = talk(*command("loop_threads.py"))
    assert said[-1] == f"SessionEnded(error=ConnectionLost('the connection to {address} was closed'))"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(backend):
    said, _address, _asked = talk(*command("loop_anyio.py", backend))
    assert sorted(said) == sorted([PONG, HEALTH])


def python_with_gi():
    """A Python that has PyGObject, which is no wheel but the system's, and can load what this one has installed."""
    folders = [str(ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    env = {"PYTHONPATH": os.pathsep.join(folders)}

    def can(python, text):
        line = [python, "-c", text]
        with contextlib.suppress(FileNotFoundError):
            return not subprocess.run(line, env={**os.environ, **env}, capture_output=True, check=False).returncode
        return False

    for python in (sys.executable, "/usr/bin/python3"):
        if can(python, "import gi.repository.GLib, stereos_proto"):
            return python, env
    if not can("/usr/bin/python3", "import stereos_proto"):
        # Nothing to be installed would help: its package is for the system's own Python.
        version = ".".join(map(str, sys.version_info[:2]))
        pytest.skip(f"PyGObject is not in this Python, and /usr/bin/python3 is not of version {version}")
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    return give_up("PyGObject is not installed (apt install python3-gi)")


def test_many_guests_with_selectors():
    with simulated_guest(clock=lambda: 0.0) as one, simulated_guest(clock=lambda: 0.0) as other:
        said = asyncio.run(run(*command("loop_selectors.py", one.address, other.address)))
    assert sorted(said) == sorted([f"{one.address} is ready", f"{other.address} is ready", HEALTH, HEALTH])


async def serve_and_examine(*line):
    """Run a guest of the examples, and put it through the suite that examines guests."""
    async with running(*line, env={"PYTHONUNBUFFERED": "1"}) as process:
        port = int((await process.stdout.readline()).decode().split()[-1])
        return await asyncio.to_thread(conformance.run, TCP("127.0.0.1", port))


@pytest.mark.parametrize("line", [("guest_selectors.py", "tcp://127.0.0.1:0"), ("guest_twisted.py", "0")])
def test_a_guest_agent(line):
    report = asyncio.run(serve_and_examine(*command(*line)))
    assert report.ok, str(report)


def test_a_guest_agent_keeps_a_connection_whose_reply_comes_later():
    """When the host sends no more, nothing is to be read nor written until the handler is done."""
    example = runpy.run_path(str(EXAMPLES / "guest_selectors.py"))
    asked = []

    class Host(example["Host"]):
        def answer(self):
            asked.extend(event for event in self.session.events() if isinstance(event, PendingRequest))

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        host = Host(theirs)
        ours.sendall(encode(Ping()))
        ours.shutdown(socket.SHUT_WR)
        while host.session.wants_data:
            for key, mask in example["SELECTOR"].select(PATIENCE):
                key.data(mask)
        host.session.reply(asked.pop(), Pong())
        host.turn(0)
        assert ours.recv(100) == encode(Pong())
        assert ours.recv(100) == b""
        host.turn(0)  # a reply that comes too late does no harm


async def through_proxy(address):
    async with running(*command("proxy.py", "tcp://127.0.0.1:0", address), env={"PYTHONUNBUFFERED": "1"}) as proxy:
        place = (await proxy.stdout.readline()).decode().rpartition(" ")[2].strip()
        heard = await run(*command("loop_twisted.py", place))
        said = []
        while not said or not said[-1].endswith("has gone"):
            said.append((await proxy.stdout.readline()).decode().strip())
        return heard, said


def test_a_proxy_shows_what_passes():
    with simulated_guest(clock=lambda: 0.0) as guest:
        heard, said = asyncio.run(through_proxy(guest.address))
        requests = guest.simulator.requests
    assert heard == ["the guest is ready", HEALTH]
    assert [line for line in said if line.startswith("host ->")] == [f"host -> {request}" for request in requests]
    assert said.count(f"guest -> {HEALTH}") == len(requests)


async def through_proxy_by_hand(guest, lines):
    """What comes back for some lines, when the host then closes its own direction."""
    async with running(
        *command("proxy.py", "tcp://127.0.0.1:0", guest.address), env={"PYTHONUNBUFFERED": "1"}
    ) as proxy:
        place = parse_address((await proxy.stdout.readline()).decode().rpartition(" ")[2].strip())
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(lines)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    return [decode(line, sender=Role.GUEST) for line in answer.splitlines()]


@pytest.mark.parametrize("times", [1, 100])
def test_a_proxy_keeps_the_order_of_replies(times):
    """Those of the guest and its own refusals, also when more are owed than it keeps at once."""
    lines = b'x\n{"type":"ping"}\n[]\n{"type":"get_health"}\n'
    with simulated_guest() as guest:
        replies = asyncio.run(through_proxy_by_hand(guest, lines * times))
    assert [reply.type for reply in replies] == ["ack", "pong", "ack", "health"] * times


# ---------------------------------------------------------------------------------------- users of the drivers

JCARD = """
[[shared]]
host = "."
guest = "/workspace"

[secrets]
API_TOKEN = "${FLEET_TOKEN}"

[[agents]]
name = "coder"
harness = "claude-code"
"""


@pytest.fixture
def jcard(tmp_path):
    path = tmp_path / "jcard.toml"
    path.write_text(JCARD)
    return path


@pytest.fixture
def guests():
    """Two guests whose agents run soon after their config has come."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(simulated_guest(poll_interval=0.05)) for _ in range(2)]


def expect_provisioned(guest, token):
    simulator = guest.simulator
    assert [mount.guest_path for mount in simulator.mounts] == ["/workspace"]
    assert {name: secret.value for name, secret in simulator.secrets.items()} == {"API_TOKEN": token}
    assert token not in simulator.config
    assert [agent.name for agent in simulator.agents] == ["coder"]


@pytest.mark.parametrize("name", ["fleet_asyncio.py", "fleet_trio.py"])
def test_a_fleet_with_live_progress(name, guests, jcard):
    places = [guest.address for guest in guests]
    env = {"FLEET_TOKEN": "tok-12345", "COLUMNS": "120"}
    said = asyncio.run(run(*command(name, jcard, *places), env=env))
    assert said[-1] == "2 of 2 guests are up"
    for guest, line in zip(guests, said, strict=False):
        assert line.startswith(str(guest.address))
        assert line.endswith(" up")
        expect_provisioned(guest, "tok-12345")


async def until(stream, text):
    """Read a stream until it says `text`."""
    said = b""
    while text not in said:
        data = await stream.read(65536)
        assert data, said
        said += data


async def watch(name, jcard, guest):
    """Follow the table of a fleet from "booting" on. Nothing goes on before the table has said so."""
    env = {"FLEET_TOKEN": "tok-12345", "COLUMNS": "120", "FORCE_COLOR": "1"}  # a terminal, as far as rich can tell
    async with running(*command(name, jcard, guest.address), env=env) as process:
        await until(process.stdout, b"booting")
        guest.simulator.state = "ready"
        await until(process.stdout, b"1 of 1 guests are up")
        return await process.wait()


@pytest.mark.parametrize("name", ["fleet_asyncio.py", "fleet_trio.py"])
def test_the_progress_of_a_fleet_is_live(name, jcard):
    with simulated_guest(poll_interval=0.05) as guest:
        guest.simulator.state = "booting"
        assert asyncio.run(watch(name, jcard, guest)) == 0
        expect_provisioned(guest, "tok-12345")


@pytest.mark.parametrize("name", ["fleet_asyncio.py", "fleet_trio.py"])
def test_a_fleet_says_which_guest_failed(name, guests, jcard):
    with simulated_guest(types={"ping", "get_health"}) as poor:
        places = [poor.address, guests[0].address]
        env = {"FLEET_TOKEN": "tok-12345", "COLUMNS": "80"}
        said = asyncio.run(run(*command(name, jcard, *places), code=1, env=env))
    assert said[-1] == "1 of 2 guests are up"
    assert f"{poor.address}: the guest refused mount: unknown message type: mount" in " ".join(said)
    assert any(line.startswith(str(poor.address)) and line.endswith(" failed") for line in said)
    expect_provisioned(guests[0], "tok-12345")


@pytest.mark.parametrize("fault", ["stall@get_health", "stall@mount"])
@pytest.mark.parametrize("name", ["fleet_asyncio.py", "fleet_trio.py"])
def test_a_fleet_ends_in_its_time_where_a_guest_is_silent(name, fault, jcard):
    with simulated_guest(faults=[fault]) as silent:
        env = {"FLEET_TOKEN": "tok-12345", "COLUMNS": "80", "FLEET_SECONDS": "1"}
        said = asyncio.run(run(*command(name, jcard, silent.address), code=1, env=env))
    assert said[-1] == "0 of 1 guests are up"
    assert any(line.startswith(f"{silent.address}: ") for line in said)


def test_wait_for_an_agent():
    with simulated_guest(agents=[AgentStatus("coder", running=True, session="s1", restarts=2)]) as guest:
        said = asyncio.run(run(*command("wait_for_agent.py", guest.address, "coder")))
    assert said == ["coder runs in session s1, restarts: 2"]


def test_wait_for_an_agent_in_vain():
    with simulated_guest(agents=[AgentStatus("coder", running=False)]) as guest:
        line = command("wait_for_agent.py", guest.address, "coder", "0.2")
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "last state: ready" in done.stderr


def test_rotate_a_secret(guests):
    places = [guest.address for guest in guests]
    said = asyncio.run(run(*command("rotate_secret.py", "API_TOKEN", *places), text="new-value\n"))
    assert said == [f"{place}: done" for place in places]
    assert [guest.simulator.secrets["API_TOKEN"].value for guest in guests] == ["new-value"] * 2


def test_rotate_a_secret_where_one_guest_goes_away(guests):
    with simulated_guest(faults=["reset#1"]) as lost:
        places = [guests[0].address, lost.address]
        said = asyncio.run(run(*command("rotate_secret.py", "API_TOKEN", *places), code=1, text="new-value\n"))
    assert said[0] == f"{places[0]}: done"
    assert said[1].startswith((f"{places[1]}: failed", f"{places[1]}: unknown"))
    assert "new-value" not in said[1]


def test_rotate_a_secret_where_one_guest_falls_silent():
    rotate = runpy.run_path(str(EXAMPLES / "rotate_secret.py"))["rotate"]
    rotate.__globals__["SECONDS"] = 0.2
    with simulated_guest(faults=["stall@inject_secret"]) as guest:
        said = asyncio.run(rotate(guest.address, "API_TOKEN", "new-value"))
    assert said == "unknown, run it again: not done within 0.2 s"


async def scrape(*line):
    async with running(*line) as process:
        url = (await process.stdout.readline()).decode().strip()
        return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=PATIENCE).read().decode())


def test_a_prometheus_exporter():
    agents = [AgentStatus("coder", running=True, restarts=2), AgentStatus("idle", running=False)]
    # No time passes in it: after five seconds it would be healthy.
    with simulated_guest(agents=agents, clock=lambda: 0.0) as guest, simulated_guest() as gone:
        place, nowhere = guest.address, gone.address
        gone.server.close()
        lines = asyncio.run(scrape(*command("prometheus_exporter.py", 0, place, nowhere))).splitlines()
    assert f'stereos_guest_up{{guest="{place}"}} 1.0' in lines
    assert f'stereos_guest_up{{guest="{nowhere}"}} 0.0' in lines
    assert f'stereos_guest_state{{guest="{place}",state="ready"}} 1.0' in lines
    assert f'stereos_agent_running{{agent="coder",guest="{place}"}} 1.0' in lines
    assert f'stereos_agent_running{{agent="idle",guest="{place}"}} 0.0' in lines
    assert f'stereos_agent_restarts_total{{agent="coder",guest="{place}"}} 2.0' in lines
    assert not any(line.startswith("stereos_guest_uptime_seconds{") and str(nowhere) in line for line in lines)


#: Two workers, each the host of one guest, each with a token of its own in its environment. It says which process each
#: worker is, so that a test can kill it.
HOSTS = """
import subprocess, sys
from distributed import Nanny, Scheduler, SpecCluster

def host(name):
    env = {"FLEET_TOKEN": f"token-of-{name}"}
    return {"cls": Nanny, "options": {"name": name, "nthreads": 1, "env": env, "host": "127.0.0.1"}}

if __name__ == "__main__":
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with SpecCluster({name: host(name) for name in ("host-a", "host-b")}, scheduler) as cluster:
        for name, nanny in cluster.workers.items():
            print("process", name, nanny.pid, flush=True)
        example, *arguments = sys.argv[1:]
        sys.exit(subprocess.run([sys.executable, example, cluster.scheduler_address, *arguments]).returncode)
"""


def over_hosts(guests, jcard, folder):
    """The command line of the example on two hosts, and the places of the guests."""
    (folder / "hosts.py").write_text(HOSTS)
    places = [f"host-{letter}={guest.address}" for letter, guest in zip("ab", guests, strict=True)]
    return [sys.executable, str(folder / "hosts.py"), *command("fleet_dask.py", jcard, *places)[1:]], places


QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}
#: Whether dask itself runs the task again on the worker that its nanny starts anew.
AGAIN = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3", "FLEET_SECONDS": "40"}
NOT_AGAIN = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}


def test_a_fleet_over_many_hosts(guests, jcard, tmp_path):
    line, places = over_hosts(guests, jcard, tmp_path)
    assert "FLEET_TOKEN" not in os.environ
    said = asyncio.run(run(*line, env=QUIET))
    assert {f"{place}: up" for place in places} < set(said)
    assert {f"{place}: … provisioning" for place in places} < set(said), "progress is shown"
    assert said[-1] == "2 of 2 guests are up"
    for name, guest in zip(("host-a", "host-b"), guests, strict=True):
        expect_provisioned(guest, f"token-of-{name}")
        assert not any(f"token-of-{name}" in text for text in said)


async def with_one_killed(line, place, env):
    """Run the example, and kill the worker of `place` once it provisions. Return what was said."""
    said, processes = [], {}
    async with running(*line, env={**QUIET, **env}, patience=3 * PATIENCE) as process:
        while text := (await process.stdout.readline()).decode().strip():
            said.append(text)
            if text.startswith("process "):
                _, name, pid = text.split()
                processes[name] = int(pid)
            if text == f"{place}: … provisioning":
                os.kill(processes[place.partition("=")[0]], signal.SIGKILL)
            if text.endswith("guests are up"):
                break
    return said


@pytest.mark.parametrize("env", [AGAIN, NOT_AGAIN], ids=["run again", "not run again"])
def test_a_host_that_is_lost_in_mid_provision(env, guests, jcard, tmp_path):
    with simulated_guest(faults=["stall@mount"]) as stalled:
        line, places = over_hosts([guests[0], stalled], jcard, tmp_path)
        said = asyncio.run(with_one_killed(line, places[1], env))
        mounts = [request for request in stalled.simulator.requests if request.type == "mount"]
    assert f"{places[0]}: up" in said
    assert f"{places[1]}: unknown: its worker was lost after the guest may have been changed" in said
    assert said[-1] == "1 of 2 guests are up"
    assert len(mounts) == len({mount.guest_path for mount in mounts}), "and nothing was sent a second time"
    expect_provisioned(guests[0], "token-of-host-a")


def test_the_fixture_in_tests_of_your_own():
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_orchestrator.py")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_every_example_has_a_test():
    text = Path(__file__).read_text()
    names = {path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("vm_")}
    loops = {f"loop_{name}.py" for name in LOOPS}
    assert {name for name in names - loops if name not in text} == set()
