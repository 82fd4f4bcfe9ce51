"""What a block costs: calls of functions, and bytes of memory."""

import contextlib
import gc
import sys
import tracemalloc

MIB = 1024 * 1024

#: What reading may cost for each byte of a line, at the worst: calls, and bytes of memory. SECURITY.md states them.
CALLS_PER_BYTE, MEMORY_PER_BYTE = 8, 150


class Cost:
    """What a block has cost: calls of functions, and bytes of memory at the highest."""

    calls = 0
    peak = 0

    def count(self, _frame, event, _argument):
        self.calls += event in ("call", "c_call")


@contextlib.contextmanager
def counted_calls():
    cost = Cost()
    before = sys.getprofile()
    sys.setprofile(cost.count)
    try:
        yield cost
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def counted_bytes():
    cost = Cost()
    gc.collect()
    tracemalloc.start()
    try:
        yield cost
        cost.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
