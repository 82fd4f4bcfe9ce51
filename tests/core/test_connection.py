"""One end of one connection: what is handed out, what is refused, what is remembered."""

import copy
import pickle
import traceback
from math import inf

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interrupts import interrupt, interrupt_after, locals_of
from stereos_proto import (
    NEED_DATA,
    REDACTED,
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
    Kind,
    Lifecycle,
    LifecycleState,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    MalformedReceived,
    Mount,
    NotificationReceived,
    Ping,
    Pong,
    Refusal,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    Role,
    SetConfig,
    Shutdown,
    State,
    UnexpectedReply,
    UnknownMessage,
    UnknownReceived,
    _connection,
    encode,
)
from stereos_proto.testing import ConnectionPair, feed_in_chunks
from stereos_proto.testing import strategies as stereos

MOUNT = Mount("share0", "/workspace", "9p")


def host(*sent, **limits):
    made = Connection(Role.HOST, **limits)
    for message in sent:
        made.send(message)
    return made


def guest(*received, **limits):
    made = Connection(Role.GUEST, **limits)
    for message in received:
        made.receive_data(encode(message))
        made.next_event()
    return made


def after(connection, data, *, eof=False):
    return feed_in_chunks(connection, data, eof=eof)


# Making one


@pytest.mark.parametrize("limits", [{"max_pending": 1.5}, {"max_pending": inf}, {"max_line_size": "1024"}], ids=str)
def test_a_limit_is_a_whole_number(limits):
    with pytest.raises(TypeError, match="must be whole numbers"):
        host(**limits)


@pytest.mark.parametrize("role", ["host", None, 1])
def test_a_role_is_a_role(role):
    with pytest.raises(TypeError, match=r"^our_role must be Role.HOST or Role.GUEST$"):
        Connection(role)


@pytest.mark.parametrize("limits", [{"max_line_size": 63}, {"max_pending": 0}, {"max_line_size": -1}])
def test_limits_that_nothing_fits_in(limits):
    with pytest.raises(ValueError, match="must be at least"):
        Connection(Role.HOST, **limits)


def test_a_fresh_one():
    made = Connection(Role.GUEST)
    assert (made.our_role, made.their_role) == (Role.GUEST, Role.HOST)
    assert (made.our_state, made.their_state) == (State.OPEN, State.OPEN)
    assert (made.pending, made.lifecycle, made.trailing_data) == ((), None, b"")
    assert made.next_event() is NEED_DATA
    assert repr(made) == "<Connection guest ours=open theirs=open pending=0>"


# Sending


def test_send_returns_the_line_and_counts_the_request():
    made = host()
    assert made.send(Ping()) == b'{"type":"ping"}\n'
    assert made.send(MOUNT) == encode(MOUNT)
    assert made.pending == (Ping(), MOUNT)
    assert repr(made) == "<Connection host ours=open theirs=open pending=2>"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Pong(), "cannot send pong: the host does not send Pong"),
        (Ack("ping", True), "cannot send ack: the host does not send Ack"),
        (Mount(1, "", ""), "cannot send mount: tag must be a str, not int"),
        (
            InjectSSHKey("admin", "ssh-rsa AAAA\nssh-rsa BBBB"),
            "cannot send inject_ssh_key: the public key has a newline inside, so the guest would store it as two keys",
        ),
    ],
)
def test_what_a_host_does_not_send(message, text):
    made = host(Ping())
    with pytest.raises(LocalProtocolError) as caught:
        made.send(message)
    assert str(caught.value) == text
    assert caught.value.__context__ is None
    assert made.pending == (Ping(),)
    assert made.our_state is State.OPEN


def test_a_custom_request_is_checked_as_the_class_of_its_name():
    with pytest.raises(LocalProtocolError, match=r"^cannot send mount: .*payload\.tag must be a string"):
        host().send(CustomRequest("mount", {"tag": 1}))


def test_a_key_may_end_its_line():
    assert host().send(InjectSSHKey("admin", "ssh-rsa AAAA me\n"))


def test_no_more_than_max_pending_wait():
    made = host(Ping(), Ping(), max_pending=2)
    with pytest.raises(LocalProtocolError, match=r"^cannot send ping: 2 requests are waiting for their reply already$"):
        made.send(Ping())
    after(made, b'{"type":"pong"}\n')
    made.send(Ping())


