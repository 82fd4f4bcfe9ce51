"""Writes what the pages include: diagrams, tables and lists that stand in the code already.

Nothing here repeats a fact of the code. What has no place there (why an error comes, and what to do about it) is
checked against it: a new error without a remedy fails the build.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import importlib
import inspect
import io
import os
import pkgutil
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import Enum
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, get_args

import attrs
from docutils import nodes
from remedies import REMEDIES
from sphinx.pycode import ModuleAnalyzer

import stereos_proto
import stereos_proto_io
from stereos_proto import Kind, LifecycleState, Role, State, StereosError, dialogues
from stereos_proto import testing as core_testing
from stereos_proto._messages import OMIT_ZERO, U32, ZERO, StateName, wire_fields
from stereos_proto._registry import OPEN_ROWS, REGISTRY
from stereos_proto._state import REQUIREMENTS, TRANSITIONS
from stereos_proto.testing import strategies
from stereos_proto_io import addresses, asyncio, blocking, conformance, driver, guest, testing, trio
from stereos_proto_io._errors import _MEANINGS
from stereos_proto_io.cli import main as stereosctl
from stereos_proto_io.driver import AsyncVerbs, SyncVerbs
from stereos_proto_io.guest import asyncio as guest_asyncio
from stereos_proto_io.guest import blocking as guest_blocking
from stereos_proto_io.guest import effects, faults
from stereos_proto_io.guest import trio as guest_trio

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import count_lines

# ---------------------------------------------------------------------------------------------------------
# Diagrams
# ---------------------------------------------------------------------------------------------------------

HERE = Path(__file__).parent
#: Diagrams are narrow, so that their texts are as large on the page of a phone as on that of a screen.
WIDTH = 400
BOX = (120, 40)
STEP = 88
ARROW = (
    '<marker id="{0}-arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
    'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z"/></marker>'
)
#: Which state of a guest follows on which (docs/protocol.md §2, §6). The code takes any, from any guest.
LIFECYCLE = (
    (LifecycleState.BOOTING, LifecycleState.READY),
    (LifecycleState.READY, LifecycleState.HEALTHY),
    (LifecycleState.READY, LifecycleState.DEGRADED),
    (LifecycleState.READY, LifecycleState.SHUTDOWN),
    (LifecycleState.HEALTHY, LifecycleState.SHUTDOWN),
    (LifecycleState.DEGRADED, LifecycleState.SHUTDOWN),
)


def column_of_states(name: str, title: str, nodes: Iterable[str], edges: dict[tuple[str, str], list[str]]) -> str:
    """Draw states below one another: what stays goes round the left, what leaps round a side where it crosses none."""
    nodes = list(nodes)
    x, half, parts = WIDTH // 2, BOX[0] // 2, []
    right: list[tuple[int, int]] = []
    for index, node in enumerate(nodes):
        y = STEP * index + BOX[1]
        parts.append(
            f'<rect x="{x - half}" y="{y - BOX[1] // 2}" width="{BOX[0]}" height="{BOX[1]}" rx="8"/>'
            f'<text x="{x}" y="{y + 5}">{escape(node)}</text>'
        )
    for (a, b), labels in edges.items():
        i, j = nodes.index(a), nodes.index(b)
        start, end = STEP * i + BOX[1], STEP * j + BOX[1]
        if i == j:
            left = x - half
            path = f"M{left} {start - 10} C{left - 44} {start - 32} {left - 44} {start + 32} {left} {start + 10}"
            at, anchor = (left - 40, start + 4), "end"
        elif j == i + 1:
            path = f"M{x} {start + BOX[1] // 2} L{x} {end - BOX[1] // 2}"
            at, anchor = (x + 10, (start + end) // 2 + 4), "start"
        else:
            crosses = any(i < k < j < m or k < i < m < j for k, m in right)
            side = -1 if crosses else 1
            if not crosses:
                right.append((i, j))
            # The longer of two that share a box lies outside the shorter one at both ends.
            inset = 10 - 8 * (j - i - 2)
            edge, bend = x + side * half, x + side * (half + 32 * (j - i))
            path = f"M{edge} {start + inset} C{bend} {start + inset} {bend} {end - inset} {edge} {end - inset}"
            at, anchor = (edge + side * (24 * (j - i) + 8), (start + end) // 2 + 4), "end" if crosses else "start"
        parts.append(f'<path d="{path}" marker-end="url(#{name}-arrow)"/>')
        if labels:
            text = escape(", ".join(labels))
            parts.append(f'<text class="label" style="text-anchor: {anchor}" x="{at[0]}" y="{at[1]}">{text}</text>')
    return svg(name, title, STEP * (len(nodes) - 1) + 2 * BOX[1], parts)


def svg(name: str, title: str, height: int, parts: Iterable[str]) -> str:
    """An SVG of that height, for being put into a page as it is."""
    return (
        f'<div class="diagram"><svg role="img" aria-label="{escape(title)}" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
        f"<defs>{ARROW.format(name)}</defs>{''.join(parts)}</svg></div>\n"
    )


def states_diagram() -> str:
    """The states of one end, from TRANSITIONS."""
    edges = defaultdict(list)
    for (before, happening), after in TRANSITIONS.items():
        edges[before.value, after.value].append(happening.value)
    return column_of_states("states", "The states of one end of a connection", [s.value for s in State], edges)


def lifecycle_diagram() -> str:
    """The states of a guest, from LifecycleState."""
    edges: dict[tuple[str, str], list[str]] = {(before.value, after.value): [] for before, after in LIFECYCLE}
    return column_of_states("lifecycle", "The states of a guest", [s.value for s in LifecycleState], edges)


def exchange_diagram() -> str:
    """Who says what to whom, from REGISTRY."""
    name, host, guest_at, y = "exchange", 50, WIDTH - 50, 60
    parts = []
    for row in REGISTRY:
        steps = {
            Kind.REQUEST: [(Role.HOST, row.type), (Role.GUEST, row.reply.type if row.reply else "")],
            Kind.NOTIFICATION: [(Role.GUEST, row.type)],
            Kind.REPLY: [],
        }[row.kind]
        for sender, label in steps:
            start, end = (host, guest_at) if sender is Role.HOST else (guest_at, host)
            dashed = ' class="dashed"' if row.kind is Kind.NOTIFICATION else ""
            parts.append(f'<line{dashed} x1="{start}" y1="{y}" x2="{end}" y2="{y}" marker-end="url(#{name}-arrow)"/>')
            parts.append(f'<text class="label" x="{WIDTH // 2}" y="{y - 5}">{escape(label)}</text>')
            y += 24
        y += 10 if steps else 0
    for x, label in ((host, "host"), (guest_at, "guest")):
        parts.append(f'<text x="{x}" y="24">{label}</text><line x1="{x}" y1="34" x2="{x}" y2="{y}"/>')
    return svg(name, "Requests and their replies, and the notification", y + 10, parts)


# ---------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------

TYPES = {str: "text", bool: "bool", StateName: "text", U32: "u32"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def fields_of(cls: type[Any]) -> str:
    """The members of a payload, those in brackets that are left out when they are zero."""
    names = []
    for field in wire_fields(cls):
        type_ = TYPES.get(field.type, "i64" if field.type in ZERO else "list")
        text = f"`{field.name}` {type_}"
        names.append(f"[{text}]" if OMIT_ZERO in field.metadata else text)
    return ", ".join(names) or "none"


def messages_table() -> str:
    """Every message of the registry."""
    rows = (
        [
            f"`{row.type}`",
            f"{{py:class}}`~stereos_proto.{row.cls.__name__}`",
            row.sender.value,
            fields_of(row.cls),
            f"`{row.reply.type}`" if row.reply else "",
        ]
        for row in REGISTRY
    )
    return table(["type", "class", "sent by", "payload", "answered by"], rows)


def requirements_table() -> str:
    """In which state the other end must be."""
    rows = (
        [f"a {kind.value}", kind.sender.value, ", ".join(s.value for s in State if s in allowed)]
        for kind, allowed in REQUIREMENTS.items()
    )
    return table(["to send", "the sender is the", "and the other end is"], rows)


def imports_of(module: str) -> Iterator[str]:
    """What a module, or a package with all of its modules, imports when it is loaded, by full names."""
    place = Path(sys.modules[module].__file__ or "")
    is_package = place.name == "__init__.py"
    within = module if is_package else module.rpartition(".")[0]
    for path in place.parent.rglob("*.py") if is_package else [place]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                root = within.split(".")[: -node.level + 1 or None] if node.level else []
                source = ".".join([*root, *([node.module] if node.module else [])])
                yield from (source, *(f"{source}.{name.name}" for name in node.names))


def rooms_table() -> str:
    """The modules of both packages, each below those that it imports. Raises CycleError where that cannot be."""
    rows: list[list[str]] = []
    for package in (stereos_proto, stereos_proto_io):
        found = [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
        modules = [importlib.import_module(name).__name__ for name in found if not name.endswith("__main__")]
        order = TopologicalSorter({name: sorted({*imports_of(name)} & {*modules} - {name}) for name in modules})
        for name in order.static_order():
            sentence = re.split(r" \(`docs|\. |\.$", summary(sys.modules[name]))[0]
            rows += [[f"`{name}`", sentence]]
    return table(["module", "what it is"], rows)


def error_classes() -> dict[str, type[StereosError]]:
    """The errors that are exported, each below its base."""
    exported = {
        name: getattr(stereos_proto, name)
        for name in stereos_proto.__all__
        if inspect.isclass(getattr(stereos_proto, name)) and issubclass(getattr(stereos_proto, name), StereosError)
    }

    def ancestry(item: tuple[str, type[StereosError]]) -> list[str]:
        return [cls.__name__ for cls in reversed(item[1].__mro__) if issubclass(cls, StereosError)]

    return dict(sorted(exported.items(), key=ancestry))


def errors_list() -> str:
    """Every error with its cause and its remedy. Raises ValueError when one of these is missing or left over."""
    classes = error_classes()
    if set(classes) != set(REMEDIES):
        raise ValueError(f"remedies.py and the exported errors differ: {set(classes) ^ set(REMEDIES)}")
    parts = []
    for name, cls in classes.items():
        bases = " and ".join(f"{{py:obj}}`{base.__name__}`" for base in cls.__bases__)
        cause, remedy = REMEDIES[name]
        parts.append(f"### {name}\n\nBase: {bases}\n\n**Cause.** {cause}\n\n**Remedy.** {remedy}\n")
    return "\n".join(parts)


def connect_table() -> str:
    """What the system's errors mean when a guest is dialled."""
    rows = (
        [f"`{errno.errorcode[number]}`", meaning, "yes" if retryable else "no"]
        for number, (meaning, retryable) in _MEANINGS.items()
    )
    return table(["the system says", "which means", "tried again"], rows)


