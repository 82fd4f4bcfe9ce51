"""A guest with a disk: real files below a folder, and the agent that is started from the command line."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest

from guest_harness import PATIENCE, PONG, Host, ack, ask, running
from interrupts import with_signals_elsewhere
from stereos_proto import Ack, InjectSecret, InjectSSHKey, Mount, Ping, SetConfig, Shutdown
from stereos_proto_io import UnixSocket, parse_address
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.__main__ import main
from stereos_proto_io.guest.effects import FolderEffects

KEY = "ssh-ed25519 AAAA me@host"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0], ids=oct)
def root(request, tmp_path):
    """A guest's file system, whatever the umask of the agent."""
    before = os.umask(request.param)
    yield tmp_path / "root"
    os.umask(before)


@pytest.fixture
def guest(root):
    return GuestSimulator(effects=FolderEffects(root), users=["admin", "me"])


def test_secrets_are_files(guest, root):
    folder = root / "run/stereos/secrets"
    for name, value, asked, got in [
        ("A_KEY", "sk-1\n", 0, 0o600),
        ("B", "é\0", 0o444, 0o444),
        ("A_KEY", "sk-2", 0o640, 0o640),
        ("C", "", 0o107777, 0o777),
    ]:
        assert guest.handle(InjectSecret(name, value, asked)) == Ack("inject_secret", True)
        assert (folder / name).read_bytes() == value.encode()
        assert mode(folder / name) == got
    assert mode(folder) == 0o700
    assert {path.name for path in folder.iterdir()} == {"A_KEY", "B", "C"}


def test_a_secret_is_never_half_there(guest, root, monkeypatch):
    """Whoever opens the file sees the old value or the new one, with the mode that belongs to it."""
    guest.handle(InjectSecret("a", "old", 0o600))
    seen = []
    rename = os.rename
    folder = root / "run/stereos/secrets"

    def spy(draft, target, **where):
        seen.append((draft, mode(folder / draft), (folder / draft).read_text(), (folder / target).read_text()))
        return rename(draft, target, **where)

    monkeypatch.setattr(os, "rename", spy)
    guest.handle(InjectSecret("a", "new", 0o400))
    assert seen == [("a.tmp", 0o400, "new", "old")]
    assert (folder / "a").read_text() == "new"


def test_keys_replace_the_file(guest, root):
    folder = root / "home/me/.ssh"
    for key in (KEY, "ssh-rsa B\n\n"):
        assert guest.handle(InjectSSHKey("me", key)).ok
        assert (folder / "authorized_keys").read_text() == key.rstrip("\n") + "\n"
    assert (mode(folder), mode(folder / "authorized_keys")) == (0o700, 0o600)
    assert not (root / "home/admin").exists()


def test_config_is_for_everybody(guest, root):
    for content in ("a = 1\n", ""):
        assert guest.handle(SetConfig(content)).ok
        assert (root / "etc/stereos/jcard.toml").read_text() == content
    assert mode(root / "etc/stereos/jcard.toml") == 0o644


def test_mounts_without_a_runner_are_folders(guest, root):
    assert guest.handle(Mount("t", "/w//x/", "9p")).ok
    assert (root / "w/x").is_dir()
    guest.power_off()


@pytest.mark.parametrize(
    ("mount", "argv"),
    [
        (Mount("t", "/w", "9p"), ["-t", "9p", "-o", "trans=virtio,version=9p2000.L", "t"]),
        (Mount("t", "/w", "9p", True), ["-t", "9p", "-o", "trans=virtio,version=9p2000.L,ro", "t"]),
        (Mount("-v;", "/w", "virtiofs", True), ["-t", "virtiofs", "-o", "ro", "--", "-v;"]),
        (Mount("t", "/w", "virtiofs"), ["-t", "virtiofs", "t"]),
    ],
)
def test_mounts_are_carried_out_and_undone_in_reverse(mount, argv, tmp_path):
    ran = []
    effects = FolderEffects(tmp_path, run=lambda command: ran.append([*command]) or 0)
    guest = GuestSimulator(effects=effects)
    assert guest.handle(mount).ok
    assert guest.handle(Mount("u", "/w/u", "9p")).ok
    assert ran[0] == ["mount", *[part for part in argv if part != "--"][:-1], "--", mount.tag, str(tmp_path / "w")]
    del ran[:]
    guest.power_off()
    assert ran == [["umount", str(tmp_path / path)] for path in ("w/u", "w")]


