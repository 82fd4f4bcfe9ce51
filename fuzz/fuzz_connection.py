"""Both ends of a connection, compared with an independent model of the conversation (§1 to §4).

The head chooses role, limits and cutting, and is the script of what our own side sends after each event.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from stereos_proto import (
    NEED_DATA,
    Ack,
    Connection,
    ConnectionClosed,
    CustomRequest,
    GetHealth,
    Health,
    IncompleteLine,
    InjectSecret,
    InjectSSHKey,
    InvalidMessage,
    Lifecycle,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    MalformedReceived,
    Message,
    Mount,
    NotificationReceived,
    Ping,
    Pong,
    RemoteProtocolError,
    ReplyReceived,
    Request,
    RequestReceived,
    Role,
    SetConfig,
    Shutdown,
    State,
    UnexpectedReply,
    UnknownReceived,
    encode,
)

from . import oracle
from .fuzz_codec import as_read
from .secrecy import SENTINEL, check_silent
from .source import Choices, cut, cuttings, raised, split

HEAD = 16
BODY = "stream"
LONGEST = 128

LIMITS = (64, 256, 1024, 1024 * 1024)
PENDING = (1, 2, 5, 128)
REQUESTS: tuple[Request, ...] = (
    Ping(),
    GetHealth(),
    Mount("share0", "/workspace", "9p"),
    InjectSecret("TOKEN", SENTINEL),
    SetConfig(SENTINEL),
    InjectSSHKey("admin", "ssh-ed25519 AAAA"),
    Shutdown("fuzz"),
    CustomRequest("sync:1", {"value": SENTINEL}),
)
UNSENDABLE: tuple[Message, ...] = (
    Pong(),
    InjectSSHKey("admin", "ssh-ed25519 AAAA\nssh-rsa BBBB"),
    CustomRequest("mount", SENTINEL),
    SetConfig(SENTINEL * 200_000),
    InjectSecret("TOKEN", SENTINEL + "\udc80"),
)


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of the connection does not hold for `data`."""
    head, stream = split(data, HEAD)
    one_piece, others = (Play(head, stream).run(seed) for seed in cuttings(head[1:3], stream))
    assert one_piece == others


