"""A command for any number of guests: one conversation, shown in full for a single guest and as a table for many."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import attrs
from rich.text import Text

from stereos_proto import LifecycleState, StereosError

from . import plain_interrupts
from ._console import clean, console, error_console, say, say_error, show_beside
from ._contact import Contact, OnProgress, Row
from ._counts import counted, listed
from ._deadline import ASK_SECONDS, Deadline
from ._documents import Document
from ._errors import (
    DONE,
    EXIT_CODES,
    INTERRUPTED,
    BrokenOutput,
    GuestError,
    Interrupted,
    OutputFailed,
    SaidNo,
    UsageError,
    code_of,
    error_document,
    told,
    worst,
)
from ._formats import Out
from ._machines import STATES_OF_MACHINES
from ._output import CELL_SIZE, brief, duration, print_result, short
from ._signals import hold, keeping_results, nothing
from ._targets import Guest, Guests, Target, about

if TYPE_CHECKING:
    from ._fleet import Conversation, Fleet, Limits, Outcome

#: What a template may name.
FIELDS: Final = (
    "name",
    "address",
    "state",
    "uptime",
    "agents",
    "running",
    "rtt_ms",
    "result",
    "error",
    "kind",
    "code",
)
#: Guests that are named for one and the same error.
_NAMED: Final = 10
#: What is done before a job where only guests in some state are meant.
_ASKING_STATES: Final = "the guests are asked for their states"
#: What stands in the summary for an error, and for an exit code.
_KINDS: Final = {"NotBegun": "not begun", "Interrupted": "interrupted"}
_WORDS: Final = {each.code: each.word for each in EXIT_CODES}


def _no_more(_value: Any) -> Iterable[Any]:
    return ()


def _fine(_value: Any) -> None:
    """The default check: accept every value."""


@attrs.frozen(eq=False, repr=False)
class Job:
    """What a command does with each guest."""

    #: The conversation. What it returns is the value of the other functions.
    converse: Conversation
    #: The value as JSON, for a guest.
    document: Callable[[Target, Any], Document]
    #: Shows the value of a single guest to people.
    show: Callable[[Target, Any], None]
    #: Describes the value in a few words, for a row of the table.
    said: Callable[[Any], str]
    #: Raises an error if a value is a valid answer, but a negative one.
    check: Callable[[Any], None] = _fine
    #: What stands below the table for a guest, under its name.
    more: Callable[[Any], Iterable[Any]] = _no_more
    #: Seconds that each guest has by default.
    seconds: float = ASK_SECONDS
    #: Whether it takes so long that each change is to be shown where there is no terminal.
    waits: bool = False
    #: Whether it goes on until the user ends it.
    endless: bool = False

    def failure(self, target: Target, row: Row, value: Any) -> Exception | None:
        """What is negative about a value: an error that names the guest as the user does, None where nothing is."""
        try:
            with about(target):
                self.check(value)
        except KeyboardInterrupt:
            return Interrupted(None, sent=row.sent)
        except SaidNo as exc:
            # The guest may have said why.
            return exc if exc.__cause__ is None else GuestError(str(exc.__cause__), exc.__cause__)
        except GuestError as exc:
            exc.sent = row.sent
            return exc
        return None


def targets_of(guests: Guests, out: Out, *, secret: str = "") -> list[Target]:
    """The guests. Raises UsageError, also where a limit or the form of the result is wrong.

    It is called before anything is read or asked for: the user is to type nothing for a command that is refused.
    `secret` is that of `address_of`.
    """
    out.check(FIELDS)
    return guests.targets(secret=secret)


#: Makes the context manager that `perform` holds open while it works on these guests.
Around = Callable[[Sequence[Target]], AbstractContextManager[None]]


def perform(
    guests: Guests,
    job: Job,
    out: Out,
    *,
    max_failures: int | None = None,
    around: Around = lambda _targets: nullcontext(),
    many: bool | None = None,
    targets: list[Target] | None = None,
) -> int:
    """Do the job with the guests that were named, write the results, and return the exit code.

    `many` is that of the guests, unless it is said. `targets` is what `targets_of` has returned, where it was needed
    before: between two looks a machine may start or stop.
    """
    targets = targets_of(guests, out) if targets is None else targets
    # Once for the whole command; and before `around`, which may create a file, as it may raise.
    seconds, end = guests.seconds(job.seconds), guests.end()
    with keeping_results():
        if not (guests.many if many is None else many):
            with around(targets):
                return _perform_single(targets[0], guests, job, out, seconds=seconds, end=end)
        with interruption_told(out.write_document if out.is_json else None, Row("", _ASKING_STATES, sent=None)):
            chosen = in_state(targets, guests, end)
        limits = limits_of(guests, end, seconds, max_failures, endless=job.endless)
        with around(chosen.targets):
            hold()
            outcomes, interrupted = run_fleet(chosen.asked, limits, job, failed=chosen.failed)
            outcomes = chosen.whole(outcomes)
            write_outcomes(outcomes, job, out)
        if interrupted:
            raise KeyboardInterrupt
        return worst(outcome.code for outcome in outcomes)


# --------------------------------------------------------------------------------------------- a single guest


def load_driver() -> None:
    """Load what dials. Ctrl-C then ends the process at once, so nothing may be drawn yet that is to be taken back."""
    if f"{__package__}._contact_blocking" not in sys.modules:
        with plain_interrupts():
            import_module("._contact_blocking", __package__)


def _perform_single(target: Target, guests: Guests, job: Job, out: Out, *, seconds: float, end: Deadline) -> int:
    row = Row(target.name)
    try:
        target.reached()
        # While it loads, nothing has been asked yet.
        load_driver()
        with interruption_told(out.write_document if out.is_json else None, row):
            value = converse_with(target, guests, job.converse, end.or_in(seconds), row)
            hold()
    except (GuestError, UsageError) as exc:
        _write_failed_line(target, row, out, exc, code_of(exc))
        raise
    except KeyboardInterrupt:
        with _last_words():
            _write_failed_line(target, row, out, Interrupted(row.step, sent=row.sent), INTERRUPTED)
        raise
    kind = out.kind
    if out.is_json:
        out.write_document(job.document(target, value))
    elif kind in ("name", "template"):
        failure = job.failure(target, row, value)
        if kind == "template":
            out.write_line(_line(target, row, failure, job.said(value), code_of(failure)))
        elif failure is None:
            out.write_line({"name": target.name})
    else:
        job.show(target, value)
    try:
        with about(target):
            job.check(value)
    except SaidNo as exc:
        return code_of(exc)
    except GuestError as exc:
        # The result has been written: another document would be one too many.
        say_error(str(exc))
        return code_of(exc)
    return 0


def _write_failed_line(target: Target, row: Row, out: Out, error: Exception, code: int) -> None:
    """Write the line of a single guest that failed, where a template says how, as among many guests."""
    if out.kind == "template":
        out.write_line(_line(target, row, error, "", code))


@contextmanager
def _last_words() -> Iterator[None]:
    """Write something in a `with` before an interruption ends the command, where it can be written."""
    with keeping_results(nothing), suppress(BrokenOutput, OutputFailed):
        yield


@contextmanager
def interruption_told(write: Callable[[Document], object] | None, row: Row) -> Iterator[None]:
    """Let an interruption in a `with` write the document of an error: what was done, and whether a change was sent.

    Without `write` nothing is written, since the user has not asked for JSON.
    """
    try:
        yield
    except KeyboardInterrupt:
        if write is not None:
            with _last_words():
                write(error_document(Interrupted(row.step, sent=row.sent)))
        raise


def converse_with(
    target: Target, guests: Guests | Guest, conversation: Conversation, deadline: Deadline, row: Row
) -> Any:
    """Have a conversation with one guest, over the blocking driver. Raises GuestError."""
    load_driver()
    from ._contact_blocking import BlockingContact, finish  # noqa: PLC0415  (loaded where a guest is dialled)

    contact = BlockingContact(target, deadline, _show_wait(guests), lambda _row: None, trace=guests.verbose)
    contact.row = row

    async def whole() -> Any:
        try:
            return await conversation(contact)
        finally:
            await contact.close()

    try:
        return finish(whole())
    except StereosError as exc:
        error = GuestError(contact.sentence(exc), exc)
        error.sent = row.sent
        raise error from exc
    except UsageError as exc:
        exc.sent = row.sent
        raise


def _show_wait(guests: Guests | Guest) -> Any:
    @contextmanager
    def show(subject: str, target: Target) -> Iterator[OnProgress]:
        from ._progress import waiting  # noqa: PLC0415  (only what waits needs it)

        with waiting(subject, target, traced=guests.verbose) as report:
            yield report

    return show


# ------------------------------------------------------------------------------------------------ many guests


def limits_of(
    guests: Guests, end: Deadline, seconds: float, max_failures: int | None = None, *, endless: bool = False
) -> Limits:
    """How many are asked at a time, so many seconds each and all of them until `end`."""
    from ._fleet import Limits  # noqa: PLC0415  (asyncio is loaded where there are many guests)

    return Limits(guests.parallel, seconds, end, max_failures, guests.verbose, endless)


def run_fleet(
    targets: Sequence[Target], limits: Limits, job: Job, *, failed: Iterable[Outcome] = ()
) -> tuple[list[Outcome], bool]:
    """Do the job with many guests, showing them at work. Return what became of each, and whether it was interrupted.

    `failed` is what became of others before: these count for `max_failures`.
    """
    with plain_interrupts():
        fleet_type: type[Fleet] = import_module("._fleet", __package__).Fleet
    from ._fleet_view import shown  # noqa: PLC0415

    fleet = fleet_type(targets, limits, job.failure, failed)
    with shown(fleet.rows, changes=job.waits, traced=limits.trace) as fleet.on_change:
        return fleet.run(job.converse), fleet.interrupted


async def ask_health(contact: Contact) -> Any:
    """Dial, and return the guest's report."""
    await contact.dial()
    return await contact.get_health()


