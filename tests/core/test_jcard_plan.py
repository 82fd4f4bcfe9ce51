"""From a jcard.toml to a plan: what it means, what is refused with which words, and what never shows."""

import datetime
import json
import sys
import tomllib
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costs
from stereos_proto import (
    InjectSecret,
    InjectSSHKey,
    JcardError,
    LocalProtocolError,
    Mount,
    SetConfig,
    StereosError,
    encode,
    load_jcard,
)
from stereos_proto._jcard_plan import MAX_EXPANDED, MAX_FILLED_IN
from tomls import SENTINEL, documents
from vectors import JCARD, JCARD_DIFFERENCES, reader_of, stream, toml_of

ENV = {"X": f"{SENTINEL}-x", "Y": f"{SENTINEL}-y", "EMPTY": ""}
AGENT = "[[agents]]\nharness='custom'\n"
#: What the reference host fills in.
DEFAULTS = {
    "mixtape": "base:latest",
    "resources": {"cpus": 2, "memory": "4GiB", "disk": "20GiB"},
    "network": {"mode": "nat"},
}
AGENT_DEFAULTS = {"type": "sandboxed", "restart": "no", "grace_period": "30s", "workdir": "/workspace"}


def everything(error):
    """All that a traceback can show of an error, the frame that caught it apart."""
    shown = traceback.TracebackException(type(error), error, error.__traceback__.tb_next, capture_locals=True)
    return "".join(shown.format()) + repr(error) + str(vars(error)) + str(error.__context__)


def refusal(text, **options):
    with pytest.raises(StereosError) as caught:
        load_jcard(text, **{"env": ENV, **options})
    assert SENTINEL not in everything(caught.value)
    return caught.value


def config_of(text, **options):
    return tomllib.loads(load_jcard(text, **{"env": ENV, **options}).config)


def warnings_of(text, **options):
    return [
        warning.removeprefix("jcard.toml, line ") for warning in load_jcard(text, **{"env": ENV, **options}).warnings
    ]


# -- what the reference makes of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", JCARD, ids=lambda row: row["id"])
def test_a_file_means_what_the_reference_makes_of_it(row):
    if sys.version_info >= (3, 15) and row["id"] == "bytes/inline-newline-1.1":
        pytest.skip("Python 3.15 reads TOML 1.1; what is sent is written anew, in TOML 1.0")
    host, guest = row["host"], row["guest_of_host_config"]
    differs, _ = JCARD_DIFFERENCES.get(row["id"], ("", ""))
    options = {"env": row["env"], "read_prompt": reader_of(row), "folder_name": "proj"}
    if differs == "refused" or "error" in host or "error" in guest:
        # What either end refuses is refused here, before anything is sent.
        assert isinstance(refusal(toml_of(row), **options), JcardError | LocalProtocolError)
        return
    plan = load_jcard(toml_of(row), **options)
    assert (sorted([secret.name, secret.value] for secret in plan.secrets) == host["secrets"]) is (differs != "secrets")
    assert [[m.tag, m.guest_path, m.fs_type, m.read_only] for m in plan.mounts] == host["mounts_qemu"]
    virtiofs = load_jcard(toml_of(row), fs_type="virtiofs", **options)
    assert [[m.tag, m.guest_path, m.fs_type, m.read_only] for m in virtiofs.mounts] == host["mounts_apple"]
    assert (list(plan.agents) == [agent["name"] for agent in guest["agents"]]) is (differs != "agents")
    if "config" in host:
        ours, theirs = tomllib.loads(plan.config), dict(host["config"])
        for key in ("mixtape", "mixtape_digest", "name", "resources", "network"):
            assert ours.get(key, "") == theirs.get(key, "")
        assert "secrets" not in ours


def test_the_list_of_differences_is_about_rows():
    assert JCARD_DIFFERENCES.keys() <= {row["id"] for row in JCARD}


# -- what is taken ---------------------------------------------------------------------------------------------


