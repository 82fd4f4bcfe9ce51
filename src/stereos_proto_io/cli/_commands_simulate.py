"""Commands around the simulated guest: simulate, demo, conformance."""

from __future__ import annotations

import threading
import warnings
from contextlib import nullcontext, suppress
from json import loads
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

from rich.table import Table
from rich.text import Text

from stereos_proto import AgentStatus, Reply, Request

from ._commands_give import refuse_input_of_shell
from ._console import clean, read_when_there_is, say, say_error, write_at_once
from ._contact import Row
from ._deadline import ASK_SECONDS, Deadline
from ._errors import REFUSED, USAGE, UsageError
from ._jobs import interruption_told, load_driver
from ._listen import listening_address
from ._options import DURATION, Json, option, refuse_what_is_no_utf8, repeated
from ._output import columns, print_result, write_json
from ._request_log import RequestLog
from ._signals import signals_as_event
from ._targets import DEFAULT_PLACE, Place, about, checked_seconds, listening_at

#: A free port of this machine only.
_ANYWHERE: Final = "tcp://127.0.0.1:0"
#: Seconds that each wait of a conformance case may take.
_CASE_SECONDS: Final = 5.0
_CASE_MARKS: Final = {"passed": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("–", "dim")}


def simulate(
    *,
    listen: Annotated[tuple[str, ...], repeated("--listen", takes="ADDRESS", show_default=False)] = (_ANYWHERE,),
    fault: Annotated[tuple[str, ...], repeated("--fault", takes="FAULT")] = (),
    agent: Annotated[tuple[str, ...], repeated("--agent", takes="NAME")] = (),
    boot_time: Annotated[float, option(**DURATION)] = 0.0,
    poll_interval: Annotated[float, option(**DURATION)] = 5.0,
    attached: bool = False,
    quiet: Annotated[bool, option("--quiet", "-q")] = False,
    list_faults: Annotated[bool, option("--list-faults")] = False,
) -> None:
    """Run a simulated guest.

    It prints its address on stdout and each request on stderr, and ends when it is
    shut down, or by Ctrl-C, with exit code 0.

    Faults are `NAME[:ARGUMENT][@TYPE][#NUMBER]`: `late:2s@ping`, `drop@mount#2`,
    `refuse:3s`, `reset#1`. TYPE is the type of the requests that the fault strikes, and
    NUMBER which of these (or which connection), counted from 1. The names are
    refuse, slow-boot, never-ready, reset, hang-up, cut, delay, late, stall, drop,
    duplicate, swap, push, half, garbage, blank, over-long, wrong-type, fail, deny,
    omit, close, power-off and reboot; `stereosctl simulate --list-faults` says what
    each does.

    For example:

        stereosctl simulate --boot-time 3 --fault late:2s@ping
        stereosctl simulate --list-faults

    Args:
        listen: Where it listens; give it again for more. By default a free TCP port of this machine.
        fault: What goes wrong, as --list-faults says; give it again for more.
        agent: An agent that runs from the start; give it again for more. By default those of the config run.
        boot_time: How long it reports the state `booting`.
        poll_interval: How long it waits between two looks at its config and agents.
        attached: End with standard input, so that it cannot outlive the process that started it.
        quiet: Say nothing but the address.
        list_faults: Print what each fault does and how it is written, and end.
    """
    if list_faults:
        print_result(_faults_table())
        return
    from stereos_proto_io.guest.blocking import serve  # noqa: PLC0415  (the server is loaded where it is used)

    if not boot_time >= 0:
        raise UsageError("--boot-time cannot be negative")
    checked_seconds("--poll-interval", poll_interval)
    if attached:
        refuse_input_of_shell("--attached cannot wait for its end: leave it out")
    refuse_what_is_no_utf8({"--agent": "".join(agent), "--fault": "".join(fault)})
    addresses = [listening_address(text) for text in listen]
    off = False
    with signals_as_event() as stop, RequestLog(stop, quiet=quiet) as requests:
        guest = _guest(fault, agent, boot_time, poll_interval, requests)
        with listening_at(*addresses):
            server = serve(addresses, guest)
        with server:
            if attached:
                threading.Thread(target=_until_stdin_ends, args=(stop,), daemon=True).start()
            for address in server.addresses:
                print_result(str(address))
            # Waiting in short turns, so that a signal is noticed between them.
            while not stop.is_set() and not off:
                off = server.join(0.2)
        requests.close("the guest has powered off" if off else "")


