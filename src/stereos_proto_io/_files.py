"""A jcard.toml on disk, and the prompts beside it: the files that a host reads before it talks to a guest."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from stereos_proto import InjectSSHKey, JcardError, ProvisionPlan, load_jcard

#: Longest `prompt_file` in bytes whose content is sent (§10).
MAX_PROMPT_SIZE: Final = 256 * 1024

#: Longest jcard.toml in bytes that is read, comments and secrets included; the config that is made of it is shorter.
MAX_JCARD_SIZE: Final = 16 * 1024 * 1024

# A FIFO without a writer must not block the open. None of these flags exists on Windows.
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0)
_CAREFUL: Final = getattr(os, "O_NONBLOCK", 0) | _NO_LINKS
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)

#: Whether this system opens a file by its name in a folder that is open already. Windows does not.
_OPENS_IN_FOLDERS: Final = os.open in os.supports_dir_fd


def read_jcard(
    path: str | os.PathLike[str],
    *,
    env: Mapping[str, str],
    fs_type: str = "9p",
    ssh_keys: Iterable[InjectSSHKey] = (),
    strict: bool = True,
) -> ProvisionPlan:
    """Read the jcard.toml (§10) at `path` into a plan: `load_jcard`, with the file's errors in the same words.

    The content of a `prompt_file` becomes the prompt, by the rules of `prompt_reader`. A machine without a name is
    named after the folder of the file.

    Raises JcardError, which names the file, when it cannot be opened, is longer than 16 MiB, or is not UTF-8, and all
    that `load_jcard` raises.
    """
    try:
        folder = _folder_of(Path(path))
        return load_jcard(
            _decoded(Path(path)),
            env=env,
            fs_type=fs_type,
            ssh_keys=ssh_keys,
            source=str(path),
            strict=strict,
            read_prompt=prompt_reader(folder),
            folder_name=folder.name,
        )
    except BaseException as exc:
        # The frames of the traceback hold what has been read, secrets among it. No function is called here: a Ctrl-C
        # could interrupt it.
        del env
        exc.__traceback__ = exc.__context__ = None
        raise


def _folder_of(path: Path) -> Path:
    try:
        return path.absolute().parent
    except OSError as exc:  # a path that is not absolute, in a working folder that was removed
        raise JcardError(
            f"{path}: cannot be read: the working folder cannot be found ({exc.strerror}); "
            "change into another folder, or give the whole path of the file"
        ) from exc


def prompt_reader(folder: Path) -> Callable[[str], str]:
    """A reader for the `prompt_file` of a jcard.toml in `folder`: takes its path, returns its content.

    It reads regular files inside `folder`, once symbolic links are followed, of at most 256 KiB of UTF-8. It raises
    OSError or ValueError for anything else, and `load_jcard` then leaves the path as it is: a jcard.toml from a
    stranger must not be able to send `~/.ssh/id_ed25519` to a guest.
    """

    def read(name: str) -> str:
        # Symbolic links are followed here, for the check. The open follows none: another process, such as an agent
        # that shares the folder, may replace any part of the path in between.
        root = Path(os.path.realpath(folder))
        path = Path(os.path.realpath(root / os.path.expanduser(name)))  # noqa: PTH111  (Path's own raise RuntimeError)
        if not path.is_relative_to(root):
            raise ValueError("it lies outside of the jcard's folder")
        with open(path.relative_to(root), "rb", opener=_opener(root)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is no regular file")
            data = file.read(MAX_PROMPT_SIZE + 1)
        if len(data) > MAX_PROMPT_SIZE:
            raise ValueError(f"it is longer than {MAX_PROMPT_SIZE // 1024} KiB")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None

    return read


def _opener(root: Path) -> Callable[[str, int], int]:
    """What opens a path relative to `root`, without symbolic links. Raises OSError, ValueError."""

    def descend(name: str, flags: int) -> int:
        *folders, last = Path(name).parts or (".",)
        # The folder itself is the operator's choice.
        folder = os.open(root, _FOLDER)
        try:
            for part in folders:
                above, folder = folder, os.open(part, _FOLDER | _NO_LINKS, dir_fd=folder)
                os.close(above)
            return os.open(last, flags | _CAREFUL, dir_fd=folder)
        finally:
            os.close(folder)

    def compare(name: str, flags: int) -> int:
        path = root / name
        descriptor = os.open(path, flags | _CAREFUL)
        try:
            moved = os.path.realpath(path) != str(path)
            if moved or not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                raise ValueError("it was replaced while it was opened")  # noqa: TRY301  (the descriptor is to be closed)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    return descend if _OPENS_IN_FOLDERS else compare


def _decoded(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JCARD_SIZE + 1)
    except (OSError, ValueError) as exc:  # a NUL in the name is a ValueError
        raise JcardError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(data) > MAX_JCARD_SIZE:
        raise JcardError(f"{path}: it is longer than {MAX_JCARD_SIZE // 2**20} MiB, which is the most that is read")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:  # it holds the data, so it is not chained
        line = data.count(b"\n", 0, exc.start) + 1
    raise JcardError(f"{path}, line {line}: not UTF-8", line=line)
