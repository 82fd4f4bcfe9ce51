"""The parts of a machine, from Debian's packages: QEMU, a kernel, busybox, a muxer for hybrid vsock.

All of it is unpacked into `.cache/vm` of the repository, and found there by the next run: nothing is installed, so
nobody has to be root. No mirror is named here: all comes from wherever this system has its packages from.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import lzma
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache" / "vm"

QEMU: Final = "qemu-system-x86_64"
_QEMU_PACKAGE: Final = "qemu-system-x86"
_BUSYBOX_PACKAGE: Final = "busybox-static"
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

#: Seconds for anything that apt does.
_PATIENCE: Final = 120


class Unavailable(Exception):
    """This machine does not have the part, and does not get it now. The text says why, in one line."""


class Impossible(Unavailable):
    """No machine of this kind can have the part, or no mirror has it any more."""


@attrs.frozen
class Qemu:
    """QEMU's `program`, and the `environment` that it needs where it is not installed but only unpacked."""

    program: Path
    environment: dict[str, str]


@attrs.frozen
class Kernel:
    """An unpacked kernel: its `image` (an ELF vmlinux, which boots faster than a bzImage) and its modules.

    With it came a `busybox` that needs no libraries.
    """

    folder: Path

    @property
    def busybox(self) -> Path:
        """The program."""
        return self.folder / "busybox"

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
    """Fetch what every test needs. Raises Unavailable."""
    qemu()
    kernel()


@functools.cache
def qemu() -> Qemu:
    """The QEMU that is installed, or else one of our own. Raises Unavailable."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Impossible(f"guests are x86-64 Linux machines, and this is {platform.system()} {platform.machine()}")
    installed = shutil.which(QEMU)
    if installed:
        return Qemu(Path(installed), {})
    tree = kept("qemu", _unpack_qemu)
    return _qemu_in(tree)


def _qemu_in(tree: Path) -> Qemu:
    folders = sorted({str(library.parent) for library in tree.rglob("lib*.so.*")})
    return Qemu(tree / "usr" / "bin" / QEMU, {"LD_LIBRARY_PATH": ":".join(folders)})


def _unpack_qemu(tree: Path) -> None:
    say(f"getting and unpacking {_QEMU_PACKAGE}, once")
    unpack_with_dependencies(_release(), tree, _QEMU_PACKAGE)
    qemu = _qemu_in(tree)
    _run(str(qemu.program), "--version", environment=qemu.environment)


@functools.cache
def kernel() -> Kernel:
    """The kernel that was the newest of this release when it was fetched. Raises Unavailable."""
    return Kernel(kept("kernel", _unpack_kernel))


def _unpack_kernel(folder: Path) -> None:
    name = _kernel_package()
    say(f"getting and unpacking {name} and {_BUSYBOX_PACKAGE}, once")
    everything = folder / "all"
    everything.mkdir()
    apt("apt-get", *_release(), "download", "-q", name, _BUSYBOX_PACKAGE, folder=everything)
    _unpack(everything, everything)
    (image,) = (everything / "boot").glob("vmlinuz-*")
    (folder / "vmlinux").write_bytes(vmlinux(image.read_bytes()))
    (busybox,) = everything.glob("**/bin/busybox")
    shutil.copy(busybox, folder / "busybox")
    _keep_modules(everything, folder / "modules")
    shutil.rmtree(everything)


@functools.cache
def muxer() -> Path:
    """The program that gives QEMU a hybrid vsock. Raises Unavailable, also when its suite has dropped it."""
    return kept("muxer", _unpack_muxer) / "usr" / "bin" / _MUXER


def _unpack_muxer(folder: Path) -> None:
    say(f"getting {_MUXER} from {_MUXER_SUITE}, once")
    options = other_release(_MUXER_SUITE, folder / "apt")
    apt("apt-get", *options, "update", "-qq")
    try:
        apt("apt-get", *options, "download", "-q", _MUXER, folder=folder)
    except Unavailable as exc:
        if "Unable to locate package" in str(exc):
            raise Impossible(f"{_MUXER_SUITE} has no {_MUXER} any more") from None
        raise
    _unpack(folder, folder)
    shutil.rmtree(folder / "apt")


def digest(facts: object) -> str:
    """A name for what is made from `facts`: other facts are another folder of the cache."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, which `make` fills where it is missing. Raises Unavailable.

    It is there as a whole or not at all, also when two runs want it at once, and after one that was killed.
    """
    target = CACHE / name
    if not target.exists():
        with _alone() as drafts:
            if not target.exists():
                draft = drafts / name
                draft.mkdir()
                make(draft)
                draft.rename(target)
    return target


@contextmanager
def _alone() -> Iterator[Path]:
    """Hold the lock of the cache; yield an empty folder for drafts."""
    drafts = CACHE / "drafts"
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        lock = (CACHE / "lock").open("w")
    except OSError:
        raise Unavailable(f"this user may not write to {CACHE.relative_to(ROOT)}, where the parts are kept") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is getting the parts; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # What was killed left its drafts, but not its lock.
        shutil.rmtree(drafts, ignore_errors=True)
        drafts.mkdir()
        yield drafts


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


def shared_libraries(*programs: Path, environment: dict[str, str] | None = None) -> set[Path]:
    """The shared libraries that the programs and libraries given load, the loader among them."""
    found: set[Path] = set()
    for program in programs:
        command = ("ldd", str(program))
        environ = {**os.environ, **(environment or {})}
        run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=20)
        found.update(map(Path, re.findall(r"(?:=> |^\s+)(/\S+) \(0x", run.stdout, re.MULTILINE)))
    return found


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
    depends = apt("apt-cache", *_release(), "depends", _KERNEL)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise Unavailable(f"{_KERNEL} names no kernel")
    return found[1]


@functools.cache
def _release() -> tuple[str, ...]:
    """apt's options for a state of its own, with new lists from where this system has its packages from."""
    system = _system()
    if system.get("ID") != "debian":
        raise Impossible(f"its parts are packages of Debian, and this is {system.get('NAME', 'another Linux')}")
    options = _options(CACHE / "apt")
    try:
        apt("apt-get", *options, "update", "-qq")
    except Unavailable:
        # Of the system's sources, one that is not Debian's may be away.
        if not _mirrors(options):
            raise
    return options


