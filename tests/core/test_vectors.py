"""The codec, the framing and both connections against what the reference implementations really did."""

import hashlib
import json
import random

import attrs
import pytest

import vectors
from stereos_proto import (
    AgentStatus,
    Connection,
    ConnectionClosed,
    CustomRequest,
    InjectSSHKey,
    InvalidMessage,
    LocalProtocolError,
    MalformedLine,
    MalformedReceived,
    NotificationReceived,
    ReplyReceived,
    RequestReceived,
    Role,
    decode,
    encode,
)
from stereos_proto._framing import TOO_LONG, LineReader
from stereos_proto._registry import BY_TYPE

# ------------------------------------------------------------------------------------------------- decode

#: The one deliberate difference: we match member names exactly, the reference by Unicode case folding. Row →
#: type and payload as we read them.
EXACT_NAMES = {
    "env/key_Type": ("", None),
    "env/key_tYpE": ("", None),
    "env/key_long_s": ("shutdown", {"reason": ""}),
    "env/key_kelvin": ("inject_ssh_key", {"user": "a", "public_key": ""}),
    "env/dup_type_case": ("ping", None),
    "env/dup_payload_case": ("shutdown", {"reason": "a"}),
    "field/dup_case": ("inject_secret", {"name": "a", "value": "", "mode": 0}),
    "field/dup_case2": ("inject_secret", {"name": "b", "value": "", "mode": 0}),
}


def members(message):
    data = attrs.asdict(message)
    if "agents" in data:
        data["agents"] = list(data["agents"]) or None
    return data


def senders(type_):
    """Who sends `type_`; both, where nobody does."""
    return [role for role in Role if type_ in BY_TYPE[role]] or list(Role)


def expected(row, sender):
    """The outcome of a row: an error class, or type and payload (None: not looked at)."""
    if row["name"] in EXACT_NAMES:
        return EXACT_NAMES[row["name"]]
    if not row["envelope_ok"]:
        return MalformedLine
    fits = row["guest_payload_ok"] if sender is Role.HOST else row["payload_ok"]
    # `shutdown` needs no payload here: the reference complains about a missing one and shuts down all the same.
    tolerated = row["type"] == "shutdown" and row["payload_ok"]
    if fits is False and not tolerated:
        return InvalidMessage
    return row["type"], row["decoded"]


def cases():
    for row in vectors.DECODE:
        for sender in senders(row["type"]):
            yield pytest.param(row, sender, id=f"{row['name']}-{sender.value}")


@pytest.mark.parametrize(("row", "sender"), [*cases()])
def test_decode(row, sender):
    line = vectors.unbase64(row["line_b64"])
    outcome = expected(row, sender)
    if isinstance(outcome, type):
        with pytest.raises(outcome) as caught:
            decode(line, sender=sender)
        assert type(caught.value) is outcome
        return
    type_, payload = outcome
    # The open type of a row may be one that only the other side sends.
    message = decode(line, sender=sender)
    assert message.type == type_
    if payload is not None and type_ in BY_TYPE[sender]:
        assert members(message) == payload


def test_every_deliberate_difference_is_one():
    by_name = {row["name"]: row for row in vectors.DECODE}
    for name, (type_, payload) in EXACT_NAMES.items():
        assert (by_name[name]["type"], by_name[name]["decoded"]) != (type_, payload)


# ------------------------------------------------------------------------------------------------- encode


