"""A few seconds of what `make soak` does for hours, and that it would see what leaks."""

import asyncio
import logging
import os
import random
import subprocess
import sys
import threading
from math import inf
from pathlib import Path

import pytest
import trio
from fuzz import soak

from stereos_proto import (
    Ack,
    CustomRequest,
    Health,
    HostSession,
    LocalProtocolError,
    OutcomeUnknown,
    Ping,
    Pong,
    RequestFailed,
)

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ["asyncio", "trio", "blocking"]


def alone(driver, leak, *, size, rounds):
    """Hold `rounds` rounds of `size` conversations in a process of its own: one that has run other tests holds more."""
    command = (sys.executable, "-m", "tests.project.test_soak", driver, leak, str(size), str(rounds))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=2 * soak.HANG)


@pytest.mark.parametrize("driver", DRIVERS)
def test_random_conversations_with_random_faults(driver):
    done = alone(driver, "nothing", size=soak.ROUND, rounds=3)
    assert done.returncode == 0, done.stderr
    seen = done.stdout.splitlines()
    # Not everything went wrong, or went well.
    good = {"request: Ack", "request: Pong", "request: Health", "request_many: list", "provision: ProvisionReport"}
    bad = {
        "request: RequestTimeout",
        "request: ConnectionLost",
        "request: RequestFailed",
        "request: LocalProtocolError",
    }
    assert good | bad | {"notifications", "wait_ready: Health", "push: NoneType", "hang up: NoneType"} <= {*seen}


def test_a_run_says_where_it_has_ended(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fuzz.soak", "--minutes", "0", "--seed", "3", "--start", "75"])
    assert soak.main() == 1
    told = capsys.readouterr().out
    assert "go on with --seed 3 --start 75" in told
    assert "too short" in told


# ------------------------------------------------------------------------------------------- what is chosen


def test_a_conversation_is_the_same_each_time():
    for number in range(50):
        assert soak.conversation(7, number) == soak.conversation(7, number)
    assert len({str(soak.conversation(7, number)) for number in range(50)}) == 50


def test_everything_that_may_happen_happens():
    """Within what two minutes are enough for."""
    talks = [soak.conversation(1, number) for number in range(300)]
    sittings = [sitting for talk in talks for sitting in talk.sittings]
    jobs = [job for sitting in sittings for jobs in sitting.workers for job in jobs]
    assert {talk.transport for talk in talks} == {*soak.TRANSPORTS}
    struck = {fault.partition("@")[0].partition("#")[0] for talk in talks for fault in talk.faults}
    assert struck == {*soak.FAULTS, *soak.CONNECTION_FAULTS, *soak.GUEST_FAULTS}
    assert {talk.at_home for talk in talks} == {True, False}
    assert {len(talk.sittings) for talk in talks} == {1, 2, 3}
    assert {sitting.when_ready for sitting in sittings} == {sitting.listens for sitting in sittings} == {True, False}
    assert {len(sitting.workers) for sitting in sittings} == {1, 2, 5}
    assert {sitting.patience for sitting in sittings} == {*soak.SITTING_PATIENCE}
    assert {job.verb for job in jobs} == {"request", "request_many", "provision", "wait_ready", "push", "hang up"}
    assert {job.patience for job in jobs} == {*soak.PATIENCE}
    assert sum(len(talk.faults) > 1 for talk in talks) > 50
    requests = [job.what for job in jobs if job.verb == "request"]
    assert len({type(request) for request in requests}) == 8
    assert {*soak.UNSENDABLE} <= {*requests}


def test_the_longest_lines_are_as_long_as_a_line_may_be():
    longest = max(len(soak.encode(job.what)) for job in jobs_of(300) if job.verb == "request" and sendable(job.what))
    assert longest == soak.MAX_LINE_SIZE


def jobs_of(conversations):
    for number in range(conversations):
        for sitting in soak.conversation(1, number).sittings:
            for jobs in sitting.workers:
                yield from jobs


def sendable(request):
    return request not in soak.UNSENDABLE


# ------------------------------------------------------------------------------------------ what stays behind


@pytest.mark.parametrize("name", [*soak.ALLOWED])
def test_what_grows_is_seen(name):
    first = soak.InUse(5, 1, 1000, 100_000, 50_000)
    allowed = soak.ALLOWED[name]
    soak.check_flat(first, first._replace(**{name: getattr(first, name) + allowed}))
    with pytest.raises(AssertionError, match=f"{name} grew by {allowed + 1}"):
        soak.check_flat(first, first._replace(**{name: getattr(first, name) + allowed + 1}))


def leaked_descriptor(_driver):
    return os.open(os.devnull, os.O_RDONLY)


def leaked_thread(_driver):
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    return thread


def leaked_task(driver):
    """Of the runtime's."""
    if driver == "asyncio":
        return asyncio.get_running_loop().create_task(asyncio.Event().wait())
    return trio.lowlevel.spawn_system_task(trio.sleep_forever)


#: What each connection can be made to leave behind.
LEAKS = {
    "nothing": lambda _driver: None,
    "descriptor": leaked_descriptor,
    "thread": leaked_thread,
    "object": lambda _driver: [],
    "kibibyte": lambda _driver: bytes(1024),
    "task": leaked_task,
    "error": lambda _driver: logging.getLogger("asyncio").error("Exception in callback"),
}


def main(driver, leak, size, rounds):
    """Soak with a leak, and print what was seen."""
    if int(size) < soak.ROUND:
        # The system's allocator has not had all that it will keep.
        soak.ALLOWED = soak.ALLOWED | {"resident": inf}
    soak.ROUND = int(size)
    kept = []
    start = HostSession.__init__

    def leaking(session, *args, **options):
        start(session, *args, **options)
        if leak != "nothing":
            kept.append(LEAKS[leak](driver))

    HostSession.__init__ = leaking
    done = soak.soak(driver, seed=20, start=0, until=lambda number: number >= int(size) * int(rounds))
    assert done.following == int(size) * int(rounds)
    print(*done.seen, sep="\n")


@pytest.mark.parametrize(
    ("driver", "leak", "what"),
    [
        ("asyncio", "descriptor", "descriptors"),
        ("trio", "thread", "threads"),
        ("trio", "object", "objects"),
        ("blocking", "kibibyte", "traced"),
    ],
)
def test_a_planted_leak_is_found_in_a_short_run(driver, leak, what):
    """The leak is in the session and the look is the same for all drivers, so each kind stands in one of them."""
    done = alone(driver, leak, size=10, rounds=10)
    assert f"AssertionError: {what} grew by" in done.stderr


@pytest.mark.parametrize("driver", ["asyncio", "trio"])
def test_a_planted_task_is_found_in_the_round_that_starts_it(driver):
    assert "tasks are left" in alone(driver, "task", size=1, rounds=5).stderr


_HANG = """
import threading
from fuzz import soak
soak.HANG = 0.5
soak.sit_blocking = lambda *_arguments: threading.Event().wait()
soak.soak("blocking", seed=20, start=50, until=lambda number: False)
"""


def test_a_hang_ends_the_run_and_says_where():
    # It ends the whole process: no thread that waits for ever can be told to go.
    command = (sys.executable, "-c", _HANG)
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert "blocking: seed 20, conversations 50 to 74 hang" in run.stderr
    assert "in talk_blocking" in run.stderr


def test_an_error_that_is_only_logged_is_seen():
    assert "AssertionError: Exception in callback" in alone("asyncio", "error", size=1, rounds=3).stderr


# ---------------------------------------------------------------------------------------------- what is judged


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        (Ping(), Ack("ping", True)),
        (CustomRequest("sync:1"), Ack("sync:2", True)),
        (CustomRequest("sync:1"), Pong()),
        (Ping(), Health("ready")),
        (Ping(), RuntimeError("of somebody's")),
        (Ping(), TimeoutError("of somebody's")),
        (Ping(), LocalProtocolError("it could be sent")),
        (CustomRequest("sync:1"), RequestFailed(CustomRequest("sync:1"), "unknown message type: sync:1")),
    ],
)
def test_a_reply_that_went_astray_is_seen(asked, outcome):
    """Of the last one, the request is not the one that was asked, but one that is equal."""
    with pytest.raises(AssertionError):
        soak.judge(soak.Job("request", asked, 1), outcome, soak.Counter())


