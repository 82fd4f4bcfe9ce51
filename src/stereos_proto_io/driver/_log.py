"""What the clients log: rare events, at DEBUG, without values (`docs/howto/logging.md`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

#: The one logger of the clients. What a program configures for it holds for all of them.
logger: Final = logging.getLogger("stereos_proto_io")


def log_for(label: object) -> Callable[..., None]:
    """Return a function that logs `text % args` about the guest of that name, where DEBUG is wanted."""

    def log(text: str, *args: Any) -> None:
        # `stacklevel` makes records point to the caller. While DEBUG is off, each of many records costs only this test.
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: " + text, label, *args, stacklevel=2)  # noqa: G003  (texts of ours)

    return log
