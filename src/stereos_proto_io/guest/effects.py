"""What a guest does to its machine, on disk: real files below a folder, which may be `/` (`docs/protocol.md` §6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stereos_proto import Mount

from ._go import os_error, quote
from .simulator import CONFIG_FILE, SECRETS_FOLDER, Effects, RequestRefused, Secret

#: Runs a command and returns its exit status.
Run = Callable[[Sequence[str]], int]

_PERMISSIONS: Final = 0o777
_9P_OPTIONS: Final = ("trans=virtio", "version=9p2000.L")


class FolderEffects(Effects):
    """A guest whose file system is `root` (§6): `GuestSimulator(effects=FolderEffects("/tmp/guest"))`.

    Files are written beside their place as `NAME.tmp` and renamed, so nobody sees half of one. Mounts get
    their mount point; they are carried out by `run`, where given: it takes the argv of a `mount` or `umount`
    and returns its exit status.
    """

    def __init__(self, root: str | os.PathLike[str], *, run: Run | None = None) -> None:
        self.root = Path(root)
        self._run = run

    def path(self, guest_path: str) -> Path:
        """Where the guest's absolute `guest_path` is on this machine."""
        return self.root / guest_path.lstrip("/")

    def store_secret(self, name: str, secret: Secret) -> None:
        """Write the secret's file with its mode; only the owner may look into the folder."""
        folder = self._folder(SECRETS_FOLDER, 0o700)
        self._write(folder / name, secret.value, secret.mode, "write secret file")

    def store_keys(self, user: str, keys: str) -> None:
        """Replace authorized_keys (0600) in `.ssh` (0700) of the user's home."""
        folder = self._folder(f"/home/{user}/.ssh", 0o700)
        self._write(folder / "authorized_keys", keys, 0o600, "write authorized_keys")

    def store_config(self, content: str) -> None:
        """Replace the jcard.toml, which everybody may read (0644)."""
        folder = self._folder(CONFIG_FILE.rpartition("/")[0], 0o755)
        self._write(folder / CONFIG_FILE.rpartition("/")[2], content, 0o644, "write config")

    def mount(self, mount: Mount) -> None:
        """Make the mount point (0755), and mount on it."""
        path = self.path(mount.guest_path)
        with _refusing(f"create mount point {quote(mount.guest_path)}", "mkdir", path):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self._run is None:
            return
        options = (_9P_OPTIONS if mount.fs_type == "9p" else ()) + (("ro",) if mount.read_only else ())
        argv = ["mount", "-t", mount.fs_type, *(["-o", ",".join(options)] if options else [])]
        # A host chooses the tag, so it must not be read as an option.
        status = self._run([*argv, "--", mount.tag, str(path)])
        if status:
            raise RequestRefused(f"mount {mount.tag} at {mount.guest_path}: exit status {status}")

    def power_off(self, mounts: tuple[Mount, ...]) -> None:
        """Unmount what was mounted, the last one first, and let the disks catch up."""
        if self._run is None:
            return
        for mount in reversed(mounts):
            self._run(["umount", str(self.path(mount.guest_path))])
        os.sync()

    def forget(self) -> None:
        """Lose the secrets, as the memory that they are kept in does."""
        folder = self.path(SECRETS_FOLDER)
        for file in folder.iterdir() if folder.is_dir() else ():
            file.unlink()

    def _folder(self, guest_path: str, mode: int) -> Path:
        folder = self.path(guest_path)
        with _refusing(f"create {guest_path}", "mkdir", folder):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
            folder.chmod(mode)
        return folder

    def _write(self, file: Path, text: str, mode: int, doing: str) -> None:
        draft = file.with_name(f"{file.name}.tmp")
        with _refusing(doing, "open", draft):
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    # The mode is set before there is anything to read.
                    os.fchmod(descriptor, mode & _PERMISSIONS)
                    stream.write(text.encode())
                draft.replace(file)
            except OSError:
                draft.unlink(missing_ok=True)  # it may hold a secret
                raise


@contextmanager
def _refusing(doing: str, operation: str, path: Path) -> Iterator[None]:
    """Tell the host of an error of the file system, as the reference would."""
    try:
        yield
    except OSError as exc:
        raise RequestRefused(f"{doing}: {os_error(operation, str(path), exc.errno or 0)}") from None
