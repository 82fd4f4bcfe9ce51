"""Many guests at once: which they are, what is shown of each, how long it may take, and what it comes to."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest

from cli.fleets import Flapping, fleet, keep_guest, keep_state, reporting
from cli.test_commands import check
from cli_harness import CLEAN_ENV, COMMAND, PATIENCE, piped, plain, resize, run_cli, run_process, terminal
from stereos_proto import AgentStatus, GetHealth, Health, Lifecycle, LifecycleState, Pong, RequestTimeout
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli._contact_asyncio import turn
from stereos_proto_io.cli._deadline import Deadline
from stereos_proto_io.cli._errors import EXIT_CODES, UNHEARD, worst
from stereos_proto_io.testing import simulated_guest
from waiting import until

JCARD = """
[[shared]]
host = "."
guest = "/workspace"
[secrets]
TOKEN = "${FLEET_TOKEN}"
[[agents]]
name = "coder"
harness = "custom"
"""


@pytest.fixture
def guests(tmp_path):
    """Three guests, one of them with an agent that is down; and a machine that is stopped."""
    agents = [AgentStatus("coder", True), AgentStatus("tester", True)]
    down = [AgentStatus("coder", True), AgentStatus("tester", False, error="exit 1")]
    with fleet(tmp_path, {"db": {"agents": down}, "web-1": {"agents": agents}, "web-2": {"agents": agents}}) as guests:
        keep_state(tmp_path, "old", {"backend": "qemu", "vsock_port": 0})
        yield guests


@pytest.fixture
def cli(tmp_path, monkeypatch):
    def run(*words, **options):
        env = {"MB_CONFIG_DIR": str(tmp_path), "FLEET_TOKEN": "a-secret-value", **options.pop("env", {})}
        return run_cli(monkeypatch, *words, env=env, **options)

    return run


# ---------------------------------------------------------------------------------------------- which guests


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--vm db --vm web-1", ["db", "web-1"]),
        ("--vm web-1 --vm db --vm web-1", ["web-1", "db"]),
        ("--vm web-*", ["web-1", "web-2"]),
        ("--vm d[b]", ["db"]),
        ("--all", ["db", "web-1", "web-2"]),
        ("--all --vm web-1", ["web-1", "db", "web-2"]),
        ("--vm web-? --vm db", ["web-1", "web-2", "db"]),
        ("@db @web-1", ["@db", "@web-1"]),
        ("@db --vm web-1", ["@db", "web-1"]),
        ("--all --state ready", ["web-1"]),
        ("--all --state ready --state odd", ["web-1", "web-2"]),
        ("--all --state healthy", []),
    ],
)
def test_guests_are_named_in_every_way(words, names, guests, cli):
    guests["db"].simulator.state = "degraded"
    guests["web-2"].simulator.state = "odd"
    places = {f"@{name}": str(guest.address) for name, guest in guests.items()}
    result = cli("ping", *(places.get(word, word) for word in words.split()), "-o", "name")
    assert (result.code, result.out.split()) == (0, [places.get(name, name) for name in names]), result
    assert ("\nno guests\n" in result.err) is (not names)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--vm nowhere --vm db", "there is no virtual machine 'nowhere'"),
        ("--vm no*", "matches 'no*'; there are: db, old, web-1, web-2"),
        ("--vm db --parallel 0", "--parallel must be at least 1"),
        ("--vm db --timeout 5x", "--timeout takes a duration such as 1.5, 30s, 2m or 1h30m, not '5x'"),
        ("--vm db --total-timeout 0", "--total-timeout must be more than 0 seconds"),
        ("--all -o xml", "-o takes one of wide, json, jsonl, name, template=TEXT, not 'xml'"),
        ("--all -o template={nome}", "a template knows no {nome}; it knows {name}, {address}, "),
        ("--all -o template={}", "a template knows no {}; it knows {name}, {address}, "),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_guest_is_asked(words, text, guests, cli):
    result = cli("ping", *words.split())
    assert (result.code, result.out) == (2, ""), result
    assert text in result.err
    assert not any(guest.simulator.requests for guest in guests.values())


@pytest.mark.parametrize("words", ["ping --vm db", "health --all", "ls", "shutdown --vm db"])
@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{name", "a template cannot have { alone"),
        ("name}", "a template cannot have } alone"),
        ("{name} {", "a template cannot have { alone"),
        ("{{name}", "a template cannot have } alone"),
        ("{name!r} {state:>10}", "a template cannot have {name!r}, {state:>10}"),
        ("{name.x}{name[0]} { name }", "a template cannot have {name.x}, {name[0]}, { name }"),
        ("{nome} {name!r}", "a template knows no {nome}, and cannot have {name!r}"),
    ],
)
def test_what_a_template_cannot_have_is_refused_before_a_guest_is_asked(words, template, sentence, guests, cli):
    result = cli(*words.split(), "-o", f"template={template}")
    assert (result.code, result.out) == (2, ""), result
    assert result.err == (
        f"stereosctl: {sentence}; it knows {{name}}, {{address}}, {{state}}, {{uptime}}, {{agents}}, {{running}}, "
        "{rtt_ms}, {result}, {error}, {kind}, {code}, each without a format; {{ and }} stand for braces\n"
    )
    assert not any(guest.simulator.requests for guest in guests.values())


def test_two_braces_in_a_template_are_one(guests, cli):
    assert cli("ping", "--vm", "db", "-o", "template={{{name}}}\\t{{}}").out == "{db}\t{}\n"


def test_a_stopped_machine_is_left_out_where_it_is_not_named(guests, cli):
    everyone = cli("ping", "--all")
    assert (everyone.code, "left out, as stopped: old" in everyone.err) == (0, True)
    named = cli("ping", "--vm", "old", "--vm", "db")
    assert (named.code, "it is stopped; start it with `mb up`" in named.out) == (2, True)
    alone = cli("ping", "--vm", "old")
    assert (alone.code, alone.err) == (2, "stereosctl: old: it is stopped; start it with `mb up`\n")
    examined = cli("doctor", "--vm", "old")
    assert examined.code == 2
    assert "it is stopped; start it with `mb up`" in examined.out
    assert "stereosctl ls" not in examined.out, "the machine was found, so no list of them is needed"


# ------------------------------------------------------------------------------------------- results of each


def test_one_guest_that_fails_hides_nothing_of_the_others(guests, cli, tmp_path):
    keep_state(tmp_path, "gone", {"backend": "qemu", "vsock_port": 1})
    keep_state(tmp_path, "broken", "{")
    result = cli("health", "--all")
    rows = {line.split()[1]: line for line in result.out.splitlines()}
    assert [rows[name][0] for name in ("db", "web-1", "web-2", "gone", "broken")] == ["✓", "✓", "✓", "!", "!"]
    assert "1 of 2 agents running; not: tester" in rows["db"]
    assert "nobody listens there yet" in rows["gone"]
    assert "it is not JSON" in rows["broken"]
    assert result.code == 2
    assert "5 guests: 3 done, 1 not usable, 1 unreachable" in result.err


def test_json_is_an_array_with_the_guest_in_each(guests, cli, tmp_path):
    keep_state(tmp_path, "gone", {"backend": "qemu", "vsock_port": 1})
    result = cli("agents", "--all", "--json")
    document = json.loads(result.out)
    check(document, "many")
    assert [(each["guest"], each["ok"], each["code"]) for each in document] == [
        ("db", False, 1),
        ("gone", False, 3),
        ("web-1", True, 0),
        ("web-2", True, 0),
    ]
    for each in document:
        if each["result"] is not None:
            check(each["result"], "agents")
    assert document[1]["error"]["kind"] == "ConnectError"
    assert "gone" in document[1]["error"]["error"]
    assert result.code == 3, "the worst"
    lines = cli("agents", "--all", "-o", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == document


@pytest.mark.parametrize(
    ("command", "schema"),
    [
        ("ping -c 2 -i 0.01", "ping"),
        ("health", "health"),
        ("agents", "agents"),
        ("wait --for agent=coder", "wait"),
        ("config set plain.toml", "given"),
        ("secret set TOKEN --env FLEET_TOKEN", "given"),
        ("ssh-key add key.pub --user admin", "given"),
        ("mount share0 /w --fs 9p", "given"),
        ("provision jcard.toml", "provision"),
        ("shutdown", "shutdown"),
        ("shutdown --wait", "shutdown"),
    ],
)
@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
def test_every_command_takes_many_guests(command, schema, tty, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text("name = 'x'\n")
    (tmp_path / "jcard.toml").write_text(JCARD)
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQ= x\n")
    agents = [AgentStatus("coder", True)]
    with fleet(tmp_path, {name: {"agents": agents} for name in ("a", "b", "c")}):
        json_too = "shutdown" not in command
        if json_too:
            document = json.loads(cli(*command.split(), "--all", "--json").out)
            check(document, "many")
            for each in document:
                check(each["result"], schema)
        result = cli(*command.split(), "--all", tty=tty, columns=200)
    assert result.code == 0, result
    assert [line.split()[:2] for line in plain(result.out).splitlines() if line[:1] == "✓"] == [
        ["✓", name] for name in "abc"
    ]
    assert "3 guests: 3 done" in plain(result.err)


def test_a_template_and_names_are_lines_for_a_script(guests, cli):
    result = cli("health", "--all", "-o", "template={name}\\t{state} {running}/{agents} {code}")
    assert result.out.splitlines() == ["db\tready 1/2 0", "web-1\tready 2/2 0", "web-2\tready 2/2 0"]
    assert cli("health", "--vm", "db", "-o", "template={name}={state}").out == "db=ready\n"
    assert cli("agents", "--all", "-o", "name").out.split() == ["web-1", "web-2"], "of those that did well"
    alone = cli("agents", "--vm", "db", "-o", "name")
    assert (alone.code, alone.out) == (1, ""), "the same of a single one"
    assert cli("agents", "--vm", "web-1", "-o", "name").out.split() == ["web-1"]
    assert str(guests["db"].address) in cli("health", "--all", "-o", "wide").out


@pytest.mark.parametrize("form", ["name", "template={name}"])
def test_names_and_templates_leave_the_reasons_to_stderr(form, tmp_path, cli):
    with fleet(tmp_path, {"a": {}, "b": {}}):
        for name in ("gone", "lost"):
            keep_state(tmp_path, name, {"backend": "qemu", "vsock_port": 1})
        result = cli("health", "--all", "-o", form)
    assert (result.code, set(result.out.split()) >= {"a", "b"}) == (3, True)
    reason, summary = result.err.splitlines()
    assert reason.startswith("gone, lost: ")
    assert "refused" in reason
    assert summary == "4 guests: 2 done, 2 unreachable"


def test_which_exit_code_is_the_worst():
    codes = {each.code for each in EXIT_CODES} - {UNHEARD}
    assert worst([]) == 0
    assert worst(codes) == 130
    assert worst(codes - {130}) == 5, "nothing may be sent again before a look at that guest"
    assert worst([0, 1, 124]) == 124
    assert worst([0, 1]) == 1


# ------------------------------------------------------------------------------------------ bounds, deadlines


def test_guests_are_asked_at_the_same_time_and_no_more_than_the_bound(tmp_path, cli):
    """With a bound of four, the first replies come when four are asked, and a fifth is never asked beside them."""
    at_work, most, lock = [], [], threading.Lock()
    four = threading.Barrier(4)

    def handler(request):
        with lock:
            at_work.append(request)
            most.append(len(at_work))
        four.wait(PATIENCE)
        with lock:
            at_work.pop()
        return Health("ready")

    with ExitStack() as stack:
        for number in range(8):
            keep_guest(tmp_path, f"g{number}", stack.enter_context(reporting(handler)).address)
        assert cli("health", "--all", "--parallel", "4").code == 0
    assert (len(most), max(most)) == (8, 4)


@pytest.mark.parametrize("command", ["watch -i 0.02 --jsonl", "ping -c 0 -i 0.02 -o jsonl", "ls -w -o jsonl"])
def test_what_goes_on_forever_gets_round_to_every_guest(command, tmp_path):
    """However few are asked at the same time."""
    asked, most, lock = [], [], threading.Lock()

    def handler(name, request):
        with lock:
            asked.append(name)
            most.append(len(asked))
        time.sleep(0.005)
        with lock:
            asked.remove(name)
        seen.add(name)
        return Health("ready") if isinstance(request, GetHealth) else Pong()

    seen, names = set(), "abc"
    with ExitStack() as stack:
        for name in names:
            keep_guest(tmp_path, name, stack.enter_context(reporting(partial(handler, name))).address)
        which = [] if command.startswith("ls") else ["--all"]
        words = [*command.split(), *which, "--parallel", "1"]
        with piped(*words, env={"MB_CONFIG_DIR": str(tmp_path)}) as process:
            until(lambda: len(seen) == len(names), process)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
    assert (seen, max(most)) == (set(names), 1)


def test_a_guest_that_gets_no_turn_in_time_is_late():
    async def wait():
        async with turn(asyncio.Semaphore(0), Deadline.after(0.01)):
            raise AssertionError("there is no place")

    with pytest.raises(RequestTimeout, match="before it was the guest's turn"):
        asyncio.run(wait())


@pytest.fixture
def some_in_a_state(tmp_path):
    """A guest that is healthy, one that is ready, an old one; and two that are not there."""
    options = {"well": {}, "fit": {}, "old": {"faults": ["fail:unknown message type@get_health"]}}
    with fleet(tmp_path, options) as guests:
        guests["well"].simulator.state = "healthy"
        keep_state(tmp_path, "gone", {"backend": "qemu", "vsock_port": 1})
        keep_state(tmp_path, "torn", "{")
        yield guests


#: What those come to that cannot be asked.
UNASKED = {"gone": 3, "old": 1, "torn": 2}


@pytest.mark.usefixtures("some_in_a_state")
def test_a_guest_that_cannot_be_asked_for_its_state_has_failed(tmp_path, cli):
    with fleet(tmp_path, {"silent": {"faults": ["stall@get_health"]}}):
        # Long enough for those that answer, however busy the machine is.
        result = cli("ping", "--all", "--state", "healthy", "--timeout", "6", "--json")
    document = json.loads(result.out)
    check(document, "many")
    assert {each["guest"]: each["code"] for each in document} == {"well": 0, "silent": 124, **UNASKED}
    assert [each["guest"] for each in document] == ["gone", "old", "silent", "torn", "well"], "in their order"
    assert all(each["result"] is None and each["error"]["sent"] is not True for each in document[:-1])
    assert "left out, as not healthy: fit (ready)\n" in result.err
    assert result.code == 2, "the worst"
    assert "5 guests: " in result.err


def test_what_cannot_be_asked_counts_as_a_failure_and_stands_in_the_journal(some_in_a_state, tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    words = ("provision", str(tmp_path / "j.toml"), "--all", "--state", "healthy")
    book = tmp_path / "book"
    stopped = cli(*words, "--max-failures", "3", "--json")
    codes = {each["guest"]: (each["error"] or {}).get("kind") for each in json.loads(stopped.out)}
    assert codes["well"] == "NotBegun"
    assert {request.type for request in some_in_a_state["well"].simulator.requests} == {"get_health"}
    result = cli(*words, "--max-failures", "4", "--journal", str(book))
    assert result.code == 2
    assert "4 guests: " in result.err
    assert "3 guests have steps left" in result.err
    named = {json.loads(line)["guest"] for line in book.read_text().splitlines()}
    assert named == {"well", *UNASKED}
    assert some_in_a_state["well"].simulator.config


@pytest.mark.usefixtures("some_in_a_state")
def test_the_doctor_examines_what_cannot_be_asked(cli):
    result = cli("doctor", "--all", "--state", "healthy", "--json")
    documents = json.loads(result.out)
    assert {each["guest"]: each["steps"][-1]["step"] for each in documents} == {
        "well": "health",
        "gone": "dial",
        "old": "health",
        "torn": "address",
    }
    assert "left out, as not healthy: fit (ready)\n" in result.err


def test_a_watch_dials_again_what_could_not_be_asked(tmp_path):
    with fleet(tmp_path, {"fit": {}, "well": {}}) as guests, ExitStack() as stack:
        guests["well"].simulator.state = "healthy"
        place = UnixSocket(tmp_path / "late")
        env = {**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)}
        words = [
            *COMMAND,
            "watch",
            "--all",
            str(place),
            "--state",
            "healthy",
            "-i",
            "0.05",
            "--timeout",
            "60",
            "--jsonl",
        ]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True) as process:
            stack.callback(process.kill)
            seen = {}
            while seen.keys() != {"well", str(place)}:
                document = json.loads(process.stdout.readline())
                seen[document["guest"]] = document["event"]
            assert seen == {"well": "health", str(place): "unreachable"}
            with simulated_guest(place):
                document = json.loads(process.stdout.readline())
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=60)
    assert (document["guest"], document["event"]) == (str(place), "health")
    assert (process.returncode, err) == (0, "left out, as not healthy: fit (ready)\n")


def test_each_guest_has_its_deadline_and_all_have_one(tmp_path, cli):
    stalled = {"faults": ["stall@get_health"]}
    with fleet(tmp_path, {"a": stalled, "b": {}, "c": stalled}):
        result = cli("health", "--all", "--timeout", "300ms")
        assert result.code == 124
        rows = {line.split()[1]: line for line in result.out.splitlines() if line[0] in "✓✗!"}
        assert rows["b"].startswith("✓")
        assert "did not answer get_health in time" in rows["a"]
        both = cli("health", "--all", "--parallel", "1", "--timeout", "20s", "--total-timeout", "0.5")
        assert both.code == 124
        assert "3 guests: 2 not begun, 1 not in time" in both.err


def test_twenty_guests_are_one_process_and_one_look(tmp_path, cli):
    with fleet(tmp_path, {f"g{number:02}": {} for number in range(20)}) as guests:
        assert cli("ping", "--all").code == 0
        assert [len(guest.simulator.requests) for guest in guests.values()] == [1] * 20


def test_the_look_at_the_states_is_a_part_of_the_time_for_all(tmp_path, cli):
    with fleet(tmp_path, {"a": {}, "b": {"faults": ["stall@get_health"]}}) as guests:
        result = cli("ping", "--all", "--state", "ready", "--total-timeout", "0.8", "--json")
        assert [request.type for request in guests["a"].simulator.requests] == ["get_health"]
    first = json.loads(result.out)[0]
    assert (first["guest"], first["code"], first["error"]["kind"]) == ("a", 124, "NotBegun")
    assert "there was no time left" in first["error"]["error"]


# ------------------------------------------------------------------------------------------------- provision


def test_provisioning_of_many_with_one_that_refuses(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"a": {}, "b": {"faults": ["fail:no such device@mount"]}, "c": {}}) as guests:
        result = cli("provision", str(tmp_path / "j.toml"), "--all")
        assert guests["c"].simulator.secrets["TOKEN"].value == "a-secret-value"
    assert result.code == 1
    assert "3 guests: 2 done, 1 said no" in result.err
    assert result.out.count("steps done") == 3
    assert "\nb\n✗ mount share0 at /workspace  refused" in result.out
    assert "no such device" in result.out
    assert "a-secret-value" not in result.all


def test_each_guest_may_have_a_jcard_of_its_own(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    (tmp_path / "other.toml").write_text('[[shared]]\nhost = "."\nguest = "/data"\n')
    with fleet(tmp_path, {"a": {}, "b": {}, "c": {}}) as guests:
        own = ("--jcard", f"b={tmp_path / 'other.toml'}")
        assert cli("provision", str(tmp_path / "j.toml"), "--vm", "a", "--vm", "b", *own).code == 0
        assert [mount.guest_path for mount in guests["a"].simulator.mounts] == ["/workspace"]
        assert [mount.guest_path for mount in guests["b"].simulator.mounts] == ["/data"]
        by_name = cli("provision", "--jcard", f"c={tmp_path / 'other.toml'}")
        assert (by_name.code, [m.guest_path for m in guests["c"].simulator.mounts]) == (0, ["/data"]), by_name
        at = str(guests["a"].address)
        by_address = cli("provision", at, "--jcard", f"{at}={tmp_path / 'other.toml'}", "--json")
        assert by_address.code == 0, by_address


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--all", "which jcard.toml for a? Give one FILE for all, or --jcard a=FILE"),
        ("FILE --all --jcard nowhere=FILE", "--jcard names nowhere, which is not among the guests"),
        ("FILE --all --jcard a=FILE --jcard a=FILE", "--jcard names a twice"),
        ("FILE --all --jcard a", "--jcard takes NAME=FILE, not 'a'"),
        ("FILE --all --max-failures 0", "--max-failures must be at least 1"),
        ("--dry-run", "which jcard.toml? Give a FILE, or --jcard NAME=FILE"),
    ],
)
def test_a_provisioning_that_makes_no_sense_is_refused(words, text, tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"a": {}, "b": {}}) as guests:
        result = cli("provision", *words.replace("FILE", str(tmp_path / "j.toml")).split())
        assert not any(guest.simulator.requests for guest in guests.values())
    assert (result.code, text.replace("FILE", "FILE") in result.err) == (2, True), result


def test_no_guest_is_begun_after_so_many_failures(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    options = {name: {"faults": ["fail:no@mount"] if name in "bc" else []} for name in "abcdef"}
    with fleet(tmp_path, options) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--all", "--parallel", "1", "--max-failures", "2", "--json")
        result = cli(*words)
        assert [bool(guest.simulator.requests) for guest in guests.values()] == [True] * 3 + [False] * 3
    document = json.loads(result.out)
    check(document, "many")
    assert [each["error"] and each["error"]["kind"] for each in document] == [
        None,
        *["RequestFailed"] * 2,
        *["NotBegun"] * 3,
    ]
    assert [each["error"]["sent"] for each in document[3:]] == [False] * 3
    assert "3 not begun, 2 said no, 1 done" in result.err


def test_what_is_known_of_each_guest_is_shown_after_ctrl_c(tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"a": {}, "b": {"faults": ["stall@mount"]}, "c": {}}) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--all", "--parallel", "2")
        env = {"MB_CONFIG_DIR": str(tmp_path), "FLEET_TOKEN": "x" * 20}
        with subprocess.Popen(
            [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**CLEAN_ENV, **env}, text=True
        ) as process:
            seen = ""
            while "✓  c" not in seen:
                line = process.stderr.readline()
                assert line, seen
                seen += line
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "3 of 3 steps done" in out
    assert "interrupted while" in out
    assert "3 guests: 2 done, 1 interrupted" in err
    assert guests["b"].simulator.requests


# ------------------------------------------------------------------------------- what is negative about a result


def test_a_table_says_why_there_were_no_more_pings(tmp_path, cli):
    with fleet(tmp_path, {"a": {"faults": ["garbage@ping#2"]}, "b": {}}):
        words = ("ping", "--all", "-c", "3", "-i", "0")
        table = cli(*words)
    assert table.code == 4
    assert "sent a line that is not JSON" in next(line for line in table.out.splitlines() if "a  " in line)
    with fleet(tmp_path / "tty", {"a": {"faults": ["garbage@ping#2"]}, "b": {}}):
        narrow = cli(*words, tty=True, columns=50, env={"MB_CONFIG_DIR": str(tmp_path / "tty")})
    assert "sent a line that is not JSON" in " ".join(plain(narrow.out).split()), "below the table"


REASONS = {
    "ping -c 2 -i 0": ("garbage@ping#2", 4, "MalformedLine", "sent a line that is not JSON", None),
    "provision JCARD": ("deny:no such share@mount", 1, "RequestFailed", "no such share", True),
}


@pytest.mark.parametrize("which", ["--vm a", "--all"])
@pytest.mark.parametrize("command", REASONS)
def test_a_template_says_what_is_negative_about_a_result(command, which, tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    fault, code, kind, reason, _sent = REASONS[command]
    words = command.replace("JCARD", str(tmp_path / "j.toml")).split()
    with fleet(tmp_path, {"a": {"faults": [fault]}}):
        result = cli(*words, *which.split(), "-o", "template={code}|{kind}|{error}|{result}")
    assert result.code == code
    first, *rest = result.out.rstrip("\n").split("|")
    assert (first, rest[0], reason in rest[1], bool(rest[2])) == (str(code), kind, True, True), result


@pytest.mark.parametrize("command", REASONS)
def test_a_row_of_json_has_the_error_of_a_negative_result(command, tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    fault, code, kind, reason, sent = REASONS[command]
    words = command.replace("JCARD", str(tmp_path / "j.toml")).split()
    with fleet(tmp_path, {"a": {"faults": [fault]}}):
        (row,) = json.loads(cli(*words, "--all", "--json").out)
    check([row], "many")
    assert (row["ok"], row["code"], row["error"]["kind"], row["error"]["sent"]) == (False, code, kind, sent)
    assert reason in row["error"]["error"]
    assert row["result"] is not None


def test_a_negative_result_that_says_why_itself_is_no_error(guests, cli):
    rows = json.loads(cli("agents", "--all", "--json").out)
    assert [(row["guest"], row["code"], row["error"]) for row in rows if not row["ok"]] == [("db", 1, None)]
    template = cli("agents", "--vm", "db", "-o", "template={code}|{kind}|{error}|{result}")
    assert template.out == "1|||1 of 2 agents running; not: tester\n"


def test_wide_hides_nothing_of_a_single_guest(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"a": {"faults": ["deny:no@mount"]}}):
        assert "pong from a" in cli("ping", "--vm", "a", "-o", "wide").out
        provisioned = cli("provision", str(tmp_path / "j.toml"), "--vm", "a", "-o", "wide")
    assert "✗ mount share0 at /workspace" in provisioned.out, provisioned
    assert "✓ secret TOKEN" in provisioned.out


def test_the_guests_are_found_once(tmp_path, cli, monkeypatch):
    """A machine that starts while the plan is read is not meant."""
    with fleet(tmp_path, {"a": {}, "b": {}, "late": {}}) as guests:
        keep_state(tmp_path, "old", {"backend": "qemu", "vsock_port": 0})
        state = tmp_path / "vms" / "late" / "state.json"
        kept = state.read_text()
        state.unlink()

        def read(_source, *_instead):
            state.write_text(kept)
            return JCARD

        monkeypatch.setattr("stereos_proto_io.cli._provision.read_text", read)
        result = cli("provision", "-", "--all")
        secret = cli("secret", "set", "TOKEN", "--all", stdin=b"value")
        assert not any(request.type == "mount" for request in guests["late"].simulator.requests)
    assert (result.code, secret.code) == (0, 0), result
    assert "late" not in result.all
    assert result.err.count("left out, as stopped: old") == 1
    assert secret.err.count("left out, as stopped: old") == 1


# ------------------------------------------------------------------------------------------- hostile, narrow


NASTY = "e\x1b[2J\x1b]0;title\x07\u202e\u2066x\r\n\t\x9b31m" + "y" * 2000


def hostile(number):
    """Options of a guest that sends whatever might steer, widen or slow down a table."""
    agents = [AgentStatus(f"{NASTY}{number}-{each}", each % 2 == 0, NASTY, 2**31, NASTY) for each in range(30)]
    return {
        "agents": agents,
        "faults": [] if number % 4 else ["fail:\x1b[31mno\u202e@mount", "push:healthy@get_health"],
    }


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forty")
    options = {f"evil-{number:02}": hostile(number) for number in range(40)}
    honest = {"agents": [AgentStatus("coder", True)], "poll_interval": 0.01}
    with fleet(folder, {**options, "honest": honest}) as guests:
        for number, guest in enumerate(guests.values()):
            if number < 20:
                guest.simulator.state = NASTY
        (folder / "j.toml").write_text(JCARD)
        (folder / "plain.toml").write_text("name = 'x'\n")
        (folder / "key.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQ= x\n")
        yield folder


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize(
    "command",
    [
        *("ping", "health", "agents", "ls", "wait --timeout 2", "watch --timeout 3", "doctor", "ls -o wide"),
        *(
            "secret set A --env FLEET_TOKEN",
            "mount a /b --fs 9p",
            "health -o wide",
            "health -o template={name}|{state}",
        ),
        *("provision FOLDER/j.toml --max-failures 3 --timeout 6", "provision FOLDER/j.toml --timeout 6"),
        *("provision FOLDER/j.toml --timeout 6 --json", "config set FOLDER/plain.toml"),
        *("ssh-key add FOLDER/key.pub --user admin", "health --json", "watch --timeout 3 --jsonl"),
    ],
)
def test_forty_hostile_guests_beside_an_honest_one(command, columns, forty, monkeypatch):
    words = command.replace("FOLDER", str(forty)).split()
    everyone = [] if words[0] == "ls" else ["--all"]
    env = {"MB_CONFIG_DIR": str(forty), "FLEET_TOKEN": "a-secret-value"}
    result = run_cli(monkeypatch, *words, *everyone, env=env, tty=words[0] != "watch", columns=columns)
    text = plain(result.out)
    # As it was written: `plain` takes out what it is to be found.
    for char in ("\x1b[2J", "\x1b]0", "\x07", "\u202e", "\u2066", "\x9b"):
        assert char not in result.all, char
    assert "Traceback" not in result.all
    assert "honest" in text
    if words[0] in ("ping", "health", "ls", "wait", "secret") and "template" not in command:
        rows = [line for line in text.splitlines() if "evil-" in line or "honest" in line]
        assert len(rows) >= 41
        assert max(map(len, rows)) <= max(columns, 120)


@pytest.mark.parametrize("columns", [60, 200])
def test_hostile_guests_are_shut_down(columns, tmp_path, monkeypatch):
    evil = {f"evil-{number:02}": hostile(number) for number in range(40)}
    evil["evil-00"]["faults"] = ["fail:\x1b[31mno\u202e@shutdown"]
    with fleet(tmp_path, {**evil, "honest": {}}) as guests:
        result = run_cli(monkeypatch, "shutdown", "--all", env={"MB_CONFIG_DIR": str(tmp_path)}, columns=columns)
        assert all("shutdown" in {request.type for request in guest.simulator.requests} for guest in guests.values())
    assert result.code == 1
    assert "41 guests: 40 done, 1 said no" in result.err
    for char in ("\x1b", "\u202e", "\x9b"):
        assert char not in result.all, char
    assert len([line for line in plain(result.out).splitlines() if "evil-" in line or "honest" in line]) == 41


@pytest.mark.parametrize("columns", [40, 160])
def test_hostile_guests_steer_no_screen(columns, tmp_path, monkeypatch):
    with fleet(tmp_path, {f"evil-{number}": hostile(number) for number in range(6)}) as guests:
        for guest in guests.values():
            guest.simulator.state = NASTY
        with terminal("watch", "--all", "-i", "0.05", env={"MB_CONFIG_DIR": str(tmp_path)}, columns=columns) as it:
            it.wait_for("6 guests")
            for guest in guests.values():
                guest.push(Lifecycle(NASTY, NASTY))
            it.type("\r")
            it.wait_for("Esc goes back")
            it.type("q")
            assert it.end() == 0
        for char in ("\x1b]0", "\x07", "\u202e", "\u2066", "\x9b"):
            assert char not in it.seen, char
        result = run_cli(monkeypatch, "shutdown", "--all", "--wait", env={"MB_CONFIG_DIR": str(tmp_path)}, tty=True)
        assert "6 guests" in result.err
        for char in ("\x1b]0", "\x07", "\u202e", "\u2066", "\x9b"):
            assert char not in result.all, char


# ----------------------------------------------------------------------------------------------- watch of many


def test_a_fleet_is_watched_by_lines(guests, tmp_path):
    env = {**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)}
    words = [*COMMAND, "watch", "--all", "-i", "0.02", "--jsonl"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True) as process:
        first = [json.loads(process.stdout.readline()) for _ in range(3)]
        guests["db"].push(Lifecycle("degraded", "pushed"))
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    for document in (*first, second):
        check(document, "watch")
    assert {document["guest"] for document in first} == {"db", "web-1", "web-2"}
    assert (second["guest"], second["event"]) == ("db", "notification")
    assert process.returncode == 0, "Ctrl-C is its ordinary end"


def test_a_reboot_is_called_a_reboot(tmp_path):
    after = Health(LifecycleState.READY, uptime_seconds=3)
    with reporting(Flapping(Health(LifecycleState.READY, uptime_seconds=900), after)) as server:
        keep_guest(tmp_path, "web", server.address)
        env = {**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)}
        words = [*COMMAND, "watch", "--vm", "web*", "-i", "0.02"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=env, text=True) as process:
            lines = [process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert "rebooted" not in lines[0]
    assert "rebooted  ready  up 3 s" in lines[1], lines


def test_keys_choose_sort_and_look_into_a_guest(guests, tmp_path):
    guests["web-2"].simulator.state = "degraded"
    with terminal("watch", "--all", "-i", "0.05", env={"MB_CONFIG_DIR": str(tmp_path)}) as it:
        it.wait_for("q or Ctrl-C ends")
        it.wait_for("▸  db")
        it.type("j")
        it.wait_for("▸  web-1")
        it.type("s")
        it.wait_for("by state")
        it.type("\r")
        it.wait_for("Esc goes back")
        it.wait_for("tester")
        # Pressed quickly, or over a slow line, keys come together.
        it.type("\x1bq")
        assert it.end() == 0
    assert it.seen.count("\x1b[?1049l") == 1, "the screen is given back"
    assert it.seen.rindex("\x1b[?25h") > it.seen.rindex("\x1b[?25l"), "and the cursor"
    rest = plain(it.seen[it.seen.rindex("\x1b[?1049l") :])
    assert "web-1" in rest, "what was seen stays on the terminal"


@pytest.mark.parametrize(
    ("columns", "sort", "headings"),
    [
        (50, "name", "GUEST STATE AGENTS LAST CHANGE"),
        (58, "name", "GUEST STATE AGENTS RTT LAST CHANGE"),
        (58, "pushes", "GUEST STATE AGENTS PUSHES LAST CHANGE"),
        (100, "name", "GUEST STATE AGENTS RTT PUSHES LAST CHANGE"),
    ],
)
def test_the_last_change_of_a_fleet_has_room_on_a_narrow_terminal(columns, sort, headings, tmp_path):
    agents = [AgentStatus("coder", True)]
    with fleet(tmp_path, {"web-1": {"agents": agents}, "web-2": {"agents": agents}}):
        words = ("watch", "--all", "-i", "0.05", "--sort", sort)
        with terminal(*words, env={"MB_CONFIG_DIR": str(tmp_path)}, columns=columns) as it:
            it.wait_for("2 healthy")
            it.type("q")
            assert it.end() == 0
    rest = plain(it.seen[it.seen.rindex("\x1b[?1049l") :])
    assert headings.split() in [line.split() for line in rest.splitlines()]
    rows = [line for line in rest.splitlines() if " 1/1 " in line]
    assert len(rows) == 2
    assert all(re.search("[0-9]{2}:[0-9]{2}:[0-9]{2}  (ready|healthy)", row) for row in rows), rows


def test_a_fleet_fits_a_small_terminal_and_fills_a_large_one(tmp_path):
    agents = [AgentStatus("coder", True)]
    with fleet(tmp_path, {f"g{number:02}": {"agents": agents} for number in range(30)}):
        master, slave = pty.openpty()
        resize(slave, 80, 24)
        env = {**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)}
        with subprocess.Popen(
            [*COMMAND, "watch", "--all", "-i", "600"], stdin=slave, stdout=slave, stderr=slave, env=env
        ) as process:
            try:
                small = frame_with(master, "g19")
                assert "g25" not in small
                assert max(map(len, small.splitlines())) <= 80
                resize(slave, 120, 50)
                process.send_signal(signal.SIGWINCH)
                assert "30 guests" in frame_with(master, "g29")
            finally:
                process.send_signal(signal.SIGINT)
                threading.Thread(target=drain, args=(master,), daemon=True).start()
                os.close(slave)
                process.wait(60)


def frame_with(master, text):
    seen = ""
    while text not in plain(seen).rpartition("\x1b[H")[2] or "Ctrl-C ends" not in plain(seen):
        seen += os.read(master, 65536).decode("utf-8", "replace")
    return plain(seen)


def drain(master):
    try:
        while os.read(master, 65536):
            pass
    except OSError:
        pass


def test_each_push_is_shown_or_counted_as_dropped(tmp_path):
    with simulated_guest(UnixSocket(tmp_path / "g")) as guest:
        words = [*COMMAND, "watch", str(guest.address), "-i", "0.05", "--jsonl"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=CLEAN_ENV, text=True) as process:
            assert json.loads(process.stdout.readline())["event"] == "health"
            for number in range(2000):
                guest.push(Lifecycle("healthy", f"storm {number}"))
            seen = 0
            while seen < 2000:
                document = json.loads(process.stdout.readline())
                seen += {"notification": 1, "dropped": document.get("dropped")}.get(document["event"], 0)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    check(document, "watch")
    assert seen == 2000


def test_ls_goes_on_watching_and_prints_names(guests, cli, tmp_path):
    assert cli("ls", "-o", "name").out.split() == ["db", "old", "web-1", "web-2"]
    assert cli("ls", "web-*", "-o", "name").out.split() == ["web-1", "web-2"]
    assert cli("ls", "--state", "stopped", "-o", "name").out.split() == ["old"]
    for pattern in ("", "WEB-1", "DB", "vms/db", "."):
        nothing = cli("ls", pattern)
        assert (nothing.code, nothing.out) == (0, ""), pattern
        assert f"there is no virtual machine {pattern!r} in " in nothing.err
    with terminal("ls", "-w", env={"MB_CONFIG_DIR": str(tmp_path)}) as it:
        it.wait_for("q or Ctrl-C ends")
        it.interrupt()
        assert it.end() == 0


@pytest.mark.parametrize("state", ["stopped", "unreachable"])
def test_a_state_that_only_ls_knows_is_answered_with_ls(state, tmp_path, monkeypatch):
    with fleet(tmp_path, {"dev": {}}):
        result = run_cli(monkeypatch, "health", "--all", "--state", state, env={"MB_CONFIG_DIR": str(tmp_path)})
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(f"shutdown; `stereosctl ls --state {state}` lists these\n")


THERE = "there are: db, old, web-1, web-2"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nope", f"there is no virtual machine 'nope' in VMS; {THERE}"),
        ("web1", f"there is no virtual machine 'web1' in VMS; {THERE}; did you mean web-1 or web-2?"),
        ("DB", f"there is no virtual machine 'DB' in VMS; {THERE}; did you mean db?"),
        ("no*", f"no virtual machine in VMS matches 'no*'; {THERE}"),
    ],
)
@pytest.mark.usefixtures("guests")
def test_ls_says_of_a_name_that_is_none_what_other_commands_say(name, sentence, tmp_path, cli):
    sentence = sentence.replace("VMS", f"{tmp_path}/vms")
    listed, asked = cli("ls", name), cli("ping", "--vm", name)
    assert (listed.code, listed.out, listed.err) == (0, "", f"{sentence}\n")
    assert (asked.code, asked.out, asked.err) == (2, "", f"stereosctl: {sentence}\n")
    assert json.loads(cli("ls", name, "--json").out) == {"machines": []}


def test_a_list_of_names_is_short(tmp_path, cli):
    for number in range(1, 21):
        keep_state(tmp_path, f"web-{number}", {"backend": "qemu"})
    first = ", ".join(f"web-{number}" for number in range(1, 11))
    for words in (["ls", "nope"], ["ping", "--vm", "nope"], ["ls", "no*"], ["ping", "--vm", "no*"]):
        assert cli(*words).err.endswith(f"; there are: {first} and 10 more\n"), words


def test_ls_says_why_it_lists_nothing(tmp_path, cli):
    assert cli("ls").err == f"mb has no virtual machines in {tmp_path}/vms\n"
    nothing = f"there is no virtual machine 'a' in {tmp_path}/vms; there is none at all\n"
    assert cli("ls", "a").err == nothing
    assert cli("ping", "--vm", "a").err == f"stereosctl: {nothing}"
    keep_state(tmp_path, "old", {"backend": "qemu", "vsock_port": 0})
    assert cli("ls", "--state", "ready").err == "no virtual machine is ready\n"
    assert cli("ls", "o*", "--state", "ready").err == "no virtual machine that matches 'o*' is ready\n"


def test_keep_guest_is_what_mb_keeps(tmp_path, cli):
    with simulated_guest() as guest:
        keep_guest(tmp_path, "dev", guest.address)
        assert cli("ping", "--vm", "dev").code == 0


# ------------------------------------------------------------------------------------------ what a jcard means


@pytest.mark.parametrize("on_refusal", ["stop", "continue"])
def test_the_config_is_held_back_where_a_mount_was_refused(on_refusal, tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"dev": {"faults": ["fail:no@mount"]}}) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--vm", "dev", "--on-refusal", on_refusal)
        result = cli(*words)
        sent = guests["dev"].simulator.config
    assert result.code == 1
    assert ("held back" in result.out) == (on_refusal == "stop")
    assert bool(sent) == (on_refusal == "continue")


def test_mounts_can_be_left_out(tmp_path, cli):
    (tmp_path / "j.toml").write_text(JCARD)
    with fleet(tmp_path, {"dev": {"faults": ["fail:no@inject_secret#1"]}}) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--vm", "dev")
        first, second = cli(*words), cli(*words, "--skip-mounts")
        simulator = guests["dev"].simulator
        assert len(simulator.mounts) == JCARD.count("[[shared]]") > 0
        assert simulator.config
    assert (first.code, second.code) == (1, 0), (first, second)


def test_what_a_guest_would_refuse_may_be_sent_to_one_of_another_make(tmp_path, cli):
    (tmp_path / "j.toml").write_text('[[agents]]\nname = "x"\nharness = "of-my-own"\n')
    with fleet(tmp_path, {"dev": {}}) as guests:
        strict = cli("provision", str(tmp_path / "j.toml"), "--vm", "dev")
        assert (strict.code, guests["dev"].simulator.requests) == (2, ())
        loose = cli("provision", str(tmp_path / "j.toml"), "--vm", "dev", "--no-strict")
    assert loose.code == 0, loose
    assert "harness" in loose.err, "it is a warning then"
    assert "it starts x" in loose.err


def test_all_unset_variables_are_named_at_once(tmp_path, cli):
    (tmp_path / "j.toml").write_text('[secrets]\nA = "${UNSET_A}"\nB = "${UNSET_B}"\n')
    result = cli("provision", str(tmp_path / "j.toml"), "--dry-run")
    assert result.code == 2
    assert "UNSET_A" in result.err
    assert "UNSET_B" in result.err


def test_a_wait_in_vain_says_which_agents_were_wanted_and_seen(tmp_path, cli):
    down = AgentStatus("coder", False, restarts=7, error="exec: not found")
    with fleet(tmp_path, {"dev": {"agents": [down]}}):
        words = ("--for", "agent=coder", "--for", "agent=reviewer", "--timeout", "0.3")
        one = cli("wait", "--vm", "dev", *words)
        many = cli("wait", "--all", *words)
    for text in (one.err, many.out):
        for part in ("coder", "reviewer", "7 restarts", "exec: not found"):
            assert part in text, text


# ------------------------------------------------------------------------------ guests that have failed for good


@pytest.fixture
def failing(tmp_path):
    """The words that name a guest which answers garbage, a path that is no socket, and a machine without an address."""
    (tmp_path / "file").touch()
    keep_state(tmp_path, "broken", {"backend": "frob"})
    with simulated_guest(UnixSocket(tmp_path / "odd"), faults=["garbage@get_health"]) as odd:
        yield str(odd.address), f"unix://{tmp_path}/file", "--vm", "broken"


SAID = ("sent a line that is not JSON", "is a file, not a socket", "its backend, 'frob', is unknown")


@pytest.mark.parametrize("flags", [(), ("--jsonl",)])
def test_a_watch_tells_of_guests_that_have_failed_for_good(flags, failing, tmp_path):
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    done = run_process("watch", *failing, "-i", "0.02", *flags, env=env)
    assert done.code == 2, "that of the broken machine"
    for said in SAID:
        assert (said in done.out, said in done.err) == (True, True), done
    with (
        simulated_guest(UnixSocket(tmp_path / "well")) as guest,
        piped("watch", str(guest.address), *failing, "-i", "0.02", *flags, env=env) as process,
    ):
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert all(any(said in line for line in lines) for said in SAID), lines
    for line in (*done.out.splitlines(), *lines) if flags else ():
        check(json.loads(line), "watch")
        assert not json.loads(line).get("error", {}).get("sent"), "only questions were"


def test_the_screen_of_a_watch_calls_a_guest_failed_that_is_dialled_no_more(failing, tmp_path):
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    with (
        simulated_guest(UnixSocket(tmp_path / "well")) as guest,
        terminal("watch", str(guest.address), *failing, "-i", "0.02", env=env, columns=200) as it,
    ):
        it.wait_for("3 failed")
        it.wait_for("is a file, not a socket")
        it.interrupt()
        assert it.end() == 0


@pytest.mark.parametrize("ended_by", ["q", "its deadline"])
def test_a_guest_that_is_down_is_called_the_same_on_the_screen_and_in_what_stays(ended_by, tmp_path):
    deadline = ("--timeout", "5") if ended_by == "its deadline" else ()
    with (
        simulated_guest(UnixSocket(tmp_path / "well")) as guest,
        terminal("watch", str(guest.address), f"unix://{tmp_path}/down", "-i", "0.02", *deadline, columns=200) as it,
    ):
        it.wait_for("1 unreachable")
        if ended_by == "q":
            it.type("q")
        assert it.end() == (124 if deadline else 0)
    stays = plain(it.seen[it.seen.rindex("\x1b[?1049l") :])
    assert f"{tmp_path}/down"[-20:] in stays
    assert ("unreachable" in stays, "failed" in stays) == (True, False), stays


@pytest.mark.parametrize("words", ["health NOBODY", "health --vm broken", "health ODD --timeout 9"])
def test_a_template_writes_a_line_of_a_single_guest_that_failed_too(words, tmp_path, cli):
    keep_state(tmp_path, "broken", {"backend": "frob"})
    with simulated_guest(UnixSocket(tmp_path / "odd"), faults=["garbage@get_health"]) as odd:
        places = {"NOBODY": f"unix://{tmp_path}/nobody", "ODD": str(odd.address)}
        words = [places.get(word, word) for word in words.split()]
        template = "template={name}|{address}|{state}|{kind}|{code}|{error}"
        one = cli(*words, "-o", template)
        many = cli(*words, "--parallel", "1", f"unix://{tmp_path}/other", "-o", template)
    assert one.out == many.out.splitlines(keepends=True)[-1 if "--vm" in words else 0]
    assert one.out.split("|")[4] == str(one.code)
    assert one.err.startswith("stereosctl: "), "it is said, too"


def test_a_template_writes_a_line_of_a_single_guest_that_was_interrupted(tmp_path):
    with (
        simulated_guest(faults=["stall@get_health"]) as guest,
        piped("health", str(guest.address), "-o", "template={name} {kind} {code}") as process,
    ):
        until(lambda: guest.simulator.requests, process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (-signal.SIGINT, f"{guest.address} Interrupted 130\n")
