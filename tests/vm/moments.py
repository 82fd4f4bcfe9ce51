"""What the tests of awkward moments have in common: outcomes, and what they wait for."""

import threading
from contextlib import contextmanager
from functools import partial

from .guest.hosts import HOSTS

RUNTIMES = tuple(HOSTS)
#: What a client says when nothing comes: a deadline of its own, or of the caller's.
NO_ANSWER = ("Timeout", "ConnectError")
#: What it says of a request whose connection is lost.
LOST = ("ConnectionLost", "OutcomeUnknown")


@contextmanager
def meanwhile(seconds, function, *args):
    """Have `function` called in some seconds, by another thread, and wait for it in the end."""
    timer = threading.Timer(seconds, function, args)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def all_hosts(scenario, *args):
    """What each of the clients runs, for `in_step`."""
    return {name: one_host(name, scenario, *args) for name in RUNTIMES}


def one_host(runtime, scenario, *args):
    """What one of the clients runs."""
    return partial(HOSTS[runtime]().run, scenario, *args)
