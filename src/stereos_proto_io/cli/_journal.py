"""The journal of `provision`: what became of each step in each guest, in a file, so that a second try repeats nothing.

One JSON object a line, appended as things happen, so that a killed process leaves behind what it knew:
`{"guest": NAME, "booted": SECONDS, "steps": {LABEL: STATUS}}`. Later lines win over earlier ones. A step is `unknown`
from the moment when it may be sent until its reply is there. Of a request, only the label is recorded.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import attrs

from stereos_proto import (
    Health,
    InjectSecret,
    InjectSSHKey,
    Mount,
    OutcomeUnknown,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Request,
    SetConfig,
    StepStatus,
)

from ._console import write_at_once
from ._errors import UsageError
from ._numbers import finite
from ._private import clean_path
from ._reading import MOST_READ, TooLong, read_at_most

UnknownMounts = Literal["repeat", "skip"]
Rebooted = Literal["repeat", "skip"]

#: Seconds by which the computed boot time of a guest may vary: uptimes are whole seconds, and replies take time. For
#: each second of uptime, `_DRIFT` is added for the drift between the guest's clock and ours.
_SAME_BOOT: Final = 1.5
_DRIFT: Final = 0.0005
_MAYBE_DONE: Final = frozenset({StepStatus.DONE, StepStatus.UNKNOWN})

#: The labels of steps, and requests that have them. All else of these requests is made up.
_LABELS: Final[tuple[tuple[str, Callable[..., Request]], ...]] = (
    ("mount (.*?) at (.*)", lambda tag, path: Mount(tag, path, "9p")),
    ("secret (.*)", lambda name: InjectSecret(name, "")),
    ("SSH key of (.*)", lambda user: InjectSSHKey(user, "")),
    ("config", lambda: SetConfig("")),
)


def request_of(label: str) -> Request:
    """A request with this label, to show and to ask what it is about; not to be sent. Raises ValueError."""
    for pattern, make in _LABELS:
        found = re.fullmatch(pattern, label, re.DOTALL)
        if found:
            return make(*found.groups())
    raise ValueError(f"no step is called {label!r}")


@attrs.define(eq=False, repr=False)
class _Known:
    """What is known of one guest."""

    #: The status of each step, by its label.
    steps: dict[str, StepStatus] = attrs.Factory(dict)
    #: When the guest booted, in seconds since 1970, None where it never answered.
    booted: float | None = None


@attrs.frozen(eq=False, repr=False)
class Rest:
    """What is to be done with one guest."""

    #: The steps that are to be sent, and their warnings.
    plan: ProvisionPlan
    #: The steps that are done, by an earlier try.
    done: tuple[ProvisionStep, ...] = ()
    #: The steps of an earlier try that are not done, and that the plan does not have.
    lacking: tuple[ProvisionStep, ...] = ()


class Journal:
    """The file, and what is known from it. Without a file nothing is kept, and nothing is known."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, _Known] = {}
        self._file: BinaryIO | None = None
        #: What was in the file when it was read.
        self._content = b""
        #: Why the file cannot be written any more.
        self._failure = ""
        #: Whether anything new is known by this try.
        self.changed = False

    @property
    def names(self) -> list[str]:
        """The guests with steps that are not done."""
        return [
            name
            for name, known in self._known.items()
            if any(status is not StepStatus.DONE for status in known.steps.values())
        ]

    def left(self, name: str) -> list[Request]:
        """What is not done in a guest, as requests that are not to be sent."""
        steps = self._known.get(name, _Known()).steps
        return [request_of(label) for label, status in steps.items() if status is not StepStatus.DONE]

    def mounted(self, name: str) -> bool:
        """Whether a mount was carried out in a guest, or may have been."""
        steps = self._known.get(name, _Known()).steps
        maybe = [request_of(label) for label, status in steps.items() if status in _MAYBE_DONE]
        return any(isinstance(request, Mount) for request in maybe)

    def read(self) -> None:
        """Read what an earlier try has written. Raises UsageError."""
        if self._path is None:
            return
        try:
            self._content = read_at_most(self._path, MOST_READ)
            text = self._content.decode()
        except OSError as exc:
            raise UsageError(f"cannot read {self._path}: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{self._path} is no journal: it is not UTF-8") from None
        except TooLong as exc:
            raise UsageError(f"cannot read {self._path}: {exc}") from None
        # A process that was killed can leave half a line. What it was about stays unknown, as the line before it says.
        whole, _, _ = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise UsageError(f"{self._path} is no journal of provision: see its line {number}") from None
        if not self._known:
            raise UsageError(f"{self._path} is no journal of provision: no guest stands in it")

    def _take(self, record: dict[str, Any]) -> None:
        known = self._known.setdefault(str(record["guest"]), _Known())
        steps = {label: StepStatus(status) for label, status in record["steps"].items()}
        for label in steps:
            request_of(label)
        known.steps.update(steps)
        if record["booted"] is not None:
            known.booted = finite(record["booted"])

    @contextmanager
    def writing(self, plans: Mapping[str, ProvisionPlan], *, new: bool) -> Iterator[None]:
        """Keep the file open for the length of a `with`, and name in it all guests that are to be provisioned.

        Raises UsageError; with `new` where the file exists, too: it may be needed for a second try.
        """
        if self._path is not None:
            self._open(self._path, new=new)
        with self._file or nullcontext():
            for name, plan in plans.items():
                known = self._known.get(name, _Known()).steps
                steps = (ProvisionStep(request, StepStatus.NOT_SENT) for request in plan.requests)
                self._write(name, {step.label: step.status for step in steps if step.label not in known})
            yield

    def _open(self, path: Path, *, new: bool) -> None:
        try:
            self._file = path.open("xb" if new else "r+b")
            _lock(self._file)
            if not new:
                _check_content(self._file, self._content)
                # Half a line would spoil the next one.
                self._file.truncate(self._content.rfind(b"\n") + 1)
                self._file.seek(0, os.SEEK_END)
        except (BlockingIOError, TooLong):
            self._close()
            raise UsageError(
                f"{path} is written by another process, which provisions the guests in it: wait until it has ended, "
                "and then try again"
            ) from None
        except FileExistsError:
            raise UsageError(
                f"{path} exists already: --resume goes on where it ends; a first try needs a new file"
            ) from None
        except OSError as exc:
            self._close()
            raise UsageError(f"cannot write {path}: {exc.strerror}") from None

    def refuse_new(self, names: Iterable[str]) -> None:
        """Raise UsageError for guests that do not stand in a journal that was read: nothing is known of these.

        One of them may be a guest that stands in it under another name, and would be mounted in a second time.
        """
        new = [name for name in names if name not in self._known]
        if new and self._known:
            raise UsageError(
                f"{self._path} does not name {', '.join(new)}, but {', '.join(self._known)}: name a guest as the first "
                "try did; provision one that is new without --resume"
            )

    def steps(self, name: str, plan: ProvisionPlan) -> list[ProvisionStep]:
        """The steps of a plan, with what is known of each."""
        known = self._known.get(name, _Known()).steps
        steps = (ProvisionStep(request, StepStatus.NOT_SENT) for request in plan.requests)
        return [attrs.evolve(step, status=known.get(step.label, step.status)) for step in steps]

    def rest(self, name: str, plan: ProvisionPlan, unknown_mounts: UnknownMounts | None) -> Rest:
        """What is left to do of a plan.

        Raises UsageError where a mount of an earlier try is in the way of one that is left to do, and OutcomeUnknown
        where a mount may have been carried out, unless `unknown_mounts` says what to do with it.
        """
        steps = self.steps(name, plan)
        earlier = self._earlier_mounts(name, plan)
        _refuse_moved(name, [step for step in steps if step.status is not StepStatus.DONE], earlier)
        # With those that only an earlier try had: a mount may hide one of these, too.
        report = ProvisionReport((*steps, *(step for step in earlier if step.status is StepStatus.DONE)), plan.agents)
        try:
            rest = report.remaining_plan(unknown_mounts=unknown_mounts or "raise")
        except OutcomeUnknown as exc:
            unknown = [step for step in report.failed if step.status is StepStatus.UNKNOWN]
            labels = ", ".join(step.label for step in unknown if step.request in plan.mounts)
            raise OutcomeUnknown(
                f"it is not known whether the guest carried this out: {labels}. Log into the guest, run "
                "`findmnt` there, and say --unknown-mounts skip where it did and repeat where it did not; or reboot "
                "it, and say --rebooted repeat",
                request=exc.request,
            ) from None
        # A mount that is skipped was carried out: that is what the user says by it.
        done = tuple(
            ProvisionStep(step.request, StepStatus.DONE) for step in steps if step.request not in rest.requests
        )
        return Rest(rest, done, self.lacking(name, plan))

    def _earlier_mounts(self, name: str, plan: ProvisionPlan) -> list[ProvisionStep]:
        """The mounts that were carried out in a guest, or may have been, and that the plan does not have."""
        labels = {ProvisionStep(request, StepStatus.NOT_SENT).label for request in plan.mounts}
        known = self._known.get(name, _Known()).steps
        steps = (
            ProvisionStep(request_of(label), status)
            for label, status in known.items()
            if status in _MAYBE_DONE and label not in labels
        )
        return [step for step in steps if isinstance(step.request, Mount)]

    def lacking(self, name: str, plan: ProvisionPlan) -> tuple[ProvisionStep, ...]:
        """The steps that are not done in a guest, and that the plan does not have."""
        labels = {ProvisionStep(request, StepStatus.NOT_SENT).label for request in plan.requests}
        known = self._known.get(name, _Known()).steps
        return tuple(
            ProvisionStep(request_of(label), status)
            for label, status in known.items()
            if status is not StepStatus.DONE and label not in labels
        )

    def has_rebooted(self, name: str, health: Health) -> bool:
        """Whether a guest has been rebooted since its earlier steps, or its clock stood still: both look the same."""
        before = self._known.get(name, _Known()).booted
        tolerance = _SAME_BOOT + _DRIFT * health.uptime_seconds
        return before is not None and abs(_booted(health) - before) > tolerance

    def forget(self, name: str) -> None:
        """Record that nothing is done in a guest: a reboot has undone it. Raises UsageError."""
        self._write(name, dict.fromkeys(self._known[name].steps, StepStatus.NOT_SENT))

    def begin(self, name: str, rest: Rest, health: Health) -> None:
        """Record that the steps are about to be sent. Raises UsageError."""
        self._write(name, {step.label: step.status for step in rest.done}, _booted(health))
        requests = rest.plan.requests
        self._write(name, {ProvisionStep(each, StepStatus.UNKNOWN).label: StepStatus.UNKNOWN for each in requests})

    def note(self, name: str, *steps: ProvisionStep) -> None:
        """What became of steps. Raises UsageError where the file cannot be written."""
        self._write(name, {step.label: step.status for step in steps})

    def _write(self, name: str, steps: dict[str, StepStatus], booted: float | None = None) -> None:
        known = self._known.setdefault(name, _Known())
        news = {label: status for label, status in steps.items() if known.steps.get(label) is not status}
        if not news and booted is None:
            return
        self.changed = True
        known.steps.update(news)
        known.booted = known.booted if booted is None else booted
        if self._failure:
            # An error of its own for each guest: it says what was sent to that one.
            raise UsageError(self._failure)
        if self._file is None:
            return
        record = {
            "guest": name,
            "booted": booted and round(booted, 3),
            "steps": {label: status.value for label, status in news.items()},
        }
        try:
            write_at_once(self._file, f"{json.dumps(record)}\n".encode())
        except OSError as exc:
            self._failure = f"cannot write {self._path}: {exc.strerror}"
            raise UsageError(self._failure) from None

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def _booted(health: Health) -> float:
    """When a guest booted, in seconds since 1970."""
    return time.time() - health.uptime_seconds


