"""Mistakes on the command line, in files and in folders: a sentence that says what to do, and never a traceback."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest

from cli.fleets import fleet, keep_guest, keep_state
from cli.test_commands import check
from cli_harness import plain, run_cli, terminal
from stereos_proto import AgentStatus, UnknownMessage
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._documents import message_document
from stereos_proto_io.cli._machines import natural
from stereos_proto_io.cli._shell import history_file
from stereos_proto_io.cli._tree import COMMANDS, make_app
from stereos_proto_io.testing import simulated_guest

HUGE = "9" * 400


# --------------------------------------------------------------------------------------------- home and mb's folder


@pytest.fixture
def homeless(monkeypatch):
    """A user that the system does not know, without HOME."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_an_address_is_enough(monkeypatch):
    with simulated_guest() as guest:
        for words in (["ping"], ["health"], ["doctor"], ["send", "ping"]):
            assert run_cli(monkeypatch, *words, str(guest.address)).code == 0
    assert history_file() == Path(os.devnull), "a shell without a history"


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("command", ["ls", "health --vm dev", "health --all", "health --vm d*", "send ping --vm dev"])
def test_without_a_home_folder_machines_are_found_by_an_option(command, tmp_path, monkeypatch):
    result = run_cli(monkeypatch, *command.split())
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "stereosctl: cannot find mb's configuration folder: '~' leads to no home folder; "
        "give --config-dir DIR, or set MB_CONFIG_DIR\n"
    )
    with simulated_guest() as guest:
        keep_guest(tmp_path, "dev", guest.address)
        assert run_cli(monkeypatch, *command.split(), "--config-dir", str(tmp_path)).code == 0


def test_a_folder_of_an_unknown_user_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "mb").mkdir()
    (tmp_path / "mb" / "config.toml").write_text('config-dir = "~nosuchuser/mb"\n')
    result = run_cli(monkeypatch, "ls", env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert result.code == 2
    assert f"'~nosuchuser/mb' in {tmp_path}/mb/config.toml leads to no home folder" in result.err


def denied(*_args, **_options):
    raise PermissionError(13, "Permission denied")


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    keep_state(tmp_path, "dev", "{}")
    monkeypatch.setattr(Path, "iterdir", denied)
    for words in (["ls"], ["ping", "--all"], ["ping", "--vm", "d*"], ["ping", "--vm", "other"]):
        result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
        assert (result.code, result.out) == (2, "")
        assert result.err == f"stereosctl: cannot list {tmp_path}/vms: Permission denied\n"


def test_a_machine_that_may_not_be_read_is_a_row(tmp_path, monkeypatch):
    keep_state(tmp_path, "dev", "{}")
    for name, real in (("stat", Path.stat), ("open", Path.open)):
        monkeypatch.setattr(
            Path,
            name,
            lambda path, *args, real=real, **kw: denied() if path.name == "state.json" else real(path, *args, **kw),
        )
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    row = json.loads(run_cli(monkeypatch, "ls", "--json", env=env).out)["machines"][0]
    assert (row["name"], row["state"]) == ("dev", "no address")
    assert "Permission denied" in row["error"]["error"]
    named = run_cli(monkeypatch, "ping", "--vm", "dev", env=env)
    assert (named.code, "Permission denied" in named.err) == (2, True)


def test_a_name_that_no_file_can_have_is_no_machine(tmp_path, monkeypatch):
    keep_state(tmp_path, "dev", "{}")
    result = run_cli(monkeypatch, "ping", "--vm", "x" * 300, env={"MB_CONFIG_DIR": str(tmp_path)})
    assert (result.code, "there is no virtual machine" in result.err) == (2, True)


def test_names_are_sorted_as_people_count(tmp_path, monkeypatch):
    assert sorted(["a10b", "web-11", "web-10", "web-010", "web-2", "db", "a9c"], key=natural) == [
        *("a9c", "a10b", "db", "web-2", "web-010", "web-10", "web-11"),
    ]
    with fleet(tmp_path, {"web-10": {}, "web-2": {}, "web-1": {}}):
        env = {"MB_CONFIG_DIR": str(tmp_path)}
        for words in (["ls"], ["ping", "--all"], ["ping", "--vm", "web-*"]):
            result = run_cli(monkeypatch, *words, "-o", "name", env=env)
            assert result.out.split() == ["web-1", "web-2", "web-10"]
        assert "there are: web-1, web-2, web-10" in run_cli(monkeypatch, "ping", "--vm", "x", env=env).err
        with terminal("watch", "--all", "-i", "0.05", env=env) as it:
            it.wait_for("web-10")
            it.type("q")
            assert it.end() == 0
        last = it.seen[it.seen.rindex("\x1b[?1049l") :]
        assert last.index("web-2") < last.index("web-10")


@pytest.mark.parametrize("command", ["provision j.toml @", "provision j.toml --dry-run", "provision --jcard @=j.toml"])
def test_a_working_folder_that_was_removed_is_a_sentence(command, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, *command.replace("@", str(guest.address)).split())
        assert guest.simulator.requests == ()
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "stereosctl: j.toml: cannot be read: the working folder cannot be found (No such file or directory); "
        "change into another folder, or give the whole path of the file\n"
    )


