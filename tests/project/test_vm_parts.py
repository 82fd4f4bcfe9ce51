"""`make test-vm` on a machine that cannot have a guest: one line that says why, and the right exit status."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vm import image, parts, run


class Became(Exception):
    """It would have become the tests."""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Neither apt nor the tests themselves are run, whatever is missing; nothing is known from before."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: pytest.fail(f"{command} was run"))
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    monkeypatch.setattr(parts, "CACHE", tmp_path / ".cache")
    monkeypatch.chdir(tmp_path)

    def become(*_args):
        raise Became

    monkeypatch.setattr(os, "execve", become)
    for part in (parts.qemu, parts.kernel, parts.muxer, parts._release):
        part.cache_clear()
    return parts.CACHE


def no_linux(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


def nothing_installed(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian", "NAME": "Debian"})
    monkeypatch.setattr(shutil, "which", lambda name: None)


def no_debian(monkeypatch):
    nothing_installed(monkeypatch)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "fedora", "NAME": "Fedora Linux"})


def no_name(monkeypatch):
    nothing_installed(monkeypatch)

    def missing():
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)


def says(status, out="", err=""):
    return lambda command, **_: subprocess.CompletedProcess(command, status, out, err)


def no_mirror(monkeypatch):
    nothing_installed(monkeypatch)
    lines = "W: some are old\nE: Failed to fetch https://mirror.invalid/x  Could not connect\n"
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: says(100 if "update" in command else 0, err=lines)(command)
    )


def no_apt(monkeypatch):
    nothing_installed(monkeypatch)

    def missing(*_args, **_kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)


def no_cache(monkeypatch):
    nothing_installed(monkeypatch)
    parts.CACHE.write_text("in the way")


@pytest.mark.parametrize(
    ("lack", "why", "in_ci"),
    [
        (no_linux, "guests are x86-64 Linux machines, and this is Darwin arm64", 0),
        (no_debian, "its parts are packages of Debian, and this is Fedora Linux", 0),
        (no_name, "its parts are packages of Debian, and this is another Linux", 0),
        (no_apt, "this system has no apt-get, which Debian has", 1),
        (no_mirror, "`apt-get update -qq` failed: E: Failed to fetch the mirror  Could not connect", 1),
        (no_cache, "this user may not write to .cache, where the parts are kept", 1),
    ],
)
def test_why_there_are_no_guests(lack, why, in_ci, monkeypatch, capsys):
    """One line, below what is being done; an error in CI where a machine of this kind could have had it."""
    lack(monkeypatch)
    assert run.main([]) == 0
    *doing, line = capsys.readouterr().err.splitlines()
    assert line == f"make test-vm: SKIPPED, NOTHING WAS TESTED: {why}"
    assert all(before.startswith("make: getting ") for before in doing)
    monkeypatch.setenv("CI", "1")
    assert run.main([]) == in_ci
    assert why in capsys.readouterr().err


def test_a_source_that_is_not_debians_may_be_away(monkeypatch):
    nothing_installed(monkeypatch)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: says(100 if "update" in command else 0, out="a-mirror\n")(command)
    )
    assert parts._mirrors(parts._release()) == ["a-mirror"]


def test_a_part_is_there_as_a_whole_or_not_at_all(cache):
    """What a run that was killed, or failed, left behind is gone when the next one makes the same part."""

    def fail(folder):
        (folder / "half").touch()
        raise parts.Unavailable("no")

    with pytest.raises(parts.Unavailable):
        parts.kept("part", fail)
    assert not (cache / "part").exists()
    (cache / "drafts" / "part" / "deep").mkdir(parents=True)
    folder = parts.kept("part", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert parts.kept("part", lambda _folder: pytest.fail("it is there")) == folder


def test_one_run_at_a_time_makes_a_part(cache, monkeypatch, capsys):
    """The other one waits, says so, and takes what it finds."""
    cache.mkdir()
    holder = (cache / "lock").open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)

    def other_run_is_done(said):
        assert "another run is getting the parts" in said
        (cache / "part").mkdir()
        holder.close()

    monkeypatch.setattr(parts, "say", other_run_is_done)
    assert parts.kept("part", lambda _folder: pytest.fail("it is there")) == cache / "part"


def test_no_host_is_named_and_no_folder_of_this_machine():
    """Neither where packages come from nor where anything is here stands in the files of this room."""
    here = Path(__file__).parents[1]
    files = [*(here / "vm").rglob("*.py"), here / "vm" / "guest" / "init", here.parent / "docs" / "real-machines.md"]
    for file in files:
        text = file.read_text()
        assert not re.search(r"https?://|\b(deb|security|ftp)\.debian\.org|/work/|/home/(?!admin|agent|\{)", text), file


def test_the_page_names_the_test_of_each_fact():
    page = (Path(__file__).parents[2] / "docs" / "real-machines.md").read_text()
    tests = {name for path in image.TESTS.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert set(re.findall(r"`(test_\w+)`", page)) == tests


@pytest.mark.parametrize(("missing", "in_ci"), [(parts.Impossible, 0), (parts.Unavailable, 1)])
def test_the_muxer_alone_may_be_missing(missing, in_ci, monkeypatch, capsys):
    """One whose suite has dropped it is missing everywhere; one that a mirror did not give could have been there."""
    monkeypatch.setattr(parts, "prepare", lambda: None)
    monkeypatch.setattr(image, "prepare", lambda: None)
    monkeypatch.setattr(parts, "missing_muxer", lambda: missing("that is why"))
    with pytest.raises(Became):
        run.main([])
    assert capsys.readouterr().err == "make test-vm: HYBRID VSOCK IS SKIPPED: that is why\n"
    monkeypatch.setenv("CI", "1")
    if in_ci:
        assert run.main([]) == 1
    else:
        with pytest.raises(Became):
            run.main([])
