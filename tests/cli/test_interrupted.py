"""What a command that is interrupted still says: by Ctrl-C, SIGTERM or SIGHUP, and by a signal that comes twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest

from cli.fleets import fleet
from cli.test_commands import check
from cli.test_journal import folded
from cli_harness import CLEAN_ENV, COMMAND, PATIENCE, piped, plain, terminal
from stereos_proto_io import UnixSocket
from stereos_proto_io.cli import _signals
from stereos_proto_io.cli._errors import Stopped
from stereos_proto_io.testing import simulated_guest
from waiting import until

JCARD = """
[[shared]]
host = "."
guest = "/workspace"
[[shared]]
host = "."
guest = "/data"
[secrets]
ONE = "a-secret-value"
TWO = "another-secret-value"
"""
#: What is known of a guest that never answers the first secret.
STALLED = {
    "mount share0 at /workspace": "done",
    "mount share1 at /data": "done",
    "secret ONE": "unknown",
    "secret TWO": "unknown",
    "config": "not sent",
}
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def provisioning(tmp_path):
    """Run a provisioning until the guests stall, and send it a signal. Returns its exit code, and what it wrote."""
    (tmp_path / "j.toml").write_text(JCARD)
    book = tmp_path / "book"

    def known(names):
        found = folded(book) if book.exists() else {}
        return all(list(found.get(name, {}).values()).count("done") == 2 for name in names)

    def run(number, guests, *flags):
        names = [name for name, guest in guests.items()]
        words = ["provision", str(tmp_path / "j.toml"), "--journal", str(book), *flags]
        words += [word for name in names for word in ("--vm", name)]
        with piped(*words, env={"MB_CONFIG_DIR": str(tmp_path)}) as process:
            until(lambda: known(names), process)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        assert folded(book) == dict.fromkeys(names, STALLED), "and so says the journal"
        return process.returncode, out, err

    return run


def types_of(guest):
    return [request.type for request in guest.simulator.requests]


def statuses(report):
    return {step["label"]: step["status"] for step in report["steps"]}


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_provisioning_of_one_guest_shows_its_report(number, tmp_path, provisioning):
    with fleet(tmp_path, {"a": {"faults": ["stall@inject_secret"]}}) as guests:
        code, out, err = provisioning(number, guests)
    assert code == -number
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "✓ mount share0 at /workspace",
        "✓ mount share1 at /data",
        "? secret ONE  unknown",
        "? secret TWO  unknown",
        "– config  not sent",
    ]
    assert "2 of 5 steps done, 2 unknown, 1 not sent" in err
    assert "interrupted while inject_secret was unanswered" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_provisioning_of_one_guest_prints_its_report(number, tmp_path, provisioning):
    with fleet(tmp_path, {"a": {"faults": ["stall@inject_secret"]}}) as guests:
        code, out, err = provisioning(number, guests, "--json")
    assert code == -number
    document = json.loads(out)
    check(document, "provision")
    assert (document["ok"], statuses(document)) == (False, STALLED)
    errors = {step["label"]: step["error"] for step in document["steps"] if step["error"]}
    assert [(label, error["kind"], error["sent"]) for label, error in errors.items()] == [
        ("secret ONE", "OutcomeUnknown", True),
        ("secret TWO", "OutcomeUnknown", True),
        ("config", "StereosError", False),
    ]
    assert "Traceback" not in err


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["table", "json"])
def test_an_interrupted_provisioning_of_many_guests_has_all_reports(flags, number, tmp_path, provisioning):
    with fleet(tmp_path, {name: {"faults": ["stall@inject_secret"]} for name in "ab"}) as guests:
        code, out, err = provisioning(number, guests, *flags)
    assert code == -number
    assert "2 guests: 2 interrupted" in err
    if flags:
        document = json.loads(out)
        check(document, "many")
        assert [(each["ok"], each["code"], each["error"]["error"]) for each in document] == [
            (False, 130, "interrupted")
        ] * 2
        for each in document:
            check(each["result"], "provision")
            assert statuses(each["result"]) == STALLED
    else:
        assert out.count("2 of 5 steps done, 2 unknown, 1 not sent") == 2
        assert out.count("? secret TWO  unknown: interrupted while inject_secret was unanswered") == 2


def test_a_provisioning_that_was_interrupted_before_it_began_sent_nothing(tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    words = ("provision", str(tmp_path / "j.toml"), "--vm", "a", "--journal", str(tmp_path / "book"), "--json")
    with (
        fleet(tmp_path, {"a": {"faults": ["never-ready"]}}) as guests,
        piped(*words, env={"MB_CONFIG_DIR": str(tmp_path)}) as process,
    ):
        until(lambda: guests["a"].simulator.requests, process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGINT
    document = json.loads(out)
    check(document, "error")
    assert (document["error"], document["kind"], document["sent"]) == ("interrupted while waiting", "Interrupted", None)
    assert set(folded(tmp_path / "book")["a"].values()) == {"not sent"}


def test_of_many_guests_each_says_how_far_it_was(tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    book, names = tmp_path / "book", ("done", "stalled", "boots", "queued")
    faults = {"done": [], "stalled": ["stall@set_config"], "boots": ["never-ready"], "queued": []}
    words = ["provision", str(tmp_path / "j.toml"), "--parallel", "2", "--journal", str(book), "--json"]
    words += [word for name in names for word in ("--vm", name)]
    with (
        fleet(tmp_path, {name: {"faults": faults[name]} for name in names}) as guests,
        piped(*words, env={"MB_CONFIG_DIR": str(tmp_path)}) as process,
    ):
        until(lambda: guests["stalled"].simulator.config and guests["boots"].simulator.requests, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    document = json.loads(out)
    check(document, "many")
    assert [(each["guest"], each["code"], (each["error"] or {}).get("kind")) for each in document] == [
        ("done", 0, None),
        ("stalled", 130, "Interrupted"),
        ("boots", 130, "Interrupted"),
        ("queued", 130, "NotBegun"),
    ]
    assert statuses(document[1]["result"])["config"] == "unknown"
    assert "3 guests have steps left" in err


@pytest.mark.parametrize("number", SIGNALS)
def test_the_shell_shows_the_report_and_goes_on_after_ctrl_c(number, tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    env = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        simulated_guest(UnixSocket(tmp_path / "g"), faults=["stall@inject_secret"]) as guest,
        terminal("shell", str(guest.address), env=env, columns=300) as it,
    ):
        it.wait_for("g> ")
        it.type(f"provision {tmp_path}/j.toml\n")
        it.wait_for("✓ mount share1 at /data")
        it.process.send_signal(number)
        if number == signal.SIGINT:
            it.wait_for("– config  not sent")
            it.wait_for("interrupted\n")
            it.type("ping\n")
            it.wait_for("pong from")
            it.type("exit\n")
        assert it.end() == (0 if number == signal.SIGINT else -number)
        assert "– config  not sent" in plain(it.seen)


#: A program that runs stereosctl: Ctrl-C interrupts the command, and the program goes on.
PROGRAM = """
import signal, sys
from stereos_proto_io.cli import main
code = main(sys.argv[1:])
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print("code", code, file=sys.stderr)
"""


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_program_that_calls_us_goes_on(names, tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    words = ["provision", str(tmp_path / "j.toml"), *(word for name in names for word in ("--vm", name)), "--json"]
    with (
        fleet(tmp_path, {name: {"faults": ["stall@inject_secret"]} for name in names}) as guests,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)},
            text=True,
        ) as process,
    ):
        until(lambda: all("inject_secret" in types_of(guest) for guest in guests.values()), process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.splitlines()[-1]) == (0, "code 130")
    check(json.loads(out), "many" if names[1:] else "provision")


# ------------------------------------------------------------------------------------------- SIGTERM and SIGHUP


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize(
    ("command", "fault", "sent"),
    [
        ("wait --for agent=nobody", "stall@get_health", None),
        ("mount t /x --fs 9p", "stall@mount", True),
        ("provision JCARD", "never-ready", None),
    ],
)
def test_a_signal_leaves_a_document(command, fault, sent, names, number, tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    words = [str(tmp_path / "j.toml") if word == "JCARD" else word for word in command.split()]
    words += [word for name in names for word in ("--vm", name)]
    type_ = fault.partition("@")[2] or "get_health"
    with (
        fleet(tmp_path, {name: {"faults": [fault]} for name in names}) as guests,
        piped(*words, "--json", "--timeout", "100", env={"MB_CONFIG_DIR": str(tmp_path)}) as process,
    ):
        until(lambda: all(type_ in types_of(each) for each in guests.values()), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -number
    document = json.loads(out)
    check(document, "many" if names[1:] else "error")
    for error in [each["error"] for each in document] if names[1:] else [document]:
        assert (error["kind"], error["sent"]) == ("Interrupted", sent)
    assert "Traceback" not in err


def test_pings_that_were_answered_are_kept_on_sigterm(tmp_path):
    words = ("ping", "--vm", "a", "-c", "0", "-i", "0.001", "--json")
    with (
        fleet(tmp_path, {"a": {}}) as guests,
        piped(*words, env={"MB_CONFIG_DIR": str(tmp_path)}) as process,
    ):
        until(lambda: len(guests["a"].simulator.requests) > 3, process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM
    check(json.loads(out), "ping")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_prompt_that_is_interrupted_leaves_a_document_too(number, tmp_path):
    with (
        simulated_guest(UnixSocket(tmp_path / "g")) as guest,
        terminal("secret", "set", "A", str(guest.address), "--json") as it,
    ):
        it.wait_for("not shown")
        it.process.send_signal(number)
        assert it.end() == -number
        assert not guest.simulator.requests
    text = plain(it.seen)
    document = json.loads(text[text.index("{") : text.rindex("}") + 1])
    check(document, "error")
    assert (document["error"], document["sent"]) == ("interrupted before a guest was asked", False)


# ------------------------------------------------------------------------------------------ a signal comes twice

#: Runs stereosctl, and sends it signals when it calls a function: MODULE FUNCTION NUMBER TIMES SAME, then its words.
AGAIN = """
import importlib, os, sys
from stereos_proto_io.cli import _signals, main
module, name, number, times, same, *words = sys.argv[1:]
_signals._SAME = float(same)
module = importlib.import_module(f"stereos_proto_io.cli.{module}")
function = getattr(module, name)
def interrupted(*arguments, **options):
    for _ in range(int(times)):
        os.kill(os.getpid(), int(number))
    return function(*arguments, **options)
