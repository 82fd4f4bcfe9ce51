"""What a guest boots from: an initramfs with the Python that runs the tests, our packages and what they need.

It is made of layers, each an archive of its own that the kernel unpacks over the one before: the system, which
is kept between runs; our code, made each time; for the outer machine of a nested pair, QEMU and the inner one.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from . import parts

TESTS: Final = Path(__file__).parent
GUEST_FILES: Final = TESTS / "guest"

#: Where our packages and their dependencies are in the guest.
SITE: Final = "site"
_PACKAGES: Final = ("stereos_proto", "stereos_proto_io")
#: Of the standard library, what no guest needs: most of its bytes.
_LEFT_OUT: Final = shutil.ignore_patterns(
    *("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3"),
    *("ensurepip", "pydoc_data", "config-*", "distutils", "unittest", "curses", "dbm", "wsgiref", "xmlrpc", "venv"),
    *("sqlite3", "_sqlite3*", "_tkinter*", "_test*", "_ctypes_test*", "_xx*", "xx*", "_curses*", "_dbm*", "_gdbm*"),
    *("_codecs_jp*", "_codecs_hk*", "_codecs_tw*", "_codecs_cn*", "_codecs_kr*", "_codecs_iso2022*", "readline*"),
    *("nis*", "*.a"),
)
_FOR_A_GUEST_OF_ITS_OWN: Final = [Path(__file__).with_name(name) for name in ("__init__.py", "parts.py", "machine.py")]
_APPLETS: Final = ("sh", "cat", "chown", "insmod", "ip", "ln", "ls", "mkdir", "mount", "poweroff", "stat", "umount")
#: What QEMU reads from its own folder for a machine without graphics that boots a vmlinux.
_FIRMWARE: Final = ("bios-256k.bin", "kvmvapic.bin", "pvh.bin")


def prepare() -> None:
    """Make the layers, for those who write images at the same time. Raises Unavailable."""
    _system_layer()
    _code_layer()


def write_image(target: Path) -> None:
    """Write the initramfs of a guest. Raises Unavailable."""
    with target.open("wb") as image:
        for layer in (_system_layer(), _code_layer()):
            image.write(layer)


def write_outer_image(target: Path) -> None:
    """Write the initramfs of a guest that has all for a guest of its own: QEMU, /firmware, /vmlinux and /initramfs."""
    write_image(target)
    kernel = parts.kernel()
    qemu = parts.qemu()
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        _copy(qemu.program.resolve(), stage / "bin" / parts.QEMU)
        _copy_libraries(stage, [qemu.program], qemu.environment)
        firmware = _firmware_folders(qemu)
        for name in _FIRMWARE:
            _copy(next(place / name for place in firmware if (place / name).exists()), stage / "firmware" / name)
        _copy(kernel.image, stage / "vmlinux")
        _copy(target, stage / "initramfs")
        _copy_modules(kernel, stage, "host-modules", parts.HOST_MODULES)
        with target.open("ab") as image:
            image.write(archive(stage))


def archive(stage: Path, extra: bytes = b"") -> bytes:
    """All below `stage` as a cpio archive of the kind that the kernel unpacks ("newc"), owned by root.

    `extra` are records that follow.
    """
    records = bytearray()
    for number, path in enumerate(_walk(stage), start=1):
        status = path.lstat()
        content = b""
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.fsencode(path.readlink())
        records += record(str(path.relative_to(stage)), status.st_mode, content, number=number)
    return bytes(records + extra + record("TRAILER!!!", 0, b""))


def record(name: str, mode: int, content: bytes, *, number: int = 0, device: tuple[int, int] = (0, 0)) -> bytes:
    """One entry of a newc archive: a header of hexadecimal numbers, name and content, each padded to 4 bytes."""
    encoded = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _walk(stage: Path) -> Iterator[Path]:
    """Everything below `stage`, folders before what is in them."""
    for path in sorted(stage.rglob("*")):
        if path.is_symlink() or path.is_file() or path.is_dir():
            yield path


def _kept(name: str, facts: object, stage: Callable[[Path], None], *, extra: bytes = b"") -> bytes:
    """The layer that `stage` fills a folder with, from the cache where it was made from the same `facts`."""
    digest = parts.digest(facts)

    def make(folder: Path) -> None:
        for old in parts.CACHE.glob(f"layer-{name}-*"):
            shutil.rmtree(old)
        (folder / "stage").mkdir()
        stage(folder / "stage")
        (folder / "cpio").write_bytes(archive(folder / "stage", extra))
        shutil.rmtree(folder / "stage")

    return (parts.kept(f"layer-{name}-{digest}", make) / "cpio").read_bytes()


def _system_layer() -> bytes:
    kernel = parts.kernel()
    files = (Path(__file__), Path(parts.__file__))
    facts = (sys.version, sys.base_prefix, kernel.folder.name, *(file.read_text() for file in files))
    # The kernel wants it before anything could make it, and only root may make one here.
    console = record("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))
    return _kept("system", facts, lambda stage: _stage_system(stage, kernel), extra=console)


def _stage_system(stage: Path, kernel: parts.Kernel) -> None:
    for name in ("dev", "proc", "sys", "tmp", "root", "run", "etc", "home/admin", "home/agent", SITE):
        (stage / name).mkdir(parents=True)
    _copy(kernel.busybox, stage / "bin" / "busybox")
    for applet in _APPLETS:
        (stage / "bin" / applet).symlink_to("busybox")
    _copy_modules(kernel, stage, "modules", parts.MODULES)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, stage / library.relative_to("/"), ignore=_LEFT_OUT)
    # Compiled ahead, and never checked for changes, which would take long on an emulated processor.
    _compile(stage / library.relative_to("/"), library)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    _copy_program(python, stage, str(python.relative_to("/")))
    (stage / "bin" / "python").symlink_to(python)
    staged = (stage / library.relative_to("/")).glob("lib-dynload/*.so")
    _copy_libraries(stage, (library / "lib-dynload" / path.name for path in staged))


def _code_layer() -> bytes:
    needed = sorted(_distributions("stereos-proto", "trio"))
    ours = [path for package in _PACKAGES for path in sorted((parts.ROOT / "src" / package).rglob("*.py"))]
    ours += [*sorted(GUEST_FILES.iterdir()), *_FOR_A_GUEST_OF_ITS_OWN]
    facts = (
        (sys.version, Path(__file__).read_text()),
        *((name, importlib.metadata.version(name)) for name in needed),
        *((str(path), path.read_bytes()) for path in ours if path.is_file()),
    )
    return _kept("code", facts, lambda stage: _stage_code(stage, needed))


def _stage_code(stage: Path, needed: Iterable[str]) -> None:
    site = stage / SITE
    for name in needed:
        _copy_distribution(name, site)
    for package in _PACKAGES:
        shutil.copytree(parts.ROOT / "src" / package, site / package, ignore=_LEFT_OUT)
    for file in GUEST_FILES.glob("*.py"):
        _copy(file, site / file.name)
    for file in _FOR_A_GUEST_OF_ITS_OWN:
        _copy(file, site / "vm" / file.name)
    _compile(site, Path("/") / SITE)
    _copy(GUEST_FILES / "init", stage / "init")
    (stage / "init").chmod(0o755)
    _copy_libraries(stage, site.rglob("*.so"))


def _distributions(project: str, *extras: str) -> set[str]:
    """What `project` needs, by name, with what that needs in turn; without `project`."""
    needed: set[str] = set()
    wanted = [(project, extra) for extra in ("", *extras)]
    while wanted:
        name, extra = wanted.pop()
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if applies and requirement.name not in needed:
                needed.add(requirement.name)
                wanted.append((requirement.name, ""))
    return needed


def _copy_distribution(name: str, site: Path) -> None:
    """Copy what is installed here: the guest then runs the very same versions."""
    for file in importlib.metadata.files(name) or ():
        if file.parts[0] != ".." and "__pycache__" not in file.parts and "tests" not in file.parts[1:2]:
            _copy(Path(str(file.locate())), site / file)


def _compile(folder: Path, place: Path) -> None:
    command = (sys.executable, "-m", "compileall", "-q", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    # Some files of the standard library are there to be no Python, so that its status says nothing.
    subprocess.run((*command, "-s", str(folder), "-p", str(place), str(folder)), check=False, timeout=120)


def _copy_program(program: Path, stage: Path, name: str) -> None:
    _copy(program, stage / name)
    _copy_libraries(stage, [program])


def _copy_libraries(stage: Path, programs: Iterable[Path], environment: dict[str, str] | None = None) -> None:
    for library in parts.shared_libraries(*programs, environment=environment):
        # What was only unpacked goes where the guest's loader looks by itself.
        unpacked = library.is_relative_to(parts.CACHE)
        _copy(library.resolve(), stage / ("lib" / Path(library.name) if unpacked else library.relative_to("/")))


def _copy_modules(kernel: parts.Kernel, stage: Path, folder: str, names: Iterable[str]) -> None:
    order = kernel.load_order(tuple(names))
    for name in order:
        module = kernel.module(name)
        if module:
            _copy(module, stage / folder / f"{name}.ko")
    (stage / folder / "order").write_text("".join(f"{name}\n" for name in order))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _firmware_folders(qemu: parts.Qemu) -> list[Path]:
    command = (str(qemu.program), "-L", "help")
    environment = {**os.environ, **qemu.environment}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=20)
    return [Path(line) for line in run.stdout.split()]
