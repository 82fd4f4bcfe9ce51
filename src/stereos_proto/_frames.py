"""Removes secrets from tracebacks, which show the local variables of the frames that an exception has passed.

This library raises its own errors in frames that hold no secret. Another exception, such as a KeyboardInterrupt, can
come anywhere. So code that handles secrets catches every exception, clears the local variables, and raises it again.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from types import FrameType
from typing import Final

#: Flags of the code of generators, coroutines and asynchronous generators.
_SUSPENDS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

#: The prefix of the names of our modules, including those of `stereos_proto_io`.
_OURS: Final = __name__.partition(".")[0]


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of the frames that `error` has passed. File names and line numbers stay (§7).

    The caller's own frame keeps its variables, as it still runs. In the errors that were being handled when `error` was
    raised, only the functions of this library are cleared. Other frames may belong to the caller, and a generator may
    be suspended: it has handled that error and goes on, and clearing its frame would close it.
    """
    passed: BaseException | None = error
    # An exception of the caller's may stand in its own chain.
    seen: set[int] = set()
    while passed is not None and id(passed) not in seen:
        seen.add(id(passed))
        trace = passed.__traceback__
        while trace is not None:
            if passed is error or _is_over(trace.tb_frame):
                with suppress(RuntimeError):  # the caller's own frame
                    trace.tb_frame.clear()
            trace = trace.tb_next
        passed = passed.__context__


def _is_over(frame: FrameType) -> bool:
    code = frame.f_code
    return frame.f_globals.get("__name__", "").startswith(_OURS) and not code.co_flags & _SUSPENDS
