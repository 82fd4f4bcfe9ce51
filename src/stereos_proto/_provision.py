"""What a guest is given before its agents start: the plan, and how it went.

`docs/protocol.md` §6 (what the guest does with it), §7 (what goes wrong when it is done naively).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, Literal, Self

import attrs

from ._connection import Connection
from ._errors import (
    OutcomeUnknown,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    StereosError,
)
from ._messages import Ack, InjectSecret, InjectSSHKey, KeptHere, Mount, Reply, Request, SetConfig, redacted
from ._redact import Redactor
from ._registry import Role


def _tuple(values: Iterable[Any]) -> Any:
    # One string is several characters. The validator refuses it, which knows the name of the field.
    return values if isinstance(values, str) else tuple(values)


def _only(cls: type) -> Callable[[Any, attrs.Attribute[Any], tuple[Any, ...]], None]:
    def check(_plan: Any, attribute: attrs.Attribute[Any], values: tuple[Any, ...]) -> None:
        if isinstance(values, str):
            kind = "strings" if cls is str else cls.__name__
            raise TypeError(f"{attribute.name} takes several {kind}, such as a tuple of them, not one string")
        for value in values:
            if not isinstance(value, cls):
                raise TypeError(f"{attribute.name} takes {cls.__name__} only, not {type(value).__name__}")

    return check


@attrs.frozen
class ProvisionPlan(KeptHere):
    """What a guest is to be given (§6). `config` is the text of its jcard.toml, None to leave it alone.

    `agents` are the names of the agents that the config starts: what to wait for afterwards.
    `warnings` are sentences about what the user should know before it is carried out (§10); they change nothing.
    `earlier` are requests of an earlier try. They are not sent again. A guest may quote their secrets, which are
    redacted in the report as the secrets of the plan are.

    Raises LocalProtocolError when a step could never be sent, before anything is.
    """

    mounts: tuple[Mount, ...] = attrs.field(default=(), converter=_tuple, validator=_only(Mount))
    secrets: tuple[InjectSecret, ...] = attrs.field(default=(), converter=_tuple, validator=_only(InjectSecret))
    ssh_keys: tuple[InjectSSHKey, ...] = attrs.field(default=(), converter=_tuple, validator=_only(InjectSSHKey))
    config: str | None = attrs.field(default=None, repr=False)
    agents: tuple[str, ...] = attrs.field(default=(), converter=_tuple, validator=_only(str))
    warnings: tuple[str, ...] = attrs.field(default=(), converter=_tuple, validator=_only(str))
    earlier: tuple[Request, ...] = attrs.field(default=(), converter=_tuple, validator=_only(Request), eq=False)

    def __init__(
        self,
        mounts: Iterable[Mount] = (),
        secrets: Iterable[InjectSecret] = (),
        ssh_keys: Iterable[InjectSSHKey] = (),
        config: str | None = None,
        agents: Iterable[str] = (),
        warnings: Iterable[str] = (),
        earlier: Iterable[Request] = (),
    ) -> None:
        try:
            self.__attrs_init__(mounts, secrets, ssh_keys, config, agents, warnings, earlier)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            return
        except BaseException as exc:  # noqa: BLE001  (an iterable of the caller may raise anything)
            # Its frames, and this one, hold secrets; and half a plan has no repr.
            error = exc.with_traceback(None)
        del config, secrets, earlier, self
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
    """How a step went (§6). `UNKNOWN`: it was sent, and the connection or the time ended before its reply."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_SENT = "not sent"


_BECAUSE: Final = {
    StepStatus.REFUSED: "was refused",
    StepStatus.UNKNOWN: "has an unknown outcome",
    StepStatus.NOT_SENT: "was not sent",
}


@attrs.frozen
class ProvisionStep:
    """One request of a plan (§6), how it went, and the error where it did not go well."""

    request: Request
    status: StepStatus
    error: StereosError | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        outcome: Reply | StereosError,
        redactor: Redactor | None = None,
        guest: str | None = None,
    ) -> ProvisionStep:
        """Sort an outcome into a step. `redactor` knows the secrets of the other steps, which a refusal may quote.

        `guest` is the guest's label, for the error.
        """
        if isinstance(outcome, Ack) and not outcome.ok:
            error = redactor.redact(outcome.error) if redactor else outcome.error
            failed = RequestFailed(request, error)
            return cls(request, StepStatus.REFUSED, failed if guest is None else failed.about(guest))
        if isinstance(outcome, Reply):
            return cls(request, StepStatus.DONE)
        # A guest that breaks the protocol had been sent what it was to answer.
        sent = isinstance(outcome, OutcomeUnknown | RemoteProtocolError) or (
            isinstance(outcome, RequestTimeout) and outcome.sent
        )
        status = StepStatus.UNKNOWN if sent else StepStatus.NOT_SENT
        return cls(request, status, outcome if guest is None else outcome.about(guest))

    @classmethod
    def held_back(cls, request: Request, cause: ProvisionStep, guest: str | None = None) -> ProvisionStep:
        """The step that was not sent because `cause` did not go well.

        The text does not repeat what the guest said: it may quote a secret of the plan. The cause is chained.
        """
        error = StereosError(f"{_label(request)} was held back, because {cause.label} {_BECAUSE[cause.status]}")
        error.__cause__ = cause.error
        return cls(request, StepStatus.NOT_SENT, error if guest is None else error.about(guest))

    def __reduce__(self) -> tuple[Any, ...]:
        # As errors do: a report may go to another process, and a secret may not.
        return ProvisionStep, (redacted(self.request), self.status, self.error)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __str__(self) -> str:
        """How it went, what it is about, and the error, on one line."""
        # A refusal is a text of the guest's, whose newlines could forge a line of a report.
        error = f" ({' '.join(str(self.error).splitlines())})" if self.error else ""
        return f"{self.status.value}: {self.label}{error}"

    @property
    def _holds_secret(self) -> bool:
        return redacted(self.request) is not self.request

    @property
    def label(self) -> str:
        """What the step is about, without its secret: "mount share0 at /workspace"."""
        return _label(self.request)


