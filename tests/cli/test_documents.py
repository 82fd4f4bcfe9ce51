"""Every command that prints JSON: its documents for one guest, for many guests, and for a guest that is down."""

from __future__ import annotations

import base64
import inspect
import json

import attrs
import pytest

from cli.fleets import keep_guest, keep_state
from cli.test_commands import KEY, SCHEMA, check
from cli_harness import run_cli
from stereos_proto import AgentStatus, Ping, Pong, encode
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._tree import COMMANDS, make_app
from stereos_proto_io.testing import simulated_guest


@attrs.frozen
class Printed:
    """A command, and the definition that each of its documents fits.

    `@` stands for the guests, and a word that begins with `/` for a file of the test.
    """

    words: str
    #: For one guest.
    one: str
    #: For many guests, "" where it takes one only.
    many: str = "many"
    #: For one guest that is down.
    down: str = "error"
    stdin: bytes = b""
    #: `--jsonl` prints one document a line.
    flag: str = "--json"


DOCUMENTS = {
    "ping": Printed("ping @", "ping", down="ping"),
    "health": Printed("health @", "health"),
    "agents": Printed("agents @", "agents"),
    "wait": Printed("wait @ --timeout 2", "wait"),
    "watch": Printed("watch @ --timeout 0.5", "watch", many="watch", down="watch", flag="--jsonl"),
    "ls": Printed("ls", "ls", many="ls", down="ls"),
    "doctor": Printed("doctor @", "doctor", many="doctor_many", down="doctor"),
    "provision": Printed("provision /jcard.toml @ --timeout 2", "provision"),
    "mount": Printed("mount share0 //w @ --fs 9p", "given"),
    "config set": Printed("config set /jcard.toml @", "given"),
    "secret set": Printed("secret set TOKEN @", "given", stdin=b"a secret"),
    "ssh-key add": Printed("ssh-key add /key.pub @ --user agent", "given"),
    "shutdown": Printed("shutdown @", "shutdown"),
    "send": Printed("send ping @", "message", many=""),
    "replay": Printed("replay /recording @", "replay", many="", down="replay"),
    "decode": Printed("decode /recording", "decode", many="", down="decode", flag="--jsonl"),
    "conformance": Printed("conformance @", "conformance", many=""),
}
MANY = [name for name, printed in DOCUMENTS.items() if printed.many]


@pytest.fixture
def place(tmp_path):
    """A folder with files, with a machine of mb's for each guest of a test."""
    (tmp_path / "jcard.toml").write_text("name = 'x'\n")
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    lines = [
        {"meta": True},
        {"conn": 0, "ms": 0, "dir": "c2s", "b64": base64.b64encode(encode(Ping())).decode()},
        {"conn": 0, "ms": 1, "dir": "s2c", "b64": base64.b64encode(encode(Pong())).decode()},
    ]
    (tmp_path / "recording").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def documents(monkeypatch, place, name, *guests):
    """What the command prints of these guests: a list of documents, and its exit code."""
    printed = DOCUMENTS[name]
    words = []
    for word in printed.words.split():
        if word == "@":
            words += map(str, guests)
        else:
            words.append(word[1:] if word.startswith("//") else f"{place}{word}" if word[0] == "/" else word)
    result = run_cli(
        monkeypatch, *words, printed.flag, stdin=printed.stdin, env={"MB_CONFIG_DIR": str(place)}, columns=200
    )
    found = map(json.loads, result.out.splitlines()) if printed.flag == "--jsonl" else [json.loads(result.out)]
    return list(found), result


def check_each(found, name, definition):
    if name == "watch" and "error" in found[-1] and "event" not in found[-1]:
        # It ended because its time was up.
        check(found.pop(), "error")
    for document in found:
        check(document, definition)


def test_the_table_has_every_command_that_prints_json():
    app = make_app()
    with_json = set()
    for name in COMMANDS:
        command = app
        for word in name.split():
            command = command[word]
        names = {name for argument in command.assemble_argument_collection() for name in argument.names}
        if names & {"--json", "--jsonl"}:
            with_json.add(name)
    assert with_json == set(DOCUMENTS)
    takes_many = {
        name
        for name in DOCUMENTS
        if "Guests" in str(inspect.signature(_function(app, name)).parameters.get("guest", "")) or name == "ls"
    }
    assert takes_many == set(MANY)
    assert {printed.one for printed in DOCUMENTS.values()} <= set(SCHEMA["$defs"])


def _function(app, name):
    for word in name.split():
        app = app[word]
    return app.default_command


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_of_one_guest(name, place, monkeypatch):
    with simulated_guest(agents=[AgentStatus("coder", True)]) as guest:
        keep_guest(place, "a", guest.address)
        found, result = documents(monkeypatch, place, name, guest.address)
    assert result.code == (124 if name == "watch" else 0), result
    assert found
    check_each(found, name, DOCUMENTS[name].one)


@pytest.mark.parametrize("with_one_down", [False, True], ids=["up", "one down"])
@pytest.mark.parametrize("name", MANY)
def test_the_document_of_many_guests(name, with_one_down, place, monkeypatch):
    printed = DOCUMENTS[name]
    with simulated_guest() as guest, simulated_guest() as other:
        guests = [guest.address, UnixSocket(place / "nobody") if with_one_down else other.address]
        keep_guest(place, "a", guest.address)
        keep_state(place, "b", {"backend": "qemu", "vsock_port": 1 if with_one_down else other.address.port})
        found, result = documents(monkeypatch, place, name, *guests)
    assert found
    check_each(found, name, printed.many)
    if printed.many == "many":
        assert [each["guest"] for each in found[0]] == [str(address) for address in guests]
        assert [each["result"] is None for each in found[0]] == [False, with_one_down], result
        for each in found[0]:
            if each["result"] is not None:
                check(each["result"], printed.one)
    if printed.many == "doctor_many":
        assert [(each["guest"], each["ok"]) for each in found[0]] == [
            (str(guests[0]), True),
            (str(guests[1]), not with_one_down),
        ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_of_a_guest_that_is_down(name, place, monkeypatch):
    keep_state(place, "a", {"backend": "qemu", "vsock_port": 1})
    found, result = documents(monkeypatch, place, name, UnixSocket(place / "nobody"))
    assert found
    check_each(found, name, DOCUMENTS[name].down)
    assert result.code == {"ls": 0, "decode": 0, "watch": 124, "provision": 124, "wait": 124}.get(name, 3), result
