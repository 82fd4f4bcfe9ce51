"""`stereosctl doctor`: every step on the way to a guest, with what was seen and what to do about it."""

from __future__ import annotations

import errno
import importlib.util
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Final, Literal

import attrs
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    Health,
    PreambleError,
    RemoteProtocolError,
    RequestFailed,
    StereosError,
)
from stereos_proto.dialogues import READY_STATES
from stereos_proto_io.addresses import Address, HybridVsock, UnixSocket, VirtioSerial, Vsock

from ._console import clean, our_version
from ._contact import Row
from ._deadline import Deadline
from ._errors import Interrupted, UsageError, code_of, worst
from ._formats import FORMAT, Out
from ._jobs import in_state, interruption_told
from ._options import OUTPUT, option
from ._output import brief, health_line, print_result, write_json
from ._signals import keeping_results, nothing
from ._targets import DEFAULT_GUESTS, TRY_THESE, Guests, Target

_MARKS: Final = {"ok": ("✓", "green"), "failed": ("✗", "bold red"), "note": ("•", "yellow")}

_COME_BACK: Final = "`stereosctl wait` dials until it does"
_NOBODY_YET: Final = f"nobody listens at its end yet: {_COME_BACK}"
_START: Final = f"start the virtual machine, and see that its hypervisor offers this address; {_COME_BACK}"
_OPEN: Final = "run this as the owner of the socket, or let your group open it"
_KIND: Final = "look at the kind of the address: something else is at that place"

#: What to do about a dial that failed, by the number of the system's error.
_BY_NUMBER: Final[dict[int, str]] = {
    **dict.fromkeys((errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE), _START),
    errno.ENOENT: f"look at the path; the hypervisor makes the socket when the machine starts, and {_COME_BACK}",
    errno.ENODEV: "start the virtual machine, and look at its CID: `stereosctl ls` shows that of mb's",
    errno.EBUSY: "end the process that has it open: a serial port takes one host at a time",
    **dict.fromkeys((errno.EACCES, errno.EPERM), _OPEN),
    **dict.fromkeys((errno.ENOTSOCK, errno.EPROTOTYPE, errno.ENOTDIR), _KIND),
}
#: What to do about an error, by its class; of a ConnectError, by that of its cause.
_BY_CLASS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (socket.gaierror, "look at the host's name in the address, or write its IP address"),
    (TimeoutError, f"see whether the virtual machine is paused, or still boots; {_COME_BACK}"),
    (UsageError, TRY_THESE),
    (ConnectError, "see that the virtual machine runs, and that its hypervisor offers this address"),
    (ConnectionLost, f"the way to the guest is there, but {_NOBODY_YET}"),
    (
        RemoteProtocolError,
        "what answers there is not a StereOS guest: look at the port, and at the kind of the address",
    ),
    (RequestFailed, "it is an old guest, which has no health reports; `stereosctl ping` works"),
)


#: What to do about a connection that the guest closed once it had answered.
_ANSWERED: Final = (
    "it answered ping, and then closed the connection: run this again, and if that stays so, look at the guest's log"
)


def _remedy(step: str, error: BaseException, address: Address | None) -> str:
    if isinstance(error, ConnectionLost) and step == "health":
        return _ANSWERED
    if isinstance(error, ConnectionLost) and isinstance(address, UnixSocket):
        # A muxer closes a connection that does not begin with CONNECT.
        return (
            "if this is a hybrid-vsock socket (Firecracker, Cloud Hypervisor), "
            f"use {HybridVsock(address.path)}; if it is not, {_NOBODY_YET}"
        )
    cause = error.__cause__ if isinstance(error, ConnectError) else None
    if isinstance(cause, PreambleError) and cause.failure.retryable:
        cause = ConnectionLost("")
    if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) and cause.errno in _BY_NUMBER:
        return _BY_NUMBER[cause.errno]
    return next((text for each in (cause, error) for cls, text in _BY_CLASS if isinstance(each, cls)), "")


@attrs.frozen
class Finding:
    """One step: its name, how it went (`ok`, `failed`, `note`), what was seen, what to do."""

    step: str
    status: str
    seen: str
    remedy: str = ""


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class DocumentOut:
    """How the result is written, by a command that prints one document or for people."""

    output: Annotated[Literal["wide", "json"] | None, FORMAT] = attrs.field(default=None, kw_only=True)
    """wide or json. By default what people read best, as with wide."""

    json: Annotated[bool, option("--json", group=OUTPUT)] = attrs.field(default=False, kw_only=True)
    """Print one JSON document; with many guests an array. The same as -o json."""

    @property
    def is_json(self) -> bool:
        """Whether a program reads it as JSON. Raises UsageError."""
        return Out(output=self.output, json=self.json).is_json