setattr(module, name, interrupted)
sys.argv[1:] = words
sys.exit(main())
"""

#: Runs stereosctl, and lets no connection last until the first step of a provisioning.
LOST = """
import sys
from stereos_proto import ConnectionLost
from stereos_proto_io.cli import main
from stereos_proto_io.cli._contact_asyncio import AsyncContact
from stereos_proto_io.cli._contact_blocking import BlockingContact
async def lost(*_arguments):
    raise ConnectionLost("the guest closed the connection")
AsyncContact._provision = BlockingContact._provision = lost
sys.exit(main())
"""


def interrupted_again(words, where, *, times, same=0.3, env):
    """`same`: seconds in which two signals count as one."""
    options = [*where.split("."), str(int(signal.SIGINT)), str(times), str(same)]
    return subprocess.Popen(
        [sys.executable, "-c", AGAIN, *options, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**CLEAN_ENV, **env},
        text=True,
    )


#: Where the second signal finds a command: while the results of many guests, or of one, are written.
PLACES = {"ab": "_jobs.write_outcomes", "a": "_jobs.error_document"}


@pytest.mark.parametrize("names", PLACES)
@pytest.mark.parametrize("same", [100, 0], ids=["at once", "later"])
def test_a_second_signal_does_not_lose_the_results(same, names, tmp_path):
    words = ["health", *(word for name in names for word in ("--vm", name)), "--timeout", "100", "--json"]
    with (
        fleet(tmp_path, {name: {"faults": ["stall@get_health"]} for name in names}) as guests,
        interrupted_again(words, PLACES[names], times=1, same=same, env={"MB_CONFIG_DIR": str(tmp_path)}) as process,
    ):
        try:
            until(lambda: all(each.simulator.requests for each in guests.values()), process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    check(json.loads(out), "many" if names[1:] else "error")
    assert "Traceback" not in err


def test_a_third_signal_ends_at_once(tmp_path):
    words = ["health", "--vm", "a", "--vm", "b", "--timeout", "100", "--json"]
    env = {"MB_CONFIG_DIR": str(tmp_path)}
    with (
        fleet(tmp_path, {name: {"faults": ["stall@get_health"]} for name in "ab"}) as guests,
        interrupted_again(words, PLACES["ab"], times=2, same=0, env=env) as process,
    ):
        try:
            until(lambda: all(each.simulator.requests for each in guests.values()), process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out) == (-signal.SIGINT, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_signal_that_comes_while_results_are_written_waits_for_them(names, tmp_path):
    words = ["health", *(word for name in names for word in ("--vm", name)), "--json"]
    where = PLACES["ab"] if names[1:] else "_commands_ask.health_document"
    with (
        fleet(tmp_path, {name: {} for name in names}),
        interrupted_again(words, where, times=1, env={"MB_CONFIG_DIR": str(tmp_path)}) as process,
    ):
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    check(json.loads(out), "many" if names[1:] else "health")
    assert "Traceback" not in err


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_connection_that_ends_before_the_first_step_leaves_a_report(names, tmp_path):
    """The journal has called its steps unknown by then, since they were to be sent at once."""
    (tmp_path / "j.toml").write_text(JCARD)
    book = tmp_path / "book"
    words = ["provision", str(tmp_path / "j.toml"), "--journal", str(book), "--json"]
    words += [word for name in names for word in ("--vm", name)]
    with (
        fleet(tmp_path, {name: {} for name in names}),
        subprocess.Popen(
            [sys.executable, "-c", LOST, *words],
            stdout=subprocess.PIPE,
            env={**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)},
        ) as process,
    ):
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    document = json.loads(out)
    for report in [each["result"] for each in document] if names[1:] else [document]:
        assert set(statuses(report).values()) == {"not sent"}
    assert [set(each.values()) for each in folded(book).values()] == [{"not sent"}] * len(names)


def test_the_report_of_a_provisioning_that_ends_just_then_is_kept(tmp_path):
    (tmp_path / "j.toml").write_text(JCARD)
    words = ["provision", str(tmp_path / "j.toml"), "--vm", "a", "--json"]
    with (
        fleet(tmp_path, {"a": {}}),
        interrupted_again(
            words, "_provision.ProvisionReport", times=1, env={"MB_CONFIG_DIR": str(tmp_path)}
        ) as process,
    ):
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    document = json.loads(out)
    check(document, "provision")
    assert document["ok"], document


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (signal.SIGINT, signal.SIGINT, True),
        (signal.SIGTERM, signal.SIGTERM, True),
        (signal.SIGTERM, signal.SIGHUP, True),
        # The prompt of the shell outlives a Ctrl-C, and must not outlive what follows.
        (signal.SIGINT, signal.SIGTERM, False),
        (signal.SIGINT, signal.SIGHUP, False),
    ],
)
def test_which_signals_count_as_one(first, second, same, monkeypatch):
    monkeypatch.setattr(_signals, "_SAME", 1e9)
    interruptions = _signals._Interruptions()
    with pytest.raises(KeyboardInterrupt):
        interruptions(first, None)
    with nullcontext() if same else pytest.raises(Stopped):
        interruptions(second, None)


def test_timeout_of_gnu_loses_nothing(tmp_path):
    """It sends its signal to the command, and then to the group of processes that the command is in."""
    (tmp_path / "j.toml").write_text(JCARD)
    words = [*COMMAND, "provision", str(tmp_path / "j.toml"), "--vm", "a", "--vm", "b", "--json"]
    with (
        fleet(tmp_path, {name: {"faults": ["stall@inject_secret"]} for name in "ab"}) as guests,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path)},
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            until(lambda: all(types_of(each).count("inject_secret") == 2 for each in guests.values()), process)
            process.send_signal(signal.SIGINT)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    check(json.loads(out), "many")
    assert "Traceback" not in err
