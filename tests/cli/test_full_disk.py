"""What cannot be written, read or accepted any more ends a command with one sentence, and no thread hangs."""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest

from cli.fleets import fleet, keep_guest
from cli_harness import CLEAN_ENV, COMMAND, LIMITED_ENV, PATIENCE, piped, run_cli
from stereos_proto import Ack, ConnectionLost, GetHealth, InjectSecret, Ping, RequestFailed, encode
from stereos_proto_io import TCP, UnixSocket
from stereos_proto_io.blocking import connect
from stereos_proto_io.cli._errors import UsageError
from stereos_proto_io.cli._proxy import Proxy
from stereos_proto_io.cli._redact import Redactor
from stereos_proto_io.cli._request_log import RequestLog
from stereos_proto_io.cli._transcript import Recorder
from stereos_proto_io.testing import simulated_guest
from waiting import until


def limited(kind, amount):
    """Limit a process before it begins."""
    return lambda: resource.setrlimit(kind, (amount, amount))


# -------------------------------------------------------------------------------------------------- doctor


@pytest.mark.parametrize("option", ["--timeout", "--total-timeout"])
@pytest.mark.parametrize("guests", ["A", "A B", "--all"])
def test_the_doctor_refuses_a_deadline_before_it_prints(guests, option, tmp_path, monkeypatch):
    with fleet(tmp_path, {"a": {}, "b": {}}) as machines:
        places = dict(zip("AB", (str(guest.address) for guest in machines.values()), strict=True))
        words = [places.get(word, word) for word in guests.split()]
        result = run_cli(monkeypatch, "doctor", *words, option, "0", env={"MB_CONFIG_DIR": str(tmp_path)})
    assert (result.code, result.out) == (2, "")
    assert result.err == f"stereosctl: {option} must be more than 0 seconds, not 0\n"


@pytest.mark.parametrize(("stderr", "code"), [("/dev/full", 2), ("closed", 141)])
def test_a_doctor_that_cannot_trace_many_guests_ends(stderr, code, tmp_path):
    with fleet(tmp_path, {"a": {}, "b": {}}):
        done = without_stderr(stderr, ["doctor", "--all", "-v"], tmp_path)
    assert done.returncode == code


def test_the_doctor_minds_the_state(tmp_path, monkeypatch):
    with fleet(tmp_path, {"a": {}, "b": {}}) as guests:
        guests["b"].simulator.state = "degraded"
        result = run_cli(monkeypatch, "doctor", "--all", "--state", "degraded", env={"MB_CONFIG_DIR": str(tmp_path)})
    assert result.code == 0
    assert [line for line in result.out.splitlines() if line in ("a", "b")] == ["b"]


# --------------------------------------------------------------------------------------------------- trace


@pytest.mark.parametrize(("stderr", "code"), [("/dev/full", 2), ("closed", 141)])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_trace_that_cannot_be_written_loses_no_result(names, stderr, code, tmp_path):
    words = [word for name in names for word in ("--vm", name)]
    with fleet(tmp_path, {name: {} for name in names}) as guests:
        done = without_stderr(stderr, ["mount", "share0", "/work", *words, "--fs", "9p", "-v", "--json"], tmp_path)
        assert [len(guest.simulator.mounts) for guest in guests.values()] == [1] * len(names)
    results = json.loads(done.stdout)
    assert all(each["ok"] for each in (results if names[1:] else [results]))
    assert done.returncode == code


