"""Agents of a jcard.toml: what the guest refuses, and what it will call them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costs
from stereos_proto._jcard_agents import MAX_AGENT_NAMES, MAX_AGENTS, agent_names, check_agent, is_duration, one_of
from stereos_proto._jcard_fields import Findings, Severity


def found(agent):
    findings = Findings()
    check_agent(agent, ("agents", 0), findings)
    assert {finding.severity for finding in findings.found} <= {Severity.DOUBT}
    return [(finding.path[2:], finding.reason) for finding in findings.found]


def names(*agents):
    findings = Findings()
    given_names = agent_names(list(enumerate(agents)), findings)
    return given_names, [(finding.path, finding.reason) for finding in findings.found]


# -- checks ----------------------------------------------------------------------------------------------------

TAKEN = [
    *({"harness": harness} for harness in ("claude-code", "opencode", "gemini-cli", "custom")),
    *({"type": type_} for type_ in ("", "sandboxed", "native")),
    *({"restart": restart} for restart in ("", "no", "on-failure", "always")),
    *({key: value} for key in ("max_restarts", "pid_limit") for value in (0, 1, 2**63 - 1)),
    *({key: value} for key in ("timeout", "grace_period") for value in ("", "0", "90s", "1h30m")),
    *({"memory": value} for value in ("", "2GiB", "512MiB", "1.5G", "1 gb", "100K")),
    *({"extra_packages": value} for value in ([], ["ripgrep"])),
    {"type": "native", "extra_packages": []},
]
HARNESSES = "claude-code, opencode, gemini-cli or custom"
DURATION = 'must be a duration with its units, such as "90s" or "1h30m"'
REFUSED = [
    *(({"harness": value}, ("harness",), f"must be one of {HARNESSES}") for value in ("claude", "CUSTOM", " ")),
    ({"harness": ""}, ("harness",), f"is missing; it must be one of {HARNESSES}"),
    *(({"type": value}, ("type",), "must be one of sandboxed or native") for value in ("vm", "Native")),
    *(
        ({"restart": value}, ("restart",), "must be one of no, on-failure or always")
        for value in ("never", "on_failure", "No")
    ),
    *(({key: -1}, (key,), "must be 0 or more") for key in ("max_restarts", "pid_limit")),
    *(({key: value}, (key,), DURATION) for key in ("timeout", "grace_period") for value in ("90", "soon", "2 hours")),
    *(
        ({"memory": value}, ("memory",), 'must be an amount with its unit, such as "2GiB"')
        for value in ("2", "x", "-1G")
    ),
    *(({"extra_packages": ["a", blank]}, ("extra_packages", 1), "must not be blank") for blank in ("", " \t")),
    (
        {"type": "native", "extra_packages": ["a"]},
        ("extra_packages",),
        "is not allowed for an agent of type native",
    ),
]


@pytest.mark.parametrize("agent", TAKEN)
def test_what_the_guest_takes(agent):
    assert found({"harness": "custom", **agent}) == []


@pytest.mark.parametrize(("agent", "path", "reason"), REFUSED)
def test_what_the_guest_drops_the_file_for(agent, path, reason):
    assert found({"harness": "custom", **agent}) == [(path, reason)]


def test_all_that_is_wrong_is_said():
    wrong = {"type": "x", "restart": "x", "max_restarts": -1, "timeout": "x", "extra_packages": [""]}
    assert [path[0] for path, _ in found(wrong)] == ["harness", *wrong.keys()]


@pytest.mark.parametrize(
    "key", ["harness", "type", "restart", "max_restarts", "pid_limit", "timeout", "memory", "extra_packages"]
)
def test_a_value_of_the_wrong_type_was_noted_before(key):
    assert found({"harness": "custom", key: None}) == []
    assert found({"harness": "custom", "extra_packages": [None]}) == []


LIMITS = [
    ("85477580", "ns"),
    *(("854775.80", unit) for unit in ("us", "µs", "μs")),
    ("854.77580", "ms"),
    (".85477580", "s"),
]


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        *((text, True) for text in ("0", "+0", "-0", "1h30m", "-1h", "1.5s", ".5s", "1.s", "1us1µs1μs1ns1ms", "0s")),
        *((text, True) for text in ("2562047h47m16.854775807s", "9223372036854775807ns")),
        # The most, in each unit, and one more.
        *((f"9223372036{digits}7{unit}", True) for digits, unit in LIMITS),
        *((f"9223372036{digits}8{unit}", False) for digits, unit in LIMITS),
        *((text, False) for text in ("2562047h47m16.854775808s", "9223372036854775808ns", f"{'9' * 5000}h")),
        *(
            (text, False)
            for text in ("", "90", "soon", "2 hours", "1h ", " 1h", "s", ".s", "1d", "1H", "+", "1.5", "१s")
        ),
    ],
)
def test_durations_as_go_reads_them(text, taken):
    assert is_duration(text) is taken


def test_what_there_is_to_choose_from():
    assert one_of(("a", "b", "c")) == "one of a, b or c"


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        ([], ()),
        ([{"harness": "h"}], ("h",)),
        ([{"harness": "h", "name": "n"}], ("n",)),
        ([{"harness": "h"}, {"harness": "h"}], ("h-0", "h-1")),
        ([{"harness": "h"}, {"harness": "g"}, {"harness": "h"}], ("h-0", "g", "h-1")),
        ([{"harness": "h", "replicas": 3}], ("h-0", "h-1", "h-2")),
        ([{"harness": "h", "replicas": 2}, {"harness": "h"}], ("h-0", "h-1", "h-2")),
        ([{"harness": "h", "name": "n", "replicas": 2}], ("n-0", "n-1")),
        *(([{"harness": "h", "replicas": n}], ("h",)) for n in (1, 0, -1, None)),
        # Named ones are not counted, nor avoided.
        ([{"harness": "h", "name": "h"}, {"harness": "h"}, {"harness": "h"}], ("h", "h-0", "h-1")),
        ([{"harness": "h", "name": "x"}, {"harness": "h", "name": "X"}], ("x", "X")),
        # What only another make of guest can name.
        ([{}], ()),
        ([{"replicas": 2}, {"harness": "h"}], ("h",)),
    ],
)
def test_names(agents, expected):
    assert names(*agents) == (expected, [])


@pytest.mark.parametrize(
    ("agents", "index", "name"),
    [
        ([{"harness": "h", "name": "h"}, {"harness": "h"}], 1, "h"),
        ([{"harness": "h", "name": "r-1"}, {"harness": "h", "name": "r", "replicas": 2}], 1, "r-1"),
        ([{"harness": "h", "name": "a\nb"}] * 2, 1, "a\\nb"),
        ([{"harness": "h", "name": "é"}] * 2, 1, "é"),
        ([{"harness": "h", "name": "h-1"}, {"harness": "h", "replicas": 2}], 1, "h-1"),
    ],
)
def test_two_of_one_name_are_a_fault(agents, index, name):
    assert names(*agents)[1] == [(("agents", index), f'starts a second agent named "{name}"')]


def test_many_twins_are_one_fault_each_entry():
    twin = {"harness": "h", "name": "a", "replicas": 50}
    assert [path for path, _ in names(twin, twin, twin)[1]] == [("agents", 1), ("agents", 2)]


entries = st.fixed_dictionaries(
    {"harness": st.sampled_from("hg")},
    optional={"name": st.sampled_from(["n", "m", "h", "h-0"]), "replicas": st.integers(-1, 4)},
)


@given(st.lists(entries, max_size=5))
def test_naming_twice_is_naming_once(agents):
    """The host names agents, and the guest names them again: the second time must change nothing."""
    first, faults = names(*agents)
    if not faults:
        assert len(set(first)) == len(first)
        named = [{"harness": "h", "name": name} for name in first]
        assert names(*named) == (first, [])
    count = sum(max(1, agent.get("replicas", 1)) for agent in agents)
    assert len(first) == count


TOO_MANY = "asks for more agents than a health report can name"


@pytest.mark.parametrize("replicas", [MAX_AGENTS + 1, 2**63 - 1])
def test_more_agents_than_health_can_name(replicas):
    assert names({"harness": "h", "replicas": replicas}) == ((), [(("agents",), TOO_MANY)])
    assert names({"harness": "h", "replicas": MAX_AGENTS - 1}, {"harness": "g"})[1] == []


@pytest.mark.parametrize("key", ["name", "harness"])
def test_longer_names_than_health_can_hold(key):
    """Each replica has the whole name: 5 KB took 173 MiB, and 1 MB all memory."""
    agent = {"harness": "h", "replicas": 1024, key: "x" * 1024}
    assert len(names(agent)[0]) == 1024
    with costs.counted_bytes() as cost:
        assert names(agent, {"harness": "g"}) == ((), [(("agents",), TOO_MANY)])
        assert names({**agent, "replicas": MAX_AGENTS}) == ((), [(("agents",), TOO_MANY)])
    assert cost.peak < MAX_AGENT_NAMES


def test_how_many_agents_a_health_report_can_name():
    assert MAX_AGENTS == 34_952


def test_a_health_report_of_the_most_agents_does_not_fit():
    from stereos_proto import AgentStatus, Health, LocalProtocolError, encode

    agents = tuple(AgentStatus(f"a-{number}", True) for number in range(MAX_AGENTS))
    with pytest.raises(LocalProtocolError):
        encode(Health("healthy", agents))


def test_the_tables_name_no_key_twice():
    keys = [next(iter(agent)) for agent in itertools.chain(TAKEN, (row[0] for row in REFUSED))]
    assert {"harness", "type", "restart", "timeout", "memory", "extra_packages"} <= {*keys}


@pytest.mark.parametrize("text", ["1" * 200_000, "1" * 200_000 + "s", "9" * 1_000_001 + "s", "1." + "5" * 100_000])
def test_a_duration_of_many_digits(text):
    """They took quadratic time, and a million of them raised an error of decimal."""
    assert is_duration(text) is False
