"""Programs of others are checked against the types of both packages as strictly as checkers can."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
DOWNSTREAM = Path(__file__).parent / "downstream"
#: Beside this interpreter, as in a virtual environment.
BIN = Path(sys.executable).parent
ENV = {**os.environ, "PYTHONPATH": str(SRC), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}


def tool(name):
    path = shutil.which(name, path=str(BIN))
    if path is None:
        pytest.skip(f"{name} is not installed (dependency group `lint`)")
    return path


def pyright(*arguments, cwd):
    """What pyright says, as data. The command of the package index fetches pyright itself when first used."""
    command = tool("pyright"), "--pythonpath", sys.executable, "--outputjson", *arguments
    run = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, check=False)
    try:
        return json.loads(run.stdout)
    except ValueError:
        pytest.skip(f"pyright does not run here: {(run.stderr or run.stdout).strip()[-200:]}")


def copied(folder):
    """The program of a user, in a place where no settings of ours hold."""
    shutil.copytree(DOWNSTREAM, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(SRC)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


#: Mistakes that a checker has to find: the file, what stands there, and what a user writes instead.
MISTAKES = {
    "an event that is not matched": (
        "core",
        "case MalformedReceived(error=error):",
        "case MalformedReceived(error=None):",
    ),
    "a reply of another kind": ("drivers", "assert_type(guest.ping(), Pong)", "guest.ping().agents"),
    "a reply that is not awaited": (
        "drivers",
        "assert_type(await guest.request(Ping()), Pong)",
        "guest.request(Ping()).type",
    ),
    "an option that no client has": ("drivers", '"max_pending": 8', '"max_waiting": 8'),
    "an option that no simulated guest has": ("drivers", "simulated_guest(faults=", "simulated_guest(fault="),
    "a call of another kind": (
        "own_drivers",
        "on_pong(call: Call[Pong]) -> None",
        "on_pong(call: Call[Health]) -> None",
    ),
}


def mypy(folder):
    settings = "--strict", "--python-version=3.11", f"--cache-dir={folder / 'cache'}", "--config-file="
    return subprocess.run(
        (sys.executable, "-m", "mypy", *settings, *sorted(folder.glob("*.py"))),
        cwd=folder,
        env={**ENV, "MYPYPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_mypy_finds_nothing(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed (dependency group `lint`)")
    run = mypy(copied(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr


def test_pyright_finds_nothing(tmp_path):
    found = pyright(cwd=copied(tmp_path))
    assert found["summary"]["filesAnalyzed"] == len(list(DOWNSTREAM.glob("*.py")))
    assert [said["message"] for said in found["generalDiagnostics"]] == []


def test_pyright_finds_mistakes(tmp_path):
    folder = copied(tmp_path)
    names = {}
    for number, (mistake, (stem, old, new)) in enumerate(MISTAKES.items()):
        text = (folder / f"{stem}.py").read_text(encoding="utf-8")
        assert old in text, f"{stem}.py does not have {old!r}"
        names[mistake] = f"mistake_{number}.py"
        (folder / names[mistake]).write_text(text.replace(old, new), encoding="utf-8")
    found = pyright(cwd=folder)
    wrong = {Path(said["file"]).name for said in found["generalDiagnostics"] if said["severity"] == "error"}
    assert [mistake for mistake, name in names.items() if name not in wrong] == []


def test_every_public_name_has_a_type():
    for package in ("stereos_proto", "stereos_proto_io"):
        report = pyright("--ignoreexternal", "--verifytypes", package, cwd=SRC)["typeCompleteness"]
        unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
        assert unknown == []
        assert report["completenessScore"] == 1
