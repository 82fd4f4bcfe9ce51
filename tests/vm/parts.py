"""The parts of a machine, from Debian's packages: QEMU, busybox, a kernel, a muxer for hybrid vsock.

What is fetched is kept in `.cache/vm` of the repository, and found there by the next run. No mirror is named
here: all comes from wherever this system has its packages from.
"""

from __future__ import annotations

import functools
import lzma
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import attrs

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache" / "vm"

QEMU: Final = "qemu-system-x86_64"
BUSYBOX: Final = Path("/bin/busybox")
#: Packages, and what shows that they are installed.
_INSTALLED: Final = {
    "qemu-system-x86": lambda: shutil.which(QEMU) is not None,
    "busybox-static": lambda: BUSYBOX.exists() and not _libraries_of(BUSYBOX),
}
#: Depends on the newest kernel, whose name changes with each update.
_KERNEL: Final = "linux-image-amd64"
#: The muxer is not in the stable release. Its suite moves, so it may be gone one day.
_MUXER: Final = "vhost-device-vsock"
_MUXER_SUITE: Final = "forky"
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"

#: Modules of the kernel that a guest loads, with those they depend on.
MODULES: Final = (
    *("virtio_pci", "virtio_console", "virtio_net", "vmw_vsock_virtio_transport", "vsock_loopback"),
    *("9p", "9pnet_virtio"),
)
#: Those that a guest loads which has a guest of its own.
HOST_MODULES: Final = ("kvm_amd", "vhost_vsock")

Result = TypeVar("Result")

#: Seconds for anything that apt does.
_PATIENCE: Final = 120


class Unavailable(Exception):
    """This machine does not have the part, and does not get it now. The text says why, in one line."""


class Impossible(Unavailable):
    """No machine of this kind can have the part, or no mirror has it any more."""


@attrs.frozen
class Kernel:
    """An unpacked kernel: its `image` (an ELF vmlinux, which boots faster than a bzImage) and its modules."""

    folder: Path

    @property
    def image(self) -> Path:
        """The vmlinux."""
        return self.folder / "vmlinux"

    def module(self, name: str) -> Path | None:
        """The file of a module; None where it is built in."""
        path = self.folder / "modules" / f"{name}.ko"
        return path if path.exists() else None

    def load_order(self, names: Sequence[str]) -> list[str]:
        """The modules `names` and all that they depend on, in the order in which they can be loaded."""
        order: list[str] = []
        for name in names:
            path = self.module(name)
            if path and name not in order:
                needed = [other for other in self.load_order(_dependencies(path)) if other not in order]
                order += [*needed, name]
        return order


def prepare() -> None:
    """Install and unpack what every test needs. Raises Unavailable."""
    programs()
    _make_cache()
    kernel()


def _make_cache() -> None:
    with suppress(OSError):
        CACHE.mkdir(parents=True, exist_ok=True)
    if not os.access(CACHE, os.W_OK):
        raise Unavailable(f"this user may not write to {CACHE.relative_to(ROOT)}, where the parts are kept")


