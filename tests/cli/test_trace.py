"""A guest tells what it was given before, or somewhere else: no command that knows these secrets shows them."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
from contextlib import contextmanager

import attrs
import pytest

from cli.fleets import keep_guest
from cli_harness import run_cli
from stereos_proto import Ack, AgentStatus, GetHealth, Health, InjectSecret, Lifecycle, Role, decode, encode
from stereos_proto_io import TCP
from stereos_proto_io.testing import simulated_guest

SECRET = "s3ntinel-value-1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= somebody"
JCARD = f"[secrets]\nTOKEN = '{SECRET}'\n"


class Tells(socketserver.StreamRequestHandler):
    """Quotes the secret in all that it sends: when a host connects, in a report, and in a refusal."""

    def handle(self):
        self.wfile.write(encode(Lifecycle("ready", f"pushed {SECRET}")))
        for line in self.rfile:
            self.wfile.write(encode(self.server.answer(decode(line.rstrip(b"\n"), sender=Role.HOST))))


def reports(request):
    if isinstance(request, GetHealth):
        return Health("ready", [AgentStatus("coder", running=False, error=f"agent {SECRET}")])
    return Ack(request.type, ok=False, error=f"refused {SECRET}")


def refuses(request):
    return Ack(request.type, ok=False, error=f"refused {SECRET}")


def boots(request):
    reply = reports(request)
    return attrs.evolve(reply, state="booting") if isinstance(reply, Health) else reply


@contextmanager
def telling(answer):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tells) as server:
        server.daemon_threads, server.answer = True, answer
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield TCP("127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def recording(path):
    """A recording with the secrets in it, on two connections."""
    lines = [{"meta": True}]
    for conn, message in ((0, InjectSecret("TOKEN", SECRET)), (1, GetHealth())):
        said = [("c2s", message), ("s2c", reports(message))]
        for way, each in said:
            text = base64.b64encode(encode(each)).decode()
            lines.append({"conn": conn, "ms": 0, "dir": way, "b64": text})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "jcard.toml").write_text(JCARD)
    (tmp_path / "plain.toml").write_text(f"# {SECRET}\n")
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    recording(tmp_path / "recording")
    return tmp_path


#: Commands that know the secret, and what is on their standard input.
KNOWING = {
    "provision": ("provision /jcard.toml", ""),
    "secret set": ("secret set TOKEN", SECRET),
    "config set": ("config set /plain.toml", ""),
    "send": ("send inject_secret -", json.dumps({"name": "TOKEN", "value": SECRET})),
    "replay": ("replay /recording", ""),
}


@pytest.mark.parametrize("flags", [["-v"], ["-v", "--json"], []], ids=["traced", "traced, json", "plain"])
@pytest.mark.parametrize("answer", [reports, refuses, boots])
@pytest.mark.parametrize(("command", "stdin"), KNOWING.values(), ids=KNOWING)
def test_what_a_command_knows_it_does_not_show(command, stdin, answer, flags, folder, monkeypatch):
    words = [f"{folder}{word}" if word.startswith("/") else word for word in command.split()]
    with telling(answer) as address:
        keep_guest(folder, "a", address)
        keep_guest(folder, "b", address)
        for guests in (["--vm", "a"], ["--vm", "a", "--vm", "b"]):
            if len(guests) > 2 and words[0] in ("send", "replay"):
                continue
            env = {"MB_CONFIG_DIR": str(folder)}
            result = run_cli(
                monkeypatch, *words, *guests, "--timeout", "0.5", *flags, stdin=stdin.encode(), env=env, tty=not flags
            )
            assert SECRET not in result.all, result
            assert "[redacted]" in result.all or "-v" not in flags, result


def test_a_second_try_redacts_what_the_first_one_has_sent(folder, monkeypatch):
    env = {"MB_CONFIG_DIR": str(folder)}
    with simulated_guest(faults=[f"deny:bad {SECRET}@inject_ssh_key"]) as guest:
        for name in "ab":
            keep_guest(folder, name, guest.address)
        for number, guests in enumerate((["--vm", "a"], ["--vm", "a", "--vm", "b"])):
            book = str(folder / f"book{number}")
            words = ("provision", str(folder / "jcard.toml"), "--ssh-key", str(folder / "key.pub"), *guests, "-v")
            first = run_cli(monkeypatch, *words, "--journal", book, env=env)
            second = run_cli(monkeypatch, *words, "--resume", book, env=env)
            for result in (first, second):
                assert (result.code, SECRET in result.all) == (1, False), result
                assert '"error":"bad [redacted]"' in result.err


def test_a_recording_with_secrets_is_shown_without_them(folder, monkeypatch):
    """Also where a guest quotes on one connection what it was sent on another one."""
    assert SECRET in run_cli(monkeypatch, "decode", str(folder / "recording"), "--keep-secrets").out
    for flags in ((), ("--jsonl",)):
        shown = run_cli(monkeypatch, "decode", str(folder / "recording"), *flags)
        assert "get_health" in shown.out
        assert SECRET not in shown.all