@given(documents())
def test_plan_of_any_document(text):
    table = tomllib.loads(text)
    plan = load_jcard(text, env=ENV)
    assert plan.secrets == tuple(
        InjectSecret(name, value.replace("${X}", ENV["X"])) for name, value in table.pop("secrets", {}).items()
    )
    assert tomllib.loads(plan.config) == DEFAULTS
    assert SENTINEL not in plan.config
    assert SENTINEL not in repr(plan)
    assert sum(" is unknown, " in warning for warning in plan.warnings) == len(table)


def test_shared_folders_become_mounts():
    text = "[[shared]]\nhost='.'\nguest='/a'\n[[shared]]\nguest='/b'\nreadonly=true\n"
    assert load_jcard(text, env={}).mounts == (Mount("share0", "/a", "9p"), Mount("share1", "/b", "9p", True))
    assert {mount.fs_type for mount in load_jcard(text, env={}, fs_type="virtiofs").mounts} == {"virtiofs"}


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${X}", ENV["X"]),
        ("a${X}b${Y}${X}c", f"a{ENV['X']}b{ENV['Y']}{ENV['X']}c"),
        ("${EMPTY}", ""),
        # No variable, so no error either: a password may hold any of these.
        ("$X", "$X"),
        ("${", "${"),
        ("${}", "${}"),
        ("${}${X}", f"${{}}{ENV['X']}"),
        ("${X", "${X"),
        ("$(X)", "$(X)"),
        ("$${X}", f"${ENV['X']}"),
        # All between the braces is the name.
        ("${my-key}", "1"),
        ("${A:-x}", "2"),
        ("${ a b }", "3"),
        ("${X${Y}", "4"),
    ],
)
def test_variables_of_the_environment(value, expanded):
    env = {**ENV, "my-key": "1", "A:-x": "2", " a b ": "3", "X${Y": "4"}
    assert load_jcard(f"[secrets]\nA = '{value}'", env=env).secrets == (InjectSecret("A", expanded, 0o600),)


def test_what_a_variable_holds_is_not_expanded_again():
    assert load_jcard("[secrets]\nA='${X}'", env={"X": "${Y}"}).secrets[0].value == "${Y}"


def test_a_long_text_without_an_end_of_a_variable_takes_no_time():
    text = "${" * 200_000
    assert load_jcard(f"[secrets]\nA='{text}'", env={}).secrets[0].value == text


def test_keys_are_passed_on():
    keys = [InjectSSHKey("admin", "ssh-ed25519 AAAA x")]
    assert load_jcard("", env={}, ssh_keys=iter(keys)).ssh_keys == tuple(keys)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff", "\r\n"])
def test_an_empty_file_has_no_agents_and_is_a_config(text):
    plan = load_jcard(text, env={})
    assert (plan.agents, plan.mounts, plan.secrets, plan.warnings) == ((), (), (), ())
    assert tomllib.loads(plan.config) == DEFAULTS


# -- the config ------------------------------------------------------------------------------------------------


def test_the_config_is_written_anew():
    text = f"""\
name = "n" # {SENTINEL}
# old = "{SENTINEL}"
unknown = "{SENTINEL}"
mixtape_digest = "d"
[Resources]
CPUS = 3
memory = ""
[network]
egress_allow = ["a"]
[[network.forwards]]
host = 80
guest = 8080
[[network.forwards]]
host = 81
guest = 8081
proto = "udp"
[[shared]]
host = "${{X}}/a"
guest = "/w"
ReadOnly = true
[secrets]
A = "{SENTINEL}"
[secret]
A = "{SENTINEL}"
[[Agents]]
Harness = "custom"
fancy = {{ a = 1979-05-27, b = [nan, -0.0] }}
session = ""
[Agents.Env]
K = "v"
[[agents-of-another]]
"""
    plan = load_jcard(text, env=ENV)
    assert SENTINEL not in plan.config
    config = tomllib.loads(plan.config)
    fancy = config["agents"][0].pop("fancy")
    assert fancy["a"] == datetime.date(1979, 5, 27)
    assert str(fancy["b"]) == "[nan, -0.0]"
    agent = {**AGENT_DEFAULTS, "workdir": "/w", "harness": "custom", "env": {"K": "v"}}
    del config["agent"]["fancy"]
    assert config == {
        "mixtape": "base:latest",
        "mixtape_digest": "d",
        "name": "n",
        "resources": {"cpus": 3, "memory": "4GiB", "disk": "20GiB"},
        "network": {
            "mode": "nat",
            "egress_allow": ["a"],
            "forwards": [{"host": 80, "guest": 8080, "proto": "tcp"}, {"host": 81, "guest": 8081, "proto": "udp"}],
        },
        # The place on the host is no business of the guest's: it stays as it is written.
        "shared": [{"host": "${X}/a", "guest": "/w", "readonly": True}],
        "agents": [agent],
        "agent": agent,
    }


