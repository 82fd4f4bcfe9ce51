"""What runs dialogues: over one client, or over one after another; and what ends them."""

import asyncio
import math
import pickle
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from interrupts import interrupt_after, locals_of
from stereos_proto import (
    ConnectError,
    ConnectionLost,
    GetHealth,
    Health,
    InjectSecret,
    Lifecycle,
    Ping,
    Pong,
    ProvisionPlan,
    RemoteProtocolError,
    RequestTimeout,
    encode,
)
from stereos_proto.dialogues import Connect, Send, SendMany, Sleep
from stereos_proto_io.driver import AsyncRunner, SyncRunner, _sync_dial, _sync_runner
from stereos_proto_io.testing import simulated_guest

from .guests import PING, PONG, scripted
from .harness import (
    BLOCKING,
    DRIVERS,
    PATIENCE,
    TRIO,
    Interrupted,
    async_drivers,
    attached,
    each_driver,
    entered,
    result,
    run,
)

#: A loop may end a sleep early: uvloop rounds the time now and the deadline to whole milliseconds.
TICK = 0.002


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
        with pytest.raises(RuntimeError, match="cannot dial, but yielded Connect"):
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
                with pytest.raises(
                    TypeError,
                    match=rf"a \S+{driver.name.replace('uvloop', 'asyncio')}\.Client, not a \S+{other.name}\.Client",
                ):
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
def test_a_connection_is_dropped_once(driver, caplog):
    """Whoever dials for the third time has no connection any more that could be dropped."""

    def dials():
        for _ in range(3):
            with suppress(ConnectError):
                yield Connect(1.0)

    def fails(*_limit):
        raise ConnectError("nobody is there")

    async def fails_too():
        fails()

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            async with attached(driver, ours) as client:
                runner = runner_of(driver, client=client, dial=fails if driver is BLOCKING else fails_too)
                await running(driver, runner, dials())

    with caplog.at_level("DEBUG", logger="stereos_proto_io"):
        run(driver, main)
    assert caplog.text.count("the connection is dropped, to dial again") == 1


@each_driver
def test_a_sleep_without_a_connection_is_a_sleep(driver):
    def sleeps():
        start = time.monotonic()
        yield Sleep(0.05)
        assert time.monotonic() - start >= 0.05 - TICK
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
                with pytest.raises(RuntimeError, match="cannot dial, but yielded Connect"):
                    await result(client.run(iter_of(Connect(1.0))))
                assert await result(client.ping()) == Pong()

    def iter_of(action):
        yield action

    run(driver, main)


# ------------------------------------------------------------------------------------------------ times and ends


@each_driver
def test_no_time_at_all_sends_nothing(driver):
    def asks():
        try:
            yield Send(Ping(), 0)
        except RequestTimeout as exc:
            return exc
        return None

    async def main():
        async with attached(driver, ours) as client:
            error = await result(client.run(asks(), timeout=PATIENCE))
            assert not error.sent
            assert "in time" in str(error)
            with pytest.raises(RequestTimeout) as caught:
                await result(client.run(send_many(Ping(), Ping()), timeout=0))
            assert not caught.value.sent
            assert client.connection.pending == ()

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)
        assert theirs.recv(1) == b""


def send_many(*messages):
    return (yield SendMany(messages, lambda _index, _outcome: None))


@each_driver
def test_a_request_of_a_dialogue_that_is_late_says_so(driver):
    def asks():
        yield Send(Ping(), 0.05)

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(RequestTimeout, match="did not answer ping in time") as caught:
                await result(client.run(asks()))
            assert caught.value.sent

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


@each_driver
def test_each_request_of_a_flight_that_is_late_says_so(driver):
    def flight():
        yield SendMany((Ping(), GetHealth()), lambda _index, outcome: told.append(outcome))

    async def main():
        async with attached(driver, ours) as client:
            await result(client.run(flight(), timeout=0.05))

    told = []
    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)
    assert [str(error).partition(" did ")[2] for error in told] == [
        "not answer ping in time",
        "not answer get_health in time",
    ]


