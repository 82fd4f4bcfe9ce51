"""Dialogues, driven by hand: what they ask for, and what they make of every answer."""

import copy
import itertools
import math

import pytest

from stereos_proto import (
    Ack,
    AgentStatus,
    ConnectError,
    ConnectionLost,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    LifecycleState,
    Mount,
    NotReady,
    OutcomeUnknown,
    Ping,
    ProvisionPlan,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    SetConfig,
    Shutdown,
    StepStatus,
    StereosError,
)
from stereos_proto.dialogues import (
    FIRST_ATTEMPT,
    Backoff,
    Connect,
    ReadyWait,
    Send,
    Sleep,
    TimeUp,
    WaitProgress,
    provision,
    shut_down,
    wait_ready,
)

BOOTING, READY, DOWN = Health("booting"), Health("ready"), Health("shutdown")
LOST = ConnectionLost("the guest closed the connection")
LATE = RequestTimeout("no answer", sent=True)
NOT_YET = ConnectError("nobody listens there yet")
NEVER = ConnectError("permission denied", retryable=False)
REFUSED = Ack("get_health", False, "busy")
OLD = Ack("get_health", False, "unknown message type: get_health")
NONSENSE = RemoteProtocolError("nonsense")


def answer(dialogue, result):
    return dialogue.throw(result) if isinstance(result, Exception) else dialogue.send(result)


def run(dialogue, results):
    """Resume with each of `results`; return what was asked for, and the result or the error."""
    asked = [next(dialogue)]
    try:
        for result in results:
            asked.append(answer(dialogue, result))
    except StopIteration as stop:
        return asked, stop.value
    except StereosError as exc:
        return asked, exc
    return asked, None


# -- waiting ---------------------------------------------------------------------------------------------------


def test_a_guest_that_is_ready_costs_one_question():
    assert run(wait_ready(), [READY]) == ([Send(GetHealth(), None)], READY)


def test_with_redial_a_try_is_bounded():
    asked, result = run(wait_ready(ReadyWait(attempt_timeout=0.5), redial=True), [None, READY])
    assert asked == [Connect(0.5), Send(GetHealth(), 0.5)]
    assert result is READY


def test_a_connection_of_others_is_given_all_the_time_of_a_try_at_once():
    """It is dropped when a probe over it is late, with all that others have asked on it."""
    asked, _ = run(ReadyWait().run(redial=True, connected=True), [LATE, None, None, READY])
    probes = [action.timeout for action in asked if isinstance(action, Send)]
    assert probes == [5.0, 2.0]


def silent_dial():
    error = ConnectError("it does not answer")
    error.__cause__ = TimeoutError()
    return error


def dial_that_timed_out():
    error = ConnectError("it does not answer")
    error.timed_out = True
    return error


@pytest.mark.parametrize("late", [[None, LATE], [silent_dial()], [dial_that_timed_out()]])
@pytest.mark.parametrize("limit", [3.0, 5.0])
def test_a_guest_that_is_silent_is_given_more_time_each_try(late, limit):
    asked, _ = run(wait_ready(ReadyWait(attempt_timeout=limit), redial=True), [*late, None] * 5)
    assert [action.timeout for action in asked if isinstance(action, Connect)] == [
        1,
        2,
        min(4, limit),
        limit,
        limit,
        limit,
    ]
    refused = ConnectError("nobody listens there yet")
    refused.timed_out = False
    asked, _ = run(wait_ready(redial=True), [NOT_YET, None] * 5 + [refused, None, None, LOST, None] * 5 + [None])
    assert asked[-1] == Send(GetHealth(), 1.0)


#: What a try may end in: the reply or error, and what comes of it without and with redial.
GO_ON, RAISED, OVER, GIVES_UP, DIALS = "goes on", "raised", "over", "gives up", "dials"
PROBES = [
    (BOOTING, GO_ON, GO_ON),
    (Health("degraded"), GO_ON, GO_ON),
    (Health("a state of tomorrow"), GO_ON, GO_ON),
    (REFUSED, GO_ON, GO_ON),
    (READY, OVER, OVER),
    (Health("healthy"), OVER, OVER),
    (DOWN, GIVES_UP, GIVES_UP),
    (OLD, GIVES_UP, GIVES_UP),
    (LOST, RAISED, DIALS),
    (LATE, RAISED, DIALS),
    (OutcomeUnknown("gone"), RAISED, DIALS),
    (NONSENSE, RAISED, RAISED),
]


