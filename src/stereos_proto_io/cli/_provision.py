"""`stereosctl provision`: all that a jcard.toml asks for, to one guest or to many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs
from rich.text import Text

import stereos_proto
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
    RequestFailed,
    SetConfig,
    StepStatus,
    StereosError,
    load_jcard,
)
from stereos_proto_io import read_jcard

from ._commands_give import FROM_STDIN, FsType, read_key, read_text, say_warnings
from ._console import STDIN, clean, say, say_error
from ._contact import Contact
from ._counts import counted
from ._deadline import WAIT_SECONDS
from ._documents import report_document
from ._errors import SaidNo, UsageError, code_of, worst
from ._formats import DEFAULT_OUT, Out
from ._jobs import Job, ask_health, perform, targets_of, write_documents
from ._journal import Journal, Rebooted, Rest, UnknownMounts
from ._options import option, refuse_what_is_no_utf8, repeated, whole_number
from ._output import print_result, step_line
from ._redact import Redactor, with_sentence
from ._targets import DEFAULT_GUESTS, Guests, Target, canonical, looks_like_address

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
    journal: Path | None = None,
    resume: Path | None = None,
    unknown_mounts: UnknownMounts | None = None,
    rebooted: Rebooted | None = None,
    dry_run: bool = False,
    out: Out = DEFAULT_OUT,
) -> int:
    """Give guests all that a jcard.toml asks for.

    It waits for the guest, then sends mounts, secrets and the key in one flight, and
    the config last, since agents start with it: it is held back where a mount or a
    secret was refused. Secrets take ${NAME} from the environment; the config goes
    without them.

    A second try would mount twice. With --journal, the first try writes down what
    became of each step; with --resume, the second one sends only what is left.

    For example:

        stereosctl provision jcard.toml --vm dev --ssh-key ~/.ssh/id_ed25519.pub
        stereosctl provision --jcard web=web.toml --jcard db=db.toml
        stereosctl provision jcard.toml --all --journal first.jsonl
        stereosctl provision jcard.toml --resume first.jsonl

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        file: The jcard.toml for guests without a --jcard of their own; - reads standard input.
        jcard: The jcard.toml for one guest, which is named as for --vm or by its address; give it again for more.
        fs: How the hypervisor shares folders: 9p under QEMU, virtiofs under Apple's framework.
        ssh_key: A public key that may log in.
        user: The user of the guest whom the key lets in.
        max_failures: Begin with no other guest once this many have failed.
        on_refusal: `continue` sends the config even where a mount or a secret was refused.
        skip_mounts: Do not mount. For a guest that has the mounts already: mounting again would lay one over the other.
        no_strict: Only warn of values that a StereOS guest would refuse: guests of other makes may take them.
        journal: Write what becomes of each step into this new file. It holds no secrets.
        resume: Send what this journal does not call done, and go on writing it. By default to the guests in it.
        unknown_mounts: For mounts that may have been carried out: `skip` them if they were, `repeat` them if not.
        rebooted: For guests that seem to have been rebooted: `repeat` all steps if they were, else `skip` those done.
        dry_run: Show the steps, or with --resume the steps that are left, and send nothing.
        out: How the result is written.
    """
    if file is not None and looks_like_address(file):
        # No jcard.toml is named like that: all are given by --jcard.
        guest, file = attrs.evolve(guest, address=(file, *guest.address)), None
    _check_options(guest, out, max_failures, dry_run=dry_run)
    book = _journal(journal, resume, unknown_mounts, rebooted, dry_run=dry_run)
    own = _own_files(jcard)
    named = bool(guest.address or guest.vm or guest.all)
    # The journal names the guests then, and a program that reads the JSON does not know how many these are.
    many = guest.many or (resume is not None and not named)
    if resume is not None and not named and not book.names:
        return _say_that_nothing_is_left(resume, out)
    guest = guest if named else _by_default(guest, file, own, book)
    # Once, and before a plan is read, which may take its time: between two looks a machine may start or stop.
    asks = named or resume is not None or not dry_run
    targets = targets_of(guest, out) if asks else []
    book.refuse_new(target.name for target in targets)
    refuse_what_is_no_utf8({"--user": user})
    keys = () if ssh_key is None else (InjectSSHKey(user, read_key(ssh_key, strict=not no_strict)),)
    load = partial(_read_plan, fs=fs, keys=keys, strict=not no_strict, skip_mounts=skip_mounts)
    read = _Plans(None if file is None else Path(file), own, load)
    # Read before the first guest is dialled: a file that is wrong is wrong for all of them.
    plans = read.of_all(targets) if asks else {}
    if dry_run and resume is None:
        return _show_plans(read, out)
    cure_of = partial(_cure, user=user, skip_mounts=skip_mounts)
    if dry_run:
        return _show_rest(book, plans, unknown_mounts, cure_of, out, many=many)
    shows = not guest.many and out.for_people
    work = _Work(
        plans, book, journal or resume, unknown_mounts, rebooted, on_refusal, cure_of, new=resume is None, shows=shows
    )
    # For people, one guest that is left is shown in full.
    many = many if out.is_json else guest.many
    job = _job(work.converse)
    return perform(guest, job, out, max_failures=max_failures, around=work.around, many=many, targets=targets)


def _secrets_of(plans: Iterable[ProvisionPlan]) -> dict[int, stereos_proto.Redactor]:
    return {id(plan): stereos_proto.Redactor(plan.requests) for plan in plans}


@attrs.frozen(eq=False, repr=False)
class _Work:
    """The plans of the guests, by name, and how they are carried out."""

    plans: Mapping[str, ProvisionPlan]
    book: Journal
    #: The file of the journal, None where there is none.
    path: Path | None
    unknown_mounts: UnknownMounts | None
    rebooted: Rebooted | None
    on_refusal: OnRefusal
    cure_of: CureOf
    #: Whether the journal is begun, and not gone on with.
    new: bool = attrs.field(kw_only=True)
    #: Whether each step is shown.
    shows: bool = attrs.field(kw_only=True)
    #: Of each whole plan: what is left of it may be less, and the guest may quote the rest. Guests share a plan.
    secrets: Mapping[int, stereos_proto.Redactor] = attrs.field(
        default=attrs.Factory(lambda self: _secrets_of(self.plans.values()), takes_self=True), init=False
    )

    async def converse(self, contact: Contact) -> _Came:
        """Carry out what is left of one guest's plan."""
        name = contact.target.name
        plan = self.plans[name]
        contact.redactor = Redactor(self.secrets[id(plan)])
        meet = self._meet_after_reboot if self.rebooted == "repeat" else self._meet
        rest, health = await meet(contact, name, plan)
        self.book.begin(name, rest, health)
        new = await self._send(contact, rest) if rest.plan.requests else ()
        lacking = _lacking(rest, plan, self.cure_of)
        if self.shows:
            print_result(*map(step_line, lacking))
        report = ProvisionReport((*rest.done, *new, *lacking), plan.agents)
        return _Came(report, len(rest.done), interrupted=contact.interrupted)

    async def _meet(self, contact: Contact, name: str, plan: ProvisionPlan) -> tuple[Rest, Health]:
        """Dial, and return what is left to do, and the guest's report. Raises UsageError if the guest has rebooted.

        A guest of which nothing is left is asked as well: it may have been rebooted since, or be switched off.
        """
        rest = self.book.rest(name, plan, self.unknown_mounts)
        health = await contact.dial_when_ready() if rest.plan.requests else await ask_health(contact)
        if rest.done and self.rebooted is None and self.book.has_rebooted(name, health):
            raise UsageError(
                f"{name} has been rebooted since the steps that {self.path} calls done, or its clock stood still. A "
                "reboot undoes mounts and secrets: log into the guest, run `findmnt` there, and say --rebooted repeat "
                "where its mounts are gone and --rebooted skip where they are not"
            )
        return rest, health

    async def _meet_after_reboot(self, contact: Contact, name: str, plan: ProvisionPlan) -> tuple[Rest, Health]:
        """Like `_meet`, for a guest of which all is left if it has rebooted."""
        health = await contact.dial_when_ready()
        if self.book.has_rebooted(name, health):
            self.book.forget(name)
        rest = self.book.rest(name, plan, self.unknown_mounts)
        _warn(name, rest)
        return rest, health

    async def _send(self, contact: Contact, rest: Rest) -> Iterable[ProvisionStep]:
        name = contact.target.name
        said = partial(_said, contact=contact)

        def note(step: ProvisionStep) -> None:
            self.book.note(name, step)
            if self.shows:
                print_result(step_line(said(step)))

        report = await contact.provision(rest.plan, note, on_refusal=self.on_refusal)
        self.book.note(name, *report.steps)
        return map(said, report.steps)

    @contextmanager
    def around(self, targets: Sequence[Target]) -> Iterator[None]:
        """Write the journal of these guests, for the length of a `with`, and say then what is left."""
        plans = {target.name: self.plans[target.name] for target in targets}
        if self.rebooted != "repeat":
            # What is left depends on the guest then.
            _look_ahead(self.book, plans, self.unknown_mounts)
        with self.book.writing(plans, new=self.new):
            try:
                yield
            finally:
                _say_what_is_left(self.book, self.path, self.plans, self.cure_of)


