"""mb's virtual machines, from the `state.json` of each (`docs/protocol.md` §10)."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import attrs

from stereos_proto_io.addresses import TCP, Address, Vsock

from ._counts import listed
from ._errors import UsageError
from ._reading import MOST_READ, read_at_most

#: What `ls` says of a machine whose guest does not answer.
STATES_OF_MACHINES: Final = ("stopped", "no address", "unreachable")


@attrs.frozen(eq=False, repr=False)
class Machine:
    """A virtual machine of mb's."""

    #: Its name, which is that of its folder.
    name: str
    #: Where its guest is reached, None where it cannot be.
    address: Address | None = None
    #: Why it cannot be reached, "" where it can.
    problem: str = ""
    #: Whether it cannot be reached because it does not run.
    stopped: bool = False


def config_folder(env: Mapping[str, str] = os.environ, *, flag: str | None = None) -> Path:
    """Mb's configuration folder: the flag, MB_CONFIG_DIR, `config-dir` in config.toml, or the default.

    Raises UsageError when config.toml cannot be read.
    """
    given = flag or env.get("MB_CONFIG_DIR")
    if given:
        return Path(given)
    above = env.get("XDG_CONFIG_HOME")
    folder = (Path(above) if above else _home("~") / ".config") / "mb"
    file = folder / "config.toml"
    try:
        # What another program wrote into it may be of any type.
        chosen = tomllib.loads(read_at_most(file, MOST_READ).decode("utf-8-sig")).get("config-dir")
    except (FileNotFoundError, NotADirectoryError):
        return folder
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from None
    except ValueError as exc:
        raise UsageError(f"cannot read {file}: {exc}") from None
    except RecursionError:
        raise UsageError(f"cannot read {file}: its values are nested too deeply") from None
    if isinstance(chosen, str) and "\0" in chosen:
        raise UsageError(
            f"config-dir in {file} names no folder: it has a NUL character; fix it, or give --config-dir DIR"
        )
    return _home(chosen, f" in {file}") if isinstance(chosen, str) and chosen else folder


def _home(path: str, where: str = "") -> Path:
    """`path` with the home folder in the place of `~`. Raises UsageError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(
            f"cannot find mb's configuration folder: {path!r}{where} leads to no home folder; "
            "give --config-dir DIR, or set MB_CONFIG_DIR"
        ) from None


def machines_folder(env: Mapping[str, str] = os.environ, *, flag: str | None = None) -> Path:
    """Where mb keeps a folder for each virtual machine."""
    return config_folder(env, flag=flag) / "vms"


def machines(folder: Path) -> list[Machine]:
    """Every virtual machine that mb keeps a state of, by name. Raises UsageError when they cannot be listed."""
    return [_machine(folder, name) for name in names(folder)]


def names(folder: Path) -> list[str]:
    """The names of mb's virtual machines. Raises UsageError when they cannot be listed."""
    try:
        found = [path.name for path in folder.iterdir() if _keeps_state(path)]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise UsageError(f"cannot list {folder}: {exc.strerror}") from None
    return sorted(found, key=natural)


def _keeps_state(folder: Path) -> bool:
    """Whether mb keeps a state in a machine's folder. A folder that may not be searched counts: its row says why."""
    try:
        return stat.S_ISREG((folder / "state.json").stat().st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        # ValueError: a name with a NUL, which may come from a file.
        return False


#: The numbers in a name.
_DIGITS: Final = re.compile(r"(\d+)", re.ASCII)


def natural(name: str) -> tuple[Any, ...]:
    """The key to sort names by as people count: web-2 comes before web-10."""
    texts, numbers = _DIGITS.split(name)[::2], [number.lstrip("0") for number in _DIGITS.findall(name)]
    # Of two numbers the longer one is the larger one.
    return [(text, len(number), number) for text, number in zip(texts, (*numbers, ""), strict=True)], name


def find(name: str, folder: Path) -> Machine:
    """Mb's virtual machine `name`. Raises UsageError when there is none."""
    if Path(name).name != name or not _keeps_state(folder / name):
        raise UsageError(nothing_named(name, folder, names(folder)))
    return _machine(folder, name)


def no_machines(folder: Path) -> str:
    """What to say where there is no machine."""
    return f"mb has no virtual machines in {folder}"


def is_pattern(name: str) -> bool:
    """Whether a name stands for all machines whose names match it."""
    return not set("*?[").isdisjoint(name)


#: Names that are listed, and names that are suggested, for one that there is not.
_LISTED: Final = 10
_SUGGESTED: Final = 3


def nothing_named(name: str, folder: Path, known: Sequence[str]) -> str:
    """What to say of a name or a pattern that no machine has, where the machines in `folder` are `known`."""
    are = "is" if len(known) == 1 else "are"
    there = f"there {are}: {listed(known, _LISTED)}" if known else "there is none at all"
    if is_pattern(name):
        return f"no virtual machine in {folder} matches {name!r}; {there}"
    folded = {each.casefold(): each for each in known}
    close = " or ".join(folded[each] for each in get_close_matches(name.casefold(), folded, _SUGGESTED))
    return f"there is no virtual machine {name!r} in {folder}; {there}{f'; did you mean {close}?' if close else ''}"


def _machine(folder: Path, name: str) -> Machine:
    path = folder / name / "state.json"
    try:
        state = json.loads(read_at_most(path, MOST_READ))
        return Machine(name, _address(state))
    except _Stopped:
        return Machine(name, problem=_STOPPED, stopped=True)
    except OSError as exc:
        problem = exc.strerror or type(exc).__name__
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = "it is not JSON"
    except RecursionError:
        problem = "its values are nested too deeply"
    except ValueError as exc:
        problem = str(exc)
    return Machine(name, problem=f"{path}: {problem}")


_STOPPED: Final = "it is stopped; start it with `mb up`"


class _Stopped(Exception):
    """The state is that of a machine that does not run."""


def _address(state: Any) -> Address:
    if not isinstance(state, dict):
        raise ValueError("it does not hold a JSON object")  # noqa: TRY004  (all that is wrong with the file is a ValueError)
    cid, port, backend = state.get("vsock_cid") or 0, state.get("vsock_port") or 0, state.get("backend")
    if cid:
        return Vsock(cid)
    if backend == "qemu" and port:
        return TCP("127.0.0.1", port)
    if backend == "qemu" or "vsock_cid" in state:
        # While a machine is stopped, mb keeps neither a CID nor a port of it.
        raise _Stopped
    if backend == "applevirt":
        raise ValueError("its backend, applevirt, lets in only the process that started it")
    raise ValueError(f"its backend, {backend!r}, is unknown, and it has no vsock_cid")
