"""Run all tests, and check that each module of the core is covered by its own test file.

Every module of `stereos_proto` has one test file, which covers it wholly, branches included. To know that it
is this file that does it, each runs in an interpreter of its own, several at a time. The other tests of the core
and those of the project follow, then all the rest, which hold `stereos_proto_io` to the share of branches that is set
below. Arguments are for pytest; with any, coverage is not measured.
"""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import coverage

ROOT: Final = Path(__file__).resolve().parent.parent
CORE: Final = ROOT / "src" / "stereos_proto"
#: Per cent of lines and branches of `stereos_proto_io` that the tests must cover. What only a booted machine may run
#: (AF_VSOCK) is counted as not covered.
IO_SHARE: Final = 95
#: Tests of the core that belong to no single module, and of the project as a whole.
UNMEASURED: Final = tuple(ROOT / "tests" / name for name in ("core", "explore", "project"))
#: Processes for the tests outside the core: most of these tests spend most of their time waiting.
WORKERS: Final = 2 * (os.cpu_count() or 1)
#: Tests marked `vm` need a machine that was booted for them.
PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "--no-header", "-m", "not vm")


def test_file(module: Path) -> Path:
    """The one test file of a module: `_framing.py` has test_framing.py, `testing/strategies.py` has
    test_testing_strategies.py, and `testing/__init__.py` has test_testing.py.
    """
    parts = [part.strip("_") for part in module.relative_to(CORE).with_suffix("").parts]
    if len(parts) > 1 and parts[-1] == "init":
        parts.pop()
    return ROOT / "tests" / "core" / f"test_{'_'.join(parts)}.py"


def has_logic(module: Path) -> bool:
    """Whether there is anything in it to test: a module of names and values is covered by being loaded."""
    return any(
        isinstance(node, (ast.FunctionDef, ast.Lambda, ast.If)) for node in ast.walk(ast.parse(module.read_text()))
    )


def check_module(module: Path, folder: Path) -> tuple[Path, str]:
    """Run a module's test file, and return what is wrong with it: "" if nothing is."""
    tests = test_file(module)
    if not tests.exists() and not has_logic(module):
        return module, ""
    if not tests.exists():
        return module, f"it has no test file: {tests.relative_to(ROOT)} is missing"
    data = folder / ".".join(module.relative_to(CORE).parts)
    command = (sys.executable, "-m", "coverage", "run", "--branch", f"--include={module}", *PYTEST[1:], str(tests))
    run = subprocess.run(  # noqa: S603  (this interpreter, and our own files)
        command,
        cwd=ROOT,
        env={**os.environ, "COVERAGE_FILE": str(data)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode:
        return module, run.stdout
    table = io.StringIO()
    measured = coverage.Coverage(data_file=str(data), config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    if measured.report(include=str(module), show_missing=True, file=table) < 100:
        return module, f"{tests.relative_to(ROOT)} does not cover it:\n{table.getvalue()}"
    return module, ""


def check_core() -> list[Path]:
    """Check every module of the core; return those with a fault."""
    modules = sorted(CORE.rglob("*.py"), key=lambda path: (path.parent, path.name))
    faulty = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for module, fault in pool.map(lambda module: check_module(module, Path(folder)), modules):
            print(f"{'FAILED' if fault else 'ok':6}  {module.relative_to(CORE.parent)}", flush=True)
            if fault:
                faulty.append(module)
                print(fault, flush=True)
    return faulty


def check_unmeasured(ignored: list[str]) -> int:
    """Run the tests that cover little or nothing of `stereos_proto_io`; return the exit code.

    They run the core, Sphinx, pip and copies of the tests, which would take three times as long if they were measured.
    """
    command = (*PYTEST, "-n", str(WORKERS), "--durations=20", *ignored, *map(str, UNMEASURED))
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  (this interpreter, and our own files)


def check_rest() -> int:
    """Run all other tests, and measure `stereos_proto_io`; return the exit code."""
    ignored = [f"--ignore={path}" for path in UNMEASURED]
    with tempfile.TemporaryDirectory() as folder:
        config = f"--rcfile={ROOT / 'tools' / 'coverage_io.ini'}"
        env = {**os.environ, "COVERAGE_FILE": str(Path(folder) / "data")}
        run = (sys.executable, "-m", "coverage")
        tests = subprocess.run(  # noqa: S603  (this interpreter, and our own files)
            (*run, "run", config, *PYTEST[1:], "-n", str(WORKERS), "--dist", "worksteal", "--durations=40", *ignored),
            cwd=ROOT,
            env=env,
            check=False,
        )
        subprocess.run((*run, "combine", "--quiet", config), cwd=ROOT, env=env, check=False)  # noqa: S603
        report = subprocess.run(  # noqa: S603
            (*run, "report", config, "--skip-covered", f"--fail-under={IO_SHARE}"), cwd=ROOT, env=env, check=False
        )
    return tests.returncode or report.returncode


def took(start: float) -> str:
    """The seconds since `start`."""
    return f"{time.monotonic() - start:.0f} s"


def main(arguments: list[str]) -> int:
    """Run the tests; return the exit code."""
    if arguments:
        return subprocess.run((*PYTEST, *arguments), cwd=ROOT, check=False).returncode  # noqa: S603
    start = time.monotonic()
    faulty = check_core()
    print(f"core: each module covered to 100 % by its own test file, {len(faulty)} faulty, {took(start)}", flush=True)
    covered = {test_file(module) for module in CORE.rglob("*.py")}
    unmeasured = check_unmeasured([f"--ignore={path}" for path in covered if path.exists()])
    print(f"core, exploration and project: {took(start)} so far", flush=True)
    rest = check_rest()
    print(f"{'FAILED' if faulty or unmeasured or rest else 'all green'} in {took(start)}", flush=True)
    return int(bool(faulty or unmeasured or rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
