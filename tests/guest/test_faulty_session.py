"""A session to which faults happen, without a server: what it hands out, and what becomes of the session inside."""

import json

import pytest

from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    CustomRequest,
    GuestSession,
    Lifecycle,
    Ping,
    Pong,
    Shutdown,
    encode,
)
from stereos_proto_io.guest._faulty_session import FaultySession
from stereos_proto_io.guest._orders import Close, PowerOff, Reboot
from stereos_proto_io.guest.faults import FaultPlan


def session(*texts, has_connections=True, ports=None):
    return FaultySession(GuestSession(has_connections=has_connections), FaultPlan(texts), ports)


def asked(faulty, request, reply):
    """Let a host ask, and a handler answer."""
    faulty.receive_data(encode(request))
    faulty.reply(faulty.next_event(), reply)


def written(faulty):
    """All bytes that leave now."""
    data = b""
    while part := bytes(faulty.data_to_send()):
        data += part
        faulty.data_sent(len(part))
    return data


def test_a_shutdown_is_a_power_off():
    faulty = session("drop@mount")
    asked(faulty, Shutdown(), Ack("shutdown", True))
    assert not faulty.shut_down
    assert written(faulty) == encode(Ack("shutdown", True))
    assert faulty.shut_down is True
    assert faulty.next_order() == PowerOff()
    assert faulty.ended


def test_a_cut_counts_what_the_guest_writes_and_not_the_muxer():
    faulty = session("cut:16", ports={1024})
    faulty.receive_data(b"CONNECT 1024\n" + encode(Ping()))
    faulty.reply(faulty.next_event(), Pong())
    assert written(faulty) == b"OK 1073741824\n" + encode(Pong())[:16]
    assert faulty.next_order() == Close()


def test_a_failed_write_ends_the_session_inside():
    faulty = session("drop@mount")
    asked(faulty, Ping(), Pong())
    assert faulty.wants_write
    faulty.write_failed(OSError(32, "Broken pipe"))
    assert not faulty.wants_write
    assert not faulty.wants_data
    assert faulty._session.ended
    assert not faulty.ended
    assert faulty.next_order() == Close()
    assert faulty.ended


def test_a_failed_write_changes_nothing_where_there_are_no_connections():
    faulty = session("drop@mount", has_connections=False)
    asked(faulty, Ping(), Pong())
    faulty.write_failed(OSError(5, "Input/output error"))
    assert faulty.next_order() is None
    assert written(faulty) == encode(Pong())


def test_closing_ends_the_session_inside():
    faulty = session("drop@mount")
    asked(faulty, Ping(), Pong())
    assert faulty.wants_write
    faulty.close()
    assert faulty.ended
    assert faulty._session.ended
    assert not faulty.wants_write
    assert not faulty.wants_data
    assert faulty.next_order() is None


@pytest.mark.parametrize(
    ("text", "order"), [("close@ping", Close()), ("power-off@ping", PowerOff()), ("reboot:2s@ping", Reboot(2.0))]
)
def test_the_last_order_ends_the_session_inside(text, order):
    faulty = session(text)
    asked(faulty, Ping(), Pong())
    assert faulty.next_order() is None
    assert written(faulty) == encode(Pong())
    assert faulty.next_order() == order
    assert faulty.ended
    assert faulty._session.ended


@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_a_connection_is_cut_after_so_many_bytes(size):
    """The line of a pong has 16."""
    faulty = session(f"cut:{size}")
    asked(faulty, Ping(), Pong())
    assert len(encode(Pong())) == 16
    assert written(faulty) == encode(Pong())[:size]
    assert faulty.next_order() == Close()


def test_a_cut_that_does_not_come_to_it():
    faulty = session("cut:17")
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())
    assert faulty.next_order() is None


def test_closing_a_stream_without_connections_begins_anew():
    faulty = session("close@ping", has_connections=False)
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())
    assert faulty.next_order() is None
    asked(faulty, Ping(), Pong())
    assert written(faulty) == encode(Pong())


def test_what_a_fault_leaves_out_is_left_as_it_was_otherwise():
    faulty = session("omit:ok")
    asked(faulty, Shutdown(), Ack("shutdown", False, "später"))
    line = written(faulty)
    assert json.loads(line) == {"type": "ack", "payload": {"reply_to": "shutdown", "error": "später"}}
    assert "später".encode() in line


def test_a_refusal_of_a_type_as_long_as_a_line_is_cut():
    faulty = session(f"fail:{'x' * 2000}")
    asked(faulty, CustomRequest("t" * (MAX_LINE_SIZE - 100)), Ack("", True))
    assert json.loads(written(faulty)) == {"type": "ack", "payload": {"reply_to": "", "ok": False, "error": "x" * 1000}}


@pytest.mark.parametrize(("digits", "taken"), [("1024", True), ("0" * 7 + "1024", True), ("0" * 8 + "1024", False)])
def test_the_longest_handshake_of_a_muxer(digits, taken):
    faulty = session(ports={1024})
    faulty.receive_data(f"CONNECT {digits}\n".encode() + encode(Ping()))
    assert (written(faulty) == b"OK 1073741824\n") is taken
    assert (faulty.next_order() is None) is taken
    assert faulty.push(Lifecycle("ready")) is taken


def test_closing_a_stream_without_connections_forgets_what_was_received():
    """Also where nothing is to be written before."""
    faulty = session("drop@ping", "close@ping", has_connections=False)
    faulty.receive_data(encode(Ping()) + encode(CustomRequest("later")))
    faulty.reply(faulty.next_event(), Pong())
    assert written(faulty) == b""
    assert faulty.next_event() is NEED_DATA
