"""The bytes before the protocol proper."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    HybridVsockPreamble,
    PreambleError,
    PreambleFailure,
    ResyncPreamble,
    Role,
    decode,
    encode,
)
from stereos_proto.testing import strategies as stereos


def fed(preamble, chunks, *, eof=False):
    for chunk in chunks:
        preamble.receive_data(chunk)
    if eof:
        preamble.receive_eof()
    return preamble


def bytewise(data):
    return [data[index : index + 1] for index in range(len(data))]


# Hybrid vsock


def test_connect_is_said_once():
    preamble = HybridVsockPreamble()
    assert preamble.data_to_send() == b"CONNECT 1024\n"
    assert preamble.data_to_send() == b""
    assert HybridVsockPreamble(0).data_to_send() == b"CONNECT 0\n"
    assert HybridVsockPreamble(2**32 - 1).data_to_send() == b"CONNECT 4294967295\n"


@pytest.mark.parametrize("port", [-1, 2**32])
def test_ports_out_of_range(port):
    with pytest.raises(ValueError, match=rf"^a vsock port is a whole number from 0 to 4294967295, not {port}$"):
        HybridVsockPreamble(port)


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise])
@pytest.mark.parametrize("answer", [b"OK 1073741824\n", b"OK 0\n", b"OK " + b"1" * 28 + b"\n"])
@pytest.mark.parametrize("rest", [b"", b'{"type":"lifecycle"}\n', b"\n\n"])
def test_ok(cut, answer, rest):
    preamble = HybridVsockPreamble()
    assert not preamble.done
    assert preamble.trailing_data == b""
    fed(preamble, cut(answer + rest), eof=True)
    assert preamble.done
    assert preamble.trailing_data == rest


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise])
@pytest.mark.parametrize(
    ("answer", "failure", "text"),
    [
        (b"", PreambleFailure.NOBODY_LISTENS, "nobody listens on vsock port 1024 of the guest yet"),
        (b"OK 12", PreambleFailure.CUT, "the connection ended in the middle of the answer to CONNECT 1024"),
        (b"NO 12\n", PreambleFailure.GARBAGE, "the answer to CONNECT 1024 is not OK; is this a hybrid-vsock socket?"),
        (b"OK\n", PreambleFailure.GARBAGE, "the answer to CONNECT 1024 is not OK; is this a hybrid-vsock socket?"),
        (b"OK x\n", PreambleFailure.GARBAGE, "the answer to CONNECT 1024 is not OK; is this a hybrid-vsock socket?"),
        (b"OK 1 2\n", PreambleFailure.GARBAGE, "the answer to CONNECT 1024 is not OK; is this a hybrid-vsock socket?"),
        (
            b"OK " + b"1" * 29 + b"\n",
            PreambleFailure.TOO_LONG,
            "the answer to CONNECT 1024 is longer than 32 bytes; is this a hybrid-vsock socket?",
        ),
        (
            b"x" * 32,
            PreambleFailure.TOO_LONG,
            "the answer to CONNECT 1024 is longer than 32 bytes; is this a hybrid-vsock socket?",
        ),
    ],
)
def test_not_ok(cut, answer, failure, text):
    preamble = HybridVsockPreamble()
    with pytest.raises(PreambleError) as caught:
        fed(preamble, cut(answer), eof=True)
    assert (str(caught.value), caught.value.failure) == (text, failure)
    assert not preamble.done
    assert preamble.trailing_data == b""


# Resynchronisation


@pytest.mark.parametrize("nonce", ["", "a b", "é", "a" * 65, '"', "\n", "a\n"])
def test_bad_nonces(nonce):
    with pytest.raises(ValueError, match=r"^a nonce is 1 to 64 ASCII letters, digits, '-' or '_'$"):
        ResyncPreamble(nonce)


def test_the_question_ends_a_half_line_first():
    opening = ResyncPreamble("a-1_B").data_to_send()
    assert opening.startswith(b"\n")
    assert decode(opening[1:], sender=Role.HOST).type == "sync:a-1_B"
    assert ResyncPreamble("-").data_to_send() == b'\n{"type":"sync:-"}\n'


OURS = encode(Ack("sync:n1", False, "unknown message type: sync:n1"))
STALE = st.sampled_from([
    b"half a line\n",
    b'{"type":"pong"}\n',
    b'{"type":"ack","payload":{"reply_to":"sync:n0","ok":false}}\n',
    b"\r\n",
    b"\n",
    b"\xff\xfe\n",
    b'["sync:n1"]\n',
    b'{"type":"sync:n1"}\n',
])  # fmt: skip


@given(st.lists(STALE), st.binary(max_size=30), st.data())
def test_all_before_our_answer_is_dropped(stale, rest, data):
    stream = b"".join(stale) + OURS + rest
    preamble = ResyncPreamble("n1")
    preamble.data_to_send()
    fed(preamble, data.draw(stereos.partitions(stream)), eof=True)
    assert preamble.done
    assert preamble.trailing_data == rest


@pytest.mark.parametrize("stream", [b"", b"x", STALE.elements[1], OURS[:-1]])
def test_an_end_before_our_answer(stream):
    preamble = fed(ResyncPreamble("n1"), [stream])
    with pytest.raises(PreambleError, match="before the guest answered the resynchronisation") as caught:
        preamble.receive_eof()
    assert caught.value.failure is PreambleFailure.CUT
    assert preamble.trailing_data == b""


def test_a_flood_is_not_kept():
    preamble = ResyncPreamble("n1")
    held = 0
    for _ in range(40):
        preamble.receive_data(b"x" * 100_000)
        held = max(held, len(preamble._buffer))
    assert held <= MAX_LINE_SIZE + 100_000
    preamble.receive_data(b"\n" + OURS)
    assert preamble.done


@pytest.mark.parametrize(("size", "done"), [(MAX_LINE_SIZE - 1, True), (MAX_LINE_SIZE, False)])
def test_the_longest_line_that_may_be_the_answer(size, done):
    line = OURS.removesuffix(b"\n").ljust(size) + b"\n"
    assert fed(ResyncPreamble("n1"), [line]).done is done
    # In pieces, and with the answer once more behind it.
    assert fed(ResyncPreamble("n1"), [line[:-1], line[-1:]]).done is done
    assert fed(ResyncPreamble("n1"), [line, OURS]).trailing_data == (OURS if done else b"")


def test_the_end_of_an_over_long_line_is_no_answer():
    preamble = fed(ResyncPreamble("n1"), [b"x" * MAX_LINE_SIZE, OURS])
    assert not preamble.done
    assert fed(preamble, [OURS]).done


@pytest.mark.parametrize("line", [b"", b"0", b"{}", rb"\u", b'{"type":"ack"}', rb'"\u0073' + b"x" * 40 + b'"'])
def test_a_flood_of_short_lines_takes_no_time(line):
    """Each of 64 KiB of empty lines was decoded, which took two seconds."""
    preamble = ResyncPreamble("n1")
    flood = (line + b"\n") * (2**16 // (len(line) + 1))
    start = time.process_time()
    preamble.receive_data(flood)
    assert time.process_time() - start < 1
    assert not preamble.done


@pytest.mark.parametrize("escaped", range(4))
def test_an_answer_may_be_escaped(escaped):
    name = "".join(f"\\u{ord(char):04x}" if index == escaped else char for index, char in enumerate("n-_1"))
    preamble = ResyncPreamble("n-_1")
    preamble.receive_data(b'{"type":"ack","payload":{"reply_to":"sync:%s"}}\n' % name.encode())
    assert preamble.done


def test_the_shortest_answer():
    preamble = ResyncPreamble("x")
    preamble.receive_data(rb'{"type":"ack","payload":{"reply_to":"\u0073ync:x"}}' + b"\n")
    assert preamble.done
