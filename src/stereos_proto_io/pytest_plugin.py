"""The pytest fixture `stereos_guest`. Loaded by pytest itself, so it imports nothing until a test wants a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .testing import SimulatedGuest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "stereos_guest(**options): what the guest of the fixture `stereos_guest` is like; see simulated_guest",
    )


@pytest.fixture
def stereos_guest(request: pytest.FixtureRequest) -> Iterator[SimulatedGuest]:
    """A simulated StereOS guest for this test: connect to `.address`, look at `.simulator` for what it got.

    It runs in threads of its own, so blocking, asyncio and trio tests use it alike. A marker says what it is
    like: `@pytest.mark.stereos_guest(faults=["drop@mount#2"])`; its arguments are those of
    `stereos_proto_io.testing.simulated_guest`.
    """
    from .testing import simulated_guest  # noqa: PLC0415  (see the module)

    marker = request.node.get_closest_marker("stereos_guest")
    with simulated_guest(*(marker.args if marker else ()), **(marker.kwargs if marker else {})) as guest:
        yield guest