@each_driver
def test_less_than_a_second_is_time_enough(driver):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            assert await result(client.run(send_many(Ping(), GetHealth()), timeout=0.9))

    with simulated_guest() as guest:
        run(driver, main)


@each_driver
def test_each_outcome_of_a_flight_is_reported(driver):
    def flight():
        yield SendMany((Ping(), GetHealth()), lambda index, outcome: told.append((index, outcome)))

    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            await result(client.run(flight()))
        assert [(index, type(outcome)) for index, outcome in told] == [(0, Pong), (1, Health)]

    told = []
    with simulated_guest() as guest:
        run(driver, main)


@async_drivers
@pytest.mark.parametrize("dialogue", ["send", "send_many", "request_many"])
def test_a_dialogue_that_is_cancelled_gives_its_requests_up(driver, dialogue):
    def send():
        yield Send(Ping(), 3600)

    async def main():
        async with attached(driver, ours) as client:
            if dialogue == "request_many":
                asking = client.request_many([Ping(), Ping()])
            else:
                asking = client.run(send() if dialogue == "send" else send_many(Ping(), Ping()))
            if driver is TRIO:
                with trio.move_on_after(0.05):
                    await asking
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asking, 0.05)
            assert client._session.pending == ()
            # They were sent, and their replies will be swallowed.
            assert len(client.connection.pending) == (1 if dialogue == "send" else 2)

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


@each_driver
def test_a_dialogue_is_told_what_ends_it_from_outside(driver, monkeypatch):
    def asks():
        try:
            yield Send(Ping(), None)
        except BaseException as exc:
            told.append(exc)
            raise

    def interrupted(*_arguments):
        raise Interrupted

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(Interrupted) as caught:
                await result(client.run(asks()))
        assert told == [caught.value]

    told = []
    monkeypatch.setattr(driver.Client, "_ask" if driver is BLOCKING else "_ask_within", interrupted)
    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


@each_driver
def test_what_ends_a_flight_gives_the_rest_of_it_up(driver):
    def flight():
        yield SendMany((Ping(), Ping(), Ping()), fail)

    def fail(_index, _outcome):
        raise ZeroDivisionError

    async def main():
        async with attached(driver, ours) as client:
            with pytest.raises(ZeroDivisionError):
                await result(client.run(flight()))
            assert client._session.pending == ()
            assert len(client.connection.pending) == 2

    def guest(sock):
        sock.recv(1000)
        sock.sendall(PONG)
        sock.recv(1)

    with scripted(guest) as ours:
        run(driver, main)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_what_came_early_may_end_the_connection(driver):
    """Bytes that came with a preamble's answer are looked at when the client is made."""

    async def main():
        client = driver.Client(ours, early=b"oops\n")
        assert isinstance(client._session.ended, RemoteProtocolError)
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


@each_driver
def test_a_pause_is_a_pause_and_no_more(driver):
    """A notification ends it, but not before the least time; without one it takes all of its time."""

    def pauses():
        yield Sleep(0.1)
        first = time.monotonic()
        # What has come before does not end it.
        yield Send(Ping(), None)
        yield Sleep(PATIENCE, least=0.1)
        second = time.monotonic()
        # A notification ends one pause, not all that follow.
        yield Sleep(0.1)
        return first, second, time.monotonic()

    async def main():
        async with attached(driver, ours) as client:
            start = time.monotonic()
            first, second, third = await result(client.run(pauses()))
            assert first - start >= 0.1 - TICK
            assert 0.1 - TICK <= second - first < PATIENCE
            assert third - second >= 0.1 - TICK

    def guest(sock):
        assert sock.recv(1000) == PING
        sock.sendall(PONG)
        sock.sendall(encode(Lifecycle("ready")))
        sock.recv(1)

    with scripted(guest) as ours:
        run(driver, main)


