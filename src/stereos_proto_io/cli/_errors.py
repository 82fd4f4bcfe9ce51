"""What went wrong, as an exit code and as one line."""

from __future__ import annotations

from typing import Any, Final


class UsageError(Exception):
    """The command line, or a file that it names, makes no sense. The text says what would."""


class SaidNo(Exception):
    """What was asked for was done, and the answer is no: a check failed, a step was refused. Shown already."""


class BrokenOutput(Exception):
    """Whoever read our output has gone. Nothing more can be said to anybody."""


class OutputFailed(Exception):
    """Our output could not be written: a full disk."""


REFUSED: Final = 1
DEADLINE: Final = 124

#: Exit code, what it means, and the errors that end in it, by name: to know a name nothing has to be loaded. The most
#: special class of an error that is named counts.
EXIT_CODES: Final[tuple[tuple[int, str, tuple[str, ...]], ...]] = (
    (0, "done", ()),
    (REFUSED, "the guest said no", ("RequestFailed", "SaidNo")),
    (
        2,
        "usage: the command line or a file of yours",
        ("CycloptsError", "UsageError", "JcardError", "LocalProtocolError", "OutputFailed"),
    ),
    (3, "cannot connect, or the connection was lost", ("ConnectError", "ConnectionLost")),
    (4, "the guest broke the protocol", ("RemoteProtocolError",)),
    (5, "outcome unknown: it was sent, the reply was lost", ("OutcomeUnknown",)),
    (DEADLINE, "the deadline has passed", ("RequestTimeout", "NotReady")),
    (130, "interrupted", ("KeyboardInterrupt",)),
    (141, "whoever read the output has gone", ("BrokenOutput", "BrokenPipeError")),
)
_CODE_OF: Final = {name: code for code, _, names in EXIT_CODES for name in names}


def exit_code(error: BaseException) -> int | None:
    """The exit code for `error`, None when it is none of ours."""
    names = [cls.__name__ for cls in type(error).__mro__]
    if "NotReady" in names and _gave_up(error):
        return REFUSED
    return next((_CODE_OF[name] for name in names if name in _CODE_OF), None)


def _gave_up(error: Any) -> bool:
    """Whether it was the guest that ended the wait, and not the deadline."""
    return error.last_state == "shutdown" or type(error.last_error).__name__ == "RequestFailed"
