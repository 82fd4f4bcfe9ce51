"""AF_VSOCK between a host and its guest, both of them real: the tests run in the outer of two nested machines.

The machine that runs these tests dials nothing there: its CID 2 is its own hypervisor.
"""

import pytest

from . import image as images
from .guest import remote
from .machine import Machine
from .moments import LOST, RUNTIMES
from .test_clients import check_report, failures


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came out in the outer machine."""
    path = tmp_path_factory.mktemp("nested") / "initramfs"
    images.write_outer_image(path)
    with Machine(path, memory=1400, processors=2) as outer:
        # Each limit is there for a test that hangs, on a machine that has other things to do.
        outer.power_on().wait_up(300)
        return outer.call("nest", "everything", timeout=900)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_client_of_a_nested_guest(found, count, runtime):
    results = found["clients"][runtime]
    assert len(results) == len(remote.cases())
    assert not failures(results)
    count("client", "vsock nested", runtime, len(results))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_conformance_of_a_nested_guest(found, count, runtime):
    count("conformance", "vsock nested", runtime, check_report(found["conformance"][runtime]))


def test_no_machine_with_that_cid(found):
    """Before the machine is turned on: an error at once, and worth another try."""
    kind, text, retryable = found["absent"]
    assert (kind, retryable) == ("ConnectError", True)
    assert "no virtual machine with this CID is running" in text


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_nested_guest_from_power_on(found, note, runtime):
    """First there is no such machine, then one that does not answer; the guest is seen as soon as it is there."""
    (lost, uptime), pong = found["power-on"][runtime]
    assert pong == "Pong"
    note(f"nested  {runtime:9} first seen ready when the guest's agent was up for {uptime} s ({found['boot']:.0f} s)")
    assert lost <= 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nested_moments(found, runtime):
    """Nobody listens: reset. Paused: the system gives up after 2 s, whatever deadline was set."""
    for moment, meaning in {
        "nobody listens": "it was reset: nobody listens there yet",
        "paused": "no answer; is the guest booting, or paused?",
    }.items():
        kind, text, retryable = found[moment][runtime]
        assert (moment, kind, retryable) == (moment, "ConnectError", True)
        assert meaning in text


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_nested_guest_reboots_in_mid_request(found, runtime):
    """The old connection is silent, also for what is sent over it later; a new one is fine."""
    during, old, new = found["reboot"][runtime]
    assert (during, new) == ("Timeout", "Pong")
    assert old in ("Timeout", *LOST)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_nested_guest_is_killed_in_mid_request(found, runtime):
    """Its connections are lost, and its CID is nobody's."""
    last, redialled = found["kill"][runtime]
    assert last["vsock"] in LOST
    kind, text, retryable = redialled["vsock"]
    assert (kind, retryable) == ("ConnectError", True)
    assert "no virtual machine with this CID is running" in text