def test_a_failed_mount(tmp_path):
    guest = GuestSimulator(effects=FolderEffects(tmp_path, run=lambda _: 32))
    assert guest.handle(Mount("share0", "/w", "9p")).error == "mount share0 at /w: exit status 32"
    assert guest.mounts == ()


def test_what_the_disk_refuses_reaches_the_host(tmp_path):
    for place in ("run", "home", "etc", "w"):
        (tmp_path / place).write_text("a file in the way")
    guest = GuestSimulator(effects=FolderEffects(tmp_path))
    errors = [
        guest.handle(request).error
        for request in (InjectSecret("a", "v"), InjectSSHKey("admin", KEY), SetConfig("c"), Mount("t", "/w/x", "9p"))
    ]
    assert errors == [
        f"create /run/stereos/secrets: mkdir {tmp_path}/run/stereos/secrets: not a directory",
        f"create /home/admin: mkdir {tmp_path}/home/admin: not a directory",
        f"create /etc/stereos: mkdir {tmp_path}/etc/stereos: not a directory",
        f'create mount point "/w/x": mkdir {tmp_path}/w/x: not a directory',
    ]
    assert (guest.secrets, guest.ssh_keys, guest.config, guest.mounts) == ({}, {}, None, ())


def test_a_folder_in_the_place_of_a_file(tmp_path):
    folder = tmp_path / "run/stereos/secrets"
    (folder / "a/b").mkdir(parents=True)
    (folder / "c.tmp").mkdir(parents=True)
    guest = GuestSimulator(effects=FolderEffects(tmp_path))
    assert guest.handle(InjectSecret("a", "v")).error == (
        f'rename secret "a": rename {folder}/a.tmp {folder}/a: is a directory'
    )
    assert guest.handle(InjectSecret("c", "v")).error == f'write secret "c": open {folder}/c.tmp: is a directory'
    assert {path.name for path in folder.iterdir()} == {"a", "c.tmp"}


# ------------------------------------------------------------- what an agent may have put in the way


TRAPS = {
    "link to a file": lambda place, other: place.symlink_to(other / "file"),
    "link to nothing": lambda place, other: place.symlink_to(other / "new"),
    "link to a folder": lambda place, other: place.symlink_to(other),
    "hard link": lambda place, other: place.hardlink_to(other / "file"),
    "fifo": lambda place, _other: os.mkfifo(place),
}


@pytest.mark.parametrize("name", ["authorized_keys", "authorized_keys.tmp"])
@pytest.mark.parametrize("trap", TRAPS)
def test_what_stands_in_the_place_of_a_file_is_replaced_and_not_opened(tmp_path, trap, name):
    """A FIFO would block for ever, and a link lead elsewhere."""
    root, other = tmp_path / "root", tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("precious")
    folder = root / "home/admin/.ssh"
    folder.mkdir(parents=True)
    TRAPS[trap](folder / name, other)
    guest = GuestSimulator(effects=FolderEffects(root))
    assert guest.handle(InjectSSHKey("admin", KEY)) == Ack("inject_ssh_key", True)
    assert (other / "file").read_text() == "precious"
    assert [path.name for path in other.iterdir()] == ["file"]
    assert [path.name for path in folder.iterdir()] == ["authorized_keys"]
    assert (folder / "authorized_keys").read_text() == KEY + "\n"
    assert stat.S_ISREG((folder / "authorized_keys").lstat().st_mode)


