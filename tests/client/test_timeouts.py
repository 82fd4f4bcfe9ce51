"""What a timeout means, for every verb of every driver: one table."""

import asyncio
import math
import socket

import pytest

from stereos_proto import (
    ConnectError,
    CustomRequest,
    InjectSecret,
    Lifecycle,
    NotReady,
    Ping,
    Pong,
    ProvisionPlan,
    RequestTimeout,
    StepStatus,
    encode,
)
from stereos_proto.dialogues import Send, TimeUp
from stereos_proto_io import UnixSocket
from stereos_proto_io.asyncio import connect
from stereos_proto_io.driver import seconds
from stereos_proto_io.testing import simulated_guest

from .guests import echo, scripted
from .harness import BLOCKING, DRIVERS, attached, entered, result, run


def name_of(value):
    return str(value)[:6]


def probe():
    return (yield Send(Ping(), None))


PLAN = ProvisionPlan(secrets=(InjectSecret("NAME", "value"),), config="x = 1\n")

#: Verbs that take a timeout: all of the blocking client, and what asynchronous clients have for an error of their own.
ASYNC_VERBS = {
    "run": lambda client, **options: client.run(probe(), **options),
    "wait_ready": lambda client, **options: client.wait_ready(**options),
    "provision": lambda client, **options: client.provision(PLAN, **options),
}
VERBS = {
    **ASYNC_VERBS,
    "request": lambda client, **options: client.request(Ping(), **options),
    "request_many": lambda client, **options: client.request_many([Ping(), Ping()], **options),
    "ping": lambda client, **options: client.ping(**options),
    "get_health": lambda client, **options: client.get_health(**options),
    "set_config": lambda client, **options: client.set_config("x = 1\n", **options),
    "inject_secret": lambda client, **options: client.inject_secret("NAME", "value", **options),
    "inject_ssh_key": lambda client, **options: client.inject_ssh_key("admin", "ssh-ed25519 AAAA x", **options),
    "mount": lambda client, **options: client.mount("work", "/work", "virtiofs", **options),
    "shutdown": lambda client, **options: client.shutdown(**options),
}

each_verb = pytest.mark.parametrize(
    ("driver", "verb"),
    [(driver, verb) for driver in DRIVERS for verb in (VERBS if driver is BLOCKING else ASYNC_VERBS)],
    ids=str,
)


@each_verb
@pytest.mark.parametrize("timeout", [0, -1, -0.0, -math.inf, -(10**400)], ids=name_of)
def test_a_deadline_that_has_passed_sends_nothing(driver, verb, timeout):
    async def main():
        async with attached(driver, ours) as client:
            if verb == "provision":
                # It reports what became of each step, and raises nothing.
                report = await result(VERBS[verb](client, timeout=timeout))
                assert {step.status for step in report.steps} == {StepStatus.NOT_SENT}
            else:
                with pytest.raises(NotReady if verb == "wait_ready" else RequestTimeout):
                    await result(VERBS[verb](client, timeout=timeout))
            assert client.connection.pending == ()
        assert theirs.recv(1) == b""

    ours, theirs = socket.socketpair()
    with theirs:
        driver.run(main)


@each_verb
@pytest.mark.parametrize(
    ("timeout", "error"), [(math.nan, ValueError), ("1", TypeError), (1j, TypeError), ([], TypeError)], ids=str
)
def test_what_is_no_timeout_is_refused_before_anything_is_sent(driver, verb, timeout, error):
    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(error, match="timeout"):
                await result(VERBS[verb](client, timeout=timeout))
            assert client.connection.pending == ()
        assert theirs.recv(1) == b""

    ours, theirs = socket.socketpair()
    with theirs:
        driver.run(main)


@each_verb
@pytest.mark.parametrize("timeout", [None, 1e10, math.inf, 2.0**40, 10**400], ids=name_of)
def test_no_bound_or_a_distant_one(driver, verb, timeout):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            await result(VERBS[verb](client, timeout=timeout))

    with simulated_guest() as guest:
        driver.run(main)


#: What becomes of a dial with such a timeout.
DIALS = {"connect": ConnectError, "connect_when_ready": NotReady}


