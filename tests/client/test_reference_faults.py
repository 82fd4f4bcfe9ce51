"""The ten faults that were measured in the reference host (docs/protocol.md §7): none of them is ours."""

import asyncio
import time

import pytest

from stereos_proto import (
    Lifecycle,
    LocalProtocolError,
    NotReady,
    Pong,
    RequestFailed,
    SetConfig,
    load_jcard,
)
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io.blocking import connect, connect_when_ready
from stereos_proto_io.testing import simulated_guest

JCARD = """
[[shared]]
host = "."
guest = "/workspace"

[secrets]
TOKEN = "${TOKEN}"

[[agents]]
name = "a"
type = "native"
harness = "claude-code"
"""
SECRET = "sk-very-secret"


def test_1_a_push_does_not_shift_the_replies():
    with simulated_guest(faults=["push:ready@ping"]) as guest, connect(guest.address) as client:
        assert client.ping() == Pong()
        with pytest.raises(RequestFailed, match="must be a simple filename"):
            client.inject_secret("../x", SECRET)
        assert client.inject_secret("x", SECRET).ok
        assert next(client.notifications()) == Lifecycle("ready")


def test_2_a_timeout_does_not_poison_the_connection():
    with simulated_guest(faults=["late:0.2s@inject_secret#1"]) as guest, connect(guest.address) as client:
        with pytest.raises(TimeoutError) as caught:
            client.inject_secret("first", SECRET, timeout=0.01)
        # It says that the secret may be there all the same; and the next reply is the next request's.
        assert caught.value.sent
        with pytest.raises(RequestFailed, match="cannot be empty"):
            client.inject_secret("", SECRET)
        assert client.ping() == Pong()


def test_3_waiting_redials_and_a_silent_guest_costs_one_try():
    with simulated_guest(faults=["reset#1", "hang-up#2", "stall@get_health#1"]) as guest:
        seen = []
        with _impatient(), connect_when_ready(guest.address, timeout=20, on_progress=seen.append) as client:
            assert client.ping() == Pong()
        assert [type(progress.error).__name__ for progress in seen[-2:]] == ["RequestTimeout", "NoneType"]
        assert len(seen) == 4


def _impatient():
    """The same wait, with tries that last a moment."""
    patch = pytest.MonkeyPatch()
    fields = {"attempt_timeout": 0.05}
    from stereos_proto_io.driver import _verbs

    original = _verbs.ReadyWait
    patch.setattr(_verbs, "ReadyWait", lambda *args, **more: original(*args, **more, **fields))
    return _Undo(patch)


class _Undo:
    def __init__(self, patch):
        self.patch = patch

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.patch.undo()


def test_4_a_ready_guest_costs_no_interval_and_a_failure_tells_the_last_state(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("it slept"))
    with simulated_guest() as guest:
        seen = []
        with connect_when_ready(guest.address, on_progress=seen.append):
            assert [progress.tries for progress in seen] == [1]
    monkeypatch.undo()
    with simulated_guest(faults=["never-ready"]) as guest:
        with pytest.raises(NotReady) as caught:
            connect_when_ready(guest.address, timeout=0.2)
        assert caught.value.last_state == "booting"
        assert "last state booting" in str(caught.value)


def test_5_cancelling_needs_no_deadline():
    async def main():
        with simulated_guest(faults=["stall@ping"]) as guest:
            async with asyncio_driver.connect(guest.address) as client:
                asked = asyncio.ensure_future(client.ping())
                await asyncio.sleep(0)
                asked.cancel()
                done, _ = await asyncio.wait([asked])
                assert done.pop().cancelled()

    asyncio.run(main())


def test_6_an_over_long_line_is_not_sent():
    with simulated_guest() as guest, connect(guest.address) as client:
        with pytest.raises(LocalProtocolError):
            client.set_config("x" * (1 << 20))
        # One that fits as it stands, and not once it is escaped.
        with pytest.raises(LocalProtocolError):
            client.set_config('"' * (1 << 19))
        assert client.ping() == Pong()
        assert not any(isinstance(request, SetConfig) for request in guest.simulator.requests)


def test_7_blank_lines_do_no_harm():
    with simulated_guest(faults=["blank"]) as guest, connect(guest.address) as client:
        assert client.ping() == Pong()
        assert client.get_health().state == "ready"


def test_8_the_config_goes_without_its_secrets():
    with simulated_guest() as guest, connect(guest.address) as client:
        assert client.provision(load_jcard(JCARD, env={"TOKEN": SECRET})).ok
        assert SECRET not in guest.simulator.config
        assert "[secrets]" not in guest.simulator.config
        assert guest.simulator.secrets["TOKEN"].value == SECRET


def test_9_the_config_goes_last():
    with simulated_guest() as guest, connect(guest.address) as client:
        client.provision(load_jcard(JCARD, env={"TOKEN": SECRET}))
        order = [request.type for request in guest.simulator.requests]
        assert order == ["mount", "inject_secret", "set_config"]


@pytest.mark.parametrize("verb", ["ping", "get_health"])
def test_10_the_guests_own_text_is_in_the_error(verb):
    with simulated_guest(faults=[f"fail:the disk is full@{verb}"]) as guest, connect(guest.address) as client:
        ask = getattr(client, verb)
        with pytest.raises(RequestFailed, match="the disk is full"):
            ask()