def faults_table() -> str:
    """Every fault of the simulator."""
    rows = (
        [f"`{row.form}`", row.strikes, row.effect, f"`{row.example}`"]
        for row in sorted(faults.fault_table(), key=lambda row: row.name)
    )
    return table(["fault", "applies to a", "what happens", "for example"], rows)


# ---------------------------------------------------------------------------------------------------------
# API and command line
# ---------------------------------------------------------------------------------------------------------

#: Title → the module, and the private modules of it whose names belong there; None for all that are left.
API: tuple[tuple[str, str, ModuleType, tuple[str, ...] | None], ...] = (
    ("core", "The connection", stereos_proto, ("_connection", "_codec", "_state", "_registry")),
    ("core", "Messages", stereos_proto, ("_messages",)),
    ("core", "Events", stereos_proto, ("_events",)),
    (
        "core",
        "Sessions",
        stereos_proto,
        ("_call", "_host_session", "_guest_session", "_host_client", "_turns", "_mailbox", "_running"),
    ),
    ("core", "Preambles", stereos_proto, ("_preamble",)),
    ("core", "Plans", stereos_proto, ("_provision", "_jcard")),
    ("core", "Errors", stereos_proto, ("_errors", "_frames")),
    ("core", "Redaction", stereos_proto, ("_redact",)),
    ("core", "Dialogues", dialogues, None),
    ("core", "Testing", core_testing, None),
    ("core", "Testing: strategies", strategies, None),
    ("io", "Addresses", addresses, None),
    ("io", "Files", stereos_proto_io, ("_files",)),
    ("io", "Blocking", blocking, None),
    ("io", "asyncio", asyncio, None),
    ("io", "trio", trio, None),
    ("io", "Drivers of your own", driver, None),
    ("guest", "Simulator", guest, None),
    ("guest", "Faults", faults, None),
    ("guest", "Effects", effects, None),
    ("guest", "Servers: blocking", guest_blocking, None),
    ("guest", "Servers: asyncio", guest_asyncio, None),
    ("guest", "Servers: trio", guest_trio, None),
    ("guest", "Testing hosts", testing, None),
    ("guest", "Testing guests", conformance, ("_guest_case", "_guest_peer", "_guest_report", "_guest_run")),
)


