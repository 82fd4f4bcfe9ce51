"""The simulator says what the reference says, word by word, and keeps what a guest keeps."""

import gc
import json
import math
import re
import threading
import traceback

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vectors
from core.test_vectors import EXACT_NAMES
from guest_harness import PATIENCE, ack, ask, running
from stereos_proto import (
    MAX_LINE_SIZE,
    NEED_DATA,
    Ack,
    AgentStatus,
    CustomRequest,
    GetHealth,
    GuestSession,
    Health,
    InjectSecret,
    InjectSSHKey,
    Lifecycle,
    Mount,
    PendingRequest,
    Ping,
    Pong,
    SetConfig,
    Shutdown,
    encode,
)
from stereos_proto_io.guest import FORK_TYPES, OLD_TYPES, Effects, GuestSimulator, RequestRefused, faults
from stereos_proto_io.guest._go import base_name, clean_path, quote

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
    while (event := session.next_event()) is not NEED_DATA:
        if isinstance(event, PendingRequest):
            session.reply(event, simulator.handle(event.request))
    written = b""
    while data := session.data_to_send():
        written += data
        session.data_sent(len(data))
    return written


def replies(data):
    """What `data` says. Of malformed JSON only the prefix is told alike by all guests (§6)."""
    return [json.loads(re.sub(rb'("malformed JSON: ).*?(?<!\\)"', rb'\1"', line)) for line in data.splitlines()]


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


# ------------------------------------------------------------------------------------------------- rows

#: What a guest calls the payload of a type that needs one (§4).
PAYLOADS = {"inject_secret": "secret", "set_config": "config", "inject_ssh_key": "ssh key", "mount": "mount"}


def answers(line, simulator):
    """What a simulated guest answers to one line, as parsed JSON."""
    session = GuestSession()
    session.receive_data(line)
    return [json.loads(answer) for answer in pump(session, simulator).splitlines()]


@pytest.mark.parametrize(
    "row", [row for row in vectors.DECODE if row["name"] not in EXACT_NAMES], ids=lambda row: row["name"]
)
def test_a_line_is_answered_as_the_reference_reads_it(row):
    simulator = GuestSimulator()
    line = vectors.unbase64(row["line_b64"])
    if line in (b"", b"\r"):
        assert answers(line + b"\n", simulator) == []
        return
    [answer] = answers(line + b"\n", simulator)
    if not row["envelope_ok"]:
        assert answer["payload"]["error"].startswith("malformed JSON: ")
        assert (answer["type"], answer["payload"]["reply_to"], answer["payload"]["ok"]) == ("ack", "", False)
        return
    type_ = row["type"]
    if type_ in ("ping", "get_health"):
        assert answer["type"] == {"ping": "pong", "get_health": "health"}[type_]
        return
    said = answer["payload"]
    assert (answer["type"], said["reply_to"]) == ("ack", type_)
    if type_ not in {*PAYLOADS, "shutdown"}:
        assert (said["ok"], said["error"]) == (False, f"unknown message type: {type_}")
    elif row["guest_payload_ok"] is False and type_ in PAYLOADS:
        assert said["error"].startswith(f"decode {PAYLOADS[type_]} payload: ")
        assert simulator.requests == ()
    else:
        # What it understood is what the reference understood.
        [request] = simulator.requests
        shown = attrs.asdict(request)
        if type_ == "inject_secret" and not said["ok"]:
            shown["value"] = row["decoded"]["value"]  # of a secret that was refused, the value is not kept
        # A shutdown whose payload cannot be read is carried out all the same.
        assert shown == (row["decoded"] or {"reason": ""})


@pytest.mark.parametrize("row", [row for row in vectors.ENCODE if row["wire_b64"]], ids=lambda row: row["name"])
def test_what_the_reference_host_writes_is_answered(row):
    [answer] = answers(vectors.unbase64(row["wire_b64"]), GuestSimulator())
    type_ = row["message"]["type"]
    reply = {"ping": "pong", "get_health": "health"}.get(type_, "ack")
    assert answer["type"] == reply
    if reply == "ack":
        assert answer["payload"]["reply_to"] == type_


@pytest.mark.parametrize(
    "row", [row for row in vectors.FRAMING if row["side"] == "server"], ids=lambda row: row["name"]
)
def test_each_line_of_a_stream_gets_one_answer(row):
    session, simulator = GuestSession(), GuestSimulator()
    session.receive_data(vectors.input_of(row))
    if row["input_end"] == "eof":
        session.receive_eof()
    said = pump(session, simulator).splitlines()
    # A line that is too long ends the connection without an ack.
    assert len(said) == sum(line["len"] > 0 for line in row["lines"])


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (
            InjectSecret(what, "v") if type_ == "inject_secret" else Mount("share0", what, "9p"),
            error,
        )
        for row in vectors.JCARD
        for type_, what, error in row.get("stereosd_refuses", ())
    ],
    ids=repr,
)
def test_what_a_jcard_asks_for_in_vain_is_refused_in_the_words_of_the_reference(request_, error):
    assert GuestSimulator().handle(request_) == Ack(request_.type, False, error)