# ------------------------------------------------------------------------------------------------- numbers in files


@pytest.mark.parametrize("entry", ['"conn":1e400,"ms":0', f'"conn":0,"ms":{HUGE}', '"conn":0,"ms":NaN'])
@pytest.mark.parametrize("command", ["decode", "decode --jsonl", "replay"])
def test_a_transcript_with_a_number_that_is_none_is_refused(entry, command, tmp_path, monkeypatch):
    path = tmp_path / "t.ndjson"
    path.write_text('{"meta":true}\n{"dir":"c2s","b64":"eyJ0eXBlIjoicGluZyJ9Cg==",' + entry + "}\n")
    words = [*command.split(), str(path), *(["tcp://127.0.0.1:1"] if command == "replay" else [])]
    result = run_cli(monkeypatch, *words)
    assert (result.code, "conn" in result.out) == (2, False)
    assert result.err == f"stereosctl: {path}, line 2: no entry of a transcript (ValueError)\n"


@pytest.mark.parametrize("booted", [HUGE, "1e400", "NaN", "-Infinity"])
def test_a_journal_with_a_number_that_is_none_is_refused(booted, tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    book = tmp_path / "book"
    book.write_text(f'{{"guest": "tcp://127.0.0.1:1", "booted": {booted}, "steps": {{"config": "not sent"}}}}\n')
    result = run_cli(monkeypatch, "provision", str(tmp_path / "j.toml"), "--resume", str(book))
    assert (result.code, result.out) == (2, "")
    assert result.err == f"stereosctl: {book} is no journal of provision: see its line 1\n"


def test_a_guest_s_number_that_json_cannot_write_is_null():
    message = UnknownMessage("x", {"a": [float("inf"), 1.5, {"b": float("-inf")}], "c": "text"})
    document = message_document(message)
    assert document["payload"] == {"a": [None, 1.5, {"b": None}], "c": "text"}
    check(document, "message")


# ------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("health 127.0.0.1:23701", "'127.0.0.1:23701' is no address; did you mean tcp://127.0.0.1:23701?"),
        ("health [::1]:1024", "'[::1]:1024' is no address; did you mean tcp://[::1]:1024?"),
        ("health web.local:1024", "'web.local:1024' is no address; did you mean tcp://web.local:1024?"),
        ("send ping {} /run/vm.sock", None),
        ("health /run/vm.sock", "'/run/vm.sock' is no address; did you mean unix:///run/vm.sock?"),
        ("ping frob", "'frob' is no address; an address looks like tcp://HOST"),
        ("ping ho$t%", "the text in the place of the guest's address is no address, and is not shown; an address"),
        (
            "secret set A s3cret",
            "a secret's value is never an argument: give it on standard input, or by --file or --env; an address",
        ),
        ("secret set A s3cret:80", "a secret's value is never an argument: give it on standard input"),
        ("send rotate 1 s3cret", "a payload with a secret is never an argument: give it on standard input (send TYPE"),
        ("secret set A dev", "'dev' is no address, but a virtual machine of mb's: --vm dev"),
    ],
)
def test_a_text_that_is_no_address_is_answered_with_what_was_meant(words, sentence, tmp_path, monkeypatch):
    keep_state(tmp_path, "dev", {"backend": "qemu", "vsock_port": 1})
    result = run_cli(monkeypatch, *words.split(), stdin=b"x", env={"MB_CONFIG_DIR": str(tmp_path)})
    assert (result.code, result.out) == (2, "")
    assert sentence is None or result.err.startswith(f"stereosctl: {sentence}")
    assert "s3cret" not in result.err
    assert "$" not in result.err


