"""Encoding and decoding, one line at a time."""

import copy
import enum
import json
import subprocess
import sys
import traceback
from functools import partial
from types import SimpleNamespace

import attrs
import pytest

from interrupts import interrupt, interrupt_after, locals_of
from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    AgentStatus,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    InvalidMessage,
    Lifecycle,
    LifecycleState,
    LocalProtocolError,
    MalformedLine,
    Mount,
    Ping,
    Pong,
    Role,
    SetConfig,
    Shutdown,
    UnknownMessage,
    _codec,
    decode,
    encode,
)
from stereos_proto._codec import canonical, reader, write
from stereos_proto._registry import BY_CLASS, REGISTRY

#: Has all the attributes of an agent, and is none.
ALMOST = SimpleNamespace(name="a", running=True, session="", restarts=0, error="")


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_line_may_have_its_ending(ending):
    assert decode(b'{"type":"pong"}' + ending, sender=Role.GUEST) == Pong()
    assert decode(b' {"type":"pong"}' + ending, sender=Role.GUEST) == Pong()


def test_types_of_the_other_end_are_unknown():
    assert decode(b'{"type":"ping"}', sender=Role.GUEST) == UnknownMessage("ping")
    assert decode(b'{"type":"pong"}', sender=Role.HOST) == CustomRequest("pong")


def test_decode_says_what_is_wrong_and_where():
    with pytest.raises(
        MalformedLine, match=r"^the guest sent a line that is not JSON: invalid character 'x'"
    ) as caught:
        decode(b'{"type":x}', sender=Role.GUEST)
    assert caught.value.column == 9
    line = b'{"type":"health","payload":{"state":"ready","agents":[{"name":"a"},{"name":5}]}}'
    with pytest.raises(InvalidMessage) as invalid:
        decode(line, sender=Role.GUEST)
    assert str(invalid.value) == (
        "the guest sent health with a payload that does not fit: payload.agents[1].name must be a string, not number"
    )
    assert (invalid.value.type, invalid.value.path) == ("health", "payload.agents[1].name")


def test_states_that_are_known_are_members():
    read = decode(b'{"type":"health","payload":{"state":"ready","uptime_seconds":3}}', sender=Role.GUEST)
    assert read.state is LifecycleState.READY
    read = decode(b'{"type":"lifecycle","payload":{"state":"singing"}}', sender=Role.GUEST)
    assert type(read.state) is str
    # The tolerant lane does the same.
    assert decode(b'{"type":"lifecycle","payload":{"state":"ready","message":null}}', sender=Role.GUEST).state is (
        LifecycleState.READY
    )


