"""What a guest does to its machine, on disk: real files below a folder, which may be `/` (`docs/protocol.md` §6).

A guest's daemon runs as root beside agents that may be hostile: an agent can put a symbolic link, a FIFO or a folder
where the daemon is about to write, and change it at any moment. So no path is ever given to the system whole. Every
folder is opened from the one above it (`dir_fd`) without following links; what is done to a file or a folder is done
by its descriptor; and a file is made anew (`O_EXCL`) beside its place, and renamed, which replaces whatever stood
there without opening it. A link inside the path is refused, also one that leads nowhere harmful.

The one exception is mount(8), which takes a path: its mount point is opened as above first, but an agent that may
write in a folder on the way could still swap it in between. Let shared folders be mounted where only root may write.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from stereos_proto import Mount

from ._go import os_error, quote
from .simulator import CONFIG_FILE, SECRETS_FOLDER, Effects, RequestRefused, Secret

__all__ = ["FolderEffects", "Run"]

#: Runs a command and returns its exit status.
Run = Callable[[Sequence[str]], int]

_PERMISSIONS: Final = 0o777
_9P_OPTIONS: Final = ("trans=virtio", "version=9p2000.L")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderEffects(Effects):
    """A guest whose file system is `root` (§6): `GuestSimulator(effects=FolderEffects("/tmp/guest"))`.

    Files are written beside their place as `NAME.tmp` and renamed, so half of one is never seen. Mounts get
    their mount point; they are carried out by `run`, where given: it takes the argv of a `mount` or `umount`
    and returns its exit status. Keys belong to the owner of the home that they are in.
    """

    def __init__(self, root: str | os.PathLike[str], *, run: Run | None = None) -> None:
        self.root: Path = Path(root)
        self._run = run

    def path(self, guest_path: str) -> Path:
        """Where the guest's absolute `guest_path` is on this machine."""
        return self.root / guest_path.lstrip("/")

    def store_secret(self, name: str, secret: Secret) -> None:
        """Write the secret's file with its mode; only the owner may look into the folder."""
        with self._folder(SECRETS_FOLDER, f"create {SECRETS_FOLDER}", 0o700) as folder:
            self._write(folder, f"{SECRETS_FOLDER}/{name}", secret.value, secret.mode, f"secret {quote(name)}")

    def store_keys(self, user: str, keys: str) -> None:
        """Replace authorized_keys (0600) in `.ssh` (0700) of the user's home. Both belong to the home's owner."""
        home = f"/home/{user}"
        with self._folder(home, f"create {home}") as folder:
            owner = os.fstat(folder)
        with self._folder(f"{home}/.ssh", f"create {home}/.ssh", 0o700) as folder:
            _give(folder, owner)
            file = f"{home}/.ssh/authorized_keys"
            self._write(folder, file, keys, 0o600, "authorized_keys", owner)

    def store_config(self, content: str) -> None:
        """Replace the jcard.toml, which everybody may read (0644)."""
        place = CONFIG_FILE.rpartition("/")[0]
        with self._folder(place, f"create {place}", 0o755) as folder:
            self._write(folder, CONFIG_FILE, content, 0o644, "config")

    def mount(self, mount: Mount) -> None:
        """Make the mount point (0755), and mount on it."""
        with self._folder(mount.guest_path, f"create mount point {quote(mount.guest_path)}"):
            pass
        if self._run is None:
            return
        options = (_9P_OPTIONS if mount.fs_type == "9p" else ()) + (("ro",) if mount.read_only else ())
        argv = ["mount", "-t", mount.fs_type, *(["-o", ",".join(options)] if options else [])]
        # A host chooses the tag, so it must not be read as an option.
        status = self._run([*argv, "--", mount.tag, str(self.path(mount.guest_path))])
        if status:
            raise RequestRefused(f"mount {mount.tag} at {mount.guest_path}: exit status {status}")

    def power_off(self, mounts: tuple[Mount, ...]) -> None:
        """Unmount what was mounted, the last mount first, and flush the disks."""
        if self._run is None:
            return
        for mount in reversed(mounts):
            self._run(["umount", str(self.path(mount.guest_path))])
        os.sync()

    def forget(self) -> None:
        """Lose the secrets, as the memory that they are kept in does: whatever is in their folder."""
        try:
            folder = self._descend(SECRETS_FOLDER, make=False)
        except FileNotFoundError:
            return
        try:
            for name in os.listdir(folder):  # noqa: PTH208  (by its descriptor)
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)

    @contextmanager
    def _folder(self, guest_path: str, doing: str, mode: int | None = None) -> Iterator[int]:
        """Open the folder `guest_path`, made where it is missing, with the permissions `mode` where given."""
        with _refusing(doing, "mkdir", self.path(guest_path)):
            folder = self._descend(guest_path, make=True)
        try:
            if mode is not None:
                with _refusing(doing, "chmod", self.path(guest_path)):
                    os.fchmod(folder, mode)
            yield folder
        finally:
            os.close(folder)

    def _descend(self, guest_path: str, *, make: bool) -> int:
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        # The root itself is the operator's choice, and may be a link.
        folder = os.open(self.root, _FOLDER)
        try:
            for part in guest_path.strip("/").split("/"):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=folder)
                above, folder = folder, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(above)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def _write(
        self, folder: int, guest_path: str, text: str, mode: int, what: str, owner: os.stat_result | None = None
    ) -> None:
        place = self.path(guest_path)
        draft = place.with_name(f"{place.name}.tmp")
        with _refusing(f"write {what}", "open", draft):
            # Remove what an earlier try, or an agent, has left there.
            with suppress(FileNotFoundError):
                os.unlink(draft.name, dir_fd=folder)
            descriptor = os.open(draft.name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            with _refusing(f"write {what}", "write", draft), os.fdopen(descriptor, "wb") as stream:
                # Owner and mode are set before there is anything to read.
                if owner is not None:
                    _give(descriptor, owner)
                os.fchmod(descriptor, mode & _PERMISSIONS)
                stream.write(text.encode())
            with _refusing(f"rename {what}", f"rename {draft}", place):
                os.rename(draft.name, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        except RequestRefused:
            with suppress(OSError):
                os.unlink(draft.name, dir_fd=folder)  # it may hold a secret
            raise


def _give(descriptor: int, owner: os.stat_result) -> None:
    """Give a file to `owner`, where we are root. Only root can, and only root makes files for others."""
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextmanager
def _refusing(doing: str, operation: str, path: Path) -> Iterator[None]:
    """Tell the host of an error of the file system, as the reference would."""
    try:
        yield
    except OSError as exc:
        raise RequestRefused(f"{doing}: {os_error(operation, str(path), exc.errno or 0)}") from None
