"""What the Makefile needs of the machine is said in one line where it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A Python in the words of a shell: what it answers to the three questions that it is asked.
PYTHON = """#!/bin/sh
case "$2" in
*print*) {version} ;;
*sys.exit*) exit {too_old} ;;
*ensurepip*) exit {no_venv} ;;
esac
"""


def make(tmp_path, *, version="echo 3.11", too_old=0, no_venv=0):
    python = tmp_path / "python3"
    python.write_text(PYTHON.format(version=version, too_old=too_old, no_venv=no_venv))
    python.chmod(0o755)
    return subprocess.run(
        [ROOT / "tools" / "make_venv", python, tmp_path / "venv", "run"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ({"version": "exit 127"}, "install Python 3.11 or newer"),
        ({"version": "echo 3.9", "too_old": 1}, "is Python 3.9, but 3.11 or newer is needed"),
        ({"no_venv": 1}, "apt install python3.11-venv"),
    ],
    ids=["no Python", "too old", "no venv"],
)
def test_what_is_missing_is_said_in_one_line(fault, advice, tmp_path):
    done = make(tmp_path, **fault)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("make: ")
    assert advice in done.stderr
    assert "make PYTHON=" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_every_target_is_listed():
    done = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")]
    makefiles = [ROOT / "Makefile", *ROOT.glob("*/targets.mk"), *ROOT.glob("tests/*/targets.mk")]
    phony = re.findall(r"^\.PHONY: (.*)", "\n".join(path.read_text() for path in makefiles), re.MULTILINE)
    assert sorted(listed) == sorted({name for names in phony for name in names.split()})


def test_what_targets_do_stands_in_one_column():
    done = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    lines = [re.match(r"  make \S+ +", line) for line in done.stdout.splitlines()]
    assert len({line.end() for line in lines if line}) == 1


def test_clean_removes_what_git_ignores():
    done = subprocess.run(["make", "-C", ROOT, "-n", "clean"], capture_output=True, text=True, check=True)
    removed = {*done.stdout.split()}
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    ignored |= {f"docs/{line.strip('/')}" for line in (ROOT / "docs" / ".gitignore").read_text().splitlines()}
    # What Python and pip write beside the sources is made anew where it is out of date. The machines' parts, and a
    # Python that takes a quarter of an hour to build, are kept.
    assert ignored - removed == {"__pycache__", "*.py[co]", "*.egg-info", ".cache"}


@pytest.mark.parametrize("target", ["demo", "test", "lint", "fuzz", "bench"])
def test_every_target_makes_what_it_runs_in(target, tmp_path):
    command = ["make", "-C", ROOT, "-n", target, f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first = next(line for line in done.stdout.splitlines() if not line.startswith("make"))
    assert first.startswith("tools/make_venv ")
    assert f"{tmp_path}/venv" in first