ECHO = "unknown message type: sync:"


@pytest.mark.parametrize(
    "replies",
    [
        [Pong()],
        [Pong(), Pong()],
        [Ack("sync:1", False, f"{ECHO}1"), Pong()],
        [Pong(), Ack("sync:1", False, f"{ECHO}2")],
        [Pong(), Ack("sync:2", False, f"{ECHO}2")],
        [Pong(), Ack("sync:2", True)],
    ],
)
def test_replies_in_another_order_are_seen(replies):
    with pytest.raises(AssertionError):
        soak.judge(soak.Job("request_many", (Ping(), CustomRequest("sync:1")), 1), replies, soak.Counter())


def test_what_is_right_is_let_pass():
    refused, long = CustomRequest("sync:1"), CustomRequest(f"sync:2:{'x' * 9000}")
    cut = f"{ECHO}2:{'x' * 9000}"[: soak.MAX_SENTENCE]
    for job, outcome in (
        (soak.Job("request", long, 1), RequestFailed(long, f"{cut}… (9029 characters)")),
        (soak.Job("request", Ping(), 1), Pong()),
        (soak.Job("request", refused, 1), RequestFailed(refused, f"{ECHO}1")),
        (soak.Job("request", Ping(), 1), OutcomeUnknown("gone", request=Ping(), unanswered=())),
        (soak.Job("request", soak.UNSENDABLE[0], 1), LocalProtocolError("no")),
        (soak.Job("request_many", (Ping(), refused), 1), [Pong(), Ack("sync:1", False, f"{ECHO}1")]),
        (soak.Job("wait_ready", None, 1), Health("healthy")),
    ):
        soak.judge(job, outcome, soak.Counter())


def test_a_health_that_is_not_ready_is_no_end_of_waiting():
    with pytest.raises(AssertionError):
        soak.judge(soak.Job("wait_ready", None, 1), Health("booting"), soak.Counter())


def test_every_kind_of_request_is_asked():
    rng = random.Random(1)
    assert len({type(soak.request(rng)) for _ in range(300)}) == 8


if __name__ == "__main__":
    main(*sys.argv[1:])
