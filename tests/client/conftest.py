"""Settings for the tests of the clients."""

import pytest

from .harness import UVLOOP


def pytest_runtest_setup(item):
    """Skip a test of uvloop where it is missing before the test begins: what it had begun would stay open."""
    arguments = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if any(argument is UVLOOP for argument in arguments):
        pytest.importorskip("uvloop")