@pytest.mark.parametrize("redial", [False, True])
@pytest.mark.parametrize("history", [*itertools.product(PROBES, repeat=1), *itertools.product(PROBES, repeat=2)])
def test_every_sequence_of_probes(history, redial):
    wait = ReadyWait()
    dialogue = wait.run(redial=redial)
    action = next(dialogue)
    tries, patience = 0, FIRST_ATTEMPT
    for probe, plain, dialled in history:
        if isinstance(action, Connect):
            action = dialogue.send(None)
        assert action == Send(GetHealth(), patience if redial else None)
        patience *= 2 if probe is LATE else 1
        fate = dialled if redial else plain
        counted = probe is not NONSENSE
        tries += counted
        if fate in (GO_ON, DIALS):
            pause = answer(dialogue, probe)
            assert isinstance(pause, Sleep)
            action = dialogue.send(None)
            assert type(action) is (Connect if fate == DIALS else Send)
        elif fate == OVER:
            with pytest.raises(StopIteration) as stop:
                answer(dialogue, probe)
            assert stop.value.value is probe
        elif fate == RAISED:
            with pytest.raises(type(probe)) as caught:
                answer(dialogue, probe)
            assert caught.value is probe
        else:
            with pytest.raises(NotReady) as caught:
                answer(dialogue, probe)
            assert caught.value.tries == tries
            assert caught.value.last_state == wait.progress.state
            assert caught.value.last_error is wait.progress.error
            assert caught.value.health is wait.progress.health
            assert caught.value.agents_wanted == ()
        assert wait.progress.tries == tries
        if fate not in (GO_ON, DIALS):
            return


@pytest.mark.parametrize("error", [NOT_YET, LATE, LOST])
def test_a_dial_that_fails_is_tried_again(error):
    wait = ReadyWait()
    asked, result = run(wait.run(redial=True), [error, None, error, None, None, READY])
    assert [type(action) for action in asked] == [Connect, Sleep, Connect, Sleep, Connect, Send]
    assert result is READY
    assert wait.progress == WaitProgress(3, READY, None)


def test_a_dial_that_can_never_work_ends_the_wait():
    wait = ReadyWait()
    asked, result = run(wait.run(redial=True), [NEVER])
    assert asked == [Connect(FIRST_ATTEMPT)]
    assert result is NEVER
    assert wait.progress.error is NEVER


# -- what is waited for ----------------------------------------------------------------------------------------

AGENTS = (AgentStatus("a", True), AgentStatus("b", False), AgentStatus("c", True))


@pytest.mark.parametrize(
    ("agents", "state", "over"),
    [
        (["a"], "booting", True),
        (["a", "c"], "degraded", True),
        ({"c", "a"}, LifecycleState.READY, True),
        (["b"], "healthy", False),
        (["a", "b"], "healthy", False),
        (["d"], "healthy", False),
    ],
)
def test_named_agents_must_run_whatever_the_state(agents, state, over):
    health = Health(state, AGENTS)
    _, result = run(ReadyWait(agents=agents).run(redial=False), [health])
    assert (result is health) is over


@pytest.mark.parametrize("state", [*LifecycleState, "a state of tomorrow"])
def test_other_states_may_be_waited_for(state):
    health = Health(state)
    assert run(ReadyWait(states=[state]).run(redial=False), [health])[1] is health
    assert run(ReadyWait(states=["another"]).run(redial=False), [health])[1] is not health


@pytest.mark.parametrize("field", ["states", "agents"])
def test_one_string_is_not_several(field):
    with pytest.raises(TypeError, match=f"{field} takes several strings"):
        ReadyWait(**{field: "coder"})


@pytest.mark.parametrize("agents", [["b"], iter(["b"]), {"b": 1}, {"b"}])
def test_agents_and_states_may_come_from_any_iterable(agents):
    wait = ReadyWait(states=iter(["a state of tomorrow"]), agents=agents)
    assert (wait.states, wait.agents, wait.progress.agents) == (("a state of tomorrow",), ("b",), ("b",))
    _, error = run(wait.run(redial=False), [BOOTING, None, DOWN])
    assert error.agents_wanted == ("b",)


