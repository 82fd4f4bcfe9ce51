"""Texts that are not UTF-8: refused with the name of the argument, before a guest is asked, and never shown."""

from __future__ import annotations

import json
import os

import pytest

from cli.test_commands import check
from cli_harness import plain, run_cli, run_process, terminal
from stereos_proto_io import UnixSocket
from stereos_proto_io.testing import simulated_guest

#: How Python has b"s3nt\\xffinel" on the command line and in the environment.
BAD = os.fsdecode(b"s3nt\xffinel")
KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQ= x\n"

#: A command, what it reads, and what is called not to be UTF-8.
REFUSED = {
    "a tag": ("mount BAD /x @ --fs 9p", b"", "TAG"),
    "a path": ("mount x /BAD @ --fs 9p", b"", "PATH"),
    "the name of a secret": ("secret set BAD @", b"value", "NAME"),
    "a secret of the environment": ("secret set A --env VALUE @", b"", "the value of the secret"),
    "a user": ("ssh-key add - --user BAD @", KEY, "--user"),
    "the user of a provisioning": ("provision JCARD @ --user BAD", b"", "--user"),
    "a reason": ("shutdown @ --reason BAD", b"", "--reason"),
    "a type": ("send BAD @", b"", "TYPE"),
    "a payload": ('send rotate {"a":"BAD"} @', b"", "PAYLOAD"),
    "an agent to wait for": ("wait @ --for agent=BAD", b"", "--for"),
    "an agent to simulate": ("simulate --agent BAD", b"", "--agent"),
    "a fault to simulate": ("simulate --fault fail:BAD@ping", b"", "--fault"),
}


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["plain", "json"])
@pytest.mark.parametrize(("command", "stdin", "called"), REFUSED.values(), ids=REFUSED)
def test_a_text_that_is_not_utf_8_is_refused_by_its_name(command, stdin, called, flags, tmp_path, monkeypatch):
    jcard = tmp_path / "j.toml"
    jcard.write_text("[secrets]\n")
    flags = flags * (not command.startswith("simulate"))
    with simulated_guest() as guest:
        words = [word.replace("JCARD", str(jcard)).replace("BAD", BAD) for word in command.split()]
        words = [str(guest.address) if word == "@" else word for word in words]
        result = run_cli(monkeypatch, *words, *flags, stdin=stdin, env={"VALUE": BAD})
        assert guest.simulator.requests == ()
    sentence = f"{called} is not UTF-8, and nothing else can be sent to a guest; write it in UTF-8"
    assert (result.code, result.err) == (2, f"stereosctl: {sentence}\n")
    assert "s3nt" not in result.all
    if flags:
        document = json.loads(result.out)
        check(document, "error")
        assert (document["kind"], document["sent"]) == ("UsageError", False)


def test_a_variable_that_is_not_utf_8_is_named_with_its_line(tmp_path, monkeypatch):
    jcard = tmp_path / "j.toml"
    jcard.write_text('[secrets]\nA = "${VALUE}"\n')
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "provision", str(jcard), str(guest.address), env={"VALUE": BAD})
        assert guest.simulator.requests == ()
    assert result.code == 2
    assert "line 2: secrets.A needs the environment variable VALUE, which is not UTF-8" in plain(result.err)
    assert "s3nt" not in result.all


@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "en_US.UTF-8"])
def test_what_is_typed_need_not_be_utf_8(locale, tmp_path):
    env = {"LC_ALL": locale, "PYTHONIOENCODING": "utf-8:strict", "XDG_STATE_HOME": str(tmp_path)}
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        with terminal("secret", "set", "NAME", str(guest.address), env=env, columns=200) as it:
            it.wait_for("(not shown): ")
            os.write(it._master, b"s3nt\xffinel\n")
            assert it.end() == 2
        assert guest.simulator.requests == ()
        assert "the value of the secret is not UTF-8" in plain(it.seen)
        assert "s3nt" not in it.seen
        assert "Traceback" not in it.seen
        lines = b"mount s3nt\xffinel /x --fs 9p\nping\n"
        piped = run_process("shell", str(guest.address), stdin=lines, env=env)
    assert (piped.code, "pong" in piped.out) == (0, True)
    assert piped.err == "stereosctl: TAG is not UTF-8, and nothing else can be sent to a guest; write it in UTF-8\n"


def test_the_name_of_a_file_may_be_any_bytes(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"s\xff.ndjson")
    path.write_bytes(b'{"type":"ping"}\n')
    result = run_cli(monkeypatch, "decode", str(path))
    assert (result.code, result.out) == (0, '→ {"type":"ping"}\n')
