"""The test tools that users get."""

import importlib
import sys
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stereos_proto import (
    AgentStatus,
    CustomRequest,
    Kind,
    LocalProtocolError,
    MalformedLine,
    NotificationReceived,
    Ping,
    Pong,
    ReplyReceived,
    Request,
    RequestReceived,
    Role,
    UnknownMessage,
    decode,
    encode,
)
from stereos_proto._messages import wire_fields
from stereos_proto._registry import BY_CLASS, BY_TYPE, REGISTRY
from stereos_proto.testing import ConnectionPair
from stereos_proto.testing import strategies as stereos

PING, PONG = encode(Ping()), encode(Pong())


# Strategies


@pytest.mark.parametrize("cls", [*BY_CLASS, AgentStatus])
def test_every_class_has_its_strategy(cls):
    @given(stereos.from_message_class(cls))
    def check(made):
        assert type(made) is cls
        if cls is not AgentStatus:
            assert decode(encode(made), sender=BY_CLASS[cls].sender) == made

    check()


def test_a_new_class_needs_nothing_here():
    @attrs.frozen(slots=False)
    class Unmount(Request):
        type = "unmount"
        guest_path: str
        lazily: bool = False

    @given(stereos.from_message_class(Unmount, guest_path=st.just("/a")))
    def check(made):
        assert (made.guest_path, type(made.lazily)) == ("/a", bool)

    check()


@pytest.mark.parametrize("sender", [None, *Role])
@pytest.mark.parametrize("kind", [None, *Kind])
def test_which_messages(sender, kind):
    expected = {cls for cls, row in BY_CLASS.items() if sender in (None, row.sender) and kind in (None, row.kind)}
    assert set(stereos.message_classes(sender=sender, kind=kind)) == expected
    if expected:

        @given(stereos.messages(sender=sender, kind=kind))
        def check(message):
            assert type(message) in expected

        check()
    else:
        with pytest.raises(ValueError, match=r"^no message fits sender=Role\.\w+ and kind=Kind\.\w+: "):
            stereos.messages(sender=sender, kind=kind)


@pytest.mark.parametrize("sender", [None, *Role])
@pytest.mark.parametrize("kind", [None, *Kind])
def test_what_can_be_sent_and_what_cannot(sender, kind):
    classes = {cls for cls in stereos.message_classes(sender=sender, kind=kind) if attrs.fields(cls)}
    if not classes:
        with pytest.raises(ValueError, match=r"^no message fits sender="):
            stereos.unsendable_messages(sender=sender, kind=kind)
        return

    @given(stereos.messages(sender=sender, kind=kind), stereos.unsendable_messages(sender=sender, kind=kind))
    @settings(max_examples=30)
    def check(good, bad):
        assert stereos.is_sendable(good)
        assert encode(good)
        assert type(bad) in classes
        with pytest.raises(LocalProtocolError, match=r"^cannot send "):
            encode(bad)

    check()


@pytest.mark.parametrize("cls", [cls for cls in BY_CLASS if attrs.fields(cls)])
def test_every_field_can_be_unfit(cls):
    """Each value that stands for "unfit" is refused, alone among good ones."""
    good = {field.name: _good(field) for field in wire_fields(cls)}
    assert encode(cls(**good))
    for field in wire_fields(cls):
        for value in stereos._UNFIT.get(field.type, stereos._UNFIT[tuple]):
            with pytest.raises(LocalProtocolError):
                encode(cls(**{**good, field.name: value}))


def _good(field):
    return {str: "a", bool: True}.get(
        field.type, () if "agents" in field.name else "ready" if field.name == "state" else 1
    )


@pytest.mark.parametrize("cls", [row.cls for row in REGISTRY if row.fault])
def test_what_is_refused_for_what_it_says(cls):
    @given(stereos._REFUSED[cls]())
    def check(message):
        assert not stereos.is_sendable(message)
        with pytest.raises(LocalProtocolError) as caught:
            encode(message)
        assert str(caught.value).endswith(BY_CLASS[cls].fault(message))

    check()


@given(st.data(), st.sampled_from(Role))
def test_lines(data, sender):
    message = decode(data.draw(stereos.envelopes(sender=sender)), sender=sender)
    assert BY_CLASS[type(message)].sender is sender
    for line in (data.draw(stereos.nearly_valid_lines(sender=sender)), data.draw(stereos.lines(sender=sender))):
        assert b"\n" not in line
    with pytest.raises(MalformedLine):
        decode(data.draw(stereos.malformed_lines()), sender=sender)


def test_what_is_json_is_not_malformed():
    assert not stereos._is_no_json(b" 5")
    assert stereos._is_no_json(b"05")


@given(stereos.conversations(max_size=4))
def test_conversations(conversation):
    pair = ConnectionPair()
    for exchange in conversation:
        told = pair.send(Role.GUEST, *exchange.before)
        assert [type(event) for event in told] != [ReplyReceived]
        assert pair.send(Role.HOST, exchange.request) == [RequestReceived(exchange.request)]
        assert pair.send(Role.GUEST, exchange.reply) == [ReplyReceived(exchange.reply, exchange.request)]


@given(st.binary(), st.data())
def test_partitions(data, draw):
    assert b"".join(draw.draw(stereos.partitions(data))) == data
    cuts = draw.draw(stereos.cuts(data))
    assert cuts == sorted(cuts)


@given(stereos.states() | stereos.json_values())
def test_values(value):
    assert decode(encode(CustomRequest("x", value)), sender=Role.HOST).payload == value


@given(stereos.from_message_class(UnknownMessage))
def test_open_types_are_open(message):
    assert message.type not in BY_TYPE[Role.GUEST]
    assert NotificationReceived(message) == NotificationReceived(message)
    assert SimpleNamespace(type=message.type).type == message.type


def test_without_hypothesis_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "stereos_proto.testing.strategies")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'stereos-proto\[testing\]'"):
        importlib.import_module("stereos_proto.testing.strategies")
