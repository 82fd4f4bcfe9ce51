"""What went wrong, as an exit code and as one line."""

from __future__ import annotations

from typing import Final

from cyclopts import CycloptsError

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    JcardError,
    LifecycleState,
    LocalProtocolError,
    NotReady,
    OutcomeUnknown,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
)


class UsageError(Exception):
    """The command line, or a file that it names, makes no sense. The text says what would."""


class SaidNo(Exception):
    """What was asked for was done, and the answer is no: a check failed, a step was refused. Shown already."""


class BrokenOutput(Exception):
    """Whoever read our output has gone. Nothing more can be said to anybody."""


REFUSED: Final = 1
DEADLINE: Final = 124

#: Exit code, what it means, and the errors that end in it. The most special class that fits an error counts.
EXIT_CODES: Final[tuple[tuple[int, str, tuple[type[BaseException], ...]], ...]] = (
    (0, "done", ()),
    (REFUSED, "the guest said no", (RequestFailed, SaidNo)),
    (2, "usage: the command line or a file of yours", (CycloptsError, UsageError, JcardError, LocalProtocolError)),
    (3, "cannot connect, or the connection was lost", (ConnectError, ConnectionLost)),
    (4, "the guest broke the protocol", (RemoteProtocolError,)),
    (5, "outcome unknown: it was sent, the reply was lost", (OutcomeUnknown,)),
    (DEADLINE, "the deadline has passed", (RequestTimeout, NotReady)),
    (130, "interrupted", (KeyboardInterrupt,)),
    (141, "whoever read the output has gone", (BrokenOutput,)),
)
_CODE_OF: Final = {cls: code for code, _, classes in EXIT_CODES for cls in classes}


def exit_code(error: BaseException) -> int | None:
    """The exit code for `error`, None when it is none of ours."""
    if isinstance(error, NotReady) and _gave_up(error):
        return REFUSED
    return next((_CODE_OF[cls] for cls in type(error).__mro__ if cls in _CODE_OF), None)


def _gave_up(error: NotReady) -> bool:
    """Whether it was the guest that ended the wait, and not the deadline."""
    return error.last_state == LifecycleState.SHUTDOWN or isinstance(error.last_error, RequestFailed)
