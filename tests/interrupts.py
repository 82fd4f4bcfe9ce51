"""A Ctrl-C at a given place, what the frames show that it has passed, and signals that interrupt no wait."""

import traceback

import pytest

#: These stand for functions of the library: their frames hold what they were given, and what they made of it.
_SOURCE = """
def interrupt(*arguments, **options):
    raise KeyboardInterrupt

def interrupt_after(function):
    def interrupted(*arguments, **options):
        result = function(*arguments, **options)
        raise KeyboardInterrupt
    return interrupted
"""
_made = {}
exec(compile(_SOURCE, "/src/stereos_proto/interrupted.py", "exec"), _made)
interrupt, interrupt_after = _made["interrupt"], _made["interrupt_after"]


def locals_of(error):
    """The local variables of the library's frames, as text."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return repr([frame.f_locals for frame in frames if "/src/stereos_proto" in frame.f_code.co_filename])


def traceback_sizes(error, function):
    """How many frames the tracebacks of `error` have when `function` raises it again and again."""
    sizes = set()
    for _ in range(3):
        with pytest.raises(error) as caught:
            function()
        sizes.add(len(traceback.extract_tb(caught.value.__traceback__)))
    return sizes


def with_signals_elsewhere(module):
    """A script that runs the `main` of a module so that another thread gets the signals.

    Python notes them as it notes those that come just before the main thread begins to wait: they do not interrupt the
    wait.
    """
    return f"""
import signal, sys, threading
from {module} import main
numbers = {{signal.SIGINT, signal.SIGTERM, signal.SIGHUP}}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
def take():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    threading.Event().wait()
threading.Thread(target=take, daemon=True).start()
sys.exit(main())
"""