def test_a_guest_answers_however_many_there_are():
    made = guest(Ping(), Ping(), Ping(), max_pending=1)
    for _ in range(3):
        assert made.send(Pong()) == b'{"type":"pong"}\n'
    with pytest.raises(LocalProtocolError, match=r"^cannot send pong: pong answers nothing: no request is waiting$"):
        made.send(Pong())


def test_commit_counts_what_was_encoded_before():
    made = host()
    line = encode(MOUNT)
    made.commit(MOUNT)
    assert made.pending == (MOUNT,)
    assert host().send(MOUNT) == line


@pytest.mark.parametrize("send", [Connection.send, Connection.commit])
def test_a_refusal_says_whether_to_wait_or_to_give_up(send):
    full = host(Ping(), max_pending=1)
    with pytest.raises(LocalProtocolError) as caught:
        send(full, MOUNT)
    assert caught.value.refusal is Refusal.FULL
    with pytest.raises(LocalProtocolError) as caught:
        send(host(), Pong())
    assert caught.value.refusal is Refusal.MESSAGE
    for end in (Connection.send_failed, Connection.send_eof):
        ended = host()
        end(ended)
        with pytest.raises(LocalProtocolError) as caught:
            send(ended, MOUNT)
        assert caught.value.refusal is Refusal.ENDED
    gone = host()
    after(gone, b"", eof=True)
    with pytest.raises(LocalProtocolError) as caught:
        send(gone, MOUNT)
    assert caught.value.refusal is Refusal.ENDED


@pytest.mark.parametrize(
    ("request_", "twin", "reply"),
    [
        (CustomRequest("ping"), Ping(), Pong()),
        (CustomRequest("mount", {"tag": "share0", "guest_path": "/workspace", "fs_type": "9p"}), MOUNT, None),
    ],
)
def test_a_custom_request_with_the_name_of_a_class_is_that_request(request_, twin, reply):
    made = host()
    line = made.send(request_)
    assert after(Connection(Role.GUEST), line) == [RequestReceived(twin)]
    reply = reply or Ack("mount", True)
    assert after(made, encode(reply)) == [ReplyReceived(reply, request_)]
    strict = host(request_)
    (error,) = after(strict, encode(Health("ready")))
    assert type(error) is UnexpectedReply


def test_a_line_over_our_own_limit_is_not_sent():
    made = host(max_line_size=100)
    with pytest.raises(LocalProtocolError, match=r"over 100 bytes$"):
        made.send(SetConfig("x" * 100))
    assert made.pending == ()


def test_after_send_failed_nothing_is_sent():
    made = host(Ping())
    made.send_failed()
    assert made.our_state is State.ERROR
    with pytest.raises(LocalProtocolError, match=r"^cannot send ping: the connection broke on the host's side$"):
        made.send(Ping())
    # What was asked before is still answered.
    assert after(made, b'{"type":"pong"}\n') == [ReplyReceived(Pong(), Ping())]


def test_after_send_eof_nothing_is_sent_and_replies_arrive():
    made = host(Ping())
    made.send_eof()
    made.send_eof()
    assert made.our_state is State.CLOSED
    with pytest.raises(LocalProtocolError, match="the host has closed its side of the connection"):
        made.send(Ping())
    assert after(made, b'{"type":"pong"}\n', eof=True) == [ReplyReceived(Pong(), Ping()), ConnectionClosed(())]


def test_nothing_is_asked_of_a_guest_that_has_gone():
    made = host()
    after(made, b"", eof=True)
    with pytest.raises(LocalProtocolError, match=r"^cannot send ping: the guest has closed its side"):
        made.send(Ping())


# Receiving as a host


def test_replies_in_order_and_notifications_between():
    made = host(Ping(), GetHealth(), MOUNT)
    said = [Lifecycle("booting"), Pong(), Health("ready", (), 3), UnknownMessage("x", [1]), Ack("mount", False, "no")]
    made.receive_data(b"".join(map(encode, said)))
    assert made.lifecycle is None
    assert made.next_event() == NotificationReceived(Lifecycle("booting"))
    assert made.lifecycle is LifecycleState.BOOTING
    assert made.pending == (Ping(), GetHealth(), MOUNT)
    assert made.next_event() == ReplyReceived(Pong(), Ping())
    assert made.next_event() == ReplyReceived(said[2], GetHealth())
    assert made.lifecycle == "ready"
    assert made.next_event() == UnknownReceived("x", [1])
    assert made.trailing_data == encode(said[4])
    assert made.next_event() == ReplyReceived(said[4], MOUNT)
    assert made.next_event() is NEED_DATA
    assert made.pending == ()