#: Every command with a word before the address: a line in which that word was forgotten, and what is said.
FORGOTTEN = {
    "mount": ("share0 @ --fs 9p", "PATH is missing: @ looks like an address"),
    "mount ": ("share0 @", "PATH is missing: @ looks like an address"),
    "mount  ": ("@ --fs 9p --read-only", "TAG and PATH are missing: @ looks like an address"),
    "mount   ": ("--fs 9p @ share0 /w", "TAG comes before the address: @ looks like an address"),
    "config set": ("@", "FILE is missing: @ looks like an address"),
    "ssh-key add": ("--user admin @", "FILE is missing: @ looks like an address"),
    "secret set": ("@ --env HOME", "NAME is missing: the text in its place looks like an address"),
    "send": ("@", "TYPE is missing: the text in its place looks like an address"),
    "send ": ("@ ping", "TYPE comes before the address: the text in its place looks like an address"),
    "record": ("@", "OUTPUT is missing: @ looks like an address"),
    "record ": ("-- @ out.ndjson", "OUTPUT comes before the address: @ looks like an address"),
    "replay": ("@ --conn 1", "FILE is missing: @ looks like an address"),
    "decode": ("@", "FILE is missing: @ looks like an address"),
}


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["", "json"])
@pytest.mark.parametrize(("command", "line", "sentence"), [(name, *FORGOTTEN[name]) for name in FORGOTTEN])
def test_an_address_in_the_place_of_another_word_is_not_taken_for_it(
    command, line, sentence, flags, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with simulated_guest() as guest, simulated_guest() as other:
        place = str(guest.address)
        words = (*command.split(), *flags, *line.replace("@", place).split())
        result = run_cli(monkeypatch, *words, stdin=b"x", env={"STEREOS_ADDRESS": str(other.address)})
        assert (guest.simulator.requests, other.simulator.requests) == ((), ())
    said = f"{sentence.replace('@', place)}; see: stereosctl {command.strip()} --help"
    assert (result.code, result.err) == (2, f"stereosctl: {said}\n")
    assert result.out == "" if not flags else json.loads(result.out)["error"] == said
    assert list(tmp_path.iterdir()) == []


def test_every_command_with_a_word_before_the_address_is_in_the_table():
    app, before = make_app(), set()
    for name in COMMANDS:
        command = app
        for word in name.split():
            command = command[word]
        parameters = inspect.signature(command.default_command).parameters.values()
        if any(each.kind is each.POSITIONAL_ONLY and each.default is each.empty for each in parameters):
            before.add(name)
    assert {name.strip() for name in FORGOTTEN} == before - {"completion"}, "completion names the shells"


def test_words_that_look_like_addresses_elsewhere_are_taken(tmp_path, monkeypatch):
    with simulated_guest() as guest:
        place = str(guest.address)
        for words in (
            ("send", "ping", place),
            ("mount", "--fs", "9p", "share0", "/w", place),
            ("mount", "share0", "/w", "--fs", "9p", f"--address={place}"),
            ("shutdown", place, "--reason", "tcp://moved"),
        ):
            assert run_cli(monkeypatch, *words).code == 0, words
    assert "Usage: stereosctl mount TAG PATH" in run_cli(monkeypatch, "mount", "share0", "tcp://h:1", "--help").out


@pytest.mark.parametrize("type_", ["ping", "get_health"])
@pytest.mark.parametrize(
    ("payload", "taken"),
    [('{"a":1}', False), ("[1]", False), ('"x"', False), ("0", False), ("false", False), ("{}", True), ("null", True)],
)
def test_a_payload_for_a_type_that_takes_none_is_refused(type_, payload, taken, monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "send", type_, payload, str(guest.address))
        assert bool(guest.simulator.requests) == taken
    if taken:
        assert result.code == 0
    else:
        sentence = f"stereosctl: {type_} takes no payload: leave it out (send {type_})\n"
        assert (result.code, result.out, result.err) == (2, "", sentence)


def test_the_doctor_without_a_guest_gives_its_advice_once(monkeypatch):
    result = run_cli(monkeypatch, "doctor")
    assert result.code == 2
    assert result.out.count("`stereosctl ls` lists mb's virtual machines") == 1
    step = json.loads(run_cli(monkeypatch, "doctor", "--json").out)["steps"][-1]
    assert (step["step"], step["status"], "stereosctl ls" in step["seen"]) == ("address", "failed", False)
    assert step["remedy"].endswith("`stereosctl simulate` makes a guest to try")
    named = run_cli(monkeypatch, "doctor", "--vm", "nowhere")
    assert (named.code, named.out.count("`stereosctl ls` lists")) == (2, 1), "where the sentence does not say it"


@pytest.mark.parametrize("value", ["5", "true", "false", "", "s3cret"])
@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("ping @", "--json"),
        ("ping @", "-v"),
        ("ping @", "--all"),
        ("secret set NAME @", "--json"),
        ("mount a /b @ --fs 9p", "--read-only"),
        ("simulate", "--quiet"),
        ("simulate", "-q"),
    ],
)
def test_a_flag_takes_no_value(command, flag, value, monkeypatch):
    with simulated_guest() as guest:
        words = [*command.replace("@", str(guest.address)).split(), f"{flag}={value}"]
        result = run_cli(monkeypatch, *words, stdin=b"x")
        assert guest.simulator.requests == ()
    name = " ".join(words[:2] if words[0] == "secret" else words[:1])
    sentence = f"{flag} takes no value: give it alone, or leave it out; see: stereosctl {name} --help"
    assert (result.code, result.err) == (2, f"stereosctl: {sentence}\n")
    if flag == "--json":
        assert json.loads(result.out)["error"] == sentence


