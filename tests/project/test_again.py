"""A test that failed in CI is run again by itself, and what is no accident stays a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import again

TESTS = Path(again.__file__).parent
#: A test that passes, and one that fails in the runs with these numbers.
SUITE = """
from pathlib import Path

def run_number():
    file = Path(__file__).with_suffix(".runs")
    with file.open("a") as runs:
        runs.write("x")
    return len(file.read_text())

def test_that_passes():
    pass

def test_by_number():
    assert run_number() not in {failing}
"""


def run(folder, failing, *arguments, **environment):
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_suite.py").write_text(SUITE.replace("{failing}", str(failing)))
    dropped = ("CI", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "STEREOS_TESTS_AGAIN")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "again", "-p", "no:cacheprovider", *arguments)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
    runs = len((folder / "test_suite.runs").read_text())
    return done.returncode, runs, done.stderr


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_what_fails_once_passes_and_is_named(tmp_path, workers):
    status, runs, said = run(tmp_path, {1}, *workers, CI="1")
    assert (status, runs) == (0, 1 + again.TIMES)
    assert "FAILED test_suite.py::test_by_number" in said
    assert f"TO BE MENDED, passed {again.TIMES} times by itself: test_suite.py::test_by_number" in said


@pytest.mark.parametrize("second", [2, 1 + again.TIMES])
def test_what_fails_twice_is_a_failure(tmp_path, second):
    status, runs, said = run(tmp_path, {1, second}, CI="1")
    assert (status, runs) == (1, second)
    assert f"failed again, in run {second - 1} of {again.TIMES} by itself" in said


def test_nothing_is_run_again_outside_ci(tmp_path):
    assert run(tmp_path, {1}) == (1, 1, "")


def test_nothing_is_run_again_when_nothing_failed(tmp_path):
    assert run(tmp_path, set(), CI="1") == (0, 1, "")


def test_many_failures_are_no_accident(tmp_path):
    more = "".join(f"\ndef test_more_{number}():\n    assert False\n" for number in range(again.MOST))
    (tmp_path / "test_more.py").write_text(more)
    status, runs, said = run(tmp_path, {1}, CI="1")
    assert (status, runs) == (1, 1)
    assert said.count("FAILED") == again.MOST + 1
