"""What went wrong, as an exit code and as one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, overload


class UsageError(Exception):
    """The command line, or a file that it names, is invalid. The text says what is valid."""

    #: Whether a request that changes the guest may have left. The code of the conversation corrects it.
    sent: bool | None = False


class SaidNo(Exception):
    """The command ran, and its result is negative: a check failed, or a step was refused. The result has been shown."""


class GuestError(Exception):
    """An error of the library, with the guest called as the user calls it."""

    def __init__(self, text: str, error: BaseException) -> None:
        super().__init__(text)
        #: What the library raised.
        self.error = error
        #: Whether a request that changes the guest may have left. The code of the conversation corrects it.
        self.sent = _sent(error)


class Interrupted(Exception):
    """The user interrupted the conversation with a guest, or the command before there was one.

    `step` is what was being done, "" before a guest was asked; None where the result says how far it came.
    """

    def __init__(self, step: str | None = "", *, sent: bool | None = False) -> None:
        where = "" if step is None else f" while {step}" if step else " before a guest was asked"
        super().__init__(f"interrupted{where}")
        #: Whether a request that changes the guest may have left.
        self.sent = sent


class BrokenOutput(Exception):
    """The reader of our output has closed it. The error cannot be shown."""


class OutputFailed(Exception):
    """Our output could not be written: a full disk."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. It interrupts a command as Ctrl-C does; the process dies of that signal then."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        #: The signal.
        self.number = number


DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
BROKEN: Final = 4
UNKNOWN: Final = 5
DEADLINE: Final = 124
INTERRUPTED: Final = 130
UNHEARD: Final = 141


class ExitCode(NamedTuple):
    """An exit code, and what it means."""

    code: int
    #: For the summary of many guests.
    word: str
    meaning: str
    #: The errors that end in it, by name: to know a name nothing has to be loaded. The most special class of an error
    #: that is named counts.
    errors: tuple[str, ...] = ()


EXIT_CODES: Final = (
    ExitCode(DONE, "done", "done"),
    ExitCode(REFUSED, "said no", "the guest said no", ("RequestFailed", "SaidNo")),
    ExitCode(
        USAGE,
        "not usable",
        "usage: the command line or a file of yours",
        ("CycloptsError", "UsageError", "JcardError", "LocalProtocolError", "OutputFailed"),
    ),
    ExitCode(
        UNREACHABLE,
        "unreachable",
        "cannot connect, or the connection was lost",
        ("ConnectError", "ConnectionLost"),
    ),
    ExitCode(BROKEN, "broke the protocol", "the guest broke the protocol", ("RemoteProtocolError",)),
    ExitCode(
        UNKNOWN,
        "outcome unknown",
        "outcome unknown: a change was sent, and no reply came",
        ("OutcomeUnknown",),
    ),
    ExitCode(
        DEADLINE,
        "not in time",
        "the deadline has passed; each change that was sent was answered",
        ("RequestTimeout", "NotReady"),
    ),
    ExitCode(
        INTERRUPTED,
        "interrupted",
        "interrupted; the process itself dies of SIGINT",
        ("KeyboardInterrupt", "Interrupted"),
    ),
    ExitCode(UNHEARD, "unheard", "the reader of the output has gone", ("BrokenOutput", "BrokenPipeError")),
)
_CODE_OF: Final = {name: each.code for each in EXIT_CODES for name in each.errors}

#: Exit codes of guests, from best to worst: for many guests, the worst one counts.
_SEVERITY: Final = (DONE, REFUSED, DEADLINE, UNREACHABLE, BROKEN, USAGE, UNKNOWN, INTERRUPTED)


def exit_code(error: BaseException) -> int | None:
    """The exit code for `error`, None when it is none of ours."""
    if isinstance(error, GuestError):
        return exit_code(error.error)
    names = _names(error)
    if "NotReady" in names and _gave_up(error):
        return REFUSED
    if "RequestTimeout" in names and getattr(error, "request", None) is not None and _sent(error):
        # The guest may still carry the request out, so it must not be sent again without a look at the guest.
        return UNKNOWN
    return next((_CODE_OF[name] for name in names if name in _CODE_OF), None)


def code_of(error: BaseException | None) -> int:
    """The exit code of what ended with `error`, or well without one."""
    return DONE if error is None else exit_code(error) or REFUSED


def worst(codes: Iterable[int]) -> int:
    """The exit code for many guests."""
    return max(codes, key=_SEVERITY.index, default=DONE)


def _names(error: BaseException) -> list[str]:
    return [cls.__name__ for cls in type(error).__mro__]


def _gave_up(error: Any) -> bool:
    """Whether it was the guest that ended the wait, and not the deadline."""
    return error.last_state == "shutdown" or type(error.last_error).__name__ == "RequestFailed"


#: Whether a request had left when an error came, by the error's name, where the error itself does not tell; the most
#: special class that is named counts. What is not named is None: something was asked, and nothing about it can be lost.
_SENT: Final = {
    "OutcomeUnknown": True,
    "RequestFailed": True,
    "RemoteProtocolError": True,
    "ConnectError": False,
    "LocalProtocolError": False,
    "JcardError": False,
    "CycloptsError": False,
}


def _sent(error: BaseException) -> bool | None:
    """Whether a request that changes the guest may have left. None: only questions did, which can be asked again."""
    request: Any = getattr(error, "request", None)
    if request is not None:
        from stereos_proto import changes_guest  # noqa: PLC0415  (the code that made the request has loaded it)

        if not changes_guest(request):
            return None
    by_name = next((_SENT[name] for name in _names(error) if name in _SENT), None)
    sent: bool | None = getattr(error, "sent", by_name)
    return sent


@overload
def error_document(error: BaseException) -> dict[str, Any]: ...
@overload
def error_document(error: BaseException | None) -> dict[str, Any] | None: ...
def error_document(error: BaseException | None) -> dict[str, Any] | None:
    """An error, as JSON: its sentence, its class, whether a request had been sent, and whether the guest refused it."""
    if error is None:
        return None
    text, sent = str(error), _sent(error)
    if isinstance(error, GuestError):
        error = error.error
    names = _names(error)
    # The parser's own classes are an implementation detail.
    kind = UsageError.__name__ if "CycloptsError" in names else names[0]
    return {"error": text, "kind": kind, "sent": sent, "refused_by_guest": "RequestFailed" in names}


def told(error: BaseException | None) -> dict[str, Any] | None:
    """What is to be told of an error, as JSON: nothing of a result that is negative and says so itself."""
    return error_document(None if isinstance(error, SaidNo) else error)
