"""The clients log rare events at DEBUG, without values; and show all bytes to `trace`."""

from __future__ import annotations

import asyncio
import logging
import select
import socket

import pytest
import trio

from stereos_proto import InjectSecret, Lifecycle, RequestTimeout, Role
from stereos_proto_io import TCP, HybridVsock, blocking
from stereos_proto_io import asyncio as over_asyncio
from stereos_proto_io import trio as over_trio
from stereos_proto_io.driver import PollClient
from stereos_proto_io.driver._dialling import Dialling
from stereos_proto_io.testing import simulated_guest

SECRET = "a-secret-that-is-in-no-record"


@pytest.fixture
def records(caplog):
    caplog.set_level(logging.DEBUG, logger="stereos_proto_io")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "stereos_proto_io"]


def told(messages, text):
    return [message for message in messages if text in message]


def with_blocking(address, **options):
    with blocking.connect(address, timeout=10, **options) as client:
        with pytest.raises(RequestTimeout):
            client.request(InjectSecret("NAME", SECRET), timeout=0.05)
        client.ping()


def with_asyncio(address, **options):
    async def main():
        async with over_asyncio.connect(address, **options) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.request(InjectSecret("NAME", SECRET)), 0.05)
            await client.ping()

    asyncio.run(main())


def with_trio(address, **options):
    async def main():
        async with over_trio.connect(address, **options) as client:
            with trio.move_on_after(0.05):
                await client.request(InjectSecret("NAME", SECRET))
            await client.ping()

    trio.run(main)


def with_poll(address, **options):
    client = PollClient(address, **options)
    calls = [client.request(InjectSecret("NAME", SECRET), timeout=0.05)]
    watched = {}
    while not calls[-1].done or len(calls) < 2:
        if calls[0].done and len(calls) < 2:
            calls.append(client.ping() if hasattr(client, "ping") else client.request(InjectSecret("OTHER", SECRET)))
        list(client.events())
        for stream, mask in client.changes():
            watched.pop(stream, None)
            if mask:
                watched[stream] = mask
        readers = [stream for stream, mask in watched.items() if mask & 1]
        writers = [stream for stream, mask in watched.items() if mask & 2]
        readable, writable, _ = select.select(readers, writers, [], 0.02)
        for stream in {*readable, *writable}:
            client.ready(stream, (stream in readable) | 2 * (stream in writable))
        client.expire()
    client.close()
    list(client.events())
    list(client.changes())


DRIVERS = {"blocking": with_blocking, "asyncio": with_asyncio, "trio": with_trio, "poll": with_poll}


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_logged(driver, records, caplog):
    with simulated_guest(faults=["late:0.3s@inject_secret#1"]) as guest:
        DRIVERS[driver](guest.address)
    messages = records()
    for text in ("dialling (", "connected", "gave up inject_secret", "swallowed the late reply", "the session ended: "):
        assert len(told(messages, text)) == 1, messages
    assert all(message.startswith(f"{guest.address}: ") for message in messages)
    assert {record.levelno for record in caplog.records if record.name == "stereos_proto_io"} == {logging.DEBUG}
    assert not told(messages, SECRET)


@pytest.mark.parametrize("driver", DRIVERS)
def test_requests_write_no_records(driver, caplog):
    """Nothing is to be seen unasked, and nothing is formatted."""
    caplog.set_level(logging.INFO, logger="stereos_proto_io")
    with simulated_guest(faults=["late:0.3s@inject_secret#1"]) as guest:
        DRIVERS[driver](guest.address)
    assert [record for record in caplog.records if record.name == "stereos_proto_io"] == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_trace_is_shown_all_bytes(driver):
    seen = {Role.HOST: b"", Role.GUEST: b""}

    def trace(sender, data):
        seen[sender] += data

    with simulated_guest(faults=["late:0.1s@inject_secret#1"]) as guest:
        DRIVERS[driver](guest.address, trace=trace)
    assert seen[Role.HOST].count(b"\n") == 2
    assert SECRET.encode() in seen[Role.HOST]
    assert seen[Role.GUEST].count(b"\n") == 2


def test_dials_that_fail_and_dials_that_are_repeated(records):
    with simulated_guest(faults=["refuse:0.2s"], boot_time=0.1) as guest:
        blocking.connect_when_ready(guest.address, timeout=30).close()
    messages = records()
    assert told(messages, "the dial failed: cannot connect to ")
    assert len(told(messages, "dialling (")) >= 2
    assert len(told(messages, ": connected")) == 1


@pytest.mark.parametrize("driver", ["blocking", "asyncio"])
def test_a_connection_that_is_dropped_to_dial_again(driver, records):
    with simulated_guest(faults=["drop@get_health#1"]) as guest:
        if driver == "blocking":
            blocking.connect_when_ready(guest.address, timeout=30).close()
        else:

            async def main():
                await (await over_asyncio.connect_when_ready(guest.address, timeout=30)).aclose()

            asyncio.run(main())
    assert len(told(records(), "the connection is dropped, to dial again")) == 1


def test_a_handshake(records, tmp_path):
    address = HybridVsock(str(tmp_path / "vm.sock"), 1024)
    with simulated_guest(address):
        blocking.connect(address, timeout=10).close()
    assert len(told(records(), "sending HybridVsockPreamble")) == 1


def test_dropped_notifications(records):
    with simulated_guest() as guest, blocking.connect(guest.address, timeout=10, max_notifications=1) as client:
        client.ping()  # the guest knows of the connection
        for _ in range(3):
            guest.push(Lifecycle("ready"))
        client.ping()
        assert client.dropped_notifications == 2
    assert [message.split(": ")[1] for message in told(records(), "dropped")] == [
        f"dropped the oldest notification, {number} in all, as more were waiting than are kept" for number in (1, 2)
    ]


def test_a_dial_over_a_stream_that_is_there(records, tmp_path):
    """Which driver it is for makes no difference."""
    for address in (TCP("127.0.0.1", 1), HybridVsock(str(tmp_path / "vm.sock"), 1024)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            Dialling(address, now=0.0, stream=ours)
    tcp, hybrid = (f"{address}: " for address in (TCP("127.0.0.1", 1), HybridVsock(str(tmp_path / "vm.sock"), 1024)))
    assert records()[-2:] == [f"{tcp}connected", f"{hybrid}sending HybridVsockPreamble"]
