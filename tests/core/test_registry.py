"""The one table of the wire."""

import pytest

from stereos_proto import Ack, CustomRequest, Health, InjectSSHKey, Pong, Request, Role, UnknownMessage
from stereos_proto._registry import BY_CLASS, BY_TYPE, OPEN_ROWS, REGISTRY, Kind, changes_guest, message_class, row_of

#: Type, sender, reply: the table of the wire's description, written out a second time. Which requests have an effect
#: and which replies tell the guest's state is below.
WIRE = {
    "ping": ("host", Pong),
    "get_health": ("host", Health),
    "set_config": ("host", Ack),
    "inject_secret": ("host", Ack),
    "inject_ssh_key": ("host", Ack),
    "mount": ("host", Ack),
    "shutdown": ("host", Ack),
    "pong": ("guest", None),
    "ack": ("guest", None),
    "health": ("guest", None),
    "lifecycle": ("guest", None),
}


def test_the_table():
    assert {row.type: (row.sender.value, row.reply) for row in REGISTRY} == WIRE
    for role in Role:
        assert set(BY_TYPE[role]) == {type_ for type_, (sender, _) in WIRE.items() if sender == role.value}


def test_the_class_of_a_type():
    for role in Role:
        for type_, (sender, _) in WIRE.items():
            cls = message_class(role, type_)
            assert (cls is None) == (sender != role.value)
            assert cls is None or cls.type == type_
        assert message_class(role, "nonsense") is None


def test_what_each_message_does():
    acked = {"set_config", "inject_secret", "inject_ssh_key", "mount"}
    assert {row.type for row in REGISTRY if row.needs_payload} == acked
    assert {row.type for row in REGISTRY if row.has_effect} == acked | {"shutdown"}
    assert {row.type for row in REGISTRY if row.ignores_bad_payload} == {"shutdown"}
    assert {row.type for row in REGISTRY if row.tells_state} == {"health", "lifecycle"}
    # Nobody knows what a request of an unknown type does.
    assert [OPEN_ROWS[role].has_effect for role in Role] == [True, False]


def test_the_open_ends():
    assert {role: row.cls for role, row in OPEN_ROWS.items()} == {Role.HOST: CustomRequest, Role.GUEST: UnknownMessage}
    assert all(row.type == "" and row.sender is role for role, row in OPEN_ROWS.items())


@pytest.mark.parametrize("row", BY_CLASS.values(), ids=lambda row: row.cls.__name__)
def test_requests_and_nothing_else_are_answered(row):
    assert (row.reply is not None) == (row.kind is Kind.REQUEST) == issubclass(row.cls, Request)
    assert bool(row.noun) == row.needs_payload
    assert BY_CLASS[row.cls] is row


@pytest.mark.parametrize("row", BY_CLASS.values(), ids=lambda row: row.cls.__name__)
def test_a_message_is_treated_by_its_row(row):
    message = object.__new__(row.cls)
    if row.cls is CustomRequest:
        message = CustomRequest("a-type-of-its-own")
    assert row_of(message) is row
    if row.kind is Kind.REQUEST:
        assert changes_guest(message) is row.has_effect


@pytest.mark.parametrize("type_", [*WIRE, "unmount", ""])
def test_a_custom_request_is_treated_as_the_request_of_its_name(type_):
    # The names of messages that the guest sends are unknown to it when the host sends them.
    custom = CustomRequest(type_)
    row = BY_TYPE[Role.HOST].get(type_, OPEN_ROWS[Role.HOST])
    assert row_of(custom) is row
    assert changes_guest(custom) is (type_ not in ("ping", "get_health"))


def test_what_is_no_message_has_no_row():
    with pytest.raises(KeyError):
        row_of(object())


def test_a_key_with_a_line_inside_is_at_fault():
    faults = {row.type: row.fault for row in REGISTRY if row.fault}
    assert list(faults) == ["inject_ssh_key"]
    fault = faults["inject_ssh_key"]
    assert fault(InjectSSHKey("admin", "ssh-rsa AAAA me\n")) == ""
    assert "newline inside" in fault(InjectSSHKey("admin", "a\nb"))


def test_roles():
    assert (Role.HOST.peer, Role.GUEST.peer) == (Role.GUEST, Role.HOST)
    assert repr(Role.HOST) == "Role.HOST"
    assert repr(Kind.REPLY) == "Kind.REPLY"
    # Both are keys of the tables on the way of every message, and Enum's own hash is a Python function.
    assert hash(Role.HOST) == object.__hash__(Role.HOST)
    assert hash(Kind.REPLY) == object.__hash__(Kind.REPLY)
