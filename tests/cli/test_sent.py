"""What `--json` says of a command that failed or was interrupted after it had changed the guest, and what is kept."""

from __future__ import annotations

import base64
import json
import resource
import signal
import subprocess

import pytest

from cli.fleets import keep_guest
from cli.test_commands import check
from cli_harness import COMMAND, LIMITED_ENV, PATIENCE, piped, run_cli
from stereos_proto import Mount, Ping, encode
from stereos_proto_io import UnixSocket
from stereos_proto_io.testing import simulated_guest
from waiting import until


def transcript(path, *requests):
    """A recording of a host that sent these requests, and read no reply."""
    lines = [{"meta": True}]
    for request in requests:
        lines.append({"conn": 0, "ms": 0, "dir": "c2s", "b64": base64.b64encode(encode(request)).decode()})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


# ------------------------------------------------------------------------------------------------- provision


@pytest.mark.parametrize("names", [["dev"], ["dev", "other"]])
def test_a_journal_that_cannot_be_written_any_more_says_what_was_sent(names, tmp_path):
    (tmp_path / "j.toml").write_text('[[shared]]\nhost = "."\nguest = "/workspace"\n')

    def provision(book, limit):
        which = [word for name in names for word in ("--vm", name)]
        return subprocess.run(
            [*COMMAND, "provision", f"{tmp_path}/j.toml", *which, "--parallel", "1", "--journal", str(book), "--json"],
            capture_output=True,
            text=True,
            env={**LIMITED_ENV, "MB_CONFIG_DIR": str(tmp_path)},
            timeout=PATIENCE,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    with simulated_guest() as guest:
        for name in names:
            keep_guest(tmp_path, name, guest.address)
        assert provision(tmp_path / "whole", 100_000).returncode == 0
        # The last step of the first guest is the first that cannot be written down.
        lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
        first = [number for number, line in enumerate(lines) if json.loads(line)["guest"] == "dev"]
        done = provision(tmp_path / "book", sum(map(len, lines[: first[-1] + 1])) - 9)
        assert len(guest.simulator.mounts) == len(names) + 1
    document = json.loads(done.stdout)
    check(document, "many" if names[1:] else "error")
    errors = [each["error"] for each in document] if names[1:] else [document]
    assert done.returncode == 2
    assert all(f"cannot write {tmp_path}/book: File too large" in error["error"] for error in errors)
    # To the second one nothing was sent but the question whether it is ready.
    assert [(error["kind"], error["sent"]) for error in errors] == [("UsageError", True), ("UsageError", None)][
        : len(names)
    ]


# --------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize(
    ("requests", "fault", "rows", "kind", "sent", "code"),
    [
        ([Mount("a", "/b", "9p"), Ping(), Ping()], "close@ping#1", ["mount", "ping"], "ConnectionLost", True, 5),
        ([Ping(), Mount("a", "/b", "9p")], "stall@mount", ["ping"], "RequestTimeout", True, 5),
        ([Ping(), Ping()], "close@ping#1", ["ping"], "ConnectionLost", None, 3),
        ([Ping()], "cut:0", [], "ConnectionLost", None, 3),
    ],
)
def test_a_replay_that_ends_early_keeps_its_rows_and_says_what_was_sent(
    requests, fault, rows, kind, sent, code, tmp_path, monkeypatch
):
    path = transcript(tmp_path / "t", *requests)
    for flags in ((), ("--json",)):
        with simulated_guest(UnixSocket(tmp_path / "g"), faults=[fault]) as guest:
            result = run_cli(monkeypatch, "replay", path, str(guest.address), "--timeout", "2", *flags)
        assert result.code == code
        assert result.err.count("stereosctl: ") == 1
    document = json.loads(result.out)
    check(document, "replay")
    assert not document["ok"]
    assert [row["request"] for row in document["requests"]] == rows
    document = document["error"]
    assert (document["kind"], document["sent"]) == (kind, sent)
    assert result.err == f"stereosctl: {document['error']}\n"


# -------------------------------------------------------------------------------------------------- conformance


def test_a_report_that_cannot_be_written_is_refused_before_the_first_case(tmp_path, monkeypatch):
    with simulated_guest() as guest:
        words = ("conformance", str(guest.address), "--allow-effects", "--json", "--junit")
        result = run_cli(monkeypatch, *words, f"{tmp_path}/nowhere/report.xml")
        assert {request.type for request in guest.simulator.requests} == set()
        check(json.loads(result.out), "error")
        assert (result.code, json.loads(result.out)["sent"]) == (2, False)
        full = run_cli(monkeypatch, *words, "/dev/full")
    check(json.loads(full.out), "conformance")
    assert (full.code, full.err) == (2, "stereosctl: cannot write /dev/full: No space left on device\n")