@pytest.mark.parametrize(("text", "name"), [("", "proj"), ("name = ''", "proj"), ("name = 'n'", "n")])
def test_a_machine_without_a_name_is_called_like_its_folder(text, name):
    assert config_of(text, folder_name="proj")["name"] == name
    assert config_of(text).get("name", "proj") == name


@pytest.mark.parametrize(
    ("text", "workdir"),
    [
        ("", "/workspace"),
        ("[[shared]]\nguest='/a'\n[[shared]]\nguest='/b'\n", "/a"),
    ],
)
def test_agents_start_in_the_first_shared_folder(text, workdir):
    assert config_of(text + AGENT)["agents"][0]["workdir"] == workdir
    assert config_of(f"{text}{AGENT}workdir=''\n")["agents"][0]["workdir"] == workdir
    assert config_of(f"{text}{AGENT}workdir='/own'\n")["agents"][0]["workdir"] == "/own"


def test_one_agent_stands_there_for_guests_of_either_age():
    agent = {**AGENT_DEFAULTS, "harness": "custom", "name": "n"}
    assert config_of(f"{AGENT}name='n'\nreplicas=1") == {
        **DEFAULTS,
        "agents": [{**agent, "replicas": 1}],
        "agent": agent,
    }


def test_several_agents_do_not():
    two = config_of(f"{AGENT}{AGENT}")
    assert ("agent" in two, len(two["agents"])) == (False, 2)
    # Replicas stay: the guest expands them by the same rule.
    many = config_of(f"{AGENT}replicas=2")
    assert ("agent" in many, many["agents"][0]["replicas"]) == (False, 2)


def test_an_agent_of_the_older_form_is_one_unnamed_agent():
    plan = load_jcard("[Agent]\nharness='custom'\nname='old'\nreplicas=3\nprompt='p'", env={})
    agent = {**AGENT_DEFAULTS, "harness": "custom", "prompt": "p"}
    assert tomllib.loads(plan.config) == {**DEFAULTS, "agents": [agent], "agent": agent}
    assert plan.agents == ("custom",)
    assert plan.warnings == (
        "jcard.toml, line 3: agent.name has no meaning in [agent]; write [[agents]]",
        "jcard.toml, line 4: agent.replicas has no meaning in [agent]; write [[agents]]",
    )


def test_where_a_file_has_both_forms_both_are_sent():
    plan = load_jcard(f"[agent]\nharness='opencode'\nname='old'\n[agent.env]\nK='${{X}}'\n{AGENT}", env={"X": "x"})
    config = tomllib.loads(plan.config)
    assert config["agents"] == [{**AGENT_DEFAULTS, "harness": "custom"}]
    assert config["agent"] == {**AGENT_DEFAULTS, "harness": "opencode", "name": "old", "env": {"K": "x"}}
    assert plan.agents == ("custom",)


@pytest.mark.parametrize(("size", "twice"), [(400_000, True), (700_000, False)])
def test_the_older_form_is_left_out_where_the_line_would_get_too_long(size, twice):
    plan = load_jcard(f"{AGENT}prompt='{'x' * size}'", env={})
    assert ("agent" in tomllib.loads(plan.config)) is twice
    encode(SetConfig(plan.config))


