"""In CI, a failed test is run again by itself, to tell apart tests that fail only beside thousands of others.

A busy machine can fail a correct test: a deadline of seconds passes while a hundred processes wait for two processors.
So each failed test is run `TIMES` times more, with nothing beside it. If it passes each time, the run is not a failure,
and the test is named in the output, to be mended. One more failure fails the run, and so do more than `MOST` failed
tests. Outside CI nothing is run again.
"""

import os
import subprocess
import sys

import pytest

TIMES = 5
MOST = 5
#: Set in the processes that run tests again.
_MARK = "STEREOS_TESTS_AGAIN"

_failed = set()


def _is_on():
    return bool(os.environ.get("CI")) and not {_MARK, "PYTEST_XDIST_WORKER"} & {*os.environ}


def pytest_runtest_logreport(report):
    """Name a failure at once: a run that is cut off would otherwise end without its list of them."""
    if report.failed and _is_on():
        _failed.add(report.nodeid)
        print(f"\nFAILED {report.nodeid}\n{report.longreprtext[-2000:]}", file=sys.stderr, flush=True)


def pytest_sessionfinish(session):
    if session.exitstatus != pytest.ExitCode.TESTS_FAILED or not 0 < len(_failed) <= MOST:
        return
    again = (sys.executable, "-m", "pytest", "-q", "--no-header", *sorted(_failed))
    for count in range(1, TIMES + 1):
        run = subprocess.run(again, cwd=session.config.rootpath, env={**os.environ, _MARK: "1"}, check=False)
        if run.returncode:
            print(f"failed again, in run {count} of {TIMES} by itself: {', '.join(sorted(_failed))}", file=sys.stderr)
            return
    session.exitstatus = pytest.ExitCode.OK
    print(f"\nTO BE MENDED, passed {TIMES} times by itself: {', '.join(sorted(_failed))}", file=sys.stderr, flush=True)