# ------------------------------------------------------------------------------------------ Go's writing


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ("plain", '"plain"'),
        ('"\\', r'"\"\\"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x1b\x7f", r'"\x00\x1b\x7f"'),
        ("\x80\xa0\u200b\u2028\ue000", r'"\u0080\u00a0\u200b\u2028\ue000"'),
        ("é€\ufffd😀", '"é€\ufffd😀"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_quote(text, quoted):
    assert quote(text) == quoted


@given(st.text())
def test_quoted_text_is_one_printable_line(text):
    quoted = quote(text)
    assert "\n" not in quoted
    assert "\0" not in quoted
    assert quoted.startswith('"')
    assert quoted.endswith('"')


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("", "."),
        ("/", "/"),
        ("//", "/"),
        ("//a", "/a"),
        ("/a/", "/a"),
        ("/./a/.", "/a"),
        ("/a//b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../a", "/a"),
        ("/..", "/"),
        ("/a/../../b", "/b"),
        ("a/..", "."),
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("/...", "/..."),
        ("/a\0b/..", "/"),
    ],
)
def test_clean_path(path, clean):
    assert clean_path(path) == clean


@given(st.text(alphabet="/.a\0"))
def test_clean_paths_are_clean(path):
    clean = clean_path(path)
    assert clean_path(clean) == clean
    assert clean.startswith("/") == path.startswith("/")
    assert "//" not in clean


@pytest.mark.parametrize(
    ("path", "base"), [("", "."), ("/", "/"), ("///", "/"), ("a", "a"), ("a/", "a"), ("/a/b", "b"), (".", ".")]
)
def test_base_name(path, base):
    assert base_name(path) == base


# ------------------------------------------------------------------------------------------------ checks

SECRET_RULES = [
    ("", "secret name cannot be empty"),
    ("a/b", 'invalid secret name: "a/b" (must be a simple filename)'),
    ("a/", 'invalid secret name: "a/" (must be a simple filename)'),
    ("..", 'invalid secret name: ".." (must be a simple filename)'),
    ("a..b", 'invalid secret name: "a..b" (must be a simple filename)'),
    ("/a\n", 'invalid secret name: "/a\\n" (must be a simple filename)'),
    ("a\0b", 'write secret "a\\x00b": open /run/stereos/secrets/a\0b.tmp: invalid argument'),
    ("é" * 128, f'write secret "{"é" * 128}": open /run/stereos/secrets/{"é" * 128}.tmp: file name too long'),
    (".", 'rename secret ".": rename /run/stereos/secrets.tmp /run/stereos/secrets: file exists'),
    ("/", 'rename secret "/": rename /run/stereos/secrets.tmp /run/stereos/secrets: file exists'),
    ("A_KEY", ""),
    (".hidden", ""),
    ("a b", ""),
]


@pytest.mark.parametrize(("name", "error"), SECRET_RULES)
def test_secret_names(name, error):
    simulator = GuestSimulator()
    assert simulator.handle(InjectSecret(name, "v")) == Ack("inject_secret", not error, error)
    assert set(simulator.secrets) == (set() if error else {name})


@pytest.mark.parametrize(("asked", "kept"), [(0, 0o600), (0o600, 0o600), (0o444, 0o444), (2**32 - 1, 2**32 - 1)])
def test_secret_modes(asked, kept):
    simulator = GuestSimulator()
    simulator.handle(InjectSecret("a", "v", asked))
    assert (simulator.secrets["a"].value, simulator.secrets["a"].mode) == ("v", kept)


def test_secrets_are_replaced_and_never_shown():
    simulator = GuestSimulator()
    for value in ("first-value", "second-value"):
        simulator.handle(InjectSecret("a", value))
    simulator.handle(SetConfig("config-value"))
    simulator.handle(CustomRequest("x", "payload-value"))
    assert simulator.secrets["a"].value == "second-value"
    assert "-value" not in repr((simulator, simulator.requests, simulator.secrets))


@pytest.mark.parametrize(
    ("option", "times"),
    [
        ({"boot_time": -1}, 1),
        ({"keep_requests": -1}, 1),
        ({"faults": "drop@mount"}, 1),
        ({"age": "x"}, 1),
        ({"clock": 5}, 1),
        ({"clock": str}, 2),
    ],
    ids=str,
)
def test_a_simulator_whose_option_was_refused_is_shown_in_a_traceback(option, times):
    """As `pytest -l` shows it: the object is not finished."""
    with pytest.raises((TypeError, ValueError)) as caught:
        GuestSimulator(**option)
    halves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(caught.tb)]
    assert [repr(half) for half in halves if type(half) is GuestSimulator] == ["<GuestSimulator, not made>"] * times