def _label(request: Request) -> str:
    match request:
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
    """How each step of a plan went, in the order of the plan (§7). `agents` and `earlier` are those of the plan."""

    steps: tuple[ProvisionStep, ...]
    agents: tuple[str, ...] = ()
    earlier: tuple[Request, ...] = attrs.field(default=(), repr=False, eq=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # `earlier` is there for its secrets, which are not pickled.
        return ProvisionReport, (self.steps, self.agents)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    @property
    def ok(self) -> bool:
        """Whether every step is done."""
        return not self.failed

    @property
    def failed(self) -> tuple[ProvisionStep, ...]:
        """The steps that are not done."""
        return tuple(step for step in self.steps if step.status is not StepStatus.DONE)

    def __str__(self) -> str:
        """A line for each step: how it went, what it is about, and the error."""
        return "\n".join(map(str, self.steps)) or "no steps"

    def raise_for_failure(self) -> None:
        """Raise the error of the first step that is not done, if there is one."""
        if self.failed:
            step = self.failed[0]
            # With the traceback of a call before, it would grow with each.
            raise step.error.with_traceback(None) if step.error else StereosError(f"{step.label}: {step.status.value}")

    def remaining_plan(self, *, unknown_mounts: Literal["raise", "repeat", "skip"] = "raise") -> ProvisionPlan:
        """What a second try has to do: the steps that are not done, so that nothing is mounted twice (§6).

        Secrets, SSH keys and the config replace what was there, so those whose outcome is unknown are simply sent
        again. A mount is not like that. If it was carried out, repeating it lays a second mount over the first, or is
        refused because the share is busy; if it was not, leaving it out starts the agents in an empty folder. The
        host cannot ask the guest which it was. So this method does not choose: with a mount of unknown outcome it
        raises OutcomeUnknown, unless `unknown_mounts` says whether to "repeat" or to "skip" such mounts. Log into
        the guest first (`findmnt` there tells), or reboot it, which unmounts everything, and provision it anew.

        A mount that is repeated after one below it was done, or is skipped, hides that one; `warnings` of the plan say
        so.

        The plan remembers the requests that are done and hold a secret (`earlier`), so that its report redacts these
        secrets, too.

        A reboot undoes mounts and secrets, and this report does not know of one. After a lost connection compare the
        guest's `uptime_seconds` with what it was before the first try; after a reboot, carry out the whole plan again.

        Raises OutcomeUnknown as said above, ValueError when `unknown_mounts` is not one of the three.
        """
        if unknown_mounts not in ("raise", "repeat", "skip"):
            raise ValueError(f"unknown_mounts must be raise, repeat or skip, not {unknown_mounts!r}")
        rest = self.failed
        unknown = [step for step in rest if step.status is StepStatus.UNKNOWN and isinstance(step.request, Mount)]
        if unknown and unknown_mounts == "raise":
            labels = ", ".join(step.label for step in unknown)
            cause = unknown[0].error
            error = OutcomeUnknown(
                f"it is unknown whether the guest carried this out: {labels}. Run `findmnt` in the guest and pass "
                "unknown_mounts='skip' or 'repeat', or reboot the guest and provision it again",
                request=unknown[0].request,
                unanswered=[step.request for step in unknown],
            )
            raise (error.about(cause.guest) if cause and cause.guest else error) from cause
        # By their identity: to look for each step in a list of steps takes a time that grows with the square.
        skipped = {id(step) for step in unknown if unknown_mounts == "skip"}
        gone = [step for step in self.steps if step.status is StepStatus.DONE or id(step) in skipped]
        there = [(folders_to(step.request.guest_path), step) for step in gone if isinstance(step.request, Mount)]
        requests = [step.request for step in rest if id(step) not in skipped]
        # The requests, not their contents: a traceback shows what local variables hold.
        configs = [request for request in requests if isinstance(request, SetConfig)]
        mounts = [request for request in requests if isinstance(request, Mount)]
        return ProvisionPlan(
            mounts,
            [request for request in requests if isinstance(request, InjectSecret)],
            [request for request in requests if isinstance(request, InjectSSHKey)],
            configs[0].content if configs else None,
            self.agents,
            [
                f"{_label(mount)} would hide what is mounted below it: {step.label}"
                for mount in mounts
                for step in _below(mount, there)
            ],
            (*self.earlier, *(step.request for step in gone if step._holds_secret)),
        )


def _below(mount: Mount, steps: Iterable[tuple[tuple[str, ...], ProvisionStep]]) -> list[ProvisionStep]:
    """Those of `steps`, each with its folders, that lie at the place of `mount` or below it."""
    place = folders_to(mount.guest_path)
    return [step for folders, step in steps if folders[: len(place)] == place]


def folders_to(path: str) -> tuple[str, ...]:
    """Return the folders that lead to an absolute path, as the guest reads it."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)
