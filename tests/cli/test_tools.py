"""The commands around the wire and the machine: ls, watch, record, replay, decode, doctor, shell, demo."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from cli.test_commands import check
from cli_harness import piped, plain, run_cli, run_process, terminal
from stereos_proto import Ack, AgentStatus, Lifecycle, encode
from stereos_proto_io import HybridVsock, UnixSocket, Vsock
from stereos_proto_io.cli._machines import find, machines, machines_folder
from stereos_proto_io.testing import simulated_guest
from waiting import until

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "vectors" / "transcripts").glob("*.ndjson"))


def keep_state(folder, name, state):
    place = folder / "vms" / name
    place.mkdir(parents=True)
    (place / "state.json").write_text(state if isinstance(state, str) else json.dumps(state))


# ------------------------------------------------------------------------------------------- ls, --vm


def test_ls_asks_every_machine(tmp_path, monkeypatch):
    with simulated_guest(agents=[AgentStatus("coder", True), AgentStatus("idle", False)]) as guest:
        keep_state(tmp_path, "alive", {"backend": "qemu", "vsock_port": guest.address.port})
        keep_state(tmp_path, "apple", {"backend": "applevirt"})
        keep_state(tmp_path, "broken", "{")
        keep_state(tmp_path, "unstarted", {"backend": "qemu", "vsock_port": 0})
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            keep_state(tmp_path, "dead", {"backend": "qemu", "vsock_port": unused.getsockname()[1]})
            env = {"MB_CONFIG_DIR": str(tmp_path)}
            table = run_cli(monkeypatch, "ls", env=env, columns=200)
            document = json.loads(run_cli(monkeypatch, "ls", "--json", env=env).out)
        assert run_cli(monkeypatch, "ping", "--vm", "alive", env=env).code == 0
        assert run_cli(monkeypatch, "ping", "--vm", "apple", env=env).code == 2
        assert "alive, apple, broken, dead, unstarted" in run_cli(monkeypatch, "ping", "--vm", "../alive", env=env).err
    rows = {line.split()[0]: line for line in table.out.splitlines()}
    assert "○idle  ●coder" in rows["alive"], "what runs is told apart without colours"
    assert "unreachable" in rows["dead"]
    assert all("no address" in rows[name] for name in ("apple", "broken"))
    assert "stopped" in rows["unstarted"], "which is nothing to be warned of"
    assert set(rows) == {"GUEST", "alive", "apple", "broken", "dead", "unstarted"}
    for name, why in (
        ("apple", "its backend, applevirt, lets in only the process that started it"),
        ("broken", "it is not JSON"),
        ("dead", "nobody listens there yet"),
    ):
        assert any(line.startswith(f"{name}: ") and why in line for line in table.err.splitlines()), table.err
    check(document, "ls")
    assert [machine["health"] is not None for machine in document["machines"]] == [True] + [False] * 4


def test_where_machines_are_kept(tmp_path):
    keep_state(tmp_path, "one", {"backend": "qemu", "vsock_cid": 7, "vsock_port": 1})
    assert find("one", tmp_path / "vms").address == Vsock(7)
    assert [machine.name for machine in machines(tmp_path / "vms")] == ["one"]
    assert machines_folder({"MB_CONFIG_DIR": "/a", "XDG_CONFIG_HOME": "/b"}) == Path("/a/vms")
    assert machines_folder({"XDG_CONFIG_HOME": "/b"}) == Path("/b/mb/vms")
    assert machines_folder({}) == Path.home() / ".config" / "mb" / "vms"


# ---------------------------------------------------------------------------------------------- watch


def test_watch_writes_a_line_per_change(tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        piped("watch", str(guest.address), "--jsonl", "-i", "0.01") as process,
    ):
        documents = [json.loads(process.stdout.readline())]
        guest.simulator.state = "degraded"
        documents.append(json.loads(process.stdout.readline()))
        guest.push(Lifecycle("healthy", "pushed"))
        documents.append(json.loads(process.stdout.readline()))
        guest.server.close()
        documents.append(json.loads(process.stdout.readline()))
        process.kill()
    for document in documents:
        check(document, "watch")
    assert [document["event"] for document in documents] == ["health", "health", "notification", "unreachable"]
    assert documents[1]["health"]["state"] == "degraded"
    assert documents[2]["notification"]["message"] == "pushed"


@pytest.mark.parametrize("columns", [60, 140])
def test_watch_draws_a_table(columns, tmp_path):
    agents = [AgentStatus("coder", True)]
    with (
        simulated_guest(UnixSocket(tmp_path / "g"), agents=agents) as guest,
        terminal("watch", str(guest.address), "-i", "0.01", columns=columns) as process,
    ):
        process.wait_for("● running")
        guest.simulator.agents = [AgentStatus("coder", False, error="it fell over")]
        process.wait_for("it fell over")
        process.interrupt()
        assert process.end() == 0


@pytest.mark.parametrize("env", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}], ids=["a pipe", "a dumb terminal"])
@pytest.mark.parametrize("command", ["watch @ -i 0.01 --timeout 0.5", "wait @ --for agent=nobody --timeout 0.5"])
def test_what_cannot_be_drawn_over_gets_lines(command, env, tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        words = [str(guest.address) if word == "@" else word for word in command.split()]
        result = run_cli(monkeypatch, *words, tty="TERM" in env, env=env)
    assert result.code == 124
    assert "\x1b[2K" not in result.all
    shown = next(line for line in plain(result.all).splitlines() if "ready" in line)
    assert len(shown) < 200


@pytest.mark.parametrize("command", ["watch @ -v -i 0.01 --timeout 0.5", "wait @ -v --for agent=nobody --timeout 0.5"])
def test_nothing_is_drawn_over_a_trace(command, tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        words = [str(guest.address) if word == "@" else word for word in command.split()]
        result = run_cli(monkeypatch, *words, tty=True)
    assert result.code == 124
    assert "→" in result.err
    assert "\x1b[2K" not in result.all, "no line is taken back"
    assert "ready" in result.all


def test_watch_names_what_has_changed_and_nothing_else(tmp_path):
    some, more = AgentStatus("coder", True), AgentStatus("tester", True)
    with (
        simulated_guest(UnixSocket(tmp_path / "g"), agents=[some]) as guest,
        piped("watch", str(guest.address), "-i", "0.01") as process,
    ):
        seen = [process.stdout.readline()]
        fallen = (
            AgentStatus("tester", False, restarts=7, error="it fell over"),
            AgentStatus("tester", True, restarts=1),
        )
        for agents in ([some, more], [some, fallen[0]], [some, fallen[1]], [some]):
            guest.simulator.agents = agents
            seen.append(process.stdout.readline())
        guest.push(Lifecycle("healthy"))
        seen.append(process.stdout.readline())
        guest.simulator.state = "degraded"
        seen.append(process.stdout.readline())
        process.kill()
    assert [line.partition("running")[2].strip() for line in seen] == [
        "●coder",
        "●tester",
        "○tester, 7 restarts: it fell over",
        "●tester, 1 restart",
        "tester is no more",
        "",
        "",
    ]
    assert "pushed" in seen[5], "and the next is no repetition of what was before"
    assert "degraded" in seen[6]


def test_many_agents_leave_room_for_the_changes(tmp_path):
    agents = [AgentStatus(f"agent{n}", n != 77) for n in range(100)]
    with (
        simulated_guest(UnixSocket(tmp_path / "g"), agents=agents) as guest,
        terminal("watch", str(guest.address), "-i", "0.01") as process,
    ):
        process.wait_for("more")
        process.interrupt()
        assert process.end() == 0
    screen = plain(process.seen)
    assert "agent77" in screen, "that which does not run is shown before those that do"
    assert "and 92 more" in screen
    assert "Changes" in screen


def test_a_push_does_not_hide_the_guest(tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "g"), agents=[AgentStatus("coder", True)]) as guest,
        terminal("watch", str(guest.address), "-i", "600") as process,
    ):
        process.wait_for("● running")
        process.seen = ""
        guest.push(Lifecycle("degraded", "pushed"))
        process.wait_for("pushed  lifecycle")
        process.wait_for("Ctrl-C ends this.")
        assert "● running" in plain(process.seen)
        process.interrupt()
        assert process.end() == 0
        assert "interrupted" not in plain(process.seen), "Ctrl-C is its ordinary end"


# ------------------------------------------------------------------------------ record, replay, decode


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_decode_reads_the_references_transcripts(path, monkeypatch):
    shown = run_cli(monkeypatch, "decode", str(path))
    lines = run_cli(monkeypatch, "decode", str(path), "--jsonl")
    documents = [json.loads(line) for line in lines.out.splitlines()]
    for document in documents:
        check(document, "decode")
    faulty = any(document["error"] for document in documents)
    assert (shown.code, lines.code) == ((4, 4) if faulty else (0, 0))
    assert shown.out.count("→") + shown.out.count("←") >= len([d for d in documents if d["line"]])


def test_decode_reads_bare_lines(monkeypatch):
    result = run_cli(monkeypatch, "decode", "-", stdin=b'{"type":"ping"}\n{"type":"pong"}\n')
    assert result.out.splitlines() == ['→ {"type":"ping"}', '← {"type":"pong"}'], "no times, where nobody knows them"
    lines = run_cli(monkeypatch, "decode", "-", "--jsonl", stdin=b'{"type":"ping"}\n')
    assert json.loads(lines.out)["ms"] is None
    check(json.loads(lines.out), "decode")
    assert run_cli(monkeypatch, "decode", "-", stdin=b"nonsense\n").code == 4


@pytest.mark.parametrize("end", [b"\r", b"\x0b", b"\x0c", b"\x1c", "\x85".encode(), "\u2028".encode()])
def test_decode_takes_nothing_but_a_newline_for_the_end_of_a_line(end, monkeypatch):
    ping = b'{"type":"ping"}'
    result = run_cli(monkeypatch, "decode", "-", "--jsonl", stdin=ping + end + ping + b"\n" + ping)
    documents = [json.loads(line) for line in result.out.splitlines()]
    assert [document["error"] is not None for document in documents] == [True, False], "as a guest reads them"
    assert (result.code, result.err) == (4, "stereosctl: 1 line breaks the protocol\n")


def test_what_is_recorded_can_be_replayed(tmp_path, monkeypatch):
    path = tmp_path / "t.ndjson"
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        with terminal("record", str(path), str(guest.address), "--listen", f"unix://{tmp_path}/p") as proxy:
            proxy.wait_for("/p")
            words = ("send", "nothing", f"unix://{tmp_path}/p")
            assert run_cli(monkeypatch, *words).code == 1
            proxy.interrupt()
            assert proxy.end() == 0
        again = run_cli(monkeypatch, "record", str(path), str(guest.address))
        assert again.code == 2, "a transcript is never written over"
        same = run_cli(monkeypatch, "replay", str(path), str(guest.address), "--json")
        check(json.loads(same.out), "replay")
        assert same.code == 0
    with simulated_guest(types=["nothing"]) as other:
        different = run_cli(monkeypatch, "replay", str(path), str(other.address), "--json")
        check(json.loads(different.out), "replay")
        assert different.code == 1
        assert json.loads(different.out)["requests"][0]["outcome"] == "different"


def test_decode_tells_what_was_left_out_from_what_is_wrong(tmp_path, monkeypatch):
    path = tmp_path / "t.ndjson"
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        terminal("record", str(path), str(guest.address), "--listen", f"unix://{tmp_path}/p") as proxy,
    ):
        proxy.wait_for("/p")
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(f"{tmp_path}/p")
            host.sendall(b"nonsense\nnonsense\n")
            host.shutdown(socket.SHUT_WR)
            while host.recv(65536):
                pass
        proxy.interrupt()
        assert proxy.end() == 0
    result = run_cli(monkeypatch, "decode", str(path))
    assert result.out.count("was no request, and was left out of the recording") == 2
    assert {"→ connect", "→ close", "← close"} <= {line.split(" s ")[1] for line in result.out.splitlines()}
    assert (result.code, result.err) == (4, "stereosctl: 2 lines break the protocol\n")


@pytest.mark.parametrize("fault", ["no folder", "not ours", "exists"])
def test_a_recording_that_cannot_begin_leaves_nothing_behind(fault, tmp_path, monkeypatch):
    path, listen = tmp_path / "t.ndjson", f"unix://{tmp_path}/p"
    if fault == "no folder":
        path = tmp_path / "nowhere" / "t.ndjson"
    elif fault == "exists":
        path.write_text("kept")
    else:
        listen = f"unix://{tmp_path}/nowhere/p"
    result = run_cli(monkeypatch, "record", str(path), "tcp://127.0.0.1:1", "--listen", listen)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert {each.name for each in tmp_path.iterdir()} == ({"t.ndjson"} if fault == "exists" else set())


def test_a_terminated_recording_removes_its_socket(tmp_path):
    listen = f"unix://{tmp_path}/p"
    with piped("record", str(tmp_path / "t.ndjson"), "tcp://127.0.0.1:1", "--listen", listen) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 0
    assert not (tmp_path / "p").exists()


def test_replay_shows_what_differs_and_what_it_skips(tmp_path, monkeypatch):
    lines = [
        {"meta": True},
        {"conn": 0, "ms": 0, "dir": "c2s", "b64": "eyJ0eXBlIjoicGluZyJ9Cg=="},
        {"conn": 0, "ms": 0, "dir": "s2c", "b64": base64.b64encode(encode(Ack("ping", False, "no"))).decode()},
        {"conn": 0, "ms": 0, "dir": "c2s", "b64": base64.b64encode(b"[redacted] 3 bytes\n").decode()},
    ]
    path = tmp_path / "t.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "replay", str(path), str(guest.address))
    assert (result.code, result.err) == (1, "0 same, 1 different, 1 skipped\n")
    assert result.out.splitlines()[0] == "✗ ping"
    assert '    recorded  {"type": "ack", "reply_to": "ping", "ok": false, "error": "no"}' in result.out
    assert '    answered  {"type": "pong"}' in result.out
    assert "– ?  skipped: its content was left out of the recording" in result.out


def test_replay_sends_nothing_that_was_redacted(tmp_path, monkeypatch):
    path = tmp_path / "t.ndjson"
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        terminal("record", str(path), str(guest.address), "--listen", f"unix://{tmp_path}/p") as proxy,
    ):
        proxy.wait_for("/p")
        run_cli(monkeypatch, "secret", "set", "A", f"unix://{tmp_path}/p", stdin=b"value")
        proxy.interrupt()
        proxy.end()
    with simulated_guest() as other:
        result = run_cli(monkeypatch, "replay", str(path), str(other.address), "--json")
        assert [row["outcome"] for row in json.loads(result.out)["requests"]] == ["skipped"]
        assert other.simulator.requests == ()


# ------------------------------------------------------------------------------------- doctor, shell


@pytest.mark.parametrize(
    ("address", "faults", "step", "code"),
    [
        (None, [], "address", 2),
        ("nobody", [], "dial", 3),
        ("@", ["cut:0"], "probe", 3),
        ("@", ["garbage@ping"], "probe", 4),
        ("@", ["stall@ping"], "probe", 124),
        ("@", ["fail:unknown message type: get_health@get_health"], "health", 1),
    ],
)
def test_the_doctor_names_the_step(address, faults, step, code, tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g"), faults=faults) as guest:
        places = {"@": [str(guest.address)], "nobody": [f"unix://{tmp_path}/nobody"], None: []}
        result = run_cli(monkeypatch, "doctor", *places[address], "--json", "--timeout", "0.5")
    document = json.loads(result.out)
    check(document, "doctor")
    assert result.code == code
    assert document["steps"][-1]["step"] == step
    assert document["steps"][-1]["remedy"]


def test_the_doctor_runs_from_the_sources(tmp_path):
    """Also where nothing is installed: a copy of the sources, and a path."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "def version(name):\n    raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
    )
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
        result = run_process("doctor", str(guest.address), env=env)
    assert (result.code, "running from a source checkout" in result.out) == (0, True), result
    assert run_process("--version", env=env).code == 0