FIRST_FAULT_WINS = [
    (InjectSSHKey("", ""), "user cannot be empty"),
    (InjectSSHKey("bob", ""), "public_key cannot be empty"),
    (
        InjectSSHKey("bob", "x"),
        "invalid SSH public key format: must start with a recognized key type (e.g., ssh-ed25519)",
    ),
    (InjectSSHKey("bob", KEY), 'lookup user "bob": user: unknown user bob'),
    (Mount("", "", ""), "mount tag cannot be empty"),
    (Mount("t", "", ""), "mount guest_path cannot be empty"),
    (Mount("t", "x", ""), "mount fs_type cannot be empty"),
    (Mount("t", "x", "nfs"), 'unsupported filesystem type: "nfs" (must be virtiofs or 9p)'),
    (Mount("t", "x", "9p"), 'guest_path must be absolute: "x"'),
    (Mount("t", "/etc\0", "9p"), 'create mount point "/etc\\x00": mkdir /etc\0: invalid argument'),
    (Mount("t", "/etc/\0", "9p"), 'cannot mount over system directory: "/etc/\\x00"'),
]


@pytest.mark.parametrize(("request_", "error"), FIRST_FAULT_WINS, ids=repr)
def test_checks_run_in_their_order(request_, error):
    assert GuestSimulator().handle(request_) == Ack(request_.type, False, error)


@pytest.mark.parametrize("folder", ["/nix", "/etc", "/bin", "/boot", "/dev", "/proc", "/sys", "/run", "/"])
@pytest.mark.parametrize("way", ["{}", "{}/", "/{}", "{}/x", "/w/..{}", "{}/./x/.."])
def test_system_folders_are_refused(folder, way):
    path = way.format(folder)
    simulator = GuestSimulator()
    reply = simulator.handle(Mount("t", path, "virtiofs"))
    below = clean_path(path)
    if folder == "/" and below != "/":
        assert reply == Ack("mount", True)
    else:
        assert reply == Ack("mount", False, f"cannot mount over system directory: {quote(below)}")
        assert simulator.mounts == ()


def test_mounts_stack_with_clean_paths():
    simulator = GuestSimulator()
    for read_only in (False, True):
        assert simulator.handle(Mount("t", "//w/./x/", "9p", read_only)).ok
    assert simulator.mounts == (Mount("t", "/w/x", "9p"), Mount("t", "/w/x", "9p", True))


def test_keys_are_replaced_per_user():
    simulator = GuestSimulator(users=["admin", "me"])
    for user, key in [("admin", KEY), ("me", KEY + "\n\n"), ("admin", "ssh-rsa B\nssh-rsa C\n")]:
        assert simulator.handle(InjectSSHKey(user, key)) == Ack("inject_ssh_key", True)
    assert simulator.ssh_keys == {"admin": "ssh-rsa B\nssh-rsa C\n", "me": KEY + "\n"}


# ------------------------------------------------------------------------------------------------ states


def test_a_boot(clock):
    simulator = GuestSimulator(clock=clock, boot_time=2.5, agents=[AgentStatus("a", running=True)])
    seen = []
    for _ in range(18):
        health = simulator.handle(GetHealth())
        seen.append((health.uptime_seconds, health.state))
        clock.now += 0.5
    assert seen[:5] == [(0, "booting"), (0, "booting"), (1, "booting"), (1, "booting"), (2, "booting")]
    assert {state for _, state in seen[5:15]} == {"ready"}
    assert {state for _, state in seen[15:]} == {"healthy"}


def test_a_guest_that_is_up_already(clock):
    agents = [AgentStatus("a", running=True)]
    simulator = GuestSimulator(clock=clock, boot_time=2.5, uptime=3600, agents=agents)
    assert (simulator.uptime, simulator.state) == (3600, "healthy")
    clock.now += 1
    assert simulator.handle(GetHealth()) == Health("healthy", tuple(agents), 3601)
    simulator.reboot()
    assert simulator.handle(GetHealth()) == Health("booting", tuple(agents), 0)
    assert GuestSimulator(clock=clock, boot_time=2.5, uptime=2).state == "booting"


@pytest.mark.parametrize("running", [True, False])
def test_healthy_needs_a_poll_that_sees_a_running_agent(clock, running):
    simulator = GuestSimulator(clock=clock)
    clock.now += 4.9
    simulator.agents = [AgentStatus("a", running)]
    assert simulator.state == "ready"
    clock.now += 0.2
    assert simulator.state == ("healthy" if running else "ready")
    simulator.agents = [AgentStatus("a", running=False, error="it died")]
    clock.now += 1000
    assert simulator.state == ("healthy" if running else "ready")
    assert simulator.handle(GetHealth()).agents == (AgentStatus("a", running=False, error="it died"),)


def test_never_ready(clock):
    simulator = GuestSimulator(clock=clock, boot_time=math.inf, agents=[AgentStatus("a", running=True)])
    clock.now += 1e9
    assert simulator.state == "booting"


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            '[[agents]]\nharness = "opencode"\nname = "one"\n[[agents]]\nharness = "claude-code"\n',
            ["claude-code", "one"],
        ),
        ('[agent]\nharness = "custom"\n', []),
        ("[[agents]]\n", []),
        ("agents = [1]\n", []),
        ("not [ toml", []),
        ("", []),
    ],
)
def test_agents_come_from_the_config_at_the_next_poll(clock, config, names):
    simulator = GuestSimulator(clock=clock, poll_interval=1)
    assert simulator.handle(SetConfig(config)) == Ack("set_config", True)
    assert simulator.agents == ()
    clock.now += 1
    assert [agent.name for agent in simulator.agents] == names
    assert simulator.state == ("healthy" if names else "ready")
    assert simulator.config == config


