"""Many callers on one client: each gets its own reply."""

import socket
import threading

import pytest

from stereos_proto import CustomRequest, Ping, Turns
from stereos_proto_io import UnixSocket, blocking
from stereos_proto_io.testing import simulated_guest

from .guests import echo, scripted
from .harness import BLOCKING, PATIENCE, TRIO, async_drivers, attached, company, entered, run, together

THREADS, EACH = 8, 12_500


def test_eight_threads_and_a_hundred_thousand_requests():
    wrong = []

    def ask(thread):
        for number in range(0, EACH, 50):
            names = [f"t{thread}-{number + step}" for step in range(50)]
            # One by one and in flights, so that leaders and followers change places all the time.
            replies = [client.request(CustomRequest(name)) for name in names[:5]]
            replies += client.request_many([CustomRequest(name) for name in names[5:]])
            if [reply.reply_to for reply in replies] != names:
                wrong.append(names)

    with scripted(echo) as ours, blocking.Client.attach(ours, timeout=PATIENCE) as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert client.connection.pending == ()
    assert wrong == []


@pytest.mark.parametrize("driver", [BLOCKING, TRIO], ids=str)
def test_whoever_follows_sleeps(driver, monkeypatch):
    """One reads; the other is woken when there is something for it, and does not look again and again."""
    steps = []
    step = Turns.step
    monkeypatch.setattr(Turns, "step", lambda *turn, **options: steps.append(turn) or step(*turn, **options))

    async def main():
        async with attached(driver, ours) as client, company(driver) as begin:
            found = [begin(lambda: driver.within(client, Ping(), 0.3)) for _ in range(2)]
        assert all(isinstance(error, TimeoutError) for (error,) in found)

    ours, theirs = socket.socketpair()
    with theirs:
        run(driver, main)
    assert 2 <= len(steps) < 20


@async_drivers
def test_fifty_tasks_on_one_client(driver):
    async def main():
        async def ask(task):
            for number in range(100):
                name = f"{task}-{number}"
                assert (await client.request(CustomRequest(name))).reply_to == name
                answered.append(name)

        answered = []
        async with attached(driver, ours) as client:
            await together(driver, *[lambda task=task: ask(task) for task in range(50)])
            assert client.connection.pending == ()
        assert len(set(answered)) == 5000

    with scripted(echo) as ours:
        driver.run(main)


@async_drivers
def test_a_loop_in_each_of_several_threads(driver, tmp_path):
    """Each with a client of its own, to the same guest."""
    answered = []

    async def main(thread):
        async with entered(driver.module.connect(guest.address)) as client:
            for number in range(25):
                names = [f"{thread}-{number}-{step}" for step in range(4)]
                replies = await client.request_many([CustomRequest(name) for name in names])
                assert [reply.reply_to for reply in replies] == names
                answered.extend(names)

    with simulated_guest(UnixSocket(tmp_path / "guest")) as guest:
        threads = [
            threading.Thread(target=driver.run, args=(lambda thread=thread: main(thread),)) for thread in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(set(answered)) == 400