@pytest.mark.parametrize("link", ["home", "home/admin", "home/admin/.ssh", "run", "run/stereos/secrets", "etc/stereos"])
def test_no_link_is_followed_out_of_its_place(tmp_path, link):
    """Neither keys of another user, nor the mode of another folder, nor a mount point elsewhere."""
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in ("admin/.ssh", "stereos/secrets"):
        (other / folder).mkdir(parents=True)
    before = {path: mode(path) for path in other.rglob("*")}
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(other)
    guest = GuestSimulator(effects=FolderEffects(root, run=lambda _argv: 0))
    refused = [
        request
        for request in (
            InjectSSHKey("admin", KEY),
            InjectSecret("a", "v"),
            SetConfig("c"),
            Mount("t", f"/{link}/x" if link.startswith("home") else "/w", "9p"),
        )
        if not guest.handle(request).ok
    ]
    assert refused
    assert {path: mode(path) for path in other.rglob("*")} == before
    guest.power_off()


def test_a_reboot_follows_no_link(tmp_path):
    """It empties the folder of secrets, whatever is in it, and nothing else."""
    root, other = tmp_path / "root", tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    folder = root / "run/stereos/secrets"
    (folder / "sub/sub").mkdir(parents=True)
    (folder / "sub/link").symlink_to(other)
    (folder / "link").symlink_to(other / "deep")
    guest = GuestSimulator(effects=FolderEffects(root))
    guest.reboot()
    assert [*folder.iterdir()] == []
    assert (other / "deep").is_dir()
    folder.rmdir()
    folder.symlink_to(other)
    with pytest.raises(OSError, match="Not a directory"):
        guest.reboot()
    assert (other / "deep").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_keys_belong_to_their_user(tmp_path):
    (tmp_path / "home/admin").mkdir(parents=True)
    os.chown(tmp_path / "home/admin", 4321, 1234)
    guest = GuestSimulator(effects=FolderEffects(tmp_path))
    assert guest.handle(InjectSSHKey("admin", KEY)).ok
    assert guest.handle(InjectSecret("a", "v")).ok
    for place in (".ssh", ".ssh/authorized_keys"):
        found = (tmp_path / "home/admin" / place).stat()
        assert (found.st_uid, found.st_gid) == (4321, 1234)
    assert (tmp_path / "run/stereos/secrets/a").stat().st_uid == 0


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """Half a secret does not stay."""
    guest = GuestSimulator(effects=FolderEffects(tmp_path))

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fchmod", full)
    folder = tmp_path / "run/stereos/secrets"
    assert guest.handle(InjectSecret("a", "v")).error == (
        f"create /run/stereos/secrets: chmod {folder}: no space left on device"
    )
    monkeypatch.undo()
    real = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: real(fd, mode) if mode == 0o700 else full())
    assert guest.handle(InjectSecret("a", "v")).error == (
        f'write secret "a": write {folder}/a.tmp: no space left on device'
    )
    assert [*folder.iterdir()] == []


def test_a_reboot_loses_the_secrets(guest, root):
    for request in (InjectSecret("a", "v"), SetConfig("c")):
        assert guest.handle(request).ok
    guest.reboot()
    assert [*(root / "run/stereos/secrets").iterdir()] == []
    assert (root / "etc/stereos/jcard.toml").exists()
    GuestSimulator(effects=FolderEffects(root / "nothing")).reboot()


def test_on_a_server(tmp_path):
    with running("blocking", None, GuestSimulator(effects=FolderEffects(tmp_path))) as guest:
        assert ask(guest.address, InjectSecret("a", "v")) == [ack("inject_secret")]
    assert (tmp_path / "run/stereos/secrets/a").read_text() == "v"


# ------------------------------------------------------------------------------------------ command line