def _check_options(guest: Guests, out: Out, max_failures: int | None, *, dry_run: bool) -> None:
    """Raise UsageError where a limit is none, or a dry run is to print what it has not."""
    if max_failures is not None and max_failures < 1:
        raise UsageError("--max-failures must be at least 1")
    if dry_run and out.kind in ("name", "template"):
        raise UsageError("--dry-run prints for people, or -o json")
    guest.check()


def _job(converse: Callable[[Contact], Awaitable[_Came]]) -> Job:
    def show_end(_target: Target, came: _Came) -> None:
        agents = came.report.agents
        starts = f"; it starts {', '.join(agents)}" if agents and came.report.ok else ""
        say(f"{came}{starts}")

    return Job(
        converse,
        lambda _target, came: report_document(came.report),
        show_end,
        str,
        check=_Came.check,
        more=lambda came: _failed_lines(came.report),
        seconds=WAIT_SECONDS,
        waits=True,
    )


@attrs.frozen(eq=False, repr=False)
class _Came:
    """What came of the provisioning of one guest."""

    report: ProvisionReport
    #: How many of its steps an earlier try had done.
    before: int = 0
    #: Whether the user interrupted it.
    interrupted: bool = attrs.field(default=False, kw_only=True)

    def check(self) -> None:
        """Raise what a provisioning that did not go well ends in."""
        if self.interrupted and not self.report.ok:
            raise KeyboardInterrupt
        judge(self.report)

    def __str__(self) -> str:
        report = self.report
        counts = Counter(step.status for step in report.failed)
        rest = "".join(f", {count} {status.value}" for status, count in counts.items())
        before = f", {self.before} of them before" if self.before else ""
        return f"{len(report.steps) - len(report.failed)} of {len(report.steps)} steps done{before}{rest}"