def test_an_absent_mode_is_zero_and_not_our_default():
    line = b'{"type":"inject_secret","payload":{"name":"a","value":"b"}}'
    assert decode(line, sender=Role.HOST).mode == 0
    message = decode(line.replace(b'"b"', b'"b","mode":256'), sender=Role.HOST)
    assert message == InjectSecret("a", "b", 256)
    assert attrs.evolve(copy.copy(message), value="c").value == "c"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Mount(None, "/b", "9p"), "tag must be a str, not NoneType"),
        (Mount("a", b"/b", "9p"), "guest_path must be a str, not bytes"),
        (Mount("a", "/b", "9p", 1), "read_only must be a bool, not int"),
        (InjectSecret("a", "b", True), "mode must be an int, not bool"),
        (InjectSecret("a", "b", 384.0), "mode must be an int, not float"),
        (InjectSecret("a", "b", -1), "mode must be a whole number from 0 to 4294967295"),
        (InjectSecret("a", "b", 2**32), "mode must be a whole number from 0 to 4294967295"),
        (Health("a", (), 2**63), f"uptime_seconds must be a whole number from {-(2**63)} to {2**63 - 1}"),
        (Health("a", (), 10**5000), f"uptime_seconds must be a whole number from {-(2**63)} to {2**63 - 1}"),
        (Health("a", [AgentStatus("a", None)]), r"agents[0].running must be a bool, not NoneType"),
        (
            Health("a", [AgentStatus("a", True), {"name": "b", "running": True, "restarts": 0}]),
            "agents[1] must be an AgentStatus",
        ),
        (Health("a", [Ack("a", True)]), "agents[0] must be an AgentStatus, not Ack"),
        (Lifecycle(5), "state must be a str, not int"),
        (CustomRequest("x", {1}), "payload holds a set, which is no JSON"),
        (CustomRequest("x", [b"x"]), "payload holds a bytes, which is no JSON"),
        (CustomRequest("x", {"a": {None: 1}}), "payload has a key that is not a str"),
        (CustomRequest("x", float("nan")), "payload holds a number that is not finite"),
        (CustomRequest("x", 10**640), "payload holds a number of more than 640 digits"),
        (CustomRequest("x", Colour.RED), "payload holds a Colour, which is no JSON"),
        (CustomRequest("x", "\ud800"), "a text in it holds a lone surrogate, which has no UTF-8"),
        (CustomRequest("\ud800"), "a text in it holds a lone surrogate, which has no UTF-8"),
        (CustomRequest(5), "type must be a str, not int"),
        # With the name of a type that has a class it is checked as that class is.
        (CustomRequest("mount", {"tag": 1}), "payload.tag must be a string, not number"),
        (CustomRequest("mount"), "payload is missing"),
        (CustomRequest("inject_ssh_key", {"public_key": "a\nb"}), "the public key has a newline inside"),
        (InjectSSHKey("admin", "a\nb"), "the public key has a newline inside"),
        (SetConfig("\udcff"), "a text in it holds a lone surrogate, which has no UTF-8"),
    ],
)
def test_encode_refuses(message, reason):
    with pytest.raises(LocalProtocolError) as caught:
        encode(message)
    assert str(caught.value).startswith("cannot send ")
    assert reason in str(caught.value)
    # Printable wherever an error may be printed.
    str(caught.value).encode("ascii")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("thing", [object(), "ping", None, AgentStatus("a", True), Ping])
def test_encode_refuses_what_is_no_message(thing):
    with pytest.raises(LocalProtocolError, match=r" is not a message that can be sent$"):
        encode(thing)


@attrs.frozen(slots=False)
class LoudPing(Ping):
    pass


def test_encode_refuses_classes_of_others():
    with pytest.raises(LocalProtocolError, match=r"^LoudPing is not a message that can be sent$"):
        encode(LoudPing())


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Mount(Text("a"), "/b", "9p"), b'{"type":"mount","payload":{"tag":"a","guest_path":"/b","fs_type":"9p"}}\n'),
        (Health(Text("x"), (), Number(4)), b'{"type":"health","payload":{"state":"x","uptime_seconds":4}}\n'),
        (CustomRequest(Text("y"), (Text("a"), Number(2), Real(1.5))), b'{"type":"y","payload":["a",2,1.5]}\n'),
        (CustomRequest("y", {Text("a"): LifecycleState.READY}), b'{"type":"y","payload":{"a":"ready"}}\n'),
        (CustomRequest("y", 2**100), b'{"type":"y","payload":1267650600228229401496703205376}\n'),
        (CustomRequest("y", {}), b'{"type":"y","payload":{}}\n'),
        (UnknownMessage("y"), b'{"type":"y"}\n'),
    ],
)
def test_derived_classes_are_written_as_what_they_are(message, line):
    assert encode(message) == line


