"""What several threads share, on a Python without a global lock: `make test-freethreaded`.

Debian has no package of such a Python, so it is built once, in `.cache`, from the source package in Debian's testing
suite. That takes some minutes, a C compiler, and the headers of OpenSSL, libffi and zlib. The tests run there with the
lock off, and then the stress does. `CPYTHON_SOURCE` may name an archive of the source that is here already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from tests.vm import parts

from .pythons import ROOT, SUITE, install

VERSION: Final = "3.14"
#: Modules of the standard library that are left out silently where their headers are missing.
MODULES: Final = ("ctypes", "ssl", "zlib")
#: What is run unless arguments say otherwise: all that threads share, and what it stands on.
TESTS: Final = (
    *("tests/core", "tests/guest"),
    *(f"tests/client/test_{name}.py" for name in ("backpressure", "cancel", "close", "deadline", "dial", "sharing")),
)


def build(folder: Path) -> None:
    """Fill `folder` with the Python. Raises Unavailable."""
    parts.say(f"getting the source of Python {VERSION} from {SUITE} and building it without the lock, once")
    source = folder / "source"
    source.mkdir()
    with tarfile.open(os.environ.get("CPYTHON_SOURCE") or _archive(folder / "apt", source)) as tar:
        tar.extractall(source, filter="data")
    (tree,) = (path.parent for path in source.glob("*/configure"))
    log = folder / "build.log"
    configure = ("./configure", "--prefix=/usr", "--disable-gil", "--disable-test-modules", "--without-ensurepip")
    _step(log, tree, *configure)
    _step(log, tree, "make", f"-j{os.cpu_count() or 1}")
    _step(log, tree, "make", "install", f"DESTDIR={folder}")
    missing = [
        name for name in MODULES if subprocess.run((python(folder), "-c", f"import {name}"), check=False).returncode
    ]
    if missing:
        raise parts.Unavailable(
            f"the headers for {', '.join(missing)} are missing (libffi-dev, libssl-dev, zlib1g-dev)"
        )
    for done in (source, folder / "apt"):
        shutil.rmtree(done, ignore_errors=True)


def _archive(apt: Path, folder: Path) -> Path:
    """The source as Debian has it, downloaded into `folder`."""
    options = parts.other_release(SUITE, apt, kind="deb-src")
    parts.apt("apt-get", *options, "update", "-qq")
    parts.apt("apt-get", *options, "source", "-qq", "--download-only", f"python{VERSION}", folder=folder)
    return next(path for path in folder.glob("*.orig.tar.*") if path.suffix != ".asc")


def _step(log: Path, tree: Path, *command: str) -> None:
    with log.open("a") as output:
        done = subprocess.run(command, cwd=tree, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise parts.Unavailable(f"`{command[0]}` failed for Python {VERSION}: {' '.join(last)}")


def python(root: Path) -> Path:
    """The interpreter."""
    return root / "usr" / "bin" / f"python{VERSION}t"


def run(root: Path, *arguments: str) -> int:
    """Run the interpreter from the project's folder, with the lock off; return its exit code."""
    variables = {"CI": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHON_GIL": "0", "PYTHONPATH": str(ROOT / "src")}
    environment = {**os.environ, **variables}
    command = (python(root), *arguments)
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run tests and stress; 1 when something fails, 2 when the Python cannot be had."""
    try:
        root = parts.kept("freethreaded", build)
    except parts.Unavailable as exc:
        parts.say(str(exc))
        return 2
    install(root / "usr" / "lib" / f"python{VERSION}t" / "site-packages", VERSION, "t")
    tests = arguments or ["-n", str(os.cpu_count() or 1), *TESTS]
    # The modules of an installed plugin would have their assertions rewritten, and `runpy` cannot run such a one.
    failed = run(root, "-m", "pytest", "-q", "--no-header", "--assert=plain", "-m", "not vm", *tests)
    return int(bool(failed | (not arguments and run(root, "-m", "tests.next.stress"))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
