"""What OSS-Fuzz would build: its script runs here, as far as it goes without Docker, and each target runs inputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fuzz import harnesses

ROOT = Path(__file__).resolve().parents[2]
OSS_FUZZ = ROOT / "fuzz" / "oss-fuzz"
PATIENCE = 300
#: Inputs that each target is given.
INPUTS = 1000

#: In the place of OSS-Fuzz's compiler, which needs PyInstaller and its base image: it keeps the script.
COMPILER = '#!/bin/sh\n[ "$2" = --paths ] && [ -d "$3/fuzz" ] || exit 1\ncp "$1" "$OUT/"\n'
#: Of atheris, what the scripts use. It feeds INPUTS inputs, those of the seeds first, and then changed ones.
ATHERIS = """
import contextlib, os, random, sys, zipfile

@contextlib.contextmanager
def instrument_imports(include):
    assert include == ["stereos_proto", "stereos_proto_io"]
    yield

def Mutate(data, size):
    return bytes(byte ^ (random.getrandbits(8) if random.random() < 0.1 else 0) for byte in data)[:size]

def Setup(arguments, check, custom_mutator):
    global run
    def run():
        with zipfile.ZipFile(arguments[1]) as archive:
            inputs = [archive.read(name) for name in archive.namelist()]
        rng = random.Random(0)
        for number in range(int(os.environ["INPUTS"])):
            data = inputs[number] if number < len(inputs) else custom_mutator(rng.choice(inputs), 300, number)
            check(data)
        print("executed", number + 1)

def Fuzz():
    run()
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What the build script leaves."""
    home = tmp_path_factory.mktemp("oss-fuzz")
    for name in ("bin", "out", "src", "site"):
        (home / name).mkdir()
    (home / "src" / "stereos-proto").symlink_to(ROOT)
    (home / "site" / "atheris.py").write_text(ATHERIS)
    programs = {
        "compile_python_fuzzer": COMPILER,
        "pip3": '#!/bin/sh\n[ "$*" = "install ." ]\n',  # it is installed already
        "python3": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
    }
    for name, text in programs.items():
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "SRC": str(home / "src"),
        "OUT": str(home / "out"),
    }
    line = [shutil.which("bash"), "-eu", str(OSS_FUZZ / "build.sh")]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "out"


def test_each_harness_has_a_target_seeds_and_a_dictionary(out):
    names = {path.name for path in out.iterdir()}
    assert names == {f"{name}_fuzzer{end}" for name in harnesses.NAMES for end in (".py", ".dict", "_seed_corpus.zip")}
    for name in harnesses.NAMES:
        with zipfile.ZipFile(out / f"{name}_fuzzer_seed_corpus.zip") as archive:
            kept = {harnesses.file_name(data) for data in harnesses.kept(name)}
            assert kept <= set(archive.namelist())


@pytest.mark.parametrize("name", harnesses.NAMES)
def test_each_target_runs_a_thousand_inputs(name, out):
    """From the packed seeds, in a folder where there is nothing else of ours."""
    done = subprocess.run(
        [sys.executable, str(out / f"{name}_fuzzer.py"), str(out / f"{name}_fuzzer_seed_corpus.zip")],
        cwd=out,
        env={
            **os.environ,
            "INPUTS": str(INPUTS),
            "PYTHONPATH": os.pathsep.join([str(out.parent / "site"), str(ROOT / "src"), str(ROOT)]),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"executed {INPUTS}"


def test_the_project_is_described():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (dependency group `docs`)")
    project = yaml.safe_load((OSS_FUZZ / "project.yaml").read_text(encoding="utf-8"))
    assert {"homepage", "main_repo", "primary_contact", "language", "fuzzing_engines", "sanitizers"} <= set(project)
    assert project["language"] == "python"
    # atheris runs under libFuzzer only.
    assert project["fuzzing_engines"] == ["libfuzzer"]
    dockerfile = (OSS_FUZZ / "Dockerfile").read_text(encoding="utf-8")
    assert dockerfile.startswith("FROM gcr.io/oss-fuzz-base/base-builder-python\n")
    for copied in ("build.sh", "stereos-proto"):
        assert copied in dockerfile