def test_events_are_frozen_however_they_were_made():
    event = after(host(Ping()), b'{"type":"pong"}\n')[0]
    assert event == ReplyReceived(Pong(), Ping())
    assert hash(event) == hash(ReplyReceived(Pong(), Ping()))
    with pytest.raises(AttributeError):
        event.message = None
    assert repr(event) == "ReplyReceived(message=Pong(), request=Ping())"


@pytest.mark.parametrize(
    ("sent", "reply", "why"),
    [
        ([], Pong(), "pong answers nothing: no request is waiting"),
        ([MOUNT], Pong(), "pong does not answer mount, the oldest unanswered request"),
        ([Ping()], Ack("mount", True), "ack of mount does not answer ping, the oldest unanswered request"),
        ([MOUNT], Ack("x" * 99, False, "s"), "ack of an unknown request does not answer mount, the oldest"),
    ],
)
def test_a_reply_to_another_request(sent, reply, why):
    made = host(*sent)
    (error,) = after(made, encode(reply))
    assert type(error) is UnexpectedReply
    assert str(error).startswith(f"the guest broke the order of the conversation: {why}")
    assert error.reply == (attrs.evolve(reply, reply_to=REDACTED) if reply == Ack("x" * 99, False, "s") else reply)
    assert error.request == (sent[0] if sent else None)
    assert error.__context__ is None
    assert made.their_state is State.ERROR
    assert made.our_state is State.OPEN
    assert made.pending == tuple(sent)


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (Ack("s3nt1nel", True, "s3nt1nel"), Ack(REDACTED, True, REDACTED)),
        (Ack("mount", False, "no s3nt1nel"), Ack("mount", False, f"no {REDACTED}")),
        (Ack("of its own", True), Ack(REDACTED, True)),
        (Ack("rotate", True), Ack("rotate", True)),
        (Health("s3nt1nel"), Health(REDACTED)),
    ],
)
def test_an_unexpected_reply_that_quotes_a_secret(reply, shown):
    made = host(SetConfig("token = 's3nt1nel'"), CustomRequest("rotate", "s3nt1nel"))
    (error,) = after(made, encode(reply))
    assert error.reply == shown
    assert "s3nt1nel" not in f"{error} {error!r} {vars(error)}"
    (nothing,) = after(host(), encode(Ack("s3nt1nel", True)))
    assert str(nothing).endswith(": ack of an unknown request answers nothing: no request is waiting")
    assert "s3nt1nel" not in repr(vars(nothing))


@pytest.mark.parametrize(
    ("line", "cls"),
    [(b"nonsense\n", MalformedLine), (b'{"type":"ack","payload":5}\n', InvalidMessage), (b"x" * 2000, LineTooLong)],
)
def test_a_bad_line_ends_it_after_the_good_ones(line, cls):
    made = host(Ping(), Ping(), max_line_size=1000)
    outcome = after(made, b'{"type":"pong"}\n' + line + b'{"type":"pong"}\n')
    assert outcome[0] == ReplyReceived(Pong(), Ping())
    assert type(outcome[1]) is cls
    assert made.their_state is State.ERROR
    made.receive_data(b'{"type":"pong"}\n')
    for _ in range(2):
        with pytest.raises(cls) as caught:
            made.next_event()
        assert caught.value is not outcome[1]
        assert (str(caught.value), vars(caught.value)) == (str(outcome[1]), vars(outcome[1]))
    made.receive_eof()
    with pytest.raises(cls):
        list(made.events())
    if cls is LineTooLong:
        assert str(caught.value) == "the guest sent a line longer than 1000 bytes"
        assert caught.value.limit == 1000


# The end


@pytest.mark.parametrize("role", Role)
def test_eof_is_told_once(role):
    made = Connection(role)
    assert after(made, b"", eof=True) == [ConnectionClosed(())]
    made.receive_eof()
    assert made.next_event() is NEED_DATA
    assert made.their_state is State.CLOSED
    with pytest.raises(RuntimeError, match=r"^receive_data was called after receive_eof$"):
        made.receive_data(b"")