_DEFAULT_OUT: Final = DocumentOut()


def doctor(guest: Guests = DEFAULT_GUESTS, *, out: DocumentOut = _DEFAULT_OUT) -> int:
    """Find out why guests cannot be reached.

    It checks this machine, then each step on the way to each guest. It changes
    nothing in a guest. The exit code is that of the first step that failed.

    For example:

        stereosctl doctor tcp://127.0.0.1:1024

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        out: How the result is written.
    """
    # Before anything is printed: these refuse what the command line says.
    as_json, seconds, end = out.is_json, guest.seconds(), guest.end()

    def examine(target: Target | None, note: Callable[[Finding], None]) -> int:
        return _examined(_way(guest, target, end.or_in(seconds)), note)

    with interruption_told(write_json if as_json else None, Row("", _EXAMINING, sent=None)):
        if not guest.many:
            return _doctor_single(lambda note: examine(None, note), as_json=as_json)
        targets = in_state(guest.targets(), guest, end).targets
    return _doctor_many(targets, guest.parallel, examine, as_json=as_json)


#: What is done, where the user interrupts it.
_EXAMINING: Final = "the guest is examined"


def _doctor_single(examine: Callable[[Callable[[Finding], None]], int], *, as_json: bool) -> int:
    found = list(_machine())
    if not as_json:
        _show_all(found)
        return examine(_show)
    code = examine(found.append)
    write_json(_document(found, code))
    return code


def _doctor_many(
    targets: list[Target],
    parallel: int,
    examine: Callable[[Target, Callable[[Finding], None]], int],
    *,
    as_json: bool,
) -> int:
    found: dict[str, list[Finding]] = {target.name: [] for target in targets}
    # On Ctrl-C, what is known of each guest is still to be shown.
    with keeping_results(nothing):
        here = list(_machine())
        if not as_json:
            _show_all(here)
        codes = side_by_side(targets, parallel, lambda target: examine(target, found[target.name].append))
        results = [_until_now(found[each.name], code) for each, code in zip(targets, codes, strict=True)]
        _write_many(targets, results, here, as_json=as_json)
    return worst(code for _, code in results)


def _until_now(findings: list[Finding], code: int | None) -> tuple[list[Finding], int]:
    """What was found of a guest, and the exit code; without one, the user has interrupted its examination."""
    if code is not None:
        return findings, code
    interrupted = Interrupted(_EXAMINING if findings else "")
    return [*findings, Finding("interrupted", "failed", str(interrupted))], code_of(interrupted)


def _write_many(
    targets: list[Target], results: list[tuple[list[Finding], int]], here: list[Finding], *, as_json: bool
) -> None:
    if as_json:
        documents = [
            {"guest": target.name, **_document([*here, *found], code)}
            for target, (found, code) in zip(targets, results, strict=True)
        ]
        write_json(documents)
        return
    for target, (found, _) in zip(targets, results, strict=True):
        print_result("", Text(clean(target.name), "bold"))
        _show_all(found)


def _document(findings: list[Finding], code: int) -> dict[str, Any]:
    return {"ok": not code, "steps": [attrs.asdict(finding) for finding in findings]}


def _examined(way: Iterator[Finding], note: Callable[[Finding], None]) -> int:
    """Note what is found on the way to a guest, and return the exit code that it comes to."""
    try:
        for finding in way:
            note(finding)
    except _Failed as failed:
        note(failed.finding)
        return failed.code
    return 0


def _show_all(findings: list[Finding]) -> None:
    for finding in findings:
        _show(finding)


def side_by_side(targets: list[Target], parallel: int, examine: Callable[[Target], Any]) -> list[Any]:
    """Examine each guest in a thread of its own, so many at a time. Ctrl-C waits for none of them: theirs is None.

    Raises what the first `examine` that fails raises; it waits for none of the others.
    """
    from ._private import load_what_dials  # noqa: PLC0415  (loaded where a guest is dialled)

    load_what_dials()
    #: None: the user has interrupted it.
    answers: SimpleQueue[tuple[int, Any, BaseException | None] | None] = SimpleQueue()
    room = threading.Semaphore(parallel)

    def work(number: int, target: Target) -> None:
        with room:
            try:
                answers.put((number, examine(target), None))
            except BaseException as exc:  # noqa: BLE001  (the main thread raises it)
                answers.put((number, None, exc))

    for each in enumerate(targets):
        threading.Thread(target=work, args=each, daemon=True).start()
    found: dict[int, Any] = {}
    with keeping_results(lambda: answers.put(None)):
        while len(found) < len(targets) and (got := answers.get()) is not None:
            number, answer, error = got
            if error is not None:
                raise error
            found[number] = answer
    return [found.get(number) for number in range(len(targets))]