def check_states(wanted: Iterable[str], known: Sequence[str], reported: Iterable[str]) -> None:
    """Raise UsageError for a state that is not known and that no guest reports.

    It may be misspelt. A state that is reported is none of these: guests of other makes may have states of their own.
    """
    reported = set(reported)
    for state in wanted:
        if state not in known and state not in reported:
            more = sorted(reported.difference(known))
            says = f"; these guests also report {', '.join(short(each, CELL_SIZE) for each in more)}" if more else ""
            if state in STATES_OF_MACHINES:
                says += f"; `stereosctl ls --state {shlex.quote(state)}` lists these"
            raise UsageError(f"--state {state}: no guest reports this state; it is one of {', '.join(known)}{says}")


@attrs.frozen(eq=False, repr=False)
class Chosen:
    """The guests that `--state` leaves, in order, and what became of those that could not be asked for their state."""

    targets: list[Target]
    #: They may be in the state or not. What is asked for is not done with them, and has failed.
    failed: tuple[Outcome, ...] = ()

    @property
    def asked(self) -> list[Target]:
        """Those that are in the state."""
        without = {each.target.name for each in self.failed}
        return [target for target in self.targets if target.name not in without]

    def whole(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """What became of each, in order, where `outcomes` is what became of those that are in the state."""
        by_name = {each.target.name: each for each in (*self.failed, *outcomes)}
        return [by_name[target.name] for target in self.targets]


def in_state(targets: list[Target], guests: Guests, end: Deadline) -> Chosen:
    """Those of `targets` that report a state of `--state`, or that cannot be asked; all of them where there is none.

    Those that report another state are named on stderr.
    """
    if not guests.state:
        return Chosen(targets)
    job = Job(ask_health, lambda _target, _value: {}, lambda _target, _value: None, str)
    limits = limits_of(guests, end, min(guests.seconds(), ASK_SECONDS))
    outcomes, interrupted = run_fleet(targets, limits, job)
    if interrupted:
        raise KeyboardInterrupt
    states = {each.target.name: str(each.value.state) for each in outcomes if each.error is None}
    check_states(guests.state, [*LifecycleState], states.values())
    left_out = {name: state for name, state in states.items() if state not in guests.state}
    if left_out:
        named = ", ".join(f"{short(name, CELL_SIZE)} ({short(state, CELL_SIZE)})" for name, state in left_out.items())
        say(f"left out, as not {' or '.join(guests.state)}: {named}", style="dim")
    left = [target for target in targets if target.name not in left_out]
    return Chosen(left, tuple(each for each in outcomes if each.error is not None))


def write_outcomes(outcomes: Sequence[Outcome], job: Job, out: Out) -> None:
    """Write what became of each guest, as the user wants it, and how many did well."""
    kind = out.kind
    if out.is_json:
        write_documents([_document(outcome, job) for outcome in outcomes], out)
    elif kind == "name":
        for outcome in outcomes:
            if not outcome.code:
                out.write_line({"name": outcome.target.name})
    elif kind == "template":
        for outcome in outcomes:
            result = "" if outcome.error is not None else job.said(outcome.value)
            out.write_line(_line(outcome.target, outcome.row, outcome.reason, result, outcome.code))
    else:
        _write_table(outcomes, job, wide=kind == "wide")
    if kind in ("name", "template"):
        _say_reasons(outcomes)
    counts = Counter(_word(outcome) for outcome in outcomes)
    words = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    # Not `say`: that stderr is full does not hide the exit code of a guest.
    show_beside(error_console(), Text(f"{counted(len(outcomes), 'guest')}: {words}" if outcomes else "no guests"))


def _say_reasons(outcomes: Iterable[Outcome]) -> None:
    """Say on stderr which guests have failed, and why, where the result itself may not."""
    told_of = ((each.target.name, told(each.reason)) for each in outcomes)
    sentences = ((name, brief(document["error"], name)) for name, document in told_of if document is not None)
    for who, sentence in merged(sentences):
        show_beside(error_console(), Text(f"{who}: {short(sentence, CELL_SIZE)}"))


def write_documents(documents: Sequence[Document], out: Out) -> None:
    """Write what is printed for any number of guests: as one array, or each on its line."""
    if out.kind == "json":
        out.write_document(documents)
        return
    for document in documents:
        out.write_document(document)


def _word(outcome: Outcome) -> str:
    """What became of a guest, for the summary."""
    kind = type(outcome.error).__name__
    return _KINDS.get(kind) or _WORDS[outcome.code]


def _document(outcome: Outcome, job: Job) -> Document:
    done = outcome.error is None
    return {
        "guest": outcome.target.name,
        "address": None if outcome.target.address is None else str(outcome.target.address),
        "ok": outcome.code == DONE,
        "code": outcome.code,
        "result": job.document(outcome.target, outcome.value) if done else None,
        "error": told(outcome.reason),
    }


def _line(target: Target, row: Row, error: Exception | None, result: str, code: int) -> dict[str, Any]:
    """What a template may name, of one guest."""
    health = row.health
    document = told(error)
    agents = () if health is None else health.agents
    return {
        "name": target.name,
        "address": target.address,
        "state": health and health.state,
        "uptime": health and duration(health.uptime_seconds),
        "agents": len(agents),
        "running": sum(agent.running for agent in agents),
        "rtt_ms": row.rtt_ms,
        "result": result,
        "error": document and document["error"].removeprefix(f"{target.name}: "),
        "kind": document and document["kind"],
        "code": code,
    }


def merged(sentences: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Guests and a sentence about each: yield each sentence once, with the names of all guests that it is about."""
    about_whom: dict[str, list[str]] = {}
    for name, sentence in sentences:
        about_whom.setdefault(sentence, []).append(name)
    for sentence, names in about_whom.items():
        yield listed(names, _NAMED, lambda name: short(name, CELL_SIZE)), sentence


def _write_table(outcomes: Sequence[Outcome], job: Job, *, wide: bool) -> None:
    from ._fleet_view import outcomes_table  # noqa: PLC0415  (asyncio is loaded where there are many guests)

    more = {each.target.name: [] if each.error is not None else list(job.more(each.value)) for each in outcomes}
    if outcomes:
        print_result(outcomes_table(outcomes, job.said, wide=wide))
    if console().is_terminal:
        # The table may have had no room for the whole sentence.
        failed = [outcome for outcome in outcomes if outcome.row.error and not more[outcome.target.name]]
        for who, sentence in merged((each.target.name, brief(each.row.error, each.target.name)) for each in failed):
            print_result(Text.assemble("\n", (who, "bold"), ": ", (short(sentence, CELL_SIZE), "yellow")))
    for name, parts in more.items():
        if parts:
            print_result("", Text(clean(name), "bold"), *parts)
