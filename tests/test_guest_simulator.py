"""The simulator says what the reference says, word by word, and keeps what a guest keeps."""

import json

import pytest

import vectors
from stereos_proto import (
    Lifecycle,
)
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest._actions import Close
from stereos_proto_io.guest._session import GuestSession

KEY = "ssh-ed25519 AAAA me@host"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


# -------------------------------------------------------------------------------------------- transcripts


def pump(session, simulator):
    """Handle what has come; return what the guest writes."""
    written = b""
    while (owed := session.next_request()) is not None:
        session.answer(owed, simulator.handle(owed.request))
    while (action := session.next_action()) is not None:
        if isinstance(action, bytes):
            written += action
        elif isinstance(action, Close):
            break
    return written


def replies(data):
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("name", vectors.TRANSCRIPTS)
def test_transcripts_replay(name, clock):
    started = 100.0  # the guest of the recordings was up when the first host connected
    clock.now = started / 1000
    boot = {"bringup_booting": 0.5, "push_lifecycle": 0.49}.get(name, 0.0)
    simulator = GuestSimulator(clock=clock, boot_time=boot)
    session = GuestSession()
    said, recorded = b"", b""
    for row in vectors.TRANSCRIPTS[name]:
        clock.now = row["ms"] / 1000
        data = vectors.unbase64(row.get("b64"))
        if row["dir"] == "s2c":
            recorded += data
            if b'"type":"lifecycle"' in data and name == "push_lifecycle":
                assert session.push(Lifecycle("ready", "all subsystems started"))
                said += pump(session, simulator)
        elif row.get("event") == "eof":
            session.receive_eof()
            said += pump(session, simulator)
        else:
            session.receive_data(data)
            said += pump(session, simulator)
    assert replies(said) == replies(recorded)
    assert recorded
