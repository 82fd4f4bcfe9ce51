"""Modules with a fault in them, to see that an exploration finds it."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType


def real(name: str) -> ModuleType:
    """The module as it is."""
    return importlib.import_module(name)


def module(name: str, old: str, new: str) -> ModuleType:
    """The module `name`, with the one place `old` of its source replaced by `new`. It is not in `sys.modules`."""
    source = inspect.getsource(real(name))
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {name}"
    made = ModuleType(name)
    made.__package__ = name.rpartition(".")[0]
    # attrs looks up the module of a class that it makes anew for its slots.
    assert name in sys.modules
    exec(compile(source.replace(old, new), f"<{name}, planted>", "exec"), vars(made))  # our own source
    return made
