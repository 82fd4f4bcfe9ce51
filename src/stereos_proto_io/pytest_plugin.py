"""The pytest fixture `stereos_guest`. Loaded by pytest itself, so it imports nothing until a test wants a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .testing import SimulatedGuest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "stereos_guest(**options): what the guest of the fixture `stereos_guest` is like; see simulated_guest. "
        "Markers of module, class and test add up.",
    )


@pytest.fixture
def stereos_guest(request: pytest.FixtureRequest) -> Iterator[SimulatedGuest]:
    """A simulated StereOS guest for this test: connect to `.address`, look at `.simulator` for what it got.

    It runs in threads of its own, so blocking, asyncio and trio tests use it alike. A marker says what it is
    like: `@pytest.mark.stereos_guest(faults=["drop@mount#2"])`; its arguments are those of
    `stereos_proto_io.testing.simulated_guest`.

    Markers of module, class and test add up. Their faults come one after the other, those of the module first; of
    every other argument the nearest marker's counts.
    """
    from .testing import simulated_guest  # noqa: PLC0415  (see the module)

    address, options = _merged([*request.node.iter_markers("stereos_guest")][::-1])
    with simulated_guest(*address, **options) as guest:
        yield guest


def _merged(markers: Sequence[pytest.Mark]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of several markers, the nearest last."""
    address: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    for marker in markers:
        faults = [*options.get("faults", ()), *marker.kwargs.get("faults", ())]
        options = {**options, **marker.kwargs}
        if faults:
            options["faults"] = faults
        if marker.args:
            address = marker.args
            # An address by its name in a farther marker would be a second one.
            options.pop("address", None)
        elif "address" in marker.kwargs:
            address = ()
    return address, options
