"""The core does no IO: neither by what it imports, nor by what that brings along."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import stereos_proto

FOLDER = Path(stereos_proto.__file__).parent
FILES = sorted(path for path in FOLDER.rglob("*.py"))
FORBIDDEN = {
    *(
        "asyncio",
        "concurrent",
        "ctypes",
        "fcntl",
        "http",
        "logging",
        "mmap",
        "multiprocessing",
        "os",
        "queue",
        "random",
    ),
    *(
        "random",
        "sched",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
    ),
    *("tempfile", "termios", "threading", "time", "trio", "urllib", "uuid", "uvloop", "stereos_proto_io"),
}
DEPENDENCIES = {"attrs", "cattrs", "msgspec", "tomli_w"}

#: The layers, lowest first: a module imports from lower lines only.
LAYERS = [
    {"_constants", "_frames", "_timeouts"},
    {"_messages"},
    {"_registry"},
    {"_redact"},
    {"_errors"},
    {"_framing", "_codec.json", "_toml"},
    {"_codec.tolerant", "_jcard_fields"},
    {"_codec.canonical"},
    {"_call", "_codec", "_jcard_agents", "_jcard_text"},
    {"_events"},
    {"_state"},
    {"_connection", "_preamble"},
    {"_host_session", "_guest_session"},
    {"_mailbox", "_provision"},
    {"_turns", "dialogues", "_jcard_plan"},
    {"_running", "_jcard"},
    {"_host_client"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def imports(path):
    """(package or module of ours, for type checkers only?) of each import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], 0, node in deferred
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield name.partition(".")[0], node.level, node in deferred


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_no_file_imports_what_does_io(path):
    allowed = DEPENDENCIES | set(sys.stdlib_module_names) - FORBIDDEN
    if path.name == "strategies.py":
        allowed |= {"hypothesis"}
    outside = {name for name, level, deferred in imports(path) if level == 0 and not deferred}
    assert outside <= allowed, outside - allowed


def file_of(module):
    path = FOLDER.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", sorted(LEVEL))
def test_arrows_point_down(module):
    path = file_of(module)
    # What one dot means: the core, or the package that the module stands in.
    package = [] if path.parent == FOLDER else [path.parent.name]
    ours = {".".join([*package[: len(package) + 1 - level], name]) for name, level, _deferred in imports(path) if level}
    assert ours <= LEVEL.keys()
    assert all(LEVEL[name] < LEVEL[module] for name in ours), ours


def test_every_core_module_has_its_layer():
    modules = {path.stem for path in FOLDER.glob("*.py")} | {path.parent.name for path in FOLDER.glob("_*/__init__.py")}
    modules |= {f"_codec.{path.stem}" for path in FOLDER.glob("_codec/[a-z]*.py")}
    assert modules - LEVEL.keys() <= {"__init__", "__main__"}


def loaded_by(statement):
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["stereos_proto", "stereos_proto.testing"])
def test_a_fresh_interpreter_loads_nothing_that_does_io(module):
    path = f"sys.path.insert(0, {str(FOLDER.parent)!r})"
    theirs = loaded_by("import attrs, cattrs, msgspec, tomli_w, typing, tomllib, json")
    ours = loaded_by(f"{path}\nimport {module}") - theirs
    assert module in ours
    assert not {name for name in ours if name.partition(".")[0] in FORBIDDEN}
    assert "hypothesis" not in ours


def test_the_scan_sees_what_it_looks_for(tmp_path):
    guilty = tmp_path / "guilty.py"
    guilty.write_text(
        "from typing import TYPE_CHECKING\nimport socket.x\nfrom asyncio.streams import y\nfrom . import _codec\n"
        "from ._state import z\nif TYPE_CHECKING:\n    import ssl\ndef f():\n    import time\n"
    )
    assert set(imports(guilty)) == {
        ("typing", 0, False),
        ("socket", 0, False),
        ("asyncio", 0, False),
        ("_codec", 1, False),
        ("_state", 1, False),
        ("ssl", 0, True),
        ("time", 0, False),
    }
