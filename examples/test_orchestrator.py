"""Tests of code of yours that talks to guests: pytest test_orchestrator.py

The fixture `stereos_guest` comes with stereos-proto.
"""

import pytest

from stereos_proto import Lifecycle, Mount, RequestFailed, RequestTimeout
from stereos_proto_io.blocking import connect


def start_work(address, token):
    """The code under test: what an orchestrator of yours might do."""
    with connect(address, timeout=5) as guest:
        guest.inject_secret("API_TOKEN", token)
        guest.mount("share0", "/workspace", "virtiofs")
        return guest.get_health().state


def test_the_guest_gets_what_it_needs(stereos_guest):
    assert start_work(stereos_guest.address, "s3cret") == "ready"
    assert stereos_guest.simulator.secrets["API_TOKEN"].value == "s3cret"
    assert stereos_guest.simulator.mounts == (
        Mount("share0", "/workspace", "virtiofs"),
    )


@pytest.mark.stereos_guest(types={"ping", "inject_secret"})
def test_a_guest_that_cannot_mount(stereos_guest):
    with pytest.raises(RequestFailed, match="unknown message type: mount"):
        start_work(stereos_guest.address, "s3cret")


@pytest.mark.stereos_guest(faults=["drop@ping#1"])
def test_a_reply_that_never_comes(stereos_guest):
    with connect(stereos_guest.address) as guest, pytest.raises(RequestTimeout):
        guest.ping(timeout=0.05)


def test_a_notification(stereos_guest):
    with connect(stereos_guest.address) as guest:
        guest.ping()
        news = Lifecycle("degraded", "the disk is full")
        assert stereos_guest.push(news) == 1
        assert next(guest.notifications(timeout=5)) == news
