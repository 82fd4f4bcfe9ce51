"""Every public name says what it is, what it raises, and which section of the protocol it goes by."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap

import stereos_proto
import stereos_proto_io

PACKAGES = (stereos_proto, stereos_proto_io)
#: All modules without an underscore, but those of the command line, which is no library.
PUBLIC = tuple(package.__name__ for package in PACKAGES) + tuple(
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if "._" not in module.name and ".cli" not in module.name
)
#: What speaks of no wire: the two bases of all errors, what is told of a server, and what a driver asks of its system.
NO_SECTION = {"StereosError", "ProtocolError", "GuestServer", "serve", "Event", "again", "seconds"}
NO_SECTION |= {"begin_lookup", "lookup", "lookup_number", "names"}
#: Modules whose names need no section: tools for tests, which have their own words.
TOOLS = re.compile(r"testing|conformance|faults|pytest_plugin")
#: Faults belong to those tools, wherever they are exported.
FAULTS = "stereos_proto_io.guest.faults"
#: Errors of Python's own that callers have to know of.
BUILTIN = {"ValueError", "TypeError", "RuntimeError", "OSError"}


def public_things(module):
    """The classes and functions that a module exports, by name."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    for name in names:
        thing = getattr(module, name)
        if not name.startswith("_") and (inspect.isclass(thing) or inspect.isroutine(thing)):
            yield name, thing


def methods(cls):
    """The public methods and properties of a class, inherited ones of ours included, each with its home."""
    for home in cls.__mro__:
        if not home.__module__.startswith("stereos_proto"):
            continue
        for name, value in vars(home).items():
            value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            named = not name.startswith("_") or name == "__init__"
            if named and inspect.isfunction(value) and value.__module__ == home.__module__:
                yield name, value, home


def functions():
    """Every public function and method: where it is, itself, and the docstrings of the classes that it belongs to."""
    for module in map(importlib.import_module, PUBLIC):
        for name, thing in public_things(module):
            if inspect.isroutine(thing):
                yield f"{module.__name__}.{name}", thing, ""
            else:
                for method, function, home in methods(thing):
                    yield f"{module.__name__}.{name}.{method}", function, f"{thing.__doc__} {home.__doc__}"


def raised_by(function):
    """The names of the errors that a function raises itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:
        return set()  # made by attrs
    found = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    names = {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc) for exc in found}
    return {name for name in names if name in BUILTIN or name in dir(stereos_proto)}


def test_every_public_name_has_a_docstring():
    bare = [module for module in PUBLIC if not importlib.import_module(module).__doc__]
    for module in map(importlib.import_module, PUBLIC):
        bare += [f"{module.__name__}.{name}" for name, thing in public_things(module) if not thing.__doc__]
    bare += [
        path for path, function, _ in functions() if not path.endswith("__init__") and not inspect.getdoc(function)
    ]
    assert bare == []


def test_docstrings_name_the_errors_that_are_raised():
    silent = {}
    for path, function, context in functions():
        missing = {name for name in raised_by(function) if name not in f"{inspect.getdoc(function)} {context}"}
        if missing:
            silent[path] = missing
    assert silent == {}


#: Parameters that are in a unit, by the word that says which.
UNITS = {
    "second": {"timeout", "request_timeout", "boot_time", "poll_interval", "first", "maximum"},
    "byte": {"max_line_size", "size"},
}


def test_docstrings_name_units():
    silent = []
    for module in map(importlib.import_module, PUBLIC):
        for name, thing in public_things(module):
            classes = thing.__mro__ if inspect.isclass(thing) else ()
            members = methods(thing) if classes else [("", thing, None)]
            for method, function, _ in members:
                doc = " ".join(str(part.__doc__) for part in (function, *classes))
                for word, parameters in UNITS.items():
                    for parameter in parameters & set(inspect.signature(function).parameters):
                        if word not in doc:
                            silent.append(f"{module.__name__}.{name}.{method}({parameter})")
    assert silent == []


def test_docstrings_name_their_section_of_the_protocol():
    from stereos_proto_io.driver import AsyncVerbs, SyncVerbs

    things = [
        thing
        for module in PUBLIC
        if not TOOLS.search(module)
        for thing in public_things(importlib.import_module(module))
        if thing[1].__module__ != FAULTS
    ]
    for verbs in (SyncVerbs, AsyncVerbs):
        things += [(f"{verbs.__name__}.{name}", function) for name, function, _ in methods(verbs)]
    bare = [name for name, thing in things if name not in NO_SECTION and not re.search(r"§\d", thing.__doc__)]
    assert bare == []
    sections = {number for _, thing in things for number in re.findall(r"§(\d+)", thing.__doc__)}
    assert sections <= {str(number) for number in range(1, 11)}