@each_driver
@pytest.mark.parametrize("seconds", [math.inf, 1e10, 2.0**70])
@pytest.mark.parametrize("ended", [True, False], ids=["after the end", "before the end"])
def test_a_pause_may_last_longer_than_the_system_can_wait(driver, seconds, ended, monkeypatch):
    def pauses():
        if ended:
            with pytest.raises(ConnectionLost):
                yield Send(Ping(), None)
        yield Sleep(seconds, least=seconds)

    def sleep(pause):
        assert 0 < pause <= threading.TIMEOUT_MAX
        raise Interrupted

    async def main():
        async with attached(driver, ours) as client:
            if driver is BLOCKING:
                with pytest.raises(Interrupted):
                    client.run(pauses(), timeout=math.inf)
            elif driver is TRIO:
                with trio.move_on_after(0.1) as scope:
                    await client.run(pauses())
                assert scope.cancelled_caught
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.run(pauses())

    ours, theirs = socket.socketpair()
    with theirs:
        if ended:
            theirs.shutdown(socket.SHUT_WR)
        else:
            theirs.sendall(encode(Lifecycle("ready")))  # it ends the wait for one, and the least time remains
        if driver is BLOCKING:
            monkeypatch.setattr(time, "sleep", sleep)
        run(driver, main)


def test_a_long_pause_is_a_pause_after_another(monkeypatch):
    now, pauses = [100.0], []

    class Sleeper(BLOCKING.Client):
        @classmethod
        def _sleep(cls, seconds):
            pauses.append(seconds)
            now[0] += seconds

    def pausing():
        yield Sleep(200_000.0)

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(_sync_runner, "time", clock)
    monkeypatch.setattr(_sync_dial, "time", clock)
    SyncRunner(Sleeper).run(pausing(), math.inf)
    assert pauses == [86_400.0, 86_400.0, 27_200.0]


@each_driver
def test_an_error_that_a_dialogue_raises_names_the_guest(driver):
    def fails():
        yield Send(Ping(), None)
        raise ConnectError("no way")

    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            with pytest.raises(ConnectError) as caught:
                await result(client.run(fails()))
        assert caught.value.guest == str(guest.address)

    with simulated_guest() as guest:
        run(driver, main)


def test_what_takes_no_time_takes_no_time():
    """Closing, a dialogue without an action, a pause of no length. The clock stands still unless all sleep."""

    def nothing():
        return "nothing"
        yield

    async def main():
        async with attached(TRIO, ours) as client:
            assert await client.run(nothing()) == "nothing"
            await client._sleep(-1)
        assert trio.current_time() == start
        await TRIO.Client._sleep(0.25)
        assert trio.current_time() == start + 0.25

    ours, theirs = socket.socketpair()
    clock = trio.testing.MockClock(autojump_threshold=0)
    start = clock.current_time()
    with theirs:
        trio.run(main, clock=clock)


@each_driver
def test_a_client_is_not_pickled(driver):
    async def main():
        async with attached(driver, ours) as client:
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                with pytest.raises(TypeError, match="belongs to one stream"):
                    pickle.dumps(client, protocol)

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
@pytest.mark.parametrize("how", ["request", "run", "request_many"])
def test_a_ctrl_c_while_a_line_is_written_leaves_no_secret_in_the_frames(driver, how):
    secret = InjectSecret("TOKEN", "s3nt1nel")

    def send():
        yield Send(secret, 5.0)

    async def main():
        async with attached(driver, ours) as client:
            client._session.data_to_send = interrupt_after(client._session.data_to_send)
            ask = {
                "request": lambda: client.request(secret),
                "run": lambda: client.run(send()),
                "request_many": lambda: client.request_many([secret]),
            }[how]
            with pytest.raises(KeyboardInterrupt) as caught:
                await result(ask())
            assert "s3nt1nel" not in locals_of(caught.value)

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)
