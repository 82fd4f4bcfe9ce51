"""`stereosctl provision`: all that a jcard.toml asks for, to one guest or to many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from rich.text import Text

import stereos_proto
from stereos_proto import (
    Health,
    InjectSSHKey,
    OutcomeUnknown,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    StepStatus,
    load_jcard,
)
from stereos_proto_io import read_jcard

from ._commands_give import FsType, read_key, read_text
from ._console import STDIN, clean, say, say_error
from ._contact import Contact
from ._deadline import WAIT_SECONDS
from ._documents import report_document
from ._errors import REFUSED, SaidNo, UsageError, exit_code, worst
from ._formats import DEFAULT_OUT, Out
from ._jobs import Job, ask_health, perform
from ._journal import Journal, Rest, UnknownMounts
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
        dry_run: Show the steps, or with --resume the steps that are left, and send nothing.
        out: How the result is written.
    """
    if file is not None and looks_like_address(file):
        # No jcard.toml is named like that: all are given by --jcard.
        guest, file = attrs.evolve(guest, address=(file, *guest.address)), None
    if max_failures is not None and max_failures < 1:
        raise UsageError("--max-failures must be 1 at least")
    book = _journal(journal, resume, unknown_mounts, dry_run=dry_run)
    own = _own_files(jcard)
    if not guest.address and not guest.vm and not guest.all:
        if resume is not None and not book.names:
            say(
                f"nothing is left to do of {resume}, and no guest was asked: "
                "--all or --vm NAME sees whether one was rebooted"
            )
            return 0
        guest = _by_default(guest, file, own, book)
    refuse_what_is_no_utf8({"--user": user})
    keys = () if ssh_key is None else (InjectSSHKey(user, read_key(ssh_key, strict=not no_strict)),)
    load = partial(_read_plan, fs=fs, keys=keys, strict=not no_strict, skip_mounts=skip_mounts)
    read = _Plans(None if file is None else Path(file), own, load)
    if dry_run and resume is None:
        return _show_plans(read, out)
    # Read before the first guest is dialled: a file that is wrong is wrong for all of them.
    plans = {target.name: read.of(target.name) for target in guest.targets()}
    read.refuse_unused(plans)
    if dry_run:
        return _show_rest(book, plans, unknown_mounts, out)
    shows = not guest.many and not out.kind
    # Those of the whole plan: what is left of it may be less, and the guest may quote the rest. Guests share a plan.
    secrets = {id(plan): stereos_proto.Redactor(plan.requests) for plan in plans.values()}

    async def converse(contact: Contact) -> _Came:
        plan = plans[contact.target.name]
        contact.redactor = Redactor(secrets[id(plan)])
        rest = book.rest(contact.target.name, plan, unknown_mounts)
        book.begin(contact.target.name, rest, await _met(contact, rest))
        new = await _send(contact, rest) if rest.plan.requests else ()
        report = ProvisionReport((*rest.done, *new), plan.agents)
        return _Came(report, len(rest.done), interrupted=contact.interrupted)

    async def _send(contact: Contact, rest: Rest) -> Iterable[ProvisionStep]:
        name = contact.target.name
        said = partial(_said, contact=contact)

        def note(step: ProvisionStep) -> None:
            book.note(name, step)
            if shows:
                print_result(step_line(said(step)))

        report = await contact.provision(rest.plan, note, on_refusal=on_refusal)
        book.note(name, *report.steps)
        return map(said, report.steps)

    @contextmanager
    def around(targets: Sequence[Target]) -> Iterator[None]:
        with book.writing({target.name: plans[target.name] for target in targets}, new=resume is None):
            try:
                yield
            finally:
                _say_what_is_left(book, journal or resume)

    return perform(guest, _job(converse), out, max_failures=max_failures, around=around)


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
    journal: Path | None, resume: Path | None, unknown_mounts: UnknownMounts | None, *, dry_run: bool
) -> Journal:
    """The journal that the options name. Raises UsageError."""
    if journal is not None and resume is not None:
        raise UsageError("--journal and --resume exclude each other: --resume goes on writing its file")
    if journal is not None and dry_run:
        raise UsageError("--journal and --dry-run exclude each other: there is nothing to write down")
    if unknown_mounts is not None and resume is None:
        raise UsageError("--unknown-mounts is for a second try, with --resume")
    book = Journal(journal or resume)
    if resume is not None:
        book.read()
    return book


def _show_rest(book: Journal, plans: dict[str, ProvisionPlan], unknown_mounts: UnknownMounts | None, out: Out) -> int:
    """Show what a second try would send to each guest. Raises UsageError."""
    _refuse_lines(out)
    code = 0
    documents = []
    for name, plan in plans.items():
        try:
            rest = book.rest(name, plan, unknown_mounts)
        except OutcomeUnknown as exc:
            say_error(f"{name}: {exc}")
            code = worst((code, exit_code(exc) or REFUSED))
            continue
        left = [ProvisionStep(request, StepStatus.NOT_SENT) for request in rest.plan.requests]
        documents.append({"guest": name, **report_document(ProvisionReport((*rest.done, *left)))})
        if not out.is_json:
            print_result(Text(clean(name), "bold"), *map(step_line, (*rest.done, *left)))
    if out.is_json:
        out.write_document(documents)
    say("nothing was sent")
    return code


def _say_what_is_left(book: Journal, path: Path | None) -> None:
    """Say how a second try repeats nothing, where one is needed."""
    if not book.changed:
        return
    names = book.names
    if names and path is not None:
        guests = "1 guest has" if len(names) == 1 else f"{len(names)} guests have"
        say(f"{guests} steps left: `stereosctl provision … --resume {path}` sends only these")
    elif any(book.mounted(name) for name in names):
        say(
            "a second try mounts again what is mounted: send the rest by `stereosctl mount`, `secret set` and "
            "`config set`; next time, --journal FILE lets --resume FILE do that"
        )


async def _met(contact: Contact, rest: Rest) -> Health:
    """Dial, and return the guest's report.

    A guest of which nothing is left is asked as well: it may have been rebooted since, or be switched off.
    """
    return await contact.dial_when_ready() if rest.plan.requests else await ask_health(contact)


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

    def files(self) -> list[Path]:
        """All of them."""
        return [*self.paths.values(), *([] if self._file is None else [self._file])]

    def refuse_unused(self, names: Iterable[str]) -> None:
        """Raise UsageError where --jcard names a guest that is not among those to be provisioned."""
        unused = sorted(self.paths.keys() - set(names))
        if unused:
            raise UsageError(f"--jcard names {', '.join(unused)}, which is not among the guests")


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
    for warning in plan.warnings:
        say(warning, style="yellow")
    return attrs.evolve(plan, mounts=()) if skip_mounts else plan


def _refuse_lines(out: Out) -> None:
    if out.kind in ("name", "template"):
        raise UsageError("--dry-run prints for people, or -o json")


def _show_plans(read: _Plans, out: Out) -> int:
    _refuse_lines(out)
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


def _said(step: ProvisionStep, *, contact: Contact) -> ProvisionStep:
    """The step, with the guest called as the user calls it, and without what it quoted of the plan's secrets."""
    if step.error is None:
        return step
    error = contact.redactor.error(step.error)
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
    if any(step.status is StepStatus.REFUSED for step in failed):
        raise SaidNo
    report.raise_for_failure()