@pytest.mark.parametrize("states", [None, {"ready"}, {"booting"}, {"healthy", "booting"}])
@pytest.mark.parametrize("agents", [(), ("a",), ("a", "b")])
def test_a_wait_is_over_when_one_report_meets_all_conditions(states, agents):
    """States were ignored where agents were named."""
    wait = ReadyWait(states, agents)
    for state in LifecycleState:
        for running in [(), ("a",), ("b",), ("a", "b")]:
            health = Health(state, [AgentStatus(name, name in running) for name in "ab"], 1)
            by_state = state in states if states else bool(agents) or state in ("ready", "healthy")
            assert wait.is_met_by(health) is (by_state and set(agents) <= set(running))


def test_a_wait_needs_a_state():
    with pytest.raises(ValueError, match="states must name at least one state, or be None: the wait would never end"):
        ReadyWait(states=[])


def test_a_guest_that_shuts_down_will_not_run_its_agents():
    _, error = run(ReadyWait(agents=["b"]).run(redial=False), [BOOTING, None, DOWN])
    assert isinstance(error, NotReady)
    assert str(error) == (
        "the guest is not ready: it is shutting down (2 tries, last state shutdown); waited for b; the guest reports "
        "no agents; b is not listed: an agent that cannot start is absent from health"
    )
    assert (error.last_state, error.last_error, error.tries) == ("shutdown", None, 2)
    assert (error.agents_wanted, error.health) == (("b",), DOWN)


@pytest.mark.parametrize(
    ("wanted", "agents", "words"),
    [
        (
            ("coder", "reviewer"),
            [AgentStatus("coder", False, restarts=7, error="exec: not found")],
            (
                "waited for coder, reviewer; the guest reports coder (not running, 7 restarts: exec: not found); "
                "reviewer is not listed: an agent that cannot start is absent from health"
            ),
        ),
        # An older guest calls an agent by its harness.
        (
            ("a", "b"),
            [AgentStatus("custom", True, restarts=1), AgentStatus("b", True)],
            (
                "waited for a, b; the guest reports b (running), custom (running, 1 restart); "
                "a is not listed: an agent that cannot start is absent from health"
            ),
        ),
        (
            ("a", "b"),
            [],
            (
                "waited for a, b; the guest reports no agents; "
                "a, b are not listed: an agent that cannot start is absent from health"
            ),
        ),
        (("a",), [AgentStatus("a", False)], "waited for a; the guest reports a (not running)"),
        (
            tuple(f"a{number:02}" for number in range(20)),
            [AgentStatus(f"a{number:02}", False) for number in range(20)],
            "waited for a00, a01, a02, a03, a04, a05, a06, a07, a08, a09, a10, a11 and 8 more; the guest reports "
            + ", ".join(f"a{number:02} (not running)" for number in range(12))
            + " and 8 more",
        ),
        (("a",), None, "waited for a"),
        (tuple("abcdefghijkl"), None, "waited for a, b, c, d, e, f, g, h, i, j, k, l"),
        (tuple("abcdefghijklm"), None, "waited for a, b, c, d, e, f, g, h, i, j, k, l and 1 more"),
        # A guest may write a megabyte into a name or an error.
        (
            ("a",),
            [AgentStatus("a", False, error="e" * 600), AgentStatus("n" * 600, True)],
            f"waited for a; the guest reports a (not running: {'e' * 255}…), {'n' * 255}… (running)",
        ),
        (
            ("b" * 257,),
            [],
            (
                f"waited for {'b' * 255}…; the guest reports no agents; "
                f"{'b' * 255}… is not listed: an agent that cannot start is absent from health"
            ),
        ),
        (("b" * 256,), None, f"waited for {'b' * 256}"),
    ],
)
def test_a_wait_for_agents_says_what_it_saw(wanted, agents, words):
    health = None if agents is None else Health("healthy", agents)
    wait = ReadyWait(agents=wanted)
    dialogue = wait.run(redial=True)
    next(dialogue)
    if health is not None:
        dialogue.send(None)
        dialogue.send(health)
    with pytest.raises(NotReady) as caught:
        dialogue.throw(TimeUp("late", seconds=2.5))
    tries = "1 try, last state healthy" if health else "0 tries, it never reported a state"
    assert str(caught.value) == f"the guest is not ready: 2.5 s have passed ({tries}); {words}"
    assert caught.value.agents_wanted == wanted
    assert caught.value.health is health


