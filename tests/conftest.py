"""Settings for every test: generated examples are the same from run to run in CI, and never timed."""

import os
import signal

from hypothesis import HealthCheck, settings

from again import pytest_runtest_logreport, pytest_sessionfinish  # noqa: F401  (hooks of every run)

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# A shell starts what runs in its background with Ctrl-C ignored, nohup ignores SIGHUP, and every process below inherits
# that. Here, signals are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(_number, signal.SIG_DFL)
