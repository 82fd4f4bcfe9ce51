"""The canonical lane alone: what it takes, and what it leaves to the tolerant one."""

import pickle
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given

from stereos_proto import (
    Ack,
    AgentStatus,
    CustomRequest,
    Health,
    InjectSecret,
    Lifecycle,
    LifecycleState,
    LocalProtocolError,
    Mount,
    Ping,
    Pong,
    RequestTimeout,
    Role,
    UnknownMessage,
    encode,
)
from stereos_proto._codec import canonical
from stereos_proto._codec.tolerant import Unfit, read_tolerantly
from stereos_proto._messages import wire_fields
from stereos_proto._registry import BY_CLASS, REGISTRY
from stereos_proto.testing import strategies as stereos

DECODERS = {role: canonical.decoder(role) for role in Role}
WRITERS = {row.cls: canonical.writer(row) for row in REGISTRY if wire_fields(row.cls)}
HEALTH = b'{"type":"health","payload":{"state":"ready","agents":[{"name":"a","running":true}],"uptime_seconds":1}}'


@given(stereos.messages().filter(lambda message: type(message) in WRITERS))
def test_what_is_written_is_read(message):
    line = WRITERS[type(message)](message)
    assert line.endswith(b"}\n")
    again = read_tolerantly(line[:-1], BY_CLASS[type(message)].sender)
    assert again == message
    if isinstance(getattr(message, "state", LifecycleState.READY), LifecycleState):
        try:
            read = DECODERS[BY_CLASS[type(message)].sender](line[:-1]).payload
        except ValueError:
            # Zero is never written there, and refused: the reference tells it from the zero "-0".
            assert type(message) is InjectSecret
        else:
            assert (type(read), read) == (type(message), message)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ack","payload":{"reply_to":"a"}}',
        b'{"type":"ack","payload":{"reply_to":"a","ok":null}}',
        b'{"type":"ack","payload":{"reply_to":"a","ok":1}}',
        b'{"type":"ack","payload":null}',
        b'{"type":"ack","type":null,"payload":{"reply_to":"a","ok":true}}',
        b'{"type":"ack","payload":1,"payload":{"reply_to":"a","ok":true}}',
        b'{"type":"lifecycle","payload":{"state":"new"}}',
        b'{"type":"new"}',
        b'{"type":"ack","payload":{"reply_to":"\xff","ok":true}}',
        rb'{"type":"ack","payload":{"reply_to":"\ud800","ok":true}}',
        b'{"type":"ack","payload":{"reply_to":"a","ok":true}} x',
        b"{}",
        b"null",
    ],
)
def test_what_it_refuses(line):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as caught:
        DECODERS[Role.GUEST](line)
    # `reader` relies on it.
    assert isinstance(caught.value, ValueError)


def test_an_absent_mode_is_zero_and_minus_zero_is_refused():
    line = b'{"type":"inject_secret","payload":{"name":"a","value":"b"}}'
    assert DECODERS[Role.HOST](line).payload == InjectSecret("a", "b", 0)
    assert DECODERS[Role.HOST](line.replace(b'"b"', b'"b","mode":1')).payload == InjectSecret("a", "b", 1)
    with pytest.raises(msgspec.ValidationError):
        DECODERS[Role.HOST](line.replace(b'"b"', b'"b","mode":-0'))


def test_messages_without_members_are_read_whatever_their_payload():
    assert DECODERS[Role.GUEST](b'{"type":"pong","payload":[1]}').payload == Pong()
    assert DECODERS[Role.HOST](b'{"payload":{},"type":"ping"}').payload == Ping()


OPEN = [
    (b'{"type":"new"}', "new", None),
    (b'{"payload":[1,{"a":2.5}],"x":{},"type":"new"}', "new", [1, {"a": 2.5}]),
    (b'{"type":"new","payload":{"a":1,"a":2}}', "new", {"a": 2}),
    (b'{"payload":null}', "", None),
]


