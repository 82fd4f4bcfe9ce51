"""Plans, steps and reports, without a guest."""

import copy
import itertools
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costs
from interrupts import traceback_sizes
from stereos_proto import (
    Ack,
    ConnectionLost,
    InjectSecret,
    InjectSSHKey,
    LocalProtocolError,
    Mount,
    OutcomeUnknown,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    SetConfig,
    StepStatus,
    StereosError,
    UnexpectedReply,
)

SENTINEL = "s3nt1nel"
MOUNT = Mount("share0", "/a", "9p")
SECRET = InjectSecret("A", SENTINEL)
KEY = InjectSSHKey("admin", "ssh-ed25519 AAAA")
CONFIG = SetConfig(f"# {SENTINEL}")


# -- plans -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.builds(Mount, st.just("t"), st.just("/p"), st.sampled_from(["9p", "virtiofs"])), max_size=3),
    st.lists(st.builds(InjectSecret, st.just("n"), st.text(st.characters(exclude_categories=["Cs"]))), max_size=3),
    st.lists(st.just(KEY), max_size=2),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
)
def test_the_config_comes_last(mounts, secrets, keys, config):
    plan = ProvisionPlan(iter(mounts), iter(secrets), iter(keys), config)
    assert plan.requests == (*mounts, *secrets, *keys, *([] if config is None else [SetConfig(config)]))
    assert plan == ProvisionPlan(mounts=mounts, secrets=secrets, ssh_keys=keys, config=config)


def test_an_empty_plan_asks_nothing():
    assert ProvisionPlan().requests == ()
    assert ProvisionPlan(config="").requests == (SetConfig(""),)


def test_a_plan_may_be_longer_than_what_is_in_flight_at_once():
    assert len(ProvisionPlan(secrets=[SECRET] * 1000).requests) == 1000


def test_a_plan_shows_no_secret():
    assert SENTINEL not in repr(ProvisionPlan([MOUNT], [SECRET], [KEY], CONFIG.content))


def refusal(kind, **fields):
    with pytest.raises(kind) as caught:
        ProvisionPlan(**fields)
    shown = traceback.TracebackException(kind, caught.value, caught.tb.tb_next, capture_locals=True)
    assert SENTINEL not in "".join(shown.format())
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mounts": [Mount("t", "/p\udc80", "9p")]}, "cannot send mount"),
        ({"secrets": [InjectSecret("A", SENTINEL, -1)]}, "cannot send inject_secret"),
        ({"secrets": [InjectSecret("A", SENTINEL * 2**17)]}, "cannot send inject_secret"),
        ({"ssh_keys": [InjectSSHKey("admin", "ssh-rsa A\nssh-rsa B")]}, "newline"),
        ({"config": SENTINEL * 2**17}, "cannot send set_config: the line would be"),
        ({"config": SENTINEL.encode()}, "cannot send set_config"),
    ],
)
def test_what_could_never_be_sent_makes_no_plan(fields, words):
    assert words in refusal(LocalProtocolError, **{"config": SENTINEL, **fields})


@pytest.mark.parametrize("error", [KeyError("A"), KeyboardInterrupt()])
def test_an_iterable_that_raises_makes_no_plan(error):
    def secrets():
        yield InjectSecret("A", SENTINEL)
        raise error

    refusal(type(error), secrets=secrets(), config=SENTINEL)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mounts": [SECRET]}, "mounts takes Mount only, not InjectSecret"),
        ({"secrets": [MOUNT]}, "secrets takes InjectSecret only, not Mount"),
        ({"ssh_keys": ["ssh-rsa A"]}, "ssh_keys takes InjectSSHKey only, not str"),
        ({"agents": [1]}, "agents takes str only, not int"),
        ({"agents": "coder"}, "agents takes several strings, such as a tuple of them, not one string"),
        ({"warnings": "w"}, "warnings takes several strings, such as a tuple of them, not one string"),
        ({"mounts": "/a"}, "mounts takes several Mount, such as a tuple of them, not one string"),
        ({"secrets": "A"}, "secrets takes several InjectSecret, such as a tuple of them, not one string"),
        ({"ssh_keys": "k"}, "ssh_keys takes several InjectSSHKey, such as a tuple of them, not one string"),
        ({"earlier": "e"}, "earlier takes several Request, such as a tuple of them, not one string"),
    ],
)
def test_steps_are_of_their_kind(fields, words):
    assert words in refusal(TypeError, **{"config": SENTINEL, **fields})