#: The modules whose names become links where pages write them in backticks. A name that two have is the first's.
LINKED = (stereos_proto, addresses, dialogues, guest, testing)


def public_names(module: ModuleType) -> list[str]:
    """What a module exports: its `__all__`, or what is its own and has a docstring."""
    names = getattr(module, "__all__", None)
    if names is not None:
        return list(names)
    documented = constants_of(module.__name__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (name in documented or getattr(value, "__module__", None) == module.__name__ or is_union_of(module, value))
    ]


def is_union_of(module: ModuleType, value: Any) -> bool:
    """Whether a value is a union of classes of a module, such as `Address`."""
    return isinstance(value, UnionType) and {cls.__module__ for cls in get_args(value)} == {module.__name__}


@functools.cache
def constants_of(module: str) -> dict[str, str]:
    """The names of a module that have a comment with a colon, which is their docstring, and that text."""
    docs = ModuleAnalyzer.for_module(module).find_attr_docs()
    return {name: " ".join(lines).strip() for (cls, name), lines in docs.items() if not cls}


@functools.cache
def all_constants() -> dict[str, str]:
    """`constants_of` all modules of the two packages."""
    found = {}
    for package in (stereos_proto, stereos_proto_io):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".cli" not in info.name and not info.name.endswith("__main__"):
                found |= constants_of(info.name)
    return found