# ---------------------------------------------------------------------------------------------- a second try


def _journal(
    journal: Path | None,
    resume: Path | None,
    unknown_mounts: UnknownMounts | None,
    rebooted: Rebooted | None,
    *,
    dry_run: bool,
) -> Journal:
    """The journal that the options name. Raises UsageError."""
    if journal is not None and resume is not None:
        raise UsageError("--journal and --resume cannot be combined: --resume goes on writing its file")
    if journal is not None and dry_run:
        raise UsageError("--journal and --dry-run cannot be combined: there is nothing to write down")
    for name, value in (("--unknown-mounts", unknown_mounts), ("--rebooted", rebooted)):
        if value is not None and resume is None:
            raise UsageError(f"{name} is for a second try, with --resume")
    book = Journal(journal or resume)
    if resume is not None:
        book.read()
    return book


def _say_that_nothing_is_left(resume: Path, out: Out) -> int:
    say(f"nothing is left to do of {resume}, and no guest was asked: --all or --vm NAME sees whether one was rebooted")
    if out.is_json:
        write_documents([], out)
    return 0


#: What would give a step that only an earlier try had, by its request.
_CURES: Final[dict[type[Request], str]] = {
    Mount: "its [[shared]] is not in the jcard.toml any more",
    InjectSecret: "it is not in [secrets] of the jcard.toml any more",
    InjectSSHKey: "add --ssh-key FILE",
}


def _cure(request: Request, plan: ProvisionPlan, *, user: str, skip_mounts: bool) -> str:
    if isinstance(request, Mount):
        if skip_mounts:
            return "leave out --skip-mounts"
        for mount in plan.mounts:
            if mount.guest_path == request.guest_path:
                return f"the jcard.toml has its [[shared]] in another place, as {mount.tag}: put it back"
    cure = _CURES.get(type(request), "the jcard.toml does not give it")
    return f"{cure} --user {request.user}" if isinstance(request, InjectSSHKey) and request.user != user else cure


#: Says what would give a request to this try, which has a plan.
CureOf = Callable[[Request, ProvisionPlan], str]


def _lacking(rest: Rest, plan: ProvisionPlan, cure_of: CureOf) -> tuple[ProvisionStep, ...]:
    """The steps that only an earlier try had, with errors that say what would give them to this one."""
    return tuple(attrs.evolve(step, error=_lack(step, cure_of(step.request, plan))) for step in rest.lacking)


