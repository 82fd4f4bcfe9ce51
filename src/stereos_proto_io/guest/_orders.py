"""Orders of a session to its server, in addition to reading and writing."""

from __future__ import annotations

import attrs


@attrs.frozen(eq=False)
class Pause:
    """Wait `seconds`, then call the session's `resume` with this. Reading or writing stands still until then."""

    seconds: float
    #: Whether writing waits; else it is the next request that is not handed out yet.
    writing: bool


@attrs.frozen
class Close:
    """Close this connection; with `reset`, throw away what is in it (a TCP RST)."""

    reset: bool = False


@attrs.frozen
class PowerOff:
    """The guest is gone: close every connection and stop listening."""


@attrs.frozen
class Reboot:
    """As PowerOff, and listen again after `seconds`."""

    seconds: float = 0.0


Order = Pause | Close | PowerOff | Reboot