def unknown_name(*_args, **_options):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("tcp://127.0.0.1:{closed}", "start the virtual machine"),
        ("tcp://nobody.invalid:1024", "look at the host's name"),
        ("unix://{folder}/nothing", "look at the path"),
        ("unix://{folder}", "start the virtual machine"),
        ("hvsock://{folder}/g:1024", "look at the port, and at the kind of the address"),
        ("hvsock://{folder}/m:1025", "nobody listens at its end yet"),
        (
            "unix://{folder}/m",
            (
                "→ if this is a hybrid-vsock socket (Firecracker, Cloud Hypervisor), use hvsock://{folder}/m:1024; "
                "if it is not, nobody listens at its end yet: `stereosctl wait` dials until it does"
            ),
        ),
        ("unix://{folder}/once", "it answered ping, and then closed the connection: run this again"),
    ],
)
def test_the_doctor_says_what_to_do(address, remedy, tmp_path, monkeypatch):
    with (
        simulated_guest(UnixSocket(tmp_path / "g")),
        simulated_guest(HybridVsock(tmp_path / "m", 1024)),
        simulated_guest(UnixSocket(tmp_path / "once"), faults=["close@ping"]),
        socket.socket() as unused,
    ):
        unused.bind(("127.0.0.1", 0))
        if "invalid" in address:  # nobody is asked for it
            monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
        address = address.format(folder=tmp_path, closed=unused.getsockname()[1])
        result = run_cli(monkeypatch, "doctor", address, "--timeout", "5")
    assert result.code == 3
    assert remedy.format(folder=tmp_path) in result.out.splitlines()[-1]
    assert f"cannot connect to {address}" not in result.out, "the address stands two lines above"