def test_the_limit_is_in_encoded_bytes():
    frame = len(encode(SetConfig("")))
    assert len(encode(SetConfig("x" * (MAX_LINE_SIZE - frame)))) == MAX_LINE_SIZE
    for content in ("x" * (MAX_LINE_SIZE - frame + 1), "é" * (MAX_LINE_SIZE // 2), "\x00" * (MAX_LINE_SIZE // 5)):
        with pytest.raises(LocalProtocolError, match=r"^cannot send set_config: the line would be \d+ bytes long"):
            encode(SetConfig(content))
    assert isinstance(write(Ping(), limit=15), LocalProtocolError)
    assert write(Ping(), limit=16) == b'{"type":"ping"}\n'


def test_long_types_do_not_fill_the_error():
    with pytest.raises(LocalProtocolError) as caught:
        encode(CustomRequest("x" * 2_000_000))
    assert len(str(caught.value)) < 300


def test_nesting_of_an_open_payload():
    deep = []
    for _ in range(126):
        deep = [deep]
    line = encode(CustomRequest("x", deep))
    assert decode(line, sender=Role.HOST) == CustomRequest("x", deep)
    with pytest.raises(LocalProtocolError, match="nests deeper than 128 levels"):
        encode(CustomRequest("x", [deep]))
    with pytest.raises(InvalidMessage, match="does not fit: payload nests deeper than 128 levels"):
        decode(b'{"type":"x","payload":%b%b}' % (b"[" * 128, b"]" * 128), sender=Role.HOST)
    endless = []
    endless.append(endless)
    with pytest.raises(LocalProtocolError, match="nests deeper"):
        encode(CustomRequest("x", endless))


@pytest.mark.parametrize("member", [b"[" * 10_000 + b"]" * 10_000, b'{"":' * 10_000 + b"1" + b"}" * 10_000])
def test_the_interpreters_stack_sets_no_limit(member):
    limit = sys.getrecursionlimit()
    line = b'{"type":"pong","x":' + member + b"}"
    try:
        for recursion in (limit, 200_000):
            sys.setrecursionlimit(recursion)
            with pytest.raises(MalformedLine, match=r"exceeded max depth$"):
                decode(line, sender=Role.GUEST)
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (CustomRequest("mount", {"tag": "a", "x": 1}), b'{"type":"mount","payload":{"tag":"a","x":1}}\n'),
        (CustomRequest("inject_ssh_key", {"public_key": "a\n"}), None),
        # The guest looks at no payload of these.
        (CustomRequest("ping", [1]), b'{"type":"ping","payload":[1]}\n'),
        (CustomRequest("shutdown", [1]), b'{"type":"shutdown","payload":[1]}\n'),
        # A guest does not know what only guests send.
        (CustomRequest("health", 5), b'{"type":"health","payload":5}\n'),
    ],
)
def test_a_custom_request_with_the_name_of_a_class(request_, line):
    assert line is None or encode(request_) == line
    assert encode(request_).endswith(b"}\n")


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("line", [b"{}", b"null"])
def test_the_shortest_lines_are_not_read_again(line, sender):
    """They are the cheapest flood."""
    message = decode(line, sender=sender)
    assert message == (CustomRequest("") if sender is Role.HOST else UnknownMessage(""))
    assert decode(line, sender=sender) is message


@pytest.mark.parametrize("levels", [390, 410])
def test_members_that_nest_deeper_than_msgspec_may_skip(levels, monkeypatch):
    """The bound is lowered: on some Pythons (3.12) C code stops by itself before 4,000 levels."""
    asked = []
    monkeypatch.setattr(_codec, "MAX_SKIPPED_NESTING", 400)
    monkeypatch.setattr(_codec, "read_tolerantly", lambda line, sender: asked.append(line) or Pong())
    deep = b"[" * levels + b"]" * levels
    assert reader(Role.GUEST)(b'{"type":"pong","x":%b}' % deep) == Pong()
    assert len(asked) == (levels > 400)


@pytest.mark.parametrize("bracket", ["{", "[", "},{", "]"])
def test_brackets_in_texts_do_not_send_a_report_to_the_slow_lane(bracket, monkeypatch):
    def slow(*_arguments):
        raise AssertionError("the slow lane was asked")

    message = Health("ready", [AgentStatus("a", True, error=bracket * 50_000), AgentStatus("b", False)], 1)
    line = encode(message)
    monkeypatch.setattr(_codec, "read_open", slow)
    monkeypatch.setattr(_codec, "read_tolerantly", slow)
    assert decode(line, sender=Role.GUEST) == message