def test_eof_names_what_is_unanswered():
    assert after(host(Ping(), MOUNT), b'{"type":"pong"}', eof=True) == [
        ReplyReceived(Pong(), Ping()),
        ConnectionClosed((MOUNT,)),
    ]


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ([], "the guest closed the connection in the middle of a line"),
        ([MOUNT], "the guest closed the connection in the middle of a line while mount was unanswered"),
    ],
)
def test_eof_in_a_line(sent, text):
    made = host(*sent)
    (error,) = after(made, b'{"type":', eof=True)
    assert type(error) is IncompleteLine
    assert str(error) == text
    assert error.column == 9
    assert made.pending == tuple(sent)


def test_a_last_line_without_its_end_that_is_json_of_the_wrong_kind():
    (error,) = after(host(Ping()), b'{"type":"ack","payload":5}', eof=True)
    assert type(error) is InvalidMessage


def test_a_guest_owes_a_refusal_for_half_a_line():
    made = Connection(Role.GUEST)
    (error,) = after(made, b'{"type":', eof=True)
    assert type(error) is IncompleteLine
    assert str(error) == "the host closed the connection in the middle of a line"
    assert made.pending == (CustomRequest(""),)
    refusal = MalformedReceived(error).reply
    assert refusal == Ack("", False, "malformed JSON: unexpected end of JSON input")
    assert made.send(refusal)
    assert made.pending == ()
    made.send_eof()
    assert made.our_state is State.CLOSED


# Receiving as a guest


def test_requests_are_answered_in_order():
    made = Connection(Role.GUEST)
    made.receive_data(encode(Ping()) + b"\r\n" + encode(MOUNT) + b"junk\n" + b'{"type":"mount"}\n' + encode(Shutdown()))
    assert made.next_event() == RequestReceived(Ping())
    assert made.next_event() == RequestReceived(MOUNT)
    malformed, invalid = made.next_event(), made.next_event()
    assert malformed.reply == Ack("", False, "malformed JSON: invalid character 'j' looking for beginning of value")
    assert invalid.reply == Ack("mount", False, "decode mount payload: envelope mount has no payload")
    assert made.next_event() == RequestReceived(Shutdown())
    assert made.pending == (Ping(), MOUNT, CustomRequest(""), CustomRequest("mount"), Shutdown())
    with pytest.raises(LocalProtocolError, match="ack of mount does not answer ping"):
        made.send(Ack("mount", True))
    for message in (Pong(), Lifecycle("ready"), Ack("mount", True), malformed.reply, invalid.reply):
        made.send(message)
    assert made.pending == (Shutdown(),)


@pytest.mark.parametrize("payload", [b"", b',"payload":5', b',"payload":{"reason":[]}', b',"payload":null'])
def test_a_shutdown_is_obeyed_whatever_it_says(payload):
    made = Connection(Role.GUEST)
    assert after(made, b'{"type":"shutdown"%b}\n' % payload) == [RequestReceived(Shutdown())]
    assert made.pending == (Shutdown(),)


def test_messages_of_a_guest_are_unknown_requests_to_a_guest():
    assert after(Connection(Role.GUEST), b'{"type":"pong"}\n') == [RequestReceived(CustomRequest("pong"))]


def test_a_request_after_the_guest_has_gone_breaks_the_order():
    made = Connection(Role.GUEST)
    made.send_eof()
    (error,) = after(made, encode(Ping()))
    assert type(error) is RemoteProtocolError
    assert str(error) == (
        "the host broke the order of the conversation: the guest has closed its side of the connection"
    )


def test_a_host_that_has_closed_its_side_is_still_answered():
    made = guest(Ping())
    assert after(made, b"", eof=True) == [ConnectionClosed((Ping(),))]
    assert made.send(Pong()) == b'{"type":"pong"}\n'


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(make):
    assert after(host(Ping()), make(b'{"type":"pong"}\n')) == [ReplyReceived(Pong(), Ping())]


# Secrets

SENTINEL = "s3ntinel-7261"


def shown(error):
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(whole.format()) + repr(error) + repr(error.args) + repr(vars(error))


