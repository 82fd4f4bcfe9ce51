"""What was once seen to be wrong: each of these failed first."""

from __future__ import annotations

import json
import signal
import socket
import socketserver
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from cli.fleets import Flapping, keep_guest, keep_state, reporting
from cli.test_commands import check
from cli_harness import piped, plain, run_cli, run_process
from stereos_proto import Ack, AgentStatus, CustomRequest, Health, Pong, encode
from stereos_proto_io import TCP, UnixSocket, VirtioSerial
from stereos_proto_io.cli._console import console, error_console
from stereos_proto_io.cli._machines import config_folder
from stereos_proto_io.cli._options import duration_of
from stereos_proto_io.cli._output import MOST_AGENTS, agents_table, duration, print_result
from stereos_proto_io.cli._targets import Target, looks_like_address
from stereos_proto_io.guest.faults import FAULTS, fault_table
from stereos_proto_io.testing import simulated_guest

UP, DOWN = (Health("ready", [AgentStatus("coder", runs)], 1) for runs in (True, False))


# ---------------------------------------------------------------------------------------------------- wait


def test_wait_judges_by_the_report_that_met_the_condition(monkeypatch):
    with reporting(Flapping(UP, DOWN)) as guest:
        result = run_cli(monkeypatch, "wait", str(guest.address), "--for", "agent=coder", "--timeout", "20")
    assert (result.code, "1 of 1 agents running" in result.out) == (0, True), result


def test_wait_for_state_and_agent_wants_both_in_one_report(monkeypatch):
    booting = Health("booting", [AgentStatus("coder", True)], 1)
    healthy = Health("healthy", [AgentStatus("coder", True)], 1)
    with reporting(Flapping(DOWN, booting, DOWN, healthy, DOWN)) as guest:
        words = ("--for", "agent=coder", "--for", "state=healthy", "--timeout", "20")
        result = run_cli(monkeypatch, "wait", str(guest.address), *words, "--json")
    assert result.code == 0, result
    document = json.loads(result.out)
    check(document, "wait")
    assert (document["health"]["state"], document["health"]["agents"][0]["running"]) == ("healthy", True)


@pytest.mark.parametrize("state", [(), ("--for", "state=degraded")])
def test_a_wait_that_times_out_names_the_agents_in_the_order_of_the_user(state, monkeypatch):
    # The condition on the agents is met at first, that on the state never.
    names = [f"a{number}" for number in range(9, -1, -1)]
    agents = [AgentStatus(name, bool(state)) for name in names]
    words = [word for name in names for word in ("--for", f"agent={name}")]
    with simulated_guest(agents=agents) as guest:
        result = run_cli(monkeypatch, "wait", str(guest.address), *words, *state, "--timeout", "0.9")
    runs = "running" if state else "not running"
    wanted = ", ".join(f"agent={name}" for name in names)
    said = f"); the guest reports {', '.join(f'{name} ({runs})' for name in names)}"
    assert result.code == 124
    assert f"timed out waiting for {wanted}" in result.err
    assert said in result.err
    assert "last error" not in result.err, "every try was answered"


@pytest.mark.parametrize(
    ("listed", "wanted", "said"),
    [
        ([], ["zed"], "the guest reports no agents; an agent that cannot start is absent from health"),
        (["up"], ["zed"], "the guest reports up (running); an agent that cannot start is absent from health"),
        ([], ["zed", "yak"], "the guest reports no agents; an agent that cannot start is absent from health"),
        (
            ["up"],
            ["up", "zed"],
            "the guest reports up (running); zed is not listed: an agent that cannot start is absent from health",
        ),
    ],
)
def test_an_agent_that_is_missing_is_named_once(listed, wanted, said, monkeypatch):
    words = [word for name in wanted for word in ("--for", f"agent={name}")]
    with simulated_guest(agents=[AgentStatus(name, True) for name in listed]) as guest:
        result = run_cli(monkeypatch, "wait", str(guest.address), *words, "--timeout", "0.3")
        many = run_cli(monkeypatch, "wait", str(guest.address), "--parallel", "2", *words, "--timeout", "0.3", "--json")
    sentence = result.err.splitlines()[-1]
    assert result.code == many.code == 124
    for_ = ", ".join(f"agent={name}" for name in wanted)
    assert sentence.startswith(f"stereosctl: timed out waiting for {for_}: 0.3 s have passed (")
    assert sentence.endswith(f"last state ready); {said}")
    assert json.loads(many.out)["error"].endswith(said)