TWO_AGENTS = """
[[agents]]
name = "coder"
harness = "claude-code"
[[agents]]
name = "tester"
harness = "opencode"
"""


def test_an_agent_that_fails_later(clock):
    """It stays in the health, as one that has exited does (§10), and the other one goes on."""
    simulator = GuestSimulator(clock=clock)
    simulator.handle(SetConfig(TWO_AGENTS))
    clock.now += 5
    coder, tester = simulator.handle(GetHealth()).agents
    simulator.end_agent("coder", "exit status 1")
    failed = attrs.evolve(coder, running=False, error="exit status 1")
    for _ in range(3):
        assert simulator.handle(GetHealth()) == Health("healthy", (failed, tester), int(simulator.uptime))
        clock.now += 5
    assert simulator.journal[-1] == "agent coder exited: exit status 1"
    simulator.end_agent("coder")
    assert simulator.agents == (attrs.evolve(coder, running=False), tester)
    assert simulator.journal[-1] == "agent coder exited"


@pytest.mark.parametrize(
    ("requests", "runs"),
    [
        ([], False),
        ([SetConfig(TWO_AGENTS)], False),
        ([SetConfig(TWO_AGENTS + "# the same\n")], False),
        ([SetConfig(TWO_AGENTS + 'workdir = "/w"\n')], False),  # of the other one
        ([SetConfig(TWO_AGENTS.replace("claude-code", "opencode"))], True),
        ([InjectSecret("a", "v")], True),
        ([SetConfig("not [ toml")], False),
    ],
)
def test_an_agent_that_has_failed_is_started_again_by_a_change(clock, requests, runs):
    simulator = GuestSimulator(clock=clock)
    simulator.handle(SetConfig(TWO_AGENTS))
    clock.now += 5
    assert len(simulator.agents) == 2
    simulator.end_agent("coder", "exit status 1")
    for request in requests:
        simulator.handle(request)
    clock.now += 5
    assert [(agent.running, agent.error) for agent in simulator.agents] == [
        (runs, "" if runs else "exit status 1"),
        (True, ""),
    ]


def test_an_agent_that_is_due_to_start_may_be_ended(clock):
    simulator = GuestSimulator(clock=clock)
    simulator.handle(SetConfig(TWO_AGENTS))
    clock.now += 5
    simulator.end_agent("coder")
    assert [agent.running for agent in simulator.agents] == [False, True]


def test_an_agent_that_is_taken_out_and_put_in_again_runs(clock):
    simulator = GuestSimulator(clock=clock)
    seen = []
    for config in (TWO_AGENTS, "", TWO_AGENTS):
        simulator.handle(SetConfig(config))
        clock.now += 5
        seen.append([agent.running for agent in simulator.agents])
        if len(seen) == 1:
            simulator.end_agent("coder")
    assert seen == [[True, True], [], [True, True]]


@pytest.mark.parametrize("fixed", [True, False])
def test_a_reboot_starts_an_agent_that_has_failed(clock, fixed):
    agents = [AgentStatus("coder", running=True, session="agent-coder")] if fixed else None
    simulator = GuestSimulator(clock=clock, agents=agents)
    simulator.handle(SetConfig('[[agents]]\nname = "coder"\nharness = "custom"\n'))
    clock.now += 5
    before = simulator.agents
    simulator.end_agent("coder", "gone")
    clock.now += 5
    assert simulator.agents == (attrs.evolve(before[0], running=False, error="gone"),)
    simulator.reboot()
    clock.now += 5
    assert simulator.agents == before


@pytest.mark.parametrize(
    ("name", "text", "error", "words"),
    [
        ("nobody", "", ValueError, "there is no agent 'nobody'; those that have started: 'coder'"),
        ("coder", 5, ValueError, r"agents cannot be reported: .*agents\[0\].error"),
        ("coder", "\ud800", ValueError, "agents cannot be reported: .*a lone surrogate"),
    ],
)
def test_agents_that_cannot_fail(name, text, error, words):
    simulator = GuestSimulator(agents=[AgentStatus("coder", running=True)])
    with pytest.raises(error, match=words):
        simulator.end_agent(name, text)
    assert simulator.agents == (AgentStatus("coder", running=True),)


def test_without_agents_none_can_fail():
    simulator = GuestSimulator()
    simulator.handle(SetConfig(TWO_AGENTS))
    with pytest.raises(
        ValueError, match="there is no agent 'coder'; none has started, and the config is read every 5 s"
    ):
        simulator.end_agent("coder")


def test_forced_states_hold_until_a_reboot(clock):
    simulator = GuestSimulator(clock=clock)
    simulator.state = "degraded"
    assert simulator.handle(GetHealth()) == Health("degraded", (), 0)
    simulator.reboot()
    assert simulator.state == "ready"


