"""`check_client` finds clients that are wrong: each row of the table, by the case that the row names.

What hangs is part of the table, so each row has a deadline of a few seconds. Threads of clients that hang for ever
are left behind; they wait, and do nothing.
"""

import pytest

from stereos_proto_io.testing import check_client, client_cases

from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO
from .wrong_clients import TABLE, Client

#: Seconds that a case gets with a wrong client. With a right one each takes less.
DEADLINE = 3

CASES = {case.name: case for case in client_cases()}

# What a wrong client leaves behind is not what this is about.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def options(driver):
    return {"run": None if driver is BLOCKING else driver.run, "within": driver.within}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_wrong_client_is_found(row, monkeypatch):
    with monkeypatch.context() as patch:
        make, when_ready = row.make(patch)
        with pytest.raises(AssertionError, match=f"^{row.case}: "):
            check_client(make, when_ready=when_ready, cases=[CASES[row.case]], deadline=DEADLINE, **options(row.driver))


@pytest.mark.parametrize("driver", [BLOCKING, ASYNCIO, TRIO], ids=str)
def test_the_unchanged_client_passes(driver):
    """So it is the change that each row is found by."""
    names = {row.case for row in TABLE if row.driver is driver}
    report = check_client(
        Client if driver is BLOCKING else driver.module.connect,
        when_ready=lambda address, seconds: driver.module.connect_when_ready(address, timeout=seconds),
        cases=[case for case in client_cases() if case.name in names],
        deadline=PATIENCE,
        **options(driver),
    )
    assert {*report.passed} == names


def test_the_table_is_large_and_clear():
    assert len(TABLE) >= 40
    assert len({row.name for row in TABLE}) == len(TABLE)
    assert all(row.what and row.case in CASES for row in TABLE)
