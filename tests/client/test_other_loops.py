"""A client belongs to the event loop that made it; used from another one, it says so before anything is sent."""

import asyncio
import gc
import socket

import pytest
import trio

from stereos_proto import Ping

from .harness import ASYNCIO, TRIO, UVLOOP

async_drivers = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO], ids=str)

USES = {
    "ping": lambda client: client.ping(),
    "request_many": lambda client: client.request_many([Ping()]),
    "wait_ready": lambda client: client.wait_ready(timeout=1),
    "shutdown": lambda client: client.shutdown(),
    "notifications": lambda client: anext(client.notifications()),
    "aclose": lambda client: client.aclose(),
}


@async_drivers
@pytest.mark.parametrize("use", USES)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_whose_loop_is_closed(driver, use):
    ours, theirs = socket.socketpair()

    async def make():
        made.append(driver.Client.attach(ours) if driver is TRIO else await driver.Client.attach(ours))

    async def main():
        with pytest.raises(RuntimeError, match="belongs to another"):
            await USES[use](made[0])
        assert made[0].connection.pending == ()
        assert not made[0]._session.closed

    made = []
    with theirs:
        driver.run(make)
        driver.run(main)
        made.clear()
        ours.close()
        gc.collect()
        theirs.setblocking(False)
        assert theirs.recv(1) == b""


@async_drivers
def test_a_client_that_is_used_from_a_loop_of_another_thread(driver):
    ours, theirs = socket.socketpair()
    found = []

    async def other():
        with pytest.raises(RuntimeError, match="belongs to another"):
            await client.ping()
        found.append(True)

    async def main():
        nonlocal client
        client = driver.Client.attach(ours) if driver is TRIO else await driver.Client.attach(ours)
        if driver is TRIO:
            await trio.to_thread.run_sync(driver.run, other)
        else:
            await asyncio.get_running_loop().run_in_executor(None, driver.run, other)
        await client.aclose()

    client = None
    with theirs:
        driver.run(main)
        assert theirs.recv(1) == b""
    assert found == [True]