def test_a_guest_that_goes_at_once_after_it_was_ready_was_ready(monkeypatch):
    def answers_once(request):
        assert request.type == "get_health"
        asked.append(request)
        if len(asked) > 1:
            raise AssertionError("asked again after the condition was met")
        return UP

    asked = []
    with reporting(answers_once) as guest:
        result = run_cli(monkeypatch, "wait", str(guest.address), "--timeout", "20")
    assert (result.code, len(asked)) == (0, 1), result


# ---------------------------------------------------------------------------------------------------- send


def test_a_payload_with_a_url_is_no_address(tmp_path, monkeypatch):
    with simulated_guest(types=["fetch"]) as guest:
        keep_guest(tmp_path, "dev", guest.address)
        words = ("send", "fetch", '{"url":"https://example.org"}', "--vm", "dev")
        assert run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)}).code == 0
        assert guest.simulator.requests[-1] == CustomRequest("fetch", {"url": "https://example.org"})
        assert run_cli(monkeypatch, "send", "fetch", str(guest.address)).code == 0


def test_what_looks_like_an_address_is_one_that_is_read():
    for text in ("tcp://h:1", "vsock://3:1", "unix:///a", "serial:///a", "hvsock:///a:1"):
        assert looks_like_address(text)
    for text in ('"tcp://h:1"', "https://x", "h:1", "", "://"):
        assert not looks_like_address(text)


# ------------------------------------------------------------------------------------------------------ ls


def test_one_guest_does_not_ruin_the_table_for_all(tmp_path, monkeypatch):
    many = [AgentStatus(f"agent-{number}", number > 0) for number in range(200)]
    with simulated_guest(agents=many) as crowded, simulated_guest() as odd, simulated_guest() as plain_one:
        odd.simulator.state = "s" * 5000
        for name, guest in (("crowded", crowded), ("odd", odd), ("plain", plain_one)):
            keep_guest(tmp_path, name, guest.address)
        for tty in (False, True):
            result = run_cli(monkeypatch, "ls", env={"MB_CONFIG_DIR": str(tmp_path)}, tty=tty, columns=80)
            lines = result.out.splitlines()
            assert len(lines) == 4
            assert max(map(len, lines)) < (120 if not tty else 200)
    assert "+197" in run_cli(monkeypatch, "ls", "--help").out or "199/200" in result.out


# ---------------------------------------------------------------------------------------------- JSON, decode


