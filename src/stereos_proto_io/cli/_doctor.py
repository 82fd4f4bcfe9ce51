"""`stereosctl doctor`: every step on the way to a guest, with what was seen and what to do about it."""

from __future__ import annotations

import errno
import importlib.util
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import attrs
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
from stereos_proto_io.addresses import Address, HybridVsock, VirtioSerial, Vsock

from ._console import clean, our_version
from ._context import DEFAULT_GUEST, Guest, Json
from ._deadline import Deadline
from ._errors import UsageError, exit_code
from ._output import brief, health_line, print_result, write_json

_MARKS: Final = {"ok": ("✓", "green"), "failed": ("✗", "bold red"), "note": ("•", "yellow")}

_COME_BACK: Final = "`stereosctl wait` dials until it does"
_START: Final = f"start the virtual machine, and see that its hypervisor offers this address; {_COME_BACK}"
_OPEN: Final = "run this as the owner of the socket, or let your group open it"
_KIND: Final = "look at the kind of the address: something else is at that place"

#: What to do about a dial that failed, by the number of the system's error.
_BY_NUMBER: Final[dict[int, str]] = {
    **dict.fromkeys((errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE), _START),
    errno.ENOENT: f"look at the path; the hypervisor makes the socket when the machine starts, and {_COME_BACK}",
    errno.ENODEV: "start the virtual machine, and look at its CID: `stereosctl ls` shows that of mb's",
    errno.EBUSY: "end whoever has it open: a serial port takes one host at a time",
    **dict.fromkeys((errno.EACCES, errno.EPERM), _OPEN),
    **dict.fromkeys((errno.ENOTSOCK, errno.EPROTOTYPE, errno.ENOTDIR), _KIND),
}
#: What to do about an error, by its class; of a ConnectError, by that of its cause.
_BY_CLASS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (socket.gaierror, "look at the host's name in the address, or write its IP address"),
    (TimeoutError, f"see whether the virtual machine is paused, or still boots; {_COME_BACK}"),
    (UsageError, "`stereosctl ls` lists mb's virtual machines, `stereosctl simulate` makes a guest to try"),
    (ConnectError, "see that the virtual machine runs, and that its hypervisor offers this address"),
    (ConnectionLost, f"the way to the guest is there, but nobody listens at its end yet: {_COME_BACK}"),
    (RemoteProtocolError, "what answers there is no StereOS guest: look at the port, and at the kind of the address"),
    (RequestFailed, "it is an old guest, which has no health reports; `stereosctl ping` works"),
)


def _remedy(error: BaseException) -> str:
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


def doctor(guest: Guest = DEFAULT_GUEST, *, json: Json = False) -> int:
    """Find out why a guest cannot be reached.

    It looks at this machine, then goes the way to the guest step by step. Nothing
    in the guest is changed. The exit code is that of the first step that failed.

    For example:

        stereosctl doctor tcp://127.0.0.1:1024

    Args:
        guest: Which guest, until when, and whether to trace the wire.
        json: Print one JSON document.
    """
    findings: list[Finding] = []
    code = 0
    try:
        for finding in chain(_machine(), _way(guest)):
            findings.append(finding)
            if not json:
                _show(finding)
    except _Failed as failed:
        findings.append(failed.finding)
        code = failed.code
        if not json:
            _show(failed.finding)
    if json:
        write_json({"ok": not code, "steps": [attrs.asdict(finding) for finding in findings]})
    return code


class _Failed(Exception):
    def __init__(self, step: str, error: Exception, address: Address | None) -> None:
        super().__init__(step)
        self.finding = Finding(step, "failed", brief(error, address), _remedy(error))
        self.code = exit_code(error) or 1


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


def _way(guest: Guest) -> Iterator[Finding]:
    deadline = guest.deadline()
    address = _try("address", guest.resolve)
    yield Finding("address", "ok", str(address))
    stream = _try("dial", lambda: _dial(address, deadline), address)
    try:
        yield Finding("dial", "ok", _connected(address))
        preamble = _try("preamble", lambda: _preamble(address, stream, deadline), address)
        yield Finding("preamble", "ok", preamble)
    finally:
        stream.close()
    # A guest that serves one host at a time has to see that one leave, so the probe is a connection of its own.
    yield from _probe(guest, address, deadline)


def _try(step: str, action: Callable[[], Any], address: Address | None = None) -> Any:
    try:
        return action()
    except (StereosError, UsageError) as exc:
        raise _Failed(step, exc, address) from exc


def _dial(address: Address, deadline: Deadline) -> Any:
    from stereos_proto_io._blocking_wire import reach  # noqa: PLC0415  (loaded where a guest is dialled)

    return reach(address, deadline.at)


def _connected(address: Address) -> str:
    if isinstance(address, Vsock):
        return f"connected to CID {address.cid}, port {address.port}"
    return "connected, which does not say yet that a guest is behind it"


def _preamble(address: Address, stream: Any, deadline: Deadline) -> str:
    from stereos_proto_io._blocking_wire import begin  # noqa: PLC0415

    start = time.perf_counter()
    begin(address, stream, deadline.at)
    took = (time.perf_counter() - start) * 1000
    if isinstance(address, HybridVsock):
        return f"CONNECT {address.port} was answered with OK in {took:.1f} ms"
    if isinstance(address, VirtioSerial):
        return f"the stream is in step with the guest, after {took:.1f} ms"
    return "none is needed"


def _probe(guest: Guest, address: Address, deadline: Deadline) -> Iterator[Finding]:
    from ._dialling import dial  # noqa: PLC0415  (the driver is loaded where a guest is dialled)

    with _try("probe", lambda: dial(address, deadline, trace=guest.verbose), address) as client:
        start = time.perf_counter()
        _try("probe", lambda: client.ping(timeout=deadline.left), address)
        yield Finding("probe", "ok", f"pong after {(time.perf_counter() - start) * 1000:.1f} ms")
        yield _judged(_try("health", lambda: client.get_health(timeout=deadline.left), address))


def _judged(health: Health) -> Finding:
    remedy = ""
    if health.state not in READY_STATES:
        remedy = "`stereosctl wait` shows when it is ready"
    elif not all(agent.running for agent in health.agents):
        remedy = "`stereosctl agents` shows which of them does not run, and why"
    return Finding("health", "note" if remedy else "ok", health_line(health).plain, remedy)
