"""Leader and followers under all schedules: see `turns.py`."""

# The places in the source are long.
# ruff: noqa: E501

import pytest
from tests.explore import planted
from tests.explore.search import Broken
from tests.explore.turns import SMALL, Config, World, explore

from stereos_proto import HostSession, Mailbox, Turns


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_no_schedule_breaks_the_specification(config, capsys):
    found = explore(config)
    with capsys.disabled():
        print(f"\n{config}: {found}")
    assert found.transitions > 1_000


def test_the_state_covers_all_that_turns_hold():
    made = Turns(HostSession(), Mailbox())
    assert set(vars(made)) == {"session", "mailbox", "_next_event", "_leader", "_writer", "_followers"}


#: Name: (what stands in the source, what takes its place, where it is found).
TWO = Config(2, False, 2, 2, 1)
TWO_HALF_LATE = Config(2, False, 2, 1, 1)
THREE = Config(3, False, 2, 1, 0)
THREE_LATE = Config(3, False, 2, 2, 1)
LISTENS = Config(3, True, 2, 1, 1)
FAULTS = {
    "a settled follower is not removed": ("        waiter.context = None\n        self._followers.pop(waiter, None)\n        if self._leader is waiter:", "        waiter.context = None\n        if self._leader is waiter:", THREE_LATE),
    "only a leader hands over": ("            self._leader = None\n        if self._writer is waiter:\n            self._leave_writing(waiter)\n        if self._leader is None and (", "            self._leader = None\n            led = True\n        else:\n            led = False\n        if self._writer is waiter:\n            self._leave_writing(waiter)\n        if led and (", THREE_LATE),
    "the writer is not woken to read": ("(() if self._writer is None else (self._writer,))", "()", TWO_HALF_LATE),
    "the leader does not let go": ("        if self._leader is waiter:\n            self._leader = None\n", "", TWO),
    "the writer does not let go": ("            self._writer = None\n            self._wake_a_writer()", "            self._wake_a_writer()", THREE),
    "the writer does not hand over": ("            self._writer = None\n            self._wake_a_writer()", "            self._writer = None", Config(3, False, 3, 1, 0)),
    "two readers": ("if self._leader is None or self._leader is waiter:", "if True:", TWO),
    "two writers": ("self._writer in (None, waiter) and", "", Config(3, False, 3, 1, 0)),
    "a leader that keeps the writing lane": ("            self._followers.pop(waiter, None)\n            if self._writer is waiter:\n                self._leave_writing(waiter)\n", "            self._followers.pop(waiter, None)\n", THREE),
    "nobody writes beside the leader": ("        if wants_write and self._writer", "        if False and self._writer", Config(3, False, 3, 1, 0)),
    "a leader that never writes": ("            return Step.READ_WRITE if wants_write else Step.READ", "            return Step.READ", Config(1, False, 1, 1, 0)),
    "a leader that spins": ("            return Step.READ_WRITE if wants_write else Step.READ", "            return Step.READ_WRITE", Config(1, False, 1, 3, 0)),
    "followers are not kept": ("        self._followers.setdefault(waiter)\n", "", TWO),
    "settled without the guest": ("        if session._events or session.ended is not None:\n            self.pump(_GONE)\n        # After", "        # After", Config(4, True, 2, 2, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    old, new, config = FAULTS[name]
    faulty = planted.module("stereos_proto._turns", old, new)
    # The world knows the steps of the real module.
    vars(faulty)["Step"] = planted.real("stereos_proto._turns").Step
    with pytest.raises(Broken):
        explore(config, faulty.Turns)


def test_a_copy_of_a_world_is_as_good_as_the_world():
    config = Config(2, True, 1, 1, 1)
    world = World(config)
    for _ in range(12):
        operations = [*world.possible(), *world.disturbing()]
        twin = world.copy()
        assert twin.state() == world.state()
        for one in (world, twin):
            one.do(*operations[0])
        assert twin.state() == world.state()
