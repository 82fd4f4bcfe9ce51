"""How the guest reads a jcard.toml: held to what the reference guest was seen to do, and our host is held to that."""

import hashlib

import pytest
import tomli_w

import costs
from stereos_proto import Ack, AgentStatus, GetHealth, InjectSecret, NotReady, SetConfig, load_jcard
from stereos_proto_io.blocking import connect_when_ready
from stereos_proto_io.guest import GuestSimulator, _agents
from stereos_proto_io.guest._agents import Age, AgentDaemon, ConfigDropped, read_config
from stereos_proto_io.testing import simulated_guest
from vectors import JCARD, JCARD_DIFFERENCES, reader_of, toml_of

#: Rows of which the reference makes now one thing, now another.
VARIES = {row["id"]: row["varies"] for row in JCARD if "varies" in row}
#: TOML 1.1, which the reference guest reads and tomllib does not.
UNREAD = {"bytes/inline-newline-1.1"}
#: Files of the machine on which the reference guest ran.
FILES = {"/etc/hostname"}
FIELDS = (
    *("name", "harness", "type", "workdir", "restart", "max_restarts", "timeout", "grace_period", "session"),
    *("memory", "pid_limit", "prompt", "prompt_file"),
)


def shown(agents, secrets=()):
    """Agents as the vectors show them."""
    return [
        {
            **{field: getattr(agent, field) for field in FIELDS},
            "env": dict(agent.env),
            "merged_env": agent.environment(dict(secrets)),
            "extra_packages": list(agent.extra_packages) or None,
            "starts": not agent.prompt_file or agent.prompt_file in FILES,
        }
        for agent in agents
    ]


def as_like(agent, like):
    """Those members of `agent` that `like` has, with a text replaced by its digest where `like` has a digest."""
    return {
        key: {"len": len(agent[key]), "sha256": hashlib.sha256(agent[key].encode()).hexdigest()}
        if isinstance(agent[key], str) and isinstance(value, dict)
        else agent[key]
        for key, value in like.items()
    }


def same(ours, theirs):
    assert [as_like(agent, like) for agent, like in zip(ours, theirs, strict=True)] == theirs


# -- the guest's rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", JCARD, ids=lambda row: row["id"])
def test_a_text_is_read_as_the_reference_guest_reads_it(row):
    seen = row["guest_of_raw_text"]
    if row["id"] in UNREAD or "error" in seen:
        with pytest.raises(ConfigDropped) as caught:
            read_config(toml_of(row))
        expected = seen.get("error", "parsing config: toml: ")
        if expected.startswith("parsing config: toml: "):
            assert str(caught.value).startswith("parsing config: toml: ")
        else:
            assert str(caught.value) == expected
        return
    agents = read_config(toml_of(row))
    if row["id"] in VARIES and "agents" in VARIES[row["id"]][0]:
        assert {"agents": [agent.name for agent in agents]} in VARIES[row["id"]]
    else:
        same(shown(agents), seen["agents"])


@pytest.mark.parametrize("row", [row for row in JCARD if "config" in row["host"]], ids=lambda row: row["id"])
def test_what_the_reference_host_sends_is_read_as_the_reference_guest_reads_it(row):
    text, seen = tomli_w.dumps(row["host"]["config"]), row["guest_of_host_config"]
    if "error" in seen:
        with pytest.raises(ConfigDropped) as caught:
            read_config(text)
        assert str(caught.value) == seen["error"]
    else:
        same(shown(read_config(text), row["host"]["secrets"]), seen["agents"])