class Play:
    """One conversation of a real connection, next to the model of it."""

    def __init__(self, head: bytes, stream: bytes) -> None:
        flags = head[0]
        self.role = Role.HOST if flags & 1 else Role.GUEST
        self.limit = LIMITS[flags >> 1 & 3]
        self.max_pending = PENDING[flags >> 3 & 3]
        self.eof = not flags & 32
        self.stream = stream
        self.script = Choices(head[3:])
        self.connection = Connection(self.role, max_line_size=self.limit, max_pending=self.max_pending)
        self.pending: deque[Any] = deque()
        self.lines, self.long = oracle.lines(stream, self.limit, ended=self.eof)
        self.line = 0
        self.lifecycle: str | None = None
        self.log: list[Any] = []
        self.over = False

    def run(self, seed: int) -> list[Any]:
        """Feed the stream in pieces; return what happened."""
        self.act()
        for piece in cut(self.stream, seed):
            self.connection.receive_data(piece)
            self.drain()
            # What is kept is less than a line.
            assert self.over or len(self.connection.trailing_data) < self.limit
        if not self.over:
            assert self.connection.next_event() is NEED_DATA
        if self.eof:
            self.connection.receive_eof()
            self.connection.receive_eof()
            self.drain()
        self.finish()
        return self.log

    def finish(self) -> None:
        """Everything that was complete was handed out."""
        assert self.line == len(self.lines) or self.over
        closed = bool(self.log) and self.log[-1][0] == "ConnectionClosed"
        assert closed == (self.eof and not self.over)
        assert self.connection.their_state is (State.ERROR if self.over else State.CLOSED if closed else State.OPEN)
        if self.role is Role.GUEST:
            # Whatever the host did, what it asked before is answered.
            for _ in self.connection.pending:
                self.connection.send(Ack("", False))
            assert self.connection.pending == ()

    # ------------------------------------------------------------------------------------ what comes in

    def drain(self) -> None:
        """Take all events, and compare each with the model."""
        while not self.over:
            try:
                event = self.connection.next_event()
            except RemoteProtocolError as exc:
                # The traceback would be a cycle.
                self.failed(exc.with_traceback(None))
                return
            if event is NEED_DATA:
                return
            if isinstance(event, ConnectionClosed):
                assert self.line == len(self.lines)
                assert not self.long
                assert event.unanswered == tuple(self.pending)
                self.note(event)
                return
            self.happened(event)
            self.note(event)
            self.act()

    def note(self, event: Any) -> None:
        """Write an event and the state after it down."""
        assert self.connection.pending == tuple(self.pending)
        assert self.connection.lifecycle == self.lifecycle
        self.log.append((type(event).__name__, event, self.connection.our_state, self.connection.their_state))

    def happened(self, event: Any) -> None:
        """Hold an event to the line that it stands for."""
        assert self.line < len(self.lines)
        line = self.lines[self.line]
        self.line += 1
        read = oracle.read(line, self.role.peer.value)
        if isinstance(event, ReplyReceived):
            request = self.pending.popleft()
            assert event.request is request
            self.same(read, event.message)
            assert read is None or oracle.fits(read.type, read.payload, request.type)
        elif isinstance(event, (NotificationReceived, RequestReceived)):
            if not (read and read.kind == oracle.INVALID and read.type == "shutdown"):
                self.same(read, event.message)
            if isinstance(event, RequestReceived):
                self.pending.append(event.message)
        elif isinstance(event, UnknownReceived):
            assert read is None or read == oracle.Read(oracle.UNKNOWN, event.type, event.payload)
        else:
            assert isinstance(event, MalformedReceived)
            assert read is None or read.kind in (oracle.MALFORMED, oracle.INVALID)
            check_silent(event.error, line)
            reply = event.reply
            assert reply.reply_to == (read.type if read else reply.reply_to)
            assert not reply.ok
            assert SENTINEL not in reply.error or SENTINEL in reply.reply_to
            self.pending.append(CustomRequest(reply.reply_to))

    def same(self, read: oracle.Read | None, message: Any) -> None:
        """What the oracle reads is what the library has read."""
        assert read is None or as_read(message) == read
        if isinstance(message, (Health, Lifecycle)):
            self.lifecycle = message.state

    def failed(self, error: RemoteProtocolError) -> None:
        """An error is due, it is the documented one, and it stays."""
        self.over = True
        host = self.role is Role.HOST
        line = self.lines[self.line] if self.line < len(self.lines) else b""
        read = oracle.read(line, self.role.peer.value) if line else None
        last = self.eof and self.line == len(self.lines) - 1 and not self.stream.endswith(b"\n")
        if isinstance(error, LineTooLong):
            assert self.long
            assert self.line == len(self.lines)
            assert error.limit == self.limit
        elif isinstance(error, IncompleteLine):
            assert last
            assert read is None or read.kind == oracle.MALFORMED
            if not host:
                self.pending.append(CustomRequest(""))
        elif isinstance(error, UnexpectedReply):
            assert host
            oldest = self.pending[0] if self.pending else None
            assert error.request is oldest
            assert read is None or oldest is None or not oracle.fits(read.type, read.payload, oldest.type)
        else:
            kinds = {MalformedLine: oracle.MALFORMED, InvalidMessage: oracle.INVALID}
            assert host
            assert read is None or read.kind == kinds[type(error)]
        check_silent(error, line)
        self.stays(error)
        self.log.append((type(error).__name__, str(error), self.connection.our_state, self.connection.their_state))

    def stays(self, error: RemoteProtocolError) -> None:
        """The same error again, whatever arrives."""
        if not self.eof:
            self.connection.receive_data(b'{"type":"pong"}\n{"type":"ping"}\n')
        again = raised(self.connection.next_event)
        assert (type(again), str(again)) == (type(error), str(error))
        assert again is not error
        assert self.connection.pending == tuple(self.pending)

    # ---------------------------------------------------------------------------------- what goes out

    def act(self) -> None:
        """Send what the script says. The model knows what may be sent."""
        if not self.script:
            return
        choice = self.script.below(256)
        if self.role is Role.HOST:
            for _ in range(choice >> 3 & 3):
                self.ask(REQUESTS[choice & 7])
            if choice & 32:
                self.refused(UNSENDABLE[(choice & 7) % len(UNSENDABLE)])
            if choice & 64:
                self.ask(REQUESTS[(choice + 3) & 7])
            return
        for _ in range(choice & 3):
            self.answer(good=not choice & 4, refusal=bool(choice & 8))
        if choice & 16:
            self.connection.send(Lifecycle("ready"))
            self.lifecycle = "ready"

    def ask(self, request: Request) -> None:
        """Send a request, unless too many are pending or nobody is left to answer it, or it is too long."""
        known = len(self.pending)
        refused = raised(self.connection.send, request)
        if refused:
            assert type(refused) is LocalProtocolError
            assert known >= self.max_pending or self.limit < 256
            assert SENTINEL not in str(refused)
        else:
            assert known < self.max_pending
            assert len(encode(request)) <= self.limit
            self.pending.append(request)
        assert self.connection.pending == tuple(self.pending)

    def refused(self, message: Message) -> None:
        """Send what may never be sent."""
        refused = raised(self.connection.send, message)
        assert type(refused) is LocalProtocolError
        # An error names the type of the oldest request, which a host is free to make up.
        assert SENTINEL not in str(refused) or SENTINEL in self.pending[0].type
        assert self.connection.pending == tuple(self.pending)

    def answer(self, *, good: bool, refusal: bool) -> None:
        """Answer the oldest request, rightly or wrongly."""
        if not self.pending:
            self.refused(Pong())
            return
        oldest = self.pending[0]
        fitting: Message = {Ping: Pong(), GetHealth: Health("ready")}.get(type(oldest), Ack(oldest.type, True))
        if not good:
            # Nobody but ping is answered by a pong, and no ping by a health report.
            self.refused(Health("degraded") if isinstance(fitting, Pong) else Pong())
            return
        reply = Ack(oldest.type, False, "no") if refusal else fitting
        if raised(self.connection.send, reply):
            # A made-up type may be so long that naming it fills the line.
            assert len(encode(reply)) > self.limit
            return
        self.pending.popleft()
        if isinstance(fitting, Health) and not refusal:
            self.lifecycle = "ready"