# -- what a short file may ask for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key"), [("[secrets]", "secrets.B"), (f"{AGENT}[agents.env]", "agents[0].env.B")], ids=["secret", "env"]
)
def test_variables_that_come_to_too_much(table, key):
    """160 KB that name a variable of 10 KB again and again took 1,167 MiB."""
    value = SENTINEL * 1024
    most = "${V}" * (MAX_EXPANDED // len(value))
    text = f"{table}\nA = '{most}'\nB = '${{V}}'\nC = '${{V}}'\n"
    with costs.counted_bytes() as cost:
        error = refusal(text, env={"V": value})
    assert isinstance(error, JcardError)
    assert error.key == key
    assert str(error) == (
        f"jcard.toml, line {error.line}: {key} makes the variables of the file longer than 16777216 characters together"
    )
    assert cost.peak < 4 * MAX_EXPANDED


def test_variables_that_come_to_as_much_as_they_may():
    text = "[secrets]\n" + "".join(f"A{number} = '${{V}}'\n" for number in range(16)) + "B = '${W}'\n"
    secrets = load_jcard(text, env={"V": "x" * 1_000_000, "W": "x" * 777_216}).secrets
    assert [len(secret.value) for secret in secrets] == [1_000_000] * 16 + [777_216]


def test_prompts_that_come_to_too_much():
    """Each agent had its own copy of the file: 44 KB took a minute and 1 GB."""
    read = []

    def prompt(path):
        read.append(path)
        return "x" * 262_144

    text = f"{AGENT}prompt_file='p'\n" * 3
    workdir = "[[shared]]\nguest='/w'\n"
    assert len(load_jcard(workdir + text, env={}, read_prompt=prompt).agents) == 3
    assert read == ["p"]
    with costs.counted_bytes() as cost:
        error = refusal(f"{AGENT}prompt='old'\nprompt_file='p${{N}}'\n" * 1000, env={"N": "1"}, read_prompt=prompt)
    assert read == ["p", "p1"]
    assert cost.peak < 2 * MAX_FILLED_IN + 1_000_000
    assert str(error) == (
        "jcard.toml, line 13: agents[3] makes prompts and folders longer than 1048576 characters together, "
        "which cannot be sent"
    )


def test_different_prompts_that_come_to_too_much():
    read = []
    text = "".join(f"{AGENT}prompt_file='{number}'\n" for number in range(100))
    error = refusal(text, read_prompt=lambda path: read.append(path) or "x" * 262_144)
    assert error.key == "agents[3]"
    assert len(read) == 4


def test_a_default_folder_that_comes_to_too_much():
    """Each agent starts in the first shared folder, whose path may be long."""
    folder = f"[[shared]]\nguest='/{'x' * 99_999}'\n"
    assert len(load_jcard(folder + AGENT * 9, env={}).agents) == 9
    assert refusal(folder + AGENT * 11).key == "agents[10]"
    assert len(load_jcard(folder + f"{AGENT}workdir='/w'\n" * 11, env={}).agents) == 11


def test_a_prompt_that_is_refused_is_refused_once():
    read = []

    def refuse(path):
        read.append(path)
        raise ValueError("it is secret")

    plan = load_jcard(f"{AGENT}prompt_file='p'\n" * 2, env={}, read_prompt=refuse)
    assert read == ["p"]
    assert len(plan.warnings) == 2


# -- prompts ---------------------------------------------------------------------------------------------------


def read_prompt(path):
    if path in ("p.md", f"{ENV['X']}/p.md"):
        return " hello\n"
    if path == "gone.md":
        raise FileNotFoundError(2, "No such file or directory")
    raise ValueError("it lies outside of the jcard's folder")


@pytest.mark.parametrize("path", ["p.md", "${X}/p.md"])
@pytest.mark.parametrize("form", [AGENT, "[agent]\nharness='custom'\n"])
def test_the_content_of_a_prompt_file_is_sent(path, form):
    plan = load_jcard(f"{form}prompt_file='{path}'", env=ENV, read_prompt=read_prompt)
    config = tomllib.loads(plan.config)
    for agent in (config["agents"][0], config["agent"]):
        assert (agent["prompt"], "prompt_file" in agent) == (" hello\n", False)
    assert plan.warnings == ()


def test_it_takes_the_place_of_a_prompt():
    plan = load_jcard(f"{AGENT}prompt='old'\nprompt_file='p.md'", env={}, read_prompt=read_prompt)
    assert tomllib.loads(plan.config)["agents"][0]["prompt"] == " hello\n"
    assert plan.warnings == ("jcard.toml, line 4: agents[0].prompt_file replaces the `prompt` of the same agent",)


@pytest.mark.parametrize(
    ("path", "reader", "sent", "why"),
    [
        ("/etc/shadow", read_prompt, "/etc/shadow", "it lies outside of the jcard's folder"),
        ("${HERE}/x", read_prompt, "/here/x", "it lies outside of the jcard's folder"),
        ("gone.md", read_prompt, "gone.md", "No such file or directory"),
        ("p.md", None, "p.md", "no `read_prompt` was given"),
    ],
)
def test_a_prompt_file_that_is_not_read_stays(path, reader, sent, why):
    plan = load_jcard(f"{AGENT}prompt_file='{path}'", env={"HERE": "/here"}, read_prompt=reader)
    assert tomllib.loads(plan.config)["agents"][0]["prompt_file"] == sent
    # The agent is still waited for.
    assert plan.agents == ("custom",)
    assert plan.warnings == (
        (
            f"jcard.toml, line 3: agents[0].prompt_file is sent as a path of the guest ({why}); "
            "if the guest has no such file, the agent cannot start"
        ),
    )


@pytest.mark.parametrize("path", ["", "${EMPTY}"])
def test_no_prompt_file(path):
    plan = load_jcard(f"{AGENT}prompt_file='{path}'", env=ENV, read_prompt=read_prompt)
    assert "prompt_file" not in tomllib.loads(plan.config)["agents"][0]
    assert plan.warnings == ()


# -- warnings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=1\n[b]\n", ["1: a is unknown, and is not sent", "2: b is unknown, and is not sent"]),
        ("secrets='x'", ["1: secrets is not a table, and is treated as empty"]),
        (
            f"{AGENT}[agents.env]\nA='${{X}}'\nB='b'\nC=''\nMY_TOKEN='t'\nOTHER_TOKEN=''\n",
            [
                "4: agents[0].env.A comes from a variable, and everyone in the guest can read it here",
                "7: agents[0].env.MY_TOKEN looks like a secret, and everyone in the guest can read it here",
            ],
        ),
        (
            "[[shared]]\nguest='/a/'\n[[shared]]\nguest='/b/../a'\n",
            ["4: shared[1].guest is also the path of an earlier folder, which this mount would hide"],
        ),
        (
            "[[shared]]\nguest='/a/b'\n[[shared]]\nguest='/a/c/../b'\n",
            ["4: shared[1].guest is also the path of an earlier folder, which this mount would hide"],
        ),
        (
            "[[shared]]\nguest='/a/b/c'\n[[shared]]\nguest='/aa'\n[[shared]]\nguest='/a/b-'\n[[shared]]\nguest='/a/b'\n",
            ["8: shared[3].guest lies above the path of an earlier folder, which this mount would hide"],
        ),
        *(
            (
                f"[[shared]]\nguest='{first}'\n[[shared]]\nguest='/m/n'\n[[shared]]\nguest='/m'\n",
                ["6: shared[2].guest lies above the path of an earlier folder, which this mount would hide"],
            )
            for first in ("/b", "/z")
        ),
        ("[[shared]]\nguest='/a'\n[[shared]]\nguest='/a/b'\n[[shared]]\nguest='/b/a'\n", []),
        # The least and the most that the reference takes.
        ("[resources]\ncpus=1\n[[network.forwards]]\nhost=1\nguest=65535", []),
    ],
)
def test_what_the_user_should_know(text, said):
    for strict in (True, False):
        assert warnings_of(text, strict=strict) == said


