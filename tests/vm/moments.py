"""Deadlines, outcomes and scenarios that the tests of awkward moments have in common."""

import threading
from contextlib import contextmanager

from .guest.hosts import HOSTS

RUNTIMES = tuple(HOSTS)
#: Seconds for what works, on a busy machine.
PATIENCE = 30
#: Seconds for what cannot work: as long as we are willing to wait.
IMPATIENCE = 2
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


async def dial_and_ping(host, address):
    """Dial, and ping; return the kinds of what came of it."""
    dialled = await host.see(PATIENCE, host.dial, address)
    if dialled.error:
        return dialled.kind, str(dialled.error), dialled.error.retryable
    pinged = await host.see(PATIENCE, dialled.result.ping)
    await host.close(dialled.result)
    return pinged.kind, str(pinged.error), None
