"""The older name of `stereos_proto_io.conformance`, for the suite that examines guests."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

#: What stood here. The suite now has a room above the guests that it examines, so it is looked up and not imported.
_NAMES = ("CASES", "Case", "Deviation", "Need", "Outcome", "Report", "Result", "run")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is stereos_proto_io.conformance.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(import_module("stereos_proto_io.conformance"), name)


def __dir__() -> list[str]:
    return list(_NAMES)
