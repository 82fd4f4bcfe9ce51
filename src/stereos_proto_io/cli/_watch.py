"""`stereosctl watch`: what guests say, as it changes. Polls, and shows what they push."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Final, Literal

import attrs
from cyclopts import Parameter
from rich.console import Group
from rich.text import Text

from stereos_proto import StereosError

from ._console import clean, console, say
from ._contact import Contact, Row
from ._deadline import FOREVER, Deadline
from ._errors import UsageError, worst
from ._formats import FORMAT
from ._guest_view import guest_view
from ._jobs import converse_with, in_state, limits_of, load_driver
from ._observe import Sight, Watched, observe
from ._options import DURATION, OUTPUT, option
from ._output import write_json
from ._signals import drawing, ended_by_signals, unless_closed
from ._targets import DEFAULT_GUESTS, Guests, Target, canonical, checked_seconds

if TYPE_CHECKING:
    from ._fleet import Limits

Sort = Literal["name", "state", "agents", "rtt", "pushes", "changed"]


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class LinesOut:
    """How each change is written, by a command that goes on."""

    output: Annotated[Literal["wide", "jsonl"] | None, FORMAT] = attrs.field(default=None, kw_only=True)
    """wide or jsonl. By default what people read best, as with wide."""

    jsonl: Annotated[bool, option("--jsonl", group=OUTPUT)] = attrs.field(default=False, kw_only=True)
    """Print one JSON document per change, each on its line. The same as -o jsonl."""

    @property
    def is_json(self) -> bool:
        """Whether a program reads it as JSON."""
        return self.jsonl or self.output == "jsonl"


_DEFAULT_OUT: Final = LinesOut()


def watch(
    guest: Guests = DEFAULT_GUESTS,
    *,
    interval: Annotated[float, option("--interval", "-i", **DURATION)] = 1.0,
    sort: Sort = "name",
    look: Annotated[str | None, option("--look", takes="NAME")] = None,
    out: LinesOut = _DEFAULT_OUT,
) -> int:
    """Watch the state and the agents of guests, until Ctrl-C.

    On a terminal it takes the whole screen; elsewhere, and beside a trace, each
    change is a line. A guest that goes away is dialled again. Among many guests the
    arrow keys choose one, Enter looks into it, `s` sorts, and `q` ends as Ctrl-C
    does: with exit code 0.

    For example:

        stereosctl watch tcp://127.0.0.1:1024 -i 0.5
        stereosctl watch --all --sort state

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        interval: The time between two looks. What a guest pushes is shown at once.
        sort: What many guests are sorted by.
        look: Of many guests, show this one in full from the beginning.
        out: How each change is written.
    """
    interval = checked_seconds("--interval", interval)
    as_json = out.is_json
    look = None if look is None else canonical(look)
    seconds, end = guest.seconds(FOREVER), guest.end()
    targets = guest.targets()
    _check_look(look, targets)
    draws = console().draws and not guest.verbose and not as_json
    with ended_by_signals(interrupt=True):
        if not guest.many:
            watched = Watched(targets[0], Row(targets[0].name))
            _watch_single(watched, guest, end.or_in(seconds), interval, draws=draws, as_json=as_json)
            return 0
        targets = in_state(targets, guest, end).targets
        _check_look(look, targets)
        limits = limits_of(guest, end, seconds, endless=True)
        return _watch_many(targets, limits, interval, (sort, look), draws=draws, as_json=as_json)
    return 0


def _check_look(look: str | None, targets: Sequence[Target]) -> None:
    """Raise UsageError where --look names none of the guests: also in a pipe, where nothing is looked into."""
    if look is not None and all(look != target.name for target in targets):
        raise UsageError(f"--look names {look}, which is not among the guests")


def _printer(watched: Watched, *, as_json: bool, name: bool) -> Callable[[Sight], None]:
    """What takes the sights of a guest, and prints a line for each that is new."""
    target = console()

    def see(sight: Sight) -> None:
        line = watched.see(sight)
        if line is None:
            return
        if as_json:
            write_json(watched.document(sight), indent=False)
        else:
            target.print(Text.assemble((f"{clean(watched.target.name)}  ", "bold"), line) if name else line)

    return see


# ------------------------------------------------------------------------------------------------- a single guest


def _watch_single(
    watched: Watched, guest: Guests, deadline: Deadline, interval: float, *, draws: bool, as_json: bool
) -> None:
    watched.target.reached()

    def go(see: Callable[[Sight], None]) -> None:
        converse_with(watched.target, guest, lambda contact: observe(contact, interval, see), deadline, watched.row)

    if not draws:
        go(_printer(watched, as_json=as_json, name=False))
        return
    load_driver()
    screen = console()
    try:
        with drawing(lambda: _screen(watched, screen.height), screen, screen=True, moving=False) as live:
            live.refresh()

            def see(sight: Sight) -> None:
                watched.see(sight)
                live.refresh()

            go(see)
    finally:
        # What stays on the terminal is what was seen, where it has not been closed.
        with unless_closed():
            screen.print(guest_view(watched, screen.height))


def _screen(watched: Watched, height: int) -> Group:
    return Group(guest_view(watched, height), Text("Ctrl-C ends this.", "dim"))


# --------------------------------------------------------------------------------------------------- many guests


def _watch_many(
    targets: list[Target], limits: Limits, interval: float, view: tuple[Sort, str | None], *, draws: bool, as_json: bool
) -> int:
    from ._fleet import Fleet  # noqa: PLC0415  (asyncio is loaded where there are many guests)

    fleet = Fleet(targets, limits, lambda _target, _row, _value: None)
    watched = {row.name: Watched(target, row) for target, row in zip(targets, fleet.rows, strict=True)}
    beside: Callable[[], AbstractContextManager[None]] | None = None
    if draws:
        from ._watch_fleet import FleetScreen  # noqa: PLC0415

        screen = FleetScreen(list(watched.values()), *view)
        sinks = {name: screen.sink(each) for name, each in watched.items()}
        beside = screen.shown
    else:
        sinks = {name: _printer(each, as_json=as_json, name=True) for name, each in watched.items()}

    async def converse(contact: Contact) -> None:
        try:
            await observe(contact, interval, sinks[contact.target.name])
        except StereosError as exc:
            # This one is dialled no more, and the others are watched on.
            if contact.deadline.left:
                sinks[contact.target.name](exc)
            raise

    for target in targets:
        if target.address is None:
            sinks[target.name](UsageError(target.problem))

    outcomes = fleet.run(converse, beside=beside)
    if fleet.interrupted:
        return 0
    for outcome in outcomes:
        if outcome.error is not None:
            say(f"{outcome.target.name}: {outcome.row.error}", style="yellow")
    return worst(outcome.code for outcome in outcomes)
