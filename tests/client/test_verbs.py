"""The verbs, over a client that answers by itself: what each asks, and what it makes of the answer."""

import asyncio
import inspect
import traceback

import pytest

from stereos_proto import (
    Ack,
    ConnectionLost,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    Mount,
    NotReady,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    RequestTimeout,
    Running,
    SetConfig,
    Shutdown,
    StepStatus,
    StereosError,
    raise_for_refusal,
)
from stereos_proto.dialogues import Backoff, ReadyWait, Send, SendMany, Sleep
from stereos_proto_io.driver import READY_TIMEOUT, AsyncVerbs, SyncVerbs, ready_wait
from stereos_proto_io.testing import simulated_guest

from .guests import MOUNT
from .harness import each_driver, entered, result, run

SENTINEL = "s3nt1nel"


class Script:
    """Answers in turn, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def next(self, *asked):
        self.asked.append(asked)
        return self.answers.pop(0)

    def perform(self, action):
        """What comes of an action of a dialogue."""
        if isinstance(action, SendMany):
            outcomes = [self.next(message) for message in action.messages]
            for index, outcome in enumerate(outcomes):
                action.on_outcome(index, outcome)
            return outcomes
        return self.next(action)


class Sync(SyncVerbs):
    def __init__(self, script):
        self.script = script

    def request(self, message, *, timeout=None):
        found = self.script.next(message, timeout)
        if isinstance(found, StereosError):
            raise found
        try:
            raise_for_refusal(message, found)
            return found
        finally:
            del found

    def request_many(self, messages, *, timeout=None):
        raise AssertionError("no verb needs it")

    def run(self, dialogue, *, timeout=None):
        self.timeout = timeout
        running = Running(dialogue)
        action = running.resume(None, 0.0)
        while action is not None:
            action = running.resume(self.script.perform(action), 0.0)
        return running.result


class Async(AsyncVerbs):
    """The same, awaited. `call` runs it for a test that does not await."""

    def __init__(self, script):
        self.script = script
        self.sync = Sync(script)

    async def request(self, message):
        return self.sync.request(message)

    async def request_many(self, messages):
        raise AssertionError("no verb needs it")

    async def run(self, dialogue, *, timeout=None):  # noqa: ASYNC109
        return self.sync.run(dialogue)


def call(result):
    return asyncio.run(result) if inspect.iscoroutine(result) else result


both = pytest.mark.parametrize("client", [Sync, Async])

VERBS = [
    ("ping", (), Ping(), Pong()),
    ("get_health", (), GetHealth(), Health("ready")),
    ("set_config", ("c",), SetConfig("c"), Ack("set_config", True)),
    ("inject_secret", ("A", SENTINEL), InjectSecret("A", SENTINEL, 0o600), Ack("inject_secret", True)),
    ("inject_secret", ("A", SENTINEL, 0o644), InjectSecret("A", SENTINEL, 0o644), Ack("inject_secret", True)),
    ("inject_ssh_key", ("admin", "k"), InjectSSHKey("admin", "k"), Ack("inject_ssh_key", True)),
    ("mount", ("t", "/p", "9p"), Mount("t", "/p", "9p"), Ack("mount", True)),
    ("mount", ("t", "/p", "9p", True), Mount("t", "/p", "9p", True), Ack("mount", True)),
    ("shutdown", ("bye",), Shutdown("bye"), Ack("shutdown", True)),
]


@both
@pytest.mark.parametrize(("verb", "arguments", "message", "reply"), VERBS)
def test_each_verb_is_its_message(client, verb, arguments, message, reply):
    script = Script(reply)
    assert call(getattr(client(script), verb)(*arguments)) == reply
    assert [getattr(asked[0], "message", asked[0]) for asked in script.asked] == [message]


@pytest.mark.parametrize(("verb", "arguments"), [(verb, arguments) for verb, arguments, _, _ in VERBS[:-1]])
def test_the_timeout_is_the_callers(verb, arguments):
    script = Script(Pong())
    getattr(Sync(script), verb)(*arguments, timeout=3)
    assert script.asked[0][1] == 3


@both
@pytest.mark.parametrize(("verb", "arguments"), [("inject_secret", ("A", SENTINEL)), ("set_config", (SENTINEL,))])
def test_a_verb_that_fails_shows_no_secret(client, verb, arguments):
    for answer in (Ack(verb, False, f"cannot write {SENTINEL}"), OutcomeUnknown("gone")):
        with pytest.raises(StereosError) as caught:
            call(getattr(client(Script(answer)), verb)(*arguments))
        tb = caught.tb.tb_next
        while "_verbs" not in tb.tb_frame.f_code.co_filename:
            tb = tb.tb_next
        shown = traceback.TracebackException(type(caught.value), caught.value, tb, capture_locals=True)
        assert "s3nt1nel" not in "".join(shown.format())


@both
def test_a_shutdown_whose_ack_is_lost(client):
    lost = OutcomeUnknown("gone", request=Shutdown(), unanswered=[Shutdown()])
    assert call(client(Script(lost)).shutdown()) is None
    with pytest.raises(ConnectionLost):
        call(client(Script(ConnectionLost("gone"))).shutdown())


@both
def test_provision_reports_each_step(client):
    steps = []
    plan = ProvisionPlan([Mount("t", "/p", "9p")], config="c")
    script = Script(Ack("mount", True), OutcomeUnknown("gone"))
    report = call(client(script).provision(plan, on_step=steps.append))
    assert [asked[0] for asked in script.asked] == list(plan.requests)
    assert list(report.steps) == steps
    assert not report.ok


@both
def test_waiting_asks_sleeps_and_asks_again(client):
    script = Script(Health("booting"), None, Health("ready"))
    assert call(client(script).wait_ready(backoff=Backoff(first=0.1))) == Health("ready")
    assert [type(asked[0]) for asked in script.asked] == [Send, Sleep, Send]
    assert script.asked[0] == (Send(GetHealth(), None),)


def test_waiting_has_a_deadline_of_its_own():
    client = Sync(Script(Health("ready")))
    client.wait_ready()
    assert client.timeout == READY_TIMEOUT


@both
def test_what_a_dialogue_raises_is_raised(client):
    with pytest.raises(NotReady):
        call(client(Script(Health("shutdown"))).wait_ready())


@both
@pytest.mark.parametrize("arguments", [{"states": "ready"}, {"agents": "coder"}])
def test_one_string_is_not_several(client, arguments):
    with pytest.raises(TypeError, match="not one string"):
        call(client(Script()).wait_ready(**arguments))


def test_the_wait_is_as_it_was_asked_for():
    assert ready_wait(["a"], ["b"], None, None) == ReadyWait(["a"], ["b"])


def test_both_kinds_of_verbs_are_the_same():
    def signature(cls, name):
        found = inspect.signature(getattr(cls, name)).parameters
        return [parameter.replace(annotation=None) for parameter in found.values() if parameter.name != "timeout"]

    names = {name for name in vars(SyncVerbs) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncVerbs) if not name.startswith("_")}
    for name in names:
        assert signature(SyncVerbs, name) == signature(AsyncVerbs, name)


@pytest.mark.parametrize("limit", [None, 5.0])
@each_driver
def test_an_error_that_on_step_raises_comes_out(driver, limit):
    error, steps = RequestTimeout("mine"), []

    def on_step(step):
        steps.append(step)
        if len(steps) == 1:
            raise error

    async def main():
        with simulated_guest() as guest:
            async with entered(driver.module.connect(guest.address)) as client:
                with pytest.raises(RequestTimeout) as caught:
                    await result(client.provision(ProvisionPlan([MOUNT, MOUNT]), on_step=on_step, timeout=limit))
                assert caught.value is error
                assert [step.status for step in steps] == [StepStatus.DONE]

    run(driver, main)


@each_driver
def test_a_mount_is_writable_unless_told_otherwise(driver):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            await result(client.mount("a", "/a", "9p"))
            await result(client.mount("b", "/b", "9p", read_only=True))
        assert list(guest.simulator.mounts) == [Mount("a", "/a", "9p"), Mount("b", "/b", "9p", read_only=True)]

    with simulated_guest() as guest:
        run(driver, main)