@functools.cache
def programs() -> None:
    """Have QEMU and busybox installed. Raises Unavailable."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Impossible(f"guests are x86-64 Linux machines, and this is {platform.system()} {platform.machine()}")
    missing = [package for package, is_there in _INSTALLED.items() if not is_there()]
    if not missing:
        return
    wanted = " ".join(missing)
    if not shutil.which("apt-get"):
        raise Impossible(f"this system has no apt-get to install {wanted} with")
    if os.geteuid() != 0:
        raise Unavailable(f"only root can install what is missing: apt-get install --no-install-recommends {wanted}")
    _say(f"installing {wanted}, once")
    _with_lists(lambda: _apt("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing))


@functools.cache
def kernel() -> Kernel:
    """The newest kernel of this release. Raises Unavailable."""
    programs()
    name = _with_lists(_kernel_package)
    target = CACHE / name
    with _filling(target) as folder:
        if folder:
            _say(f"getting and unpacking {name}, once")
            _with_lists(lambda: _apt("apt-get", "download", "-q", name, folder=folder))
            (package,) = folder.glob("*.deb")
            _apt("dpkg", "-x", package.name, "all", folder=folder)
            (image,) = (folder / "all" / "boot").glob("vmlinuz-*")
            (folder / "vmlinux").write_bytes(vmlinux(image.read_bytes()))
            _keep_modules(folder / "all", folder / "modules")
            shutil.rmtree(folder / "all")
            package.unlink()
    return Kernel(target)


@functools.cache
def muxer() -> Path:
    """The program that gives QEMU a hybrid vsock. Raises Unavailable, also when its suite has dropped it."""
    programs()
    target = CACHE / _MUXER
    with _filling(target) as folder:
        if folder:
            _say(f"getting {_MUXER} from {_MUXER_SUITE}, once")
            options = _root_for(_MUXER_SUITE, folder / "apt")
            _apt("apt-get", *options, "update", "-qq")
            try:
                _apt("apt-get", *options, "download", "-q", _MUXER, folder=folder)
            except Unavailable as exc:
                if "Unable to locate package" in str(exc):
                    raise Impossible(f"{_MUXER_SUITE} has no {_MUXER} any more") from None
                raise
            (package,) = folder.glob("*.deb")
            _apt("dpkg", "-x", package.name, ".", folder=folder)
            shutil.rmtree(folder / "apt")
            package.unlink()
    return target / "usr" / "bin" / _MUXER


def missing_muxer() -> Unavailable | None:
    """Why there is no muxer, None where there is. Only it may be missing: its package is in a suite that moves."""
    try:
        muxer()
    except Unavailable as exc:
        return exc
    return None


def vmlinux(image: bytes) -> bytes:
    """The ELF file in a bzImage, whose header tells where it is and whose magic how it is packed.

    Raises Unavailable for a packing that is not known.
    """
    setup_sectors = image[0x1F1] or 4
    offset, size = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + size]
    for magic, unpack in _PACKINGS.items():
        if payload.startswith(magic):
            unpacked = unpack(payload)
            if unpacked.startswith(b"\x7fELF"):
                return unpacked
    raise Unavailable(f"the kernel is packed in a way that is not known ({payload[:6].hex()})")


def shared_libraries(*programs_: Path) -> set[Path]:
    """The shared libraries that the programs and libraries given load, the loader among them."""
    return {library for program in programs_ for library in _libraries_of(program)}


def _libraries_of(program: Path) -> list[Path]:
    listing = subprocess.run(("ldd", str(program)), capture_output=True, text=True, check=False, timeout=20).stdout
    return [Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing, re.MULTILINE)]


def _by_command(*command: str) -> Callable[[bytes], bytes]:
    def unpack(payload: bytes) -> bytes:
        return subprocess.run(command, input=payload, stdout=subprocess.PIPE, check=True, timeout=60).stdout

    return unpack


_PACKINGS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": lambda payload: zlib.decompressobj(31).decompress(payload),
    b"\xfd7zXZ\0": lambda payload: lzma.LZMADecompressor().decompress(payload),
    b"\x28\xb5\x2f\xfd": _by_command("zstd", "-dcq"),
}


def _dependencies(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    names = found[1].decode() if found else ""
    return [name.replace("-", "_") for name in names.split(",") if name]


def _keep_modules(package: Path, folder: Path) -> None:
    """Keep the modules that guests load, under the names by which others depend on them."""
    files = {
        path.name.split(".ko")[0].replace("-", "_"): path
        for path in (package / "lib" / "modules").glob("*/kernel/**/*.ko*")
    }
    folder.mkdir()
    wanted = [*MODULES, *HOST_MODULES]
    while wanted:
        name = wanted.pop()
        kept = folder / f"{name}.ko"
        if name in files and not kept.exists():
            content = files[name].read_bytes()
            kept.write_bytes(lzma.decompress(content) if files[name].suffix == ".xz" else content)
            wanted += _dependencies(kept)


def _kernel_package() -> str:
    depends = _apt("apt-cache", "depends", _KERNEL)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise Impossible(f"this system's packages have no {_KERNEL}: it is no Debian")
    return found[1]


def _root_for(suite: str, root: Path) -> list[str]:
    """Make a root of its own for apt, with the mirror that this system uses, and return apt's options for it.

    The system's own lists and packages stay as they are.
    """
    mirrors = _apt(
        *("apt-get", "indextargets", "Created-By: Packages", "Origin: Debian", "Component: main"),
        *("--format", "$(REPO_URI)"),
    ).split()
    if not mirrors:
        raise Impossible(f"this system's packages do not come from Debian, which has {_MUXER}")
    for folder in ("etc/apt", "state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True)
    (root / "status").touch()
    sources = root / "etc" / "apt" / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {mirrors[0]} {suite} main\n")
    settings = {
        "Dir::Etc": root / "etc" / "apt",
        "Dir::Etc::sourcelist": sources,
        "Dir::State": root / "state",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        # By itself, apt is content with a mirror that it cannot reach.
        "APT::Update::Error-Mode": "any",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def _with_lists(function: Callable[[], Result]) -> Result:
    """Call `function`; when it fails, update the lists of packages and call it again."""
    try:
        return function()
    except Unavailable:
        if os.geteuid() != 0:
            raise
    _apt("apt-get", "update", "-qq")
    return function()


def _say(what: str) -> None:
    print(f"make: {what}", file=sys.stderr, flush=True)


def _apt(*command: str, folder: Path | None = None) -> str:
    try:
        run = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except FileNotFoundError:
        raise Unavailable(f"this system has no {command[0]}, which Debian has") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} did not end within {_PATIENCE} s") from None
    if run.returncode:
        said = (run.stderr.strip() or run.stdout.strip()).splitlines()
        # Addresses of mirrors are this machine's business.
        last = re.sub(r"\w+://\S+", "the mirror", said[-1]) if said else "it said nothing"
        words = " ".join(word for word in command if "=" not in word and word != "-o")
        raise Unavailable(f"`{words}` failed: {last}")
    return run.stdout


@contextmanager
def _filling(target: Path) -> Iterator[Path | None]:
    """A folder that becomes `target` if all goes well; None where that is there already."""
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
