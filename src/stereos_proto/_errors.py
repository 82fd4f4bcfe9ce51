"""Everything that can go wrong, as one tree below `StereosError`.

Texts are written for the operator of a guest: they describe the guest and the request. They never hold a value that was
sent or received, because that value may be a secret (`docs/security.md`).

Every class can be copied, so that each of several callers can be given an exception of its own with a traceback of
its own, and pickled, so that it means the same in another process.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import attrs

from ._messages import named, redacted
from ._redact import MAX_SENTENCE, Redactor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._messages import Health, Message, Request

#: The label of a guest that was given no other.
GUEST: Final = "the guest"


class StereosError(Exception):
    """Base of every error that this library raises on purpose.

    Each can be copied and pickled with all its attributes, its notes and its cause. A copy refers to the same requests.
    In a pickle, the secrets of these requests are replaced by "[redacted]": such a request shows what it was, and can
    no longer be sent.
    """

    #: The label of the guest that the error is about, from the session or client that raised it. None: unknown.
    guest: str | None = None

    def about(self, guest: str) -> Self:
        """Set `guest`, unless it is set already, and return the error.

        Where the text does not name the guest, a note does, which tracebacks and logs show.
        """
        if self.guest is None:
            self.guest = guest
            if guest != GUEST and not _is_named(guest, str(self)):
                self.add_note(f"guest: {guest}")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        cause = None if self.__cause__ is None else _portable(self.__cause__)
        return _rebuilt, (type(self), _portable(self.args), _portable(self.__dict__), cause, self.__suppress_context__)

    def __copy__(self) -> Self:
        return _rebuilt(type(self), self.args, self.__dict__, self.__cause__, self.__suppress_context__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        args = copy.deepcopy(self.args, memo)
        state = {name: _deep(value, memo) for name, value in self.__dict__.items()}
        return _rebuilt(type(self), args, state, _deep(self.__cause__, memo), self.__suppress_context__)


def _is_named(guest: str, text: str) -> bool:
    """Whether `guest` stands in `text`, and not as a part of a word. Without `re`, which would keep each label."""
    around = ((before[-1:], after[:1]) for before, after in pairwise(text.split(guest or None)))
    return not guest or any(not (before.isalnum() or after.isalnum()) for before, after in around)


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, or `value` itself if it cannot be copied, such as an exception of another library."""
    with suppress(Exception):
        return copy.deepcopy(value, memo)
    return value


def reason_of(cause: BaseException | None) -> str:
    """The text of an exception, to stand in parentheses, without an OSError's number; its class if it has no text."""
    return str(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)


E = TypeVar("E", bound=StereosError)


def _rebuilt(
    cls: type[E], args: tuple[Any, ...], state: dict[str, Any], cause: BaseException | None, silent: bool
) -> E:
    """An error as it was. Its `__init__` is not called: it may want other arguments than `args`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    if notes := state.get("__notes__"):
        error.__notes__ = [*notes]  # its own: a note for one caller is not for the others
    error.__cause__ = cause
    error.__suppress_context__ = silent
    return error


def _portable(value: Any) -> Any:
    """`value` as it may leave the process: messages without their secrets, exceptions that can be made again there.

    An exception of another library may refuse to be pickled, or, worse, to be unpickled: that breaks a whole
    process pool. So it is tried, and where it fails a plain Exception with the same text takes its place.
    """
    if isinstance(value, dict):
        return {name: _portable(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_portable, value))
    if isinstance(value, BaseException) and not isinstance(value, StereosError):
        import pickle  # noqa: PLC0415  (a caller that pickles has loaded it; others need not)

        try:
            pickle.loads(pickle.dumps(value))  # noqa: S301  (our own bytes)
        except Exception:  # noqa: BLE001  (it may raise anything)
            return Exception(f"{type(value).__qualname__}: {value}")
    return redacted(value)


class ProtocolError(StereosError):
    """One end broke the protocol. Abstract: see `LocalProtocolError` and `RemoteProtocolError`."""

    def __new__(cls, *args: object, **_kwargs: object) -> Self:
        if cls is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError, which say whose mistake it was")
        return super().__new__(cls, *args)


class Refusal(Enum):
    """Why a message was not sent (§1 to §5).

    `MESSAGE`: it can never be sent as it is. `FULL`: too many requests wait for their reply; send it again when
    one of them is answered. `ENDED`: this end, or the peer, has ended its side of the connection.
    """

    MESSAGE = "message"
    FULL = "full"
    ENDED = "ended"


class LocalProtocolError(ProtocolError, ValueError):
    """You asked for something that the protocol forbids (§1 to §5). Nothing was sent and no state has changed.

    `refusal` tells a bad message from a connection that takes no more now, or ever.
    """

    def __init__(self, text: str, *, refusal: Refusal = Refusal.MESSAGE) -> None:
        super().__init__(text)
        self.refusal = refusal


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids (§1 to §4). The connection cannot go on."""


