"""Print the lowest version of each direct dependency, as constraints for pip.

    python tools/lowest_versions.py > build/lowest.txt

A lower bound in pyproject.toml is a promise. `make test-lowest` installs exactly these versions and runs the tests.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

PYPROJECT: Final = Path(__file__).resolve().parent.parent / "pyproject.toml"
#: `NAME>=VERSION`, with whatever may follow.
_BOUND: Final = re.compile(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)")


def lowest(text: str) -> Iterator[str]:
    """Yield a constraint for each requirement of the project and its extras.

    Raises ValueError for one without a lower bound.
    """
    project = tomllib.loads(text)["project"]
    for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
        found = _BOUND.match(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(lowest(PYPROJECT.read_text(encoding="utf-8"))))