def test_what_looks_like_a_flag_with_a_value_may_be_a_value(monkeypatch):
    with simulated_guest() as guest:
        assert run_cli(monkeypatch, "send", "x=y", str(guest.address)).code == 1
        result = run_cli(monkeypatch, "ping", str(guest.address), "-o=template={name}=", "--count=2", "--interval=0")
    assert (result.code, result.out.strip()) == (0, f"{guest.address}=")


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("secret set NAME @", "write the value to it, or give --file FILE or --env VARIABLE"),
        ("config set - @", "write the file to it, or name a file instead of -"),
        ("ssh-key add - @ --user admin", "write the file to it, or name a file instead of -"),
        ("provision - @", "write the file to it, or name a file instead of -"),
        ("provision j.toml @ --ssh-key -", "write the file to it, or name a file instead of -"),
        ("replay - @", "write the file to it, or name a file instead of -"),
        ("decode -", "write the file to it, or name a file instead of -"),
        ("send inject_secret - @", "write the payload to it, as JSON"),
        ("send mount - @", "write the payload to it, as JSON, or give it in the place of -"),
    ],
)
def test_an_empty_standard_input_is_answered_with_the_other_ways(words, instead, tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    monkeypatch.chdir(tmp_path)
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, *words.replace("@", str(guest.address)).split())
        assert guest.simulator.requests == ()
    sentence = f"cannot read standard input: it is empty, or closed; {instead}"
    assert (result.code, result.out, result.err) == (2, "", f"stereosctl: {sentence}\n")


@pytest.mark.parametrize("words", ["secret get NAME", "secret get", "secret list @", "secret show NAME @ --json"])
def test_a_secret_cannot_be_read_back(words, monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, *words.replace("@", str(guest.address)).split())
        assert guest.simulator.requests == ()
    sentence = (
        "a secret cannot be read back: a guest never sends one; "
        "`stereosctl secret set NAME` replaces it, and a reboot of the guest removes it"
    )
    assert (result.code, result.err) == (2, f"stereosctl: {sentence}\n")
    if "--json" in words:
        document = json.loads(result.out)
        check(document, "error")
        assert (document["error"], document["kind"]) == (sentence, "UsageError")


