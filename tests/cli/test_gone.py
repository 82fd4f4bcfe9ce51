"""A guest is gone where nobody is there. An error of this machine, or of the way to the guest, does not say that."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager

import pytest

from cli_harness import COMMAND, LIMITED_ENV, PATIENCE, run_cli
from stereos_proto_io import TCP, UnixSocket
from stereos_proto_io.testing import simulated_guest

WAIT = ("wait", "--for", "shutdown")


@contextmanager
def full_queue(path):
    """A unix socket that nobody accepts at, and that takes no other connection."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)):
                break
        yield


class Accepting:
    """A port that accepts and closes, as QEMU's user network does while the guest is off."""

    def __init__(self, *, answers_after=None):
        self.count = 0
        self._answers_after = answers_after
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.count += 1
            with connection:
                if self._answers_after is not None and self.count > self._answers_after:
                    self._answer(connection)

    @staticmethod
    def _answer(connection):
        with connection.makefile("rwb") as file:
            for _line in file:
                file.write(b'{"type":"health","payload":{"state":"ready","uptime_seconds":1,"agents":[]}}\n')
                file.flush()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(PATIENCE)


def test_a_host_without_descriptors_calls_no_guest_gone():
    with simulated_guest(TCP("0.0.0.0", 0)) as guest:
        places = [f"tcp://127.0.0.{number}:{guest.address.port}" for number in range(1, 31)]
        done = subprocess.run(
            [*COMMAND, *WAIT, *places, "--timeout", "1", "--json"],
            capture_output=True,
            text=True,
            env=LIMITED_ENV,
            timeout=PATIENCE,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)),
        )
    assert done.returncode == 124, done.stderr
    rows = json.loads(done.stdout)
    assert [row["code"] for row in rows] == [124] * 30
    assert any("Too many open files" in row["error"]["error"] for row in rows)


@pytest.mark.parametrize("guests", [1, 2])
def test_a_queue_that_is_full_is_not_the_end_of_the_guest(guests, tmp_path, monkeypatch):
    with full_queue(tmp_path / "g"):
        others = ["tcp://127.0.0.1:1"] * (guests - 1)
        result = run_cli(monkeypatch, *WAIT, f"unix://{tmp_path}/g", *others, "--timeout", "0.6")
    assert result.code == 124, result
    assert "queue of waiting connections is full" in result.all
    assert result.out.count("  gone") == guests - 1


def test_a_name_that_cannot_be_looked_up_is_not_the_end_of_the_guest(monkeypatch):
    def fail(*_words, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    result = run_cli(monkeypatch, *WAIT, "tcp://guest.example:1", "--timeout", "0.5")
    assert (result.code, result.out) == (124, "")
    assert result.err.splitlines()[-1].endswith(
        "the time was up before it was known whether tcp://guest.example:1 is gone: "
        "cannot connect to tcp://guest.example:1: this name is not known (Name or service not known)"
    )


def test_a_muxer_that_stays_silent_is_not_the_end_of_the_guest(tmp_path, monkeypatch):
    monkeypatch.setattr("stereos_proto_io.addresses.HYBRID_VSOCK_PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "v"))
        server.listen(64)
        result = run_cli(monkeypatch, *WAIT, f"hvsock://{tmp_path}/v:1024", "--timeout", "0.6")
    assert (result.code, result.out) == (124, "")


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:1", "unix:///no/such/socket"])
def test_a_guest_is_gone_where_nobody_is_there(place, monkeypatch):
    result = run_cli(monkeypatch, *WAIT, place)
    assert (result.code, result.out) == (0, f"{place}  gone\n")


def test_a_port_that_always_accepts_and_closes_has_no_guest_behind_it(monkeypatch):
    with Accepting() as port:
        result = run_cli(monkeypatch, *WAIT, port.address)
        assert (result.code, result.out) == (0, f"{port.address}  gone\n")
        assert port.count == 3


def test_a_connection_that_ends_once_is_not_the_end_of_the_guest(monkeypatch):
    with Accepting(answers_after=1) as port:
        result = run_cli(monkeypatch, *WAIT, port.address, "--timeout", "0.7")
        assert (result.code, "is still there (" in result.err) == (124, True), result


# ------------------------------------------------------------------------------------------------ shutdown


@pytest.mark.parametrize("options", [(), ("--wait",)])
def test_no_shutdown_is_sent_to_a_guest_that_is_not_there(options, monkeypatch):
    with Accepting() as port:
        result = run_cli(monkeypatch, "shutdown", port.address, "--json", *options)
    assert result.code == 3, result
    error = json.loads(result.out)
    assert (error["kind"], error["sent"]) == ("ConnectionLost", None)
    assert "ping" in error["error"]


def test_no_shutdown_is_sent_to_those_of_many_that_are_not_there(monkeypatch):
    with Accepting() as port, simulated_guest() as guest:
        result = run_cli(monkeypatch, "shutdown", port.address, str(guest.address), "--json")
        assert [request.type for request in guest.simulator.requests] == ["ping", "shutdown"]
    assert result.code == 3, result
    assert [row["code"] for row in json.loads(result.out)] == [3, 0]


def test_a_guest_that_answered_and_went_powers_off(tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g"), faults=["drop@shutdown", "power-off@shutdown"]) as guest:
        result = run_cli(monkeypatch, "shutdown", str(guest.address))
    assert (result.code, "the guest went before it answered" in result.out) == (0, True), result
