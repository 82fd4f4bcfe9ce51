"""mb's virtual machines, from the `state.json` of each (`docs/protocol.md` §10)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stereos_proto_io.addresses import TCP, Address, Vsock

from ._errors import UsageError


@attrs.frozen
class Machine:
    """A virtual machine: where its guest is reached, or why it cannot be."""

    name: str
    address: Address | None
    problem: str = ""


def machines_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where mb keeps a folder for each virtual machine."""
    if env.get("MB_CONFIG_DIR"):
        config = Path(env["MB_CONFIG_DIR"])
    elif env.get("XDG_CONFIG_HOME"):
        config = Path(env["XDG_CONFIG_HOME"]) / "mb"
    else:
        config = Path.home() / ".config" / "mb"
    return config / "vms"


def machines(folder: Path | None = None) -> list[Machine]:
    """Every virtual machine that mb keeps a state of, by name. Raises UsageError when they cannot be listed."""
    folder = folder or machines_folder()
    try:
        names = sorted(path.parent.name for path in folder.glob("*/state.json"))
    except OSError as exc:
        raise UsageError(f"cannot list {folder}: {exc.strerror}") from None
    return [_machine(folder, name) for name in names]


def find(name: str, folder: Path | None = None) -> Address:
    """The address of mb's virtual machine `name`. Raises UsageError."""
    folder = folder or machines_folder()
    if Path(name).name != name or not (folder / name / "state.json").is_file():
        known = ", ".join(machine.name for machine in machines(folder))
        others = f"there is: {known}" if known else "there is none at all"
        raise UsageError(f"there is no virtual machine {name!r} in {folder}; {others}")
    machine = _machine(folder, name)
    if machine.address is None:
        raise UsageError(f"{name}: {machine.problem}")
    return machine.address


def _machine(folder: Path, name: str) -> Machine:
    path = folder / name / "state.json"
    try:
        return Machine(name, _address(json.loads(path.read_bytes())))
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = "it is no JSON"
    except (ValueError, RecursionError) as exc:
        problem = str(exc)
    return Machine(name, None, f"{path}: {problem}")


def _address(state: Any) -> Address:
    if not isinstance(state, dict):
        raise ValueError("it holds no JSON object")  # noqa: TRY004  (all that is wrong with the file is a ValueError)
    cid = state.get("vsock_cid") or 0
    backend = state.get("backend")
    if cid:
        return Vsock(cid)
    if backend == "qemu" and not state.get("vsock_port"):
        raise ValueError("it has no vsock_port; was the virtual machine ever started?")
    if backend == "qemu":
        return TCP("127.0.0.1", state["vsock_port"])
    if backend == "applevirt":
        raise ValueError("its backend, applevirt, lets in only the process that started it")
    raise ValueError(f"its backend, {backend!r}, is unknown, and it has no vsock_cid")
