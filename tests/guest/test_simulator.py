"""The simulator says what the reference says, word by word, and keeps what a guest keeps."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vectors
from stereos_proto import (
    Ack,
    AgentStatus,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    Lifecycle,
    Mount,
    Ping,
    Pong,
    SetConfig,
    Shutdown,
)
from stereos_proto_io.guest import FORK_TYPES, OLD_TYPES, Effects, GuestSimulator, RequestRefused
from stereos_proto_io.guest._actions import Close
from stereos_proto_io.guest._go import base_name, clean_path, quote
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
    ("a\0b", "write secret file: open /run/stereos/secrets/a\0b.tmp: invalid argument"),
    ("é" * 128, f"write secret file: open /run/stereos/secrets/{'é' * 128}.tmp: file name too long"),
    (".", "write secret file: open /run/stereos/secrets/..tmp: is a directory"),
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
    assert simulator.requests == tuple(requests)


def test_requests_still_work_while_shutting_down():
    simulator = GuestSimulator()
    assert simulator.handle(Shutdown()).ok
    assert simulator.shutdown_reason == ""
    assert simulator.handle(Ping()) == Pong()
    assert simulator.handle(GetHealth()).state == "shutdown"
    assert simulator.handle(Mount("t", "/w", "9p")).ok
    simulator.power_off()
    assert simulator.mounts == ()


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
    assert simulator.requests == tuple(requests)
    assert len(simulator.mounts) == sum(isinstance(request, Mount) for request in requests)
    assert all(isinstance(reply, (Pong, Health, Ack)) for reply in replies)
