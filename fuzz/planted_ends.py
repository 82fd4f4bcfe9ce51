"""Deliberate faults in what stands on the core: sessions, turns, clients, drivers and the redaction. See `planted`."""

from __future__ import annotations

from typing import Final, NamedTuple

CORE, IO = "stereos_proto", "stereos_proto_io"


class Fault(NamedTuple):
    """`old` stands once in `file` and becomes `new`. `harness`, where one executes the place, should see it.

    `tests` are the files to ask for the test that sees it. Where it names none: those of the
    module itself, then `planted.SUITE`.
    """

    file: str
    old: str
    new: str
    harness: str = ""
    tests: tuple[str, ...] = ()


_SESSION: Final = ("tests/core/test_host_session.py", "tests/explore/test_host_session.py")
_TURNS: Final = ("tests/core/test_turns.py", "tests/explore/test_turns.py")
_CLIENT: Final = ("tests/core/test_host_client.py",)
_DIALS: Final = ("tests/client/test_dialling_race.py",)
_GUEST: Final = ("tests/core/test_guest_session.py", "tests/guest/test_session.py")
_REDACT: Final = ("tests/core/test_redact.py",)

FAULTS: Final[dict[str, Fault]] = {
    # -- the host session
    "slot dropped on cancel": Fault(
        f"{CORE}/_host_session.py",
        "                self._withdraw(call)\n            elif self._write_error is not None:\n",
        "                self._withdraw(call)\n            elif call.sent:\n"
        "                self._in_flight.remove(call)\n"
        "            elif self._write_error is not None:\n",
        "session",
        _SESSION,
    ),
    "late reply delivered": Fault(
        f"{CORE}/_host_session.py",
        "if call.outcome is None:\n                        reply",
        "if True:\n                        reply",
        "session",
        _SESSION,
    ),
    "withdrawn call is sent": Fault(
        f"{CORE}/_host_session.py",
        "            if not call.sent:\n                self._withdraw(call)\n",
        "            if not call.sent:\n                pass\n",
        "session",
        _SESSION,
    ),
    "a torn line goes on at the wrong place": Fault(
        f"{CORE}/_host_session.py",
        "memoryview(self._outgoing)[-left:]",
        "memoryview(self._outgoing)[left:]",
        "session",
        _SESSION,
    ),
    "one more in flight than may be": Fault(
        f"{CORE}/_host_session.py",
        "len(in_flight) < self._max_pending and size < _JOIN",
        "len(in_flight) <= self._max_pending and size < _JOIN",
        "session",
        _SESSION,
    ),
    "half a line counts as not sent": Fault(
        f"{CORE}/_host_session.py",
        "call.outcome is None and call._start < written]",
        "call.outcome is None and call._end <= written]",
        "session",
        _SESSION,
    ),
    "after a failed write half a line counts as not sent": Fault(
        f"{CORE}/_host_session.py",
        "if call._start >= self._written]",
        "if call._end > self._written]",
        "session",
        _SESSION,
    ),
    "an expired call is not told": Fault(
        f"{CORE}/_host_session.py",
        'self._give_up(call, "in time", told=True)',
        'self._give_up(call, "in time")',
        "session",
        _SESSION,
    ),
    "a deadline is a moment late": Fault(
        f"{CORE}/_host_session.py",
        "is not None and deadline <= now:",
        "is not None and deadline < now:",
        "",
        _SESSION,
    ),
    "an interrupted write counts as not sent": Fault(
        f"{CORE}/_host_session.py",
        "        self.connection.send_failed()\n        self._written = self._queued\n",
        "        self.connection.send_failed()\n",
        "session",
        _SESSION,
    ),
    "half of many requests are taken": Fault(
        f"{CORE}/_host_session.py",
        "self._take_back([*self._waiting][waiting:])",
        "pass",
        "session",
        _SESSION,
    ),
    "settled calls fill the heap of deadlines": Fault(
        f"{CORE}/_host_session.py",
        "self._deadlines) > _MAX_STALE",
        "self._deadlines) > 1000 * _MAX_STALE",
        "",
        _SESSION,
    ),
    "lines that were sent count as waiting": Fault(
        f"{CORE}/_host_session.py", "            self._waiting_bytes -= len(call._line)\n", "", "", _SESSION
    ),
    # -- leader and followers, mailbox, dialogues
    "a settled follower is not removed": Fault(
        f"{CORE}/_turns.py",
        "        waiter.context = None\n        self._followers.pop(waiter, None)\n",
        "        waiter.context = None\n",
        "",
        _TURNS,
    ),
    "the lead is not handed over": Fault(
        f"{CORE}/_turns.py",
        "            self._wake_a_reader()\n",
        "            pass\n",
        "",
        _TURNS,
    ),
    "two writers": Fault(f"{CORE}/_turns.py", "self._writer in (None, waiter) and ", "", "", _TURNS),
    "the writer does not hand over": Fault(
        f"{CORE}/_turns.py",
        "            self._writer = None\n            self._wake_a_writer()\n",
        "            self._writer = None\n",
        "",
        _TURNS,
    ),
    "a follower that is done gets the lead": Fault(
        f"{CORE}/_turns.py",
        "            if not follower.done:\n                wake(follower)\n                break\n",
        "            wake(follower)\n            break\n",
        "",
        _TURNS,
    ),
    "the leader never writes": Fault(
        f"{CORE}/_turns.py", "return Step.READ_WRITE if wants_write else Step.READ", "return Step.READ", "", _TURNS
    ),
    "listeners are not told of the end": Fault(
        f"{CORE}/_mailbox.py",
        "            elif type(event) is SessionEnded:\n                self.mailbox.wake_all()\n",
        "            elif type(event) is SessionEnded:\n                pass\n",
        "",
        ("tests/core/test_mailbox.py",),
    ),
    "dropped notifications are not counted": Fault(
        f"{CORE}/_mailbox.py", "            self.dropped += 1\n", "", "", ("tests/core/test_mailbox.py",)
    ),
    "an action at its deadline is carried out": Fault(
        f"{CORE}/_running.py", "now < self.deadline:", "now <= self.deadline:", "", ("tests/core/test_running.py",)
    ),
    "an action outlasts its dialogue": Fault(
        f"{CORE}/_running.py", "ends = min(ends, self.deadline)", "pass", "", ("tests/core/test_running.py",)
    ),
    # -- the host client
    "a timer of an earlier wait counts": Fault(
        f"{CORE}/_host_client.py", "return task._wait != wait or task.done", "return task.done", "", _CLIENT
    ),
    "a notification before the request ends a sleep": Fault(
        f"{CORE}/_host_client.py",
        "        if isinstance(action, Send):\n            task._heard = self._heard\n",
        "        if isinstance(action, Send):\n",
        "",
        _CLIENT,
    ),
    "each that dials begins a dial": Fault(
        f"{CORE}/_host_client.py",
        "self._wanted = not self._dialling",
        "self._wanted = True",
        "",
        _CLIENT,
    ),
    "a timeout of zero sends": Fault(
        f"{CORE}/_host_client.py",
        "        if limit > 0 and calls:\n            self._dial_on_demand()",
        "        if limit >= 0 and calls:\n            self._dial_on_demand()",
        "",
        _CLIENT,
    ),
    # -- drivers
    "the last place that failed is named": Fault(
        f"{IO}/driver/_dialling.py",
        "                self._failure = self._failure or exc\n                self._attempt(now)\n",
        "                self._failure = exc\n                self._attempt(now)\n",
        "",
        _DIALS,
    ),
    "sockets that lost the race stay open": Fault(
        f"{IO}/driver/_dialling.py",
        "        self.discarded += self._connecting\n        self._connecting = []\n",
        "        self._connecting = []\n",
        "",
        _DIALS,
    ),
    "bytes after the preamble are lost": Fault(
        f"{IO}/driver/_dialling.py", "self._succeed(preamble.trailing_data)", 'self._succeed(b"")', "", _DIALS
    ),
    "a dial that fails keeps its stream": Fault(
        f"{IO}/driver/_dialling.py",
        "            self.discarded.append(self._stream)\n",
        "            pass\n",
        "",
        _DIALS,
    ),
    "a slow place keeps the others waiting": Fault(
        f"{IO}/driver/_dialling.py",
        "self._next_attempt = now + ATTEMPT_DELAY",
        "self._next_attempt = now + 1000 * ATTEMPT_DELAY",
        "",
        _DIALS,
    ),
    "NaN is a timeout": Fault(
        "stereos_proto/_timeouts.py",
        "    if timeout != timeout:\n",
        "    if timeout is None:\n",
        "",
        ("tests/client/test_timeouts.py", "tests/client/test_verbs.py"),
    ),
    "a future is fulfilled twice": Fault(
        f"{IO}/asyncio/_transport.py",
        "    if not future.done():\n",
        "    if True:\n",
        "",
        ("tests/client/test_cancel.py", "tests/client/test_close.py"),
    ),
    "a write inside of resume_writing": Fault(
        f"{IO}/asyncio/_transport.py",
        "        self.loop.call_soon(self.pump)\n",
        "        self.pump()\n",
        "",
        ("tests/client/test_hostile.py",),
    ),
    # -- the guest's end
    "a stream without connections ends with a host": Fault(
        f"{CORE}/_guest_session.py",
        "        if self._reading and self.has_connections:\n",
        "        if self._reading:\n",
        "",
        _GUEST,
    ),
    "a host that does not read is read from": Fault(
        f"{CORE}/_guest_session.py",
        "if len(self._pending) >= self._max_unanswered or self._unsent >= self._max_unsent:",
        "if len(self._pending) >= self._max_unanswered:",
        "",
        _GUEST,
    ),
    "a second reply counts": Fault(
        f"{CORE}/_guest_session.py", "        if pending.reply is None:\n", "        if pending:\n", "", _GUEST
    ),
    "a guest that shuts down reads on": Fault(
        f"{CORE}/_guest_session.py",
        "                self._shut_down = True\n                self._stop()\n",
        "                self._shut_down = True\n",
        "",
        _GUEST,
    ),
    "a reboot keeps what was being written": Fault(
        f"{CORE}/_guest_session.py",
        '        self._chunk = b""  # handed out',
        '        self._chunk = getattr(self, "_chunk", b"")  # handed out',
        "",
        _GUEST,
    ),
    "a failed write loses what the next host is owed": Fault(
        f"{CORE}/_guest_session.py",
        "        if self.has_connections and not self._said_end:\n",
        "        if not self._said_end:\n",
        "",
        _GUEST,
    ),
    "powers off before the ack is written": Fault(
        f"{CORE}/_guest_session.py", "return self._shut_down and not self._unsent", "return self._shut_down", "", _GUEST
    ),
    "bytes of before a reboot count": Fault(
        f"{CORE}/_guest_session.py", "        size = min(size, len(self._chunk) - self._offset)\n", "", "", _GUEST
    ),
    # -- redaction
    "a shorter secret hides a longer one": Fault(
        f"{CORE}/_redact.py",
        "for size in heads[view[at : at + SHORTEST]]:",
        "for size in [min(heads[view[at : at + SHORTEST]])]:",
        "",
        _REDACT,
    ),
    "names of members are not redacted": Fault(
        f"{CORE}/_redact.py",
        "yield from ((True, name) for name in item if",
        "yield from ((True, name) for name in () if",
        "",
        _REDACT,
    ),
    "the escapes of what is not ASCII are not read": Fault(
        f"{CORE}/_redact.py", 'if kind in "uU":', 'if kind in "U":', "", _REDACT
    ),
    "a part at the end is not seen": Fault(
        f"{CORE}/_redact.py",
        "at for at in range(len(view) - PART + 1) if view[at : at + PART]",
        "at for at in range(len(view) - PART) if view[at : at + PART]",
        "",
        _REDACT,
    ),
    "escapes of escapes are not read": Fault(
        f"{CORE}/_redact.py", "    for _ in range(2):\n", "    for _ in range(1):\n", "", _REDACT
    ),
    "a secret at the cut of a long text": Fault(
        f"{CORE}/_redact.py",
        "self._redacted(text[: max_length + _SLACK], max_length)",
        "self._redacted(text[:max_length], max_length)",
        "",
        _REDACT,
    ),
    "samples too long to be in every part": Fault(
        f"{CORE}/_redact.py", "_SAMPLE: Final = PART - _STEP + 1", "_SAMPLE: Final = PART - _STEP + 2", "", _REDACT
    ),
}