def _refuse_moved(name: str, left: Iterable[ProvisionStep], earlier: Sequence[ProvisionStep]) -> None:
    """Raise UsageError for a mount that is left to do with the tag or the path of an earlier one of another label.

    Tags go by the order of the folders in the jcard.toml, so a folder before the others gives each of them another tag.
    """
    for step in left:
        for before in earlier:
            same = _same(step.request, before.request)
            if same:
                did = "carried out" if before.status is StepStatus.DONE else "may have carried out"
                raise UsageError(
                    f"{name}: {step.label} is left to do, and has the {same} of {before.label}, which an earlier try "
                    f"{did}; put new [[shared]] folders after the others in the jcard.toml, or reboot the guest, which "
                    "undoes mounts and secrets, and say --rebooted repeat"
                )


def _same(request: Request, other: Request) -> str:
    """What two mounts have in common that only one may have, "" where there is nothing."""
    if not (isinstance(request, Mount) and isinstance(other, Mount)):
        return ""
    if request.tag == other.tag:
        return "tag"
    return "path" if clean_path(request.guest_path) == clean_path(other.guest_path) else ""


def _check_content(file: BinaryIO, known: bytes) -> None:
    """Raise BlockingIOError where another process has written a file since it was read."""
    if read_at_most(file, MOST_READ) != known:
        raise BlockingIOError


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed. Raises BlockingIOError where another process has locked it."""
    try:
        import fcntl  # noqa: PLC0415  (not every system has it)
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # A file system without locks, as some of networks: it is written all the same.
        return