def _look_ahead(book: Journal, plans: Mapping[str, ProvisionPlan], unknown_mounts: UnknownMounts | None) -> None:
    """Warn of what the rests of the plans would do, before anything is written or sent. Raises UsageError."""
    for name, plan in plans.items():
        # A mount of unknown outcome concerns this guest alone, and is told when it is its turn.
        with suppress(OutcomeUnknown):
            _warn(name, book.rest(name, plan, unknown_mounts))


def _warn(name: str, rest: Rest) -> None:
    """Say what the user should know before the rest of a plan is carried out in a guest."""
    for warning in rest.plan.warnings:
        say(f"{name}: {warning}", style="yellow")


def _lack(step: ProvisionStep, cure: str) -> StereosError:
    lacks = f"this plan does not have the step: {cure}"
    if step.status is StepStatus.REFUSED:
        return RequestFailed(step.request, f"in an earlier try; {lacks}")
    if step.status is StepStatus.UNKNOWN:
        return OutcomeUnknown(f"it was sent in an earlier try; {lacks}", request=step.request)
    return StereosError(lacks)


def _show_rest(
    book: Journal,
    plans: dict[str, ProvisionPlan],
    unknown_mounts: UnknownMounts | None,
    cure_of: CureOf,
    out: Out,
    *,
    many: bool,
) -> int:
    """Show what a second try would send to each guest. Raises UsageError, and OutcomeUnknown for a single guest."""
    code = 0
    reports: dict[str | None, ProvisionReport] = {}
    for name, plan in plans.items():
        try:
            rest = book.rest(name, plan, unknown_mounts)
        except OutcomeUnknown as exc:
            if not many:
                raise
            say_error(f"{name}: {exc}")
            code = worst((code, code_of(exc)))
            reports[name] = ProvisionReport(tuple(_not_known(step, exc) for step in book.steps(name, plan)))
            continue
        _warn(name, rest)
        left = [ProvisionStep(request, StepStatus.NOT_SENT) for request in rest.plan.requests]
        lacking = _lacking(rest, plan, cure_of)
        code = worst((code, _code(ProvisionReport(lacking))))
        reports[name] = ProvisionReport((*rest.done, *left, *lacking))
    _show_reports(reports, out, many=many, names=True)
    return code


def _not_known(step: ProvisionStep, error: OutcomeUnknown) -> ProvisionStep:
    """The step, with the error that keeps the guest from being asked where it is one of these mounts."""
    unknown = step.status is StepStatus.UNKNOWN and isinstance(step.request, Mount)
    return attrs.evolve(step, error=error) if unknown else step


def _code(report: ProvisionReport) -> int:
    """The exit code that a report comes to."""
    try:
        judge(report)
    except (StereosError, SaidNo) as exc:
        return code_of(exc)
    return 0


def _show_reports(reports: Mapping[str | None, ProvisionReport], out: Out, *, many: bool, names: bool) -> None:
    """Show what would be sent to each guest: to all others, where it has no name."""
    if not out.is_json:
        for name, report in reports.items():
            called = "all other guests" if name is None else clean(name)
            print_result(*([Text(called, "bold")] if names else []), *map(step_line, report.steps))
        say("nothing was sent")
    elif many:
        write_documents([{"guest": name, **report_document(report)} for name, report in reports.items()], out)
    else:
        out.write_document(*map(report_document, reports.values()))


#: The command that does what a step does, by the step's request.
_COMMANDS: Final[dict[type[Request], str]] = {
    Mount: "mount",
    InjectSecret: "secret set",
    InjectSSHKey: "ssh-key add",
    SetConfig: "config set",
}


def _say_what_is_left(book: Journal, path: Path | None, plans: Mapping[str, ProvisionPlan], cure_of: CureOf) -> None:
    """Say how a second try repeats nothing, where one is needed, and what it has to be given for that."""
    if not book.changed:
        return
    names = book.names
    if names and path is not None:
        guests = counted(len(names), "guest has", "guests have")
        lacking = {step.label: (step, plan) for name, plan in plans.items() for step in book.lacking(name, plan)}
        needs = ", ".join(f"{label} ({cure_of(step.request, plan)})" for label, (step, plan) in lacking.items())
        more = f", with what this plan does not have: {needs}" if needs else ""
        say(f"{guests} steps left: `stereosctl provision … --resume {path}` sends only these{more}")
        return
    partly = [name for name in names if book.mounted(name)]
    if partly:
        left = {type(request) for name in partly for request in book.left(name)}
        *some, last = (f"`{command}`" for kind, command in _COMMANDS.items() if kind in left)
        commands = f"{', '.join(some)} and {last}" if some else last
        advice = f"send the rest by `stereosctl {commands[1:]}"
    elif names and any(map(book.mounted, plans)):
        advice = "name only the guests that failed"
    else:
        return
    say(f"a second try mounts again what is mounted: {advice}; next time, --journal FILE lets --resume FILE do that")


