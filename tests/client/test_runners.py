"""What runs dialogues: over one client, or over one after another; and what ends them."""

import socket

import pytest

from stereos_proto import ConnectionLost, GetHealth, Ping, Pong, ProvisionPlan, RequestTimeout
from stereos_proto.dialogues import Connect, Send, Sleep
from stereos_proto_io.driver import AsyncRunner, SyncRunner
from stereos_proto_io.testing import simulated_guest

from .harness import BLOCKING, DRIVERS, attached, each_driver, entered, result, run


def runner_of(driver, **options):
    return (SyncRunner if driver is BLOCKING else AsyncRunner)(driver.Client, **options)


async def running(driver, runner, dialogue, limit=5.0):
    return await result(runner.run(dialogue, limit))


@each_driver
def test_a_dialogue_that_wants_a_connection_and_has_none(driver):
    def asks():
        yield Send(Ping(), None)

    def dials():
        yield Connect(1.0)

    async def main():
        with pytest.raises(RuntimeError, match="has not connected yet"):
            await running(driver, runner_of(driver), asks())
        with pytest.raises(RuntimeError, match="has nothing to dial"):
            await running(driver, runner_of(driver), dials())
        with pytest.raises(RuntimeError, match="has not connected yet"):
            runner_of(driver).found(driver.Client)

    run(driver, main)


@each_driver
def test_the_client_that_is_found_is_of_the_kind_that_was_dialled(driver):
    other = next(each for each in DRIVERS if each.module is not driver.module)

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(driver, ours) as client:
                runner = runner_of(driver, client=client)
                assert runner.found(driver.Client) is client
                with pytest.raises(TypeError, match="this is no Client"):
                    runner.found(other.Client)

    run(driver, main)


@each_driver
def test_a_dialogue_that_raises_something_else_is_ended_by_it(driver):
    def fails():
        yield Send(Ping(), None)
        raise ZeroDivisionError

    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            with pytest.raises(ZeroDivisionError):
                await result(client.run(fails()))
            assert await result(client.ping()) == Pong()

    with simulated_guest() as guest:
        run(driver, main)


@each_driver
def test_what_an_action_ends_in_is_thrown_into_the_dialogue_or_returned(driver):
    def asks():
        found = yield Send(Ping(), 0.05)
        yield Sleep(0.01)
        try:
            yield Connect(1.0)
        except ConnectionLost as exc:
            return found, exc
        return None

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(driver, ours) as client:

                def lost(*_limit):
                    raise ConnectionLost("the dial was in vain")

                async def lost_too():
                    lost()

                runner = runner_of(driver, client=client, dial=lost if driver is BLOCKING else lost_too)
                with pytest.raises(RequestTimeout):
                    await running(driver, runner, asks())

    run(driver, main)


@each_driver
def test_a_sleep_without_a_connection_is_a_sleep(driver):
    def sleeps():
        yield Sleep(0.01)
        return "awake"

    async def main():
        assert await running(driver, runner_of(driver), sleeps()) == "awake"
        ours, theirs = socket.socketpair()
        theirs.close()
        async with attached(driver, ours) as client:
            with pytest.raises(ConnectionLost):
                await result(client.request(GetHealth()))
            assert await result(client.run(sleeps())) == "awake"

    run(driver, main)


@each_driver
def test_what_a_client_shows_of_itself(driver):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(driver, ours, label="tcp://somewhere:1") as client:
                assert "Client tcp://somewhere:1 open" in repr(client)
                assert client.dropped_notifications == 0
            assert "Client tcp://somewhere:1 closed" in repr(client)

    run(driver, main)


@each_driver
def test_many_of_none(driver):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(driver, ours) as client:
                assert await result(client.request_many([])) == []

    run(driver, main)


@each_driver
def test_a_report_that_raises_ends_the_dialogue_and_not_the_connection(driver):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            with pytest.raises(ZeroDivisionError):
                await result(client.provision(ProvisionPlan(config="x = 1\n"), on_step=lambda _step: 1 // 0))
            assert await result(client.ping()) == Pong()

    with simulated_guest() as guest:
        run(driver, main)


@each_driver
def test_a_dialogue_that_cannot_dial_leaves_the_connection_alone(driver):
    async def main():
        with simulated_guest() as guest:
            async with entered(driver.module.connect(guest.address)) as client:
                with pytest.raises(RuntimeError, match="has nothing to dial"):
                    await result(client.run(iter_of(Connect(1.0))))
                assert await result(client.ping()) == Pong()

    def iter_of(action):
        yield action

    run(driver, main)
