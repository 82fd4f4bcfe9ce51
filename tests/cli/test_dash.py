"""`-` is standard input where a file or a payload is named, and the text `-` everywhere else."""

from __future__ import annotations

import pytest

from cli_harness import run_cli
from stereos_proto_io.testing import simulated_guest

KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= somebody\n"


def test_a_text_that_is_a_dash_is_sent_as_it_is(monkeypatch):
    with simulated_guest(users=["-"]) as guest:
        address = str(guest.address)
        for words, stdin in (
            (("mount", "-", "/-", address, "--fs", "9p"), b""),
            (("mount", "share", "-", address, "--fs", "9p"), b""),
            (("ssh-key", "add", "-", address, "--user", "-"), KEY),
            (("secret", "set", "-", address), b"a value"),
            (("shutdown", address, "--reason", "-", "-v"), b""),
        ):
            result = run_cli(monkeypatch, *words, stdin=stdin)
            assert "<stdin>" not in result.all, words
        simulator = guest.simulator
        assert simulator.shutdown_reason == "-"
        assert [(each.tag, each.guest_path) for each in simulator.requests if each.type == "mount"] == [
            ("-", "/-"),
            ("share", "-"),
        ]
        assert [each.user for each in simulator.requests if each.type == "inject_ssh_key"] == ["-"]
        assert [each.name for each in simulator.requests if each.type == "inject_secret"] == ["-"]


def test_a_payload_that_is_a_dash_is_read_from_standard_input(monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "send", "shutdown", "-", str(guest.address), stdin=b'{"reason":"read"}')
        assert (result.code, guest.simulator.shutdown_reason) == (0, "read"), result


@pytest.mark.parametrize(
    "words",
    [
        ["-"],
        ["ping", "-"],
        ["ping", "--vm", "-"],
        ["ping", "-c", "-"],
        ["ping", "a", "-c", "-"],
        ["mount", "a", "/b", "--fs", "-"],
        ["wait", "--for", "-"],
        ["simulate", "--fault", "-"],
        ["watch", "--sort", "-"],
        ["health", "-o", "-"],
        ["health", "--state", "-", "tcp://127.0.0.1:1"],
    ],
)
def test_an_error_repeats_a_dash_as_it_was_typed(words, monkeypatch, tmp_path):
    result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
    assert result.code in (2, 3), result
    assert "<stdin>" not in result.all