@pytest.mark.parametrize(
    ("state", "runs", "remedy"), [("booting", True, "stereosctl wait"), ("ready", False, "stereosctl agents")]
)
def test_the_doctor_notes_a_guest_that_is_not_well(state, runs, remedy, tmp_path, monkeypatch):
    with simulated_guest(agents=[AgentStatus("a", runs)]) as guest:
        guest.simulator.state = state
        result = run_cli(monkeypatch, "doctor", str(guest.address))
    assert result.code == 0
    assert "• health" in result.out
    assert remedy in result.out.splitlines()[-1]


def test_the_shell_takes_lines_from_a_pipe(tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, piped("shell", str(guest.address)) as process:
        out, err = process.communicate("ping\n# nothing\nfrob\nhealth --json\nmount a /etc --fs 9p\n", timeout=60)
    assert process.returncode == 1, "that of the last command"
    assert "pong from" in out
    assert '"state": "ready"' in out
    assert "there is no command" in err


def test_an_interrupted_pipe_is_not_read_on(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, piped("shell", str(guest.address)) as process:
        process.stdin.write("ping -c 0 -i 0.01\nhealth\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT
        assert not any(request.type == "get_health" for request in guest.simulator.requests)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('health "unclosed', "this line is no command: a quotation mark in it is not closed"),
        ("health 'unclosed", "this line is no command: a quotation mark in it is not closed"),
        ("health \\", "this line is no command: nothing follows the backslash at its end"),
        (
            "health | sort",
            "this line is no command: there are no pipes, lists and redirections here; quote a | that means itself",
        ),
        ("shell", "this is a shell already: `exit` leaves it"),
    ],
)
def test_a_line_of_the_shell_that_makes_no_sense_is_an_error_like_others(line, sentence, tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        plain_, as_json, after = (
            run_cli(monkeypatch, "shell", str(guest.address), stdin=lines.encode())
            for lines in (line, line.replace("health", "health --json"), f"{line}\nping")
        )
    assert (plain_.code, plain_.out, plain_.err) == (2, "", f"stereosctl: {sentence}\n")
    assert (after.code, "pong" in after.out, after.err) == (0, True, plain_.err), "the shell goes on"
    if "health" in line:
        document = json.loads(as_json.out)
        check(document, "error")
        assert (document["error"], document["kind"]) == (sentence, "UsageError")


def test_a_number_sign_within_a_word_begins_no_comment(tmp_path, monkeypatch):
    with (
        simulated_guest(UnixSocket(tmp_path / "vm")) as one,
        simulated_guest(UnixSocket(tmp_path / "vm#2")) as other,
    ):
        run_cli(monkeypatch, "shell", str(one.address), stdin=f"ping {other.address} # {one.address}\n".encode())
        assert (len(one.simulator.requests), len(other.simulator.requests)) == (0, 1)


def test_a_shell_that_nobody_hears_does_nothing_more(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, piped("shell", str(guest.address)) as process:
        process.stdout.close()
        process.stdin.write("health\nmount a /b --fs 9p\n")
        process.stdin.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
        assert guest.simulator.mounts == ()


def test_the_prompt_is_no_result(tmp_path):
    out = tmp_path / "out"
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        terminal("shell", str(guest.address), out=out, env={"XDG_STATE_HOME": str(tmp_path)}, columns=300) as shell,
    ):
        for line in ("health --json", "exit"):
            shell.wait_for("g> ")
            shell.seen = ""
            shell.type(f"{line}\n")
        assert shell.end() == 0
    assert json.loads(out.read_text())["state"] == "ready"


def test_shells_share_their_history(tmp_path):
    env = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        terminal("shell", str(guest.address), env=env, columns=300) as first,
        terminal("shell", str(guest.address), env=env, columns=300) as second,
    ):
        for shell, line, shown in (
            (first, "ping", "pong from"),
            (second, "health", "no agents"),
            (first, "send get_health", "no agents"),
            (first, "agents", "has no agents"),
            (second, "frobnicate", "there is no command"),
        ):
            shell.wait_for("g> ")
            shell.seen = ""
            shell.type(f"{line}\n")
            shell.wait_for(shown)
            shell.wait_for("g> ")
        first.process.kill()
        second.type("exit\n")
        second.end()
    assert (tmp_path / "stereosctl" / "history").read_text().split() == ["ping", "health", "agents"]


# ------------------------------------------------------------------------------------- simulate, demo


def test_an_attached_simulator_ends_with_its_parent():
    with piped("simulate", "--attached", "--quiet") as process:
        assert process.stdout.readline().startswith("tcp://127.0.0.1:")
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_terminated_simulator_removes_its_socket(tmp_path):
    with piped("simulate", "--listen", f"unix://{tmp_path}/g") as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 0
    assert not (tmp_path / "g").exists()


def test_the_demo_from_beginning_to_end():
    with terminal("demo", columns=80) as process:
        assert process.end() == 0
    text = plain(process.seen)
    for part in ("A guest boots", "✓ secret GITHUB_TOKEN", "✓ config", "2 of 2 agents running", "Next:"):
        assert part in text
    assert "hello, guest" not in text


def test_the_demo_without_a_terminal_leaves_nothing_behind(tmp_path):
    with piped("demo", env={"TMPDIR": str(tmp_path)}) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "\x1b" not in out + err
    assert "state booting" in err
    assert children_of(process.pid) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_however_the_demo_ends_its_guest_ends(number):
    with piped("demo") as process:
        process.stdout.readline()
        guests = until(lambda: children_of(process.pid), process)
        process.send_signal(number)
        process.wait(60)
        for guest in guests:
            while Path(f"/proc/{guest}/cmdline").exists() and Path(f"/proc/{guest}/cmdline").read_bytes():
                os.sched_yield()


def children_of(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