def test_brackets_in_texts_and_lists_that_stand_twice():
    agent = AgentStatus("[a]", True, "[s]")
    assert decode(encode(Health("ready", (agent,))), sender=Role.GUEST).agents == (agent,)
    line = (
        b'{"type":"health","payload":{"state":"ready","agents":[{"name":"a","running":true,"session":"s"}],'
        b'"agents":[{"name":"b","running":true,"restarts":0}],"uptime_seconds":1}}'
    )
    assert decode(line, sender=Role.GUEST).agents == (AgentStatus("b", True, "s"),)


def test_long_lines_that_are_shallow_are_read():
    agents = tuple(AgentStatus(f"agent-{i}", True, "", i) for i in range(3_000))
    message = Health("ready", agents, 1)
    assert decode(encode(message), sender=Role.GUEST) == message
    padded = b'{"type":"pong","x":"' + b"[" * 100_000 + b'"}'
    assert decode(padded, sender=Role.GUEST) == Pong()


SENTINEL = "s3ntinel-7261"


def shown(error):
    """All that a careless program may log of an exception."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(whole.format()) + repr(error) + str(error) + repr(error.args) + repr(vars(error))


BROKEN = [
    b'{"type":"inject_secret","payload":{"name":"a","value":"%b","mode":"x"}}',
    b'{"type":"inject_secret","payload":{"name":"a","value":["%b"]}}',
    b'{"type":"inject_secret","payload":"%b"}',
    b'{"type":"inject_secret","payload":{"name":"a","value":"%b"}',
    b'{"type":"inject_secret","payload":{"name":"a","value":"%b"}}}',
    b'{"type":"set_config","payload":{"content":"%b\\x"}}',
    b'{"type":"set_config","payload":{"content":{"%b":1}}}',
    b'{"type":["%b"]}',
    b'["%b"]',
    b"%b",
]


@pytest.mark.parametrize(
    "make",
    [
        lambda: CustomRequest("inject_secret", {"name": 1, "value": SENTINEL}),
        lambda: CustomRequest("inject_secret", {"name": "a", "value": [SENTINEL]}),
        lambda: CustomRequest("inject_ssh_key", {"user": "a", "public_key": SENTINEL + "\n" + SENTINEL}),
    ],
)
def test_no_value_in_errors_of_what_is_refused_for_what_it_says(make):
    with pytest.raises(LocalProtocolError) as caught:
        encode(make())
    assert SENTINEL not in shown(caught.value)


@pytest.mark.parametrize("line", BROKEN)
def test_no_secret_in_errors_of_reading(line):
    secret = line % SENTINEL.encode()

    def careful():
        # A frame of ours would show the line; the point is what the library's frames hold.
        decode(secret_lines.pop(), sender=Role.HOST)

    secret_lines = [secret]
    del secret
    with pytest.raises((MalformedLine, InvalidMessage)) as caught:
        careful()
    assert SENTINEL not in shown(caught.value.with_traceback(caught.value.__traceback__.tb_next))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SetConfig(SENTINEL * 100_000),
        lambda: SetConfig(SENTINEL + "\ud800"),
        lambda: SetConfig([SENTINEL]),
        lambda: InjectSecret("a", SENTINEL + "\ud800"),
        lambda: InjectSecret("a", SENTINEL.encode()),
        lambda: InjectSecret("a", SENTINEL, "x"),
        lambda: InjectSecret("a", 0o600, SENTINEL),
        lambda: CustomRequest("x", {"a": SENTINEL + "\ud800"}),
        lambda: CustomRequest("x", {"a": [SENTINEL, {1}]}),
        lambda: CustomRequest("x", {SENTINEL: b""}),
    ],
)
def test_no_secret_in_errors_of_writing(make):
    with pytest.raises(LocalProtocolError) as caught:
        encode(make())
    assert SENTINEL not in shown(caught.value)


@pytest.mark.parametrize("message", [SetConfig(SENTINEL), InjectSecret("a", SENTINEL), CustomRequest("x", SENTINEL)])
def test_no_secret_in_reprs(message):
    assert SENTINEL not in repr(message) + str(message) + f"{message}"


def test_reading_is_bound_to_a_sender():
    assert reader(Role.HOST)(b'{"type":"ping"}') == Ping()
    assert reader(Role.GUEST)(b'{"type":"ack","payload":{"reply_to":"shutdown","ok":true}}') == Ack("shutdown", True)
    assert reader(Role.HOST)(b'{"type":"shutdown"}') == Shutdown()


def agents(number):
    return [AgentStatus(f"agent-{n}", n % 2 > 0, "s" * (n % 3), n, "e" * (n % 5)) for n in range(number)]


#: What a reference writes, long lines and brackets in texts included.
USUAL = [
    *(Health("healthy", agents(number), 7) for number in (0, 1, 4, 512)),
    Health("ready", agents(0)),
    Lifecycle("ready"),
    Lifecycle("ready", "[all] up"),
    *(Ack(row.type, ok, "" if ok else "[no]") for row in REGISTRY if row.reply is Ack for ok in (True, False)),
    Ack("", False, "malformed JSON: x"),
    Pong(),
    Ping(),
    GetHealth(),
    Mount("share0", "/workspace", "9p"),
    Mount("share0", "/workspace", "9p", read_only=True),
    InjectSecret("A", "b"),
    InjectSecret("A", "[b]", 1),
    InjectSSHKey("admin", "ssh-ed25519 AAAA"),
    Shutdown(),
    Shutdown("[mb] down"),
    *(SetConfig('[[agents]]\nname = "a"\n' * number) for number in (1, 100, 2000)),
    SetConfig("x" * (MAX_LINE_SIZE - 100)),
]


@pytest.mark.parametrize("message", USUAL, ids=lambda message: message.type)
def test_what_a_reference_writes_takes_the_fast_lanes(message, monkeypatch):
    line = encode(message)
    sender = BY_CLASS[type(message)].sender

    def slow(*_arguments):
        raise AssertionError("the slow lane was asked")

    monkeypatch.setattr(_codec, "read_tolerantly", slow)
    monkeypatch.setattr(_codec, "read_open", slow)
    monkeypatch.setattr(canonical, "write_tolerantly", slow)
    assert decode(line, sender=sender) == message
    assert encode(message) == line


#: Writes and reads each of the usual lines once, and prints what Python code of msgspec ran meanwhile.
_FIRST_USES = """
import json, sys
from stereos_proto import Role, decode, encode
ran = set()
lines = json.load(sys.stdin)
def note(frame, event, _argument):
    if event == "call" and frame.f_globals["__name__"].startswith("msgspec"):
        ran.add(frame.f_code.co_name)