@pytest.mark.parametrize("redial", [False, True])
@pytest.mark.parametrize("steps", range(6))
def test_when_the_time_is_up_the_wait_ends_wherever_it_is(redial, steps):
    wait = ReadyWait(agents={"a"})
    dialogue = wait.run(redial=redial)
    action = next(dialogue)
    for _ in range(steps):
        action = dialogue.send(BOOTING if isinstance(action, Send) else None)
    up = TimeUp("late", seconds=60)
    with pytest.raises(NotReady, match=r"^the guest is not ready: 60 s have passed \(") as caught:
        dialogue.throw(up)
    assert caught.value.__cause__ is up
    assert caught.value.tries == wait.progress.tries
    assert caught.value.last_error is None


def test_when_the_time_is_up_the_last_error_is_the_cause():
    dialogue = wait_ready(redial=True)
    next(dialogue)
    dialogue.throw(NOT_YET)
    with pytest.raises(NotReady) as caught:
        dialogue.throw(TimeUp("late", seconds=1))
    assert caught.value.__cause__ is NOT_YET
    assert caught.value.last_error is NOT_YET


def test_time_that_is_up_is_a_request_that_was_late():
    up = TimeUp("late", seconds=2.5)
    assert isinstance(up, RequestTimeout)
    assert (up.seconds, up.sent, up.request) == (2.5, True, None)
    assert (TimeUp("late").seconds, TimeUp("late", sent=False, request=GetHealth()).sent) == (0, False)
    assert vars(copy.copy(up)) == vars(up)


def test_an_old_guest_is_told_apart():
    _, error = run(wait_ready(), [OLD])
    assert "does not know get_health; ask an old guest with ping" in str(error)
    assert isinstance(error.last_error, RequestFailed)
    assert error.last_state is None


def test_the_last_state_outlives_an_error():
    wait = ReadyWait()
    run(wait.run(redial=True), [None, BOOTING, None, LOST])
    assert wait.progress == WaitProgress(2, BOOTING, LOST)
    error = wait.progress.not_ready("60 s have passed")
    assert (error.last_state, error.last_error, error.tries) == ("booting", LOST, 2)
    assert str(error) == (
        "the guest is not ready: 60 s have passed (2 tries, last state booting, "
        "last error: the guest closed the connection)"
    )


def test_progress_in_words():
    assert str(WaitProgress()) == "0 tries, it never reported a state"
    assert str(WaitProgress(1, None, NOT_YET)) == (
        "1 try, it never reported a state, last error: nobody listens there yet"
    )


def test_progress_is_told_after_each_try():
    seen = []
    wait = ReadyWait(on_progress=seen.append)
    run(wait.run(redial=True), [NOT_YET, None, None, BOOTING, None, LOST, None, None, READY])
    assert seen == [
        WaitProgress(1, None, NOT_YET),
        WaitProgress(2, BOOTING, None),
        WaitProgress(3, BOOTING, LOST),
        WaitProgress(4, READY, None),
    ]
    assert wait.progress is seen[-1]


# -- how long between tries ------------------------------------------------------------------------------------


def pauses(asked):
    return [action.seconds for action in asked if isinstance(action, Sleep)]


def test_the_pauses_double_up_to_a_second():
    assert list(itertools.islice(Backoff().delays(), 8)) == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize("first", [0.001, 0.025, 5.0])
def test_a_guest_that_pushes_all_the_time_is_not_asked_all_the_time(first):
    """A notification cuts a pause short, but not to less than the first pause."""
    asked, _ = run(wait_ready(ReadyWait(backoff=Backoff(first=first))), [BOOTING, None] * 9 + [REFUSED])
    sleeps = [action for action in asked if isinstance(action, Sleep)]
    assert len(sleeps) == 10
    assert all(sleep.least == min(first, sleep.seconds) > 0 for sleep in sleeps)
    assert Sleep(1.0).least == 0


def test_jitter_changes_a_pause_and_not_the_next():
    delays = Backoff(first=1, factor=3, maximum=20, jitter=lambda delay: delay / 2).delays()
    assert list(itertools.islice(delays, 5)) == [0.5, 1.5, 4.5, 10, 10]
    assert next(Backoff(first=5, maximum=2).delays()) == 2


