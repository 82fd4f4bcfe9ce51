"""The state table, by its whole product, and the rules of matching."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import (
    Ack,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    Kind,
    Lifecycle,
    LifecycleState,
    Mount,
    Ping,
    Pong,
    Role,
    Shutdown,
    State,
    UnknownMessage,
)
from stereos_proto._registry import BY_CLASS
from stereos_proto._state import (
    REQUIREMENTS,
    TRANSITIONS,
    Conversation,
    Happening,
    Violation,
    answers,
    describe,
    unexpected,
)
from stereos_proto.testing import strategies as stereos

EXAMPLE = {Kind.REQUEST: Ping(), Kind.REPLY: Pong(), Kind.NOTIFICATION: Lifecycle("ready")}
STEPS = {
    State.OPEN: lambda _conversation, _role: None,
    State.CLOSED: Conversation.end,
    State.ERROR: Conversation.fail,
}


def conversation(ours, theirs, *pending):
    made = Conversation()
    for request in pending:
        made.message(Role.HOST, request)
    STEPS[ours](made, Role.HOST)
    STEPS[theirs](made, Role.GUEST)
    assert made.states == {Role.HOST: ours, Role.GUEST: theirs}
    return made


#: Written out by hand, so that a change of the tables has to be made twice.
MAY_SEND = {
    (State.OPEN, Kind.REQUEST): {State.OPEN},
    (State.OPEN, Kind.REPLY): set(State),
    (State.OPEN, Kind.NOTIFICATION): set(State),
}


@pytest.mark.parametrize(("host", "guest", "kind"), list(itertools.product(State, State, Kind)))
def test_who_may_send_in_which_states(host, guest, kind):
    made = conversation(host, guest, Ping())
    sender = kind.sender
    ours, theirs = (host, guest) if sender is Role.HOST else (guest, host)
    before = (dict(made.states), list(made.pending), made.lifecycle)
    if theirs in MAY_SEND.get((ours, kind), ()):
        made.message(sender, EXAMPLE[kind])
        assert made.states == before[0]
    else:
        with pytest.raises(Violation, match=r"has closed its side of the connection|the connection broke on the"):
            made.message(sender, EXAMPLE[kind])
        assert (made.states, list(made.pending), made.lifecycle) == before


@pytest.mark.parametrize(("state", "happening"), list(itertools.product(State, Happening)))
def test_every_transition(state, happening):
    expected = {
        Happening.MESSAGE: State.OPEN if state is State.OPEN else None,
        Happening.END: State.CLOSED if state is State.OPEN else state,
        Happening.FAILURE: State.ERROR,
    }[happening]
    assert TRANSITIONS.get((state, happening)) is expected


def test_every_kind_has_its_requirement():
    assert REQUIREMENTS.keys() == set(Kind)


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("cls", BY_CLASS)
def test_each_end_sends_its_own_messages_only(sender, cls):
    message = object.__new__(cls)
    if BY_CLASS[cls].sender is not sender:
        with pytest.raises(Violation, match=f"^the {sender.value} does not send {cls.__name__}$"):
            Conversation().message(sender, message)


@pytest.mark.parametrize("sender", Role)
def test_what_is_no_message_is_refused(sender):
    with pytest.raises(Violation, match="does not send object"):
        Conversation().message(sender, object())


REQUESTS = [Ping(), GetHealth(), Mount("a", "/b", "9p"), Shutdown(), InjectSecret("a", "b"), CustomRequest("unmount")]
REPLIES = [
    Pong(),
    Health("ready"),
    *(Ack(to, ok) for to in ("", "ping", "get_health", "mount", "shutdown", "unmount", "what") for ok in (True, False)),
]


def expected_to_answer(reply, request):
    if isinstance(reply, Ack) and not reply.ok:
        return reply.reply_to in ("", request.type)
    if request.type == "ping":
        return reply == Pong()
    if request.type == "get_health":
        return isinstance(reply, Health)
    return isinstance(reply, Ack) and reply.reply_to == request.type


@pytest.mark.parametrize(("reply", "request_"), list(itertools.product(REPLIES, REQUESTS)))
def test_answers(reply, request_):
    fits = expected_to_answer(reply, request_)
    assert answers(reply, request_) is fits
    made = conversation(State.OPEN, State.OPEN, request_, Ping())
    if fits:
        assert made.message(Role.GUEST, reply) is request_
        assert list(made.pending) == [Ping()]
    else:
        with pytest.raises(Violation, match=f" does not answer {request_.type}, the oldest unanswered request$"):
            made.message(Role.GUEST, reply)
        assert list(made.pending) == [request_, Ping()]


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_to_nothing(reply):
    with pytest.raises(Violation, match=r"answers nothing: no request is waiting$"):
        Conversation().message(Role.GUEST, reply)


KNOWN = [request for request in REQUESTS if type(request) is not CustomRequest]


@pytest.mark.parametrize(("reply", "request_"), list(itertools.product(REPLIES, KNOWN)))
def test_a_custom_request_with_a_known_name_is_answered_as_that_is(reply, request_):
    assert answers(reply, CustomRequest(request_.type)) is answers(reply, request_)


def test_what_the_guest_tells_of_itself_is_remembered():
    made = conversation(State.OPEN, State.OPEN, GetHealth())
    assert made.lifecycle is None
    made.message(Role.GUEST, Lifecycle("booting"))
    assert made.lifecycle is LifecycleState.BOOTING
    made.message(Role.GUEST, Health("singing"))
    assert made.lifecycle == "singing"
    made.message(Role.GUEST, UnknownMessage("x", {"state": "ready"}))
    assert made.lifecycle == "singing"


def test_an_unreadable_line_is_owed_a_refusal():
    made = Conversation()
    made.unreadable("")
    made.unreadable("mount")
    assert made.message(Role.GUEST, Ack("", False, "malformed")) == CustomRequest("")
    assert made.message(Role.GUEST, Ack("mount", False, "no")) == CustomRequest("mount")


def test_replies_in_words():
    assert describe(Pong()) == "pong"
    assert describe(Ack("mount", True, "text of the guest")) == "ack of mount"
    assert describe(Ack("", True)) == "ack of ''"
    # The guest's own words may be a secret that it was sent.
    assert describe(Ack("rotate", True)) == "ack of an unknown request"
    assert describe(Ack("rotate", True), [Ping(), CustomRequest("rotate")]) == "ack of rotate"
    assert describe(Ack("x" * 99, True), [CustomRequest("x" * 99)]) == f"ack of '{'x' * 40}'…"


@given(stereos.messages(kind=Kind.REQUEST), st.data())
def test_drawn_replies_answer(request, data):
    assert answers(data.draw(stereos.replies_to(request)), request)


def test_reprs_are_short():
    assert repr(State.OPEN) == "State.OPEN"
    # Both are keys of the tables on the way of every message.
    assert hash(State.OPEN) == object.__hash__(State.OPEN)
    assert hash(Happening.END) == object.__hash__(Happening.END)


@pytest.mark.parametrize(
    ("reply_to", "pending", "shown"),
    [
        ("mount", [], "mount"),
        ("", [], ""),
        ("made-up", [CustomRequest("made-up")], "made-up"),
        ("made-up", [], "[redacted]"),
        ("s3nt1nel", [InjectSecret("A", "s3nt1nel")], "[redacted]"),
    ],
)
def test_a_reply_that_answers_nothing_is_kept_without_what_may_be_a_secret(reply_to, pending, shown):
    assert unexpected(Ack(reply_to, True), pending).reply_to == shown
    assert unexpected(Pong(), pending) == Pong()