sys.setprofile(note)
for line, sender in lines:
    assert encode(decode(line.encode(), sender=Role[sender])) == line.encode()
sys.setprofile(None)
print(sorted(ran))
"""


def test_nothing_is_made_ready_when_a_message_is_first_used():
    """msgspec makes a class ready in Python code, which other threads interrupt; one that used it meanwhile crashed.

    Found by a guest on an emulated processor, two of whose threads wrote its first `Health` at once.
    """
    lines = [(encode(message).decode(), BY_CLASS[type(message)].sender.name) for message in USUAL]
    # A process of its own: here, all of them were used before.
    command = (sys.executable, "-c", _FIRST_USES)
    run = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "message", [Ping(), GetHealth(), Pong(), *(Ack(row.type, True) for row in REGISTRY if row.reply is Ack)]
)
def test_lines_that_are_the_same_each_time_are_not_read_again(message):
    sender = BY_CLASS[type(message)].sender
    assert decode(encode(message), sender=sender) is decode(encode(message), sender=sender)


def test_a_ctrl_c_leaves_no_secret_in_the_frames(monkeypatch):
    """The interrupted function holds the line, and so does the one that has called it."""
    request = InjectSecret("TOKEN", "a secret")
    line = encode(request)
    monkeypatch.setitem(_codec._WRITERS, InjectSecret, interrupt_after(_codec._WRITERS[InjectSecret]))
    monkeypatch.setattr(_codec, "reader", lambda _sender: interrupt)
    for job in (partial(encode, request), partial(decode, line, sender=Role.HOST)):
        with pytest.raises(KeyboardInterrupt) as caught:
            job()
        assert "a secret" not in locals_of(caught.value)