def test_an_address_may_be_written_in_several_ways(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    with simulated_guest() as guest:
        port = guest.address.port
        for place, written in (
            (f"tcp://127.0.0.1:{port}", f"TCP://127.0.0.1:{port}/"),
            (f"TCP://127.0.0.1:{port}/",) * 2,
        ):
            result = run_cli(monkeypatch, "provision", place, "--jcard", f"{written}={tmp_path}/j.toml")
            assert result.code == 0, result
        assert run_cli(monkeypatch, "provision", "--jcard", f"tcp://127.0.0.1:0{port}={tmp_path}/j.toml").code == 0
        twice = ("--jcard", f"TCP://127.0.0.1:{port}={tmp_path}/j.toml")
        result = run_cli(monkeypatch, "provision", *twice, *twice)
        assert (result.code, "names tcp://127.0.0.1" in result.err) == (2, True), result
    with simulated_guest(UnixSocket(tmp_path / "a")), simulated_guest(UnixSocket(tmp_path / "b")):
        words = (f"unix://{tmp_path}/a", f"unix://{tmp_path}/b", "--look", f"UNIX://{tmp_path}/b")
        with terminal("watch", *words) as it:
            it.wait_for("Esc goes back")
            it.interrupt()
            assert it.end() == 0


# ----------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("words", ["--json", "-o json", "-o name", "-o template={nome}", "-o template={name}"])
def test_ls_that_goes_on_refuses_what_watch_refuses(words, tmp_path, monkeypatch):
    with fleet(tmp_path, {"dev": {}}):
        result = run_cli(monkeypatch, "ls", "-w", *words.split(), env={"MB_CONFIG_DIR": str(tmp_path)})
    assert result.code == 2
    assert "ls -w goes on until Ctrl-C: it prints -o jsonl, or for people" in result.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--timeout", "3"],
            (
                "--timeout is for one look, and ls -w looks until Ctrl-C; "
                "`stereosctl watch --all --timeout DURATION` ends when its time is up"
            ),
        ),
        (["--timeout", "0"], "--timeout must be more than 0 seconds, not 0"),
        *(
            (
                ["--state", "ready", "--state", state],
                (
                    f"--state {written} is for machines whose guest does not answer, and ls -w watches guests: "
                    f"`stereosctl ls --state {written}` lists them once, and ls -w takes one of "
                    "booting, ready, healthy, degraded, shutdown"
                ),
            )
            for state, written in (("stopped", "stopped"), ("unreachable",) * 2, ("no address", "'no address'"))
        ),
    ],
)
def test_ls_that_goes_on_says_what_to_use_instead(words, sentence, tmp_path, monkeypatch):
    with fleet(tmp_path, {"dev": {}}) as guests:
        result = run_cli(monkeypatch, "ls", "-w", *words, env={"MB_CONFIG_DIR": str(tmp_path)})
        assert guests["dev"].simulator.requests == ()
    assert (result.code, result.out, result.err) == (2, "", f"stereosctl: {sentence}\n")


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
@pytest.mark.parametrize("words", ["--vm dev", "--all", "--vm dev --jsonl", "--all -v"])
def test_a_look_at_a_guest_that_is_not_watched_is_refused(words, tty, tmp_path, monkeypatch):
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    watch = ("watch", *words.split(), "--timeout", "0.3")
    with fleet(tmp_path, {"dev": {}}) as guests:
        result = run_cli(monkeypatch, *watch, "--look", "web", env=env, tty=tty)
        assert guests["dev"].simulator.requests == ()
        assert (result.code, plain(result.out) if "--jsonl" not in words else "") == (2, "")
        assert plain(result.err) == "stereosctl: --look names web, which is not among the guests\n"
        assert run_cli(monkeypatch, *watch, "--look", "dev", env=env, tty=tty).code == 124, "the time is up"


def test_a_look_at_a_guest_in_another_state_is_refused(tmp_path, monkeypatch):
    with fleet(tmp_path, {"a": {}, "b": {}}) as guests:
        guests["b"].simulator.state = "healthy"
        words = ("watch", "--all", "--state", "ready", "--look", "b", "--timeout", "30")
        result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith("stereosctl: --look names b, which is not among the guests\n")


def test_ls_that_goes_on_writes_lines_of_json(tmp_path):
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    with (
        fleet(tmp_path, {"dev": {"agents": [AgentStatus("coder", True)]}}),
        terminal("ls", "-w", "-o", "jsonl", env=env, columns=1000) as it,
    ):
        it.wait_for("}\n")
        it.interrupt()
        assert it.end() == 0
    check(json.loads(it.seen.splitlines()[0]), "watch")


