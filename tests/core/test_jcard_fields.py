"""The known fields of a jcard.toml: names in any case, types, and all that is wrong at once."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto._jcard_fields import (
    AGENT,
    FILE,
    Array,
    Findings,
    Names,
    Severity,
    Table,
    canonical,
    known_name,
    looks_secret,
    read_fields,
)


def read(text):
    findings = Findings()
    table = read_fields(tomllib.loads(text), findings)
    return table, [(finding.severity.value, finding.path, finding.reason) for finding in findings.found]


#: A value of each TOML type, the kind of field that takes it, and where it is wrong for another.
VALUES = {
    "'t'": {"string"},
    "true": {"flag"},
    "7": {"whole"},
    "7.0": set(),
    "nan": set(),
    "1979-05-27": set(),
    "[]": {"tables", "strings"},
    "['t']": {"strings"},
    "[7]": set(),
    "{}": {"table", "names"},
    "{zz='t'}": {"table", "names"},
    "{zz=7}": {"table"},
}
SAID = {
    "string": "must be a string",
    "flag": "must be true or false",
    "whole": "must be a whole number",
    "tables": "must be an array of tables, in [[ ]]",
    "strings": "must be an array",
    "table": "must be a table",
}


def kind_of(kind):
    match kind:
        case Table():
            return "table"
        case Names():
            return "names"
        case Array(item=Table()):
            return "tables"
        case Array():
            return "strings"
    return {str: "string", bool: "flag", int: "whole"}[kind]


def fields(table, path=()):
    for name, kind in table.fields.items():
        yield (*path, name), kind
        if isinstance(kind, Table):
            yield from fields(kind, (*path, name))


@pytest.mark.parametrize(("path", "kind"), [pytest.param(*row, id=".".join(row[0])) for row in fields(FILE)])
@pytest.mark.parametrize("value", VALUES)
def test_types(path, kind, value):
    table, said = read(f"{'.'.join(path)} = {value}")
    for name in path:
        table = table[name]
    faults = [(place, reason) for severity, place, reason in said if severity == "fault"]
    name = kind_of(kind)
    if name in VALUES[value]:
        assert not faults
        return
    inside = {
        ("['t']", "tables"): [((*path, 0), SAID["table"])],
        ("[7]", "tables"): [((*path, 0), SAID["table"])],
        ("[7]", "strings"): [((*path, 0), SAID["string"])],
        ("{zz=7}", "names"): [((*path, "zz"), SAID["string"])],
    }
    if name == "names" and (value, name) not in inside:
        # The reference takes what is no table for an empty one.
        assert table == {}
        assert said == [("warning", path, "is not a table, and is treated as empty")]
        return
    assert faults == inside.get((value, name), [(path, SAID.get(name))])
    # What is wrong is not there, and its neighbours are.
    assert table == {"zz": None} if name == "names" else table in (None, [None])


def test_all_faults_are_found_at_once():
    table, said = read(
        "name = 7\nmixtape = 'm'\n[[shared]]\nguest = 7\nreadonly = true\n[[agents]]\nenv = {A = 1, B = '2'}"
    )
    assert table == {
        "name": None,
        "mixtape": "m",
        "shared": [{"guest": None, "readonly": True}],
        "agents": [{"env": {"A": None, "B": "2"}}],
    }
    assert said == [
        ("fault", ("name",), "must be a string"),
        ("fault", ("shared", 0, "guest"), "must be a string"),
        ("fault", ("agents", 0, "env", "A"), "must be a string"),
    ]


# -- names -----------------------------------------------------------------------------------------------------


@given(st.data())
def test_case_does_not_matter(data):
    name = data.draw(st.sampled_from([*FILE.fields, *AGENT.fields]))
    table = AGENT.fields if name in AGENT.fields else FILE.fields
    folds = {"k": "kK\u212a", "s": "sS\u017f"}
    spelled = "".join(data.draw(st.sampled_from(folds.get(c, c + c.upper()))) for c in name)
    assert known_name(spelled, table) == name


@pytest.mark.parametrize("name", ["harneß", "prompt_\ufb01le", "seßion", "hàrness", "", "harness ", "read-only"])
def test_other_names_are_unknown(name):
    # Full case folding would read the first three as known names. The reference folds letter by letter.
    assert known_name(name, AGENT.fields) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), ()),
        (("Agents", 1, "ENV", "Key"), ("agents", 1, "env", "Key")),
        (("SECRETS", "Name"), ("secrets", "Name")),
        (("Network", "FORWARDS", 0, "Host"), ("network", "forwards", 0, "host")),
        (("Agents", "Name"), ("agents", "Name")),
        (("Foo", "Name"), ("Foo", "Name")),
        (("Name", "Name"), ("name", "Name")),
    ],
)
def test_paths_under_canonical_names(path, expected):
    assert canonical(path) == expected


def test_two_spellings_are_a_fault_that_names_both():
    table, said = read("[secrets]\nA = '1'\n[Secrets]\nB = '2'\n[[agents]]\nname = 'a'\nNAME = 'b'")
    assert table == {"secrets": {"A": "1"}, "agents": [{"name": "a"}]}
    assert said == [
        ("fault", ("Secrets",), "and secrets are two spellings of one name"),
        ("fault", ("agents", 0, "NAME"), "and name are two spellings of one name"),
    ]


def test_names_of_secrets_and_variables_are_the_users_own():
    table, said = read("[secrets]\nA = '1'\na = '2'\n[[agents]]\n[agents.env]\nB = '3'\nb = '4'")
    assert table["secrets"] == {"A": "1", "a": "2"}
    assert table["agents"] == [{"env": {"B": "3", "b": "4"}}]
    assert not said


def test_what_is_unknown_goes_but_for_what_agents_have():
    table, said = read(
        "foo = 1\n[bar]\nx = {}\n[resources]\ngpus = 2\n[[agents]]\nfancy = {a = [1]}\n[agent]\nPlain = ''"
    )
    assert table == {"resources": {}, "agents": [{"fancy": {"a": [1]}}], "agent": {"Plain": ""}}
    assert said == [
        ("warning", ("foo",), "is unknown, and is not sent"),
        ("warning", ("bar",), "is unknown, and is not sent"),
        ("warning", ("resources", "gpus"), "is unknown, and is not sent"),
        ("warning", ("agents", 0, "fancy"), "is unknown here, and is sent as it is"),
        ("warning", ("agent", "Plain"), "is unknown here, and is sent as it is"),
    ]


def test_unknown_keys_that_look_like_secrets_are_named():
    _, said = read("api_key = 'x'\n[secret]\nA = 'x'\n[[agents]]\ntoken = 'x'")
    assert [reason for _, _, reason in said] == [
        "is unknown, and is not sent; it looks like a secret outside of [secrets]",
        "is unknown, and is not sent (is secrets meant?); it looks like a secret outside of [secrets]",
        "is unknown here, and is sent as it is; it looks like a secret, and everyone in the guest can read it",
    ]


def test_so_are_those_inside_of_what_is_unknown():
    _, said = read(
        "[providers.x]\napi_key = 'x'\nurl = 'x'\n[[agents]]\nfancy = {a = [1, {token = 'x'}]}\n"
        "[agents.config.secrets]\npassword = 'x'"
    )
    read_by_all = "looks like a secret, and everyone in the guest can read it"
    assert [(path, reason) for _, path, reason in said] == [
        (("providers",), "is unknown, and is not sent"),
        (("providers", "x", "api_key"), "looks like a secret outside of [secrets]"),
        (("agents", 0, "fancy"), "is unknown here, and is sent as it is"),
        (("agents", 0, "fancy", "a", 1, "token"), read_by_all),
        (("agents", 0, "config"), "is unknown here, and is sent as it is"),
        # One warning is enough for all of a table.
        (("agents", 0, "config", "secrets"), read_by_all),
    ]


def test_secrets_are_looked_for_however_deep_a_key_nests():
    _, said = read(f"[[agents]]\n{'.'.join('a' * 900)}.token = 1")
    assert [len(path) for _, path, _ in said] == [3, 903]


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("ANTHROPIC_API_KEY", "apiKey", "api-key", "GITHUB_TOKEN", "Secret", "db_password")),
        *((name, True) for name in ("AWS_SECRET_ACCESS_KEY", "credentials", "PASSPHRASE", "passwd", "private_key")),
        *((name, False) for name in ("", "max_tokens", "key", "monkey", "name", "PATH", "KEYBOARD")),
    ],
)
def test_what_looks_like_a_secret(name, secret):
    assert looks_secret(name) is secret


# -- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_numbers_of_64_bits(number):
    assert read(f"[[agents]]\nx = {number}\nmax_restarts = {number}")[1] == [
        ("warning", ("agents", 0, "x"), "is unknown here, and is sent as it is")
    ]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, f"0x{'f' * 5000}"])
def test_numbers_that_the_reference_cannot_read(number):
    wide = "must be a whole number of at most 64 bits"
    _, said = read(f"a = [true, {number}]\n[[agents]]\nx.y = {number}\nmax_restarts = {number}")
    faults = [(path, reason) for severity, path, reason in said if severity == "fault"]
    assert faults == [
        (("a", 1), wide),
        (("agents", 0, "x", "y"), wide),
        (("agents", 0, "max_restarts"), wide),
    ]


def test_severities_are_told_apart():
    findings = Findings()
    findings.fault(("a",), "x")
    findings.doubt(("b",), "y")
    findings.warn(("c",), "z")
    assert [finding.severity for finding in findings.found] == [Severity.FAULT, Severity.DOUBT, Severity.WARNING]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("read_only", "readonly"),
        ("read-only", "readonly"),
        ("geust", "guest"),
        ("tag", ""),
        ("x" * 100_000, ""),
    ],
)
def test_a_misspelt_key_is_taken_for_the_nearest(written, meant):
    findings = Findings()
    read_fields({"shared": [{"guest": "/w", written: True}]}, findings)
    (finding,) = findings.found
    assert finding.reason == "is unknown, and is not sent" + f" (is {meant} meant?)" * bool(meant)
