"""Messages are plain frozen values."""

import copy
import pickle

import attrs
import pytest
from hypothesis import given

from stereos_proto import (
    Ack,
    AgentStatus,
    CustomRequest,
    Health,
    InjectSecret,
    Kind,
    Lifecycle,
    LifecycleState,
    LocalProtocolError,
    Message,
    MessageType,
    Mount,
    Notification,
    Ping,
    Reply,
    Request,
    SetConfig,
    encode,
)
from stereos_proto._messages import named, redacted, shortened, wire_fields, with_article
from stereos_proto._registry import BY_CLASS, REGISTRY
from stereos_proto.testing import strategies as stereos

SECRETIVE = (InjectSecret, SetConfig)
HOLDERS = [
    InjectSecret("A", "s3nt1nel"),
    SetConfig("s3nt1nel"),
    CustomRequest("rotate", ["s3nt1nel"]),
    CustomRequest("inject_secret", {"name": "A", "value": "s3nt1nel"}),
]


@given(stereos.messages())
def test_messages_can_be_copied(message):
    for twin in (copy.copy(message), copy.deepcopy(message), attrs.evolve(message)):
        assert twin == message
        assert type(twin) is type(message)


@given(stereos.messages())
def test_messages_can_be_pickled_unless_they_hold_a_secret(message):
    payload = isinstance(message, CustomRequest) and message.payload is not None
    if isinstance(message, SECRETIVE) or payload:
        with pytest.raises(TypeError, match=f"^{type(message).__name__} may hold a secret, so it is not pickled"):
            pickle.dumps(message)
    else:
        assert pickle.loads(pickle.dumps(message)) == message


@pytest.mark.parametrize("message", HOLDERS, ids=lambda message: message.type)
def test_a_message_without_its_secret(message):
    bare = redacted(message)
    assert type(bare) is type(message)
    assert bare != message
    assert "s3nt1nel" not in repr(vars(bare))
    assert redacted(bare) is bare
    assert repr(bare) == repr(message)
    for again in (pickle.loads(pickle.dumps(bare, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)):
        assert again == bare
        for unsendable in (bare, again, attrs.evolve(again, **({"name": "B"} if "name" in vars(again) else {}))):
            with pytest.raises(LocalProtocolError, match=f"^cannot send {message.type}: .*its secret was taken out"):
                encode(unsendable)


def test_what_holds_no_secret_stays_as_it_is():
    for value in (Ping(), Mount("a", "/b", "9p"), CustomRequest("x"), Ack("x", True), "text", None):
        assert redacted(value) is value


def test_a_copied_payload_is_its_own():
    request = CustomRequest("x", {"a": []})
    twin = copy.deepcopy(request)
    assert twin == request
    twin.payload["a"].append(1)
    assert request.payload == {"a": []}
    assert copy.deepcopy(HOLDERS[0]) is HOLDERS[0]


@given(stereos.messages().filter(lambda message: not hasattr(message, "payload")))
def test_equal_messages_hash_alike(message):
    assert hash(copy.copy(message)) == hash(message)


@pytest.mark.parametrize("cls", [*BY_CLASS, AgentStatus])
def test_messages_keep_their_dictionaries(cls):
    # Slotted classes are filled more slowly than `json.loads` makes dictionaries.
    # `typing.Generic` has the empty slots of a mixin, which take no dictionary away.
    assert not any(vars(base).get("__slots__") for base in cls.__mro__)
    assert vars(object.__new__(cls)) == {}


def test_what_is_not_said_is_zero():
    assert (Health("ready").agents, Health("ready").uptime_seconds) == ((), 0)
    agent = AgentStatus("a", True)
    assert (agent.session, agent.restarts, agent.error) == ("", 0, "")
    assert (InjectSecret("a", "b").mode, Mount("a", "b", "c").read_only) == (0o600, False)


@pytest.mark.parametrize("cls", BY_CLASS)
def test_messages_are_frozen(cls):
    message = object.__new__(cls)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.anything = 1


def test_classes_tell_them_apart():
    assert Mount("a", "b", "c") != CustomRequest("mount")
    assert isinstance(Ping(), (Request, Message))
    for cls, row in BY_CLASS.items():
        base = {Kind.REQUEST: Request, Kind.REPLY: Reply, Kind.NOTIFICATION: Notification}[row.kind]
        assert issubclass(cls, base)


def test_requests_say_what_answers_them():
    for row in REGISTRY:
        if row.kind is Kind.REQUEST:
            (base,) = row.cls.__orig_bases__[-1:]
            (reply,) = base.__args__
            assert reply.__forward_arg__ == row.reply.__name__
    assert CustomRequest.__orig_bases__[-1].__args__ == (Reply,)


def test_the_types_of_the_reference():
    assert {row.type for row in REGISTRY} == set(MessageType)
    assert all(row.cls.type == row.type for row in REGISTRY)


def test_secrets_are_not_shown():
    assert repr(InjectSecret("a", "hunter2")) == "InjectSecret(name='a', mode=0o600)"
    assert repr(SetConfig("hunter2")) == "SetConfig()"
    assert repr(CustomRequest("x", "hunter2")) == "CustomRequest(type='x')"
    # The arguments in the wrong order.
    assert repr(InjectSecret("a", 0o600, "hunter2")) == "InjectSecret(name='a', mode=str)"


def test_states_that_are_known_are_members():
    assert Health("ready").state is LifecycleState.READY
    assert type(Lifecycle("singing").state) is str
    assert Lifecycle(LifecycleState.BOOTING).state is LifecycleState.BOOTING
    assert Health(["no state"]).state == ["no state"]
    assert Health("ready") == Health(LifecycleState.READY)


def test_agents_become_a_tuple():
    assert Health("ready", [AgentStatus("a", True)]).agents == (AgentStatus("a", True),)


def test_fields_in_wire_order_with_types():
    assert [(field.name, field.type) for field in wire_fields(Mount)] == [
        ("tag", str),
        ("guest_path", str),
        ("fs_type", str),
        ("read_only", bool),
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mount", "mount"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("\ud800", r"'\ud800'"),
        ("x" * 40, "x" * 40),
        ("x" * 41, f"'{'x' * 40}'…"),
    ],
)
def test_texts_of_others_in_a_sentence(text, shown):
    assert shortened(text) == shown
    assert named(CustomRequest(text)) == shown


def test_a_type_that_is_no_text():
    assert named(CustomRequest(5)) == "CustomRequest"
    assert named(Ping()) == "ping"


@pytest.mark.parametrize(("cls", "words"), [(int, "an int"), (Ack, "an Ack"), (str, "a str"), (Mount, "a Mount")])
def test_a_class_in_a_sentence(cls, words):
    assert with_article(cls) == words
