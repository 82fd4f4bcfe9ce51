"""Without the extra `cli`, or with an old version of what it brings, `stereosctl` says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
MAIN = "import sys; from stereos_proto_io.cli import main; sys.exit(main(['--version']))"


def stereosctl(before):
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    return subprocess.run([sys.executable, "-c", before + MAIN], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
def test_the_extra_is_not_installed(package):
    done = stereosctl(f"import sys; sys.modules[{package!r}] = None; ")
    assert done.returncode == 2
    assert done.stderr.startswith("stereosctl: ")
    assert done.stderr.endswith(": pip install 'stereos-proto[cli]'\n")
    assert done.stderr.count("\n") == 1
    assert package in done.stderr


#: A cyclopts in which a name is missing that later versions have, and its metadata.
OLD = """
import importlib.metadata, sys, types
sys.modules["cyclopts"] = types.ModuleType("cyclopts")
real = importlib.metadata.version
importlib.metadata.version = lambda name: {version!r} if name == "cyclopts" else real(name)
importlib.metadata.requires = lambda name: ["cyclopts>=4.17; extra == 'cli'"]
"""


def test_what_the_extra_brings_is_too_old():
    done = stereosctl(OLD.format(version="3.2.1"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("stereosctl: cyclopts 3.2.1 is too old, 4.17 is needed: pip install 'stereos-proto[cli]'\n")


def test_a_fault_of_ours_is_not_taken_for_a_lack():
    done = stereosctl(OLD.format(version="5.0"))
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "pip install" not in done.stderr
