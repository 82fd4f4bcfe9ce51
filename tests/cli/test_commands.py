"""Every command, over every kind of address, in a terminal and in pipes; and its JSON against its schema."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import jsonschema
import pytest

from cli_harness import plain, run_cli
from stereos_proto import AgentStatus
from stereos_proto_io import TCP, HybridVsock, UnixSocket, VirtioSerial
from stereos_proto_io.cli._tree import COMMANDS, GROUPS, make_app
from stereos_proto_io.testing import simulated_guest

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "cli-json-schema.json").read_text())
AGENTS = (AgentStatus("coder", True, "main"), AgentStatus("reviewer", True, "side", restarts=2))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= somebody"
JCARD = """
[[shared]]
host = "."
guest = "/workspace"
[secrets]
TOKEN = "${CLI_TOKEN}"
[[agents]]
name = "coder"
harness = "claude-code"
"""


@attrs.frozen
class Case:
    """A command: its arguments (`@` is the guest's address, `/` a folder with files), and what it shows."""

    arguments: str
    shows: str
    schema: str = ""
    stdin: bytes = b""
    code: int = 0


CASES = {
    "ping": Case("ping @", "pong from", "ping"),
    "ping often": Case("ping @ -c 3 -i 0.001", "min/avg/max", "ping"),
    "health": Case("health @", "2 of 2 agents running", "health"),
    "health, named": Case("health --address @", "reviewer", "health"),
    "agents": Case("agents @", "coder", "agents"),
    "wait": Case("wait @", "healthy", "wait"),
    "wait for an agent": Case("wait @ --for agent=coder --for agent=reviewer", "healthy", "wait"),
    "wait for both": Case("wait @ --for state=healthy --for agent=coder", "healthy", "wait"),
    "config set": Case("config set /plain.toml @", "✓ config", "given"),
    "config set from stdin": Case("config set - @", "✓ config", "given", stdin=b"name = 'x'"),
    "secret set": Case("secret set TOKEN @", "✓ secret TOKEN", "given", stdin=b"a secret\n"),
    "secret set from a file": Case("secret set TOKEN @ --file /secret", "✓ secret TOKEN", "given"),
    "secret set from the environment": Case("secret set TOKEN @ --env CLI_TOKEN", "✓ secret TOKEN", "given"),
    "ssh-key add": Case("ssh-key add /key.pub @ --user agent", "✓ SSH key of agent", "given"),
    "mount": Case("mount share0 /w @ --fs 9p --read-only", "✓ mount share0 at", "given"),
    "provision": Case("provision /jcard.toml @ --ssh-key /key.pub", "✓ secret TOKEN", "provision"),
    "provision, dry": Case("provision /jcard.toml @ --dry-run", "– mount share0 at /workspace", "provision"),
    "send": Case("send ping @", "pong", "message"),
    "send for a report": Case("send get_health @", "2 of 2 agents running", "message"),
    "send with a payload": Case('send mount {"tag":"a","guest_path":"/x","fs_type":"9p"} @', "✓ mount", "message"),
    "send a custom one": Case(
        "send nothing {} @", "✗ nothing  refused: unknown message type: nothing", "message", code=1
    ),
    "doctor": Case("doctor @", "✓ probe", "doctor"),
    "conformance": Case("conformance @", "✓ §", "conformance"),
    "shutdown": Case("shutdown @", "powers off", "shutdown"),
    "shutdown and wait": Case("shutdown @ --wait", "the guest is gone", "shutdown"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plain.toml").write_text("name = 'x'\n")
    (tmp_path / "jcard.toml").write_text(JCARD)
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    (tmp_path / "secret").write_text("from a file")
    return tmp_path


#: Every kind of address that a guest can be simulated at.
PLACES = {
    "tcp": lambda _path: TCP("127.0.0.1", 0),
    "unix": UnixSocket,
    "serial": VirtioSerial,
    "hvsock": HybridVsock,
}


@pytest.fixture(params=PLACES)
def guest(request, tmp_path):
    address = PLACES[request.param](tmp_path / "g")
    with simulated_guest(address, agents=AGENTS, poll_interval=0.001) as guest:
        yield guest


def words(case: Case, address: object, folder: Path) -> list[str]:
    return [
        str(address) if word == "@" else f"{folder}{word}" if word.startswith("/") and word != "/w" else word
        for word in case.arguments.split()
    ]


@pytest.mark.parametrize("tty", [True, False], ids=["terminal", "pipes"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_command_shows_its_result(case, tty, guest, folder, monkeypatch):
    arguments = words(case, guest.address, folder)
    result = run_cli(
        monkeypatch, *arguments, tty=tty, stdin=case.stdin, env={"CLI_TOKEN": "from-the-environment"}, columns=250
    )  # wide: the path of the address may be long
    assert (result.code, case.shows in plain(result.out)) == (case.code, True), result
    assert ("\x1b[" in result.all) <= tty


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.schema], ids=lambda case: case.arguments)
def test_json_is_one_document_that_fits_its_schema(case, guest, folder, monkeypatch):
    arguments = [*words(case, guest.address, folder), "--json"]
    result = run_cli(monkeypatch, *arguments, tty=True, stdin=case.stdin, env={"CLI_TOKEN": "from-the-environment"})
    assert result.code == case.code
    assert "\x1b" not in result.out, "not even a terminal gets colours in JSON"
    check(json.loads(result.out), case.schema)


def check(document, name):
    schema = {"$schema": SCHEMA["$schema"], "$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]}
    jsonschema.validate(document, schema)


def test_the_schema_describes_what_is_there_and_nothing_more():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, definition in SCHEMA["$defs"].items():
        if definition.get("type") == "object":
            assert definition["additionalProperties"] is False, name
            assert set(definition["required"]) == set(definition["properties"]), name


def test_what_was_given_arrives(folder, monkeypatch):
    with simulated_guest() as guest:
        at = str(guest.address)
        for arguments, stdin in (
            (("secret", "set", "PIPED", at, "--mode", "0400"), b"two\nlines\n"),
            (("secret", "set", "FILED", at, "--file", str(folder / "secret")), b""),
            (("ssh-key", "add", str(folder / "key.pub"), at, "--user", "admin"), b""),
            (("mount", "share7", "/data", at, "--fs", "virtiofs", "--read-only"), b""),
            (("config", "set", "-", at), b"name = 'given'"),
            (("shutdown", at, "--reason", "enough"), b""),
        ):
            assert run_cli(monkeypatch, *arguments, stdin=stdin).code == 0
        simulator = guest.simulator
    assert (simulator.secrets["PIPED"].value, simulator.secrets["PIPED"].mode) == ("two\nlines", 0o400)
    assert simulator.secrets["FILED"].value == "from a file"
    assert simulator.ssh_keys == {"admin": f"{KEY}\n"}
    assert simulator.config == "name = 'given'"
    assert simulator.shutdown_reason == "enough"
    mount = next(request for request in simulator.requests if request.type == "mount")
    assert (mount.tag, mount.guest_path, mount.fs_type, mount.read_only) == ("share7", "/data", "virtiofs", True)


def test_a_config_with_secrets_is_not_sent(folder, monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "config", "set", str(folder / "jcard.toml"), str(guest.address))
        assert result.code == 2
        assert "stereosctl provision" in result.err
        assert guest.simulator.requests == ()


def test_a_private_key_is_not_sent(tmp_path, monkeypatch):
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret-part\n")
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "ssh-key", "add", str(tmp_path / "id"), str(guest.address), "--user", "agent")
        assert result.code == 2
        assert "secret-part" not in result.all
        assert guest.simulator.requests == ()


def test_the_address_may_come_from_the_environment(monkeypatch):
    with simulated_guest() as guest:
        assert run_cli(monkeypatch, "ping", env={"STEREOS_ADDRESS": str(guest.address)}).code == 0


def test_an_address_that_was_typed_is_meant_and_not_that_of_the_environment(monkeypatch):
    with simulated_guest() as guest, simulated_guest(agents=AGENTS) as other:
        env = {"STEREOS_ADDRESS": str(guest.address)}
        assert "coder" in run_cli(monkeypatch, "health", str(other.address), env=env).out
        result = run_cli(monkeypatch, "send", "get_health", str(other.address), env=env)
        assert (result.code, "coder" in result.out) == (0, True), result


@pytest.mark.parametrize("source", ["stdin", "a file", "the environment"])
def test_an_empty_secret_is_not_sent(source, tmp_path, monkeypatch):
    (tmp_path / "empty").touch()
    options = {"stdin": [], "a file": ["--file", str(tmp_path / "empty")], "the environment": ["--env", "EMPTY"]}
    with simulated_guest() as guest:
        words = ("secret", "set", "TOKEN", str(guest.address), *options[source])
        result = run_cli(monkeypatch, *words, stdin=b"\n", env={"EMPTY": ""})
        assert (result.code, "is empty" in result.err) == (2, True), result
        assert guest.simulator.requests == ()


def test_a_private_key_is_not_provisioned(folder, monkeypatch):
    (folder / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret-part\n")
    with simulated_guest() as guest:
        words = ("provision", str(folder / "plain.toml"), str(guest.address), "--ssh-key", str(folder / "id"))
        result = run_cli(monkeypatch, *words)
        assert (result.code, "is a private key" in result.err) == (2, True), result
        assert guest.simulator.requests == ()


def test_many_pings_have_their_time_each(monkeypatch):
    monkeypatch.setattr("stereos_proto_io.cli._commands_ask.WAIT_SECONDS", 0.01)
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "ping", str(guest.address), "-c", "5", "-i", "0.01")
    assert (result.code, result.out.count("pong")) == (0, 5), result


def test_a_guest_that_still_answers_is_not_gone(monkeypatch):
    with simulated_guest() as guest:
        guest.simulator.state = "shutdown"
        result = run_cli(monkeypatch, "wait", str(guest.address), "--for", "shutdown", "--timeout", "0.5")
    assert (result.code, "is still there (" in result.err) == (124, True), result


def test_whoever_waits_for_the_state_shutdown_sees_it(monkeypatch):
    with simulated_guest() as guest:
        guest.simulator.state = "shutdown"
        result = run_cli(monkeypatch, "wait", str(guest.address), "--for", "state=shutdown")
    assert (result.code, "  shutdown  up" in result.out) == (0, True), result


def test_colour_obeys_no_color(guest, monkeypatch):
    colours = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[1;32m"]
    with_colour = run_cli(monkeypatch, "health", str(guest.address), tty=True).out
    without = run_cli(monkeypatch, "health", str(guest.address), tty=True, env={"NO_COLOR": "1"}).out
    assert any(colour in with_colour for colour in colours)
    assert not any(colour in without for colour in colours)


def test_progress_is_on_stderr(monkeypatch):
    guests = []
    # Its time is the number of requests, so the first one finds it booting, however busy this machine is.
    with simulated_guest(boot_time=2, clock=lambda: float(len(guests and guests[0].simulator.requests))) as guest:
        guests.append(guest)
        result = run_cli(monkeypatch, "wait", str(guest.address))
    assert "booting" in result.err
    assert result.out.count("\n") == 1


@pytest.mark.parametrize("char", ["\x1b[2J", "\x07", "\x9b", "\u202e", "\n"])
def test_a_guest_cannot_steer_the_terminal(char, monkeypatch):
    with simulated_guest(agents=[AgentStatus(f"a{char}b", True, f"s{char}", error=char)]) as guest:
        for command in ("health", "agents"):
            result = run_cli(monkeypatch, command, str(guest.address))
            assert char == "\n" or char not in result.out
            assert f"a{char.encode('unicode_escape').decode()}b" in result.out


def test_the_table_of_commands_says_what_the_commands_say():
    app = make_app()
    for name, (_, summary, _) in COMMANDS.items():
        command = app
        for word in name.split():
            command = command[word]
        assert command.help.splitlines()[0] == summary, name
        assert "For example:\n\n" in command.help, name
        assert f"stereosctl {name}" in command.help, name
    assert {name.split()[0] for name in COMMANDS if " " in name} == set(GROUPS)


@pytest.mark.parametrize("name", ["", *COMMANDS, *GROUPS])
def test_help_of_each_command(name, monkeypatch):
    result = run_cli(monkeypatch, *name.split(), "--help")
    assert result.code == 0
    assert "Usage: stereosctl" in result.out
    assert name in GROUPS or "For example:" in result.out
    examples = [line for line in result.out.splitlines() if line.startswith("    stereosctl")]
    assert all(len(line) <= 80 for line in examples), "an example is to be copied from the narrowest terminal"
    assert all(f"stereosctl {name}" in line for line in examples)
    assert all(len(line) <= 100 for line in result.out.splitlines())


@pytest.mark.parametrize("columns", [60, 250])
def test_help_fits_every_terminal(columns, monkeypatch):
    out = run_cli(monkeypatch, "conformance", "--help", columns=columns, env={"COLUMNS": str(columns)}).out
    assert all(len(line) <= columns for line in out.splitlines())
    assert ("left out unless they are allowed. Exit code 1 when one fails." in out) == (columns == 250)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_option_does_is_one_paragraph(name, monkeypatch):
    """The help keeps the newlines of a docstring: on a terminal that is wide enough, each option has one line."""
    out = run_cli(monkeypatch, *name.split(), "--help", columns=500, env={"COLUMNS": "500"}).out
    assert [line for line in out.splitlines() if line.startswith("│" + " " * 10)] == []


@pytest.mark.parametrize("command", ["health", "agents"])
def test_a_row_is_a_line_in_a_pipe(command, monkeypatch):
    long = [AgentStatus("a" * 70, True, "b" * 70, error="c " * 100), AgentStatus("d", True, error="e")]
    with simulated_guest(agents=long) as guest:
        out = run_cli(monkeypatch, command, str(guest.address), columns=80).out
    row = next(line for line in out.splitlines() if line.startswith("aaa"))
    assert "b" * 70 in row
    assert row.count("c ") == 100
