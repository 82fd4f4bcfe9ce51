"""What a timeout means: one table for every verb of every client.

========== ================================================================================================
`None`     the default: the client's own timeout where it has one, else no bound
`0`, less  the time is over before it begins: nothing is sent. Verbs raise RequestTimeout, `wait_ready`
           NotReady, a dial ConnectError; `provision` reports all steps as not sent
infinite   no bound; so is any number too large for a float
NaN        ValueError, before anything is sent
other type TypeError, before anything is sent
========== ================================================================================================
"""

from __future__ import annotations

from math import inf

#: Times of at least this many seconds are shown in whole seconds.
_LONG = 100


def seconds(timeout: float | None, default: float = inf) -> float:
    """Return the seconds that `timeout` gives: 0 or more, infinity for no bound. Raises TypeError, ValueError."""
    if timeout is None:
        return default
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"a timeout is a number of seconds or None, not {type(timeout).__name__}")
    if timeout != timeout:
        raise ValueError("a timeout must not be NaN")
    if timeout <= 0:
        return 0.0
    try:
        return float(timeout)
    except OverflowError:
        return inf


def in_words(time: float) -> str:
    """`time`, in seconds, as a sentence tells it: three digits at most where it is short, with its unit."""
    return f"{time:.0f} s" if time >= _LONG else f"{time:.3g} s"
