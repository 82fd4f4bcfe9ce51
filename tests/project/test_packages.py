"""The wheel and the sdist: what is in them, what they say of themselves, and that what is installed works."""

from __future__ import annotations

import email
import hashlib
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed (dependency group `package`)")

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: Seconds after which a command counts as stuck.
PATIENCE = 300
#: Those of the core that a distribution's packager would run first. They need no network and no clock.
TESTS = ("test_vectors.py", "test_framing.py", "test_messages.py", "test_connection.py", "test_main.py")


def run(*command, cwd, **env):
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600", **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source, folder, kind):
    """Build a `wheel` or an `sdist` of `source` without isolation: the build backend is that of this environment."""
    code = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    return folder / run(sys.executable, "-c", code, str(folder), cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def unpacked(sdist):
    """The sdist's own folder: what a packager has."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    return build(unpacked, tmp_path_factory.mktemp("wheel"), "wheel")


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_all_of_the_packages_and_nothing_else(wheel):
    names = names_in(wheel)
    data = f"{wheel.name.split('-py3')[0]}.data/data/"
    info = f"{wheel.name.split('-py3')[0]}.dist-info/"
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    settings = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    forced = set(settings.get("force-include", {}).values())
    shared = {data + place for place in settings.get("shared-data", {}).values()}
    assert {name for name in names if not name.startswith(info)} == sources | forced | shared
    assert {"stereos_proto/py.typed", "stereos_proto_io/py.typed", "stereos_proto_io/cli/jcard.toml"} <= names
    assert {info + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")} <= names


def test_the_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"{wheel.name.split('-py3')[0]}.dist-info/"
        said = email.message_from_bytes(archive.read(info + "METADATA"))
        entry_points = archive.read(info + "entry_points.txt").decode()
    project = PROJECT["project"]
    assert said["Name"] == project["name"]
    assert said["Version"] == project["version"]
    assert (said["License-Expression"], said["License-File"]) == ("MIT", "LICENSE")
    assert said["Requires-Python"] == project["requires-python"]
    assert sorted(said.get_all("Provides-Extra")) == sorted(project["optional-dependencies"])
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    for module in ("stereos_proto_io.cli:main", "stereos_proto_io.pytest_plugin"):
        assert module in entry_points


def test_the_sdist_has_what_tests_and_docs_need_and_nothing_of_ours(unpacked):
    for name in ("LICENSE", "README.md", "pyproject.toml", "tests/core", "tests/vectors", "docs/conf.py", "examples"):
        assert (unpacked / name).exists(), name
    found = {path.relative_to(unpacked) for path in unpacked.rglob("*")}
    assert not [path for path in found if {"__pycache__", ".venv", ".git", "build", "dist"} & set(path.parts)]


def test_both_are_what_an_index_takes(sdist, wheel):
    pytest.importorskip("twine", reason="twine is not installed (dependency group `package`)")
    said = run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel), cwd=ROOT, NO_COLOR="1")
    assert said.count("PASSED") == 2


def test_a_second_build_has_the_same_bytes(unpacked, sdist, wheel, tmp_path):
    """From the checkout, from the unpacked sdist: the same sources give the same bytes."""
    for kind, source, first in (("sdist", ROOT, sdist), ("wheel", ROOT, wheel), ("wheel", unpacked, wheel)):
        folder = tmp_path / f"{kind}-{source.name}"
        folder.mkdir()
        again = build(source, folder, kind)
        assert again.name == first.name
        assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(first.read_bytes()).digest(), kind


def test_the_tests_of_the_sdist_pass_against_the_wheel(unpacked, wheel, tmp_path):
    env = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", str(env), cwd=tmp_path)
    python = env / "bin" / "python"
    # What the tests and the library need is that of this environment, of which the .pth files do not count: our own
    # sources, which are installed from the checkout, cannot be found through it.
    home = Path(sysconfig.get_path("purelib", vars={"base": str(env)}))
    (home / "tools.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel), cwd=tmp_path)
    where = run(str(python), "-c", "import stereos_proto; print(stereos_proto.__file__)", cwd=tmp_path, PYTHONPATH="")
    assert Path(where.strip()).is_relative_to(env)
    tests = [f"tests/core/{name}" for name in TESTS]
    # pytest rewrites the asserts of installed plugins and of all that came with them, which `runpy` cannot run then.
    said = run(str(python), "-m", "pytest", "-q", "--assert=plain", *tests, cwd=unpacked, PYTHONPATH="")
    assert " passed" in said
    assert " failed" not in said
    # The command is there, too, and speaks for itself.
    assert PROJECT["project"]["version"] in run(
        str(env / "bin" / "stereosctl"), "--version", cwd=tmp_path, PYTHONPATH=""
    )
