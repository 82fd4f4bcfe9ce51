"""`stereosctl doctor`: every step on the way to a guest, with what was seen and what to do about it."""

from __future__ import annotations

import importlib.util
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Final

import attrs
from rich.text import Text

from stereos_proto import (
    ConnectError,
    ConnectionLost,
    Health,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    StereosError,
)
from stereos_proto_io.addresses import Address, HybridVsock, VirtioSerial, Vsock

from ._console import clean, console
from ._context import DEFAULT_GUEST, Deadline, Guest, Json
from ._errors import UsageError, exit_code
from ._output import health_line, write_json

_MARKS: Final = {"ok": ("✓", "green"), "failed": ("✗", "bold red"), "note": ("•", "yellow")}

#: What to do about an error, by its class.
_REMEDIES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (UsageError, "give an address, --vm NAME, or set STEREOS_ADDRESS"),
    (
        ConnectError,
        "see that the virtual machine runs, that the hypervisor offers this address, and that you may open it",
    ),
    (
        RequestTimeout,
        "the guest may be paused or still boot: `stereosctl wait` shows when it answers",
    ),
    (
        ConnectionLost,
        "the way to the guest is there, but nobody listens at its end yet: `stereosctl wait` dials until it does",
    ),
    (RemoteProtocolError, "what answers there is no StereOS guest: check port and address"),
    (RequestFailed, "it is an old guest, which has no health reports; `stereosctl ping` works"),
)


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
    target = console()
    try:
        for finding in chain(_machine(), _way(guest)):
            findings.append(finding)
            if not json:
                _show(target.print, finding)
    except _Failed as failed:
        findings.append(failed.finding)
        code = failed.code
        if not json:
            _show(target.print, failed.finding)
    if json:
        write_json({"ok": not code, "steps": [attrs.asdict(finding) for finding in findings]})
    return code


class _Failed(Exception):
    def __init__(self, step: str, error: Exception) -> None:
        super().__init__(step)
        remedy = next((text for cls, text in _REMEDIES if isinstance(error, cls)), "")
        self.finding = Finding(step, "failed", str(error), remedy)
        self.code = exit_code(error) or 1


def _show(write: Callable[[Any], None], finding: Finding) -> None:
    mark, style = _MARKS[finding.status]
    write(Text.assemble((mark, style), " ", (f"{finding.step:<10}", "bold"), clean(finding.seen)))
    if finding.remedy:
        write(Text(f"  {'':<10}→ {finding.remedy}", "cyan"))


def _machine() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} ({sys.executable})")
    extras = [name for name in ("trio", "uvloop") if importlib.util.find_spec(name)]
    yield Finding("packages", "ok", f"stereos-proto {_version()}; also here: {', '.join(extras) or 'nothing else'}")
    if not hasattr(socket, "AF_VSOCK"):
        yield Finding(
            "AF_VSOCK", "note", "this Python has none", "only vsock:// needs it: use a Python built with it, on Linux"
        )
    elif not Path("/dev/vsock").exists():
        yield Finding("AF_VSOCK", "note", "Python has it, but there is no /dev/vsock", "only vsock:// needs it")
    else:
        yield Finding("AF_VSOCK", "ok", "Python has it, and there is /dev/vsock")


def _version() -> str:
    return version("stereos-proto")


def _way(guest: Guest) -> Iterator[Finding]:
    deadline = guest.deadline()
    address = _try("address", guest.resolve)
    yield Finding("address", "ok", str(address))
    stream = _try("dial", lambda: _dial(address, deadline))
    try:
        yield Finding("dial", "ok", _connected(address))
        preamble = _try("preamble", lambda: _preamble(address, stream, deadline))
        yield Finding("preamble", "ok", preamble)
    finally:
        stream.close()
    # A guest that serves one host at a time has to see that one leave, so the probe is a connection of its own.
    yield from _probe(guest, deadline)


def _try(step: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (StereosError, UsageError) as exc:
        raise _Failed(step, exc) from exc


def _dial(address: Address, deadline: Deadline) -> Any:
    from stereos_proto_io._blocking_wire import reach  # noqa: PLC0415  (loaded where a guest is dialled)

    return reach(address, deadline.at)


def _connected(address: Address) -> str:
    if isinstance(address, Vsock):
        return f"connected to CID {address.cid}, port {address.port}"
    return "connected (over TCP and unix sockets that does not say yet that the guest is there)"


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


def _probe(guest: Guest, deadline: Deadline) -> Iterator[Finding]:
    from ._dialling import dial  # noqa: PLC0415

    with _try("probe", lambda: dial(guest.resolve(), deadline, trace=guest.verbose)) as client:
        start = time.perf_counter()
        _try("probe", lambda: client.ping(timeout=deadline.left))
        yield Finding("probe", "ok", f"pong after {(time.perf_counter() - start) * 1000:.1f} ms")
        health: Health = _try("health", lambda: client.get_health(timeout=deadline.left))
    yield Finding("health", "ok", health_line(health).plain)
