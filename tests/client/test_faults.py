"""Every fault of a guest, and what every client makes of it: no call hangs, and nobody gets another's reply."""

import threading

import pytest

from stereos_proto import (
    Ack,
    AgentStatus,
    ConnectError,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    LineTooLong,
    MalformedLine,
    Mount,
    NotReady,
    OutcomeUnknown,
    Ping,
    Pong,
    RemoteProtocolError,
    RequestFailed,
    StereosError,
    UnexpectedReply,
)
from stereos_proto_io import UnixSocket
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.blocking import serve
from stereos_proto_io.guest.faults import FAULTS
from stereos_proto_io.testing import simulated_guest

from .harness import BLOCKING, PATIENCE, each_driver, entered

MOUNT = Mount("work", "/work", "virtiofs")

#: Seconds that are waited for a reply that does not come.
SILENCE = 0.1

#: What a client in use again gets: its own reply.
OWN = Ack

#: Faults → a request (None: the wait for a ready guest), the type of what it ends in, and of what the next request
#: of the same client ends in.
REPORTED = {
    "slow-boot:3600s": (None, NotReady, OWN),
    "never-ready": (None, NotReady, OWN),
    # Whether the request was written before the client heard of the end is a race.
    "reset#1": (MOUNT, ConnectionLost, ConnectionLost),
    "hang-up#1": (MOUNT, ConnectionLost, ConnectionLost),
    "cut:20#1": (MOUNT, OutcomeUnknown, ConnectionLost),
    "cut:5#1": (Ping(), ConnectionLost, ConnectionLost),
    "delay:0.01s#1": (MOUNT, Ack, OWN),
    "delay:3600s#1": (MOUNT, TimeoutError, TimeoutError),
    "late:0.01s#1": (MOUNT, Ack, OWN),
    "late:3600s#1": (MOUNT, TimeoutError, TimeoutError),
    "stall#1": (MOUNT, TimeoutError, TimeoutError),
    "drop#1": (MOUNT, TimeoutError, UnexpectedReply),
    "duplicate#1": (MOUNT, Ack, (ConnectionLost, RemoteProtocolError)),
    "swap#1": (MOUNT, TimeoutError, UnexpectedReply),
    "push:degraded:hot#1": (MOUNT, Ack, OWN),
    "half#1": (MOUNT, TimeoutError, TimeoutError),
    "garbage#1": (MOUNT, MalformedLine, ConnectionLost),
    "blank#1": (MOUNT, Ack, OWN),
    "over-long#1": (Ping(), LineTooLong, ConnectionLost),
    "wrong-type#1": (MOUNT, UnexpectedReply, ConnectionLost),
    "fail:exit status 32#1": (MOUNT, RequestFailed, OWN),
    "deny:exit status 32#1": (MOUNT, RequestFailed, OWN),
    "omit:restarts#1": (GetHealth(), Health, OWN),
    "close#1": (Ping(), Pong, ConnectionLost),
    "power-off#1": (Ping(), Pong, ConnectionLost),
    "reboot#1": (Ping(), Pong, ConnectionLost),
}


def test_every_fault_is_reported():
    assert {text.partition(":")[0].partition("#")[0] for text in REPORTED} | {"refuse"} == set(FAULTS)


async def within(driver, seconds, call, *args):
    """What `call` ends in; the reply, or the error."""
    try:
        if driver is BLOCKING:
            return call(*args, timeout=seconds)
        return await driver.Client._bounded(seconds, call, *args)
    except StereosError as exc:
        return exc


async def asks_its_own(driver, client, name, seconds):
    """What a request ends in whose ack names it. An ack of another name is somebody else's."""
    found = await within(driver, seconds, client.request_many, [CustomRequest(name)])
    if isinstance(found, list):
        assert [reply.reply_to for reply in found] == [name]
        return found[0]
    return found


async def a_fresh_client_gets_its_own(driver, address):
    made = driver.module.connect_when_ready(address, timeout=PATIENCE, states=("booting", "ready"))
    async with entered(made) as fresh:
        for name in ("fresh-1", "fresh-2"):
            assert isinstance(await asks_its_own(driver, fresh, name, PATIENCE), Ack)


def patience(expected):
    return SILENCE if expected is TimeoutError else PATIENCE


@each_driver
@pytest.mark.parametrize("text", REPORTED)
def test_what_a_client_reports(driver, text, tmp_path):
    request, reported, next_ = REPORTED[text]

    async def main():
        async with entered(driver.module.connect(guest.address)) as client:
            if request is None:
                found = await within(driver, PATIENCE, lambda timeout=0: client.wait_ready(timeout=SILENCE))
            else:
                found = await within(driver, patience(reported), client.request, request)
            assert isinstance(found, reported)
            found = await asks_its_own(driver, client, "next", patience(next_))
            assert isinstance(found, next_)
            assert client.connection.pending == () or not isinstance(found, Ack)
        if text.startswith("power-off"):
            with pytest.raises(ConnectError):
                await _dial(driver, guest.address)
        else:
            await a_fresh_client_gets_its_own(driver, guest.address)

    agents = [AgentStatus("a", running=True, restarts=3)]
    with simulated_guest(UnixSocket(tmp_path / "guest"), faults=[text], agents=agents) as guest:
        driver.run(main)


async def _dial(driver, address):
    async with entered(driver.module.connect(address)):
        pass


@each_driver
def test_a_guest_that_refuses(driver, tmp_path):
    opened = threading.Event()

    async def main():
        with pytest.raises(ConnectError):
            await _dial(driver, address)
        opened.set()
        await a_fresh_client_gets_its_own(driver, address)

    address = UnixSocket(tmp_path / "guest")
    simulator = GuestSimulator(faults=["refuse:3600s"])
    with serve(address, simulator, sleep=lambda _seconds: opened.wait(PATIENCE)):
        try:
            driver.run(main)
        finally:
            opened.set()