@pytest.mark.parametrize(
    ("words", "faults", "kind", "sent", "refused"),
    [
        ("mount a /etc @ --fs 9p --json", [], "RequestFailed", True, True),
        ("health NOBODY --json", [], "ConnectError", False, False),
        ("health NOBODY -o json", [], "ConnectError", False, False),
        ("health NOBODY --output=jsonl", [], "ConnectError", False, False),
        ("ping @ --timeout 0.3 --json", ["stall@ping"], "RequestTimeout", None, False),
        ("send ping @ --timeout 0.3 --json", ["stall@ping"], "RequestTimeout", None, False),
        ("health @ --json", ["garbage@get_health"], "MalformedLine", None, False),
        ("health @ --json", ["cut:0"], "ConnectionLost", None, False),
        ("wait @ --for shutdown --timeout 0.4 --json", [], "RequestTimeout", None, False),
        ("mount a /a @ --fs 9p --timeout 0.3 --json", ["stall@mount"], "RequestTimeout", True, False),
        ("provision JCARD @ --timeout 0.3 --json", ["never-ready"], "NotReady", None, False),
        ("mount a /a @ --fs 9p --json", ["cut:0"], "OutcomeUnknown", True, False),
        ("wait @ --for agent=nobody --timeout 0.3 --json", [], "NotReady", None, False),
        ("mount a --json", [], "UsageError", False, False),
        ("health --vm nowhere --json", [], "UsageError", False, False),
        ("provision nowhere.toml @ --json", [], "JcardError", False, False),
    ],
)
def test_a_failure_is_a_document_too(words, faults, kind, sent, refused, tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    with simulated_guest(UnixSocket(tmp_path / "g"), faults=faults) as guest:
        places = {"@": str(guest.address), "NOBODY": f"unix://{tmp_path}/nobody", "JCARD": f"{tmp_path}/j.toml"}
        env = {"MB_CONFIG_DIR": str(tmp_path)}
        result = run_cli(monkeypatch, *(places.get(word, word) for word in words.split()), env=env)
    document = error_of(json.loads(result.out))
    assert (document["kind"], document["sent"], document["refused_by_guest"]) == (kind, sent, refused)
    assert result.code
    assert result.err == f"stereosctl: {document['error']}\n" or "wait" in words or "provision" in words


def error_of(document):
    """The error that ended a command: its document, or a member of that of ping."""
    if "replies" in document:
        check(document, "ping")
        document = document["error"]
    check(document, "error")
    return document


class Deaf(socketserver.StreamRequestHandler):
    """A guest that answers nothing but a ping."""

    replies: ClassVar = {"ping": Pong()}

    def handle(self):
        for line in self.rfile:
            if reply := self.replies.get(json.loads(line)["type"]):
                self.wfile.write(encode(reply))


class Stays(Deaf):
    """A guest that acknowledges a shutdown, and goes on answering."""

    replies: ClassVar = {**Deaf.replies, "shutdown": Ack("shutdown", True), "get_health": UP}


def shut_down(monkeypatch, guest, *options):
    """What `shutdown` prints of one such guest, and of two."""
    with ExitStack() as stack:
        places = []
        for _ in range(2):
            server = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), guest))
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            places.append(f"tcp://127.0.0.1:{server.server_address[1]}")
        words = ("shutdown", places[0], *options, "--json")
        one, two = run_cli(monkeypatch, *words), run_cli(monkeypatch, *words, places[1])
    return (one.code, two.code), [json.loads(one.out), *(each["error"] for each in json.loads(two.out))]


def test_a_shutdown_without_a_reply_may_have_been_carried_out(monkeypatch):
    codes, errors = shut_down(monkeypatch, Deaf, "--timeout", "1")
    assert codes == (5, 5), errors
    for error in errors:
        assert error["sent"] is True
        assert "did not answer shutdown in time; it may still be carried out" in error["error"]


def test_a_shutdown_that_was_acknowledged_was_sent(monkeypatch):
    codes, errors = shut_down(monkeypatch, Stays, "--wait", "--timeout", "0.5")
    assert codes == (124, 124), errors
    assert [(each["kind"], each["sent"]) for each in errors] == [("RequestTimeout", True)] * 3


