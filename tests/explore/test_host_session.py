"""The host session under all interleavings: see `host_session.py`."""

# The places in the source are long.
# ruff: noqa: E501

import pytest
from tests.explore import planted
from tests.explore.host_session import REQUESTS, SMALL, Config, World, explore
from tests.explore.search import Broken, steps

from stereos_proto import HostSession

ONE = Config(REQUESTS[:1], (None,), 1, pushes=False)
ONE_DEADLINE = Config(REQUESTS[:1], (1,), 1, pushes=False)
TWO = Config(REQUESTS[:2], (None, None), 2, pushes=False)


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_nothing_that_can_happen_breaks_the_specification(config, capsys):
    found = explore(config)
    with capsys.disabled():
        print(f"\n{config}: {found}")
    assert found.transitions > 30_000


def test_the_state_covers_all_that_a_session_holds():
    assert set(vars(HostSession())) == World.COVERED


def test_a_copy_of_a_world_is_as_good_as_doing_everything_again():
    def again(world):
        twin = World(world.config)
        for operation in steps(world.history):
            twin.do(*operation)
        # What the specification notes is no part of what the world does.
        twin.seen, twin.told, twin.told_end = world.seen, world.told[:], world.told_end
        return twin

    assert explore(ONE, duplicate=again) == explore(ONE)


#: Name: (what stands in the source of the session, what takes its place, where it is found).
FAULTS = {
    "slot dropped on cancel": (
        "            elif self._write_error is not None:\n                self._end_if_idle()\n        except",
        "            else:\n                self._in_flight.remove(call)\n        except",
        TWO,
    ),
    "late reply delivered": ("                    if call.outcome is None:\n                        reply", "                    if True:\n                        reply", ONE),
    "a handed out line is withdrawn": ("            if not call.sent:\n                self._withdraw(call)", "            if not self.is_written(call) and call in self._waiting:\n                self._withdraw(call)\n            elif self._written <= call._start:\n                self._outgoing = b''\n                self._queued = self._written", ONE),
    "half a line counts as not sent": ("call._start < written]", "call._end <= written]", ONE),
    "a line that was not begun counts as sent": ("call._start < written]", "call._start <= written]", ONE),
    "a failed write ends the session": ("        if all(call.outcome is not None for call in self._in_flight):\n            self._finish", "        if True:\n            self._finish", ONE),
    "a failed write never ends it": ("                    if self._write_error is not None:\n                        self._end_if_idle()\n", "", ONE),
    "one too many in flight": ("            while waiting and len(in_flight) < self._max_pending and", "            while waiting and", Config(TWO.requests, TWO.deadlines, 1, pushes=False)),
    "the end is told before the calls": ("            if self._events:\n                # Not", "            if self._events and self._told_end:\n                # Not", ONE),
    "the end is told twice": ("        self._told_end = True\n", "", ONE),
    "a cancelled call is told": ('            self._give_up(call, "in time" if timed_out', '            self._events.append(CallDone(call))\n            self._give_up(call, "in time" if timed_out', ONE),
    "an expired call is not told": ('self._give_up(call, "in time", told=True)', 'self._give_up(call, "in time")', ONE_DEADLINE),
    "expires a moment late": ("deadline <= now:", "deadline < now:", ONE_DEADLINE),
    "deadlines of done calls": ("        while deadlines and deadlines[0][2].outcome is not None:\n            heappop(deadlines)\n", "", ONE_DEADLINE),
    "writes after the end": ("        written, self._outgoing = self._written, b\"\"\n        self._queued = written\n", "        written = self._written\n", ONE),
    "an interrupt counts as not sent": ("        self._written = self._queued\n        if self.ended is None:\n            text", "        if self.ended is None:\n            text", ONE),
    "a failed read is told before what came": ("    def read_failed(self, cause: BaseException) -> None:", "    def read_failed(self, cause: BaseException) -> None:\n        self._finish(self._broken(cause))", ONE),
    "the place is taken back": ("            call._start = self._queued\n", "            call._start = self._written + self._queued\n", TWO),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    old, new, config = FAULTS[name]
    faulty = planted.module("stereos_proto._host_session", old, new)
    # The world makes and looks for the calls of the real module.
    for shared in ("Call", "CallDone"):
        vars(faulty)[shared] = vars(planted.real("stereos_proto._host_session"))[shared]
    with pytest.raises(Broken):
        explore(config, faulty.HostSession)
