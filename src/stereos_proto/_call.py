"""One request and what becomes of it: `Call`, and how a refusal becomes an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import attrs

from ._errors import GUEST, RequestFailed, StereosError
from ._messages import Ack, Reply, Request

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ReplyT = TypeVar("ReplyT", bound=Reply, default=Reply)
else:
    from typing import TypeVar

    ReplyT = TypeVar("ReplyT", bound=Reply)


@attrs.define(eq=False)
class Call(Generic[ReplyT]):
    """One request and its outcome (§3). `HostSession.request` makes it.

    `context` is yours: plain data, such as the future that waits for the call. Nothing here touches it.
    """

    # The request, as it was given.
    request: Request[ReplyT]
    # Any value of the caller's, available as `CallDone.call.context`.
    context: Any = None
    # When the call settles with RequestTimeout, on the caller's own clock. None: never.
    deadline: float | None = None
    # The reply (a refusal included), or the error that the call ended in. None: not settled yet.
    outcome: ReplyT | Ack | StereosError | None = attrs.field(
        default=None, repr=lambda outcome: "None" if outcome is None else f"<{type(outcome).__name__}>"
    )
    # Whether `outcome` is set.
    done: bool = False
    # Whether bytes of the request were handed out by `data_to_send`. The guest may then carry it out.
    sent: bool = False
    # The guest that it asks, for errors.
    _label: str = attrs.field(default=GUEST, repr=False, alias="label")
    # The encoded line, while the call waits for room in flight.
    _line: bytes | None = attrs.field(default=None, repr=False)
    # The place of its line in all that the session has handed out, in bytes.
    _start: int = attrs.field(default=0, repr=False)
    _end: int = attrs.field(default=0, repr=False)

    def result(self) -> ReplyT:
        """Return the reply.

        Raises RequestFailed when the guest refused the request, the error that the call ended in, RuntimeError
        while the call is not done.
        """
        # No local variable holds the outcome: a traceback shows those, and a refusal may quote a secret.
        if isinstance(self.outcome, StereosError):
            # Drop the traceback of an earlier `result()`: it would grow with each call, and keep frames alive.
            raise self.outcome.with_traceback(None)
        if self.outcome is None:
            raise RuntimeError(f"{self.request.type} is not done yet")
        if type(self.outcome) is Ack:
            raise_for_refusal(self.request, self.outcome, guest=self._label)
        return self.outcome  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  (an Ack that is no refusal)


def raise_for_refusal(request: Request, reply: Reply, *, guest: str | None = None) -> None:
    """Raise RequestFailed when `reply` refuses `request` (§3). `guest` is the label of the guest, for the error."""
    if type(reply) is Ack and not reply.ok:
        error = RequestFailed(request, reply.error)
        del reply  # it may quote a secret, which the error redacts
        raise error if guest is None else error.about(guest)
