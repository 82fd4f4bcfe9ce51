"""What holds for every message, line, stream and conversation."""

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import vectors
from stereos_proto import (
    NEED_DATA,
    Connection,
    ConnectionClosed,
    InvalidMessage,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    MalformedReceived,
    Message,
    NotificationReceived,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    Role,
    UnknownReceived,
    _codec,
    decode,
    encode,
)
from stereos_proto._codec import canonical
from stereos_proto._codec.tolerant import read_tolerantly
from stereos_proto._registry import BY_CLASS
from stereos_proto.testing import assert_chunking_invariant, feed_in_chunks
from stereos_proto.testing import strategies as stereos

ROLES = st.sampled_from(Role)


def same(left, right):
    """Whether two results of reading are equal; errors are, when class, text and evidence are."""
    if isinstance(left, RemoteProtocolError) or isinstance(right, RemoteProtocolError):
        return type(left) is type(right) and str(left) == str(right) and vars(left) == vars(right)
    return type(left) is type(right) and left == right and shapes(left) == shapes(right)


def shapes(message):
    # True == 1 == 1.0, and a member of an enum equals its string.
    return [type(value) for value in attrs.astuple(message, recurse=False)]


@given(stereos.messages())
def test_what_is_written_reads_the_same(message):
    line = encode(message)
    again = decode(line, sender=BY_CLASS[type(message)].sender)
    assert same(again, message)
    assert encode(again) == line


@given(stereos.messages())
def test_both_lanes_write_the_same(message):
    assert encode(message) == canonical.write_tolerantly(message) or not attrs.fields(type(message))


@given(st.data(), ROLES)
@settings(max_examples=400)
def test_both_lanes_read_the_same(data, sender):
    line = data.draw(stereos.lines(sender=sender))
    assert same(_codec.reader(sender)(line), read_tolerantly(line, sender))


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("row", vectors.DECODE, ids=lambda row: row["name"])
def test_both_lanes_read_the_vectors_the_same(row, sender):
    line = vectors.unbase64(row["line_b64"])
    assert same(_codec.reader(sender)(line), read_tolerantly(line, sender))


HOSTILE = [
    b"[" * 1_048_575,
    b'{"type":"pong","x":' + b"[" * 10_001 + b"]" * 10_001 + b"}",
    b'{"type":"pong","x":' + b'{"":' * 10_001 + b"1" + b"}" * 10_001 + b"}",
    b'{"type":"pong","x":' + b'[{"":' * 5_001 + b"1" + b"}]" * 5_001 + b"}",
    b'{"type":"pong","x":' + b"[" * 9_999 + b"]" * 9_999 + b"}",
    b'{"type":"pong","x":"' + b"[" * 20_000 + b'"}',
    b'{"type":"what","payload":' + b"[" * 127 + b"]" * 127 + b"}",
    b'{"type":"what","payload":' + b"[" * 128 + b"]" * 128 + b"}",
    b'{"type":"lifecycle","payload":{"state":"' + rb"\ud800" * 170_000 + b'"}}',
    b'{"type":"health","payload":{"state":"ready","uptime_seconds":' + b"9" * 5_000 + b"}}",
    b'{"type":"health","payload":{"state":"ready","uptime_seconds":-0}}',
    b'{"type":"health","payload":{"state":"ready","uptime_seconds":1e400}}',
    b'{"type":"what","payload":' + b"9" * 5_000 + b"}",
    b'{"type":"what","payload":-0}',
    b'{"type":"what","payload":1e400}',
    b'{"type":"inject_secret","payload":{"name":"a","value":"b","mode":-0}}',
    b'{"type":"inject_secret","payload":{"name":"a","value":"b","mode":0}}',
    b'{"type":"mount","payload":{"tag":"a","tag":1,"guest_path":"/","fs_type":"9p"}}',
    b'{"type":"mount","payload":{"tag":1,"tag":"a","guest_path":"/","fs_type":"9p"}}',
    b'{"type":"ack","payload":{"reply_to":"mount","ok":true},"payload":{"reply_to":"ping"}}',
    b'{"type":"ack","type":5,"payload":{"reply_to":"mount","ok":true}}',
    b'{"type":"ack","type":"pong","payload":{"reply_to":"mount","ok":true}}',
    b'{"payload":{"reply_to":"mount","ok":true},"type":"ack"}',
    (
        b'{"type":"health","payload":{"state":"a","agents":[{"name":"a","running":true,"session":"s","restarts":1}],'
        b'"agents":[{"name":"b","running":true,"restarts":0}],"uptime_seconds":1}}'
    ),
    (
        b'{"type":"health","payload":{"state":"a","agents":[{"name":"a","running":true,"session":"s","restarts":1}],'
        b'"agent\\u0073":[{"name":"b","running":true,"restarts":0}],"uptime_seconds":1}}'
    ),
    b'{"type":"ack","payload":{"reply_to":"mount\xff","ok":true}}',
    b'{"type":"ack","payload":{"reply_to":"mount","ok":true,"x\xff":1}}',
    b'{"type":"ack","payload":{"reply_to":"mount","ok":true,"\\ud800":1}}',
]


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:60].decode("ascii", "replace"))
def test_both_lanes_read_hostile_lines_the_same(line, sender):
    assert same(_codec.reader(sender)(line), read_tolerantly(line, sender))


