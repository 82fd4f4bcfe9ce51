"""Print how much each kind of test covers: `python -m fuzz.counts`. `docs/verified.md` says what each can find.

Everything is counted in the sources: tests are neither run nor imported.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from . import campaign, harnesses, mutants, mutation, planted, planted_ends

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests"


def named(node: ast.expr) -> str:
    """The last name of a decorator or a base class: `given` of `@hypothesis.given(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def tests(folder: Path) -> Counter[str]:
    """Test functions, those of them with generated examples, and state machines in a folder."""
    found: Counter[str] = Counter()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found["tests"] += 1
                found["properties"] += any(named(each) == "given" for each in node.decorator_list)
            elif isinstance(node, ast.ClassDef):
                found["machines"] += any(named(base) == "RuleBasedStateMachine" for base in node.bases)
    return found


def rows() -> Iterator[tuple[str, object]]:
    """What is counted, and how much there is of it."""
    for folder in sorted(path for path in TESTS.iterdir() if path.is_dir() and path.name != "vectors"):
        found = tests(folder)
        if found["tests"]:
            texts = [f"{found['tests']} functions"]
            texts += [f"{found[kind]} {word}" for kind, word in _KINDS.items() if found[kind]]
            yield f"tests/{folder.name}", ", ".join(texts)
    for path in sorted((TESTS / "vectors").glob("*.ndjson")):
        yield f"vectors, {path.stem}", f"{sum(1 for _ in path.open(encoding='utf-8'))} rows"
    yield "transcripts", f"{sum(1 for path in (TESTS / 'vectors' / 'transcripts').rglob('*') if path.is_file())} files"
    for name in harnesses.NAMES:
        yield f"fuzz harness {name}", f"{len(harnesses.kept(name))} kept inputs"
    yield "inputs that once broke an invariant, or find a fault", f"{len(harnesses.crashes())} files"
    above, by_harness = len(planted_ends.FAULTS), sum(bool(fault.harness) for fault in planted.FAULTS.values())
    yield "planted faults", f"{len(planted.FAULTS)}, {above} of them above the core, {by_harness} found by a harness"
    modules = [f"{name}.py" for room in mutation.ROOMS for name in room.modules]
    sources = [(ROOT / "src" / module).read_text(encoding="utf-8") for module in modules]
    places = sum(mutants.places(source) for source in sources)
    yield "mutants", f"{places} in {len(modules)} modules"
    guard = json.loads((ROOT / "bench" / "guard.json").read_text(encoding="utf-8"))
    for version, figures in guard.items():
        yield f"scenarios of the guard, Python {version}", len(figures)


_KINDS: Final = {"properties": "with generated examples", "machines": "state machines"}


def main() -> None:
    """Print the counts, and the executions of the harnesses on the code as it is."""
    for what, number in rows():
        print(f"{what:55} {number}")
    print("\nexecutions of the harnesses, on the code as it is:")
    print("\n".join(campaign.table()))


if __name__ == "__main__":
    main()