def _system() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def other_release(suite: str, root: Path, *, kind: str = "deb") -> tuple[str, ...]:
    """apt's options for another release alone, from the mirror that this system uses.

    `kind` is "deb-src" for packages of source.
    """
    mirrors = _mirrors(_release())
    (root / "etc").mkdir(parents=True)
    sources = root / "etc" / "sources.list"
    sources.write_text(f"{kind} [signed-by={_KEYRING}] {mirrors[0]} {suite} main\n")
    (root / "status").touch()
    more = {"Dir::Etc": root / "etc", "Dir::Etc::sourcelist": sources, "Dir::State::status": root / "status"}
    return _options(root, **more)


def _options(root: Path, **more: Path) -> tuple[str, ...]:
    """Options of apt for state and cache below `root`: it needs neither root's rights nor the system's locks."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": root / "state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": root / "cache",
        "Debug::NoLocking": "true",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        # By itself, apt is content with a mirror that it cannot reach.
        "APT::Update::Error-Mode": "any",
        **more,
    }
    return tuple(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))


def _mirrors(options: Sequence[str]) -> list[str]:
    what = ("Created-By: Packages", "Origin: Debian", "Component: main")
    return apt("apt-get", *options, "indextargets", *what, "--format", "$(REPO_URI)").split()


def say(what: str) -> None:
    """Tell who ran `make`."""
    print(f"make: {what}", file=sys.stderr, flush=True)


def unpack_with_dependencies(options: Sequence[str], tree: Path, *names: str) -> None:
    """Unpack packages into `tree`, with what they depend on and the system of apt's `options` lacks."""
    packages = tree / "packages"
    (packages / "partial").mkdir(parents=True)
    what = ("install", "-y", "-qq", "--download-only", "--no-install-recommends", *names)
    apt("apt-get", *options, "-o", f"Dir::Cache::archives={packages}", *what)
    _unpack(packages, tree)


def _unpack(packages: Path, target: Path) -> None:
    """Unpack all packages in a folder, and remove them."""
    for package in sorted(packages.glob("*.deb")):
        _run("dpkg", "-x", str(package), str(target))
        package.unlink()


def apt(*command: str, folder: Path | None = None) -> str:
    """Run one of apt's programs, in `folder`; return what it prints. Raises Unavailable."""
    return _run(*command, folder=folder, environment={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"})


def _run(*command: str, folder: Path | None = None, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    try:
        run = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except FileNotFoundError:
        raise Unavailable(f"this system has no {command[0]}, which Debian has") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{Path(command[0]).name} did not end within {_PATIENCE} s") from None
    if run.returncode:
        said = (run.stderr.strip() or run.stdout.strip()).splitlines()
        # Addresses of mirrors are this machine's business.
        last = re.sub(r"\w+://\S+", "the mirror", said[-1]) if said else "it said nothing"
        words = " ".join(word for word in command if "=" not in word and word != "-o")
        raise Unavailable(f"`{words}` failed: {last}")
    return run.stdout