def test_reboot_loses_what_is_in_memory(clock):
    simulator = GuestSimulator(clock=clock, boot_time=1)
    requests = [
        InjectSecret("a", "v"),
        Mount("t", "/w", "9p"),
        InjectSSHKey("admin", KEY),
        SetConfig("c"),
        Shutdown("x"),
    ]
    for request in requests:
        assert simulator.handle(request).ok
    clock.now += 90
    assert (simulator.state, simulator.shutdown_reason) == ("shutdown", "x")
    simulator.reboot()
    assert (simulator.state, simulator.uptime, simulator.shutdown_reason) == ("booting", 0, None)
    assert (simulator.secrets, simulator.mounts) == ({}, ())
    assert (simulator.ssh_keys, simulator.config) == ({"admin": KEY + "\n"}, "c")
    # The secret is gone, and so is its value.
    assert simulator.requests == (InjectSecret("a", "(not kept)"), *requests[1:])


def test_requests_still_work_while_shutting_down():
    simulator = GuestSimulator()
    assert simulator.handle(Shutdown()).ok
    assert simulator.shutdown_reason == ""
    assert simulator.handle(Ping()) == Pong()
    assert simulator.handle(GetHealth()).state == "shutdown"
    assert simulator.handle(Mount("t", "/w", "9p")).ok


def test_mounts_can_be_read_after_a_power_off_until_the_next_start():
    unmounted = []

    class Machine(Effects):
        def power_off(self, mounts):
            unmounted.append(mounts)

    first, second = Mount("t", "/w", "9p"), Mount("u", "/x", "9p")
    simulator = GuestSimulator(effects=Machine())
    assert simulator.handle(first).ok
    simulator.power_off()
    assert simulator.mounts == (first,)
    # Each mount is unmounted once.
    assert simulator.handle(second).ok
    simulator.power_off()
    assert unmounted == [(first,), (second,)]
    assert simulator.mounts == (first, second)
    simulator.reboot()
    assert simulator.mounts == ()
    assert simulator.handle(second).ok
    simulator.power_off()
    assert unmounted[2:] == [(second,)]


def test_what_a_guest_got_can_be_read_when_it_has_shut_down():
    simulator = GuestSimulator()
    mount = Mount("t", "/w", "9p")
    with running("blocking", None, simulator) as guest:
        assert ask(guest.address, mount, InjectSecret("a", "v"), Shutdown("x")) == [
            ack("mount"),
            ack("inject_secret"),
            ack("shutdown"),
        ]
        assert guest.join()
    assert (simulator.mounts, [*simulator.secrets], simulator.shutdown_reason) == ((mount,), ["a"], "x")


# ---------------------------------------------------------------------------------------------- dialects


def test_an_old_guest_knows_four_types():
    simulator = GuestSimulator(types=OLD_TYPES)
    for request in (Ping(), InjectSecret("a", "v"), Mount("t", "/w", "9p"), Shutdown()):
        assert getattr(simulator.handle(request), "ok", True)
    for request in (GetHealth(), SetConfig("c"), InjectSSHKey("admin", KEY)):
        assert simulator.handle(request) == Ack(request.type, False, f"unknown message type: {request.type}")
    assert (simulator.config, simulator.ssh_keys) == (None, {})


def test_a_fork_acks_its_own_types():
    for simulator, ok in ((GuestSimulator(types=FORK_TYPES), True), (GuestSimulator(), False)):
        for type_ in ("unmount", "stop_agent", "force_stop_agent", "create_sandbox_user", "destroy_sandbox_user"):
            assert simulator.handle(CustomRequest(type_, {"path": "/w"})).ok is ok
        assert simulator.handle(CustomRequest("Unmount")).error == "unknown message type: Unmount"


def test_what_effects_refuse_is_not_kept():
    class Full(Effects):
        def refuse(self, *_):
            raise RequestRefused("no space left on device")

        store_secret = store_keys = store_config = mount = refuse

    simulator = GuestSimulator(effects=Full())
    for request in (InjectSecret("a", "v"), InjectSSHKey("admin", KEY), SetConfig("c"), Mount("t", "/w", "9p")):
        assert simulator.handle(request) == Ack(request.type, False, "no space left on device")
    assert (simulator.secrets, simulator.ssh_keys, simulator.config, simulator.mounts) == ({}, {}, None, ())


def test_the_views_are_not_the_guest():
    simulator = GuestSimulator()
    with pytest.raises(TypeError):
        simulator.secrets["a"] = None
    view = simulator.secrets
    simulator.handle(InjectSecret("a", "v"))
    assert (len(view), len(simulator.secrets)) == (0, 1)


