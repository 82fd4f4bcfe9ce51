"""Where an extra is missing or too old, a sentence says what to install; everything else works without it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from stereos_proto_io import _extras

SRC = Path(__file__).resolve().parents[2] / "src"
#: The module, what it needs, and the extra that brings it.
NEEDS = [
    ("stereos_proto_io.trio", "trio", "trio"),
    ("stereos_proto_io.guest.trio", "trio", "trio"),
    ("stereos_proto.testing.strategies", "hypothesis", "testing"),
]
WITHOUT_EXTRAS = (
    "stereos_proto.testing",
    "stereos_proto.dialogues",
    "stereos_proto_io.asyncio",
    "stereos_proto_io.blocking",
    "stereos_proto_io.driver",
    "stereos_proto_io.guest.asyncio",
    "stereos_proto_io.guest.blocking",
    "stereos_proto_io.testing",
)
HIDDEN = "import sys; sys.modules.update(dict.fromkeys({hidden!r}.split()))\n"


def python(code, hidden):
    """Run `code` in a Python that does not find the packages `hidden`."""
    return subprocess.run(
        [sys.executable, "-c", HIDDEN.format(hidden=hidden) + code],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("module", "needs", "extra"), NEEDS)
def test_a_module_says_which_extra_it_needs(module, needs, extra):
    done = python(f"import {module}", needs)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"ModuleNotFoundError: {module} needs {needs}: pip install 'stereos-proto[{extra}]'"
    assert "During handling" not in done.stderr


def test_everything_else_works_without_extras():
    code = "".join(f"import {module}\n" for module in WITHOUT_EXTRAS)
    done = python(code, "trio hypothesis pytest cyclopts rich")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def installed(monkeypatch):
    """What is installed, by name; the metadata are those of a wheel."""
    versions = {"cyclopts": "4.17.0", "rich": "15"}
    needs = [
        "attrs>=24.2",
        "cyclopts>=4.17; extra == 'cli'",
        'rich>=13.7 ; extra == "cli"',
        "trio>=0.26; extra == 'trio'",
    ]

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda _name: needs)
    return versions


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, ""),
        ({"cyclopts": "4.17"}, ""),
        ({"cyclopts": "5.0rc1"}, ""),
        ({"cyclopts": "4.9.1"}, "cyclopts 4.9.1 is too old, 4.17 is needed"),
        ({"cyclopts": None}, "cyclopts is not installed"),
        ({"cyclopts": None, "rich": "13"}, "cyclopts is not installed and rich 13 is too old, 13.7 is needed"),
        ({"rich": "unknown"}, "rich unknown is too old, 13.7 is needed"),
    ],
)
def test_what_an_extra_lacks(installed, there, said):
    installed.update(there)
    for name in [name for name, version in installed.items() if version is None]:
        del installed[name]
    assert _extras.unmet("cli") == (f"{said}: pip install 'stereos-proto[cli]'" if said else "")


def test_sources_that_are_not_installed_have_no_requirements(monkeypatch):
    def gone(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", gone)
    assert _extras.unmet("cli") == ""
    monkeypatch.setattr(metadata, "requires", lambda _name: None)
    assert _extras.unmet("cli") == ""
