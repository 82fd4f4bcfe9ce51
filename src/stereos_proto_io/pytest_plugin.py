"""The pytest fixture `stereos_guest`. Loaded by pytest itself, so it imports nothing until a test wants a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from .testing import SimulatedGuest

_NAME: Final = "stereos_guest"

#: Key of a test's stash: whether it has a guest.
_HAS_GUEST: Final = pytest.StashKey[bool]()

#: Key of a test's stash: its guest, where the marker is strict.
_STRICT: Final = pytest.StashKey["SimulatedGuest"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "stereos_guest(**options): what the guest of the fixture `stereos_guest` is like; see simulated_guest. "
        "With strict=True, a test whose faults did not all happen fails. Markers of module, class and test add up. "
        "A test that is marked itself has to use the fixture.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that is marked and has no guest: it would test nothing of what its marker says.

    Only its own marker counts. Those of a module or a class also cover tests without a guest.
    """
    result = yield
    has_guest = item.stash.get(_HAS_GUEST, False) or _NAME in getattr(item, "fixturenames", ())
    if not has_guest and any(marker.name == _NAME for marker in item.own_markers):
        pytest.fail(
            f"{item.name} is marked {_NAME}, and does not use the fixture of that name: give it the argument "
            f"`{_NAME}`, or the marker usefixtures({_NAME!r})",
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that passed, and whose marker is strict, when one of the faults never happened."""
    result = yield
    guest = item.stash.get(_STRICT, None)
    if guest is not None and (unused := guest.simulator.faults.unused):
        texts = ", ".join(str(fault) for fault in unused)
        pytest.fail(
            "these faults never happened, because their request or connection did not come, or because they changed "
            f"nothing there: {texts}",
            pytrace=False,
        )
    return result


@pytest.fixture
def stereos_guest(request: pytest.FixtureRequest) -> Iterator[SimulatedGuest]:
    """A simulated StereOS guest for this test: connect to `.address`, look at `.simulator` for what it got.

    It runs in threads of its own, so blocking, asyncio and trio tests can use it. A marker configures it:
    `@pytest.mark.stereos_guest(faults=["drop@mount#2"])`; its arguments are those of
    `stereos_proto_io.testing.simulated_guest`.

    Markers of module, class and test are combined. Their faults are concatenated, those of the module first: of faults
    that exclude each other, that of the nearest marker happens. For every other argument the nearest marker wins. A
    test that is marked itself, and does not use this fixture, fails at its set-up; markers of a module or a class may
    cover tests without a guest.

    A fault whose request or connection does not come, or that changes nothing there, never happens. The test passes
    all the same, unless the marker says `strict=True`: then it fails, and the text names the fault.
    `FaultPlan.unused` says what counts.

    A test that needs two guests makes the second one with `simulated_guest`.
    """
    from .testing import simulated_guest  # noqa: PLC0415  (see the module)

    address, options = _merged([*request.node.iter_markers(_NAME)][::-1])
    strict = options.pop("strict", False)
    with simulated_guest(*address, **options) as guest:
        request.node.stash[_HAS_GUEST] = True
        if strict:
            request.node.stash[_STRICT] = guest
        yield guest


def _merged(markers: Sequence[pytest.Mark]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of several markers, the nearest last."""
    address: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    for marker in markers:
        faults = marker.kwargs.get("faults", ())
        if isinstance(faults, str):
            # Letter by letter, a text would be many faults. The simulator refuses it.
            return address, {"faults": faults}
        faults = [*options.get("faults", ()), *faults]
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