class LineTooLong(RemoteProtocolError):
    """The peer sent a line longer than the limit (`docs/protocol.md` §1).

    `limit` is in bytes, line ending included.
    """

    def __init__(self, text: str, *, limit: int = 0) -> None:
        super().__init__(text)
        self.limit = limit


class MalformedLine(RemoteProtocolError):
    """A line is not a JSON object with a textual `type` (§3).

    `column` is the 1-based column of the first fault, counted in characters, where it is known, else 0.
    `reason` is the fault alone, without the sentence around it. Where the line is JSON but no envelope,
    `found` is the JSON type that stands where another should, and `path` the place ("" is the whole line).
    """

    def __init__(self, text: str, *, reason: str = "", column: int = 0, path: str = "", found: str = "") -> None:
        super().__init__(text)
        self.reason: str = reason or text
        self.column = column
        self.path = path
        self.found = found


class IncompleteLine(MalformedLine):
    """The peer closed the connection in the middle of a line (§1)."""


class InvalidMessage(RemoteProtocolError):
    """A line is an envelope, but its payload does not fit its type (§4).

    `type` is the message type as received, `path` the member at fault (`payload.agents[3].name`), `reason`
    the fault alone. `missing` says that there is no payload where the type needs one.
    """

    def __init__(self, text: str, *, type: str = "", path: str = "", reason: str = "", missing: bool = False) -> None:
        super().__init__(text)
        self.type = type
        self.path = path
        self.reason: str = reason or text
        self.missing = missing


class UnexpectedReply(RemoteProtocolError):
    """The guest sent a reply that answers no request, or not the oldest unanswered one (§3).

    `reply` is what came, `request` the oldest unanswered request, or None when nothing had been asked.
    """

    def __init__(self, text: str, *, reply: Message | None = None, request: Message | None = None) -> None:
        super().__init__(text)
        self.reply = reply
        self.request = request


class PreambleFailure(Enum):
    """Why the bytes before the protocol proper did not lead to it (§8, §9)."""

    NOBODY_LISTENS = "nobody listens"
    CUT = "cut"
    GARBAGE = "garbage"
    TOO_LONG = "too long"

    @property
    def retryable(self) -> bool:
        """Whether a later attempt may succeed without any change to the setup."""
        return self in (PreambleFailure.NOBODY_LISTENS, PreambleFailure.CUT)


class PreambleError(RemoteProtocolError):
    """The transport's own handshake failed before the first message (§8, §9). `failure` says how."""

    def __init__(self, text: str, *, failure: PreambleFailure = PreambleFailure.GARBAGE) -> None:
        super().__init__(text)
        self.failure = failure


class ConnectError(StereosError):
    """No connection to the guest could be made (§8).

    The text names the address; the operating system's error is chained. `retryable` is False when trying
    again cannot help (no such address family, a path too long, no permission). `timed_out` is True when there was
    no answer at all: a dialogue that dials again then waits longer (`dialogues.ReadyWait`).
    """

    def __init__(self, text: str, *, retryable: bool = True, timed_out: bool = False) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.timed_out = timed_out


