"""Waiting for what another thread or process does."""

import time

#: Seconds that only a hang takes.
PATIENCE = 60


def until(condition, process=None):
    """Wait until `condition()` is true and return what it gave; fail if `process` ends first, or nothing happens."""
    end = time.monotonic() + PATIENCE
    while not (met := condition()):
        assert process is None or process.poll() is None, f"the process has ended with {process.returncode}"
        assert time.monotonic() < end, f"this did not become true within {PATIENCE} seconds"
        time.sleep(0.002)
    return met
