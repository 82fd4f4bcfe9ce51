"""Change the core at one place at a time, and see whether a test fails: `python -m fuzz.mutation [MODULE ...]`.

A mutant is killed by the module's own test file, else by the tests in `MORE`, else it has survived and is printed.
Each runs in a process forked from one that has pytest loaded already; the library comes from a changed copy.
What is changed: comparisons, `and` and `or`, `not`, numbers, flags, arithmetic, conditions, results, and statements
that are left out. Texts are not: they are for people. Survivors are explained in README.md.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
CORE: Final = ROOT / "src" / "stereos_proto"
MODULES: Final = (
    *("_framing", "_state", "_connection", "_preamble", "_registry", "_events", "_redact"),
    *("_codec/__init__", "_codec/canonical", "_codec/tolerant", "_codec/json"),
    *("_messages", "_errors", "_frames", "_provision", "_toml"),
    *("_jcard_fields", "_jcard_agents", "_jcard_text", "_jcard"),
    *("dialogues", "_host_session", "_turns", "_mailbox", "_running", "_host_client"),
)
MORE: Final = (
    "tests/core/test_vectors.py",
    "tests/project/test_fuzz_corpus.py::test_kept_corpus",
    "tests/project/test_fuzz_corpus.py::test_what_was_once_found",
    "tests/core/test_codec.py",
)
PYTEST: Final = (
    *("-x", "-q", "-m", "not vm", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-p", "no:xdist", "--hypothesis-profile", "mutation"),
)
#: Seconds of CPU after which a mutant counts as killed, since it hangs. What else the machine does is not its fault.
PATIENCE: Final = 40

SWAPS: Final[dict[type[Any], type[Any]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}


def changed(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand instead of a node, with a word for it."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new = copy.deepcopy(node)
        new.ops[0] = SWAPS[type(node.ops[0])]()
        yield "comparison", new
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in SWAPS and not _is_type(node):
        new = copy.deepcopy(node)
        new.op = SWAPS[type(node.op)]()
        yield "operator", new
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield "jump", SWAPS[type(node)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "number", ast.Constant(node.value + 1)
    elif isinstance(node, (ast.If, ast.IfExp)):
        new = copy.deepcopy(node)
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield "condition", new
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "result", ast.Return(ast.Constant(None))
    elif isinstance(node, (ast.AugAssign, ast.Raise, ast.Delete)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "left out", ast.Pass()


def _is_type(node: ast.AST) -> bool:
    """`A | B` of types and the like, which only type checkers read."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return ast.copy_location(self.new, node) if node is self.old else super().visit(node)


def skipped(tree: ast.AST) -> set[int]:
    """Nodes that never run: annotations, and what only type checkers see."""
    found: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, (ast.AnnAssign, ast.arg)):
            parts.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parts.append(node.returns)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            parts += [node.test, *node.body]
            found.add(id(node))
        found |= {id(inner) for part in parts if part for inner in ast.walk(part)}
    return found


def places(source: str) -> int:
    """How many mutants there are."""
    tree = ast.parse(source)
    never = skipped(tree)
    return sum(1 for node in ast.walk(tree) if id(node) not in never for _ in changed(node))


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, description and source of each mutant."""
    tree = ast.parse(source)
    never = skipped(tree)
    for node in ast.walk(tree):
        if id(node) in never:
            continue
        for kind, new in changed(node):
            # The tree is shared by all; what is replaced is put back by parsing anew.
            place = next(index for index, other in enumerate(ast.walk(tree)) if other is node)
            fresh = ast.parse(source)
            target = [*ast.walk(fresh)][place]
            mutant = ast.fix_missing_locations(_Replace(target, new).visit(fresh))
            line = getattr(node, "lineno", 0)
            yield line, f"{kind}: {ast.unparse(node).splitlines()[0][:70]}", ast.unparse(mutant)


def fails(source: Path, tests: list[str]) -> bool:
    """Whether a test fails with the library that is in `source`."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
        sys.path.insert(0, str(source))
        sys.dont_write_bytecode = True
        os.environ["PYTHONPATH"] = str(source)
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            os._exit(int(pytest.main([*PYTEST, *tests])))
    _, status = os.waitpid(child, 0)
    return status != 0


def tests_of(name: str) -> list[list[str]]:
    """The tests to ask, one list after the other."""
    parts = [part.strip("_") for part in name.removesuffix("/__init__").split("/")]
    own = f"tests/core/test_{'_'.join(parts)}.py"
    return [[own], [more for more in MORE if more != own]]


def survivors(name: str, source: Path) -> tuple[int, list[str]]:
    """How many mutants a module has, and which of them no test kills."""
    path = source / "stereos_proto" / f"{name}.py"
    original = path.read_text(encoding="utf-8")
    alive: list[str] = []
    number = 0
    for line, description, text in mutants(original):
        number += 1
        path.write_text(text, encoding="utf-8")
        if not any(fails(source, tests) for tests in tests_of(name)):
            alive.append(f"{name}:{line} {description}")
            print(f"  survived  {alive[-1]}", flush=True)
    path.write_text(original, encoding="utf-8")
    return number, alive


def prepare() -> None:
    """The same examples each time, and no time for making a failure small."""
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=50,
        phases=phases,
        suppress_health_check=[*hypothesis.HealthCheck],
    )


def main() -> int:
    """Print the survivors and the figures; return 1 when fewer than 95 % are killed."""
    parser = argparse.ArgumentParser(prog="fuzz.mutation")
    parser.add_argument("modules", nargs="*", default=[*MODULES])
    options = parser.parse_args()
    os.chdir(ROOT)
    prepare()
    total = killed = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for name in options.modules:
            if any(fails(source, tests) for tests in tests_of(name)):
                print(f"{name}: its tests fail as it is", flush=True)
                return 2
            number, alive = survivors(name, source)
            total, killed = total + number, killed + number - len(alive)
            print(f"{name:14} {number - len(alive)} of {number} killed", flush=True)
    print(f"{'all':14} {killed} of {total} killed: {100 * killed / max(total, 1):.1f} %")
    return int(killed < 0.95 * total)


if __name__ == "__main__":
    sys.exit(main())
