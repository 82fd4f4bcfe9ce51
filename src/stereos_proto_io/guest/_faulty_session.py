"""Faults around a session: what a faulty guest does with a reply or with a new connection.

`FaultySession` has the methods of `GuestSession`, and sits between it and the server. The session below knows nothing
of faults: it gets the host's bytes and gives the lines of its replies, one line for each request, in their order. Each
line is taken from it only when everything before it is written, so the bounds of the session hold. The faults of its
request then rewrite it into steps: bytes to write, and orders for the server (`_orders`).

It also implements the hypervisor's side of the hybrid-vsock handshake (§8), which comes before the first line, because
that is also outside the session.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import attrs

from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    CustomRequest,
    GuestSession,
    Health,
    Lifecycle,
    LocalProtocolError,
    MalformedReceived,
    PendingRequest,
    Ping,
    Pong,
    Request,
    SessionEnded,
    encode,
)

from . import faults
from ._orders import Close, Order, Pause, PowerOff, Reboot
from .faults import Fault, FaultPlan, RequestFault

#: Bytes of the line `CONNECT <u32>`, its ending included.
_LONGEST_CONNECT: Final = len(b"CONNECT 4294967295\r\n")
#: How every notification of ours begins: `encode` writes the type first.
_PUSH: Final = b'{"type":"lifecycle"'


@attrs.frozen
class Denied:
    """A request that the guest does not carry out: it is refused with `text`, by a reply like any other."""

    pending: PendingRequest
    text: str


@attrs.frozen
class Silence:
    """Write nothing more, and keep the connection open."""


@attrs.frozen
class Until:
    """Write nothing until `time`, by the session's clock. It becomes a Pause as soon as it is the next step."""

    time: float


@attrs.define
class Owed:
    """A request that is owed its reply."""

    request: Request
    #: The faults that happen to it.
    struck: tuple[RequestFault, ...]
    #: When it was handed out, by the session's clock.
    came: float


Step = bytes | Silence | Until | Order
Steps = list[Step]