#: What only the reference refuses: `strict=False` sends it all the same.
DOUBTS = [
    ("[[agents]]\nname='n'", 1, "agents[0].harness is missing; it must be"),
    ("[[agents]]\nharness='mine'", 2, "agents[0].harness must be one of claude-code,"),
    (f"{AGENT}timeout='90'", 3, "agents[0].timeout must be a duration"),
    ("[agent]\nharness='mine'", 2, "agent.harness must be one of claude-code,"),
    ("[network]\nmode='host'", 2, "network.mode must be one of nat, bridged or none"),
    ("[resources]\ncpus=0", 2, "resources.cpus must be at least 1"),
    ("[[network.forwards]]\nguest=80", 1, "network.forwards[0].host must be a port, 1 to 65535"),
    ("[[network.forwards]]\nhost=80\nguest=0", 3, "network.forwards[0].guest must be a port, 1 to 65535"),
    ("[[network.forwards]]\nhost=80\nguest=65536", 3, "network.forwards[0].guest must be a port, 1 to 65535"),
    ("[[network.forwards]]\nhost=80\nguest=80\nproto='sctp'", 4, "network.forwards[0].proto must be tcp or udp"),
]


@pytest.mark.parametrize(("text", "line", "words"), DOUBTS)
def test_what_the_reference_refuses(text, line, words):
    error = refusal(text)
    assert isinstance(error, JcardError)
    assert str(error).startswith(f"jcard.toml, line {line}: {words}")
    [warning] = warnings_of(text, strict=False)
    assert warning.startswith(f"{line}: {words}")
    kept = tomllib.loads(text)
    config = config_of(text, strict=False)
    for key, value in kept.get("network", kept.get("resources", {})).items():
        if key != "forwards":
            assert config["network" if "network" in kept else "resources"][key] == value


