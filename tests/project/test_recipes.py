"""The recipes of the page for those who carry on the work, followed in a copy of the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Seconds after which a script counts as stuck.
PATIENCE = 120
CARRY_ON = DOCS / "carry-on.md"


def recipe(name):
    """The block of that name on the page for those who carry on the work."""
    found = re.search(rf"^:name: {name}\n(.*?)^```$", CARRY_ON.read_text(), re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1]


def edit(path, before, after):
    """Replace a text that stands in a file exactly once."""
    text = path.read_text()
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, after))


@pytest.fixture
def tree(tmp_path):
    """A copy of the sources to follow a recipe in."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def run_in(tree, script):
    """Run a script against a copy of the sources. It must succeed."""
    path = tree.parent / "script.py"
    path.write_text(script)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(DOCS)))}
    done = subprocess.run(
        [sys.executable, str(path)], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tree) in done.stdout, "it ran against other sources"


NEW_MESSAGE = """
import contextlib, io
import generate, stereos_proto
from hypothesis import HealthCheck, given, settings
from stereos_proto import Ack, Connection, InvalidMessage, LocalProtocolError, RequestReceived, Role, decode, encode
from stereos_proto._messages import Unmount
from stereos_proto._state import answers
from stereos_proto._codec.tolerant import read_tolerantly
from stereos_proto.testing import strategies
from stereos_proto_io.cli import main
from stereos_proto_io.testing import simulated_guest

print(stereos_proto.__file__)

# The codec, in both lanes.
line = b'{"type":"unmount","payload":{"guest_path":"/workspace"}}'
assert encode(Unmount("/workspace")) == line + b"\\n"
assert decode(line, sender=Role.HOST) == read_tolerantly(line, Role.HOST) == Unmount("/workspace")
assert decode(line.replace(b'}}', b',"force":null}}'), sender=Role.HOST) == Unmount("/workspace")
for wrong in (Unmount(1), Unmount("/workspace", force="yes")):
    try:
        encode(wrong)
    except LocalProtocolError:
        continue
    raise AssertionError(wrong)
try:
    decode(b'{"type":"unmount","payload":{"guest_path":7}}', sender=Role.HOST)
except InvalidMessage as exc:
    assert exc.path == "payload.guest_path"
else:
    raise AssertionError

# The state table.
assert answers(Ack("unmount", True), Unmount("/workspace"))
assert not answers(Ack("mount", True), Unmount("/workspace"))
guest = Connection(Role.GUEST)
guest.receive_data(b'{"type":"unmount"}\\n')
assert guest.next_event().reply.error == "decode unmount payload: envelope unmount has no payload"

# The strategies.
assert Unmount in strategies.message_classes(sender=Role.HOST)
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(strategies.from_message_class(Unmount))
def round_trip(message):
    assert decode(encode(message), sender=Role.HOST) == message
round_trip()

# The pages.
assert "| `unmount` | {py:class}`~stereos_proto.Unmount` | host | `guest_path` text, [`force` bool] | `ack` |" in (
    generate.messages_table()
)
assert ">unmount<" in generate.exchange_diagram()
assert "| `unmount` | `Unmount` | `request` |" in generate.names_table()

# The command line, which knows what the payload must be.
with simulated_guest(types={"unmount"}) as simulated:
    place = str(simulated.address)
    assert main(["send", "unmount", '{"guest_path":"/workspace","force":true}', place]) == 0
    assert simulated.simulator.requests == (Unmount("/workspace", force=True),)
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint):
        assert main(["send", "unmount", '{"guest_path":7}', place]) == 2
    assert len(simulated.simulator.requests) == 1
"""


def add_message(tree):
    """One class and one row, as the page says."""
    messages, registry = tree / "stereos_proto/_messages.py", tree / "stereos_proto/_registry.py"
    anchor = '@attrs.frozen(slots=False)\nclass Shutdown(Request["Ack"]):'
    edit(messages, anchor, recipe("recipe-message-class") + "\n\n" + anchor)
    edit(registry, "    UnknownMessage,\n)", "    UnknownMessage,\n    Unmount,\n)")
    edit(registry, "    Row(Pong, Kind.REPLY),\n", recipe("recipe-message-row") + "    Row(Pong, Kind.REPLY),\n")