@pytest.mark.parametrize("row", [row for row in JCARD if "older_guest_of_raw_text" in row], ids=lambda row: row["id"])
def test_an_older_guest_reads_the_older_form(row):
    [seen] = row["older_guest_of_raw_text"]["agents"]
    [agent] = shown(read_config(toml_of(row), Age.OLDER))
    assert {key: agent[key] for key in seen} == seen


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[agents]", 'parsing config: toml: (last key "agents"): incompatible types'),
        ("agents = [1]", 'parsing config: toml: (last key "agents"): incompatible types'),
        ("[[agents]]\nharness=1", 'parsing config: toml: (last key "agents.harness"): incompatible types'),
        (f"[[agents]]\npid_limit={2**63}", 'parsing config: toml: (last key "agents.pid_limit"): incompatible types'),
        ("[[agents]]\nenv={A=1}", 'parsing config: toml: (last key "agents"): incompatible types'),
        ("[[agents]]\nextra_packages=[1]", 'parsing config: toml: (last key "agents"): incompatible types'),
        ("a = ", "parsing config: toml: invalid (at end of document)"),
        ("a = 's3nt1nel' 's3nt1nel'", "parsing config: toml: invalid (at line 1, column 16)"),
        (f"a = {'[' * 5000}", "parsing config: toml: invalid (somewhere)"),
        ("[[agents]]\nharness='custom'\ntype='vm'", 'agents[0]: invalid agent.type "vm": must be sandboxed or native'),
        ("[[agents]]\nharness='custom'\nmax_restarts=-1", "agents[0]: agent.max_restarts must not be negative"),
        ("[[agents]]\nharness='custom'\npid_limit=-1", "agents[0]: agent.pid_limit must not be negative"),
        ("[[agents]]\nharness='custom'\nmemory='2'", 'agents[0]: invalid agent.memory "2"'),
        (
            "[[agents]]\nharness='custom'\nextra_packages=[' ']",
            "agents[0]: agent.extra_packages must not have blank entries",
        ),
        (
            "[[agents]]\nharness='custom'\ntype='native'\nextra_packages=['a']",
            "agents[0]: agent.extra_packages needs type sandboxed",
        ),
        ("a." * 100 + "a = 1", "parsing config: toml: a key has more than 100 names"),
        (f"x = 1\n [{'a . ' * 99}'b c'.d]", "parsing config: toml: a key has more than 100 names"),
        (f"x = {{{'a.' * 100}a = 1}}", "parsing config: toml: a key has more than 100 names"),
        ("[[agents]]\nharness='custom'\nreplicas=34_953", "more than 34952 agents"),
    ],
)
def test_the_whole_file_is_dropped(text, reason):
    with pytest.raises(ConfigDropped) as caught:
        read_config(text)
    assert str(caught.value) == reason


LIMITS = [*(("854775.80", unit) for unit in ("us", "µs", "μs")), ("854.77580", "ms"), (".85477580", "s")]