@given(st.lists(st.sampled_from([Ping(), GetHealth(), Mount("t", "/w", "9p"), InjectSecret("a", "v")]), max_size=20))
def test_every_request_is_recorded_and_answered(requests):
    simulator = GuestSimulator()
    replies = [simulator.handle(request) for request in requests]
    # Of a secret that was replaced since, the value is not kept.
    last = max((number for number, request in enumerate(requests) if isinstance(request, InjectSecret)), default=-1)
    assert simulator.requests == tuple(
        InjectSecret("a", "(not kept)") if isinstance(request, InjectSecret) and number < last else request
        for number, request in enumerate(requests)
    )
    assert simulator.dropped_requests == 0
    assert len(simulator.mounts) == sum(isinstance(request, Mount) for request in requests)
    assert all(isinstance(reply, (Pong, Health, Ack)) for reply in replies)


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_as_many_requests_are_kept_as_are_asked_for(keep):
    simulator = GuestSimulator(keep_requests=keep)
    requests = [CustomRequest(f"t{number}") for number in range(5)]
    for request in requests:
        simulator.handle(request)
    assert simulator.requests == tuple(requests[5 - keep :])
    assert simulator.dropped_requests == 5 - keep


def test_requests_are_kept_within_a_bound_of_bytes():
    """Large configs, and what cannot be measured because it is longer when written again."""
    simulator = GuestSimulator()
    for number in range(50):
        simulator.handle(SetConfig(f"# {number} " + "x" * 1_000_000))
        simulator.handle(CustomRequest("x", "\ufffd" * 400_000))
    assert 3 <= len(simulator.requests) <= 5
    assert simulator.requests[-2].content.startswith("# 49 ")
    assert simulator.dropped_requests == 100 - len(simulator.requests)


def test_a_thousand_requests_are_kept_where_nothing_is_said():
    simulator = GuestSimulator()
    for _ in range(1000):
        simulator.handle(Ping())
    assert (len(simulator.requests), simulator.dropped_requests) == (1000, 0)
    simulator.handle(Ping())
    assert (len(simulator.requests), simulator.dropped_requests) == (1000, 1)


def test_four_requests_of_the_longest_line_are_kept():
    longest = SetConfig("x" * (MAX_LINE_SIZE - len(encode(SetConfig("")))))
    assert len(encode(longest)) == MAX_LINE_SIZE
    simulator = GuestSimulator()
    for _ in range(4):
        simulator.handle(longest)
    assert (len(simulator.requests), simulator.dropped_requests) == (4, 0)
    simulator.handle(longest)
    assert (len(simulator.requests), simulator.dropped_requests) == (4, 1)


def test_the_journal_keeps_a_thousand_lines():
    simulator = GuestSimulator()
    for number in range(1001):
        simulator._journal.append(str(number))
    assert (len(simulator.journal), simulator.journal[0]) == (1000, "1")


def test_what_is_denied_is_kept_and_not_carried_out():
    simulator = GuestSimulator()
    assert simulator.deny(Mount("t", "/w", "9p"), "no") == Ack("mount", False, "no")
    assert (simulator.requests, simulator.mounts) == ((Mount("t", "/w", "9p"),), ())


def test_polls_keep_their_rhythm_after_a_long_silence(clock):
    """A guest polls every 5 s from its start, whether or not a host asks."""
    simulator = GuestSimulator(clock=clock)
    for now, seen in [(12.0, False), (14.9, False), (15.0, True)]:
        clock.now = 1000.0 + now
        if now == 12.0:
            assert simulator.agents == ()  # it looks now, and next at 15
            simulator.handle(SetConfig('[[agents]]\nname = "a"\nharness = "claude-code"\n'))
        assert bool(simulator.agents) is seen, now
    clock.now = 1030.0
    simulator.handle(GetHealth())
    assert simulator._next_poll == 35.0


def test_setting_the_agents_first_makes_the_polls_that_are_due(clock):
    simulator = GuestSimulator(clock=clock)
    simulator.handle(SetConfig('[[agents]]\nname = "a"\nharness = "claude-code"\n'))
    clock.now += 6.0
    simulator.agents = []
    assert simulator.agents == ()
    assert simulator.state == "healthy"  # an agent was seen to run


@pytest.mark.parametrize(("size", "ok"), [(251, True), (252, False)])
def test_the_longest_name_of_a_secret(size, ok):
    """With `.tmp` behind it, it is the name of a file, which has at most 255 bytes."""
    simulator = GuestSimulator()
    assert simulator.handle(InjectSecret("n" * size, "v")).ok is ok
    assert len(simulator.secrets) == ok


def test_keeping_less_than_no_request_is_refused():
    with pytest.raises(ValueError, match="keep_requests"):
        GuestSimulator(keep_requests=-1)


@pytest.mark.parametrize("lost", ["refused", "replaced", "rebooted"])
def test_the_value_of_a_secret_that_the_guest_has_not_is_not_kept(lost):
    simulator = GuestSimulator()
    simulator.handle(InjectSecret("a/b" if lost == "refused" else "a", "hush"))
    if lost == "replaced":
        simulator.handle(InjectSecret("a", "other"))
    elif lost == "rebooted":
        simulator.reboot()
    assert simulator.requests[0].value == "(not kept)"
    held = gc.get_objects()
    assert not [thing for thing in held if isinstance(thing, InjectSecret) and thing.value == "hush"]


# --------------------------------------------------------------------------------------- several threads