# -- what is refused -------------------------------------------------------------------------------------------

SIMPLE = "must be a simple file name"
UNSET = "needs the environment variable N, which is not set"
SYSTEM = "must not lie over a folder of the guest's system"


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[[shared]]\nguest='/a'\n[[shared]]\nhost='b'", 3, "shared[1].guest", "is missing"),
        ("[[shared]]\nguest='/a'\n[[shared]]\nguest=5", 4, "shared[1].guest", "must be a string"),
        ("shared = [5]", 1, "shared[0]", "must be a table"),
        ("[[shared]]\nguest='a'", 2, "shared[0].guest", "must be an absolute path"),
        ("shared = [\n{guest = '/a'},\n{guest = ''}]", 1, "shared[1].guest", "must be an absolute path"),
        ("[[shared]]\nguest=\"/a\\u0000\"", 2, "shared[0].guest", "must not hold a NUL"),
        *(
            (f"[[shared]]\nguest='{path}'", 2, "shared[0].guest", SYSTEM)
            for path in ("/", "/.", "/a/..", "//etc", "/a/../../proc/x", "/nix", "/bin/", "/boot", "/dev", "/sys")
        ),
        ("[[shared]]\nguest='/a'\nhost='${N}'", 3, "shared[0].host", UNSET),
        (f"[secrets]\nA='{SENTINEL}'\nB=5", 3, "secrets.B", "must be a string"),
        (f"[secrets.sub]\nA='{SENTINEL}'", 1, "secrets.sub", "must be a string"),
        (f"secrets={{A='{SENTINEL}',B=['{SENTINEL}']}}", 1, "secrets.B", "must be a string"),
        *(
            (f"[secrets]\n'{name}'='{SENTINEL}'", 2, f'secrets."{name}"', SIMPLE)
            for name in ("", ".", "..", "/", "a/b", "a..b")
        ),
        (f"[secrets]\n\"a\\u0000\"='{SENTINEL}'", 2, 'secrets."a\\u0000"', SIMPLE),
        (f"[secrets]\n{'n' * 252}='{SENTINEL}'", 2, f"secrets.{'n' * 252}", "must be a name of at most 251 bytes"),
        (f"[secrets]\n'{'é' * 126}'='{SENTINEL}'", 2, f'secrets."{"é" * 126}"', "must be a name of at most 251 bytes"),
        (
            f"[secrets]\nA='{SENTINEL}'\nB='{SENTINEL}${{X}}${{N}}'",
            3,
            "secrets.B",
            "needs the environment variable N, which is not set",
        ),
        (
            f"[secrets]\nB='{SENTINEL}${{N}}${{a b}}${{N}}'",
            2,
            "secrets.B",
            'needs the environment variables N and "a b", which are not set',
        ),
        # A name that no shell would take may be a part of a password.
        (
            f"[secrets]\nB='${{{SENTINEL}!}}'",
            2,
            "secrets.B",
            "needs the environment variable (its name is unusual and not shown), which is not set",
        ),
        (f"{AGENT}[agents.env]\nK='${{N}}'", 4, "agents[0].env.K", UNSET),
        (f"{AGENT}prompt_file='${{N}}'", 3, "agents[0].prompt_file", UNSET),
        (f"{AGENT}name='a'\n{AGENT}name='a'", 4, "agents[1]", 'starts a second agent named "a"'),
        ("name='a'\nName='b'", 2, "Name", "and name are two spellings of one name"),
        (f"{AGENT}[[Agents]]\nharness='custom'", 3, "Agents", "and agents are two spellings of one name"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(text, line, key, words):
    for strict in (True, False):
        error = refusal(text, source="my/card.toml", strict=strict)
        assert isinstance(error, JcardError)
        assert str(error) == f"my/card.toml, line {line}: {key} {words}"
        assert (error.line, error.key) == (line, key)


def mounts_seen():
    """The mounts that the reference guest was asked for, and whether it refused them for their place."""
    lines = [json.loads(line) for line in stream("mount_errors", "c2s").splitlines()]
    answers = [json.loads(line) for line in stream("mount_errors", "s2c").splitlines()]
    for asked, answered in zip((line["payload"] for line in lines), answers, strict=True):
        if asked["tag"] and asked["fs_type"] in ("9p", "virtiofs"):
            yield asked["guest_path"], answered["payload"]["ok"]


@pytest.mark.parametrize(("path", "taken"), [*mounts_seen()])
def test_places_that_the_reference_guest_refuses(path, taken):
    text = f"[[shared]]\nguest={json.dumps(path)}"
    if taken:
        assert load_jcard(text, env={}).mounts[0].guest_path == path
    else:
        assert refusal(text).key == "shared[0].guest"


def test_the_longest_name_of_a_secret():
    assert load_jcard(f"[secrets]\n{'n' * 251}='x'", env={}).secrets[0].name == "n" * 251


def test_a_folder_after_one_of_the_wrong_type_is_looked_at():
    text = "[[shared]]\nguest=5\n[[shared]]\nguest='a'"
    assert [fault.key for fault in refusal(text).faults] == ["shared[0].guest", "shared[1].guest"]


def test_all_faults_are_reported_together():
    error = refusal(
        f"[secrets]\nA='{SENTINEL}${{N}}'\nB='${{M}}'\nC=7\n[[shared]]\nhost='.'\n[[agents]]\nharness=7\n"
        f"[[agents]]\nharness='x'\n[network]\nmode='x'\nforwards=[7]"
    )
    assert str(error) == (
        "jcard.toml has 7 faults: line 2: secrets.A needs the environment variable N, which is not set; "
        "line 3: secrets.B needs the environment variable M, which is not set; line 4: secrets.C must be a string; "
        "line 5: shared[0].guest is missing; line 8: agents[0].harness must be a string; "
        "line 10: agents[1].harness must be one of claude-code, opencode, gemini-cli or custom; "
        "line 12: network.mode must be one of nat, bridged or none; line 13: network.forwards[0] must be a table"
    ).replace("7 faults", "8 faults")
    assert [fault.line for fault in error.faults] == [2, 3, 4, 5, 8, 10, 12, 13]
    assert (error.line, error.key) == (2, "secrets.A")


@given(documents(), st.data())
def test_a_damaged_document_is_taken_or_refused(document, data):
    cut = data.draw(st.integers(0, len(document)))
    text = document[:cut] + data.draw(st.sampled_from(["", "]", '"', "'''", "=", "[secrets]\n", "\x00"]))
    text += document[cut:] if data.draw(st.booleans()) else ""
    try:
        plan = load_jcard(text, env=ENV)
    except JcardError:
        plan = None
    if plan is None:
        assert isinstance(refusal(text), JcardError)
    else:
        assert tomllib.loads(plan.config) == DEFAULTS


@pytest.mark.parametrize("table", ["[agents.x]", "[x]"])
def test_what_nests_too_deeply_to_be_written(table):
    """The reader recurses once for each brace, and the writer once for each name."""
    value = f"'{SENTINEL}'"
    for _ in range(40):
        value = f"{{ {'.'.join('a' * 100)} = {value} }}"
    text = f"{AGENT}{table}\nA = {value}\n"
    tomllib.loads(text)
    if table == "[x]":
        assert SENTINEL not in load_jcard(text, env=ENV).config
        return
    error = refusal(text)
    assert isinstance(error, JcardError)
    assert str(error) == "jcard.toml: an unknown key of an agent nests too deeply"


@pytest.mark.parametrize("key", [".".join("a" * 101), f"agents.{'.'.join('a' * 100)}"])
def test_a_key_of_too_many_names(key):
    """The time that tomllib takes for it grows with the square of their number: 32 KB took 7 s."""
    assert str(refusal(f"{AGENT}[{key}]\n")) == "jcard.toml, line 3: a key has more than 100 names"


@pytest.mark.parametrize(
    "text",
    [
        f"{AGENT}prompt = '{SENTINEL}{'x' * 2**20}'",
        f"name = '{SENTINEL}\ud800'",
        f"[secrets]\nA = '{SENTINEL}{'x' * 2**20}'",
    ],
)
def test_what_could_never_be_sent_is_refused(text):
    error = refusal(text, env={})
    assert isinstance(error, LocalProtocolError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[secrets]\nA = '${BAD}'",
            "jcard.toml, line 2: secrets.A needs the environment variable BAD, which is not UTF-8",
        ),
        (
            f"{AGENT}[agents.env]\nA = '${{BAD}}${{WORSE}}${{X}}'",
            "jcard.toml, line 4: agents[0].env.A needs the environment variables BAD and WORSE, which are not UTF-8",
        ),
        (f"{AGENT}prompt_file = 'p.md'", "jcard.toml, line 3: agents[0].prompt_file names a file that is not UTF-8"),
    ],
)
def test_what_is_not_utf8_is_named(text, said):
    bad = f"{SENTINEL}\udc80"
    error = refusal(text, env={"BAD": bad, "WORSE": bad, "X": "x"}, read_prompt=lambda path: bad)
    assert isinstance(error, JcardError)
    assert str(error).startswith(said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env": {"X": 5}}, r"^env must map names to texts; the value of X is an int$"),
        ({"env": {"X": "p"}, "read_prompt": lambda path: b"bytes"}, r"^read_prompt must return a text, not bytes$"),
        ({"env": {"X": "p"}, "read_prompt": lambda path: None}, r"^read_prompt must return a text, not NoneType$"),
    ],
)
def test_what_the_caller_gives_is_of_its_type(options, words):
    with pytest.raises(TypeError, match=words):
        load_jcard(f"{AGENT}prompt_file='${{X}}'", **options)
