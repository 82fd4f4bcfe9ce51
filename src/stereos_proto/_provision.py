"""What a guest is given before its agents start: the plan, and how it went.

`docs/protocol.md` §6 (what the guest does with it), §7 (what goes wrong when it is done naively).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Self

import attrs

from ._connection import Connection
from ._errors import (
    LocalProtocolError,
    OutcomeUnknown,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    StereosError,
)
from ._messages import Ack, InjectSecret, InjectSSHKey, KeptHere, Mount, Reply, Request, SetConfig, redacted
from ._redact import Redactor
from ._registry import Role


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise TypeError("several strings are wanted, such as a tuple of them, not one string")
    return tuple(values)


def _only(cls: type) -> Callable[[Any, attrs.Attribute[Any], tuple[Any, ...]], None]:
    def check(_plan: Any, attribute: attrs.Attribute[Any], values: tuple[Any, ...]) -> None:
        for value in values:
            if not isinstance(value, cls):
                raise TypeError(f"{attribute.name} takes {cls.__name__} only, not {type(value).__name__}")

    return check


@attrs.frozen
class ProvisionPlan(KeptHere):
    """What a guest is to be given (§6). `config` is the text of its jcard.toml, None to leave it alone.

    `agents` are the names of the agents that the config starts: what to wait for afterwards.

    Raises LocalProtocolError when a step could never be sent, before anything is.
    """

    mounts: tuple[Mount, ...] = attrs.field(default=(), converter=_tuple, validator=_only(Mount))
    secrets: tuple[InjectSecret, ...] = attrs.field(default=(), converter=_tuple, validator=_only(InjectSecret))
    ssh_keys: tuple[InjectSSHKey, ...] = attrs.field(default=(), converter=_tuple, validator=_only(InjectSSHKey))
    config: str | None = attrs.field(default=None, repr=False)
    agents: tuple[str, ...] = attrs.field(default=(), converter=_tuple, validator=_only(str))

    def __init__(
        self,
        mounts: Iterable[Mount] = (),
        secrets: Iterable[InjectSecret] = (),
        ssh_keys: Iterable[InjectSSHKey] = (),
        config: str | None = None,
        agents: Iterable[str] = (),
    ) -> None:
        try:
            self.__attrs_init__(mounts, secrets, ssh_keys, config, agents)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            return
        except (LocalProtocolError, TypeError) as exc:
            # Its frames, and this one, hold secrets; and half a plan has no repr.
            error = exc.with_traceback(None)
        del config, secrets, self
        raise error

    def __attrs_post_init__(self) -> None:
        # A connection that leads nowhere refuses exactly what a real one would.
        trial = Connection(Role.HOST, max_pending=len(self.requests) + 1)
        for request in self.requests:
            trial.send(request)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The steps in the order that is safe: agents start when the config comes, so it comes last (§7)."""
        config = () if self.config is None else (SetConfig(self.config),)
        return (*self.mounts, *self.secrets, *self.ssh_keys, *config)


class StepStatus(Enum):
    """How a step went (§6). `UNKNOWN`: it was sent, and the connection ended before the reply."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_SENT = "not sent"


@attrs.frozen
class ProvisionStep:
    """One request of a plan (§6), how it went, and the error where it did not go well."""

    request: Request
    status: StepStatus
    error: StereosError | None = None

    @classmethod
    def of(cls, request: Request, outcome: Reply | StereosError, redactor: Redactor | None = None) -> ProvisionStep:
        """Sort an outcome into a step. `redactor` knows the secrets of the other steps, which a refusal may quote."""
        if isinstance(outcome, Ack) and not outcome.ok:
            error = redactor.redact(outcome.error) if redactor else outcome.error
            return cls(request, StepStatus.REFUSED, RequestFailed(request, error))
        if isinstance(outcome, Reply):
            return cls(request, StepStatus.DONE)
        # A guest that breaks the protocol had been sent what it was to answer.
        sent = isinstance(outcome, OutcomeUnknown | RemoteProtocolError) or (
            isinstance(outcome, RequestTimeout) and outcome.sent
        )
        return cls(request, StepStatus.UNKNOWN if sent else StepStatus.NOT_SENT, outcome)

    def __reduce__(self) -> tuple[Any, ...]:
        # As errors do: a report may go to another process, and a secret may not.
        return ProvisionStep, (redacted(self.request), self.status, self.error)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    @property
    def label(self) -> str:
        """What the step is about, without its secret: "mount share0 at /workspace"."""
        match self.request:
            case Mount(tag=tag, guest_path=path):
                return f"mount {tag} at {path}"
            case InjectSecret(name=name):
                return f"secret {name}"
            case InjectSSHKey(user=user):
                return f"SSH key of {user}"
            case _:
                return "config"


@attrs.frozen
class ProvisionReport:
    """How each step of a plan went, in the order of the plan (§7)."""

    steps: tuple[ProvisionStep, ...]

    @property
    def ok(self) -> bool:
        """Whether every step is done."""
        return not self.failed

    @property
    def failed(self) -> tuple[ProvisionStep, ...]:
        """The steps that are not done."""
        return tuple(step for step in self.steps if step.status is not StepStatus.DONE)

    def raise_for_failure(self) -> None:
        """Raise the error of the first step that is not done, if there is one."""
        if self.failed:
            step = self.failed[0]
            raise step.error or StereosError(f"{step.label}: {step.status.value}")
