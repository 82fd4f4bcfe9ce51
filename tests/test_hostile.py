"""Floods and limits: what a hostile peer sends costs no more than what is stated in SECURITY.md.

Costs are counted in bytes and in function calls, never in seconds.
"""

import json

import pytest

from stereos_proto import MAX_LINE_SIZE, ResyncPreamble


def sync_ack(padding):
    return json.dumps({"type": "ack", "payload": {"reply_to": "sync:n", "ok": False}, "x": "x" * padding}).encode()


@pytest.mark.parametrize("cut", [0, 1, 1000, MAX_LINE_SIZE - 1, MAX_LINE_SIZE])
def test_an_over_long_line_does_not_end_a_resynchronisation_however_it_is_cut(cut):
    line = sync_ack(MAX_LINE_SIZE) + b"\n"
    preamble = ResyncPreamble("n")
    preamble.receive_data(line[:cut])
    preamble.receive_data(line[cut:])
    assert not preamble.done


def test_the_end_of_an_over_long_line_does_not_end_a_resynchronisation():
    preamble = ResyncPreamble("n")
    preamble.receive_data(b"x" * MAX_LINE_SIZE + b"{")
    preamble.receive_data(sync_ack(0)[1:] + b"\n")
    assert not preamble.done
    preamble.receive_data(sync_ack(0) + b"\n{")
    assert preamble.done
    assert preamble.trailing_data == b"{"
