"""The test tools that users get."""

import subprocess
import sys

import pytest

from stereos_proto import (
    Ack,
    Connection,
    ConnectionClosed,
    CustomRequest,
    GetHealth,
    InjectSecret,
    Lifecycle,
    LineTooLong,
    LocalProtocolError,
    MalformedLine,
    MalformedReceived,
    Mount,
    Ping,
    Pong,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    Role,
    Shutdown,
    encode,
    testing,
)
from stereos_proto.testing import EOF, ConnectionPair, ScriptedGuest, assert_chunking_invariant, feed_in_chunks

PING, PONG = encode(Ping()), encode(Pong())


def test_a_pair():
    pair = ConnectionPair(max_pending=2)
    assert pair[Role.HOST] is pair.host
    assert pair.send(Role.HOST, Ping(), GetHealth()) == [RequestReceived(Ping()), RequestReceived(GetHealth())]
    with pytest.raises(LocalProtocolError):
        pair.send(Role.HOST, Ping())
    assert pair.send(Role.GUEST, Pong()) == [ReplyReceived(Pong(), Ping())]
    assert [type(event) for event in pair.send_raw(Role.HOST, b"junk\n")] == [MalformedReceived]
    assert pair.send_eof(Role.HOST) == [ConnectionClosed((GetHealth(), CustomRequest("")))]
    with pytest.raises(RemoteProtocolError):
        pair.send_raw(Role.GUEST, b"junk\n")


def test_feeding_in_chunks():
    connection = Connection(Role.GUEST)
    assert feed_in_chunks(connection, PING * 2, [20, 3, 16]) == [RequestReceived(Ping())] * 2
    assert feed_in_chunks(connection, b"", eof=True) == [ConnectionClosed((Ping(), Ping()))]
    *events, error = feed_in_chunks(Connection(Role.HOST, max_line_size=64), b"x" * 100)
    assert events == []
    assert type(error) is LineTooLong


def test_chunking_is_asserted(monkeypatch):
    outcome = assert_chunking_invariant(PONG + b"oops\n", Role.HOST, [3], sent=[Ping()])
    assert outcome[0] == ReplyReceived(Pong(), Ping())
    assert type(outcome[1]) is MalformedLine
    assert assert_chunking_invariant(PING, Role.GUEST, eof=False) == [RequestReceived(Ping())]

    real = testing.feed_in_chunks

    def forgetful(connection, data, cuts=(), *, eof=False):
        return real(connection, data if 7 not in cuts else data + PING, cuts, eof=eof)

    monkeypatch.setattr(testing, "feed_in_chunks", forgetful)
    with pytest.raises(AssertionError, match=r"^cut at every byte, the data are read as"):
        assert_chunking_invariant(PING, Role.GUEST)
    monkeypatch.setattr(
        testing,
        "feed_in_chunks",
        lambda connection, data, cuts=(), *, eof=False: real(connection, data * (1 + (list(cuts) == [2])), eof=eof),
    )
    with pytest.raises(AssertionError, match=r"^cut at \[2\], the data are read as"):
        assert_chunking_invariant(PING, Role.GUEST, [1], [2])


def test_a_script():
    guest = ScriptedGuest(
        [
            (None, Lifecycle("booting")),
            (Ping(), Pong()),
            (Mount, Ack("mount", True), b"half a li", EOF, b"never"),
        ]
    )
    assert guest.data_to_send() == encode(Lifecycle("booting"))
    assert guest.data_to_send() == b""
    assert guest.receive_data(PING[:5]) == b""
    with pytest.raises(
        AssertionError, match=r"^step 2 of the script expects Ping\(\), and the host sent nothing more$"
    ):
        guest.assert_done()
    assert guest.receive_data(PING[5:]) == PONG
    assert guest.receive_data(encode(Mount("a", "b", "c")) + PING) == encode(Ack("mount", True)) + b"half a li"
    assert guest.ended
    assert guest.receive_data(PING) == b""
    guest.assert_done()


def test_a_script_says_what_comes_after_an_answer():
    guest = ScriptedGuest([(Ping(), Pong()), (None, Lifecycle("ready")), (None,), (b'{"type":"x"}', b"raw\n")])
    assert guest.receive_data(PING) == PONG + encode(Lifecycle("ready"))
    assert guest.receive_data(b'{"type":"x"}\r\n') == b"raw\n"
    assert repr(EOF) == "EOF"


def about_a(message):
    return getattr(message, "tag", None) == "a"


@pytest.mark.parametrize(
    ("expected", "line", "text"),
    [
        (
            Ping(),
            encode(Shutdown()),
            r"^step 1 of the script expects Ping\(\), and the host sent Shutdown\(reason=''\)$",
        ),
        (Mount, PING, r"and the host sent Ping\(\)$"),
        (b"raw", PING, r"^step 1 of the script expects b'raw', and the host sent another line$"),
        (about_a, encode(Mount("b", "", "")), r"and the host sent Mount"),
        (Ping(), b"junk\n", r"and the host sent a line that is not JSON: invalid character 'j'"),
        (Ping(), b"x" * 1_048_576, r"and the host sent a line over the limit$"),
        (Ping(), PING + PING, r"^the script is at its end, and the host sent Ping\(\)$"),
        (Ping(), encode(InjectSecret("a", "hunter2")), r"and the host sent InjectSecret\(name='a', mode=0o600\)$"),
    ],
)
def test_a_script_that_is_not_followed(expected, line, text):
    with pytest.raises(AssertionError, match=text) as caught:
        ScriptedGuest([(expected, Pong())]).receive_data(line)
    assert "hunter2" not in str(caught.value)


def test_a_script_with_a_function():
    assert ScriptedGuest([(about_a, Pong())]).receive_data(encode(Mount("a", "", ""))) == PONG


def test_the_tools_need_no_hypothesis():
    code = "import sys; sys.modules['hypothesis'] = None; import stereos_proto.testing"
    subprocess.run([sys.executable, "-c", code], check=True)
