"""The words of the command line: what it says is true, complete, and read once."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from itertools import pairwise

import pytest

from cli.fleets import fleet, keep_state
from cli.test_commands import check
from cli_harness import CLEAN_ENV, COMMAND, PATIENCE, piped, plain, run_cli, terminal
from stereos_proto import InjectSecret, Role, encode
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._jobs import merged
from stereos_proto_io.cli._redact import Redactor
from stereos_proto_io.cli._tree import COMMANDS
from stereos_proto_io.testing import simulated_guest

JCARD = '[[shared]]\nhost = "."\nguest = "/workspace"\n[secrets]\nTOKEN = "${FLEET_TOKEN}"\n'


@pytest.fixture
def cli(tmp_path, monkeypatch):
    def run(*words, **options):
        env = {"MB_CONFIG_DIR": str(tmp_path), "FLEET_TOKEN": "a-secret-value"}
        return run_cli(monkeypatch, *words, env=env, **options)

    return run


# ---------------------------------------------------------------------------------------------------- simulate


def test_a_warning_of_a_fault_is_one_plain_line():
    with piped("simulate", "--fault", "drop@mout", "--fault", "drop@mout#2", "--quiet") as process:
        process.stdout.readline()
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [line.partition(" strikes")[0] for line in err.splitlines()] == [
        "warning: the fault 'drop@mout'",
        "warning: the fault 'drop@mout#2'",
    ]
    assert err.splitlines()[0].endswith("did you mean 'mount'?")


@pytest.mark.parametrize("words", [["simulate"], ["record", "t.ndjson", "tcp://127.0.0.1:1"]])
def test_a_place_to_listen_at_that_is_none_is_repeated(words, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli(*words, "--listen", "vsockk://3")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("stereosctl: --listen: 'vsockk://3' is not an address; one looks like tcp://HOST:PORT")
    assert "tcp://127.0.0.1:23701?" in cli(*words, "--listen", "127.0.0.1:23701").err


def test_no_guest_at_all_is_said_so(cli, tmp_path):
    keep_state(tmp_path, "off", {"backend": "qemu"})
    result = cli("ping", "--all")
    assert (result.code, result.err) == (0, "left out, as stopped: off\nno guests\n")


# ------------------------------------------------------------------------------------------------------ replay


def transcript(path, *rows):
    texts = [{"meta": True}, *({"conn": c, "ms": 0, "dir": d, "b64": base64.b64encode(b).decode()} for c, d, b in rows)]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return str(path)


def test_replay_names_the_connections_that_it_leaves_out(tmp_path, cli):
    ping, pong = b'{"type":"ping"}\n', b'{"type":"pong"}\n'
    three = transcript(tmp_path / "3", *(row for n in range(3) for row in ((n, "c2s", ping), (n, "s2c", pong))))
    one = transcript(tmp_path / "1", (0, "c2s", ping), (0, "s2c", pong))
    with simulated_guest() as guest:
        for flags in ((), ("--json",)):
            result = cli("replay", three, str(guest.address), "--conn", "1", *flags)
            said = "connection 1 alone is replayed; left out: 0, 2 (--conn N replays another one)\n"
            assert (result.code, result.err.startswith(said)) == (0, True), result
        assert "left out" not in cli("replay", one, str(guest.address)).err


def test_replay_names_the_type_of_what_it_skips(tmp_path, cli):
    secret = Redactor().line(Role.HOST, encode(InjectSecret("A", "s3ntinel")))
    path = transcript(tmp_path / "t", (0, "c2s", secret), (0, "c2s", b"[redacted] 3 bytes\n"), (0, "c2s", b"no\n"))
    with simulated_guest() as guest:
        result = cli("replay", path, str(guest.address))
        document = json.loads(cli("replay", path, str(guest.address), "--json").out)
    assert result.out.splitlines() == [
        "– inject_secret  skipped: its secret was redacted",
        "– ?  skipped: its content was left out of the recording",
        "– ?  skipped: it is not a request that can be read",
    ]
    check(document, "replay")
    assert [row["request"] for row in document["requests"]] == ["inject_secret", "?", "?"]


# ------------------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("command", ["health --all", "ping --all", "ls", "watch --all --timeout 5", "doctor --all"])
def test_a_state_that_is_misspelt_is_refused(command, tmp_path, cli):
    with fleet(tmp_path, {"a": {}, "b": {}}) as guests:
        guests["b"].simulator.state = "of-its-own"
        result = cli(*command.split(), "--state", "bogus")
        assert (result.code, result.out) == (2, "")
        assert (
            "--state bogus: no guest reports this state; it is one of booting, ready, healthy, degraded" in result.err
        )
        assert "these guests also report of-its-own" in result.err
        assert {request.type for guest in guests.values() for request in guest.simulator.requests} == {"get_health"}


@pytest.mark.parametrize("state", ["healthy", "of-its-own"])
def test_a_state_may_leave_no_guest_or_be_a_guest_s_own(state, tmp_path, cli):
    with fleet(tmp_path, {"a": {}, "b": {}}) as guests:
        guests["b"].simulator.state = "of-its-own"
        result = cli("health", "--all", "--state", state, "-o", "name")
    assert (result.code, result.out.split()) == (0, ["b"] if state == "of-its-own" else [])


@pytest.mark.parametrize("state", ["stopped", "unreachable", "no address"])
def test_ls_knows_the_states_of_machines(state, tmp_path, cli):
    keep_state(tmp_path, "stopped", {"backend": "qemu", "vsock_port": 0})
    result = cli("ls", "--state", state, "-o", "name")
    assert (result.code, result.out.split()) == (0, ["stopped"] if state == "stopped" else [])


# ------------------------------------------------------------------------------------------------ fleets in pipes


def test_no_line_of_a_fleet_contradicts_itself(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount"]}, "b": {"boot_time": 0.2}}):
        result = cli("provision", str(tmp_path / "j.toml"), "--all")
    lines = [line.split("  ") for line in result.err.splitlines()]
    of_a, of_b = ([line for line in lines if line[1:2] == [name]] for name in "ab")
    assert ["·", "a", "ready", "0/0", "connected"] in of_a
    assert ["·", "a", "ready", "0/0", "config not sent"] in of_a
    assert ["·", "a", "ready", "0/0", "mount share0 at /workspace refused"] in of_a
    assert ["·", "b", "ready", "0/0", "config"] in of_b
    assert not [line for line in of_a + of_b if "ready" in line and "waiting" in line]


def test_the_same_sentence_about_several_machines_stands_once(tmp_path, cli):
    for number in range(1, 13):
        keep_state(tmp_path, f"web-{number}", {"backend": "qemu", "vsock_port": 1})
    result = cli("ls")
    said = [line for line in result.err.splitlines() if "nobody listens" in line]
    assert len(said) == 1
    assert said[0].startswith("web-1, web-2, web-3, web-4, web-5, web-6, web-7, web-8, web-9, web-10 and 2 more: ")
    assert list(merged([("a", "x"), ("b", "y"), ("c", "x")])) == [("a, c", "x"), ("b", "y")]


def test_columns_that_mean_the_same_have_the_same_names(tmp_path, cli):
    with fleet(tmp_path, {"a": {}}):
        machines, guests = (
            cli(*words, "-o", "wide").out.split("\n")[0].split() for words in (["ls"], ["health", "--all"])
        )
    assert machines == ["GUEST", "STATE", "AGENTS", "RTT", "UPTIME", "ADDRESS", "AGENT", "NAMES"]
    assert guests == ["GUEST", "STATE", "AGENTS", "RTT", "UPTIME", "ADDRESS", "RESULT"]


def test_a_guest_that_goes_away_before_the_config_keeps_its_report(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)

    def provisioned(run):
        """What came of it. The guest closes behind its last reply, and has to be seen to be gone before the config."""
        for number in range(50):
            folder = tmp_path / f"{run.__name__}{number}"
            with fleet(folder, {"a": {}, "b": {"faults": ["close@inject_secret"]}}):
                result = run("provision", str(tmp_path / "j.toml"), "--all", "--config-dir", str(folder))
            if (result.returncode if run is process else result.code) != 5:
                break
        return result

    def process(*words):
        return subprocess.run(
            [*COMMAND, *words],
            capture_output=True,
            text=True,
            env={**CLEAN_ENV, "FLEET_TOKEN": "a-secret-value"},
            timeout=PATIENCE,
            check=False,
        )

    def document_of(*words):
        return cli(*words, "--json")

    done = provisioned(process)
    assert done.returncode == 3
    assert "2 of 3 steps done, 1 not sent" in done.stdout
    assert "\nb\n– config  not sent: set_config was not sent: b closed the connection" in done.stdout
    assert "2 guests: 1 unreachable, 1 done" in done.stderr or "2 guests: 1 done, 1 unreachable" in done.stderr
    result = provisioned(document_of)
    document = json.loads(result.out)
    check(document, "many")
    check(document[1]["result"], "provision")
    assert (result.code, document[1]["ok"], document[1]["code"]) == (3, False, 3)
    assert (document[1]["error"]["kind"], document[1]["error"]["sent"]) == ("ConnectionLost", True)
    steps = document[1]["result"]["steps"]
    assert [step["status"] for step in steps] == ["done", "done", "not sent"]
    assert steps[2]["error"] == {
        "error": "set_config was not sent: b closed the connection",
        "kind": "ConnectionLost",
        "sent": False,
        "refused_by_guest": False,
    }


def test_a_lost_reply_counts_for_more_than_a_refusal(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount", "drop@inject_secret", "power-off@inject_secret"]}}):
        result = cli("provision", str(tmp_path / "j.toml"), "--vm", "a")
    assert result.code == 5, result


# ------------------------------------------------------------------------------------------------ help, the parser


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("ping --bogus", "there is no option --bogus; see: stereosctl ping --help"),
        ("bogus", 'there is no command "bogus"; see: stereosctl --help'),
        ("ping --timout 3", "there is no option --timout, but there is --timeout; see: stereosctl ping --help"),
    ],
)
def test_only_what_is_close_is_suggested(command, sentence, cli):
    assert cli(*command.split()).err == f"stereosctl: {sentence}\n"
    document = json.loads(cli(*command.split(), "--json").out)
    check(document, "error")
    assert (document["error"], document["kind"]) == (sentence, "UsageError")


def test_the_help_wraps_whole_paragraphs(cli):
    text = cli("--help", columns=80).out
    assert "A guest is named by its address, by `--vm NAME` (a virtual machine of mb's), or" in text
    lines = text.split("For example")[0].splitlines()
    assert not [line for line, following in pairwise(lines) if following and 0 < len(line) < 60]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_length_of_time_has_a_unit(name, cli):
    text = " ".join(plain(cli(*name.split(), "--help", columns=200).out).replace("│", " ").split())
    for default in text.split("[default: ")[1:]:
        assert "." not in default.partition("]")[0] or "s" in default.partition("]")[0], default


def test_the_help_says_what_is_true(cli):
    def said(name):
        return " ".join(plain(cli(*name.split(), "--help", columns=400).out).replace("│", " ").split())

    assert "Which connection to replay. [default: 0]" in said("replay")
    assert "[default: 5 s]" in said("simulate")
    assert "The jcard.toml for guests without a --jcard of their own; - reads standard input." in said("provision")
    assert "everyone on this machine can read a command line" in said("send")
    limit = "By default 10 s; 60 s for wait, provision and shutdown --wait; no limit for ping and watch."
    assert limit in said("health")


@pytest.mark.parametrize(
    ("command", "formats"),
    [
        ("watch", {"wide", "jsonl"}),
        ("doctor", {"wide", "json"}),
        ("health", {"wide", "json", "jsonl", "name", "template"}),
    ],
)
def test_the_help_of_a_command_lists_the_formats_that_it_takes(command, formats, cli):
    text = " ".join(plain(cli(command, "--help", columns=400).out).replace("│", " ").split())
    listed = set(re.findall(r"[a-z]+", text.partition("--output -o FORMAT ")[2].partition(" By default ")[0]))
    every = {"wide", "json", "jsonl", "name", "template"}
    assert listed & every == formats
    assert ("--json " in text) == ("json" in formats), "the same as an option of its own"
    for each in every:
        form = "template={name}" if each == "template" else each
        result = cli(command, "tcp://127.0.0.1:1", "--timeout", "0.2", "-o", form)
        assert (result.code == 2) == (each not in formats), result


PROMPT = '[[agents]]\nname = "x"\nharness = "custom"\nprompt_file = "p.md"\n'


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("config", "set", "-"), "no file is read here"),
        (("provision", "-"), "no file is read here, since standard input lies in no folder"),
    ],
)
def test_a_warning_about_a_prompt_is_in_the_words_of_the_command_line(words, why, monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, *words, str(guest.address), stdin=PROMPT.encode())
    assert result.code == 0, result
    assert f"prompt_file is sent as a path of the guest ({why}); if the guest has no such file" in result.err
    assert "read_prompt" not in result.all


def test_status_is_health(cli):
    with simulated_guest() as guest:
        assert cli("status", str(guest.address)).out.split()[:2] == cli("health", str(guest.address)).out.split()[:2]
    assert cli("status").err == cli("health").err
    assert "`status` is another word for `health`" in " ".join(cli("--help").out.split())


def test_the_look_into_a_guest_names_both_keys(tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "a")) as one,
        simulated_guest(UnixSocket(tmp_path / "b")) as other,
        terminal("watch", str(one.address), str(other.address), "--look", str(one.address)) as it,
    ):
        it.wait_for("Esc goes back. q or Ctrl-C ends.")
        it.type("q")
        assert it.end() == 0
