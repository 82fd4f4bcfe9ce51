"""The older name of `stereos_proto_io.conformance`, for the suite that examines guests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Final

from .._old_names import old_name


def _of_suite(name: str) -> object:
    return getattr(import_module("stereos_proto_io.conformance"), name)


#: Names that used to be defined here. The suite is now in a layer above this one, so it is looked up at run time and
#: not imported.
_OLD: Final[dict[str, tuple[Callable[[], object], str]]] = {
    name: (partial(_of_suite, name), "import it from stereos_proto_io.conformance")
    for name in ("CASES", "Case", "Deviation", "Need", "Outcome", "Report", "Result", "run")
}


def __getattr__(name: str) -> object:
    return old_name(__name__, name, _OLD)


def __dir__() -> list[str]:
    return list(_OLD)
