"""The tolerant lane alone: each rule of the reference for values."""

import gc
import tracemalloc

import pytest

from stereos_proto import (
    Ack,
    AgentStatus,
    CustomRequest,
    Health,
    InjectSecret,
    InvalidMessage,
    MalformedLine,
    Mount,
    Ping,
    Role,
    SetConfig,
    Shutdown,
    UnknownMessage,
)
from stereos_proto._codec.tolerant import Unfit, read_tolerantly, written

READ = {
    Role.HOST: {
        b'{"type":"ping"}': Ping(),
        b'{"type":"ping","payload":5}': Ping(),
        b'{"type":"shutdown"}': Shutdown(),
        b'{"type":"shutdown","payload":null}': Shutdown(),
        b'{"type":"mount","payload":{}}': Mount("", "", ""),
        b'{"type":"mount","payload":null}': Mount("", "", ""),
        b'{"type":"mount","payload":{"tag":null,"read_only":true,"x":[1]}}': Mount("", "", "", True),
        b'{"type":"inject_secret","payload":{"name":"a","value":"\\ud800"}}': InjectSecret("a", "\ufffd", 0),
        b'{"type":"set_config","payload":{"content":"a"},"payload":{"content":"b"}}': SetConfig("b"),
        b'{"type":"\\ud800","payload":["\\ud800",{"\\ud800":-0}]}': CustomRequest("\ufffd", ["\ufffd", {"\ufffd": 0}]),
        b"null": CustomRequest(""),
        b"{}": CustomRequest(""),
        b'{"type":null}': CustomRequest(""),
        b'{"type":"a","type":"ping"}': Ping(),
    },
    Role.GUEST: {
        b'{"type":"x","payload":{"a":1.5}}': UnknownMessage("x", {"a": 1.5}),
        b'{"type":"ack"}': Ack("", False),
        b'{"type":"health","payload":{"agents":null,"uptime_seconds":-0}}': Health(""),
        b'{"type":"health","payload":{"agents":[null,{}]}}': Health("", (AgentStatus("", False),) * 2),
        # The reference reads a list that stands twice over the first one, item by item.
        b'{"type":"health","payload":{"agents":[{"name":"a"},{"name":"b"}],"agents":[{"running":true}]}}': Health(
            "", (AgentStatus("a", True),)
        ),
        b'{"type":"health","payload":{"agents":[{"name":"a"}],"agents":[null,{"name":"b"}]}}': Health(
            "", (AgentStatus("a", False), AgentStatus("b", False))
        ),
        b'{"type":"health","payload":{"agents":[{"name":"a"}],"agents":null,"agents":[{},null]}}': Health(
            "", (AgentStatus("", False),) * 2
        ),
        b'{"type":"health","payload":{"agents":[{"name":"a"}],"agents":null}}': Health(""),
        # What a shorter list hides, a longer one brings back.
        b'{"type":"health","payload":{"agents":[{"name":"a"},{"name":"b"}],"agents":[{}],"agents":[{},{},{}]}}': Health(
            "", (AgentStatus("a", False), AgentStatus("b", False), AgentStatus("", False))
        ),
        b'{"type":"health","payload":{"state":"a","state":null,"x":1,"x":2}}': Health("a"),
        b'{"type":"ack","payload":{"ok":true,"ok":null,"reply_to":"a","reply_to":"b"}}': Ack("b", True),
        b'{"type":"ack","payload":{"ok":1},"payload":{"ok":true}}': Ack("", True),
        b'{"type":"ack","type":null,"payload":[],"payload":null}': Ack("", False),
    },
}


@pytest.mark.parametrize(("sender", "line"), [(sender, line) for sender, lines in READ.items() for line in lines])
def test_reads(sender, line):
    assert read_tolerantly(line, sender) == READ[sender][line]


