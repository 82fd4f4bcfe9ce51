"""The tests of core, clients and command line on the Pythons to come: `make test-next`.

Debian's testing suite has them before its stable release. They are unpacked into `.cache` with all that they need, down
to the C library, and run there with `chroot`: nothing is installed, and no file of the system is replaced. Wheels come
by this machine's own pip, for the other Python. Whoever may make namespaces of users need not be root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from tests.vm import parts

ROOT: Final = Path(__file__).resolve().parents[2]

#: The suite, which moves, and what is taken from it.
SUITE: Final = "forky"
VERSIONS: Final = ("3.14", "3.15")
#: Beside the Pythons, what the tests call.
PROGRAMS: Final = ("bash", "coreutils", "dash", "fish", "procps", "zsh")
#: What the root is made of: other contents are another folder of the cache.
CONTENTS: Final = (SUITE, VERSIONS, PROGRAMS)

#: What is run unless arguments say otherwise. The examples want event loops that may not be there yet.
TESTS: Final = ("tests/core", "tests/client", "tests/cli", "--ignore=tests/client/test_loops.py")

#: Where the project stands in the root.
PROJECT: Final = "/project"

#: Mounts all that the tests need below $0, which is seen by this process alone, and runs the rest there.
_ENTER: Final = """
set -e
for place in proc dev sys; do mount --rbind "/$place" "$0/$place"; done
mount -t tmpfs none "$0/tmp"
mount --rbind "$1" "$0/project"
shift
exec chroot "$0" /usr/bin/env -C /project "$@"
"""


def unpack(folder: Path) -> None:
    """Fill `folder` with the Pythons. Raises Unavailable."""
    parts.say(f"getting Python {' and '.join(VERSIONS)} from {SUITE}, once")
    options = parts.other_release(SUITE, folder / "apt")
    parts.apt("apt-get", *options, "update", "-qq")
    pythons = [f"python{version}" for version in VERSIONS]
    parts.unpack_with_dependencies(options, folder, *pythons, *PROGRAMS)
    shutil.rmtree(folder / "apt")
    for name in ("bin", "lib", "lib64", "sbin"):
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    for name in ("proc", "dev", "sys", "tmp", "project", "etc"):
        (folder / name).mkdir(exist_ok=True)
    for name in ("hosts", "passwd", "group", "nsswitch.conf", "protocols", "services"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), folder / "etc" / name)


def requirements() -> list[str]:
    """What the tests need, as the project says it, without what has no wheels for a Python this new."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["trio"], *extras["cli"], *extras["testing"]]
    return [*needed, *(line for line in project["dependency-groups"]["test"] if not line.startswith("uvloop"))]


def install(target: Path, version: str, abi: str = "") -> None:
    """Put the project and what it needs into `target`, for Python `version`; `abi` is "t" without a global lock."""
    # pip warns of this machine's settings, which is of no use here.
    pip = (sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check")
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run((*pip, "wheel", "--no-deps", "--wheel-dir", folder, str(ROOT)), check=True)
        (wheel,) = Path(folder).glob("*.whl")
        foreign = ("--only-binary=:all:", "--implementation", "cp", "--python-version", version)
        if abi:
            foreign += ("--abi", f"cp{version.replace('.', '')}{abi}")
        subprocess.run((*pip, "install", "--target", str(target), *foreign, str(wheel), *requirements()), check=True)


def run_tests(root: Path, version: str, arguments: list[str]) -> int:
    """Run the tests on Python `version`; return pytest's exit code."""
    environment = ["PATH=/usr/bin", "HOME=/tmp", "LANG=C.UTF-8", "CI=1", "PYTHONDONTWRITEBYTECODE=1"]
    paths = f"PYTHONPATH={PROJECT}/src"
    # The modules of an installed plugin would have their assertions rewritten, and `runpy` cannot run such a one.
    pytest = (f"/usr/bin/python{version}", "-m", "pytest", "-q", "--no-header", "--assert=plain", "-m", "not vm")
    users = [] if os.geteuid() == 0 else ["--map-root-user"]
    enter = ("unshare", "--mount", *users, "sh", "-c", _ENTER, str(root), str(ROOT))
    line = (*enter, "-i", *environment, paths, *pytest, *arguments)
    return subprocess.run(line, stdin=subprocess.DEVNULL, check=False).returncode


def main(arguments: list[str]) -> int:
    """Test on all versions; 1 when a test fails, 2 when the Pythons cannot be had."""
    try:
        root = parts.kept(f"pythons-{parts.digest(CONTENTS)}", unpack)
    except parts.Unavailable as exc:
        parts.say(str(exc))
        return 2
    failed = False
    for version in VERSIONS:
        install(root / "usr" / "local" / "lib" / f"python{version}" / "dist-packages", version)
        print(f"Python {version}", flush=True)
        failed |= run_tests(root, version, arguments or ["-n", str(2 * (os.cpu_count() or 1)), *TESTS]) != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