class _Failed(Exception):
    def __init__(self, step: str, error: Exception, target: Target | None) -> None:
        super().__init__(step)
        said = str(error) if target is None else brief(target.sentence(error), target.name)
        # What is wrong with a guest that was found says itself what to do.
        found = isinstance(error, UsageError) and target is not None
        remedy = "" if found else _remedy(step, error, None if target is None else target.address)
        # The sentence may end with the same advice.
        self.finding = Finding(step, "failed", said.removesuffix(f"; {remedy}"), remedy)
        self.code = code_of(error)


def _show(finding: Finding) -> None:
    line = Table.grid(padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True, min_width=9)
    line.add_column(overflow="fold")
    mark, style = _MARKS[finding.status]
    line.add_row(Text(mark, style), Text(finding.step, "bold"), Text(clean(finding.seen)))
    if finding.remedy:
        line.add_row("", "", Text(f"→ {finding.remedy}", "cyan"))
    print_result(line)


def _machine() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} ({sys.executable})")
    extras = [name for name in ("trio", "uvloop") if importlib.util.find_spec(name)]
    yield Finding("packages", "ok", f"stereos-proto {our_version()}; also here: {', '.join(extras) or 'nothing else'}")
    if not hasattr(socket, "AF_VSOCK"):
        yield Finding(
            "AF_VSOCK", "note", "this Python has none", "only vsock:// needs it: use a Python built with it, on Linux"
        )
    elif not Path("/dev/vsock").exists():
        yield Finding("AF_VSOCK", "note", "Python has it, but there is no /dev/vsock", "only vsock:// needs it")
    else:
        yield Finding("AF_VSOCK", "ok", "Python has it, and there is /dev/vsock")


def _way(guest: Guests, given: Target | None, deadline: Deadline) -> Iterator[Finding]:
    """Each step on the way to a guest. Without `given` it is the one that the command line names."""
    target: Target = given or _try("address", lambda: guest.targets()[0])
    address: Address = _try("address", target.reached, target)
    yield Finding("address", "ok", str(address))
    stream = _try("dial", lambda: _dial(address, deadline), target)
    try:
        yield Finding("dial", "ok", _connected(address))
        preamble = _try("preamble", lambda: _preamble(address, stream, deadline), target)
        yield Finding("preamble", "ok", preamble)
    finally:
        stream.close()
    # A guest that serves one host at a time has to see that one leave, so the probe is a connection of its own.
    yield from _probe(guest, target, deadline)


def _try(step: str, action: Callable[[], Any], target: Target | None = None) -> Any:
    try:
        return action()
    except (StereosError, UsageError) as exc:
        raise _Failed(step, exc, target) from exc


def _dial(address: Address, deadline: Deadline) -> Any:
    from ._private import open_stream  # noqa: PLC0415  (loaded where a guest is dialled)

    return open_stream(address, deadline.at)


def _connected(address: Address) -> str:
    if isinstance(address, Vsock):
        return f"connected to CID {address.cid}, port {address.port}"
    return "connected, which does not say yet that a guest is behind it"


def _preamble(address: Address, stream: Any, deadline: Deadline) -> str:
    from ._private import run_preamble  # noqa: PLC0415

    start = time.perf_counter()
    run_preamble(address, stream, deadline.at)
    took = (time.perf_counter() - start) * 1000
    if isinstance(address, HybridVsock):
        return f"CONNECT {address.port} was answered with OK in {took:.1f} ms"
    if isinstance(address, VirtioSerial):
        return f"the stream is synchronised with the guest, after {took:.1f} ms"
    return "none is needed"


def _probe(guest: Guests, target: Target, deadline: Deadline) -> Iterator[Finding]:
    from ._contact_blocking import dial  # noqa: PLC0415  (the driver is loaded where a guest is dialled)

    with _try("probe", lambda: dial(target, deadline, trace=guest.verbose), target) as client:
        start = time.perf_counter()
        _try("probe", lambda: client.ping(timeout=deadline.left), target)
        yield Finding("probe", "ok", f"pong after {(time.perf_counter() - start) * 1000:.1f} ms")
        yield _judged(_try("health", lambda: client.get_health(timeout=deadline.left), target))


def _judged(health: Health) -> Finding:
    remedy = ""
    if health.state not in READY_STATES:
        remedy = "`stereosctl wait` shows when it is ready"
    elif not all(agent.running for agent in health.agents):
        remedy = "`stereosctl agents` shows which of them does not run, and why"
    return Finding("health", "note" if remedy else "ok", health_line(health).plain, remedy)