# -- steps -----------------------------------------------------------------------------------------------------

#: What may become of a request, and what its step says then.
OUTCOMES = [
    (Ack("mount", True), StepStatus.DONE),
    (Ack("mount", True, "a warning"), StepStatus.DONE),
    (Pong(), StepStatus.DONE),
    (Ack("mount", False, "no"), StepStatus.REFUSED),
    (Ack("", False), StepStatus.REFUSED),
    (OutcomeUnknown("gone"), StepStatus.UNKNOWN),
    (RequestTimeout("late", sent=True), StepStatus.UNKNOWN),
    # The guest answered something else, so it had been asked.
    (RemoteProtocolError("nonsense"), StepStatus.UNKNOWN),
    (UnexpectedReply("another's"), StepStatus.UNKNOWN),
    (RequestTimeout("late", sent=False), StepStatus.NOT_SENT),
    (ConnectionLost("gone"), StepStatus.NOT_SENT),
    (LocalProtocolError("too long"), StepStatus.NOT_SENT),
]


@pytest.mark.parametrize(("outcome", "status"), OUTCOMES)
def test_what_an_outcome_says_of_a_step(outcome, status):
    step = ProvisionStep.of(MOUNT, outcome)
    assert (step.request, step.status) == (MOUNT, status)
    if status is StepStatus.DONE:
        assert step.error is None
    elif status is StepStatus.REFUSED:
        assert isinstance(step.error, RequestFailed)
        assert (step.error.request, step.error.error) == (MOUNT, outcome.error)
    else:
        assert step.error is outcome


@pytest.mark.parametrize(
    ("request_", "label"),
    [
        (MOUNT, "mount share0 at /a"),
        (SECRET, "secret A"),
        (KEY, "SSH key of admin"),
        (CONFIG, "config"),
    ],
)
def test_labels_hold_no_secret(request_, label):
    step = ProvisionStep.of(request_, Ack(request_.type, False, f"cannot write {SENTINEL}"))
    assert step.label == label
    assert SENTINEL not in repr(ProvisionStep.of(SECRET, Ack("inject_secret", False, f"cannot write {SENTINEL}")))


# -- reports ---------------------------------------------------------------------------------------------------


FEW = [Ack("mount", True), Ack("mount", False), OutcomeUnknown("gone")]


@pytest.mark.parametrize(
    "outcomes", [outcomes for size in range(4) for outcomes in itertools.product(FEW, repeat=size)]
)
def test_a_report_is_ok_when_every_step_is_done(outcomes):
    report = ProvisionReport(tuple(ProvisionStep.of(MOUNT, outcome) for outcome in outcomes))
    failed = [step for step in report.steps if step.error is not None]
    assert report.failed == tuple(failed)
    assert report.ok is (not failed)
    if failed:
        with pytest.raises(type(failed[0].error)) as caught:
            report.raise_for_failure()
        assert caught.value is failed[0].error
    else:
        report.raise_for_failure()


def test_a_step_that_failed_for_no_reason_is_not_hidden_by_the_next():
    steps = (ProvisionStep(MOUNT, StepStatus.NOT_SENT), ProvisionStep(KEY, StepStatus.UNKNOWN, ConnectionLost("x")))
    with pytest.raises(StereosError, match="mount share0 at /a: not sent"):
        ProvisionReport(steps).raise_for_failure()


# -- a second try ----------------------------------------------------------------------------------------------

NO, GONE, LOST = Ack("mount", False, "no"), OutcomeUnknown("gone"), ConnectionLost("lost")
OUTCOMES = [Ack("mount", True), NO, GONE, LOST]


def report_of(*pairs, agents=()):
    return ProvisionReport(tuple(ProvisionStep.of(request, outcome) for request, outcome in pairs), agents)