def test_a_new_message_takes_one_row_and_one_class(tree):
    add_message(tree)
    run_in(tree, NEW_MESSAGE)


#: Where tests hold the table to what the reference was seen to send, and name every message by hand.
HELD = {"tests/core/test_registry.py", "tests/core/test_messages.py"}


def test_the_tests_that_a_new_message_fails_are_where_the_page_says(tree):
    """They fail on purpose. No other test of what is derived from the table knows the messages by name."""
    assert all(f"`{name}`" in CARRY_ON.read_text() for name in HELD)
    add_message(tree)
    shutil.copytree(ROOT / "tests", tree.parent / "tests", ignore=shutil.ignore_patterns("__pycache__", "vm", "client"))
    names = ("registry", "messages", "state", "codec", "events", "testing_strategies")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf", "--rootdir", str(tree.parent)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(tree.parent)))}
    done = subprocess.run(
        [*line, *(f"tests/core/test_{name}.py" for name in names)],
        cwd=tree.parent, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    failed = set(re.findall(r"^FAILED ([^:]+)::", done.stdout, re.MULTILINE))
    assert failed == HELD, done.stdout + done.stderr


NEW_TRANSPORT = """

import asyncio, threading, trio
import stereos_proto
from stereos_proto_io import ConnectError, blocking, parse_address
from stereos_proto_io import asyncio as on_asyncio, trio as on_trio
from stereos_proto_io.cli import main as stereosctl
from stereos_proto_io.testing import simulated_guest

print(stereos_proto.__file__)
assert parse_address("mux:///tmp/a%20b") == Mux("/tmp/a b")
assert parse_address("fd://3") == Fd(3)

def copy(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.close()

def serve(listener, port, answer, times):
    for _ in range(times):
        host, _ = listener.accept()
        assert host.recv(6, socket.MSG_WAITALL) == b"HELLO\\n"
        guest = socket.create_connection(("127.0.0.1", port))
        host.sendall(answer)
        threading.Thread(target=copy, args=(guest, host), daemon=True).start()
        threading.Thread(target=copy, args=(host, guest), daemon=True).start()

def multiplexer(path, port, answer, times):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=serve, args=(listener, port, answer, times), daemon=True).start()
    return Mux(path)

async def ping_asyncio(address):
    async with on_asyncio.connect(address) as client:
        return await client.ping()

async def ping_trio(address):
    async with on_trio.connect(address) as client:
        return await client.ping()

with simulated_guest() as guest:
    address = multiplexer("./good", guest.address.port, b"READY\\n", 4)
    descriptor = lambda: Fd(socket.create_connection(("127.0.0.1", guest.address.port)).detach())
    for place in (lambda: address, descriptor):
        with blocking.connect(place()) as client:
            assert client.ping()
        assert asyncio.run(ping_asyncio(place()))
        assert trio.run(ping_trio, place())
    assert stereosctl(["ping", str(address)]) == 0
    try:
        blocking.connect(multiplexer("./bad", guest.address.port, b"WHAT?\\n", 1))
    except ConnectError as exc:
        assert "did not say READY" in str(exc)
    else:
        raise AssertionError
"""


def test_a_new_transport(tree, monkeypatch):
    """Both are written outside the library, and nothing of it is touched."""
    # The path of a socket must be short.
    monkeypatch.chdir(tree.parent)
    run_in(tree, recipe("recipe-fd") + recipe("recipe-mux") + NEW_TRANSPORT)


NEW_DRIVER = """

import stereos_proto
from stereos_proto import Mount, NotReady, ProvisionPlan
from stereos_proto_io.testing import check_client, client_cases, simulated_guest

print(stereos_proto.__file__)

assert len(client_cases()) > 10
check_client(Client.connect)
with simulated_guest() as guest, Client.connect_when_ready(guest.address) as client:
    assert client.provision(ProvisionPlan([Mount("share0", "/workspace", "9p")], config="")).ok
    jobs = [gevent.spawn(client.ping) for _ in range(10)]
    gevent.joinall(jobs, raise_error=True)
    try:
        client.wait_ready(agents=["missing"], timeout=0.1)
    except NotReady as exc:
        assert exc.last_state == "ready"
    else:
        raise AssertionError
"""


def test_a_new_driver(tree):
    run_in(tree, recipe("recipe-driver") + NEW_DRIVER)