def test_a_config_that_takes_long_to_read_freezes_nothing(clock, monkeypatch):
    """While one thread reads it, the others are answered by what was seen last."""
    entered, release = threading.Event(), threading.Event()
    simulator = GuestSimulator(clock=clock, poll_interval=1)
    poll = simulator._poll
    reader = threading.Thread(target=lambda: simulator.handle(GetHealth()))

    def slow():
        if threading.current_thread() is reader:
            entered.set()
            assert release.wait(20)
        poll()

    monkeypatch.setattr(simulator, "_poll", slow)
    simulator.handle(SetConfig('[[agents]]\nname = "one"\nharness = "custom"\n'))
    clock.now += 1
    reader.start()
    assert entered.wait(20)
    assert simulator.handle(Ping()) == Pong()
    assert simulator.handle(GetHealth()).agents == ()
    assert simulator.handle(InjectSecret("a", "v")).ok
    assert simulator.handle(SetConfig("")).ok
    release.set()
    reader.join(20)
    assert not reader.is_alive()


def test_an_effect_may_change_the_guest_while_others_ask(clock):
    """An effect runs while the guest is locked. A question waits for no effect, and needs nothing that one holds."""

    class Starts(Effects):
        def store_config(self, _content):
            clock.now += 5.0  # a poll is due
            asking = threading.Thread(target=simulator.handle, args=(GetHealth(),))
            asking.start()
            asking.join(PATIENCE)
            assert not asking.is_alive()
            rebooting = threading.Thread(target=simulator.reboot)
            rebooting.start()
            simulator.agents = [AgentStatus("coder", True)]
            others.append(rebooting)

    others = []
    simulator = GuestSimulator(clock=clock, effects=Starts())
    assert simulator.handle(SetConfig("x=1")).ok
    others[0].join(PATIENCE)
    assert not others[0].is_alive()
    assert [agent.name for agent in simulator.agents] == ["coder"]


def test_a_slow_mount_keeps_only_changes_waiting():
    entered, release = threading.Event(), threading.Event()

    class Slow(Effects):
        def mount(self, _mount):
            entered.set()
            assert release.wait(20)

    simulator = GuestSimulator(effects=Slow())
    mounting = threading.Thread(target=lambda: simulator.handle(Mount("t", "/w", "9p")))
    mounting.start()
    assert entered.wait(20)
    assert simulator.handle(Ping()) == Pong()
    assert simulator.handle(GetHealth()).state == "ready"
    assert simulator.mounts == ()
    release.set()
    mounting.join(20)
    assert len(simulator.mounts) == 1


@pytest.mark.parametrize("what", ["forget", "power_off"])
def test_effects_that_fail_leave_no_half_state(what):
    class Broken(Effects):
        def forget(self):
            raise OSError("no")

        def power_off(self, mounts):
            tried.append(mounts)
            raise OSError("no")

    tried = []

    simulator = GuestSimulator(effects=Broken())
    for request in (InjectSecret("a", "v"), Mount("t", "/w", "9p")):
        assert simulator.handle(request).ok
    with pytest.raises(OSError, match="no"):
        (simulator.reboot if what == "forget" else simulator.power_off)()
    if what == "forget":
        assert (simulator.mounts, simulator.secrets) == ((), {})
    else:
        # What could not be unmounted is not unmounted a second time.
        assert tried == [simulator.mounts]
        with pytest.raises(OSError, match="no"):
            simulator.power_off()
        assert tried[1:] == [()]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({"poll_interval": value}, ValueError) for value in (0, -1, math.nan, math.inf)),
        *(({"boot_time": value}, ValueError) for value in (-1, math.nan)),
        *(({"uptime": value}, ValueError) for value in (-1, math.nan, math.inf)),
        *(({"keep_requests": value}, ValueError) for value in (-1, 1.5)),
        *(({name: "ping"}, TypeError) for name in ("types", "users", "files", "faults")),
    ],
    ids=str,
)
def test_options_that_make_no_guest(options, error):
    with pytest.raises(error, match=next(iter(options))):
        GuestSimulator(**options)


NO_AGENTS = [
    (["coder"], TypeError, "agents takes AgentStatus, such as AgentStatus('coder', running=True), not str"),
    ([AgentStatus("a", running=True), None], TypeError, "agents takes AgentStatus, .* not NoneType"),
    ([AgentStatus], TypeError, "agents takes AgentStatus, .* not type"),
    ("coder", TypeError, "agents takes several AgentStatus, such as a list, not str"),
    (AgentStatus("a", running=True), TypeError, "agents takes several AgentStatus, such as a list, not AgentStatus"),
    (5, TypeError, "agents takes several AgentStatus, such as a list, not int"),
    ([AgentStatus(5, running=True)], ValueError, r"agents cannot be reported: .*agents\[0\].name"),
    ([AgentStatus("a", running="yes")], ValueError, r"agents cannot be reported: .*agents\[0\].running"),
    ([AgentStatus("\ud800", running=True)], ValueError, "agents cannot be reported: .* a lone surrogate"),
    ([AgentStatus("a" * MAX_LINE_SIZE, running=True)], ValueError, "agents cannot be reported: "),
]


