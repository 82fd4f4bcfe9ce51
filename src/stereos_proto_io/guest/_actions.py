"""What a session wants done to its stream, in order. Bytes are to be written; the rest is here."""

from __future__ import annotations

import attrs


@attrs.frozen
class Pause:
    """Wait `seconds` before the next step."""

    seconds: float


@attrs.frozen
class Close:
    """Close this stream; with `reset`, throw away what is in it (a TCP RST)."""

    reset: bool = False


@attrs.frozen
class Silence:
    """Write nothing more, and keep the stream open."""


@attrs.frozen
class PowerOff:
    """The guest is gone: close every stream and stop listening."""


@attrs.frozen
class Reboot:
    """As PowerOff, and listen again after `seconds`."""

    seconds: float = 0.0


Action = bytes | Pause | Silence | Close | PowerOff | Reboot
