"""Guests for the tests, booted as seldom as possible; and what came out of it, by transport and client."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from . import image as images
from . import parts
from .guest.hosts import HOSTS
from .machine import Machine

_WANTED = os.environ.get("STEREOS_VM", "")
#: Booting takes long, and installs packages: `make test-vm` says that it is wanted.
collect_ignore_glob = [] if _WANTED else ["test_*.py"]

#: The files that take longest come first, so that what runs them in parallel ends at about the same time.
_LONG = ("test_across_machines", "test_ends")
_NOTE, _COUNT = "vm-note", "vm-count"
#: Seconds after which a step must have ended in a result or an error, whatever it is.
_LIMIT = 240


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.vm)
    if len(ours) == len(items):
        items.sort(key=lambda item: item.path.stem not in _LONG)


class Pool:
    """One machine at a time, shared by the tests until one of them leaves it unusable."""

    def __init__(self, image, *, muxed):
        self.image = image
        self.muxed = muxed
        self.machine = None

    def fresh(self):
        """A machine that is not turned on yet."""
        self.drop()
        self.machine = Machine(self.image, muxed=self.muxed)
        return self.machine

    def take(self):
        """A machine that is up."""
        if self.machine is None or not self.machine.is_running:
            self.fresh().power_on().wait_up()
        self.machine.restore_agent()
        return self.machine

    def drop(self):
        """Be done with the machine."""
        if self.machine:
            self.machine.close()
            self.machine = None


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """What guests boot from."""
    path = tmp_path_factory.mktemp("vm") / "initramfs"
    images.write_image(path)
    return path


@pytest.fixture(scope="session")
def pool(image):
    """Where machines come from."""
    pool = Pool(image, muxed=not parts.missing_muxer())
    yield pool
    pool.drop()


@pytest.fixture(scope="session")
def plain_pool(image):
    """Where machines without a muxer come from."""
    pool = Pool(image, muxed=False)
    yield pool
    pool.drop()


@pytest.fixture
def machine(pool):
    """A machine that is up, and is shared: a test leaves it as it was. Its agent may be another one afterwards.

    It is not to be paused or reset: its muxer does not survive that, and may take the guest along.
    """
    return pool.take()


@pytest.fixture
def plain_machine(plain_pool):
    """A machine without hybrid vsock that is up. It may be paused and reset."""
    return plain_pool.take()


@pytest.fixture
def doomed(pool):
    """A machine that is up, and that nobody uses after this test."""
    yield pool.take()
    pool.drop()


@pytest.fixture
def address_of(machine):
    """The address of a transport by its name; skips where its package has gone."""

    def find(transport):
        if transport == "hybrid" and transport not in machine.addresses:
            pytest.skip(f"NO HYBRID VSOCK: {parts.missing_muxer()}")
        return machine.addresses[transport]

    return find


@pytest.fixture(autouse=True)
def _deadline():
    """End a test that hangs: first by an exception, then with all its machines."""

    def late(*_args):
        raise AssertionError(f"it hangs: {_LIMIT} s have passed")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_LIMIT)
    faulthandler.dump_traceback_later(_LIMIT + 60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            machine = value.machine if isinstance(value, Pool) else value
            if isinstance(machine, Machine):
                report.sections.append((f"machine of {name}", machine.log()))
    return report


@pytest.fixture
def note(request):
    """Say a line at the end of the run."""
    return lambda line: request.node.user_properties.append((_NOTE, line))


@pytest.fixture
def count(request):
    """Note how many checks came out well: `count("client", "tcp", "trio", 20)`."""
    return lambda *what: request.node.user_properties.append((_COUNT, what))


def pytest_terminal_summary(terminalreporter):
    # Reports come from the processes in which the tests ran; nothing else does.
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    found = [found for report in reports if report.when == "call" for found in report.user_properties]
    notes = [line for kind, line in found if kind == _NOTE]
    if notes:
        terminalreporter.section("notes")
        terminalreporter.line("\n".join(notes))
    counts = Counter()
    for suite, transport, runtime, number in (what for kind, what in found if kind == _COUNT):
        counts[suite, transport, runtime] += number
    for suite in sorted({key[0] for key in counts}):
        terminalreporter.section(f"{suite} suite: checks that held, by transport and runtime")
        for transport in sorted({key[1] for key in counts if key[0] == suite}):
            cells = [f"{runtime} {counts[suite, transport, runtime]:3}" for runtime in HOSTS]
            terminalreporter.line(f"{transport:16} {'   '.join(cells)}")