@pytest.mark.parametrize("outcomes", [*itertools.product(OUTCOMES, repeat=4)])
def test_what_is_done_is_not_done_again(outcomes):
    report = report_of(*zip((MOUNT, SECRET, KEY, CONFIG), outcomes, strict=True), agents=("a",))
    plan = report.remaining_plan(unknown_mounts="repeat")
    assert plan.requests == tuple(step.request for step in report.failed)
    assert plan.agents == ("a",)
    assert plan.warnings == ()
    if outcomes[0] is not GONE:
        assert report.remaining_plan() == report.remaining_plan(unknown_mounts="skip") == plan
        return
    # Whether it is mounted cannot be known: neither repeated nor left out in silence.
    assert report.remaining_plan(unknown_mounts="skip").requests == plan.requests[1:]
    with pytest.raises(OutcomeUnknown, match=r"mount share0 at /a\. Run `findmnt` in the guest") as caught:
        report.remaining_plan()
    assert caught.value.request is MOUNT
    assert caught.value.__cause__ is GONE


def test_what_is_left_of_a_long_plan():
    """Each step was looked for in a list of steps: 4,000 secrets took 2 s."""
    steps = [ProvisionStep(InjectSecret(f"s{number}", "v"), StepStatus.DONE) for number in range(1000)]
    steps += [ProvisionStep(InjectSecret(f"t{number}", "v"), StepStatus.NOT_SENT) for number in range(1000)]
    report = ProvisionReport(tuple(steps))
    with costs.counted_calls() as cost:
        plan = report.remaining_plan()
    assert (len(plan.secrets), len(plan.earlier)) == (1000, 1000)
    assert cost.calls < 200 * len(steps)


def test_all_mounts_of_unknown_outcome_are_named():
    other = Mount("share1", "/b", "9p")
    with pytest.raises(OutcomeUnknown, match="mount share0 at /a, mount share1 at /b"):
        report_of((MOUNT, GONE), (other, GONE)).remaining_plan()


@pytest.mark.parametrize(
    ("path", "below", "hidden"),
    [
        ("/a", "/a/b", True),
        ("/a/", "/a/b", True),
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/a/b", "/a", False),
        ("/x/../a", "/a/b", True),
        ("/a", "/x/../a/./b", True),
        ("/", "/a", True),
        ("/a/b/../c", "/a/c/d", True),
        ("/../a", "/a/b", True),
    ],
)
def test_a_mount_that_would_hide_another_is_named(path, below, hidden):
    report = report_of((Mount("t", path, "9p"), NO), (Mount("u", below, "9p"), Ack("mount", True)), (SECRET, NO))
    warning = f"mount t at {path} would hide what is mounted below it: mount u at {below}"
    assert report.remaining_plan().warnings == ((warning,) if hidden else ())


def test_a_mount_that_would_hide_one_that_is_skipped_is_named():
    """What is skipped was found to be mounted."""
    late = RequestTimeout("late", sent=True)
    report = report_of((Mount("t", "/a", "9p"), NO), (Mount("u", "/a/b", "9p"), late))
    warning = "mount t at /a would hide what is mounted below it: mount u at /a/b"
    assert report.remaining_plan(unknown_mounts="skip").warnings == (warning,)
    assert report.remaining_plan(unknown_mounts="repeat").warnings == ()


def test_a_second_try_remembers_the_secrets_of_the_first():
    """They are redacted when the guest quotes them. They are neither sent again, nor shown, nor pickled."""
    report = report_of((MOUNT, Ack("mount", True)), (SECRET, Ack("inject_secret", True)), (KEY, NO), (CONFIG, NO))
    plan = report.remaining_plan()
    assert plan.requests == (KEY, CONFIG)
    assert plan.earlier == (SECRET,)
    assert plan == ProvisionPlan((), (), (KEY,), CONFIG.content, plan.agents, plan.warnings)
    assert SENTINEL not in repr(plan)
    with pytest.raises(TypeError, match="may hold a secret"):
        pickle.dumps(plan)
    second = ProvisionReport(tuple(ProvisionStep.of(request, NO) for request in plan.requests), (), plan.earlier)
    assert "InjectSecret" not in repr(second)
    assert second == ProvisionReport(second.steps)
    assert copy.deepcopy(second) is copy.copy(second) is second
    assert second.remaining_plan().earlier == (SECRET,)
    assert SENTINEL.encode() not in pickle.dumps(second)
    assert pickle.loads(pickle.dumps(second)).earlier == ()


def test_a_skipped_mount_holds_no_secret_to_remember():
    report = report_of((MOUNT, RequestTimeout("late", sent=True)), (SECRET, NO))
    assert report.remaining_plan(unknown_mounts="skip").earlier == ()