def api_sections(part: str) -> Iterator[str]:
    """Sections of autodoc directives."""
    for which, title, module, homes in API:
        if which != part:
            continue
        own = [(name, getattr(module, name)) for name in public_names(module)]
        wanted = [
            (name, value)
            for name, value in own
            if is_described(value) and (homes is None or value.__module__.removeprefix(f"{module.__name__}.") in homes)
        ]
        wanted.sort(key=lambda item: (item[1].__module__, inspect.getsourcelines(item[1])[1]))
        yield f"## {title}\n\n"
        if homes is None:
            yield f"```{{eval-rst}}\n.. automodule:: {module.__name__}\n   :no-members:\n```\n\n"
        for name, value in wanted:
            yield autodoc(module, name, value)
        if module not in (stereos_proto, stereos_proto_io):  # whose constants stand on a page of their own
            yield from (data(module, name, value) for name, value in own if not is_described(value))


def is_shown(base: type) -> bool:
    """Whether a class is worth being named as a base: it is not `object`, nor one of ours without a place here."""
    if not base.__module__.startswith("stereos_proto"):
        return base is not object
    return any(base in map(vars(module).get, public_names(module)) for _, _, module, _ in API)


def is_described(value: Any) -> bool:
    """Whether a value is a class or a function, which have docstrings of their own."""
    return inspect.isclass(value) or inspect.isroutine(value)


def autodoc(module: ModuleType, name: str, value: Any) -> str:
    """One autodoc directive."""
    if inspect.ismethod(value):
        # Sphinx takes it for a function and then drops a parameter each time it shows the method.
        of = f"{value.__self__.__name__}.{value.__name__}"
        directives = (
            f".. py:currentmodule:: {module.__name__}\n.. py:function:: {name}(...)\n\n   ``{of}``, for short.\n"
        )
        return f"```{{eval-rst}}\n{directives}```\n\n"
    if inspect.isfunction(value):
        return f"```{{eval-rst}}\n.. autofunction:: {module.__name__}.{name}\n```\n\n"
    options = ["members", *(["show-inheritance"] if any(map(is_shown, value.__bases__)) else [])]
    if name == "Client":
        options.append("inherited-members")
    if issubclass(value, Enum):
        options.append("undoc-members")
    if attrs.has(value):
        # The fields stand in the signature, and the docstring says what they are for.
        fields = ", ".join(field.name for field in attrs.fields(value))
        options.append(f"exclude-members: {fields}" if fields else "")
    lines = "".join(f"   :{option}:\n" if ":" not in option else f"   :{option}\n" for option in options if option)
    kind = "autoexception" if issubclass(value, Exception) else "autoclass"
    return f"```{{eval-rst}}\n.. {kind}:: {module.__name__}.{name}\n{lines}```\n\n{verbs_errors(name, value)}"


def verbs_errors(name: str, value: Any) -> str:
    """What all verbs of a client have in common, from the docstring of the class that brings them."""
    if name != "Client":
        return ""
    verbs = SyncVerbs if issubclass(value, SyncVerbs) else AsyncVerbs
    return f"```{{eval-rst}}\n{inspect.getdoc(verbs)}\n```\n\n"