@pytest.mark.parametrize(
    ("duration", "fault"),
    [
        *(
            (text, "")
            for text in ("0", "-0", "1h30m", "-1h", "1.5s", ".5s", "1.s", "+1us1µs1μs1ns1ms", "9223372036854775807ns")
        ),
        # The most, in each unit, and one more.
        *((f"9223372036{digits}7{unit}", "") for digits, unit in LIMITS),
        *(
            (f"9223372036{digits}8{unit}", f'time: invalid duration "9223372036{digits}8{unit}"')
            for digits, unit in LIMITS
        ),
        *((text, "") for text in ("153722867m", "2562047h")),
        *((text, f'time: invalid duration "{text}"') for text in ("153722868m", "2562048h")),
        *(
            (text, f'time: invalid duration "{text}"')
            for text in ("soon", "-", "+", ".s", "9223372036854775808ns", "3000000h")
        ),
        *((text, f'time: missing unit in duration "{text}"') for text in ("90", "1h30", "1.5.5s")),
        ("2 hours", 'time: unknown unit " hours" in duration "2 hours"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
    ],
)
def test_durations_as_go_reads_them(duration, fault):
    text = f"[[agents]]\nharness='custom'\ntimeout='{duration}'"
    if not fault:
        assert read_config(text)[0].timeout == duration
        return
    with pytest.raises(ConfigDropped) as caught:
        read_config(text)
    assert str(caught.value) == f'agents[0]: invalid agent.timeout "{duration}": {fault}'


@pytest.mark.parametrize("digits", [100_000, 1_000_001])
def test_a_duration_of_many_digits(digits):
    """A million of them raised an error of decimal."""
    with pytest.raises(ConfigDropped, match=r"^agents\[0\]: invalid agent.timeout .*: time: invalid duration"):
        read_config(f"[[agents]]\nharness='custom'\ntimeout='1{'0' * digits}s'")


def test_a_duration_of_many_parts():
    """What was left of it was copied for each: 400 KB took 5 s, and twice as much four times that."""
    assert read_config(f"[[agents]]\nharness='custom'\ntimeout='{'0s' * 400_000}'")


@pytest.mark.parametrize("key", ["name", "harness"])
def test_replicas_of_a_long_name(key):
    """Each has the whole name: 5 KB took 362 MiB, and 1 MB all memory."""
    config = f"[[agents]]\nharness='custom'\n{key}='{'x' * 5000}'\nreplicas=34_952".replace("harness='custom'\nh", "h")
    with costs.counted_bytes() as cost, pytest.raises(ConfigDropped) as caught:
        read_config(config)
    assert str(caught.value) == "more than 1048576 characters in the names of agents"
    assert cost.peak < 1_000_000


def test_names_as_long_as_they_may_be():
    names = ["a" * 524_288, "b" * 524_288]
    config = "".join(f"[[agents]]\nharness='custom'\nname='{name}'\n" for name in names)
    assert [agent.name for agent in read_config(config)] == names


def test_an_empty_comment():
    assert len(read_config("#\n[[agents]] #\nharness='custom'")) == 1


BIG = {
    "prompt": f"prompt='{'x' * 70_000}'",
    "packages": "extra_packages=[" + "'a'," * 35_000 + "]",
    "env": "env={" + ",".join(f"v{number:04}='{'x' * 100}'" for number in range(700)) + "}",
}


@pytest.mark.parametrize("big", BIG.values(), ids=BIG)
def test_a_config_that_is_long_when_its_replicas_are_written_out(big):
    with pytest.raises(ConfigDropped) as caught:
        read_config(f"[[agents]]\nharness='custom'\nreplicas=1000\n{big}")
    assert str(caught.value) == "more than 67108864 characters with its replicas written out"
    assert len(read_config(f"[[agents]]\nharness='custom'\nreplicas=100\n{big}")) == 100


def test_an_entry_is_looked_at_once_for_all_its_replicas():
    config = f"[[agents]]\nharness='custom'\nreplicas=100\n{BIG['packages']}"
    with costs.counted_calls() as cost:
        assert len(read_config(config)) == 100
    assert cost.calls < 35_000 * 30


def test_replicas_have_sessions_of_their_own():
    config = "[[agents]]\nharness='custom'\nname='a'\nsession='s'\nreplicas="
    assert [(agent.name, agent.session) for agent in read_config(f"{config}2")] == [("a-0", "a-0"), ("a-1", "a-1")]
    assert [(agent.name, agent.session) for agent in read_config(f"{config}1")] == [("a", "s")]


def test_as_many_agents_as_a_test_has_memory_for():
    assert len(read_config("[[agents]]\nharness='custom'\nreplicas=34_952")) == 34_952


def test_numbers_of_64_bits():
    config = "[[agents]]\nharness='custom'\nmax_restarts="
    assert read_config(f"{config}{2**63 - 1}")[0].max_restarts == 2**63 - 1
    for number, fault in ((-(2**63), "must not be negative"), (-(2**63) - 1, "incompatible"), (2**63, "incompatible")):
        with pytest.raises(ConfigDropped, match=fault):
            read_config(f"{config}{number}")


def test_names_in_any_case():
    [agent] = read_config(
        "[[\"Agent\u017f\"]]\nHARNESS='custom'\nname='n'\nNAME='m'\nENV='x'\nPid_Limit=0\nsession='s'\ntype='native'"
    )
    assert (agent.name, agent.env, agent.pid_limit, agent.reported_session) == ("n", {}, 512, "s")
    assert [agent.harness for agent in read_config("[Agent]\nharness='custom'\nreplicas=3", Age.OLDER)] == ["custom"]
    assert read_config("[[agents]]\nharness='custom'", Age.OLDER) == ()
    with pytest.raises(ConfigDropped, match=r"^agent\.harness is required$"):
        read_config("[agent]", Age.OLDER)


# -- the daemon --------------------------------------------------------------------------------------------------

A, B = "[[agents]]\nharness='custom'\nname='a'\n", "[[agents]]\nharness='opencode'\nname='b'\ntype='native'\n"


@pytest.fixture
def daemon():
    return AgentDaemon([].append)


def seen(daemon):
    return {agent.name: agent.running for agent in daemon.agents}


def lines(daemon, config, secrets=()):
    """Let it look; return what it writes in its journal."""
    journal = []
    daemon._journal = journal.append
    daemon.look(config, dict(secrets))
    return journal


def test_agents_start_sorted_by_name_with_their_sessions(daemon):
    assert lines(daemon, None) == []
    assert lines(daemon, B + A) == ["agent b started", "agent a started"]
    assert daemon.agents == (AgentStatus("a", True, "agent-a"), AgentStatus("b", True, "b"))
    assert lines(daemon, B + A) == []


def test_only_the_agent_that_changed_is_restarted(daemon):
    daemon.look(A + B, {})
    assert lines(daemon, f"{A}prompt='p'\n{B}") == ["agent a restarted: its config has changed"]
    assert lines(daemon, A) == [
        "agent b stopped: the config does not name it",
        "agent a restarted: its config has changed",
    ]
    assert seen(daemon) == {"a": True}


def test_any_change_of_any_secret_restarts_every_agent(daemon):
    daemon.look(A + B, {"X": "1"})
    restarts = ["agent a restarted: the secrets have changed", "agent b restarted: the secrets have changed"]
    assert lines(daemon, A + B, {"X": "1"}) == []
    assert lines(daemon, A + B, {"X": "2"}) == restarts
    assert lines(daemon, A + B, {"X": "2", ".hidden": ""}) == restarts
    assert lines(daemon, A + B) == restarts


def test_a_config_that_is_dropped_or_gone_changes_nothing(daemon):
    daemon.look(A, {})
    assert lines(daemon, "[[agents]]\nharness='x'") == [
        'config dropped: agents[0]: unknown agent.harness "x": must be one of claude-code, opencode, gemini-cli, custom'
    ]
    assert lines(daemon, "[[agents]]\nharness='x'") == []
    assert lines(daemon, None) == []
    assert seen(daemon) == {"a": True}
    assert lines(daemon, "") == ["agent a stopped: the config does not name it"]
    assert seen(daemon) == {}


def test_an_agent_that_cannot_start_is_absent_and_tried_again():
    files = set()
    daemon = AgentDaemon([].append, has_file=files.__contains__)
    config = f"{A}prompt_file='/p'\n"
    failed = ["agent a cannot start: open /p: no such file or directory"]
    assert lines(daemon, config) == failed
    assert lines(daemon, config) == failed
    assert seen(daemon) == {}
    files.add("/p")
    assert lines(daemon, config) == ["agent a started"]
    # One that has started stays, whatever becomes of it.
    files.clear()
    assert lines(daemon, config, {"X": "1"}) == failed
    assert seen(daemon) == {"a": False}
    files.add("/p")
    assert lines(daemon, config, {"X": "1"}) == ["agent a started again"]


def test_a_guest_without_files_has_no_prompt_files(daemon):
    assert lines(daemon, f"{A}prompt_file='/etc/hostname'\n{B}") == [
        "agent a cannot start: open /etc/hostname: no such file or directory",
        "agent b started",
    ]
    assert seen(daemon) == {"b": True}


def test_the_environment_of_an_agent():
    [agent] = read_config(f"{A}[agents.env]\nK='own'")
    secrets = {"K": "secret", "L": "x\n\n", "M": "\nx ", ".hidden": "h"}
    assert agent.environment(secrets) == {"K": "own", "L": "x", "M": "\nx "}
    assert "own" not in repr(agent)


# -- our host, and this guest ------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in JCARD
        if "error" not in row["host"]
        and "error" not in row["guest_of_host_config"]
        and JCARD_DIFFERENCES.get(row["id"], ("",))[0] != "refused"
    ],
    ids=lambda row: row["id"],
)
def test_the_guest_makes_of_our_config_what_it_makes_of_the_reference_hosts(row):
    plan = load_jcard(toml_of(row), env=row["env"], read_prompt=reader_of(row), folder_name="proj")
    agents, theirs = read_config(plan.config), row["guest_of_host_config"]["agents"]
    # The plan waits for exactly those.
    assert plan.agents == tuple(agent.name for agent in agents)
    ours = shown(agents, {secret.name: secret.value for secret in plan.secrets})
    differs = JCARD_DIFFERENCES.get(row["id"], ("",))[0].split()
    if differs == ["agents"]:
        assert len(ours) != len(theirs)
    else:
        different = {
            key
            for mine, their in zip(ours, theirs, strict=True)
            for key in their
            if as_like(mine, their)[key] != their[key]
        }
        assert different == {*differs} - {"secrets"}
    # And a guest that was given all that reports those that can start.
    clock = Clock()
    guest = GuestSimulator(clock=clock, files=FILES)
    assert all(guest.handle(request).ok for request in plan.requests)
    clock.now += 5
    health = guest.handle(GetHealth())
    assert [agent.name for agent in health.agents] == sorted(agent["name"] for agent in ours if agent["starts"])
    assert all(agent.running for agent in health.agents)