def agent(*arguments):
    command = [sys.executable, "-m", "stereos_proto_io.guest", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_agent(tmp_path):
    path = tmp_path / "s"
    with agent("--root", str(tmp_path / "root"), "--user", "me", "tcp://127.0.0.1:0", f"unix://{path}") as process:
        word, on, tcp, unix = process.stdout.readline().split()
        assert (word, on, unix) == ("listening", "on", f"unix://{path}")
        assert ask(parse_address(tcp), Ping(), InjectSSHKey("me", KEY)) == [PONG, ack("inject_ssh_key")]
        assert ask(UnixSocket(path), InjectSecret("a", "v"), Shutdown()) == [ack("inject_secret"), ack("shutdown")]
        assert process.wait(PATIENCE) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert (tmp_path / "root/run/stereos/secrets/a").read_text() == "v"
    assert (tmp_path / "root/home/me/.ssh/authorized_keys").read_text() == KEY + "\n"
    assert not path.exists()


def test_the_agent_with_faults_and_a_slow_boot(tmp_path):
    with agent("--boot-time", "3600", "--fault", "fail:no@ping", f"unix://{tmp_path}/s") as process:
        process.stdout.readline()
        with Host(UnixSocket(tmp_path / "s")) as host:
            host.send(Ping(), b'{"type":"get_health"}\n')
            assert host.reply() == ack("ping", "no")
            assert host.reply()["payload"]["state"] == "booting"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_agent_in_good_order(tmp_path, number):
    """Its supervisor must not take that for "power off", and finds no socket file."""
    with agent(f"unix://{tmp_path}/s") as process:
        process.stdout.readline()
        with Host(UnixSocket(tmp_path / "s")) as host:
            host.send(Ping())
            assert host.reply() == PONG
            process.send_signal(number)
            assert host.rest() == b""
        assert process.wait(PATIENCE) == 128 + number
        assert process.stderr.read() == ""
    assert not (tmp_path / "s").exists()


def test_a_signal_that_was_ignored_stays_so(tmp_path):
    """As `nohup` asks for."""
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-m", "stereos_proto_io.guest"]
    with subprocess.Popen([*command, f"unix://{tmp_path}/s"], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert ask(UnixSocket(tmp_path / "s"), Ping(), Shutdown()) == [PONG, ack("shutdown")]
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_does_not_interrupt_the_wait_ends_the_agent_all_the_same(tmp_path, number):
    command = [sys.executable, "-c", with_signals_elsewhere("stereos_proto_io.guest.__main__"), f"unix://{tmp_path}/s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            # The main thread waits by now, or will before the signal is noted.
            assert ask(UnixSocket(tmp_path / "s"), Ping()) == [PONG]
            process.send_signal(number)
            assert process.wait(PATIENCE) == 128 + number
        finally:
            process.kill()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere"], "is no guest address"),
        (["tcp://127.0.0.1:0", "--fault", "oops"], "is not a fault"),
        (["unix:///dev/null/x"], "Not a directory"),
        (["serial:///nowhere/x"], "No such file"),
    ],
)
def test_the_agent_says_what_is_wrong(arguments, error, capsys):
    assert main(arguments) == 2
    assert error in capsys.readouterr().err


def test_mounting_for_real_asks_mount(tmp_path, monkeypatch):
    """With `--mount` the commands run, without a shell; here a stand-in that fails takes their place."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("mount", "umount"):
        (tools / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/log"\nexit {3 if name == "mount" else 0}\n'
        )
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    with agent("--root", str(tmp_path / "root"), "--mount", f"unix://{tmp_path}/s") as process:
        process.stdout.readline()
        address = UnixSocket(tmp_path / "s")
        assert ask(address, Mount("t;x", "/w", "9p")) == [ack("mount", "mount t;x at /w: exit status 3")]
        assert ask(address, Shutdown()) == [ack("shutdown")]
        assert process.wait(PATIENCE) == 0
    assert (tmp_path / "log").read_text() == (
        f"mount -t 9p -o trans=virtio,version=9p2000.L -- t;x {tmp_path}/root/w\n"
    )
