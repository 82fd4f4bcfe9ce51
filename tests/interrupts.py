"""A Ctrl-C at a given place or at each, what the frames show that it has passed, and signals that interrupt no wait."""

import sys
import traceback
from itertools import count

import pytest

import stereos_proto

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


_FOLDER = stereos_proto.__path__[0]


class Interrupt(BaseException):
    """What a signal handler raises."""


class Interrupter:
    """Raises an Interrupt at the n-th line of the library, counted over all `with` blocks of it."""

    def __init__(self, place):
        self.left = place
        self.hit = False
        self.just_hit = False

    def __enter__(self):
        self.just_hit = False
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, _kind, error, _trace):
        sys.settrace(self._before)
        return isinstance(error, Interrupt)

    def _trace(self, frame, event, _argument):
        if not frame.f_code.co_filename.startswith(_FOLDER):
            return None
        if event == "line" and not self.hit:
            self.left -= 1
            if self.left < 0:
                self.hit = self.just_hit = True
                raise Interrupt
        return self._trace


def every_place(scene):
    """Run `scene` with an interrupt at each line that it executes, until it ends without one."""
    for place in count():
        interrupter = Interrupter(place)
        scene(interrupter)
        if not interrupter.hit:
            assert place > 100
            return