@pytest.mark.parametrize(
    ("line", "path", "found", "text"),
    [
        (b"[]", "", "array", "must be an object, not array"),
        (b"5", "", "number", "must be an object, not number"),
        (b'{"type":5}', "type", "number", "type must be a string, not number"),
        (b'{"type":{},"type":"ping"}', "type", "object", "type must be a string, not object"),
        (b'{"type":"ping","type":[]}', "type", "array", "type must be a string, not array"),
    ],
)
def test_no_envelope(line, path, found, text):
    error = read_tolerantly(line, Role.HOST)
    assert type(error) is MalformedLine
    assert str(error) == f"the host sent a line that is no message: {text}"
    assert (error.path, error.found, error.column) == (path, found, 0)


@pytest.mark.parametrize(
    ("sender", "line", "path", "reason"),
    [
        (Role.HOST, b'{"type":"mount"}', "payload", "is missing"),
        (Role.HOST, b'{"type":"mount","payload":[]}', "payload", "must be an object, not array"),
        (Role.HOST, b'{"type":"mount","payload":{"tag":1}}', "payload.tag", "must be a string, not number"),
        (Role.HOST, b'{"type":"mount","payload":{"tag":1,"tag":""}}', "payload.tag", "must be a string, not number"),
        (Role.HOST, b'{"type":"mount","payload":{"tag":"","tag":1}}', "payload.tag", "must be a string, not number"),
        (
            Role.GUEST,
            b'{"type":"health","payload":{"agents":{},"agents":[]}}',
            "payload.agents",
            "must be an array, not object",
        ),
        (
            Role.GUEST,
            b'{"type":"health","payload":{"agents":[{"name":1}],"agents":[]}}',
            "payload.agents[0].name",
            "must be a string, not number",
        ),
        (
            Role.GUEST,
            b'{"type":"health","payload":{"agents":[{},{}],"agents":[{},{"name":"a","name":1}]}}',
            "payload.agents[1].name",
            "must be a string, not number",
        ),
        (
            Role.HOST,
            b'{"type":"mount","payload":{"read_only":"true"}}',
            "payload.read_only",
            "must be true or false, not string",
        ),
        (
            Role.HOST,
            b'{"type":"inject_secret","payload":{"mode":-0}}',
            "payload.mode",
            "must be a whole number that is not negative, not number",
        ),
        (
            Role.HOST,
            b'{"type":"inject_secret","payload":{"mode":4294967296}}',
            "payload.mode",
            "must be a whole number from 0 to 4294967295",
        ),
        (
            Role.HOST,
            b'{"type":"x","payload":%b}' % (b"[" * 200 + b"]" * 200),
            "payload",
            "nests deeper than 128 levels",
        ),
        (
            Role.GUEST,
            b'{"type":"health","payload":{"uptime_seconds":1.0}}',
            "payload.uptime_seconds",
            "must be a whole number, not number",
        ),
        (Role.GUEST, b'{"type":"health","payload":{"agents":{}}}', "payload.agents", "must be an array, not object"),
        (
            Role.GUEST,
            b'{"type":"health","payload":{"agents":[{},5]}}',
            "payload.agents[1]",
            "must be an object, not number",
        ),
    ],
)
def test_payloads_that_do_not_fit(sender, line, path, reason):
    error = read_tolerantly(line, sender)
    assert type(error) is InvalidMessage
    assert (error.path, error.reason) == (path, reason)
    assert error.missing == (reason == "is missing")
    assert str(error).endswith(f"with a payload that does not fit: {path} {reason}")


def test_not_json():
    error = read_tolerantly(b'{"type":', Role.GUEST)
    assert type(error) is MalformedLine
    assert str(error) == "the guest sent a line that is not JSON: unexpected end of JSON input"
    assert (error.column, error.found) == (9, "")