def test_other_ways_to_take_unknown_mounts_are_refused():
    with pytest.raises(ValueError, match="must be raise, repeat or skip"):
        report_of().remaining_plan(unknown_mounts="ignore")


def test_a_step_that_was_held_back():
    # The guest quotes a secret of another request: the step that was refused shows it, this one does not.
    cause = ProvisionStep.of(MOUNT, Ack("mount", False, f"no {SENTINEL}"))
    step = ProvisionStep.held_back(CONFIG, cause)
    assert step.status is StepStatus.NOT_SENT
    assert str(step.error) == "config was held back, because mount share0 at /a was refused"
    assert step.error.__cause__ is cause.error
    assert SENTINEL not in str(step.error)


def test_warnings_are_sentences():
    assert ProvisionPlan(warnings=iter(["a", "b"])).warnings == ("a", "b")
    with pytest.raises(TypeError, match="warnings takes str only"):
        ProvisionPlan(warnings=[1])
    with pytest.raises(TypeError, match="not one string"):
        ProvisionPlan(warnings="a")


def test_a_step_is_pickled_without_its_secret_and_copied_as_it_is():
    step = ProvisionStep(InjectSecret("TOKEN", "s3nt1nel"), StepStatus.DONE)
    assert copy.copy(step) is copy.deepcopy(step) is step
    pickled = pickle.dumps(step)
    assert b"s3nt1nel" not in pickled
    again = pickle.loads(pickled)
    assert (again.request.name, again.status) == ("TOKEN", StepStatus.DONE)


def test_errors_of_steps_name_the_guest():
    refused = ProvisionStep.of(MOUNT, Ack("mount", False, "busy"), guest="web-5")
    held = ProvisionStep.held_back(SetConfig("x"), refused, "web-5")
    assert (refused.error.guest, held.error.guest) == ("web-5", "web-5")


def test_what_is_left_shows_no_secret_when_it_cannot_be_planned():
    step = ProvisionStep(InjectSecret("n", "v"), StepStatus.NOT_SENT)
    report = ProvisionReport(
        (pickle.loads(pickle.dumps(step)), ProvisionStep(SetConfig(SENTINEL), StepStatus.NOT_SENT))
    )
    with pytest.raises(LocalProtocolError) as caught:
        report.remaining_plan()
    shown = traceback.TracebackException(LocalProtocolError, caught.value, caught.tb.tb_next, capture_locals=True)
    assert SENTINEL not in "".join(shown.format())


def test_a_report_in_words():
    secret = ProvisionStep.of(InjectSecret("A", SENTINEL), Ack("inject_secret", False, f"no {SENTINEL}"))
    report = ProvisionReport((ProvisionStep(MOUNT, StepStatus.DONE), secret))
    assert str(report) == (
        f"done: {ProvisionStep(MOUNT, StepStatus.DONE).label}\n"
        "refused: secret A (the guest refused inject_secret: no [redacted])"
    )
    assert str(ProvisionReport(())) == "no steps"


def test_a_refusal_cannot_forge_a_line_of_a_report():
    report = report_of((MOUNT, Ack("mount", False, "no)\ndone: secret n\r\nand more")))
    assert str(report).count("\n") == 0
    assert "no) done: secret n and more" in str(report)
    assert str(report.steps[0]) == str(report)


def test_the_traceback_of_a_failure_does_not_grow():
    report = report_of((MOUNT, Ack("mount", False, "no")))
    assert len(traceback_sizes(RequestFailed, report.raise_for_failure)) == 1


def test_mounts_of_unknown_outcome_tell_which_guest_and_all_requests():
    step = ProvisionStep.of(MOUNT, OutcomeUnknown("gone", request=MOUNT), guest="vm-7")
    with pytest.raises(OutcomeUnknown) as caught:
        ProvisionReport((step, step)).remaining_plan()
    assert (caught.value.guest, caught.value.request) == ("vm-7", MOUNT)
    assert caught.value.unanswered == (MOUNT, MOUNT)
    assert caught.value.__notes__ == ["guest: vm-7"]
    bare = ProvisionStep(MOUNT, StepStatus.UNKNOWN)
    with pytest.raises(OutcomeUnknown) as caught:
        ProvisionReport((bare,)).remaining_plan()
    assert caught.value.guest is None
