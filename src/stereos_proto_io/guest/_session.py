"""One connection seen from the guest, without IO: the part that the three servers have in common.

Bytes come in by `receive_data`; requests go out by `next_request` and come back by `answer`, in any order;
what is to be done to the stream comes out by `next_action`, in the order of the requests (`docs/protocol.md` §3).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any, Final

import attrs

from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    Connection,
    ConnectionClosed,
    CustomRequest,
    IncompleteLine,
    Lifecycle,
    LocalProtocolError,
    MalformedReceived,
    RemoteProtocolError,
    Reply,
    Request,
    RequestReceived,
    Role,
    Shutdown,
)

from ._actions import Action, Close, Pause, PowerOff, Reboot, Silence
from .faults import Fault, FaultPlan, Outgoing, RequestFault

#: Requests that may be with the handler at once, per connection. The host's own bound is 128.
MAX_OWED: Final = 64
#: Bytes that may wait to be written before the guest stops reading, per connection.
MAX_BUFFERED: Final = 256 * 1024
#: Bytes of the line `CONNECT <u32>`, its ending included.
_LONGEST_CONNECT: Final = len(b"CONNECT 4294967295\r\n")

_LOG: Final = logging.getLogger("stereos_proto_io.guest")


@attrs.define(eq=False)
class Owed:
    """A request that waits for its reply."""

    request: Request
    reply: Reply | None = None
    faults: tuple[RequestFault, ...] = ()


class GuestSession:
    """One connection, or with `boundless` one stream that has none, like a virtio-serial port.

    A boundless session does not end: over-long lines and faults that would close it start it anew, on the
    same stream, and what is still to be written when a host goes away is for the next one (§8).

    `hybrid_ports`, where given, are the ports that a hybrid-vsock handshake may ask for (§8); the protocol
    starts after it. `plan` are the guest's faults, which all its sessions share.
    """

    def __init__(
        self,
        *,
        plan: FaultPlan | None = None,
        hybrid_ports: Collection[int] | None = None,
        boundless: bool = False,
        max_line_size: int = MAX_LINE_SIZE,
    ) -> None:
        self.boundless = boundless
        self._plan = plan or FaultPlan()
        self._hybrid_ports = hybrid_ports
        self._max_line_size = max_line_size
        self._actions: deque[Action] = deque()
        self._buffered = 0
        self.ended = False
        self._closed = False
        self._begin()
        self._emit(self._plan.on_connection(), Outgoing([]))

    def _begin(self) -> None:
        self._connection = Connection(Role.GUEST, max_line_size=self._max_line_size)
        self._owed: deque[Owed] = deque()
        self._waiting: tuple[float, Owed] | None = None
        self._deaf = False
        self._silent = False
        self._written = 0
        self._cut: int | None = None
        self._held: list[Action] = []

    def __repr__(self) -> str:
        return f"<GuestSession owed={len(self._owed)} buffered={self._buffered} ended={self.ended}>"

    # ------------------------------------------------------------------------------------------ in

    @property
    def wants_data(self) -> bool:
        """Whether to read on. False while too much waits to be answered or written: that is the backpressure."""
        return not self._deaf and self._has_room

    @property
    def has_actions(self) -> bool:
        """Whether `next_action` has something."""
        return bool(self._actions)

    @property
    def _has_room(self) -> bool:
        return len(self._owed) < MAX_OWED and self._buffered < MAX_BUFFERED

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the host. Dropped once nothing more is read."""
        if self._deaf or self.ended:
            return
        if self._hybrid_ports is not None:
            data = self._shake_hands(data, self._hybrid_ports)
        self._connection.receive_data(data)

    def receive_eof(self) -> None:
        """Take note that the host sends no more. It still gets its replies (§1)."""
        if not self.boundless and not self._deaf:
            self._connection.receive_eof()

    def restart(self) -> None:
        """Forget everything, as a reboot does: half lines, requests, replies."""
        self._actions.clear()
        self._buffered = 0
        self.ended = self._closed = False
        self._begin()

    def _shake_hands(self, data: bytes, ports: Collection[int]) -> bytes:
        # A CONNECT that comes in pieces is closed at once: real ones read no second time.
        self._hybrid_ports = None
        line, newline, rest = data.partition(b"\n")
        word, _, digits = line.removesuffix(b"\r").partition(b" ")
        known = word == b"CONNECT" and digits.isdigit() and len(line) < _LONGEST_CONNECT and int(digits) in ports
        if not newline or not known:
            self._queue([Close()])
            return b""
        # Firecracker names a port of its own here, so nobody can take the number for the one that was asked for.
        self._queue([b"OK 1073741824\n"])
        return rest

    def next_request(self) -> Owed | Pause | None:
        """Return what to handle next, a Pause to make first, or None: nothing, or no room for its reply."""
        if self._waiting:
            owed = self._waiting[1]
            self._waiting = None
            return owed
        while self._has_room and not self._deaf and not self.ended:
            try:
                event = self._connection.next_event()
            except RemoteProtocolError as exc:
                self._deaf = True
                if isinstance(exc, IncompleteLine):
                    self._refuse_line(MalformedReceived(exc))
                break
            if event is NEED_DATA:
                return None
            if isinstance(event, ConnectionClosed):
                self._deaf = True
                break
            if isinstance(event, MalformedReceived):
                self._refuse_line(event)
            elif isinstance(event, RequestReceived):
                return self._received(event.message)
        self._settle()
        return None

    def _received(self, request: Request) -> Owed | Pause:
        owed = Owed(request, faults=self._plan.on_request(request))
        self._owed.append(owed)
        seconds = sum(fault.delay for fault in owed.faults)
        if not seconds:
            return owed
        self._waiting = (seconds, owed)
        return Pause(seconds)

    def _refuse_line(self, event: MalformedReceived) -> None:
        reply = event.reply
        request = CustomRequest(reply.reply_to)
        self._owed.append(Owed(request, reply, self._plan.on_request(request)))
        self._settle()

    # ----------------------------------------------------------------------------------------- out

    def answer(self, owed: Owed, reply: Any) -> None:
        """Settle `owed`. The reply leaves once all before it have. A second answer is dropped.

        What cannot be sent as the answer to it (of the wrong type, too long) is replaced by a refusal that says so.
        """
        if owed.reply is None:
            owed.reply = reply if isinstance(reply, Reply) else _internal_error(owed.request, reply)
            self._settle()

    def push(self, notification: Lifecycle) -> bool:
        """Send `notification` after what is queued. False, and nothing sent, if the queue is full or ended."""
        if self._buffered >= MAX_BUFFERED or self._closed or self._silent:
            return False
        self._queue([self._connection.send(notification)])
        return True

    def next_action(self) -> Action | None:
        """Return the next thing to do to the stream, None for nothing now. A Close, PowerOff or Reboot is the last."""
        if not self._actions:
            return None
        action = self._actions.popleft()
        if isinstance(action, bytes):
            self._buffered -= len(action)
        elif isinstance(action, (Close, PowerOff, Reboot)):
            self.ended = True
        return action

    def _settle(self) -> None:
        while self._owed and self._owed[0].reply is not None and not self.ended:
            owed = self._owed.popleft()
            self._send(owed)
        if self._deaf and not self._owed:
            self._queue([Close()])

    def _send(self, owed: Owed) -> None:
        reply = owed.reply or _internal_error(owed.request, None)
        try:
            line = self._connection.send(reply)
        except LocalProtocolError as exc:
            _LOG.error("the handler's reply to %s cannot be sent: %s", owed.request.type, exc)
            reply = Ack(owed.request.type, False, f"internal error: {exc}")
            line = self._connection.send(reply)
        self._emit(owed.faults, Outgoing([line], owed.request, reply))
        if isinstance(owed.request, Shutdown) and isinstance(reply, Ack) and reply.ok:
            self._queue([PowerOff()])

    def _emit(self, faults: Iterable[Fault], out: Outgoing) -> None:
        for fault in faults:
            fault.apply(out)
        if out.cut is not None:
            self._cut = out.cut
        held, self._held = self._held, []
        if out.hold:
            self._held = out.actions
            out.actions = []
        self._queue([*out.actions, *held])

    def _queue(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if self._closed:
                return
            if isinstance(action, bytes):
                self._queue_bytes(action)
            elif isinstance(action, Silence):
                self._silent = True
            elif isinstance(action, (Close, PowerOff, Reboot)):
                self._close(action)
            elif not self._silent:
                self._actions.append(action)

    def _queue_bytes(self, data: bytes) -> None:
        if self._silent:
            return
        cut = self._cut is not None and self._written + len(data) >= self._cut
        if cut:
            data = data[: (self._cut or 0) - self._written]
        self._written += len(data)
        self._buffered += len(data)
        self._actions.append(data)
        if cut:
            self._close(Close())

    def _close(self, action: Close | PowerOff | Reboot) -> None:
        if self.boundless and isinstance(action, Close):
            self._begin()
            return
        self._closed = self._deaf = True
        self._actions.append(action)


def _internal_error(request: Request, result: Any) -> Ack:
    _LOG.error("the handler answered %s with a %s, which is no reply", request.type, type(result).__name__)
    return Ack(request.type, False, f"internal error: the handler returned a {type(result).__name__}, no reply")