def test_written_leaves_out_what_is_zero():
    assert written(Mount("", "", "")) == {
        "type": "mount",
        "payload": {"tag": "", "guest_path": "", "fs_type": ""},
    }
    assert written(Health("a", (AgentStatus("b", False),))) == {
        "type": "health",
        "payload": {"state": "a", "agents": [{"name": "b", "running": False, "restarts": 0}], "uptime_seconds": 0},
    }
    assert written(InjectSecret("a", "b", 5))["payload"]["mode"] == 5
    assert written(CustomRequest("x", [1, {"a": None}])) == {"type": "x", "payload": [1, {"a": None}]}
    assert written(UnknownMessage("x")) == {"type": "x"}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Mount(1, "", ""), "tag must be a str, not int"),
        (Mount("", "", "", 1), "read_only must be a bool, not int"),
        (InjectSecret("", "", True), "mode must be an int, not bool"),
        (Health("", (AgentStatus("", 0),)), "agents[0].running must be a bool, not int"),
        (Health("", ("x",)), "agents[0] must be an AgentStatus, not str"),
        (CustomRequest(None), "type must be a str, not NoneType"),
        (CustomRequest("x", {1: 2}), "payload has a key that is not a str"),
        (CustomRequest("x", [float("inf")]), "payload holds a number that is not finite"),
        (CustomRequest("x", [1 << 3000]), "payload holds a number of more than 640 digits"),
        (CustomRequest("x", [b""]), "payload holds a bytes, which is no JSON"),
    ],
)
def test_written_refuses(message, text):
    with pytest.raises(Unfit) as caught:
        written(message)
    assert str(caught.value) == text


@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_number_that_is_written(sign):
    longest = sign * (2**2126 - 1)
    assert written(CustomRequest("x", longest)) == {"type": "x", "payload": longest}
    with pytest.raises(Unfit, match=r"^payload holds a number of more than 640 digits$"):
        written(CustomRequest("x", longest + sign))


def test_written_refuses_a_list_that_is_none():
    message = Health("")
    message.__dict__["agents"] = {}
    with pytest.raises(Unfit, match=r"^agents must be a tuple, not dict$"):
        written(message)


def test_written_refuses_what_nests_too_deep():
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(Unfit, match=r"^payload nests deeper than 128 levels$"):
        written(CustomRequest("x", deep))


def test_a_type_that_a_guest_made_up_is_not_shown():
    """It may be a secret that it was sent. A host's own type is shown: it stands in the guest's refusal."""
    line = f'{{"type":"s3nt1nel","payload":{"[" * 200}{"]" * 200}}}'.encode()
    told = read_tolerantly(line, Role.GUEST)
    assert str(told).startswith("the guest sent a message with a payload that does not fit: payload nests deeper")
    assert told.type == ""
    told = read_tolerantly(line, Role.HOST)
    assert str(told).startswith("the host sent s3nt1nel with a payload")
    assert told.type == "s3nt1nel"


def test_agents_that_say_nothing_take_no_memory():
    line = b'{"type":"health","payload":{"agents":[%b{}]}}' % (b'{},null,{"x":1},' * 1000)
    agents = read_tolerantly(line, Role.GUEST).agents
    assert len(agents) == 3001
    assert len({id(agent) for agent in agents}) == 1


@pytest.mark.parametrize(
    "unit", [b"{}", b"null", b'{"name":null}', b'{"name":""}', b'{"name":"a","running":true}', b'{"x":[]}']
)
@pytest.mark.parametrize("lists", [1, 3])
def test_memory_that_is_kept_is_bounded_by_the_bytes(unit, lists):
    """64 bytes for each byte received (docs/security.md)."""
    agents = b",".join([b'"agents":[%b]' % b",".join([unit] * 4000)] * lists)
    line = b'{"type":"health","payload":{%b}}' % agents
    read_tolerantly(line, Role.GUEST)
    gc.collect()
    tracemalloc.start()
    try:
        kept = read_tolerantly(line, Role.GUEST)
        gc.collect()
        size, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept.agents) == 4000
    assert size < 64 * len(line)