def test_pauses_grow_while_nothing_moves_and_start_again_when_it_does():
    asked, _ = run(
        wait_ready(redial=True),
        # The first error and the first state move something, and so does each change after that.
        [NOT_YET, None, NOT_YET, None, NOT_YET, None, None, BOOTING, None, BOOTING, None, BOOTING, None,
         Health("degraded"), None, LATE, None, LATE],
    )  # fmt: skip
    assert pauses(asked) == [0.025, 0.05, 0.1, 0.025, 0.05, 0.1, 0.025, 0.025, 0.05]


def test_a_guest_that_answers_is_asked_again_soon_and_one_that_does_not_is_left_alone():
    asked, _ = run(wait_ready(), [BOOTING, None] * 7 + [BOOTING])
    assert pauses(asked)[-3:] == [0.1, 0.1, 0.1]
    asked, _ = run(wait_ready(redial=True), [NOT_YET, None] * 8 + [NOT_YET])
    assert pauses(asked)[-3:] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("field", ["first", "factor", "maximum", "answering"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_backoff_that_could_spin_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be more than 0"):
        Backoff(**{field: value})


def test_a_try_that_takes_no_time_is_refused():
    with pytest.raises(ValueError, match="attempt_timeout must be more than 0"):
        ReadyWait(attempt_timeout=0)


# -- provisioning ----------------------------------------------------------------------------------------------

MOUNT, SECRET = Mount("share0", "/a", "9p"), InjectSecret("A", "v")
KEY, CONFIG = InjectSSHKey("admin", "ssh-ed25519 AAAA"), SetConfig("c")
PLAN = ProvisionPlan([MOUNT], [SECRET], [KEY], "c", ["a"])
OK = Ack("mount", True)
NO = Ack("mount", False, "no")
GONE = OutcomeUnknown("gone")
STATUS = {OK: StepStatus.DONE, NO: StepStatus.REFUSED, GONE: StepStatus.UNKNOWN, LOST: StepStatus.NOT_SENT}


def provisioning(plan, answers, **options):
    """Carry out `plan`, answering each request from `answers`; return the flights and the report."""
    dialogue = provision(plan, **options)
    flights, answers = [], iter(answers)
    try:
        action = next(dialogue)
        while True:
            flights.append(action.messages)
            outcomes = [next(answers) for _ in action.messages]
            for index, outcome in reversed([*enumerate(outcomes)]):
                action.on_outcome(index, outcome)
            action = dialogue.send(outcomes)
    except StopIteration as stop:
        return flights, stop.value


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("answers", [*itertools.product([OK, NO, GONE, LOST], repeat=3)])
def test_the_config_waits_for_mounts_and_secrets(answers, told):
    steps = []
    flights, report = provisioning(PLAN, [*answers, OK], on_step=steps.append if told else None)
    assert [step.request for step in report.steps] == [MOUNT, SECRET, KEY, CONFIG]
    assert [step.status for step in report.steps[:3]] == [STATUS[answer] for answer in answers]
    assert report.agents == ("a",)
    config = report.steps[3]
    # A key that was refused is no reason to wait: agents do not need it.
    if answers[:2] == (OK, OK):
        assert flights == [(MOUNT, SECRET, KEY), (CONFIG,)]
        assert config.status is StepStatus.DONE
    else:
        assert flights == [(MOUNT, SECRET, KEY)]
        assert config.status is StepStatus.NOT_SENT
        cause = next(step for step in report.steps if step.status is not StepStatus.DONE)
        why = {NO: "was refused", GONE: "has an unknown outcome", LOST: "was not sent"}
        first = next(answer for answer in answers if answer is not OK)
        assert str(config.error) == f"config was held back, because {cause.label} {why[first]}"
        assert config.error.__cause__ is cause.error
    if told:
        assert [step.request for step in steps] == [KEY, SECRET, MOUNT, CONFIG]
        assert {step.request: step.status for step in steps} == {step.request: step.status for step in report.steps}


@pytest.mark.parametrize("answers", [*itertools.product([OK, NO, GONE, LOST], repeat=4)])
def test_the_config_goes_all_the_same_if_it_is_told_to(answers):
    flights, report = provisioning(PLAN, answers, on_refusal="continue")
    assert flights == [(MOUNT, SECRET, KEY, CONFIG)]
    assert [step.status for step in report.steps] == [STATUS[answer] for answer in answers]


@pytest.mark.parametrize("on_refusal", ["stop", "continue"])
@pytest.mark.parametrize(
    ("plan", "flights"),
    [
        (ProvisionPlan(), []),
        (ProvisionPlan(config=""), [(SetConfig(""),)]),
        (ProvisionPlan([MOUNT], [SECRET]), [(MOUNT, SECRET)]),
        (ProvisionPlan(ssh_keys=[KEY]), [(KEY,)]),
    ],
)
def test_a_plan_of_one_flight_is_one_flight(plan, flights, on_refusal):
    sent, report = provisioning(plan, [OK] * 3, on_refusal=on_refusal)
    assert sent == flights
    assert report.ok
    assert len(report.steps) == len(plan.requests)


def test_the_config_may_fail_by_itself():
    _, report = provisioning(PLAN, [OK, OK, OK, NO])
    assert [step.status for step in report.failed] == [StepStatus.REFUSED]
    assert report.remaining_plan() == ProvisionPlan(config="c", agents=["a"])


@pytest.mark.parametrize("on_refusal", ["stop", "continue"])
@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("settled", [{}, {0: OK}, {0: NO}, {1: OK}, {0: OK, 1: OK}])
def test_when_the_time_is_up_the_report_says_how_far_it_went(settled, sent, on_refusal):
    steps = []
    dialogue = provision(PLAN, on_refusal=on_refusal, on_step=steps.append)
    action = next(dialogue)
    for index, outcome in settled.items():
        action.on_outcome(index, outcome)
    up = TimeUp("10 s have passed", seconds=10, sent=sent)
    with pytest.raises(StopIteration) as stop:
        dialogue.throw(up)
    report = stop.value.value
    open_ = StepStatus.UNKNOWN if sent else StepStatus.NOT_SENT
    for index, step in enumerate(report.steps[:3]):
        assert step.status is (STATUS[settled[index]] if index in settled else open_)
        if index not in settled:
            # An error of its own, which says what it is about.
            assert type(step.error) is TimeUp
            assert step.error.request is step.request
            words = "answered" if sent else "sent"
            assert str(step.error) == f"{step.request.type} was not {words}: 10 s have passed"
    assert report.steps[3].status is (open_ if on_refusal == "continue" else StepStatus.NOT_SENT)
    assert [step.request for step in steps[len(settled) :]] == [
        step.request for index, step in enumerate(report.steps) if index not in settled
    ]


def test_a_timeout_in_the_second_flight():
    dialogue = provision(PLAN)
    next(dialogue)
    action = dialogue.send([OK, OK, OK])
    assert action.messages == (CONFIG,)
    with pytest.raises(StopIteration) as stop:
        dialogue.throw(TimeUp("late"))
    assert [step.status for step in stop.value.value.steps] == [StepStatus.DONE] * 3 + [StepStatus.UNKNOWN]


@pytest.mark.parametrize("told", [True, False])
def test_a_connection_that_ends_between_the_flights_leaves_a_report(told):
    """Before, its error came out, which says that nothing was sent: who tried again mounted twice."""
    steps = []
    dialogue = provision(PLAN, on_step=steps.append if told else None)
    next(dialogue)
    dialogue.send([OK, OK, OK])
    gone = ConnectionLost("set_config was not sent: the guest closed the connection")
    with pytest.raises(StopIteration) as stop:
        dialogue.throw(gone)
    report = stop.value.value
    assert [step.status for step in report.steps] == [StepStatus.DONE] * 3 + [StepStatus.NOT_SENT]
    assert report.steps[3].error is gone
    assert steps == [*report.steps] * told
    assert report.remaining_plan() == ProvisionPlan(config="c", agents=["a"])


def test_a_connection_that_had_ended_before_the_plan_is_an_error():
    dialogue = provision(PLAN)
    next(dialogue)
    with pytest.raises(ConnectionLost, match="not sent"):
        dialogue.throw(ConnectionLost("mount was not sent: the guest closed the connection"))


def test_another_way_to_take_a_refusal_is_refused():
    """At the call, before anything runs."""
    with pytest.raises(ValueError, match="must be stop or continue"):
        provision(PLAN, on_refusal="ignore")
    with pytest.raises(TypeError, match="takes a ProvisionPlan, not str"):
        provision("plan")


def test_a_config_alone_on_a_connection_that_has_ended_is_an_error():
    dialogue = provision(ProvisionPlan(config="c"))
    next(dialogue)
    with pytest.raises(ConnectionLost, match="not sent"):
        dialogue.throw(ConnectionLost("set_config was not sent: the guest closed the connection"))


def test_secrets_of_an_earlier_try_are_redacted():
    plan = ProvisionPlan([MOUNT], earlier=[InjectSecret("API", "tok-5566778899")])
    _, report = provisioning(plan, [Ack("mount", False, "no share for tok-5566778899")])
    assert report.steps[0].error.error == "no share for [redacted]"
    assert report.earlier == plan.earlier


async def coroutine_function(_what):
    raise AssertionError


def test_coroutine_functions_are_refused_since_nothing_awaits_them():
    with pytest.raises(TypeError, match=r"^on_step is called and not awaited: pass a plain function"):
        provision(PLAN, on_step=coroutine_function)
    with pytest.raises(TypeError, match=r"^on_progress is called and not awaited: pass a plain function"):
        ReadyWait(on_progress=coroutine_function)


def test_what_is_no_function_is_refused_before_anything_is_sent():
    with pytest.raises(TypeError, match=r"^on_step must be a function or None, not int$"):
        provision(PLAN, on_step=5)
    with pytest.raises(TypeError, match=r"^on_progress must be a function or None, not str$"):
        ReadyWait(on_progress="show")
    with pytest.raises(TypeError, match="'jitter' must be callable"):
        Backoff(jitter=0.5)


def test_an_error_of_on_step_is_told_once_and_says_what_was_done():
    told = []

    def on_step(step):
        told.append(step.label)
        if step.label == "config":
            raise step.error

    dialogue = provision(PLAN, on_step=on_step, guest="vm-7")
    next(dialogue)
    dialogue.send([OK, OK, OK])
    with pytest.raises(TimeUp):
        dialogue.throw(TimeUp("late"))
    assert told == ["mount share0 at /a", "secret A", "SSH key of admin", "config"]


def test_a_timeout_that_on_step_raises_says_nothing_about_the_steps():
    """It is not that of the flight: the mount after it may have been sent."""
    mine, steps = RequestTimeout("of another client"), []

    def on_step(step):
        steps.append(step)
        if len(steps) == 1:
            raise mine

    dialogue = provision(PLAN, on_step=on_step)
    action = next(dialogue)
    with pytest.raises(RequestTimeout) as caught:
        action.on_outcome(0, OK)
    with pytest.raises(RequestTimeout) as ended:
        dialogue.throw(caught.value)
    assert ended.value is mine
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("answered", "note"),
    [
        (0, "while provisioning vm-7: no step had an outcome"),
        (2, "while provisioning vm-7: done: mount share0 at /a; refused: secret A"),
    ],
)
def test_what_ends_it_from_outside_says_what_was_done(answered, note):
    dialogue = provision(PLAN, guest="vm-7")
    action = next(dialogue)
    for index in range(answered):
        action.on_outcome(index, (OK, NO)[index])
    with pytest.raises(KeyboardInterrupt) as caught:
        dialogue.throw(KeyboardInterrupt())
    assert caught.value.__notes__ == [note]


def test_the_errors_of_the_steps_name_the_guest():
    dialogue = provision(PLAN, guest="vm-7")
    next(dialogue)
    with pytest.raises(StopIteration) as stop:
        dialogue.throw(TimeUp("0 s have passed", sent=False))
    errors = [step.error for step in stop.value.value.steps]
    assert {error.guest for error in errors} == {"vm-7"}
    assert len({id(error) for error in errors}) == len(errors)


# -- shutting down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (Ack("shutdown", True), Ack("shutdown", True)),
        (OutcomeUnknown("gone", request=Shutdown("x"), unanswered=[Shutdown("x")]), None),
        (ConnectionLost("gone", unanswered=[GetHealth(), Shutdown("x")]), None),
    ],
)
def test_a_shutdown_that_was_heard(answered, expected):
    asked, result = run(shut_down("x"), [answered])
    assert asked == [Send(Shutdown("x"), None)]
    assert result == expected
    assert not isinstance(result, Exception)


