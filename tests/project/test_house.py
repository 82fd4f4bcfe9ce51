"""The house: which room may use which, drawn from the imports of the code itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
IO = SRC / "stereos_proto_io"

#: The rooms of `stereos_proto_io`, lowest first. A room uses lower rooms and itself; rooms of one line do not use each
#: other. The core has layers of its own (`tests/core/test_purity.py`).
FLOORS = [
    {"_extras", "_old_names", "_ssh_keys"},
    {"addresses"},
    {"_errors"},
    {"driver", "_files"},
    {"blocking", "asyncio", "trio", ""},
    {"guest"},
    {"conformance"},
    {"testing"},
    {"pytest_plugin", "cli"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path):
    """The room of a file: its folder or its module; "" is the package's own front door."""
    parts = path.relative_to(IO).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def module_of(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path):
    """The absolute names of what a file imports, as tuples of their parts; type-checking imports included."""
    package = path.relative_to(SRC).parent.parts if path.is_relative_to(SRC) else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def rooms_used(path):
    for name in imported(path):
        if name[0] == "stereos_proto_io" and len(name) > 1:
            is_room = (IO / name[1]).is_dir() or (IO / f"{name[1]}.py").exists()
            yield name[1] if is_room else ""


@pytest.mark.parametrize("path", sorted(IO.rglob("*.py")), ids=lambda path: path.relative_to(IO).as_posix())
def test_no_arrow_points_up(path):
    own = room_of(path)
    for room in set(rooms_used(path)) - {own}:
        assert FLOOR[room] < FLOOR[own], f"{own or 'the package'} uses {room}"


def test_every_room_has_its_floor():
    rooms = {room_of(path) for path in IO.rglob("*.py")}
    assert rooms == FLOOR.keys()


def private_parts(name):
    return [part for part in name[1:] if part.startswith("_") and not part.startswith("__")]


@pytest.mark.parametrize(
    "path",
    sorted([*IO.rglob("*.py"), *(ROOT / "examples").glob("*.py")]),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_nothing_private_is_imported_from_another_package(path):
    """`stereos_proto_io` uses the core as any user does. Examples import nothing private at all."""
    for name in imported(path):
        if name[0] == "stereos_proto" or (name[0] == "stereos_proto_io" and not path.is_relative_to(IO)):
            assert not private_parts(name), ".".join(name)


def test_the_scan_sees_what_it_looks_for(tmp_path):
    guilty = tmp_path / "guilty.py"
    guilty.write_text("from stereos_proto._codec import encode\nimport stereos_proto_io._errors\n")
    names = list(imported(guilty))
    assert names == [("stereos_proto", "_codec", "encode"), ("stereos_proto_io", "_errors")]
    assert all(map(private_parts, names))


@pytest.mark.parametrize("driver", ["blocking", "asyncio", "trio"])
def test_a_driver_is_small(driver, monkeypatch):
    """What drivers have in common is in `driver`. Counted without blank lines, comments and docstrings."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import count_lines

    assert sum(count_lines.count(path) for path in (IO / driver).glob("*.py")) <= 250
