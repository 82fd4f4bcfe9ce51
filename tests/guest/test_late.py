"""A guest that refuses at first has its address all the same, and listens on it when the address is free."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from guest.test_faults import Gate, ask_patiently
from guest_harness import KINDS, PONG, running
from stereos_proto import Ping
from stereos_proto_io import UnixSocket
from stereos_proto_io.guest import GuestSimulator


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_whose_port_was_taken_while_it_refused_tries_on(kind, caplog):
    """It has bound the port and does not listen yet, so with SO_REUSEADDR another server can take it."""
    gate = Gate(kind)
    with running(kind, None, GuestSimulator(faults=["refuse:7s"]), sleep=gate.sleep) as guest:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind((guest.address.host, guest.address.port))
            other.listen()
            gate.open()
            while "cannot listen on" not in caplog.text:
                threading.Event().wait(0.01)
        assert ask_patiently(guest.address, Ping()) == [PONG]
    said = f"the guest cannot listen on {guest.address}, and tries on: [Errno {errno.EADDRINUSE}]"
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_path_of_a_guest_that_refuses_is_not_taken_for_left_behind(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gate = Gate(kind)
    with running(kind, UnixSocket("g"), GuestSimulator(faults=["refuse:7s"]), sleep=gate.sleep) as guest:
        with pytest.raises(OSError, match="in use"), running(kind, UnixSocket("g"), GuestSimulator()):
            raise AssertionError
        code = "from stereos_proto_io.guest import _listen; print(_listen._is_stale('g'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n", "nor in another process"
        gate.open()
        assert ask_patiently(guest.address, Ping()) == [PONG]
    with pytest.raises(OSError, match="in use"), running(kind, [UnixSocket("g")] * 2, GuestSimulator()):
        raise AssertionError
    assert not Path("g").exists()
