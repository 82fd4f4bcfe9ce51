"""`make test-vm` on a machine that cannot have a guest: one line that says why, and the right exit status."""

import os
import platform
import re
import shutil
import subprocess

import pytest

from vm import image, parts, run


@pytest.fixture(autouse=True)
def _nothing_is_run(monkeypatch):
    """Neither apt nor the tests themselves, whatever is missing; and nothing is known from before."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: pytest.fail(f"{command} was run"))
    for part in (parts.programs, parts.kernel, parts.muxer):
        part.cache_clear()


def no_linux(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


def nothing_installed(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(parts, "_INSTALLED", {"qemu-system-x86": lambda: False, "busybox-static": lambda: True})


def no_apt(monkeypatch):
    nothing_installed(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: None)


def no_root(monkeypatch):
    nothing_installed(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def no_cache(monkeypatch):
    monkeypatch.setattr(parts, "programs", lambda: None)
    monkeypatch.setattr(parts, "CACHE", parts.ROOT / "pyproject.toml" / "vm")


@pytest.mark.parametrize(
    ("lack", "why", "in_ci"),
    [
        (no_linux, "guests are x86-64 Linux machines, and this is Darwin arm64", 0),
        (no_apt, "this system has no apt-get to install qemu-system-x86 with", 0),
        (no_root, "only root can install what is missing: apt-get install --no-install-recommends qemu-system-x86", 1),
        (no_cache, "this user may not write to pyproject.toml/vm, where the parts are kept", 1),
    ],
)
def test_why_there_are_no_guests(lack, why, in_ci, monkeypatch, capsys):
    lack(monkeypatch)
    assert run.main([]) == 0
    assert capsys.readouterr().err == f"make test-vm: SKIPPED, NOTHING WAS TESTED: {why}\n"
    monkeypatch.setenv("CI", "1")
    assert run.main([]) == in_ci
    assert why in capsys.readouterr().err


def test_the_page_names_the_test_of_each_fact():
    page = (parts.ROOT / "docs" / "real-machines.md").read_text()
    tests = {name for path in image.TESTS.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert set(re.findall(r"`(test_\w+)`", page)) == tests


class Ran:
    returncode = 0


@pytest.mark.parametrize(("missing", "in_ci"), [(parts.Impossible, 0), (parts.Unavailable, 1)])
def test_the_muxer_alone_may_be_missing(missing, in_ci, monkeypatch, capsys):
    """One whose suite has dropped it is missing everywhere; one that a mirror did not give could have been there."""
    ran = []
    monkeypatch.setattr(parts, "prepare", lambda: None)
    monkeypatch.setattr(image, "prepare", lambda: None)
    monkeypatch.setattr(parts, "missing_muxer", lambda: missing("that is why"))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command) or Ran())
    assert run.main([]) == 0
    assert capsys.readouterr().err == "make test-vm: HYBRID VSOCK IS SKIPPED: that is why\n"
    monkeypatch.setenv("CI", "1")
    assert run.main([]) == in_ci
    assert len(ran) == 2 - in_ci