FORMS = {
    "replicas": ("[[agents]]\nharness = 'opencode'\nreplicas = 3\n", ("opencode-0", "opencode-1", "opencode-2")),
    "twins": ("[[agents]]\nharness = 'custom'\n" * 2, ("custom-0", "custom-1")),
    "older": ("[agent]\nharness = 'claude-code'\nname = 'old'\n", ("claude-code",)),
    "unnamed": ("[[agents]]\nharness = 'claude-code'\n", ("claude-code",)),
    "named": ("[[agents]]\nharness = 'claude-code'\nname = 'coder'\n", ("coder",)),
}


@pytest.mark.parametrize("age", Age)
@pytest.mark.parametrize("form", FORMS)
def test_the_first_example_of_the_readme(form, age):
    text, names = FORMS[form]
    text = f"[[shared]]\nhost = '.'\nguest = '/workspace'\n[secrets]\nAPI_KEY = '${{API_KEY}}'\n{text}"
    plan = load_jcard(text, env={"API_KEY": "key-123"})
    assert plan.agents == names
    # What an older guest runs: one agent, which it calls by its harness.
    runs = names if age is Age.TODAY or len(names) > 1 else ("claude-code",)
    with (
        simulated_guest(poll_interval=0.02, age=age) as guest,
        connect_when_ready(guest.address, timeout=20) as client,
    ):
        client.provision(plan).raise_for_failure()
        assert guest.simulator.secrets["API_KEY"].value == "key-123"
        if runs == names and (age is Age.TODAY or len(names) == 1):
            health = client.wait_ready(agents=plan.agents, timeout=20)
            assert tuple(agent.name for agent in health.agents) == names
            return
        # It says why nothing will come of it.
        with pytest.raises(NotReady) as caught:
            client.wait_ready(agents=plan.agents, timeout=0.5)
        assert caught.value.agents_wanted == names
        assert f"waited for {', '.join(names)}; the guest reports " in str(caught.value)
        assert "not listed: an agent that cannot start is absent from health" in str(caught.value)