@pytest.mark.parametrize(
    ("driver", "how"),
    [(driver, how) for driver in DRIVERS for how in DIALS if driver is BLOCKING or how == "connect_when_ready"],
    ids=str,
)
@pytest.mark.parametrize("timeout", [None, math.inf, 10**400, 0, -1, math.nan, "1"], ids=name_of)
def test_the_timeout_of_a_dial(driver, how, timeout, tmp_path):
    async def main():
        async with entered(getattr(driver.module, how)(guest.address, timeout=timeout)) as client:
            assert await result(client.ping()) == Pong()

    with simulated_guest(UnixSocket(tmp_path / "guest")) as guest:
        if timeout == "1":
            with pytest.raises(TypeError, match="timeout"):
                driver.run(main)
        elif timeout is not None and timeout != timeout:
            with pytest.raises(ValueError, match="timeout"):
                driver.run(main)
        elif timeout in (0, -1):
            with pytest.raises(DIALS[how]):
                driver.run(main)
        else:
            driver.run(main)
        if timeout in (0, -1):
            assert not guest.simulator.requests


def test_the_timeout_of_the_requests_is_checked_before_a_guest_is_dialled():
    with pytest.raises(ValueError, match="timeout"):
        BLOCKING.module.connect_when_ready(UnixSocket("/nowhere"), request_timeout=math.nan)
    with pytest.raises(TypeError, match="timeout"):
        BLOCKING.module.connect_when_ready(UnixSocket("/nowhere"), request_timeout="1")


@pytest.mark.parametrize("timeout", [0, -1])
def test_notifications_that_are_there_need_no_time(timeout):
    ours, theirs = socket.socketpair()
    with theirs, BLOCKING.Client.attach(ours) as client:
        with pytest.raises(RequestTimeout):
            next(client.notifications(timeout=timeout))
        theirs.sendall(encode(Lifecycle("here")))
        assert next(client.notifications(timeout=timeout)).state == "here"


@pytest.mark.parametrize(("timeout", "error"), [(math.nan, ValueError), ("1", TypeError)])
def test_the_timeout_of_notifications_is_checked_at_once(timeout, error):
    ours, theirs = socket.socketpair()
    with theirs, BLOCKING.Client.attach(ours) as client, pytest.raises(error):
        client.notifications(timeout=timeout)


@pytest.mark.parametrize("timeout", [1e10, math.inf, 2.0**40])
def test_all_the_time_in_the_world(timeout):
    with scripted(echo) as ours, BLOCKING.Client.attach(ours) as client:
        assert client.request(CustomRequest("x"), timeout=timeout).reply_to == "x"


def test_what_is_a_number_of_seconds():
    assert [seconds(value) for value in (None, 1, 0.5, 0, -1, math.inf, 10**400, True)] == [
        math.inf, 1.0, 0.5, 0.0, 0.0, math.inf, math.inf, 1.0
    ]  # fmt: skip
    assert seconds(None, 5.0) == 5.0


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_a_plan_that_the_guest_does_not_answer_ends_with_its_time(driver):
    """The report says how far it got."""

    async def main():
        with simulated_guest(faults=["drop@inject_secret"]) as guest:
            async with entered(driver.module.connect(guest.address)) as client:
                report = await result(client.provision(PLAN, timeout=0.2))
        assert [step.status for step in report.steps] == [StepStatus.UNKNOWN, StepStatus.NOT_SENT]
        assert isinstance(report.steps[0].error, RequestTimeout)
        assert "did not answer inject_secret in time" in str(report.steps[0].error)

    run(driver, main)


class Hurried(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, as some tests have."""

    ahead = 0.0

    def time(self):
        return super().time() + self.ahead


def test_an_asyncio_client_goes_by_the_clock_of_its_loop():
    loop = Hurried()

    def dialogue():
        yield Send(Ping())
        loop.ahead += 100
        yield Send(Ping())

    async def main():
        async with connect(guest.address) as client:
            with pytest.raises(TimeUp, match="ping was not sent"):
                await client.run(dialogue(), timeout=50)

    with simulated_guest() as guest, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert [request.type for request in guest.simulator.requests] == ["ping"]
