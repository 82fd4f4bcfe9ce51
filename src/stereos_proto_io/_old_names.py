"""Names of earlier versions that have a better one now: they work, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

#: For each old name: what makes its value, and what to write instead.
OldNames = Mapping[str, tuple[Callable[[], object], str]]


def old_name(module: str, name: str, names: OldNames) -> object:
    """Return what `name` stands for, for the `__getattr__` of a module. Raises AttributeError for any other name."""
    if name not in names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    make, advice = names[name]
    # The caller of `__getattr__`.
    warnings.warn(f"{module}.{name} is deprecated; {advice}", DeprecationWarning, stacklevel=3)
    return make()
