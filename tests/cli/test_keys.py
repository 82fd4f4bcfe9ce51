"""A public key is looked at before it is sent: what no guest would take is refused here."""

from __future__ import annotations

import pytest

from cli_harness import run_cli
from stereos_proto_io.testing import simulated_guest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= somebody"
NO_KEYS = {
    "a text": "hello, this is any text\n",
    "nothing": "",
    "a type without a key": "ssh-ed25519\n",
    "a type that no guest knows": "ssh-dss AAAAB3NzaC1kc3M= somebody\n",
    "options before the key": f"no-pty {KEY}\n",
}
COMMANDS = ["provision JCARD --ssh-key FILE", "ssh-key add FILE --user admin", "ssh-key add - --user admin"]


@pytest.mark.parametrize("text", NO_KEYS.values(), ids=NO_KEYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_public_key_is_not_sent(command, text, tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text('[[shared]]\nhost = "."\nguest = "/data"\n')
    (tmp_path / "key").write_text(text)
    places = {"JCARD": str(tmp_path / "j.toml"), "FILE": str(tmp_path / "key")}
    words = [places.get(word, word) for word in command.split()]
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, *words, str(guest.address), stdin=text.encode())
        assert guest.simulator.requests == ()
    name = "standard input" if "-" in words else str(tmp_path / "key")
    said = f"stereosctl: {name} is no public key: it has to begin with a type"
    if not text and "-" in words:
        said = "stereosctl: cannot read standard input: it is empty, or closed"
    assert (result.code, result.out, result.err.startswith(said)) == (2, "", True), result


def test_a_guest_of_another_make_may_take_it(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    (tmp_path / "key").write_text("ssh-dss AAAAB3NzaC1kc3M= somebody\n")
    with simulated_guest() as guest:
        words = ("provision", str(tmp_path / "j.toml"), "--ssh-key", str(tmp_path / "key"), str(guest.address))
        result = run_cli(monkeypatch, *words, "--no-strict")
        assert "inject_ssh_key" in [request.type for request in guest.simulator.requests]
    assert f"{tmp_path}/key is no public key: " in result.err
    assert result.code == 1, "the guest refuses it"
    assert "invalid SSH public key format" in result.out