def plain(value):
    """A value of an encode row; bytes that are no UTF-8 become a string that holds lone surrogates."""
    if isinstance(value, dict):
        if "$bytes_b64" in value:
            return vectors.unbase64(value["$bytes_b64"]).decode("utf-8", "surrogateescape")
        return {name: plain(member) for name, member in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def built(message):
    if "payload_raw_b64" in message:
        raw = vectors.unbase64(message["payload_raw_b64"])
        return CustomRequest(message["type"], json.loads(raw) if raw else None)
    row = BY_TYPE[Role.HOST].get(message["type"]) or BY_TYPE[Role.GUEST].get(message["type"])
    if row is None:
        return CustomRequest(message["type"])
    payload = plain(message["payload"] or {})
    if "agents" in payload:
        payload["agents"] = tuple(AgentStatus(**agent) for agent in payload["agents"] or ())
    return row.cls(**payload)


def in_order(line):
    return json.loads(line, object_pairs_hook=list)


#: Raw payloads that no Python value is: one that is no JSON at all, one that stands twice.
RAW_ONLY = {"raw/invalid_json", "raw/dup_keys"}
#: What the reference copies through as raw text, and we could only send as something else.
UNFAITHFUL = {"raw/number"}
#: What the reference sends, and we refuse: the guest would store a key with a newline inside as two.
REFUSED = {"inject_ssh_key/key_all_c0"}


@pytest.mark.parametrize(
    "row", [row for row in vectors.ENCODE if row["name"] not in RAW_ONLY], ids=lambda row: row["name"]
)
def test_encode(row):
    message = built(row["message"])
    if "$bytes_b64" in json.dumps(row["message"]) or row["name"] in UNFAITHFUL | REFUSED:
        with pytest.raises(LocalProtocolError, match=f"^cannot send {message.type}: "):
            encode(message)
        return
    line = encode(message)
    assert in_order(line) == in_order(vectors.unbase64(row["wire_b64"]))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    sender = next(iter(senders(message.type)))
    assert decode(line, sender=sender) == message


# ------------------------------------------------------------------------------------------------ framing


def framed(data, size, *, eof):
    """The lines in `data`, read `size` bytes at a time, and whether one was too long."""
    reader, lines = LineReader(), []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        if drain(reader, lines):
            return lines, True
    if eof:
        reader.feed_eof()
    return lines, drain(reader, lines)


def drain(reader, lines):
    while (line := reader.next_line()) is not None:
        if line is TOO_LONG:
            return True
        lines.append(line)
    return False


@pytest.mark.parametrize(
    "row", [row for row in vectors.FRAMING if row["side"] == "server"], ids=lambda row: row["name"]
)
def test_framing(row):
    data = vectors.input_of(row)
    for size in [len(data) + 1, 65_536, 1_000, *(row["read_sizes"] or ()), *([1, 2, 7] if len(data) < 4096 else ())]:
        lines, too_long = framed(data, size, eof=row["input_end"] == "eof")
        seen = [(len(line), hashlib.sha256(line).hexdigest()) for line in lines]
        # Empty lines are none to us.
        assert seen == [(line["len"], line["sha256"]) for line in row["lines"] if line["len"]]
        assert too_long == (row["error"] == "too_long")


def test_both_sides_of_the_reference_frame_alike():
    sides = {
        side: {row["name"]: row for row in vectors.FRAMING if row["side"] == side} for side in ("server", "client")
    }
    assert sides["server"].keys() == sides["client"].keys()
    for name, row in sides["server"].items():
        other = sides["client"][name]
        assert (row["lines"], row["error"], row["input"]) == (other["lines"], other["error"], other["input"])


# -------------------------------------------------------------------------------------------- transcripts


def lines_of(data):
    return [line for raw in data.split(b"\n") if (line := raw.removesuffix(b"\r"))]


def sent_by_host(data):
    """The requests on recorded lines; a line that was raw bytes counts as a request of the type ""."""
    for line in lines_of(data):
        try:
            yield decode(line, sender=Role.HOST)
        except MalformedLine:
            yield CustomRequest("")


def sendable(request):
    """What our host sends instead: it refuses a key that the guest would store as two."""
    if isinstance(request, InjectSSHKey):
        return attrs.evolve(request, public_key=request.public_key.partition("\n")[0])
    return request


def cuts_of(data, seed):
    if seed == "whole":
        return [data]
    if seed == "bytes":
        return [data[index : index + 1] for index in range(len(data))]
    chosen = random.Random(seed)
    points = sorted(chosen.choices(range(len(data) + 1), k=len(data) // 20))
    return [data[start:end] for start, end in zip([0, *points], [*points, len(data)], strict=True)]


def events_of(connection, data, cuts):
    events = []
    for chunk in cuts_of(data, cuts):
        connection.receive_data(chunk)
        events += connection.events()
    return events


CUTS = ["whole", "bytes", *range(8)]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", vectors.TRANSCRIPTS)
def test_host_replays(name, cuts):
    connection = Connection(Role.HOST)
    requests = list(map(sendable, sent_by_host(vectors.stream(name, "c2s"))))
    for request in requests:
        connection.send(request)
    answers = vectors.stream(name, "s2c")
    events = events_of(connection, answers, cuts)
    connection.receive_eof()
    events += connection.events()

    assert events.pop() == ConnectionClosed(())
    replies = [event for event in events if isinstance(event, ReplyReceived)]
    assert [event.request for event in replies] == requests
    told = [event.message for event in events if isinstance(event, NotificationReceived)]
    assert len(told) + len(replies) == len(events) == len(lines_of(answers))
    states = [m.state for line in lines_of(answers) if hasattr(m := decode(line, sender=Role.GUEST), "state")]
    assert connection.lifecycle == (states[-1] if states else None)


def same_refusal(ours, theirs):
    """Whether two acks say the same. What follows `malformed JSON:` differs between versions of the reference."""
    prefix = "malformed JSON: "
    if ours.error.startswith(prefix) and theirs.error.startswith(prefix):
        return (ours.reply_to, ours.ok) == (theirs.reply_to, theirs.ok)
    return ours == theirs


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", vectors.TRANSCRIPTS)
def test_guest_replays(name, cuts):
    connection = Connection(Role.GUEST)
    questions = vectors.stream(name, "c2s")
    events = events_of(connection, questions, cuts)
    connection.receive_eof()
    closed = list(connection.events()).pop()

    requests = list(sent_by_host(questions))
    assert [getattr(event, "message", CustomRequest("")) for event in events] == requests
    assert closed == ConnectionClosed(tuple(requests))
    owed = iter(events)
    for line in lines_of(vectors.stream(name, "s2c")):
        message = decode(line, sender=Role.GUEST)
        # The guest may say all that the reference said, in that order.
        assert in_order(connection.send(message)) == in_order(line)
        if message.type == "lifecycle":
            continue
        event = next(owed)
        if isinstance(event, MalformedReceived):
            assert same_refusal(event.reply, message)
        else:
            assert isinstance(event, RequestReceived)
    assert next(owed, None) is None
    assert connection.pending == ()


@pytest.mark.parametrize("name", vectors.TRANSCRIPTS)
def test_in_step(name):
    """Both ends side by side, in the recorded order."""
    host, guest = Connection(Role.HOST), Connection(Role.GUEST)
    for row in vectors.TRANSCRIPTS[name]:
        data = vectors.unbase64(row.get("b64"))
        if row["dir"] == "c2s":
            asked = list(sent_by_host(data))
            for request in asked:
                host.send(sendable(request))
            guest.receive_data(data)
            assert len(list(guest.events())) == len(asked)
        else:
            for line in lines_of(data):
                guest.send(decode(line, sender=Role.GUEST))
            host.receive_data(data)
            assert len(list(host.events())) == len(lines_of(data))
        assert len(host.pending) == len(guest.pending)
    assert host.pending == ()
