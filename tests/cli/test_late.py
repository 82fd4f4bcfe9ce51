"""A guest whose time is up is sent nothing more, alone as well as among many, and the error says so."""

from __future__ import annotations

import asyncio
import socket
from contextlib import nullcontext

import pytest

from stereos_proto import ConnectError, Mount, RequestTimeout, SetConfig
from stereos_proto_io.addresses import UnixSocket
from stereos_proto_io.cli._contact_asyncio import AsyncContact
from stereos_proto_io.cli._contact_blocking import BlockingContact, finish
from stereos_proto_io.cli._deadline import Deadline
from stereos_proto_io.cli._targets import Target
from stereos_proto_io.testing import simulated_guest

MOUNT = Mount("share0", "/work", "9p")


async def _mount(contact):
    await contact.ask(MOUNT)


async def _shutdown(contact):
    await contact.shutdown("enough")


async def _push(contact):
    assert await contact.next_push(0) is None


def had_no_time(contact_type, address, step, *, seconds=0):
    """Dial a guest, leave it some seconds, and do one more step. Return the error, and the guest's row."""
    contact = contact_type(Target.at(address), Deadline.after(60), lambda *_: nullcontext(), lambda _row: None)

    async def converse():
        await contact.dial()
        contact.deadline = Deadline.after(seconds)
        try:
            await step(contact)
        except (ConnectError, RequestTimeout) as exc:
            return exc
        finally:
            await contact.close()
        return None

    error = asyncio.run(converse()) if contact.side_by_side else finish(converse())
    return error, contact.row


@pytest.mark.parametrize("contact_type", [BlockingContact, AsyncContact])
@pytest.mark.parametrize(("step", "type_"), [(_mount, "mount"), (_shutdown, "shutdown")])
def test_nothing_is_sent_when_the_time_is_up(step, type_, contact_type):
    with simulated_guest() as guest:
        error, row = had_no_time(contact_type, guest.address, step)
        assert guest.simulator.requests == ()
    assert (error.sent, row.sent) == (False, False)
    if type_ == "mount":
        assert error.request.type == type_
        assert str(error) == f"{type_} was not sent to {guest.address} in time, so it is safe to repeat"


@pytest.mark.parametrize("contact_type", [BlockingContact, AsyncContact])
def test_nobody_is_dialled_when_the_time_is_up(contact_type):
    with simulated_guest() as guest:
        error, row = had_no_time(contact_type, guest.address, lambda contact: contact.dial())
    assert isinstance(error, ConnectError)
    assert error.timed_out
    assert str(error) == f"cannot connect to {guest.address}: no answer in time; is the guest booting, or paused?"
    assert row.sent is False


@pytest.mark.parametrize("contact_type", [BlockingContact, AsyncContact])
def test_a_request_behind_one_that_is_not_read_was_not_sent(contact_type, tmp_path):
    """Its time passes while it waits to be written: nothing of it has reached the guest."""

    async def ask(contact):
        with pytest.raises(RequestTimeout) as first:
            await contact.ask(SetConfig("x" * 900_000), within=0.1)
        assert first.value.sent
        await contact.ask(MOUNT, within=0.1)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        error, _ = had_no_time(contact_type, UnixSocket(tmp_path / "s"), ask, seconds=60)
    assert not error.sent
    assert str(error).startswith("mount was not sent to ")


@pytest.mark.parametrize("contact_type", [BlockingContact, AsyncContact])
def test_nothing_is_waited_for_when_the_time_is_up(contact_type):
    with simulated_guest() as guest:
        assert had_no_time(contact_type, guest.address, _push)[0] is None
