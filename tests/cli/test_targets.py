"""Which guests are one and the same, however they are named."""

from __future__ import annotations

import pytest

from cli.fleets import fleet, keep_state
from cli_harness import run_cli
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._targets import Guests
from stereos_proto_io.testing import simulated_guest


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Returns the names of the guests that some words name: addresses, and `@NAME` for --vm NAME."""
    monkeypatch.chdir(tmp_path)
    keep_state(tmp_path, "dup", {"backend": "qemu", "vsock_port": 21880})
    keep_state(tmp_path, "twin", {"backend": "qemu", "vsock_port": 21880})
    keep_state(tmp_path, "cid", {"backend": "x", "vsock_cid": 7})
    keep_state(tmp_path, "old", {"backend": "qemu"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "u.sock").touch()
    (tmp_path / "link").symlink_to("run")

    def names(words):
        addresses = tuple(word.replace("HERE", str(tmp_path)) for word in words.split() if word[0] != "@")
        machines = tuple(word[1:] for word in words.split() if word[0] == "@")
        found = Guests(addresses, vm=machines, config_dir=str(tmp_path)).targets()
        return " ".join(target.name.replace(str(tmp_path), "HERE") for target in found)

    return names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # A machine of mb's keeps its name.
        ("tcp://127.0.0.1:21880 @dup", "dup"),
        ("tcp://localhost:21880 @dup", "dup"),
        ("vsock://7:1024 @cid @dup", "cid dup"),
        ("tcp://127.0.0.1:21880 @d*", "dup"),
        # What was named first stays.
        ("tcp://127.0.0.1:1 tcp://127.0.0.1:2 tcp://127.0.0.1:1", "tcp://127.0.0.1:1 tcp://127.0.0.1:2"),
        ("tcp://Host.example:1 tcp://host.EXAMPLE:1", "tcp://Host.example:1"),
        ("tcp://[::1]:1 tcp://[0:0::1]:1", "tcp://[::1]:1"),
        ("tcp://LOCALHOST:1 tcp://localhost:1", "tcp://LOCALHOST:1"),
        ("unix://HERE/run/u.sock unix://HERE/run/../run/u.sock", "unix://HERE/run/u.sock"),
        ("unix://HERE/link/u.sock unix://HERE/run/u.sock", "unix://HERE/link/u.sock"),
        ("unix://run/u.sock unix://HERE/run/u.sock", "unix://run/u.sock"),
        ("serial://HERE/link/u.sock serial://HERE/run/u.sock", "serial://HERE/link/u.sock"),
        ("hvsock://HERE/link/u.sock:5 hvsock://HERE/run/u.sock:5", "hvsock://HERE/link/u.sock:5"),
        # A loopback address says more than the name does.
        ("tcp://localhost:1 tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
        ("tcp://[::1]:1 tcp://localhost:1", "tcp://[::1]:1"),
        ("tcp://127.0.0.1:1 tcp://localhost:1 tcp://[::1]:1", "tcp://127.0.0.1:1 tcp://[::1]:1"),
    ],
)
def test_a_guest_that_is_named_in_several_ways_is_one(words, expected, named):
    assert named(words) == expected


@pytest.mark.parametrize(
    "words",
    [
        "tcp://127.0.0.1:1 tcp://127.0.0.2:1",
        "tcp://127.0.0.1:1 tcp://[::1]:1",
        "tcp://127.0.0.1:1 tcp://localhost:2",
        "tcp://localhost:1 tcp://127.0.0.2:1",
        "tcp://host.example:1 tcp://host.example.:1",
        "vsock://7:1 vsock://7:2",
        "unix://HERE/run/u.sock serial://HERE/run/u.sock",
        "hvsock://HERE/run/u.sock:5 hvsock://HERE/run/u.sock:6",
        "unix://HERE/run/u.sock unix://HERE/run/other.sock",
        # mb calls them two machines.
        "@dup @twin",
        "@dup @old",
    ],
)
def test_guests_that_may_be_different_stay(words, named):
    assert named(words) == words.replace("@", "")


def test_a_guest_that_is_named_twice_is_provisioned_once(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text('[[shared]]\nhost = "."\nguest = "/workspace"\n')
    with fleet(tmp_path, {"dup": {}}) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--vm", "dup", str(guests["dup"].address), "-o", "name")
        result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
        assert len(guests["dup"].simulator.mounts) == 1
    assert (result.code, result.out) == (0, "dup\n")
    assert "1 guest: 1 done" in result.err


def test_a_socket_that_is_named_twice_is_asked_once(tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "u.sock")) as guest:
        result = run_cli(monkeypatch, "ping", str(guest.address), f"unix://{tmp_path}/d/../u.sock")
        assert len(guest.simulator.requests) == 1
    assert result.code == 0
