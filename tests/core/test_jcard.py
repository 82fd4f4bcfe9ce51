"""`load_jcard` itself: what it refuses, and what it keeps out of errors. For the plan see `test_jcard_plan`."""

import datetime
import subprocess
import sys

import pytest

from core.test_jcard_plan import AGENT, ENV, everything
from stereos_proto import JcardError, load_jcard
from tomls import SENTINEL


def test_a_file_becomes_a_plan():
    plan = load_jcard(f"name = 'box'\n{AGENT}", env={}, fs_type="virtiofs")
    assert "box" in plan.config
    assert plan.agents == ("custom",)


def test_a_program_that_reads_no_jcard_loads_no_reader_of_toml():
    program = [sys.executable, "-c", "import stereos_proto, sys; print(*sys.modules)"]
    loaded = set(subprocess.run(program, capture_output=True, check=True, text=True).stdout.split())
    assert "stereos_proto._jcard" in loaded
    assert not loaded & {"tomllib", "tomli_w", "pickle", "stereos_proto._toml", "stereos_proto._jcard_plan"}


def test_a_fault_of_the_callers_reader_shows_no_secret():
    def broken(_path):
        raise LookupError("broken")

    with pytest.raises(LookupError) as caught:
        load_jcard(f"[secrets]\nA='{SENTINEL}'\n{AGENT}prompt_file='x'", env=ENV, read_prompt=broken)
    assert SENTINEL not in everything(caught.value)


@pytest.mark.parametrize("fs_type", ["ext4", "", "9P", None])
def test_a_type_of_file_system_that_no_guest_mounts(fs_type):
    with pytest.raises(ValueError, match=r"^fs_type must be 9p or virtiofs, not "):
        load_jcard("[[shared]]\nhost='.'\nguest='/w'", env={}, fs_type=fs_type)


@pytest.mark.parametrize("text", [SENTINEL.encode(), None, datetime.date(2020, 1, 1)])
def test_the_text_must_be_text(text):
    with pytest.raises(TypeError, match="must be a str") as caught:
        load_jcard(text, env=ENV)
    assert SENTINEL not in everything(caught.value)


def test_keys_must_be_keys():
    with pytest.raises(TypeError, match="InjectSSHKey") as caught:
        load_jcard(f"name = '{SENTINEL}'", env=ENV, ssh_keys=["ssh-ed25519 AAAA"])
    assert SENTINEL not in everything(caught.value)


@pytest.mark.parametrize("options", [{"fs_type": "nfs"}, {}])
def test_no_frame_of_an_error_holds_the_text(options, monkeypatch):
    class Interrupted:
        def find_spec(self, name, path, target=None):
            if name == "stereos_proto._jcard_plan":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "stereos_proto._jcard_plan")
    with pytest.raises((KeyboardInterrupt, ValueError)) as caught:
        load_jcard(f"[secrets]\nA='{SENTINEL}'", env={"B": SENTINEL}, **options)
    assert SENTINEL not in everything(caught.value)


def test_a_reader_that_refuses_without_a_word():
    def read(_path):
        raise ValueError

    plan = load_jcard(f"{AGENT}prompt_file='p'", env={}, read_prompt=read)
    assert "(ValueError)" in plan.warnings[0]


def test_what_only_the_reference_refuses_is_an_error_unless_told_otherwise():
    text = "[[agents]]\nharness='mine'"
    with pytest.raises(JcardError, match="harness must be one of"):
        load_jcard(text, env={})
    assert load_jcard(text, env={}, strict=False).warnings
