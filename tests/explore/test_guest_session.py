"""The guest's session under all interleavings: see `guest_session.py`."""

# The places in the source are long.
# ruff: noqa: E501

import pytest
from tests.explore import planted
from tests.explore.guest_session import SMALL, Config, World, explore
from tests.explore.search import Broken, steps

from stereos_proto import GuestSession

TWO = Config(2, ("custom",))
WRONG = Config(2, ("custom", "ping"), ("right", "wrong", "nothing"))
SHUTDOWN = Config(2, ("ping", "shutdown"), ("right", "refusal"), pushes=1)
NO_CONNECTIONS = Config(2, ("custom", "too long"), has_connections=False, pushes=1, ends=("eof", "write_failed"))
RESTART = Config(1, ("custom",), ends=("eof", "close", "restart"))


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_nothing_that_can_happen_breaks_the_specification(config, capsys):
    found = explore(config)
    with capsys.disabled():
        print(f"\n{config}: {found}")
    assert found.transitions > 5_000


def test_the_state_covers_all_that_a_session_holds():
    assert set(vars(GuestSession())) == World.COVERED


def test_a_copy_of_a_world_is_as_good_as_doing_everything_again():
    def again(world):
        twin = World(world.config)
        for operation in steps(world.history):
            twin.do(*operation)
        return twin

    for config in (TWO, RESTART):
        assert explore(config, duplicate=again) == explore(config)


#: Name: (what stands in the source of the session, what takes its place, where it is found).
FAULTS = {
    "an answer does not wait for those before it": ("                if self._pending and self._pending[0] is pending:\n                    self._flush()", "                if pending in self._pending:\n                    self._pending.remove(pending)\n                    self._pending.appendleft(pending)\n                    self._flush()", TWO),
    "only the first answer leaves": ("        while self._pending and (reply := self._pending[0].reply) is not None:\n", "        if self._pending and (reply := self._pending[0].reply) is not None:\n", TWO),
    "a second answer counts": ("        if pending.reply is None:\n            try", "        if True:\n            try", TWO),
    "one request more than there is room for": ("if len(self._pending) >= self._max_unanswered or", "if len(self._pending) > self._max_unanswered or", Config(2, ("ping",), max_unanswered=1)),
    "it reads while the host does not": ("or self._unsent >= self._max_unsent:\n                    return NEED_DATA", "or False:\n                    return NEED_DATA", Config(2, ("ping",), max_unsent=1)),
    "a line that cannot be read is not answered": ("                    self._refuse(event)\n                    return event\n", "                    return event\n", Config(1, ("garbage",))),
    "half a line is not answered": ("            event = MalformedReceived(error)\n            self._refuse(event)\n            return event\n", "            return MalformedReceived(error)\n", Config(1, ("custom",), ends=("half", "eof"))),
    "a mistake is not told": ("        self._replaced.append(ReplyReplaced(pending, error))\n", "", WRONG),
    "a mistake is not told at once": ("            if self._replaced:\n", "            if self._replaced and not self._reading:\n", WRONG),
    "a refused shutdown ends it": ("isinstance(pending.reply, Ack) and pending.reply.ok:", "True:", SHUTDOWN),
    "a shutdown leaves requests open": ("        self._reading = False\n        self._pending.clear()\n\n    # -- writing", "        self._reading = False\n\n    # -- writing", SHUTDOWN),
    "off before the ack has left": ("return self._shut_down and not self._unsent", "return self._shut_down", SHUTDOWN),
    "a notification after the shutdown": ("or self._shut_down or self._said_end or self.ended:", "or self._said_end or self.ended:", SHUTDOWN),
    "the end is told twice": ("        self._said_end = True\n", "", TWO),
    "the end is told before all is written": ("        if self._unsent:\n            return NEED_DATA\n        self._said_end", "        self._said_end", TWO),
    "joined lines that a writer holds": ("        if not self._chunk and self._lines:\n            try:\n                self._chunk = self._lines.popleft()", "        if self._lines:\n            try:\n                self._chunk += self._lines.popleft()", TWO),
    "written bytes leave again": ("        self._offset += size\n", "", TWO),
    "a failed write keeps what is owed": ("            self._error = lost\n            self._drop()", "            self._error = lost\n            self._reading = False", TWO),
    "a stream without connections ends": ("        if self._reading and self.has_connections:\n            self.connection.receive_eof()", "        if self._reading:\n            self.connection.receive_eof()", NO_CONNECTIONS),
    "a stream without connections does not begin anew": ("            self._begin()\n            return NEED_DATA\n        if self._unsent", "            return NEED_DATA\n        if self._unsent", NO_CONNECTIONS),
    "it begins anew and forgets what is owed": ("        if not self.has_connections and not self._shut_down", "        if not self.has_connections and self._drop() is None and not self._shut_down", NO_CONNECTIONS),
    "a restart keeps what was not sent": ("        self._chunk = b\"\"  # handed out", "        self._chunk = getattr(self, '_chunk', b'')  # handed out", RESTART),
    "a restart keeps that it was closed": ("        self._closed = False\n        self._begin()", "        self._closed = getattr(self, '_closed', False)\n        self._begin()", Config(1, ("custom", "too long"), has_connections=False, ends=("close", "restart"))),
    "an answer of before a restart": ("                if self._pending and self._pending[0] is pending:\n", "                self._pending = self._pending or deque([pending])\n                if self._pending[0] is pending:\n", RESTART),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    old, new, config = FAULTS[name]
    faulty = planted.module("stereos_proto._guest_session", old, new)
    # The world knows the events of the real module.
    for shared in ("PendingRequest", "ReplyReplaced"):
        vars(faulty)[shared] = vars(planted.real("stereos_proto._guest_session"))[shared]
    with pytest.raises(Broken):
        explore(config, faulty.GuestSession)