def _faults_table() -> Table:
    from stereos_proto_io.guest.faults import fault_table  # noqa: PLC0415

    rows = fault_table()
    if not any(row.effect for row in rows):
        say("what each fault does is not shown: Python runs without docstrings (-OO, PYTHONOPTIMIZE=2)", style="yellow")
        table = columns("FAULT", "EXAMPLE")
        for row in rows:
            table.add_row(Text(row.form), Text(row.example))
        return table
    table = columns("FAULT", "WHAT HAPPENS", "EXAMPLE")
    for row in rows:
        table.add_row(*map(Text, (row.form, row.effect.replace("`", ""), row.example)))
    return table


def _guest(
    faults: tuple[str, ...], agents: tuple[str, ...], boot_time: float, poll_interval: float, requests: RequestLog
) -> Any:
    from stereos_proto_io.guest import GuestSimulator, parse_fault  # noqa: PLC0415

    try:
        for text in faults:
            parse_fault(text)
    except ValueError as exc:
        raise UsageError(f"{exc}; see: stereosctl simulate --list-faults") from None

    class Shown(GuestSimulator):
        def handle(self, request: Request) -> Reply:
            return requests.handled(request, super().handle)

        def deny(self, request: Request, text: str) -> Reply:
            refused = super().deny
            return requests.handled(request, lambda request: refused(request, text))

    running = [AgentStatus(name, running=True, session=name) for name in agents] or None
    with warnings.catch_warnings(record=True) as caught:
        # Python's own way to show them names a file and shows a line of source.
        warnings.simplefilter("always")
        try:
            guest = Shown(faults=faults, agents=running, boot_time=boot_time, poll_interval=poll_interval)
        except ValueError as exc:
            raise UsageError(str(exc)) from None
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"warning: {text}", style="yellow")
    return guest


def _until_stdin_ends(stop: threading.Event) -> None:
    # Below Python's own buffer: a thread that waits in that one keeps the interpreter from ending cleanly.
    with suppress(OSError):
        while read_when_there_is(0, 4096):
            pass
    stop.set()


def demo(file: Path | None = None, /) -> None:
    """Boot a simulated guest, provision it, look at it, shut it down.

    For example:

        stereosctl demo

    Args:
        file: The jcard.toml to provision. By default one with two mounts, three secrets and two agents.
    """
    from ._demo import play  # noqa: PLC0415

    play(file)


def conformance(
    guest: Place = DEFAULT_PLACE,
    *,
    timeout: Annotated[float, option(**DURATION)] = _CASE_SECONDS,
    allow_effects: bool = False,
    allow_shutdown: bool = False,
    junit: Path | None = None,
    json: Json = False,
) -> int:
    """Examine whether a guest speaks the protocol.

    Each case is a sentence of the protocol. Cases that change the guest are left out unless they are allowed. Exit
    code 1 when one fails.

    For example:

        stereosctl conformance tcp://127.0.0.1:1024 --allow-effects

    Args:
        guest: Which guest.
        timeout: How long each wait of a case may take.
        allow_effects: Also run cases that replace the guest's config and admin's keys, and leave a secret behind.
        allow_shutdown: Shut the guest down at the end.
        junit: Write a report for continuous integration into this file.
        json: Print one JSON document.
    """
    from stereos_proto_io.conformance import run  # noqa: PLC0415  (loaded where it is used)

    target = guest.target()
    address = target.reached()
    patience = checked_seconds("--timeout", timeout)
    load_driver()
    from ._contact_blocking import dial  # noqa: PLC0415

    changes = allow_effects or allow_shutdown
    row = Row(target.name, "dialling", sent=None)
    with interruption_told(write_json if json else None, row), about(target):
        # Every case dials anew; where there is no guest, one sentence says so, and not all of them.
        dial(target, Deadline.after(ASK_SECONDS)).close()
    row.step, row.sent = "the cases are run", True if changes else None
    with _report_file(junit) or nullcontext() as file, interruption_told(write_json if json else None, row):
        report = run(
            address,
            allow_effects=allow_effects,
            allow_shutdown=allow_shutdown,
            timeout=patience,
            on_result=None if json else _show_case,
        )
        if json:
            write_json(loads(report.as_json()))
        else:
            say(report.summary)
        if file is not None:
            try:
                write_at_once(file, report.as_junit())
            except OSError as exc:
                # The results have been shown: another document would be one too many.
                say_error(f"cannot write {junit}: {exc.strerror}")
                return USAGE
    return 0 if report.ok else REFUSED


def _report_file(junit: Path | None) -> TextIO | None:
    """The file for the report, if one is wanted, opened before any case is run. Raises UsageError."""
    try:
        return None if junit is None else junit.open("w", encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"cannot write {junit}: {exc.strerror}") from None


def _show_case(result: Any) -> None:
    mark, style = _CASE_MARKS[result.outcome]
    print_result(Text.assemble((mark, style), f" {result.section:<4} ", clean(result.name)))
    if result.reason:
        print_result(Text(f"       {clean(result.reason)}", "dim" if result.outcome == "skipped" else style))