def data(module: ModuleType, name: str, value: Any) -> str:
    """The directive for a constant, or for a union of classes."""
    if isinstance(value, UnionType):
        text, shown = f"One of {', '.join(f'`{cls.__name__}`' for cls in get_args(value))}.", ""
    else:
        text = all_constants()[name].replace("\\", r"\\")  # a comment is no markup
        few = isinstance(value, frozenset) and len(value) < FEW
        shown = f"{{{', '.join(sorted(map(repr, map(str, value))))}}}" if few else f"{value!r}"
    line = f"   :value: {shown}\n" if shown and len(shown) < LONG else ""
    directives = f".. py:currentmodule:: {module.__name__}\n.. py:data:: {name}\n{line}\n   {text}\n"
    return f"```{{eval-rst}}\n{directives}```\n\n"


#: A set of more members, and a value of more characters, is not shown.
FEW = 5
LONG = 60


def constants() -> str:
    """What the core exports beside classes and functions."""
    own = ((name, getattr(stereos_proto, name)) for name in sorted(stereos_proto.__all__))
    return "".join(data(stereos_proto, name, value) for name, value in own if not is_described(value))


def names_table() -> str:
    """Every message on the wire, as a class, and the verb of the clients that sends or yields it."""
    rows = []
    for row in (*REGISTRY, *OPEN_ROWS.values()):
        items = [item.__name__ for field in wire_fields(row.cls) for item in get_args(field.type) if attrs.has(item)]
        shown = " with ".join(f"`{name}`" for name in (row.cls.__name__, *items))
        verb = {
            Kind.REQUEST: row.type if hasattr(blocking.Client, row.type) else "request",
            Kind.NOTIFICATION: "notifications",
            Kind.REPLY: "",
        }[row.kind]
        type_ = f"`{row.type}`" if row.type else f"any other {row.kind.value}"
        rows.append([type_, shown, verb and f"`{verb}`"])
    return table(["on the wire", "class", "verb"], rows)