@pytest.mark.parametrize(
    ("words", "fault", "sent"),
    [
        ("mount a /b --fs 9p", "stall@mount", True),
        ("ping", "stall@ping", None),
        ("wait --for agent=nobody", "stall@get_health", None),
    ],
)
def test_ctrl_c_says_what_may_have_been_sent(words, fault, sent, tmp_path):
    words = words.split()
    with simulated_guest(faults=[fault]) as guest, socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        deaf.settimeout(60)
        for others in ((), (f"hvsock://{tmp_path}/deaf:1",)):
            before = len(guest.simulator.requests)
            with piped(*words, str(guest.address), *others, "--timeout", "100", "--json") as process:
                dialled = [deaf.accept()[0] for _ in others]
                while fault.rpartition("@")[2] not in {each.type for each in guest.simulator.requests[before:]}:
                    assert process.poll() is None
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGINT
            for connection in dialled:
                connection.close()
            document = json.loads(out)
            if others:
                check(document, "many")
            errors = [each["error"] for each in document] if others else [error_of(document)]
            assert [each["kind"] for each in errors] == ["Interrupted"] * len(errors)
            # Nothing was sent to a guest that was still dialled; while it is waited for, only questions are.
            still = None if words[0] == "wait" else False
            assert [each["sent"] for each in errors] == [sent, *(still for _ in others)]


def test_decode_shows_what_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "wire").write_bytes(b'{"type":"ping"}\n{"type":"p\xffng"}\n{"type":"pong"}\n{"type":"get_h')
    result = run_cli(monkeypatch, "decode", str(tmp_path / "wire"))
    assert result.code == 4
    assert [line[:1] for line in result.out.splitlines()] == ["→", "→", "←", "→"]
    assert "{'type'" not in result.out
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        piped("record", str(tmp_path / "t"), str(guest.address), "--listen", f"unix://{tmp_path}/p") as process,
    ):
        process.stdout.readline()
        assert run_cli(monkeypatch, "ping", f"unix://{tmp_path}/p", "-c", "2", "-i", "0.01").code == 0
        process.terminate()
        process.wait(60)
    transcript = (tmp_path / "t").read_bytes()
    (tmp_path / "cut").write_bytes(transcript.rstrip()[:-20])
    cut = run_cli(monkeypatch, "decode", str(tmp_path / "cut"))
    assert cut.code == 0
    assert "its last line is cut, and was left out" in cut.err
    assert len(cut.out.splitlines()) == len(transcript.splitlines()) - 2


# ---------------------------------------------------------------------------------------------- config set


def test_config_set_says_what_becomes_of_a_text_that_is_sent_as_it_is(tmp_path, monkeypatch):
    text = "api_key = 's3ntinel'\n[secret]\nA = 's3ntinel'\n[other]\n[[agents]]\nharness = 'custom'\n"
    (tmp_path / "j.toml").write_text(f"{text}[agents.env]\nMY_TOKEN = 's3ntinel'\nOTHER_TOKEN = '${{X}}'\n")
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "config", "set", str(tmp_path / "j.toml"), str(guest.address))
    assert result.code == 0
    assert [line.partition(", line ")[2] for line in result.err.splitlines()] == [
        "1: api_key is unknown, and is sent as it is; it looks like a secret outside of [secrets]",
        "2: secret is unknown, and is sent as it is (is secrets meant?); it looks like a secret outside of [secrets]",
        "4: other is unknown, and is sent as it is",
        "8: agents[0].env.MY_TOKEN looks like a secret, and everyone in the guest can read it here",
        "9: agents[0].env.OTHER_TOKEN names a variable, whose value is not filled in here",
    ]


