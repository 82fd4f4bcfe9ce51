"""Events, and the refusals that a guest owes."""

import pytest

from stereos_proto import (
    NEED_DATA,
    Ack,
    ConnectionClosed,
    InvalidMessage,
    MalformedLine,
    MalformedReceived,
    Ping,
    RequestReceived,
    Role,
    SessionEnded,
    decode,
)


def refusal(line):
    with pytest.raises((MalformedLine, InvalidMessage)) as caught:
        decode(line, sender=Role.HOST)
    return MalformedReceived(caught.value).reply


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{", "malformed JSON: unexpected end of JSON input"),
        (b"[]", "malformed JSON: must be an object, not array"),
        (b'"x"', "malformed JSON: must be an object, not string"),
        (b'{"type":true}', "malformed JSON: type must be a string, not bool"),
    ],
)
def test_malformed_lines(line, text):
    assert refusal(line) == Ack("", False, text)


@pytest.mark.parametrize(
    ("line", "type_", "text"),
    [
        (b'{"type":"set_config"}', "set_config", "decode config payload: envelope set_config has no payload"),
        (b'{"type":"inject_secret"}', "inject_secret", "decode secret payload: envelope inject_secret has no payload"),
        (
            b'{"type":"inject_ssh_key"}',
            "inject_ssh_key",
            "decode ssh key payload: envelope inject_ssh_key has no payload",
        ),
        (b'{"type":"mount"}', "mount", "decode mount payload: envelope mount has no payload"),
        (
            b'{"type":"mount","payload":{"tag":[]}}',
            "mount",
            "decode mount payload: payload.tag must be a string, not array",
        ),
        (
            b'{"type":"x","payload":%b}' % (b"[" * 200 + b"]" * 200),
            "x",
            "decode x payload: payload nests deeper than 128 levels",
        ),
    ],
)
def test_payloads_that_do_not_fit(line, type_, text):
    assert refusal(line) == Ack(type_, False, text)


def test_events_that_say_the_same_are_equal():
    one, other = (MalformedReceived(MalformedLine("x", reason=reason)) for reason in "ab")
    assert one == other
    assert hash(one) == hash(other)
    assert one != MalformedReceived(MalformedLine("y"))
    assert one != MalformedReceived(InvalidMessage("x"))
    assert ConnectionClosed() == ConnectionClosed(())
    assert RequestReceived(Ping()) == RequestReceived(Ping())
    assert SessionEnded() == SessionEnded(None)


def test_need_data_is_no_event():
    assert repr(NEED_DATA) == "NEED_DATA"
