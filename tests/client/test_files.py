"""A jcard.toml on disk."""

import pytest

from core.test_jcard import ENV, SENTINEL, everything
from stereos_proto import InjectSecret, InjectSSHKey, JcardError, Mount
from stereos_proto_io import read_jcard


@pytest.fixture
def card(tmp_path):
    return tmp_path / "jcard.toml"


def refusal(path):
    with pytest.raises(JcardError) as caught:
        read_jcard(path, env=ENV)
    assert SENTINEL not in everything(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_becomes_a_plan(card, kind):
    card.write_bytes("# é\r\n[[shared]]\r\nguest='/a'\r\n[secrets]\r\nA='${X}'".encode())
    keys = (InjectSSHKey("admin", "ssh-ed25519 AAAA"),)
    plan = read_jcard(kind(card), env=ENV, fs_type="virtiofs", ssh_keys=keys)
    assert plan.config == "# é\r\n[[shared]]\r\nguest='/a'\r\n"
    assert plan.mounts == (Mount("share0", "/a", "virtiofs"),)
    assert plan.secrets == (InjectSecret("A", ENV["X"]),)
    assert plan.ssh_keys == keys


def test_a_missing_file(card):
    error = refusal(card)
    assert str(error) == f"{card}: cannot be read: No such file or directory"
    assert isinstance(error.__cause__, FileNotFoundError)
    assert (error.line, error.key) == (0, "")


def test_a_folder(tmp_path):
    assert str(refusal(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_name_that_no_file_can_have():
    with pytest.raises(JcardError, match="cannot be read"):
        read_jcard("a\0b", env={})


def test_what_is_not_utf8(card):
    card.write_bytes(f"[secrets]\nA='{SENTINEL}'\n".encode() + b"B='\xff'")
    error = refusal(card)
    assert str(error) == f"{card}, line 3: not UTF-8"
    assert error.line == 3


def test_what_is_wrong_inside(card):
    card.write_text(f"[secrets]\nA='{SENTINEL}${{NOPE}}'")
    error = refusal(card)
    assert str(error) == f"{card}, line 2: secrets.A needs the environment variable NOPE, which is not set"
