"""Plans, steps and reports, without a guest."""

import itertools
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mounts": [SECRET]}, "mounts takes Mount only, not InjectSecret"),
        ({"secrets": [MOUNT]}, "secrets takes InjectSecret only, not Mount"),
        ({"ssh_keys": ["ssh-rsa A"]}, "ssh_keys takes InjectSSHKey only, not str"),
        ({"agents": [1]}, "agents takes str only, not int"),
        ({"agents": "coder"}, "not one string"),
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