class ConnectionLost(StereosError):
    """The connection ended before the reply came, or before the request could be sent (§1); or a task was cancelled.

    `unanswered` are the requests that were still waiting, oldest first. `closed_here` tells that this end has ended the
    connection, and not the guest or the network: that says nothing about what the guest did.

    `OutcomeUnknown` is a subclass, and its request is not safe to repeat: catch it first, or test for it.
    """

    def __init__(self, text: str, *, unanswered: Sequence[Message] = (), closed_here: bool = False) -> None:
        super().__init__(text)
        self.unanswered: tuple[Message, ...] = tuple(unanswered)
        self.closed_here = closed_here


class OutcomeUnknown(ConnectionLost):
    """The connection ended, or a task was cancelled, after `request` was sent: it may or may not have been done (§6).

    Only raised for requests that change something in the guest; a lost `ping` or `get_health` is a plain
    `ConnectionLost` and is safe to repeat.
    """

    def __init__(
        self,
        text: str,
        *,
        request: Message | None = None,
        unanswered: Sequence[Message] = (),
        closed_here: bool = False,
    ) -> None:
        super().__init__(text, unanswered=unanswered, closed_here=closed_here)
        self.request = request


class RequestFailed(StereosError):
    """The guest read the request and said no (§3). `error` is the guest's own sentence.

    If the guest quotes a secret of the request, it is redacted here (`Redactor`). A text that exceeds 8,192 characters
    by more than 192 is cut to 8,192, followed by its length.
    """

    def __init__(self, request: Request, error: str) -> None:
        try:
            clean = Redactor([request]).redact(error, max_length=MAX_SENTENCE) if error else error
        except BaseException:
            # KeyboardInterrupt, for example: its traceback includes this frame, which must not hold the guest's text.
            self.args: tuple[Any, ...] = ()
            del error
            raise
        super().__init__(request, clean)
        self.request = request
        self.error = clean

    def __str__(self) -> str:
        return f"the guest refused {named(self.request)}: {self.error or 'it gave no reason'}"


class RequestTimeout(StereosError, TimeoutError):
    """The reply did not come in time (§3). It is also a subclass of Python's `TimeoutError`.

    `sent` tells whether the request had left: if it had, the guest may still carry it out, and the reply, if
    it comes, is swallowed. If it had not, nothing happened.
    """

    def __init__(self, text: str, *, request: Message | None = None, sent: bool = False) -> None:
        super().__init__(text)
        self.request = request
        self.sent = sent


class NotReady(StereosError):
    """The guest did not get ready (§6): the deadline passed, or it said that it is shutting down.

    `last_state` is the last state that it reported (None: it never did), `last_error` the last error that a
    try ended in, `tries` the number of probes. `agents_wanted` are the agents that were waited for, `health` is the
    last report that came (None: none did).
    """

    def __init__(
        self,
        text: str,
        *,
        last_state: str | None = None,
        last_error: BaseException | None = None,
        tries: int = 0,
        agents_wanted: Sequence[str] = (),
        health: Health | None = None,
    ) -> None:
        super().__init__(text)
        self.last_state = last_state
        self.last_error = last_error
        self.tries = tries
        self.agents_wanted: tuple[str, ...] = tuple(agents_wanted)
        self.health = health


@attrs.frozen
class JcardFault:
    """One thing that is wrong with a jcard.toml (§10)."""

    #: Its line, 1-based; 0 where there is none.
    line: int
    #: The path of its key, such as `agents[0].harness`; "" for the whole file.
    key: str
    #: What is wrong, with the key in it. It shows no values, except names of agents.
    text: str


class JcardError(StereosError, ValueError):
    """A jcard.toml cannot be used (§10). The text names the file and all of its faults. It shows no values,
    except names of agents.

    `faults` are all that was found, in the order of their lines. `line` and `key` are those of the first: `line` is
    1-based, 0 where there is none; `key` is the path of the key, "" for the whole file.
    """

    def __init__(self, text: str, *, line: int = 0, key: str = "", faults: Sequence[JcardFault] = ()) -> None:
        super().__init__(text)
        self.line = line
        self.key = key
        self.faults: tuple[JcardFault, ...] = tuple(faults)