def help_of(*words: str) -> str:
    """What `stereosctl … --help` says, 80 columns wide."""
    text = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(text):
            stereosctl([*words, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def commands() -> Iterator[tuple[str, ...]]:
    """Every command of `stereosctl`, those below others included."""
    from stereos_proto_io.cli._tree import make_app  # noqa: PLC0415  (its import is what the command line itself delays)

    waiting = [((), make_app())]
    while waiting:
        words, app = waiting.pop(0)
        if words:
            yield words
        waiting += [((*words, name), app[name]) for name in app if not name.startswith("-")]


def cli_reference() -> str:
    """The help of every command."""
    parts = [f"```text\n{help_of()}\n```\n"]
    parts += [f"## stereosctl {' '.join(words)}\n\n```text\n{help_of(*words)}\n```\n" for words in sorted(commands())]
    return "\n".join(parts)


#: Package in which an import of an example is, where it has another name.
PACKAGES = {"PySide6": "PySide6-Essentials", "prometheus_client": "prometheus-client", "twisted": "Twisted"}
#: What is no package of PyPI's, and how it is installed.
SYSTEM = {"gi": "`python3-gi`, a package of the system"}


@attrs.frozen
class Example:
    """A file of the folder `examples`: what it shows, how it is called, and what it needs beside this library."""

    name: str
    summary: str
    call: str
    needs: str

    @classmethod
    def of(cls, path: Path) -> Example:
        """Read it from its first sentence, which ends in the command, and from its imports."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        sentence = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
        summary, call = re.split(r": (?=(?:python|pytest) )", sentence)
        return cls(path.name, summary, call, _needs(tree))


def _needs(tree: ast.Module) -> str:
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    roots = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    roots = {root for root in roots if not root.startswith("stereos_proto")}
    return ", ".join(SYSTEM.get(root, f"`{PACKAGES.get(root, root)}`") for root in sorted(roots))


def examples(*, loops: bool) -> str:
    """The examples, those with event loops or the others: a table, and each with its text."""
    paths = sorted((HERE.parent / "examples").glob("*.py"))
    chosen = [Example.of(path) for path in paths if path.name.startswith("loop_") is loops]
    rows = [[f"[{one.name}](#{nodes.make_id(one.name)})", one.summary, one.needs] for one in chosen]
    parts = [table(["file", "what it shows", "needs"], rows)]
    for one in chosen:
        include = f"```{{literalinclude}} /../examples/{one.name}\n:language: python\n```"
        parts.append(f"### {one.name}\n\n{one.summary}.\n\n```sh\n{one.call}\n```\n\n{include}\n")
    return "\n".join(parts)


#: Lines of code that a whole client, or a guest, may take at most in a loop of each kind.
GOALS = {"callbacks": 80, "coroutines": 40, "green threads": 30, "guest": 45}
#: What a client for a loop of each kind is made of.
BASES = {
    "LoopClient": "callbacks",
    "PollClient": "callbacks",
    "FdClient": "coroutines",
    "GreenClient": "green threads",
    "GuestSession": "guest",
}
#: Examples that bring a loop of their own, and the class in each that is the client.
OWN_LOOPS = {"loop_handmade": "Client", "loop_selectors": "SelectorsClient", "loop_threads": "ThreadClient"}


@attrs.frozen
class Size:
    """How many lines of code an example of an event loop takes: the client, or the guest, and the file."""

    name: str
    kind: str
    client: int
    file: int

    @classmethod
    def of(cls, path: Path) -> Size:
        """Count them. The kind is that of the class of this library that the example uses."""
        words = set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
        kind = next((kind for base, kind in BASES.items() if base in words), "coroutines")
        own = OWN_LOOPS.get(path.stem)
        client = count_lines.count(path, own) if own else count_lines.count_without_main(path)
        return cls(path.name, kind, client, count_lines.count(path))


def sizes() -> list[Size]:
    """Those of all examples of event loops, and of the guests."""
    folder = HERE.parent / "examples"
    return [Size.of(path) for path in sorted((*folder.glob("loop_*.py"), *folder.glob("guest_*.py")))]


def sizes_table() -> str:
    """The line counts of all loops."""
    rows = (
        [f"[{one.name}](#{nodes.make_id(one.name)})", one.kind, str(one.client), f"≤ {GOALS[one.kind]}", str(one.file)]
        for one in sizes()
    )
    return table(["file", "kind", "client or guest", "goal", "whole file"], rows)


def screens() -> str:
    """The pictures of `stereosctl`, as many as there are, each with its twin for narrow pages where it has one."""
    parts = []
    for path in sorted((HERE / "screens").glob("*.svg")):
        name, narrow, _ = path.stem.partition("-narrow")
        parts.append(f"![stereosctl {name}](/screens/{path.name}){{.{'narrow' if narrow else 'wide'}}}")
    return "\n\n".join(parts)


def wrong_clients_table() -> str:
    """The clients that are wrong on purpose, by the case of `check_client` that finds each."""
    found = defaultdict(list)
    for path in sorted((HERE.parent / "tests" / "client" / "wrong_clients").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "wrong":
                    found[ast.literal_eval(mark.args[0])].append(ast.get_docstring(node) or "")
    rows = [(f"`{case}`", " ".join(" ".join(what.split()) for what in whats)) for case, whats in sorted(found.items())]
    return table(("case", "what it finds"), rows)


def unreleased() -> str:
    """What the next release changes, from the fragments; nothing where there are none."""
    if not list((HERE.parent / "changelog.d").glob("+*")):
        return ""
    line = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--dir", str(HERE.parent)]
    notes = subprocess.run(line, capture_output=True, text=True, check=True).stdout  # noqa: S603  (our own arguments)
    return "## The next release\n" + notes.strip().partition("\n")[2]


def main(folder: Path) -> None:
    """Write everything into `folder`."""
    folder.mkdir(exist_ok=True)
    pages = {
        "states.svg": states_diagram(),
        "lifecycle.svg": lifecycle_diagram(),
        "exchange.svg": exchange_diagram(),
        "messages.md": messages_table(),
        "requirements.md": requirements_table(),
        "rooms.md": rooms_table(),
        "errors.md": errors_list(),
        "connect.md": connect_table(),
        "faults.md": faults_table(),
        "constants.md": constants(),
        "names.md": names_table(),
        "cli.md": cli_reference(),
        "examples-loops.md": examples(loops=True),
        "examples-sizes.md": sizes_table(),
        "examples-others.md": examples(loops=False),
        "screens.md": screens(),
        "unreleased.md": unreleased(),
        "wrong-clients.md": wrong_clients_table(),
        **{f"api-{part}.md": "".join(api_sections(part)) for part in ("core", "io", "guest")},
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(HERE / "_generated")
