"""What a module looks like with one place changed: the mutants that `fuzz.mutation` asks the tests about.

What is changed: comparisons, `and` and `or`, `not`, numbers, flags, arithmetic, conditions, results, and statements
that are left out. Texts are not: they are for people.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

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


class Mutant(NamedTuple):
    """A module with one place changed."""

    #: First and last line of the statement that is changed; of one with a body, the lines before its body.
    first: int
    last: int
    #: Whether that statement is executed when the module is imported, and by no call.
    on_import: bool
    #: The function or class around it, and what is changed. A second such place has a number.
    name: str
    #: The changed module.
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse(source)
    never = skipped(tree)
    around = _around(tree)
    names: Counter[str] = Counter()
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in never:
            continue
        for kind, new in changed(node):
            # `tree` is shared by all mutants, so the node is replaced in a tree of this mutant's own.
            fresh = ast.parse(source)
            target = [*ast.walk(fresh)][index]
            mutant = ast.fix_missing_locations(_Replace(target, new).visit(fresh))
            place = around[id(node)]
            name = f"{place.scope or 'module'}, {kind}: {ast.unparse(node).splitlines()[0][:70]}"
            names[name] += 1
            number = f" ({names[name]})" if names[name] > 1 else ""
            yield Mutant(*_lines(place.statement), place.on_import, name + number, ast.unparse(mutant))


class _Place(NamedTuple):
    """Where a node stands."""

    #: The innermost statement around it.
    statement: ast.stmt
    #: The functions and classes around that.
    scope: str
    #: Whether the statement is executed when the module is imported, and by no call.
    on_import: bool


def _around(tree: ast.Module) -> dict[int, _Place]:
    """The place of each node of a module, by identity."""
    found: dict[int, _Place] = {}

    def visit(node: ast.AST, place: _Place) -> None:
        if isinstance(node, ast.stmt):
            place = place._replace(statement=node)
        found[id(node)] = place
        inside = place
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            scope = f"{place.scope}.{node.name}" if place.scope else node.name
            place = place._replace(scope=scope)
            # Its arguments and decorators are executed where it is defined.
            inside = place._replace(on_import=place.on_import and isinstance(node, ast.ClassDef))
        for inner in ast.iter_child_nodes(node):
            visit(inner, inside if isinstance(inner, ast.stmt) else place)

    for statement in tree.body:
        visit(statement, _Place(statement, "", on_import=True))
    return found


def _lines(statement: ast.stmt) -> tuple[int, int]:
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno
    return statement.lineno, max(statement.lineno, last or 0)