DOCUMENTED = {
    Role.HOST: (ReplyReceived, NotificationReceived, UnknownReceived, ConnectionClosed),
    Role.GUEST: (RequestReceived, MalformedReceived, ConnectionClosed),
}


@given(st.data(), ROLES, st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_end_in_documented_events(data, role, garbage):
    lines = data.draw(st.lists(stereos.lines(sender=role.peer), max_size=6))
    pieces = data.draw(st.permutations([*lines, *garbage]))
    stream = data.draw(st.sampled_from([b"\n", b"\r\n", b""])).join(pieces)
    outcome = assert_chunking_invariant(
        stream, role, data.draw(stereos.cuts(stream)), eof=data.draw(st.booleans()), max_line_size=256
    )
    for item in outcome:
        assert isinstance(item, (*DOCUMENTED[role], RemoteProtocolError))
    assert sum(isinstance(item, RemoteProtocolError) for item in outcome[:-1]) == 0


@given(st.data(), ROLES)
def test_errors_are_sticky(data, role):
    stream = data.draw(stereos.malformed_lines())
    connection = Connection(role)
    first = feed_in_chunks(connection, stream, eof=True)[-1]
    assume(isinstance(first, RemoteProtocolError))
    seen = [first]
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            connection.next_event()
        seen.append(caught.value)
    assert len({id(error) for error in seen}) == 3
    assert all(same(error, first) for error in seen)


@given(stereos.conversations(), st.data())
def test_conversations_are_chunking_invariant(conversation, data):
    asked = [exchange.request for exchange in conversation]
    said = [message for exchange in conversation for message in (*exchange.before, exchange.reply)]
    stream = b"".join(map(encode, said))
    outcome = assert_chunking_invariant(stream, Role.HOST, data.draw(stereos.cuts(stream)), sent=asked)
    replies = [(event.request, event.message) for event in outcome if isinstance(event, ReplyReceived)]
    assert replies == [(exchange.request, exchange.reply) for exchange in conversation]
    assert outcome[-1] == ConnectionClosed(())

    stream = b"".join(map(encode, asked))
    outcome = assert_chunking_invariant(stream, Role.GUEST, data.draw(stereos.cuts(stream)))
    assert outcome == [*map(RequestReceived, asked), ConnectionClosed(tuple(asked))]


@pytest.mark.parametrize("name", vectors.TRANSCRIPTS)
@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_transcripts_are_chunking_invariant(name, data):
    stream = vectors.stream(name, "c2s")
    assert_chunking_invariant(stream, Role.GUEST, data.draw(stereos.cuts(stream)))


@given(st.data(), ROLES)
def test_a_refused_message_changes_nothing(data, role):
    connection = Connection(role, max_pending=2, max_line_size=200)
    for _ in range(data.draw(st.integers(0, 8))):
        message = data.draw(stereos.messages() | stereos.unsendable_messages())
        before = (connection.pending, connection.our_state, connection.their_state, connection.lifecycle)
        try:
            line = connection.send(message)
        except LocalProtocolError:
            assert (connection.pending, connection.our_state, connection.their_state, connection.lifecycle) == before
        else:
            assert len(line) <= 200
            assert BY_CLASS[type(message)].sender is role


@given(stereos.messages(), st.data())
def test_a_value_of_the_wrong_type_is_refused_by_name_and_never_shown(message, data):
    fields = [field.name for field in attrs.fields(type(message)) if field.name != "payload"]
    assume(fields)
    name = data.draw(st.sampled_from(fields))
    wrong = data.draw(st.sampled_from([None, 1.5, b"bytes-7261", ["list-7261"], -(2**70), {"a": "dict-7261"}]))
    assume(not (name == "agents" and isinstance(wrong, list)))
    spoilt = object.__new__(type(message))
    spoilt.__dict__.update(message.__dict__, **{name: wrong})
    with pytest.raises(LocalProtocolError, match=f"^cannot send .*: .*{name}.* must be") as caught:
        encode(spoilt)
    assert "7261" not in str(caught.value)


def test_the_strategies_find_what_they_are_for():
    """Guards the generators: lines that both lanes take, that only one takes, and that none takes."""
    seen = set()

    @given(st.data(), ROLES)
    @settings(max_examples=300, database=None, derandomize=True)
    def look(data, sender):
        result = read_tolerantly(data.draw(stereos.lines(sender=sender)), sender)
        seen.add(type(result) if isinstance(result, (MalformedLine, InvalidMessage)) else Message)

    look()
    assert seen == {MalformedLine, InvalidMessage, Message}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("size", [1, 64, 4096])
def test_memory_is_bounded_by_the_limit(role, size):
    connection = Connection(role, max_line_size=1000)
    for _ in range(3000 // size + 2):
        connection.receive_data(b"x" * size)
        try:
            assert connection.next_event() is NEED_DATA
        except LineTooLong:
            break
    else:
        pytest.fail("the flood was never refused")
    held = len(connection.trailing_data)
    connection.receive_data(b"x" * 10_000)
    assert held <= 1000 + size
    assert len(connection.trailing_data) == held