@pytest.mark.parametrize(
    "make",
    [
        lambda: host(max_line_size=100).send(SetConfig(SENTINEL * 10)),
        lambda: host(max_line_size=100).send(InjectSecret("a", SENTINEL + "\ud800")),
        lambda: host(Ping(), max_pending=1).send(InjectSecret("a", SENTINEL)),
        lambda: guest().send(InjectSecret("a", SENTINEL)),
        lambda: host().send(CustomRequest("set_config", {"content": [SENTINEL]})),
    ],
)
def test_no_secret_in_refusals(make):
    with pytest.raises(LocalProtocolError) as caught:
        make()
    assert SENTINEL not in shown(caught.value)


@pytest.mark.parametrize(
    ("line", "eof"),
    [
        (b'{"type":"inject_secret","payload":{"value":"%b"', True),
        (b'{"type":"inject_secret","payload":{"value":"%b"' + b"x" * 2000, False),
    ],
)
def test_no_secret_in_errors_that_end_the_connection(line, eof):
    made = Connection(Role.GUEST, max_line_size=1000)
    made.receive_data(line.replace(b"%b", SENTINEL.encode()))
    if eof:
        made.receive_eof()
    with pytest.raises(RemoteProtocolError) as caught:
        made.next_event()
    assert SENTINEL not in shown(caught.value)


def test_no_secret_in_events():
    made = Connection(Role.GUEST)
    secret, broken = InjectSecret("a", SENTINEL), b'{"type":"inject_secret","payload":{"value":["%b"]}}\n'
    outcome = after(made, encode(secret) + broken % SENTINEL.encode() + b'"%b' % SENTINEL.encode() + b"\n")
    assert len(outcome) == 3
    assert SENTINEL not in repr(outcome) + repr(made) + repr(made.pending)
    assert SENTINEL not in repr([outcome[1].reply, outcome[2].reply])


# A pair under any interleaving, against a model of a dozen lines


class Pair(RuleBasedStateMachine):
    """Bytes in flight in both directions, delivered in any pieces, while both ends go on talking."""

    def __init__(self):
        super().__init__()
        self.pair = ConnectionPair(max_pending=4)
        self.flying = {role: bytearray() for role in Role}  # by receiver
        self.asked = []  # on their way to the guest
        self.owed = []  # seen by the guest, or garbage that it refused
        self.said = []  # on their way to the host: (message, is it a reply)
        self.waiting = []  # at the host
        self.ended = dict.fromkeys(Role, False)  # by sender: said so
        self.heard_end = dict.fromkeys(Role, False)  # by receiver

    def open(self, role):
        return not self.ended[role]

    @precondition(lambda self: self.open(Role.HOST) and not self.heard_end[Role.HOST])
    @rule(request=stereos.messages(kind=Kind.REQUEST).filter(stereos.is_sendable))
    def ask(self, request):
        if len(self.waiting) == 4:
            with pytest.raises(LocalProtocolError):
                self.pair.host.send(request)
            return
        self.flying[Role.GUEST] += self.pair.host.send(request)
        self.asked.append(request)
        self.waiting.append(request)

    @precondition(lambda self: self.open(Role.GUEST) and self.owed)
    @rule(data=st.data())
    def answer(self, data):
        request = self.owed.pop(0)
        reply = request if isinstance(request, Ack) else data.draw(stereos.replies_to(request))
        self.flying[Role.HOST] += self.pair.guest.send(reply)
        self.said.append((reply, True))

    @precondition(lambda self: self.open(Role.GUEST))
    @rule(notification=stereos.messages(kind=Kind.NOTIFICATION))
    def tell(self, notification):
        self.flying[Role.HOST] += self.pair.guest.send(notification)
        self.said.append((notification, False))

    @precondition(lambda self: self.open(Role.GUEST) and not self.owed)
    @rule()
    def answer_nothing(self):
        with pytest.raises(LocalProtocolError):
            self.pair.guest.send(Pong())

    @precondition(lambda self: self.open(Role.HOST))
    @rule(line=stereos.malformed_lines())
    def garbage_to_the_guest(self, line):
        # A host that is not ours; its requests in flight are ours to keep apart, so it waits for the refusal.
        if self.asked or self.waiting or self.flying[Role.GUEST]:
            return
        events = self.pair.send_raw(Role.HOST, line + b"\n") if not self.heard_end[Role.GUEST] else []
        assert all(isinstance(event, MalformedReceived) for event in events)
        for event in events:
            refusal = event.reply
            assert self.pair.guest.pending[-1] == CustomRequest("")
            if self.open(Role.GUEST):
                self.pair.guest.send(refusal)
            else:
                self.owed.append(refusal)

    @rule(receiver=st.sampled_from(Role), data=st.data())
    def deliver(self, receiver, data):
        flying = self.flying[receiver]
        size = data.draw(st.integers(0, len(flying)))
        connection = self.pair[receiver]
        if self.heard_end[receiver]:
            return
        connection.receive_data(bytes(flying[:size]))
        del flying[:size]
        for event in connection.events():
            self.check(receiver, event)

    def check(self, receiver, event):
        if receiver is Role.GUEST:
            assert event == RequestReceived(self.asked[0])
            self.owed.append(self.asked.pop(0))
            return
        message, is_reply = self.said.pop(0)
        if is_reply:
            assert event == ReplyReceived(message, self.waiting.pop(0))
        elif isinstance(message, UnknownMessage):
            assert event == UnknownReceived(message.type, message.payload)
        else:
            assert event == NotificationReceived(message)

    @precondition(lambda self: self.open(Role.HOST))
    @rule()
    def host_ends(self):
        self.pair.host.send_eof()
        self.ended[Role.HOST] = True

    @precondition(lambda self: self.open(Role.GUEST) and not self.asked and self.ended[Role.HOST])
    @rule()
    def guest_ends(self):
        self.pair.guest.send_eof()
        self.ended[Role.GUEST] = True

    @rule(receiver=st.sampled_from(Role))
    def end_arrives(self, receiver):
        if not self.ended[receiver.peer] or self.flying[receiver] or self.heard_end[receiver]:
            return
        connection = self.pair[receiver]
        connection.receive_eof()
        assert list(connection.events()) == [ConnectionClosed(connection.pending)]
        self.heard_end[receiver] = True

    @invariant()
    def the_model_agrees(self):
        assert self.pair.host.pending == tuple(self.waiting)
        seen = tuple(CustomRequest("") if isinstance(owed, Ack) else owed for owed in self.owed)
        assert self.pair.guest.pending == seen
        for role in Role:
            connection = self.pair[role]
            assert (connection.our_state is State.CLOSED) == self.ended[role]
            assert (connection.their_state is State.CLOSED) == self.heard_end[role]