@pytest.mark.parametrize("error", [LOST, ConnectionLost("gone", unanswered=[GetHealth()]), LATE, NONSENSE])
def test_a_shutdown_that_was_not_heard(error):
    assert run(shut_down("x"), [error])[1] is error


def test_a_shutdown_that_is_refused():
    _, error = run(shut_down(), [Ack("shutdown", False, "no")])
    assert isinstance(error, RequestFailed)
    assert (error.request, error.error) == (Shutdown(), "no")


def test_a_shutdown_whose_time_is_up():
    up = TimeUp("late")
    assert run(shut_down("x"), [up])[1] is up


@pytest.mark.parametrize("action", [Connect, Sleep, lambda time: Sleep(1, time), lambda time: Send(GetHealth(), time)])
def test_a_time_that_is_no_number_is_refused(action):
    """A runner would wait for ever for it."""
    with pytest.raises(ValueError, match="must not be NaN"):
        action(math.nan)


def test_reprs_are_for_people():
    assert repr(Backoff()) == "Backoff(first=0.025, factor=2.0, maximum=1.0, answering=0.1)"


def test_where_a_wait_stands_is_for_the_wait_to_say():
    with pytest.raises(TypeError, match="progress"):
        ReadyWait(progress=WaitProgress())


def test_a_wait_that_is_ended_from_outside_notes_where_it_stood():
    dialogue = ReadyWait().run(redial=False)
    next(dialogue)
    with pytest.raises(KeyboardInterrupt) as caught:
        dialogue.throw(KeyboardInterrupt())
    assert caught.value.__notes__ == ["while waiting for the guest to be ready: 0 tries, it never reported a state"]
    closed = ReadyWait().run(redial=False)
    next(closed)
    closed.close()