def test_config_set_has_a_way_to_guests_of_other_makes(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("[[agents]]\nharness = 'of-my-own'\n")
    with simulated_guest() as guest:
        words = ("config", "set", str(tmp_path / "j.toml"), str(guest.address))
        strict, loose = (run_cli(monkeypatch, *words, *more) for more in ((), ("--no-strict",)))
        sent = guest.simulator.config
    assert (strict.code, loose.code) == (2, 0)
    assert sent == "[[agents]]\nharness = 'of-my-own'\n"
    assert "agents[0].harness must be one of" in loose.err


# ---------------------------------------------------------------------------------------------------- ping


def test_pings_that_were_all_answered_are_not_called_unanswered(monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "ping", str(guest.address), "-c", "3", "-i", "0.4", "--timeout", "0.6")
    assert (result.code, result.out.count("pong from")) == (124, 2), result
    assert "the time was up after 2 of 3 pings; each of these was answered" in result.err
    assert "2 replies  min/avg/max" in result.out


# -------------------------------------------------------------------------------------------- what to do next


@pytest.mark.parametrize(
    ("words", "env", "text"),
    [
        ("mount s /x --vm dev", {}, "--fs is missing"),
        ("health dev", {}, "'dev' is no address, but a virtual machine of mb's: --vm dev"),
        ("health frob", {}, "a virtual machine of mb's is named by --vm NAME"),
        ("health", {"STEREOS_ADDRESS": "tcp://nowhere:x"}, "STEREOS_ADDRESS: "),
        ("health", {"STEREOS_ADDRESS": "dev"}, "STEREOS_ADDRESS: 'dev' is no address; "),
        ("health --vm old", {}, "old: it is stopped; start it with `mb up`"),
        ("health --vm gone", {}, "cannot connect to gone: "),
        ("status --vm gone", {}, "cannot connect to gone: "),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(words, env, text, tmp_path, monkeypatch):
    keep_state(tmp_path, "dev", {"backend": "qemu", "vsock_port": 1})
    keep_state(tmp_path, "gone", {"backend": "qemu", "vsock_port": 1})
    keep_state(tmp_path, "old", {"backend": "qemu"})
    result = run_cli(monkeypatch, *words.split(), env={"MB_CONFIG_DIR": str(tmp_path), **env})
    assert result.code in (2, 3)
    assert result.err.startswith(f"stereosctl: {text}") or text in result.err, result
    assert "127.0.0.1:1 " not in result.err.replace("('127.0.0.1', 1)", "")


def test_a_serial_port_with_two_hosts_is_named_as_the_likely_cause():
    from stereos_proto import MalformedLine

    shared = Target("dev", VirtioSerial("/run/port"))
    assert "a serial port takes one host at a time" in shared.sentence(MalformedLine("no JSON"))
    alone = Target("dev", UnixSocket("/run/port"))
    assert "serial" not in alone.sentence(MalformedLine("no JSON"))


@pytest.mark.parametrize("command", ["wait", "secret set", "", "frob"])
def test_help_is_a_command(command, monkeypatch):
    asked = run_cli(monkeypatch, "help", *command.split())
    assert (asked.code, asked.out) == (
        run_cli(monkeypatch, *command.split(), "--help").code,
        run_cli(monkeypatch, *command.split(), "--help").out,
    )


def test_version_and_other_words_that_people_try(tmp_path, monkeypatch):
    assert run_cli(monkeypatch, "version").out == run_cli(monkeypatch, "--version").out
    with simulated_guest() as guest:
        assert "ready" in run_cli(monkeypatch, "status", str(guest.address)).out
    assert run_cli(monkeypatch, "list", env={"MB_CONFIG_DIR": str(tmp_path)}).code == 0


def test_the_help_names_every_fault(monkeypatch):
    text = " ".join(run_cli(monkeypatch, "simulate", "--help").out.split())
    *names, last = FAULTS
    assert f"{', '.join(names)} and {last}" in text, "in the order of the error and of the list"
    assert "`stereosctl simulate --list-faults` says what each does" in text


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
def test_the_list_of_faults_says_what_each_does(tty, monkeypatch):
    result = run_cli(monkeypatch, "simulate", "--list-faults", tty=tty, columns=200)
    heading, *rows = plain(result.out).splitlines()
    assert (result.code, result.err) == (0, "")
    assert heading.split("  ")[0] == "FAULT"
    assert [row.split()[0] for row in rows] == [row.form for row in fault_table()]
    for text, row in zip(rows, fault_table(), strict=True):
        assert row.effect.replace("`", "") in text
        assert text.rstrip().endswith(row.example)


def test_the_list_of_faults_fits_a_narrow_terminal(monkeypatch):
    out = plain(run_cli(monkeypatch, "simulate", "--list-faults", tty=True, columns=80).out)
    lines = [line.rstrip() for line in out.splitlines()]
    assert all(len(line) <= 80 for line in lines)
    for row in fault_table():
        assert any(line.startswith(f"{row.form} ") and line.endswith(f" {row.example}") for line in lines), row


@pytest.mark.parametrize("text", ["dorp", "late", "late:soon@ping", "never-ready@ping"])
def test_a_fault_that_is_none_is_answered_with_where_they_are_listed(text, monkeypatch):
    result = run_cli(monkeypatch, "simulate", "--fault", "drop@mount#2", "--fault", text)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"stereosctl: {text!r}")
    assert result.err.endswith("; see: stereosctl simulate --list-faults\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90), ("1.5", 1.5), (".5", 0.5), ("1e1", 10), ("60s", 60), ("2m", 120), ("500ms", 0.5)),
        *(("1h30m", 5400), ("1d", 86400), ("2min", 120), ("-1", -1)),
    ],
)  # fmt: skip
def test_durations_have_units(text, seconds):
    assert duration_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "nan", "inf", "1m2", "m5", "1 m", "--", "1,5"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="it takes a duration such as"):
        duration_of(text)