# ------------------------------------------------------------------------------------------------------ Ctrl-C

MOUNT = '{"tag":"a","guest_path":"/b","fs_type":"9p"}'


@pytest.mark.parametrize(
    ("words", "fault", "step", "sent"),
    [
        (("send", "mount", MOUNT, "@"), "stall@mount", "mount", True),
        (("send", "ping", "@"), "stall@ping", "ping", None),
        (("replay", "RECORDING", "@"), "stall@mount#1", "mount", True),
        (("replay", "RECORDING", "@"), "stall@ping#1", "ping", True),
        (("doctor", "@"), "stall@ping", "the guest is examined", None),
        (("conformance", "@", "--timeout", "100"), "stall@ping", "the cases are run", None),
        (("conformance", "@", "--timeout", "100", "--allow-effects"), "stall@ping", "the cases are run", True),
        (("ls", "--timeout", "100"), "stall@get_health", "the guests are asked", None),
        (("ping", "--all", "--state", "ready"), "stall@get_health", "the guests are asked for their states", None),
    ],
)
def test_ctrl_c_is_a_document_of_every_command(words, fault, step, sent, tmp_path):
    awaited = fault.partition("@")[2].partition("#")[0]
    places = {"RECORDING": transcript(tmp_path / "t", Mount("a", "/b", "9p"), Ping())}
    with simulated_guest(faults=[fault]) as guest, simulated_guest(faults=[fault]) as other:
        keep_guest(tmp_path, "dev", guest.address)
        places |= {"@": str(guest.address), "@2": str(other.address)}
        patience = () if words[0] in ("conformance", "ls") else ("--timeout", "100")
        line = (*(places.get(word, word) for word in words), *patience, "--json")
        with piped(*line, env={"MB_CONFIG_DIR": str(tmp_path)}) as process:
            while awaited not in {request.type for request in guest.simulator.requests}:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    document = json.loads(out)
    if words[0] == "replay":
        check(document, "replay")
        rows = ["mount"] if step == "ping" else []
        assert ([row["request"] for row in document["requests"]], document["ok"]) == (rows, False)
        document = document["error"]
    check(document, "error")
    assert (document["error"], document["kind"]) == (f"interrupted while {step}", "Interrupted")
    assert document["sent"] is sent
    assert (process.returncode, err.splitlines()[-1]) == (-signal.SIGINT, "interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("flags", [("--json",), ()])
def test_an_interrupted_doctor_says_what_it_knows_of_each_guest(flags, number):
    with (
        simulated_guest() as well,
        simulated_guest(faults=["stall@ping"]) as silent,
        simulated_guest() as queued,
    ):
        names = [str(guest.address) for guest in (well, silent, queued)]
        words = ("doctor", *names, "--parallel", "1", "--timeout", "100", *flags)
        with piped(*words) as process:
            until(lambda: silent.simulator.requests, process)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
    assert process.returncode == -number
    assert "Traceback" not in err
    if not flags:
        assert [line for line in out.splitlines() if line in names] == names
        assert out.count("interrupted while the guest is examined") == 1
        return
    document = json.loads(out)
    check(document, "doctor_many")
    assert [each["guest"] for each in document] == names
    assert [each["ok"] for each in document] == [True, False, False]
    last = [each["steps"][-1] for each in document]
    assert [step["step"] for step in last] == ["health", "interrupted", "interrupted"]
    assert [step["seen"] for step in last[1:]] == [
        "interrupted while the guest is examined",
        "interrupted before a guest was asked",
    ]
    assert [step["step"] for step in document[1]["steps"]][-4:] == ["address", "dial", "preamble", "interrupted"]


@pytest.mark.parametrize("flags", [("--json",), ()])
def test_ctrl_c_keeps_the_pings_of_several_guests(flags, tmp_path):
    with simulated_guest() as guest, simulated_guest(faults=["stall@ping#1"]) as silent:
        words = ("ping", str(guest.address), str(silent.address), "-c", "0", "-i", "0.01", *flags)
        with piped(*words) as process:
            while len(guest.simulator.requests) < 4 or not silent.simulator.requests:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "2 guests: 2 interrupted" in err
    if not flags:
        assert "min/avg/max" in out
        return
    document = json.loads(out)
    check(document, "many")
    answered, none = document
    assert (answered["ok"], answered["code"], answered["error"]["kind"]) == (False, 130, "Interrupted")
    assert answered["result"]["replies"] == len(answered["result"]["times_ms"]) >= 3
    assert (none["result"], none["error"]["kind"]) == (None, "Interrupted")
