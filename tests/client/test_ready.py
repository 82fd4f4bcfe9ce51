"""Waiting for a guest that boots."""

import asyncio
import signal
import socket
import threading

import pytest
import trio

from stereos_proto import ConnectError, ConnectionLost, Lifecycle, NotReady, Pong, RequestTimeout, encode
from stereos_proto.dialogues import Backoff
from stereos_proto_io import HybridVsock
from stereos_proto_io.testing import simulated_guest

from .guests import lines, scripted
from .harness import BLOCKING, PATIENCE, TRIO, attached, each_driver, entered, result, run, until


async def when_ready(driver, address, **options):
    async with entered(driver.module.connect_when_ready(address, **options)) as client:
        return await result(client.ping())


@each_driver
@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["reset#1"],
        ["hang-up#1", "reset#2"],
        ["slow-boot:0.1s"],
        ["refuse:0.1s"],
        ["drop@get_health#1", "close@get_health#1"],
    ],
)
def test_a_guest_that_boots_is_awaited(driver, faults):
    with simulated_guest(faults=faults) as guest:
        seen = []
        assert (
            driver.run(lambda: when_ready(driver, guest.address, timeout=PATIENCE, on_progress=seen.append)) == Pong()
        )
        assert [progress.tries for progress in seen] == list(range(1, len(seen) + 1))
        assert faults or len(seen) == 1


@each_driver
@pytest.mark.parametrize(
    # A busy machine is given the time for a try.
    ("fault", "state", "timeout"),
    [("never-ready", "booting", 1), ("stall", None, 2), ("reset", None, 1)],
)
def test_one_deadline_and_all_that_is_known_at_the_end(driver, fault, state, timeout):
    with simulated_guest(faults=[fault]) as guest:
        with pytest.raises(NotReady) as caught:
            driver.run(lambda: when_ready(driver, guest.address, timeout=timeout))
        assert caught.value.last_state == state
        assert caught.value.tries
        kinds = {
            # The deadline may come in the middle of a try.
            "never-ready": (type(None), ConnectError, RequestTimeout),
            "stall": (ConnectError, RequestTimeout),
            "reset": (ConnectionLost, ConnectError, RequestTimeout),
        }
        assert isinstance(caught.value.last_error, kinds[fault])


@each_driver
@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_to_wait(driver, timeout):
    """A deadline that has passed is no reason for another kind of error."""

    async def wait():
        async with entered(driver.module.connect(guest.address)) as client:
            await result(client.wait_ready(timeout=timeout))

    with simulated_guest(faults=["never-ready"]) as guest:
        for work in (wait, lambda: when_ready(driver, guest.address, timeout=timeout)):
            with pytest.raises(NotReady, match="0 s have passed"):
                driver.run(work)


@each_driver
def test_a_delay_below_nothing_is_none(driver):
    """As a jitter may come to."""
    backoff = Backoff(jitter=lambda delay: -delay)
    with simulated_guest(faults=["slow-boot:0.05s"]) as guest:
        assert driver.run(lambda: when_ready(driver, guest.address, timeout=PATIENCE, backoff=backoff)) == Pong()


@each_driver
@pytest.mark.parametrize("moment", ["before the report", "with the report", "in the pause"])
def test_news_of_a_guest_that_is_waited_for(driver, moment):
    """News end the pause, also when they come with the report that the guest still boots, or before it."""
    paused = threading.Event()

    def script(sock):
        asked = lines(sock)
        next(asked)
        news = encode(Lifecycle("ready"))
        report = b'{"type":"health","payload":{"state":"booting","uptime_seconds":0}}\n'
        sock.sendall({"before the report": news + report, "with the report": report + news}.get(moment, report))
        if moment == "in the pause":
            assert paused.wait(PATIENCE)
            sock.sendall(news)
        next(asked)
        sock.sendall(b'{"type":"health","payload":{"state":"ready","uptime_seconds":1}}\n')
        assert list(asked) == []

    async def main():
        backoff = Backoff(first=0.01, answering=3600, jitter=lambda _delay: 3600)
        async with attached(driver, ours) as client:
            health = await result(
                client.wait_ready(backoff=backoff, timeout=PATIENCE, on_progress=lambda _progress: paused.set())
            )
            assert (health.state, health.uptime_seconds) == ("ready", 1)

    with scripted(script) as ours:
        driver.run(main)


@each_driver
@pytest.mark.parametrize("how", ["wait_ready", "connect_when_ready"])
def test_a_wait_that_is_ended_from_outside_notes_where_it_stood(driver, how):
    """By a cancellation or a Ctrl-C: the traceback says that the guest was booting."""
    seen, caught = [], []

    class Stop(BaseException):
        pass

    def look(progress):
        seen.append(progress)
        if driver is BLOCKING:
            raise Stop

    async def wait():
        try:
            if how == "wait_ready":
                async with entered(driver.module.connect(guest.address)) as client:
                    await result(client.wait_ready(on_progress=look))
            else:
                async with entered(driver.module.connect_when_ready(guest.address, on_progress=look)):
                    pass
        except BaseException as exc:
            caught.append(exc)
            raise

    async def main():
        if driver is BLOCKING:
            with pytest.raises(Stop):
                await wait()
        elif driver is TRIO:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until(driver, lambda: seen)
                nursery.cancel_scope.cancel()
        else:
            task = asyncio.ensure_future(wait())
            await until(driver, lambda: seen)
            task.cancel()
            await asyncio.wait([task])

    with simulated_guest(faults=["never-ready"]) as guest:
        driver.run(main)
    assert "last state booting" in noted(caught[0])


def noted(error):
    """The note of an error, or of one that came before it: closing may raise another cancellation."""
    while error is not None:
        for note in getattr(error, "__notes__", ()):
            if note.startswith("while waiting for the guest to be ready: "):
                assert error.__notes__.count(note) == 1
                return note
        error = error.__context__
    return ""


@each_driver
def test_a_ctrl_c_notes_where_the_wait_stood(driver):
    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            await result(client.wait_ready(on_progress=lambda _progress: signal.raise_signal(signal.SIGINT)))

    with simulated_guest(faults=["never-ready"]) as guest, pytest.raises(KeyboardInterrupt) as caught:
        driver.run(main)
    assert "last state booting" in noted(caught.value)


@each_driver
def test_a_dial_without_an_answer_is_told_alike(driver, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "guest"))
        listener.listen()
        address = HybridVsock(tmp_path / "guest", 1024)

        async def main():
            with pytest.raises(NotReady) as caught:
                await when_ready(driver, address, timeout=0.3)
            error = caught.value.last_error
            assert (type(error), error.timed_out, error.guest) == (ConnectError, True, str(address))
            assert str(error) == f"cannot connect to {address}: no answer in time; is the guest booting, or paused?"

        run(driver, main)