# ----------------------------------------------------------------------------------------- mb's own folders


def test_the_configuration_folder_is_mbs(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "mb").mkdir(parents=True)
    env = {"XDG_CONFIG_HOME": str(home)}
    assert config_folder(env) == home / "mb"
    (home / "mb" / "config.toml").write_text(f'config-dir = "{other}"\n')
    assert config_folder(env) == other
    assert config_folder({**env, "MB_CONFIG_DIR": "/from/env"}) == Path("/from/env")
    assert config_folder({**env, "MB_CONFIG_DIR": ""}) == other, "what is empty counts as missing"
    assert config_folder({**env, "MB_CONFIG_DIR": "/from/env"}, flag="/from/flag") == Path("/from/flag")
    (home / "mb" / "config.toml").write_text("config-dir = 5\n")
    assert config_folder(env) == home / "mb"


def test_a_config_toml_that_is_nested_too_deeply_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "mb").mkdir()
    (tmp_path / "mb" / "config.toml").write_text(f"config-dir = {'[' * 3000}")
    result = run_cli(monkeypatch, "ls", env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert (result.code, result.err) == (
        2,
        f"stereosctl: cannot read {tmp_path}/mb/config.toml: its values are nested too deeply\n",
    )


def test_a_list_of_faults_without_docstrings_says_why_it_is_short():
    result = run_process("simulate", "--list-faults", env={"PYTHONOPTIMIZE": "2"})
    heading, *rows = result.out.splitlines()
    assert (result.code, heading.split()) == (0, ["FAULT", "EXAMPLE"])
    assert [row.split()[0] for row in rows] == [row.form for row in fault_table()]
    assert "without docstrings" in result.err
    assert result.err.count("\n") == 1


def test_a_broken_config_toml_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "mb").mkdir()
    (tmp_path / "mb" / "config.toml").write_text("= broken")
    result = run_cli(monkeypatch, "ls", env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert (result.code, "config.toml" in result.err, result.err.count("\n")) == (2, True, 1), result


def test_the_folder_may_be_an_option(tmp_path, monkeypatch):
    with simulated_guest() as guest:
        keep_guest(tmp_path, "dev", guest.address)
        for words in (("ping", "--vm", "dev"), ("ping", "--all"), ("ls",), ("send", "ping", "--vm", "dev")):
            assert run_cli(monkeypatch, *words, "--config-dir", str(tmp_path)).code == 0


# ------------------------------------------------------------------------------------------ bounded rendering


def test_a_report_of_a_hundred_thousand_agents_is_drawn_at_once(monkeypatch):
    report = Health("ready", [AgentStatus("", False)] * 300_000, 1)
    with reporting(lambda _request: report) as guest:
        del guest
        start = time.process_time()
        table, more = agents_table(report.agents)
        assert len(table.rows) == MOST_AGENTS
        assert f"and {300_000 - MOST_AGENTS} more" in more.plain
    assert time.process_time() - start < 10


def test_a_megabyte_of_agents_is_shown_within_the_deadline(monkeypatch):
    line = b'{"type":"health","payload":{"state":"ready","uptime_seconds":1,"agents":[' + b",".join([b"{}"] * 300_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as host:
                host.recv(4096)
                host.sendall(line + b"]}}\n")
                while host.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        start = time.process_time()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        result = run_cli(monkeypatch, "health", address, "--timeout", "60")
        spent = time.process_time() - start
        thread.join()
    assert result.code == 0, result.err
    assert f"and {300_000 - MOST_AGENTS} more" in result.out
    assert spent < 30, "it was 57 s, most of them for drawing"


def test_cyclopts_4_is_enough():
    code = (
        "import inspect, cyclopts\n"
        "old = cyclopts.Parameter\n"
        "from stereos_proto_io.cli import _options\n"
        "_options._HAS_METAVAR = False\n"
        "shown = _options.option('--x', takes='N')\n"
        "print(shown.name)\n"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--x" in done.stdout


def test_a_name_in_brackets_is_shown_as_it_is(tmp_path, monkeypatch, capsys):
    """rich would read [fd00::1] as a style: in the address of an IPv6 guest, and in the name of a machine."""
    print_result(str(TCP("fd00::1", 4024)), "a :smile: b\x1b[2J")
    assert capsys.readouterr().out == "tcp://[fd00::1]:4024\na :smile: b\\x1b[2J\n"
    for screen in (console(), error_console()):
        screen.print("[red] :smile:")
    assert capsys.readouterr() == ("[red] :smile:\n", "[red] :smile:\n")
    with simulated_guest() as guest:
        keep_guest(tmp_path, "[red]", guest.address)
        # The shell takes a name as it is, and no pattern.
        result = run_cli(monkeypatch, "shell", "--vm", "[red]", stdin=b"ping\n", env={"MB_CONFIG_DIR": str(tmp_path)})
    assert result.out.startswith("pong from [red]  #1")


@pytest.mark.parametrize("columns", ["0", "1", "2", "-3", "x", "\u00b2", "", "9" * 5000])
def test_columns_that_make_no_sense_break_nothing(columns, tmp_path, monkeypatch):
    with simulated_guest(agents=[AgentStatus("coder", True)]) as guest:
        keep_guest(tmp_path, "dev", guest.address)
        for words in (
            "health --vm dev",
            "--help",
            "health --help",
            "ls",
            "doctor --vm dev",
            "ping --all",
            "agents --all",
        ):
            for size in (0, 1, 80):
                env = {"MB_CONFIG_DIR": str(tmp_path), "COLUMNS": columns}
                result = run_cli(monkeypatch, *words.split(), env=env, tty=True, columns=size)
                assert result.code == 0, (words, result)
                lines = plain(result.out).splitlines()
                assert lines, words
                if size == 80 and columns not in ("1", "2"):
                    assert 20 < max(map(len, lines)) <= 80, "the terminal was asked"
    assert console().size.width >= 20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (7, "7 s"), (306, "5 min 6 s"), (273_600, "3 d 4 h"), (-0.5, "0 s"),
        (-1, "-1 s"), (-3_600, "-1 h"), (-90_000, "-1 d 1 h"), (-(2**63), "-106751991167300 d 15 h"),
    ],
)  # fmt: skip
def test_an_uptime_below_zero_has_a_sign(seconds, text):
    """It is signed on the wire."""
    assert duration(seconds) == text