@pytest.mark.parametrize(("line", "type_", "payload"), OPEN)
def test_types_that_we_do_not_know(line, type_, payload):
    read = canonical.read_open(line, Role.GUEST)
    assert read == UnknownMessage(type_, payload) == read_tolerantly(line, Role.GUEST)
    read = canonical.read_open(line, Role.HOST)
    assert read == CustomRequest(type_, payload) == read_tolerantly(line, Role.HOST)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"pong"}',
        b'{"type":null}',
        b'{"type":"a","type":null}',
        b'{"type":"a","payload":1,"payload":null}',
        rb'{"type":"a","p\u0061yload":1,"payload":null}',
        b'{"type":"a","payload":-0}',
        b'{"type":"a","payload":1e400}',
        b'{"type":"a","payload":NaN}',
        b'{"type":"a","payload":%b}' % (b"9" * 641),
        b'{"type":"a","payload":"\xff"}',
        b'{"type":"a"',
        b"[]",
    ],
)
def test_lines_that_may_be_something_else(line):
    assert canonical.read_open(line, Role.GUEST) is None


@given(stereos.lines(sender=Role.GUEST))
def test_what_is_read_openly_is_what_the_tolerant_lane_reads(line):
    read = canonical.read_open(line, Role.GUEST)
    assert read is None or read == read_tolerantly(line, Role.GUEST)


@pytest.mark.parametrize(
    ("line", "may"),
    [
        (HEALTH, False),
        (HEALTH.replace(b'"a"', b'"[a]"'), False),
        (HEALTH.replace(b'"a"', b'"[agents]"'), False),
        (HEALTH.replace(b"}}", b',"agents":[]}}'), True),
        (HEALTH.replace(b"}}", b',"agents":null}}'), False),  # refused by the decoder
        (HEALTH.replace(b"}}", rb',"\u0061gents":[]}}'), True),
        (HEALTH.replace(b'"a"', rb'"[\u0061"'), True),
    ],
)
def test_lists_that_may_stand_twice(line, may):
    [(cls, lists)] = canonical.LISTS.items()
    assert (cls, lists) == (Health, (b'"agents"',))
    assert canonical.may_repeat(line, lists) is may


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Mount(Text("a"), "/b", "9p"), b'{"type":"mount","payload":{"tag":"a","guest_path":"/b","fs_type":"9p"}}\n'),
        (Lifecycle("ready", Text("m")), b'{"type":"lifecycle","payload":{"state":"ready","message":"m"}}\n'),
        (Ack("a", False, ""), b'{"type":"ack","payload":{"reply_to":"a","ok":false}}\n'),
        (
            Health("a", [AgentStatus(Text("b"), False)]),
            b'{"type":"health","payload":{"state":"a","agents":[{"name":"b","running":false,"restarts":0}],"uptime_seconds":0}}\n',
        ),
    ],
)
def test_lines(message, line):
    assert WRITERS[type(message)](message) == line


def test_the_line_of_a_message_without_fields():
    assert canonical.bare_line(BY_CLASS[Ping]) == b'{"type":"ping"}\n'


@pytest.mark.parametrize(
    "message",
    [
        Mount(None, "", ""),
        Mount("", "", "", 1),
        InjectSecret("a", "b", 2**32),
        Health("a", [SimpleNamespace(name="a", running=True, session="", restarts=0, error="")]),
        Health("a", [None]),
        Health("a", (), 2**63),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(message):
    with pytest.raises(Unfit, match="must be"):
        WRITERS[type(message)](message)


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        ((Text("a"), True, None), b'{"type":"x","payload":["a",true,null]}\n'),
        ([type("N", (int,), {})(4), type("R", (float,), {})(1.5)], b'{"type":"x","payload":[4,1.5]}\n'),
    ],
)
def test_values_of_derived_classes(payload, line):
    assert canonical.write_tolerantly(CustomRequest("x", payload)) == line


def test_structs_show_nothing():
    line = DECODERS[Role.HOST](b'{"type":"inject_secret","payload":{"name":"a","value":"s3ntinel"}}')
    assert "s3ntinel" not in repr(line) + repr(line.twin)


def test_a_request_whose_secret_was_taken_out_cannot_be_sent():
    error = pickle.loads(pickle.dumps(RequestTimeout("late", request=InjectSecret("TOKEN", "s3nt1nel"), sent=True)))
    with pytest.raises(LocalProtocolError, match="its secret was taken out when it was pickled"):
        encode(error.request)