# ----------------------------------------------------------------------------------------------- which plan


def _own_files(texts: tuple[str, ...]) -> dict[str, Path]:
    own: dict[str, Path] = {}
    for text in texts:
        # An address may hold a `=`, a file's name hardly does.
        name, equals, path = text.rpartition("=")
        if not equals or not name or not path:
            raise UsageError(f"--jcard takes NAME=FILE, not {text!r}")
        name = canonical(name)
        if name in own:
            raise UsageError(f"--jcard names {name} twice")
        own[name] = Path(STDIN if path == "-" else path)
    return own


def _by_default(guest: Guests, file: str | None, own: dict[str, Path], book: Journal) -> Guests:
    """The guests, where no option names any: those of the journal with steps left, or those that --jcard names."""
    if book.names:
        say(f"with steps left: {', '.join(book.names)}", style="dim")
    names = tuple(book.names) or (tuple(own) if file is None else ())
    addresses = tuple(name for name in names if looks_like_address(name))
    return attrs.evolve(guest, address=addresses, vm=tuple(name for name in names if name not in addresses))


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

    def files(self) -> list[tuple[str | None, Path]]:
        """All of them, each with its guest; that for all other guests has no name."""
        return [*self.paths.items(), *([] if self._file is None else [(None, self._file)])]

    def of_all(self, targets: Iterable[Target]) -> dict[str, ProvisionPlan]:
        """The plans of guests, by name. Raises UsageError, also where --jcard names another guest, and JcardError."""
        plans = {target.name: self.of(target.name) for target in targets}
        unused = sorted(self.paths.keys() - plans.keys())
        if unused:
            raise UsageError(f"--jcard names {', '.join(unused)}, which is not among the guests")
        return plans


def _read_plan(
    file: Path, *, fs: FsType, keys: Sequence[InjectSSHKey], strict: bool, skip_mounts: bool
) -> ProvisionPlan:
    """The plan that a jcard.toml describes. Its warnings are shown."""
    options: dict[str, Any] = {"env": os.environ, "fs_type": fs, "ssh_keys": keys, "strict": strict}
    if str(file) == STDIN:
        # It lies in no folder, so no file beside it can be meant.
        plan = load_jcard(read_text(file), source="standard input", **options)
    else:
        plan = read_jcard(file, **options)
    say_warnings(plan, FROM_STDIN)
    return attrs.evolve(plan, mounts=()) if skip_mounts else plan


def _show_plans(read: _Plans, out: Out) -> int:
    if not read.files():
        raise UsageError("which jcard.toml? Give a FILE, or --jcard NAME=FILE")
    reports = {
        name: ProvisionReport(tuple(ProvisionStep(each, StepStatus.NOT_SENT) for each in read.read(path).requests))
        for name, path in read.files()
    }
    many = len(reports) > 1
    _show_reports(reports, out, many=many, names=many)
    return 0


# ------------------------------------------------------------------------------------------- what came of it


def _said(step: ProvisionStep, *, contact: Contact) -> ProvisionStep:
    """The step, with the guest called as the user calls it, and without what it quoted of the plan's secrets."""
    if step.error is None:
        return step
    error = contact.without_secrets(step.error)
    sentence = contact.target.sentence(error)
    if contact.interrupted and getattr(error, "closed_here", False):
        # It was closed for that.
        sentence = sentence.replace(f"the connection to {contact.target.name} was closed", "interrupted")
    return attrs.evolve(step, error=with_sentence(error, sentence))


def _failed_lines(report: ProvisionReport) -> list[Any]:
    return [step_line(step) for step in report.failed]


def judge(report: ProvisionReport) -> None:
    """Raise what a provisioning that did not go well ends in; its steps have been shown."""
    failed = report.failed
    if not failed:
        return
    for step in failed:
        if step.status is StepStatus.UNKNOWN:
            # Whatever the reply was lost to: a deadline, or nonsense in its place.
            raise OutcomeUnknown(str(step.error), request=step.request) from step.error
    for step in failed:
        if step.status is StepStatus.REFUSED:
            raise SaidNo from step.error
    report.raise_for_failure()