def without_stderr(stderr, words, folder, **env):
    """Run a command whose standard error is full, or closed by its reader."""
    read, write = os.pipe()
    os.close(read)
    target = write if stderr == "closed" else os.open(stderr, os.O_WRONLY)
    try:
        return subprocess.run(
            [*COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=target,
            env={**CLEAN_ENV, "MB_CONFIG_DIR": str(folder), **env},
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(write)
        if stderr != "closed":
            os.close(target)


@pytest.mark.parametrize(("stderr", "code"), [("/dev/full", 2), ("closed", 141)])
def test_progress_that_cannot_be_written_ends_no_conversation(stderr, code, tmp_path):
    (tmp_path / "j.toml").write_text('[[shared]]\nhost = "."\nguest = "/workspace"\n')
    with fleet(tmp_path, {"a": {}, "b": {}}) as guests:
        done = without_stderr(stderr, ["provision", str(tmp_path / "j.toml"), "--all", "-o", "json"], tmp_path)
        assert ["set_config" in {each.type for each in guest.simulator.requests} for guest in guests.values()] == [
            True
        ] * 2
    assert [each["ok"] for each in json.loads(done.stdout)] == [True, True]
    assert done.returncode == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("stderr", ["/dev/full", "closed"])
def test_the_exit_code_of_a_guest_counts_more_than_progress_that_cannot_be_written(stderr, unbuffered, tmp_path):
    """Nor does Python replace it by 120, for what is left in its buffer at the end of the process."""
    with fleet(tmp_path, {"a": {"faults": ["fail@mount"]}, "b": {}}):
        words = ["mount", "t", "/w", "--fs", "9p", "--all", "-o", "json"]
        done = without_stderr(stderr, words, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert [each["code"] for each in json.loads(done.stdout)] == [1, 0]
    assert done.returncode == 1


@pytest.mark.parametrize(("stderr", "code"), [("/dev/full", 2), ("closed", 141)])
def test_a_wait_that_cannot_be_shown_goes_on(stderr, code, tmp_path):
    guests = []
    # Its time is the number of requests: it is booting when it is asked first, and second.
    with simulated_guest(boot_time=3, clock=lambda: float(len(guests and guests[0].simulator.requests))) as guest:
        guests.append(guest)
        done = without_stderr(stderr, ["wait", str(guest.address), "-o", "json"], tmp_path)
    assert json.loads(done.stdout)["health"]["state"] in ("ready", "healthy")
    assert done.returncode == code


def without_stdout(*words):
    """Run a command whose standard output is closed."""
    return subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" </dev/null >&-', "sh", *COMMAND, *words],
        stderr=subprocess.PIPE,
        env=CLEAN_ENV,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("health", "@", "--json"),
        ("health", "@"),
        ("health", "@", "tcp://127.0.0.1:1", "--json"),
        ("ping", "@", "-o", "template={name}"),
        ("mount", "a", "/b", "@", "--fs", "9p"),
        ("send", "ping", "@", "--json"),
        ("wait", "@", "--json"),
        ("doctor", "@"),
        ("health", "unix:///no/such/socket", "--json"),
        ("version",),
        ("--version",),
        ("--help",),
        ("ping", "--help"),
        ("completion", "bash"),
        ("simulate", "--list-faults"),
        ("__complete", "words", "he"),
    ],
)
def test_a_result_that_has_nowhere_to_go_is_not_lost_in_silence(words, tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        words = [word.replace("@", str(guest.address)) for word in words]
        done = without_stdout(*words)
    assert done.returncode == 2, done
    assert done.stderr.splitlines()[-1] == "stereosctl: the output cannot be written: Bad file descriptor"


# ------------------------------------------------------------------------------------------------ simulate


@pytest.mark.parametrize(
    "environment", [CLEAN_ENV, {**CLEAN_ENV, "PYTHONUNBUFFERED": ""}], ids=["unbuffered", "buffered"]
)
@pytest.mark.parametrize(("stderr", "code"), [("/dev/full", 2), ("closed", 141)])
def test_a_simulator_that_cannot_show_a_request_ends_and_does_not_carry_it_out(stderr, code, environment, tmp_path):
    read, write = os.pipe()
    os.close(read)
    target = write if stderr == "closed" else os.open(stderr, os.O_WRONLY)
    try:
        with ExitStack() as stack:
            process = stack.enter_context(
                subprocess.Popen(
                    [*COMMAND, "simulate", "--listen", f"unix://{tmp_path}/g"],
                    stdout=subprocess.PIPE,
                    stderr=target,
                    env=environment,
                    text=True,
                )
            )
            stack.callback(process.kill)
            process.stdout.readline()
            client = stack.enter_context(connect(UnixSocket(tmp_path / "g"), timeout=PATIENCE))
            with pytest.raises(RequestFailed, match="the simulator ends: it cannot show what it is asked"):
                client.set_config("name = 'x'\n")
            # The connection is open until the process ends.
            with suppress(ConnectionLost, RequestFailed):
                while True:
                    client.ping()
            rest, _ = process.communicate(timeout=PATIENCE)
    finally:
        os.close(write)
        if stderr != "closed":
            os.close(target)
    assert (process.returncode, rest) == (code, "")
    assert not (tmp_path / "g").exists()


def test_a_simulator_shows_each_request_on_a_line(tmp_path):
    denial = ("--fault", "deny:busy@ping#2")
    with piped("simulate", "--listen", f"unix://{tmp_path}/g", *denial) as process:
        process.stdout.readline()
        with connect(UnixSocket(tmp_path / "g"), timeout=PATIENCE) as client:
            client.ping()
            with pytest.raises(RequestFailed):
                client.mount("", "/x", "9p")
            with pytest.raises(RequestFailed):
                client.ping()
            client.shutdown("enough")
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    shown, rest = err.splitlines()[:2], err.splitlines()[2:]
    assert rest.pop(0) == "→ Ping()  refused: busy"
    assert shown[0] == "→ Ping()"
    assert shown[1].startswith("→ Mount(")
    assert shown[1].endswith("  refused: mount tag cannot be empty")
    assert rest == ["→ Shutdown(reason='enough')", "the guest has powered off"]


@contextmanager
def simulator_nobody_reads(folder):
    """A simulator whose stderr is a pipe, with a client that has made more requests than fit in there."""
    with piped("simulate", "--listen", f"unix://{folder}/g") as process:
        process.stdout.readline()
        with connect(UnixSocket(folder / "g"), timeout=PATIENCE) as client:
            for _ in range(_REQUESTS):
                client.mount("t" * 1000, "/x", "9p")
            yield process, client


_REQUESTS = 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_simulator_ends_although_nobody_reads_what_it_shows(number, tmp_path):
    with simulator_nobody_reads(tmp_path) as (process, _):
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert not (tmp_path / "g").exists()


def test_a_simulator_counts_the_requests_that_it_could_not_show(tmp_path):
    with simulator_nobody_reads(tmp_path) as (process, client):
        client.shutdown("enough")
        shown = process.stderr.read().splitlines()
        assert process.wait(PATIENCE) == 0
    assert shown.pop() == "the guest has powered off"
    lost = re.fullmatch("([0-9]+) requests are not shown: standard error was not read in time", shown.pop())
    assert len(shown) + int(lost[1]) == _REQUESTS + 1


def test_a_slow_request_holds_up_no_other_one(capsys):
    slow = threading.Event()

    def handle_slowly(request):
        assert slow.wait(PATIENCE)
        return Ack(request.type, ok=True)

    with RequestLog(threading.Event(), quiet=False) as log:
        thread = threading.Thread(target=log.handled, args=(Ping(), handle_slowly), daemon=True)
        thread.start()
        other = threading.Thread(target=log.handled, args=(GetHealth(), lambda request: Ack(request.type, ok=True)))
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive()
        slow.set()
        thread.join(PATIENCE)
        log.close("off")


def test_the_thread_of_a_log_ends_with_it_whatever_has_happened(capsys):
    """Also where it begins late, after its standard error was closed."""
    with suppress(ZeroDivisionError), RequestLog(threading.Event(), quiet=False) as log:
        raise ZeroDivisionError
    log._writer.join(PATIENCE)
    assert not log._writer.is_alive()


# -------------------------------------------------------------------------------------------------- record


def ask_until_the_end(address):
    """Send secrets through a recording until it ends the connection."""
    with socket.create_connection(address, timeout=PATIENCE) as host:
        try:
            while True:
                host.sendall(encode(InjectSecret("A", "x" * 1000)))
                if not host.recv(65536):
                    return
        except ConnectionError:
            return


def answered(address):
    """Whether the guest answers a ping through a recording."""
    with suppress(ConnectionError), socket.create_connection(address, timeout=PATIENCE) as host:
        host.sendall(b'{"type":"ping"}\n')
        return b"pong" in host.recv(65536)
    return False


def port_of(line):
    return "127.0.0.1", int(line.rpartition(":")[2])


@pytest.mark.parametrize("size", [200, 2000], ids=["at the connect", "at a request"])
def test_a_recording_on_a_full_disk_ends(size, tmp_path):
    path = tmp_path / "t.ndjson"
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        piped(
            "record", str(path), str(guest.address), clean=LIMITED_ENV, preexec_fn=limited(resource.RLIMIT_FSIZE, size)
        ) as process,
    ):
        ask_until_the_end(port_of(process.stdout.readline()))
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (
        2,
        f"stereosctl: cannot write {path}: File too large; the recording ends here\n",
    )


def test_a_recording_goes_on_when_a_descriptor_is_free_again(tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        piped(
            "record",
            str(tmp_path / "t.ndjson"),
            str(guest.address),
            clean=LIMITED_ENV,
            preexec_fn=limited(resource.RLIMIT_NOFILE, 16),
        ) as process,
    ):
        address = port_of(process.stdout.readline())
        hosts = [socket.create_connection(address, timeout=PATIENCE) for _ in range(20)]
        said = ""
        while "no other host can connect now: Too many open files; the recording goes on" not in said:
            said = process.stderr.readline()
            assert said
        for host in hosts:
            host.close()
        # The hosts that have gone are still accepted one after the other, and take descriptors meanwhile.
        until(lambda: answered(address), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in err


BEFORE_THREADS = {
    "record": "Proxy(TCP('127.0.0.1', 0), TCP('127.0.0.1', 1), report=print); found = DIALS in sys.modules",
    "doctor": "[found] = side_by_side([None], 1, lambda _target: DIALS in sys.modules)",
}


@pytest.mark.parametrize("command", BEFORE_THREADS)
def test_what_dials_is_loaded_before_threads_need_it(command):
    """Where no descriptor is free, threads that load it at once were told of a deadlock."""
    script = f"""
import sys
from stereos_proto_io import TCP
from stereos_proto_io.cli._doctor import side_by_side
from stereos_proto_io.cli._proxy import Proxy
DIALS = "stereos_proto_io.blocking._dial"
assert DIALS not in sys.modules
{BEFORE_THREADS[command]}
assert found
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)


def redactors():
    gc.collect()
    return sum(isinstance(each, Redactor) for each in gc.get_objects())


@pytest.mark.parametrize("guest_answers", [True, False])
def test_a_recording_forgets_the_secrets_of_connections_that_ended(guest_answers, tmp_path):
    before = redactors()
    others = set(threading.enumerate())
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, (tmp_path / "t").open("w") as file:
        target = guest.address if guest_answers else UnixSocket(tmp_path / "nobody")
        with Proxy(TCP("127.0.0.1", 0), target, report=lambda _text: None) as proxy:
            recorder = Recorder(file, {}, keep_secrets=False)

            def run():
                with pytest.raises(UsageError):
                    proxy.run(recorder)

            main = threading.Thread(target=run)
            main.start()
            for _ in range(5):
                # Without a guest it is closed from the other side.
                with suppress(OSError), socket.create_connection(("127.0.0.1", proxy.address.port)) as host:
                    host.sendall(encode(InjectSecret("A", "s" * 1000)))
                    host.shutdown(socket.SHUT_WR)
                    while host.recv(65536):
                        pass
            for thread in set(threading.enumerate()) - others - {main}:
                if "_serve" in thread.name or "_carry" in thread.name:
                    thread.join(PATIENCE)
            assert redactors() == before
            # A file that cannot be written is what ends it.
            file.flush()
            os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
            ask_until_the_end(("127.0.0.1", proxy.address.port))
            main.join(PATIENCE)
            assert not main.is_alive()


# ------------------------------------------------------------------------------------------------- journal


def test_a_journal_on_a_full_disk_is_one_sentence(tmp_path):
    (tmp_path / "j.toml").write_text('[[shared]]\nhost = "."\nguest = "/workspace"\n')
    book = tmp_path / "book"
    with simulated_guest() as guest:
        keep_guest(tmp_path, "dev", guest.address)
        done = subprocess.run(
            [*COMMAND, "provision", str(tmp_path / "j.toml"), "--vm", "dev", "--journal", str(book)],
            capture_output=True,
            text=True,
            env={**LIMITED_ENV, "MB_CONFIG_DIR": str(tmp_path)},
            timeout=PATIENCE,
            check=False,
            preexec_fn=limited(resource.RLIMIT_FSIZE, 10),
        )
        assert guest.simulator.mounts == ()
    assert done.returncode == 2, done
    assert done.stderr == f"stereosctl: cannot write {book}: File too large\n"