Pair.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPair = Pair.TestCase


def test_errors_are_copies_that_keep_their_evidence():
    (error,) = after(host(MOUNT), encode(Pong()))
    twin = copy.copy(error)
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


def test_a_ctrl_c_while_bytes_are_taken(monkeypatch):
    connection = Connection(Role.HOST)
    monkeypatch.setattr(connection, "_feed", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        connection.receive_data(b"a secret")
    assert "a secret" not in locals_of(caught.value)


def test_a_ctrl_c_while_a_line_is_read(monkeypatch):
    connection = Connection(Role.GUEST)
    connection.receive_data(b'{"type":"ping","x":"a secret"}\n')
    monkeypatch.setattr(connection, "_read", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        connection.next_event()
    assert "a secret" not in locals_of(caught.value)


def test_a_ctrl_c_while_a_message_is_written(monkeypatch):
    monkeypatch.setattr(_connection, "write", interrupt_after(_connection.write))
    with pytest.raises(KeyboardInterrupt) as caught:
        Connection(Role.HOST).send(InjectSecret("TOKEN", "a secret"))
    assert "a secret" not in locals_of(caught.value)


def test_a_ctrl_c_while_a_message_is_sent(monkeypatch):
    connection = Connection(Role.HOST)
    monkeypatch.setattr(connection, "_take", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        connection.send(InjectSecret("TOKEN", "a secret"))
    assert "a secret" not in locals_of(caught.value)


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_neither_copied_nor_pickled(how):
    """Two that share one state would write to one stream, or read from it."""
    with pytest.raises(TypeError, match="a Connection belongs to one stream"):
        how(host())


@pytest.mark.parametrize("data", [5, "ping", None, [1]])
def test_what_is_no_bytes_is_not_received(data):
    connection = Connection(Role.HOST)
    with pytest.raises(TypeError, match=rf"^receive_data takes bytes, not {type(data).__name__}$"):
        connection.receive_data(data)
    assert connection.next_event() is NEED_DATA


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_each_kind_are_received(kind):
    connection = Connection(Role.GUEST)
    connection.receive_data(kind(encode(Ping())))
    assert connection.next_event() == RequestReceived(Ping())