def _line_without(member: str, line: bytes) -> bytes:
    left_out: list[str] = []

    def leave_out(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        left_out.extend(name for name, _ in pairs if name == member)
        return {name: value for name, value in pairs if name != member}

    value = json.loads(line, object_pairs_hook=leave_out)
    if not left_out:
        return line
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _lines(steps: Steps, change: Callable[[bytes], bytes]) -> Steps:
    return [change(step) if isinstance(step, bytes) else step for step in steps]


def _timed(steps: Steps, came: float) -> Iterator[Step]:
    """The steps, with the pauses counted from the moment when the request came."""
    for step in steps:
        if isinstance(step, Pause):
            came += step.seconds
            yield Until(came)
        else:
            yield step


def _refusal(request: Request, text: str) -> bytes:
    try:
        return encode(Ack(request.type, False, text))
    except LocalProtocolError:
        # A host may have chosen a type that is as long as a line.
        return encode(Ack("", False, text[:1000]))


#: Stage by stage: fault of a request → what it makes of the steps that its reply has come to so far. A reply begins as
#: its line. What a fault adds is never undone by another, since all that replace something come in the stages before.
_STAGES: Final[tuple[dict[type[Fault], Callable[[Any, Steps, Request], Steps]], ...]] = (
    {  # what the reply is
        # A good message but for its length.
        faults.OverLong: lambda _fault, _steps, _: [b'{"type":"pong","padding":"%b"}\n' % (b"x" * MAX_LINE_SIZE)],
        faults.WrongType: lambda _fault, _steps, request: [
            encode(Health("ready") if isinstance(request, Ping) else Pong()),
        ],
        faults.Fail: lambda fault, _steps, request: [_refusal(request, fault.text)],
        faults.Deny: lambda fault, _steps, request: [_refusal(request, fault.text)],
    },
    {  # what it lacks
        faults.Omit: lambda fault, steps, _: _lines(steps, lambda line: _line_without(fault.member, line)),
    },
    {  # how much of it is sent
        faults.Stall: lambda _fault, _steps, _: [Silence()],
        faults.Drop: lambda _fault, _steps, _: [],
        faults.Half: lambda _fault, steps, _: [*_lines(steps, lambda line: line[: len(line) // 2]), Silence()],
    },
    {  # what comes before it, or again
        faults.Late: lambda fault, steps, _: [Pause(fault.seconds, writing=True), *steps],
        faults.Push: lambda fault, steps, _: [encode(Lifecycle(fault.state, fault.message)), *steps],
        faults.Garbage: lambda _fault, steps, _: [b"[    0.000000] \xffkernel: not a message\n", *steps],
        faults.Blank: lambda _fault, steps, _: [b"\n\r\n\n", *steps],
        faults.Duplicate: lambda _fault, steps, _: steps + steps,
    },
    {  # what ends after it
        faults.CloseAfter: lambda _fault, steps, _: [*steps, Close()],
        faults.PowerLoss: lambda _fault, steps, _: [*steps, PowerOff()],
        faults.Restart: lambda fault, steps, _: [*steps, Reboot(fault.seconds)],
    },
)


class FaultySession:
    """A `GuestSession` to which the faults of `plan` happen, behind a hybrid-vsock muxer where `ports` are given.

    The server pulls `next_event` as always; it may also return a `Pause` or a `Denied`. After each write it asks for
    `next_order`, which takes the place of `SessionEnded`: the last order is a Close, PowerOff or Reboot.
    """

    def __init__(
        self,
        session: GuestSession,
        plan: FaultPlan,
        ports: Collection[int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.has_connections: bool = session.has_connections
        self._session = session
        self._plan = plan
        self._ports = ports  # those that a host may ask the muxer for; None once it has, or without a muxer
        self._cut: faults.Cut | None = None  # what closes the connection after so many bytes
        self._begin()
        struck = plan.on_connection(has_connections=self.has_connections)
        cuts = [fault for fault in struck if isinstance(fault, faults.Cut)]
        self._cut = min(cuts, key=lambda cut: cut.size, default=None)
        self._emit(Close(reset=isinstance(fault, faults.Reset)) for fault in struck if fault not in cuts)

    def _begin(self) -> None:
        self._owed: deque[Owed] = deque()
        self._steps: deque[Step] = deque()  # to be done, in order
        self._offset = 0  # bytes of the first step that are written
        self._held: Steps = []  # a swapped reply, which waits for the next
        self._delayed: PendingRequest | Denied | None = None  # waits to be handed out
        self._waits: set[Pause] = set()  # those that the server was told of
        self._silent = False
        self._cut = None
        self._emitted = 0  # bytes of the guest that became steps
        self._ending = False  # whether the last order stands in the steps, or was handed out
        self._over = False  # whether it was handed out

    def __repr__(self) -> str:
        return f"<FaultySession {self._plan} around {self._session}>"

    def restart(self) -> None:
        """Forget everything, as a reboot does."""
        self._session.restart()
        self._begin()

    # -- in --------------------------------------------------------------------------------------------------

    @property
    def wants_data(self) -> bool:
        """Whether to read on."""
        return self._delayed is None and not self._ending and (self._session.wants_data or self._hangs)

    @property
    def _hangs(self) -> bool:
        """Whether the guest hangs while it shuts down. It reads on, and drops what it reads, to see the host go."""
        return self._silent and self._session.shut_down

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the host."""
        if self._ports is not None:
            data = self._shake_hands(data, self._ports)
        self._session.receive_data(data)

    def receive_eof(self) -> None:
        """Record that the host sends no more."""
        self._session.receive_eof()
        if self._hangs and self.has_connections:
            self._emit([Close()])

    def _shake_hands(self, data: bytes, ports: Collection[int]) -> bytes:
        # A CONNECT that comes in pieces is closed at once: real muxers read no second time.
        self._ports = None
        line, newline, rest = data.partition(b"\n")
        word, _, digits = line.removesuffix(b"\r").partition(b" ")
        known = word == b"CONNECT" and digits.isdigit() and len(line) < _LONGEST_CONNECT and int(digits) in ports
        if not newline or not known:
            self._emit([Close()])
            return b""
        # Firecracker names a port of its own here, so a host cannot take the number for the one that it asked for.
        answer = b"OK 1073741824\n"
        self._emitted -= len(answer)  # the muxer writes it, and not the guest
        self._emit([answer])
        return rest

    def next_event(self) -> object:
        """Return the next event as `GuestSession.next_event` does, a Pause before a request that waits, or a Denied in
        the place of a request that is not carried out.

        The end of the session is never among them: `next_order` tells it.
        """
        if self._ending:
            return NEED_DATA
        if self._delayed is not None:
            if any(not pause.writing for pause in self._waits):
                return NEED_DATA
            delayed, self._delayed = self._delayed, None
            self._owed[-1].came = self._clock()
            return delayed
        event = self._session.next_event()
        if isinstance(event, PendingRequest):
            return self._strike(event)
        if isinstance(event, MalformedReceived):
            self._owe(CustomRequest(event.reply.reply_to))
        # The end is told by `next_order`, when all steps are done.
        return NEED_DATA if isinstance(event, SessionEnded) else event

    def _owe(self, request: Request) -> tuple[RequestFault, ...]:
        struck = self._plan.on_request(request, has_connections=self.has_connections)
        self._owed.append(Owed(request, struck, self._clock()))
        return struck

    def _strike(self, pending: PendingRequest) -> PendingRequest | Denied | Pause:
        struck = self._owe(pending.request)
        text = next((fault.text for fault in struck if isinstance(fault, faults.Deny)), None)
        event = pending if text is None else Denied(pending, text)
        seconds = sum(fault.seconds for fault in struck if isinstance(fault, faults.Delay))
        if not seconds:
            return event
        self._delayed = event
        pause = Pause(seconds, writing=False)
        self._waits.add(pause)
        return pause

    def resume(self, pause: Pause) -> None:
        """Go on after a Pause."""
        self._waits.discard(pause)
        if self._steps and self._steps[0] is pause:
            self._steps.popleft()

    # -- out -------------------------------------------------------------------------------------------------

    def reply(self, pending: PendingRequest, message: Any) -> None:
        """Answer `pending`."""
        self._session.reply(pending, message)

    def push(self, lifecycle: Lifecycle) -> bool:
        """Send a notification. False, and nothing is sent, when too much waits, or nothing is written any more."""
        return not (self._ending or self._silent) and self._session.push(lifecycle)

    @property
    def wants_write(self) -> bool:
        """Whether `data_to_send` would return bytes."""
        return bool(self.data_to_send())

    @property
    def ended(self) -> bool:
        """Whether the last order was handed out."""
        return self._over

    @property
    def shut_down(self) -> bool:
        """Whether a `Shutdown` was acknowledged."""
        return self._session.shut_down

    def next_order(self) -> Order | None:
        """Return what else the server has to do now, None for nothing. A Close, PowerOff or Reboot is the last."""
        self._advance()
        step = self._steps[0] if self._steps else None
        if isinstance(step, Pause):
            if step in self._waits:
                return None
            self._waits.add(step)
            return step
        if isinstance(step, (Close, PowerOff, Reboot)):
            if isinstance(step, Close) and not self.has_connections:
                self.restart()
                return None
            self._steps.clear()
            self._over = True
            self._session.close()
            return step
        return None

    def data_to_send(self) -> bytes | memoryview:
        """Return the bytes to write next, b"" when there are none now."""
        self._advance()
        step = self._steps[0] if self._steps else b""
        if not isinstance(step, bytes):
            return b""
        return memoryview(step)[self._offset :] if self._offset else step

    def data_sent(self, size: int) -> None:
        """Record that the first `size` bytes of `data_to_send` are written."""
        step = self._steps[0] if self._steps else b""
        # A thread may have been writing when the session was restarted or closed: those bytes are forgotten.
        if isinstance(step, bytes) and step:
            self._offset += size
            if self._offset >= len(step):
                self._steps.popleft()
                self._offset = 0

    def write_failed(self, exc: OSError) -> None:
        """Record that the host cannot be written to any more."""
        self._session.write_failed(exc)
        if self.has_connections:
            self._steps.clear()
            self._ending = False
            self._emit([Close()])

    def close(self) -> None:
        """End the session now."""
        self._session.close()
        self._steps.clear()
        self._ending = self._over = True

    def _advance(self) -> None:
        """Advance until the first step is bytes or an order, if there is any."""
        while True:
            step = self._steps[0] if self._steps else None
            if isinstance(step, Until):
                if (left := step.time - self._clock()) > 0:
                    self._steps[0] = Pause(left, writing=True)
                else:
                    self._steps.popleft()
            elif step is not None or not self._take_line():
                return

    def _take_line(self) -> bool:
        """Take the next line of the session below; return whether there was one."""
        data = bytes(self._session.data_to_send())
        if not data:
            if self._session.ended and not (self._ending or self._hangs):
                self._emit([PowerOff() if self._session.shut_down else Close()])
            return False
        line = data[: data.index(b"\n") + 1]
        self._session.data_sent(len(line))
        if line.startswith(_PUSH):
            self._emit([line])
        else:
            self._emit_reply(line)
        return True

    def _emit_reply(self, line: bytes) -> None:
        owed = self._owed.popleft()
        steps: Steps = [line]
        for stage in _STAGES:
            for fault in owed.struck:
                if rewrite := stage.get(type(fault)):
                    before, steps = steps, rewrite(fault, steps, owed.request)
                    if isinstance(fault, faults.Omit) and steps != before:
                        self._plan.note(fault)
        steps = [*_timed(steps, owed.came)]
        if self._held and steps:
            # Also where this one is to be swapped: it is, with the one that is held.
            steps, self._held = [*steps, *self._held], []
        elif any(isinstance(fault, faults.Swap) for fault in owed.struck):
            self._held, steps = steps, []
        self._emit(steps)

    def _emit(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if self._ending:
                return
            if isinstance(step, Silence):
                self._silent = True
            elif isinstance(step, Close) and not (self.has_connections or self._steps):
                self.restart()  # there is nothing to close, nor anything to write before
                return
            elif isinstance(step, (Close, PowerOff, Reboot)):
                self._ending = True
                self._steps.append(step)
            elif not self._silent:
                self._emit_bytes(step) if isinstance(step, bytes) else self._steps.append(step)

    def _emit_bytes(self, data: bytes) -> None:
        cut = self._cut if self._cut is not None and self._emitted + len(data) >= self._cut.size else None
        if cut is not None:
            self._plan.note(cut)
            data = data[: cut.size - self._emitted]
        self._emitted += len(data)
        if data:
            self._steps.append(data)
        if cut is not None:
            self._emit([Close()])


Session = GuestSession | FaultySession


def session_for(plan: FaultPlan, *, has_connections: bool, ports: Collection[int] | None) -> Session:
    """Return a session for a new stream. One without faults and muxer is not slowed down by them."""
    session = GuestSession(has_connections=has_connections)
    return FaultySession(session, plan, ports) if plan.faults or ports is not None else session