@pytest.mark.parametrize(("agents", "error", "words"), NO_AGENTS)
def test_agents_that_no_guest_reports_are_refused_where_they_are_set(agents, error, words):
    """Not by a refusal of the guest, when a host asks for its health."""
    with pytest.raises(error, match=words.replace("('", r"\('").replace("True)", r"True\)")):
        GuestSimulator(agents=agents)
    simulator = GuestSimulator(agents=[AgentStatus("b", running=False)])
    with pytest.raises(error):
        simulator.agents = agents
    assert simulator.agents == (AgentStatus("b", running=False),)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        *(
            (name, "5", f"{name} takes a number, such as 2.5, not str")
            for name in ("boot_time", "uptime", "poll_interval")
        ),
        *((name, True, f"{name} takes a number, .* not bool") for name in ("boot_time", "uptime", "poll_interval")),
        *((name, None, f"{name} takes a number, .* not NoneType") for name in ("boot_time", "uptime", "poll_interval")),
        *(
            (name, 5, f"{name} takes several strings, such as a tuple of them, not int")
            for name in ("types", "users", "files")
        ),
        *((name, [5], f"{name} takes strings, not int") for name in ("types", "users", "files")),
        ("types", [Ping], "types takes strings, not type"),
        ("types", b"ping", "types takes strings, not int"),
        ("effects", Effects, r"effects takes an object, such as Effects\(\), not the class"),
        ("effects", 5, "effects takes an object such as Effects.., and int has no store_secret"),
        ("clock", 5, "clock takes a function that returns the time in seconds, not int"),
        ("faults", 5, "faults takes several faults, such as a tuple of them, not int"),
        ("faults", faults.Drop(), "faults takes several faults, such as a tuple of them, not Drop"),
        ("faults", [5], "faults takes faults and their texts, not int"),
        ("faults", [faults.Drop], "faults takes faults and their texts, not type"),
    ],
)
def test_options_of_a_wrong_type(option, value, words):
    with pytest.raises(TypeError, match=f"^{words}"):
        GuestSimulator(**{option: value})


def test_options_that_may_be_taken_once():
    simulator = GuestSimulator(
        types=iter(["ping"]), users=iter(["me"]), agents=iter([AgentStatus("a", running=True)]), faults=iter(["drop"])
    )
    assert simulator.handle(Ping()) == Pong()
    assert simulator.handle(GetHealth()) == Ack("get_health", False, "unknown message type: get_health")
    assert len(simulator.agents) == len(simulator.faults.faults) == 1


def test_keeping_true_requests_is_no_number():
    with pytest.raises(ValueError, match="keep_requests must be a whole number, at least 0, not True"):
        GuestSimulator(keep_requests=True)


@pytest.mark.parametrize(("state", "error"), [(5, TypeError), (b"ready", TypeError), ("\ud800", ValueError)])
def test_states_that_no_guest_reports(state, error):
    simulator = GuestSimulator()
    with pytest.raises(error, match=r"^state "):
        simulator.state = state
    assert simulator.state == "ready"


def test_how_much_is_kept_for_tests_to_look_at():
    simulator = GuestSimulator()
    for number in range(1001):
        simulator.handle(Mount(str(number), "/w", "9p"))
    assert [request.tag for request in simulator.requests] == [str(number) for number in range(1, 1001)]


@pytest.mark.parametrize("size", [4096, 4097, 9999])
def test_a_long_line_of_the_journal_is_cut(clock, size):
    """What a host sends is quoted there: a config of 100 KB made a journal of 100 MB."""
    simulator = GuestSimulator(clock=clock)
    path = "x" * (size - len("agent custom-0 cannot start: open : no such file or directory"))
    simulator.handle(SetConfig(f"[[agents]]\nharness='custom'\nreplicas=2\nprompt_file='{path}'"))
    clock.now += 5
    assert simulator.agents == ()
    for number, line in enumerate(simulator.journal):
        whole = f"agent custom-{number} cannot start: open {path}: no such file or directory"
        assert len(whole) == size
        assert line == (whole if size == 4096 else f"{whole[:4096]}… ({size - 4096} more characters)")
    assert len(simulator.journal) == 2


def test_a_config_that_cannot_be_read_raises_nothing(clock):
    """A duration of a million digits ended the guest's connection with an error of decimal."""
    simulator = GuestSimulator(clock=clock)
    simulator.handle(SetConfig(f"[[agents]]\nharness='custom'\ntimeout='1{'0' * 1_000_001}s'"))
    clock.now += 5
    assert simulator.handle(GetHealth()) == Health("ready", (), 5)
    assert simulator.journal[0].startswith("config dropped: agents[0]: invalid agent.timeout")


def test_secrets_that_were_looked_at_do_not_change():
    simulator = GuestSimulator()
    simulator.handle(InjectSecret("A", "1"))
    seen = simulator.secrets
    simulator.handle(InjectSecret("B", "2"))
    assert (list(seen), list(simulator.secrets)) == (["A"], ["A", "B"])


def test_a_stored_secret_is_not_shown():
    simulator = GuestSimulator()
    simulator.handle(InjectSecret("a", "v4lue"))
    assert repr(simulator.secrets["a"]) == "Secret(mode=0o600)"
