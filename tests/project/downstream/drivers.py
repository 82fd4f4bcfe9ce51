"""The three drivers: each verb, requests and dialogues, and the guest's end."""

import socket
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import pytest

from stereos_proto import (
    Ack,
    CustomRequest,
    GetHealth,
    Health,
    Mount,
    Notification,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    ProvisionStep,
    Reply,
    Request,
    Role,
)
from stereos_proto.dialogues import Backoff, WaitProgress, shut_down
from stereos_proto_io import TCP, Address, ConnectError, NotReady, RequestFailed, blocking, parse_address
from stereos_proto_io import asyncio as over_asyncio
from stereos_proto_io import trio as over_trio
from stereos_proto_io.driver import Limits
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.blocking import serve
from stereos_proto_io.testing import SimulatedGuest, simulated_guest


def traced(sender: Role, data: bytes) -> None:
    """What `trace` wants."""
    print(sender.value, len(data))


LIMITS: Limits = {"max_pending": 8, "trace": traced}


def on_progress(progress: WaitProgress) -> None:
    """What `on_progress` wants."""
    print(progress.tries)


def on_step(step: ProvisionStep) -> None:
    """What `on_step` wants."""
    print(step.status)


def block(address: Address, plan: ProvisionPlan) -> None:
    """The blocking driver."""
    with blocking.connect(address, timeout=5, **LIMITS) as guest:
        assert_type(guest, blocking.Client)
        assert_type(guest.request(Ping()), Pong)
        assert_type(guest.request(GetHealth(), timeout=1), Health)
        assert_type(guest.request(Mount("work", "/work", "9p")), Ack)
        assert_type(guest.request(CustomRequest("unmount", {})), Reply)
        assert_type(guest.request_many([Ping(), GetHealth()]), list[Reply])
        assert_type(guest.ping(), Pong)
        assert_type(guest.inject_secret("NAME", "value", mode=0o400), Ack)
        assert_type(guest.notifications(timeout=1), Iterator[Notification])
        assert_type(guest.provision(plan, on_step=on_step), ProvisionReport)
        assert_type(guest.run(shut_down(), timeout=1), Ack | None)
    with blocking.connect_when_ready(
        address, timeout=60, agents=["coder"], backoff=Backoff(), on_progress=on_progress, max_notifications=4
    ) as guest:
        try:
            guest.shutdown()
        except RequestFailed as exc:
            assert_type(exc.request, Request)
            assert_type(exc.error, str)
        except NotReady as exc:
            assert_type(exc.agents_wanted, tuple[str, ...])
            assert_type(exc.health, Health | None)
    ours, _ = socket.socketpair()
    assert_type(blocking.Client.attach(ours), blocking.Client)


async def with_asyncio(address: Address, plan: ProvisionPlan) -> None:
    """The driver for asyncio."""
    async with over_asyncio.connect(address, **LIMITS) as guest:
        assert_type(guest, over_asyncio.Client)
        assert_type(await guest.request(Ping()), Pong)
        assert_type(await guest.get_health(), Health)
        assert_type(await guest.request_many([Ping()]), list[Reply])
        assert_type(guest.notifications(), AsyncIterator[Notification])
        assert_type(await guest.provision(plan, on_step=on_step), ProvisionReport)
        assert_type(await guest.run(shut_down()), Ack | None)
    waited = await over_asyncio.connect_when_ready(address, timeout=60, on_progress=on_progress)
    await waited.aclose()
    ours, _ = socket.socketpair()
    assert_type(await over_asyncio.Client.attach(ours), over_asyncio.Client)


async def with_trio(address: Address, plan: ProvisionPlan) -> None:
    """The driver for trio."""
    async with over_trio.connect(address, **LIMITS) as guest:
        assert_type(guest, over_trio.Client)
        assert_type(await guest.request(Ping()), Pong)
        assert_type(await guest.get_health(), Health)
        assert_type(await guest.request_many([Ping()]), list[Reply])
        assert_type(guest.notifications(), AsyncIterator[Notification])
        assert_type(await guest.provision(plan, on_step=on_step), ProvisionReport)
        assert_type(await guest.run(shut_down()), Ack | None)
    async with over_trio.connect_when_ready(address, timeout=60, on_progress=on_progress) as guest:
        assert_type(guest, over_trio.Client)
    ours, _ = socket.socketpair()
    assert_type(over_trio.Client.attach(ours), over_trio.Client)


def guests() -> Address:
    """The guest's end: a handler of one's own, and the simulator."""

    def handler(request: Request) -> Reply:
        return Pong() if isinstance(request, Ping) else Ack(request.type, ok=True)

    with serve(TCP("127.0.0.1", 0), handler) as server:
        assert_type(server.address, Address)
    with serve(parse_address("tcp://127.0.0.1:0"), GuestSimulator(faults=["late:1s@ping"])) as server:
        return server.address


def test_mine(stereos_guest: SimulatedGuest) -> None:
    """A test of theirs, with the fixture and without."""
    assert_type(stereos_guest.address, Address)
    with simulated_guest(faults=["late:1s@ping"], uptime=3600) as guest, pytest.raises(ConnectError):
        blocking.connect(guest.address, timeout=1)
