"""A jcard.toml on disk: the one file that a host reads before it talks to a guest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from stereos_proto import InjectSSHKey, JcardError, ProvisionPlan, StereosError, load_jcard


def read_jcard(
    path: str | os.PathLike[str],
    *,
    env: Mapping[str, str],
    fs_type: str = "9p",
    ssh_keys: Iterable[InjectSSHKey] = (),
) -> ProvisionPlan:
    """Read the jcard.toml (§10) at `path` into a plan: `load_jcard`, with the file's errors in the same words.

    Raises JcardError, which names the file, when it cannot be opened or is not UTF-8, and all that
    `load_jcard` raises.
    """
    try:
        # Bytes, because reading text would turn CRLF into LF, and the config is sent as it is.
        return load_jcard(_decoded(Path(path)), env=env, fs_type=fs_type, ssh_keys=ssh_keys, source=str(path))
    except (StereosError, TypeError):
        # The frame stays in the traceback, and its variables must not tell.
        del env
        raise


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as exc:  # a NUL in the name is a ValueError
        raise JcardError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
    del data
    raise JcardError(f"{path}, line {line}: not UTF-8", line=line)
