"""Settings for the tests of the project as a whole."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def processes_that_are_not_measured():
    """What is started here is Sphinx, pip or a copy of the tests: to measure them takes three times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
