"""The commands around the wire and the machine: ls, watch, record, replay, decode, doctor, shell, demo."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from cli_harness import piped, plain, run_cli, terminal
from stereos_proto import AgentStatus, Lifecycle
from stereos_proto_io import UnixSocket, Vsock
from stereos_proto_io.cli._app import make_app
from stereos_proto_io.cli._machines import find, machines, machines_folder
from stereos_proto_io.cli._shell import completions
from stereos_proto_io.testing import simulated_guest
from test_cli_commands import check

TRANSCRIPTS = sorted((Path(__file__).parent / "vectors" / "transcripts").glob("*.ndjson"))


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
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            keep_state(tmp_path, "dead", {"backend": "qemu", "vsock_port": unused.getsockname()[1]})
            env = {"MB_CONFIG_DIR": str(tmp_path)}
            table = run_cli(monkeypatch, "ls", env=env, columns=200)
            document = json.loads(run_cli(monkeypatch, "ls", "--json", env=env).out)
        assert run_cli(monkeypatch, "ping", "--vm", "alive", env=env).code == 0
        assert run_cli(monkeypatch, "ping", "--vm", "apple", env=env).code == 2
        assert "alive, apple, broken, dead" in run_cli(monkeypatch, "ping", "--vm", "../alive", env=env).err
    rows = {line.split()[0]: line for line in table.out.splitlines()}
    assert "coder, idle" in rows["alive"]
    assert all("unreachable" in rows[name] for name in ("apple", "broken", "dead"))
    check(document, "ls")
    assert [machine["health"] is not None for machine in document["machines"]] == [True, False, False, False]


def test_where_machines_are_kept(tmp_path):
    keep_state(tmp_path, "one", {"backend": "qemu", "vsock_cid": 7, "vsock_port": 1})
    assert find("one", tmp_path / "vms") == Vsock(7)
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
        assert process.end() == 130


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
    assert [line.split()[-2] for line in result.out.splitlines()] == ["→", "←"]
    assert run_cli(monkeypatch, "decode", "-", stdin=b"nonsense\n").code == 4


def test_what_is_recorded_can_be_replayed(tmp_path, monkeypatch):
    path = tmp_path / "t.ndjson"
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        with terminal("record", str(path), str(guest.address), "--listen", f"unix://{tmp_path}/p") as proxy:
            proxy.wait_for("/p")
            words = ("send", "nothing", f"unix://{tmp_path}/p")
            assert run_cli(monkeypatch, *words).code == 1
            proxy.interrupt()
            assert proxy.end() == 130
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


def test_the_shell_takes_lines_from_a_pipe(tmp_path, monkeypatch):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest, piped("shell", str(guest.address)) as process:
        out, err = process.communicate("ping\n# nothing\nfrob\nhealth --json\nmount a /etc --fs 9p\n", timeout=60)
    assert process.returncode == 1, "that of the last command"
    assert "pong from" in out
    assert '"state": "ready"' in out
    assert "Unknown command" in err


def test_completion_in_the_shell(tmp_path, monkeypatch):
    app = make_app()
    (tmp_path / "jcard.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert completions(app, [], "he") == ["health"]
    assert completions(app, ["secret"], "") == ["set"]
    assert "--timeout" in completions(app, ["health"], "--t")
    assert completions(app, ["provision"], "jc") == ["jcard.toml"]


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


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_however_the_demo_ends_its_guest_ends(signal):
    import signal as signals

    with piped("demo") as process:
        process.stdout.readline()
        while not (guests := children_of(process.pid)):
            assert process.poll() is None
        process.send_signal(getattr(signals, signal))
        process.wait(60)
        for guest in guests:
            while Path(f"/proc/{guest}/cmdline").exists() and Path(f"/proc/{guest}/cmdline").read_bytes():
                os.sched_yield()


def children_of(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
