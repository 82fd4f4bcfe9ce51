"""`stereosctl provision`: all that a jcard.toml asks for, to one guest or to many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs

from stereos_proto import (
    InjectSSHKey,
    Mount,
    OutcomeUnknown,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    RequestFailed,
    StepStatus,
    load_jcard,
)
from stereos_proto_io import read_jcard

from ._commands_give import FsType, read_key, read_text
from ._console import STDIN, say
from ._contact import Contact
from ._deadline import WAIT_SECONDS
from ._documents import report_document
from ._errors import SaidNo, UsageError
from ._formats import DEFAULT_OUT, Out
from ._jobs import Job, perform
from ._options import option, repeated, whole_number
from ._output import print_result, step_line
from ._redact import Redactor, redactor_of
from ._targets import DEFAULT_GUESTS, Guests, Target, looks_like_address

OnRefusal = Literal["stop", "continue"]


def provision(
    file: str | None = None,
    /,
    guest: Guests = DEFAULT_GUESTS,
    *,
    jcard: Annotated[tuple[str, ...], repeated("--jcard", takes="NAME=FILE")] = (),
    fs: FsType = "9p",
    ssh_key: Annotated[Path | None, option("--ssh-key")] = None,
    user: Annotated[str, option(takes="NAME")] = "admin",
    max_failures: Annotated[int | None, option("--max-failures", takes="N", converter=whole_number)] = None,
    on_refusal: OnRefusal = "stop",
    skip_mounts: Annotated[bool, option("--skip-mounts")] = False,
    no_strict: Annotated[bool, option("--no-strict")] = False,
    dry_run: bool = False,
    out: Out = DEFAULT_OUT,
) -> int:
    """Give guests all that a jcard.toml asks for.

    It waits for the guest, then sends mounts, secrets and the key in one flight, and
    the config last, since agents start with it: it is held back where a mount or a
    secret was refused. Secrets take ${NAME} from the environment; the config goes
    without them.

    For example:

        stereosctl provision jcard.toml --vm dev --ssh-key ~/.ssh/id_ed25519.pub
        stereosctl provision --jcard web=web.toml --jcard db=db.toml

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        file: The jcard.toml of all guests that have none of their own, - for standard input.
        jcard: The jcard.toml of one guest, named as by --vm or by its address; again for more.
        fs: How the hypervisor shares folders: 9p under QEMU, virtiofs under Apple's framework.
        ssh_key: A public key that may log in.
        user: Whom the key is for.
        max_failures: After so many guests that failed, begin with no other.
        on_refusal: `continue` sends the config even where a mount or a secret was refused.
        skip_mounts: Leave the mounts out, where an earlier try has made them: nothing unmounts them.
        no_strict: Values that a StereOS guest would refuse are warnings, for guests of other makes.
        dry_run: Show the steps, and send nothing.
        out: How the result is written.
    """
    if file is not None and looks_like_address(file):
        # No jcard.toml is named like that: all are given by --jcard.
        guest, file = attrs.evolve(guest, address=(file, *guest.address)), None
    if max_failures is not None and max_failures < 1:
        raise UsageError("--max-failures must be 1 at least")
    own = _own_files(jcard)
    if not guest.address and not guest.vm and not guest.all and file is None:
        guest = _named_by_files(guest, own)
    keys = () if ssh_key is None else (InjectSSHKey(user, read_key(ssh_key)),)

    def load(path: Path) -> ProvisionPlan:
        plan = _read_plan(path, fs, keys, strict=not no_strict)
        return attrs.evolve(plan, mounts=()) if skip_mounts else plan

    read = _Plans(None if file is None else Path(file), own, load)
    if dry_run:
        return _show_plans(read, out)
    # Read before the first guest is dialled: a file that is wrong is wrong for all of them.
    plans = {target.name: read.of(target.name) for target in guest.targets()}
    read.refuse_unused(plans)
    shows = not guest.many and not out.kind

    async def converse(contact: Contact) -> ProvisionReport:
        plan = plans[contact.target.name]
        await contact.dial_when_ready()
        redactor = redactor_of(plan.requests)
        show: Callable[[ProvisionStep], None] = lambda step: print_result(step_line(_discreet(step, redactor)))  # noqa: E731
        result = await contact.provision(plan, show if shows else lambda _step: None, on_refusal=on_refusal)
        return ProvisionReport(tuple(_discreet(step, redactor) for step in result.steps))

    def show_end(target: Target, report: ProvisionReport) -> None:
        agents = plans[target.name].agents
        starts = f"; it starts {', '.join(agents)}" if agents and report.ok else ""
        say(f"{_said(report)}{starts}{_AGAIN if _mounted_in_vain(report) else ''}")

    job = Job(
        converse,
        lambda _target, report: report_document(report),
        show_end,
        _said,
        check=judge,
        more=_failed_lines,
        seconds=WAIT_SECONDS,
        waits=True,
    )
    return perform(guest, job, out, max_failures=max_failures)


# ----------------------------------------------------------------------------------------------- which plan


def _own_files(texts: tuple[str, ...]) -> dict[str, Path]:
    own: dict[str, Path] = {}
    for text in texts:
        # An address may hold a `=`, a file's name hardly does.
        name, equals, path = text.rpartition("=")
        if not equals or not name or not path:
            raise UsageError(f"--jcard takes NAME=FILE, not {text!r}")
        if name in own:
            raise UsageError(f"--jcard names {name} twice")
        own[name] = Path(STDIN if path == "-" else path)
    return own


def _named_by_files(guest: Guests, own: dict[str, Path]) -> Guests:
    """The guests that --jcard names, where no other option names any."""
    addresses = tuple(name for name in own if looks_like_address(name))
    return attrs.evolve(guest, address=addresses, vm=tuple(name for name in own if name not in addresses))


class _Plans:
    """The plan of each guest. A file is read once, standard input included."""

    def __init__(self, file: Path | None, own: dict[str, Path], load: Callable[[Path], ProvisionPlan]) -> None:
        self.paths = own
        self._file = file
        self._load = load
        self._read: dict[Path, ProvisionPlan] = {}

    def of(self, name: str) -> ProvisionPlan:
        """The plan of a guest. Raises UsageError and JcardError."""
        path = self.paths.get(name, self._file)
        if path is None:
            raise UsageError(f"which jcard.toml for {name}? Give one FILE for all, or --jcard {name}=FILE")
        return self.read(path)

    def read(self, path: Path) -> ProvisionPlan:
        """The plan in a file. Raises UsageError and JcardError."""
        if path not in self._read:
            self._read[path] = self._load(path)
        return self._read[path]

    def files(self) -> list[Path]:
        """All of them."""
        return [*self.paths.values(), *([] if self._file is None else [self._file])]

    def refuse_unused(self, names: Iterable[str]) -> None:
        """Raise UsageError where --jcard names a guest that is not among those to be provisioned."""
        unused = sorted(self.paths.keys() - set(names))
        if unused:
            raise UsageError(f"--jcard names {', '.join(unused)}, which is not among the guests")


def _read_plan(file: Path, fs: FsType, keys: Sequence[InjectSSHKey], *, strict: bool) -> ProvisionPlan:
    """The plan that a jcard.toml describes. Its warnings are shown."""
    options: dict[str, Any] = {"env": os.environ, "fs_type": fs, "ssh_keys": keys, "strict": strict}
    if str(file) == STDIN:
        # It lies in no folder, so no file beside it can be meant.
        plan = load_jcard(read_text(file), source="standard input", **options)
    else:
        plan = read_jcard(file, **options)
    for warning in plan.warnings:
        say(warning, style="yellow")
    return plan


def _show_plans(read: _Plans, out: Out) -> int:
    if not read.files():
        raise UsageError("which jcard.toml? Give a FILE, or --jcard NAME=FILE")
    for path in read.files():
        steps = [ProvisionStep(request, StepStatus.NOT_SENT) for request in read.read(path).requests]
        report = ProvisionReport(tuple(steps))
        if out.is_json:
            out.write_document(report_document(report))
        else:
            print_result(*map(step_line, report.steps))
    if not out.is_json:
        say("nothing was sent")
    return 0


# ------------------------------------------------------------------------------------------- what came of it


def _discreet(step: ProvisionStep, redactor: Redactor) -> ProvisionStep:
    """The step, with what the guest quoted of the plan's secrets blotted out."""
    if not isinstance(step.error, RequestFailed):
        return step
    return attrs.evolve(step, error=RequestFailed(step.request, redactor.text(step.error.error)))


def _said(report: ProvisionReport) -> str:
    counts = Counter(step.status for step in report.failed)
    rest = "".join(f", {count} {status.value}" for status, count in counts.items())
    return f"{len(report.steps) - len(report.failed)} of {len(report.steps)} steps done{rest}"


#: What to do where a second try would lay a mount over that of the first.
_AGAIN: Final = "; to try again without mounting twice, use --skip-mounts"


def _mounted_in_vain(report: ProvisionReport) -> bool:
    """Whether something was mounted, and another try is needed for the rest."""
    mounted = any(isinstance(step.request, Mount) and step.status is StepStatus.DONE for step in report.steps)
    return mounted and not report.ok


def _failed_lines(report: ProvisionReport) -> list[Any]:
    return [step_line(step) for step in report.failed]


def judge(report: ProvisionReport) -> None:
    """Raise what a provisioning that did not go well ends in; its steps have been shown."""
    failed = report.failed
    if not failed:
        return
    if any(step.status is StepStatus.REFUSED for step in failed):
        raise SaidNo
    for step in failed:
        if isinstance(step.error, OutcomeUnknown):
            raise step.error
    report.raise_for_failure()