@pytest.mark.parametrize(
    "words",
    [
        "--vm nope",
        "--vm dev --jcard other=JCARD",
        "--jcard dev=JCARD --vm dev --vm dev2",
        "tcp://127.0.0.1:x",
        "127.0.0.1:1",
        "--vm dev --timeout 0",
        "--vm dev --total-timeout 0",
        "--vm dev --parallel 0",
        "--vm no*",
        "--timeout 0",
        "--parallel 0",
    ],
)
def test_a_dry_run_refuses_what_the_real_one_refuses(words, tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("")
    keep_state(tmp_path, "dev", "{}")
    keep_state(tmp_path, "dev2", "{}")
    file = [] if words.startswith("--jcard") else [str(tmp_path / "j.toml")]
    given = ["provision", *file, *words.replace("JCARD", str(tmp_path / "j.toml")).split()]
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    dry, real = run_cli(monkeypatch, *given, "--dry-run", env=env), run_cli(monkeypatch, *given, env=env)
    assert (dry.code, dry.out) == (2, ""), dry
    assert dry.err == real.err


def test_a_dry_run_writes_no_line_for_each_guest(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    for form in ("name", "template={nome}"):
        result = run_cli(monkeypatch, "provision", str(tmp_path / "j.toml"), "--dry-run", "-o", form)
        assert (result.code, result.err) == (2, "stereosctl: --dry-run prints for people, or -o json\n")


@pytest.mark.parametrize("address", ["unix:///tmp/guest.sock", "tcp://127.0.0.1:1024"])
def test_ls_of_an_address_says_what_to_use_instead(address, monkeypatch):
    result = run_cli(monkeypatch, "ls", address)
    assert (result.code, result.out) == (2, "")
    assert f"for an address: stereosctl health {address}" in plain(result.err)


@pytest.mark.parametrize(("state", "warned"), [("redy", True), ("healthy", False)])
def test_a_state_that_stereos_does_not_have_is_mentioned(state, warned, monkeypatch):
    with simulated_guest() as guest:
        guest.simulator.state = state
        result = run_cli(monkeypatch, "wait", str(guest.address), "--for", f"state={state}", "--timeout", "20")
    assert result.code == 0
    assert (f"StereOS has no state {state} of its own: its states are booting, ready" in plain(result.err)) is warned


# ----------------------------------------------------------------------------------------------------------- NUL


@pytest.mark.parametrize("command", ["ls", "health --vm dev", "ping --all"])
def test_a_folder_with_a_nul_is_a_sentence(command, tmp_path, monkeypatch):
    (tmp_path / "mb").mkdir()
    (tmp_path / "mb" / "config.toml").write_text('config-dir = "a\\u0000b"\n')
    result = run_cli(monkeypatch, *command.split(), "--json", env={"XDG_CONFIG_HOME": str(tmp_path)})
    document = json.loads(result.out)
    check(document, "error")
    assert (result.code, document["kind"], document["sent"]) == (2, "UsageError", False)
    assert document["error"] == (
        f"config-dir in {tmp_path}/mb/config.toml names no folder: it has a NUL character; "
        "fix it, or give --config-dir DIR"
    )


def test_a_guest_with_a_nul_in_a_journal_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text("name = 'x'\n")
    (tmp_path / "book").write_text('{"guest":"a\\u0000b","booted":null,"steps":{"config":"not sent"}}\n')
    words = ("provision", f"{tmp_path}/j.toml", "--resume", f"{tmp_path}/book", "--json")
    result = run_cli(monkeypatch, *words, env={"MB_CONFIG_DIR": str(tmp_path)})
    document = json.loads(result.out)
    check(document, "error")
    assert (result.code, document["kind"], document["sent"]) == (2, "UsageError", False)
    assert document["error"].startswith("there is no virtual machine 'a\\x00b' in ")


@pytest.mark.parametrize("line", ["config set 'a\0b'", "ping --vm 'a\0b'", "ls --config-dir 'a\0b'", "decode 'a\0b'"])
def test_a_nul_in_a_line_of_the_shell_is_a_sentence(line, monkeypatch):
    with simulated_guest() as guest:
        result = run_cli(monkeypatch, "shell", str(guest.address), stdin=f"{line}\nping\n".encode())
    assert (result.code, result.err.count("stereosctl: an argument has a NUL character")) == (0, 1), result
    assert result.out.startswith("pong from")