@pytest.mark.parametrize("plan", ["x", None, [Ping()]])
def test_what_is_no_plan_is_not_carried_out(plan):
    with pytest.raises(TypeError, match=rf"^provision takes a ProvisionPlan, not {type(plan).__name__}$"):
        next(provision(plan))


def test_agents_are_strings():
    with pytest.raises(TypeError, match=r"^agents takes strings, not NoneType$"):
        ReadyWait(agents=[None])


@pytest.mark.parametrize(
    ("state", "shown"),
    [("", "last state ''"), ("boo\n\x1b[2J", r"last state 'boo\n\x1b[2J'"), ("x" * 10**6, "last state 'xxxxxxxx")],
)
def test_a_state_that_the_guest_made_up_is_shown_short_and_on_one_line(state, shown):
    text = str(WaitProgress(1, Health(state)))
    assert shown in text
    assert text.isprintable()
    assert len(text) < 100


def test_what_an_agent_says_is_on_one_line():
    health = Health("ready", [AgentStatus("a\nb", False, error="no\x1b[2J")])
    assert str(WaitProgress(1, health, agents=("c",)).not_ready("x")).isprintable()


def test_a_probe_that_the_deadline_cuts_off_is_a_try():
    told = []
    dialogue = ReadyWait(on_progress=told.append).run(redial=False)
    assert isinstance(next(dialogue), Send)
    late = TimeUp("the guest did not answer get_health in time", seconds=4.97186, request=GetHealth())
    with pytest.raises(NotReady, match=r"4\.97 s have passed \(1 try, it never reported a state, last error") as caught:
        dialogue.throw(late)
    assert (caught.value.tries, caught.value.last_error) == (1, late)
    assert [progress.tries for progress in told] == [1]


def test_an_error_that_is_kept_holds_no_frames():
    wait = ReadyWait()
    dialogue = wait.run(redial=True)
    next(dialogue)
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    dialogue.throw(ConnectError("refused").with_traceback(caught.tb))
    assert wait.progress.error.__traceback__ is None


def test_outcomes_that_a_runner_only_returns_are_told_as_well():
    told = []
    dialogue = provision(ProvisionPlan([MOUNT], [SECRET]), on_step=told.append)
    action = next(dialogue)
    action.on_outcome(1, OK)
    with pytest.raises(StopIteration) as stop:
        dialogue.send([NO, OK])
    assert [step.request for step in told] == [SECRET, MOUNT]
    assert [step.status for step in stop.value.value.steps] == [StepStatus.REFUSED, StepStatus.DONE]
