"""Ctrl-C at every place where it can come."""

import dis
import sys
from contextlib import suppress
from functools import cache

import pytest
import trio


@cache
def handlers(code, place):
    """Where an exception at this place of the bytecode is handled."""
    return [entry.target for entry in dis._parse_exception_table(code) if entry.start <= place < entry.end]


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place in this library where Python looks for signals."""

    #: It looks at the end of these, and where a function begins, and nowhere else: not between taking a lock and
    #: entering the block that gives it back, nor where a coroutine goes on.
    LOOKS = ("CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD")

    def __init__(self, number):
        self.left = number
        self.last = {}

    def __call__(self, frame, event, _argument):
        if "stereos_proto" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        code, place = frame.f_code, frame.f_lasti
        opcode, argument = code.co_code[place : place + 2]
        if event == "call" and dis.opname[opcode] == "RESUME" and argument == 0:
            self.look()
        elif event == "opcode":
            last, self.last[frame] = self.last.get(frame), place
            # A trace function is called for the end of one opcode when the next one begins: too late if that one leaves
            # a block.
            if (
                last is not None
                and dis.opname[code.co_code[last]] in self.LOOKS
                and handlers(code, last) == handlers(code, place)
            ):
                self.look()
        return self

    def look(self):
        with suppress(RuntimeError):
            trio.lowlevel.current_trio_token()  # raises it where trio does not run
            if trio.lowlevel.currently_ki_protected():
                return
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def interrupted(number, work):
    """Whether `work` was done before the interrupt came."""
    before = sys.gettrace()  # that of who measures coverage
    sys.settrace(Interrupt(number))
    try:
        work()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(before)
    return True


class Interrupting:
    """A socket, or the module `time`, in which a Ctrl-C comes: after the n-th call of one of its functions."""

    def __init__(self, inner, name, number):
        self.inner, self.name, self.left = inner, name, number

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.name:
            return found

        def call(*args):
            done = found(*args)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return done

        return call


#: Which places those are is a matter of the bytecode, which every version has anew.
bytecode_of_3_11 = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="counts places in the bytecode of CPython 3.11, where it is run"
)
