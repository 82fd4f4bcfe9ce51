"""Every client over every transport, through the cases of `check_client`."""

import asyncio
import itertools
import socket

import attrs
import pytest
import trio
import trio.testing

from stereos_proto_io import Dial, UnixSocket, VirtioSerial
from stereos_proto_io.testing import check_client, client_cases

from .guests import ADDRESSES, Wrapped, pty_to
from .harness import ASYNCIO, BLOCKING, PATIENCE, TRIO, UVLOOP, each_driver, result


def check(driver, make, address, *, left_out="", **options):
    without = () if "when_ready" in options else ["when_ready"]
    cases = client_cases(ends=address.has_connections, without=without)
    check_client(
        make,
        run=None if driver is BLOCKING else driver.run,
        within=driver.within,
        address=address,
        cases=[case for case in cases if case.name != left_out],
        deadline=PATIENCE,
        **options,
    )


@each_driver
@pytest.mark.parametrize("transport", ADDRESSES)
def test_every_address(driver, transport, tmp_path):
    def when_ready(address, seconds):
        return driver.module.connect_when_ready(address, timeout=seconds)

    check(driver, driver.module.connect, ADDRESSES[transport](tmp_path), when_ready=when_ready)


@each_driver
def test_a_guest_for_which_time_flies(driver):
    """Nothing depends on how long a case takes: a guest that is emulated, on a busy machine, takes seconds."""
    cases = [
        attrs.evolve(case, options={**case.options, "clock": map(float, itertools.count()).__next__})
        for case in client_cases(scripted=False)
        if "boot_time" not in case.options
    ]
    check_client(
        driver.module.connect, run=None if driver is BLOCKING else driver.run, within=driver.within, cases=cases
    )


@each_driver
def test_a_terminal(driver, tmp_path):
    address = VirtioSerial(tmp_path / "guest")

    def make(_address):
        terminal = pty_to(address.path)
        made = driver.module.connect(VirtioSerial(terminal.__enter__()))
        return _Both(made, terminal)

    check(driver, make, address)


class _Both:
    """A client to come, and what has to end after it."""

    def __init__(self, made, other):
        self.made, self.other = made, other
        if hasattr(made, "__aenter__"):
            self.__class__ = _AsyncBoth

    def __enter__(self):
        return self.made.__enter__()

    def __exit__(self, *exc):
        self.made.__exit__(*exc)
        self.other.__exit__(*exc)


class _AsyncBoth:
    async def __aenter__(self):
        return await self.made.__aenter__()

    async def __aexit__(self, *exc):
        await self.made.__aexit__(*exc)
        self.other.__exit__(*exc)


def connected(address):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address.path)
    return sock


@each_driver
def test_attach(driver, tmp_path):
    async def made(address):
        return await result(driver.Client.attach(connected(address)))

    class Client:
        def __init__(self, address):
            self.address = address

        async def __aenter__(self):
            self.client = await made(self.address)
            return self.client

        async def __aexit__(self, *exc):
            await result(self.client.aclose() if hasattr(self.client, "aclose") else self.client.close())

    check(driver, Client, UnixSocket(tmp_path / "guest"))


@each_driver
def test_dial(driver, tmp_path):
    def make(address):
        return driver.module.connect(Dial(lambda: connected(address), "by hand"))

    check(driver, make, UnixSocket(tmp_path / "guest"))


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_an_asyncio_stream(driver, tmp_path):
    def make(address):
        return driver.module.connect(Dial(lambda: asyncio.open_unix_connection(address.path)))

    check(driver, make, UnixSocket(tmp_path / "guest"))


@pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP], ids=str)
def test_an_asyncio_transport(driver, tmp_path):
    class Waiting(asyncio.Protocol):
        """It leaves what a guest sends at once to the client."""

        missed = False

        def connection_made(self, transport):
            transport.pause_reading()

        def data_received(self, data):
            # uvloop begins to read after `connection_made`, whatever that has said.
            self.missed = True

    async def dial(address):
        while True:
            transport, waiting = await asyncio.get_running_loop().create_unix_connection(Waiting, address.path)
            if not waiting.missed:
                return transport
            transport.abort()

    check(driver, lambda address: driver.module.connect(Dial(lambda: dial(address))), UnixSocket(tmp_path / "guest"))


@pytest.mark.parametrize("wrap", [lambda stream: stream, Wrapped, lambda stream: stream.socket])
def test_trio_streams(wrap, tmp_path):
    async def dial(address):
        return wrap(await trio.open_unix_socket(address.path))

    # A stream that takes everything tells too late that it could not be written.
    left_out = "nothing_is_sent_after_a_write_that_failed" if wrap is Wrapped else ""
    check(
        TRIO,
        lambda address: TRIO.module.connect(Dial(lambda: dial(address))),
        UnixSocket(tmp_path / "guest"),
        left_out=left_out,
    )