def test_a_look_that_was_due_before_a_request_sees_nothing_of_it():
    clock = Clock()
    guest = GuestSimulator(clock=clock)
    guest.handle(SetConfig(A))
    clock.now = 5
    assert guest.handle(SetConfig(B)) == Ack("set_config", True)
    assert [agent.name for agent in guest.agents] == ["a"]
    clock.now = 10
    assert [agent.name for agent in guest.agents] == ["b"]
    guest.handle(InjectSecret("X", "1"))
    clock.now = 15
    assert guest.handle(GetHealth()).agents == (AgentStatus("b", True, "b"),)
    assert guest.journal == (
        "agent a started",
        "agent a stopped: the config does not name it",
        "agent b started",
        "agent b restarted: the secrets have changed",
    )


def test_a_reboot_starts_the_agents_of_the_config_anew():
    clock = Clock()
    guest = GuestSimulator(clock=clock)
    guest.handle(SetConfig(A))
    clock.now = 5
    assert len(guest.agents) == 1
    guest.reboot()
    assert guest.agents == ()
    clock.now = 10
    assert len(guest.agents) == 1


def test_there_are_two_ages():
    with pytest.raises(ValueError, match="ancient"):
        GuestSimulator(age="ancient")


def test_how_many_agents_a_report_can_name():
    assert _agents._MOST_AGENTS == 34_952


def test_a_config_may_ask_for_as_many_agents_as_a_report_can_name():
    config = '[[agents]]\nharness = "custom"\nreplicas = {}\n'
    assert len(read_config(config.format(34_952))) == 34_952
    with pytest.raises(ConfigDropped):
        read_config(config.format(34_953))
