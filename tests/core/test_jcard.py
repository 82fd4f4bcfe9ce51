"""From a jcard.toml to a plan: what is taken, what is refused with which words, and what never shows."""

import datetime
import tomllib
import traceback
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import (
    InjectSecret,
    InjectSSHKey,
    JcardError,
    LocalProtocolError,
    Mount,
    StereosError,
    load_jcard,
)
from stereos_proto._jcard import _Agent, _Jcard
from tomls import SENTINEL, documents

ENV = {"X": f"{SENTINEL}-x", "Y": f"{SENTINEL}-y", "EMPTY": ""}


def everything(error):
    """All that a traceback can show of an error, the frame that caught it apart."""
    shown = traceback.TracebackException(type(error), error, error.__traceback__.tb_next, capture_locals=True)
    return "".join(shown.format()) + repr(error) + str(vars(error)) + str(error.__context__)


def refusal(text, **options):
    with pytest.raises(StereosError) as caught:
        load_jcard(text, **{"env": ENV, **options})
    assert SENTINEL not in everything(caught.value)
    return caught.value


@given(documents())
def test_plan_of_any_document(document):
    table = tomllib.loads(document.text, parse_float=str)
    secrets = table.pop("secrets", {})
    plan = load_jcard(document.text, env=ENV)
    assert plan.config == document.rest
    assert tomllib.loads(plan.config, parse_float=str) == table
    assert plan.secrets == tuple(InjectSecret(k, v.replace("${X}", ENV["X"])) for k, v in secrets.items())
    assert SENTINEL not in plan.config
    assert SENTINEL not in repr(plan)


# -- what is taken ---------------------------------------------------------------------------------------------


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
        ("${1X}", "${1X}"),
        ("${X", "${X"),
        ("$${X}", f"${ENV['X']}"),
    ],
)
def test_variables_of_the_environment(value, expanded):
    assert load_jcard(f"[secrets]\nA = '{value}'", env=ENV).secrets == (InjectSecret("A", expanded, 0o600),)


def test_what_a_variable_holds_is_not_expanded_again():
    assert load_jcard("[secrets]\nA='${X}'", env={"X": "${Y}"}).secrets[0].value == "${Y}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("[[agents]]\nname='a'\nharness='h'\n[[agents]]\nharness='h'\ntype='t'\n[[agents]]\ntype='t'", ("a", "h", "t")),
        ("agents=[{name='a'},{}]", ("a",)),
        ("[agent]\nname='old'", ("old",)),
        ("[agent]\nharness='h'\n[[agents]]\nname='a'", ("a", "h")),
        ("[agent]\n", ()),
    ],
)
def test_names_of_agents(text, names):
    assert load_jcard(text, env={}).agents == names


def test_keys_are_passed_on():
    keys = [InjectSSHKey("admin", "ssh-ed25519 AAAA x")]
    assert load_jcard("", env={}, ssh_keys=iter(keys)).ssh_keys == tuple(keys)


def test_not_a_number_is_a_setting_like_any_other():
    text = "a = nan\nb = [-0.0, nan]\n[secrets]\nA = 'x'\n"
    assert load_jcard(text, env={}).config == "a = nan\nb = [-0.0, nan]\n"


# -- what is refused -------------------------------------------------------------------------------------------

#: A value of each TOML type, and which of the known types it is.
VALUES = {
    "'t'": "string",
    "true": "flag",
    "7": "whole",
    "7.0": None,
    "nan": None,
    "1979-05-27": None,
    "[]": "array",
    "['t']": "array of strings",
    "[7]": "array of numbers",
    "{}": "table",
    "{a='t'}": "table",
    "{a=7}": "table of numbers",
}
#: The known keys: what they take, and what an error about them says.
KEYS = {
    "mixtape": ({"string"}, "mixtape must be a string"),
    "mixtape_digest": ({"string"}, "mixtape_digest must be a string"),
    "name": ({"string"}, "name must be a string"),
    "resources": ({"table", "table of numbers"}, "resources must be a table"),
    "resources.cpus": ({"whole"}, "resources.cpus must be a whole number"),
    "network": ({"table", "table of numbers"}, "network must be a table"),
    "network.mode": ({"string"}, "network.mode must be a string"),
    "network.egress_allow": ({"array", "array of strings"}, "network.egress_allow must be an array"),
    "network.forwards": ({"array"}, "network.forwards must be an array of tables, in [[ ]]"),
    "shared": ({"array"}, "shared must be an array of tables, in [[ ]]"),
    "secrets": ({"table"}, "secrets must be a table"),
    "agents": ({"array"}, "agents must be an array of tables, in [[ ]]"),
    "agent": ({"table", "table of numbers"}, "agent must be a table"),
    "agent.env": ({"table"}, "agent.env must be a table"),
    "agent.extra_packages": ({"array", "array of strings"}, "agent.extra_packages must be an array"),
    "agent.max_restarts": ({"whole"}, "agent.max_restarts must be a whole number"),
    "agent.replicas": ({"whole"}, "agent.replicas must be a whole number"),
    **{
        f"agent.{key}": ({"string"}, f"agent.{key} must be a string")
        for key in ("type", "name", "harness", "prompt", "prompt_file", "workdir", "restart", "session")
    },
}
#: What is wrong inside a value of the right type.
INSIDE = {
    "['t']": ("[0] must be a table", "[0] must be a string"),
    "[7]": ("[0] must be a table", "[0] must be a string"),
    "{a=7}": (".a must be a string",),
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
def test_types(key, value):
    taken, complaint = KEYS[key]
    text = f"# a comment\n\n{key} = {value}"
    if VALUES[value] in taken:
        load_jcard(text, env={})
        return
    error = refusal(text)
    assert isinstance(error, JcardError)
    inside = [f"{key}{rest}" for rest in INSIDE.get(value, ())]
    assert str(error).removeprefix("jcard.toml, line 3: ") in [complaint, *inside]
    assert error.line == 3
    assert str(error).split(": ", 1)[1].startswith(error.key)
    assert error.key.startswith(key)


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[[shared]]\nguest='/a'\n[[shared]]\nhost='b'", 3, "shared[1].guest", "is missing"),
        ("[[shared]]\nguest='/a'\n[[shared]]\nguest=5", 4, "shared[1].guest", "must be a string"),
        ("[[shared]]\nguest='a'", 2, "shared[0].guest", "must be an absolute path"),
        ("shared = [\n{guest = '/a'},\n{guest = ''}]", 1, "shared[1].guest", "must be an absolute path"),
        ("[[shared]]\nguest='/a'\nreadonly='true'", 3, "shared[0].readonly", "must be true or false"),
        ("[shared]\nguest='/a'", 1, "shared", "must be an array of tables, in [[ ]]"),
        ("[[network.forwards]]\nhost=7\nguest=''", 3, "network.forwards[0].guest", "must be a whole number"),
        ("[[network.forwards]]\nproto=1", 2, "network.forwards[0].proto", "must be a string"),
        ("[network]\negress_allow=[\n'a', 5]", 2, "network.egress_allow[1]", "must be a string"),
        ("[[agents]]\n[agents.env]\nA='x'\nB=5", 4, "agents[0].env.B", "must be a string"),
        ("[[agents]]\n\n[[agents]]\nextra_packages=['a', []]", 4, "agents[1].extra_packages[1]", "must be a string"),
        (f"[secrets]\nA='{SENTINEL}'\nB=5", 3, "secrets.B", "must be a string"),
        (f"[secrets.sub]\nA='{SENTINEL}'", 1, "secrets.sub", "must be a string"),
        (f"[secrets]\n[secrets.sub]\nA='{SENTINEL}'", 2, "secrets.sub", "must be a string"),
        (f"[[secrets]]\nA='{SENTINEL}'", 1, "secrets", "must be a table"),
        (f"secrets='{SENTINEL}'", 1, "secrets", "must be a table"),
        (f"secrets=['{SENTINEL}']", 1, "secrets", "must be a table"),
        (f"secrets={{A='{SENTINEL}',B=['{SENTINEL}']}}", 1, "secrets.B", "must be a string"),
        (f"z=1\nsecrets.A.B='{SENTINEL}'", 2, "secrets.A", "must be a string"),
        (f"[secrets]\n'a/b'='{SENTINEL}'", 2, 'secrets."a/b"', "must be a simple file name"),
        (f"[secrets]\n'..'='{SENTINEL}'", 2, 'secrets.".."', "must be a simple file name"),
        (f"[secrets]\n'.'='{SENTINEL}'", 2, 'secrets."."', "must be a simple file name"),
        (f"[secrets]\n''='{SENTINEL}'", 2, 'secrets.""', "must be a simple file name"),
        (f"[secrets]\n\"a\\u0000\"='{SENTINEL}'", 2, 'secrets."a\\u0000"', "must be a simple file name"),
        (
            f"[secrets]\nA='{SENTINEL}'\nB='{SENTINEL}${{X}}${{N}}'",
            3,
            "secrets.B",
            "needs the environment variable N, which is not set",
        ),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(text, line, key, words):
    error = refusal(text, source="my/card.toml")
    assert isinstance(error, JcardError)
    assert isinstance(error, ValueError)
    assert str(error) == f"my/card.toml, line {line}: {key} {words}"
    assert (error.line, error.key) == (line, key)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = ", 1, "Invalid value (at end of document)"),
        ("a = 1\nb = [\n\n", 4, None),
        ("a = 1\nb\n", 2, "Expected '=' after a key"),
        (f"a = 1\nb = '{SENTINEL}", 2, None),
        (f"[secrets]\nA = '''{SENTINEL}", 2, None),
        (f"[secrets]\nA = '{SENTINEL}' '{SENTINEL}'", 2, None),
        (f"[secrets]\nA = {SENTINEL}", 2, None),
        (f"a = {{{SENTINEL} = 1, {SENTINEL} = 2}}", 1, "…"),
        (f'a = {{"{SENTINEL}\'" = 1, "{SENTINEL}\'" = 2}}', 1, "…"),
        (f'a = {{"{SENTINEL}\'\\"" = 1, "{SENTINEL}\'\\"" = 2}}', 1, "…"),
        (f"[{SENTINEL}]\n[{SENTINEL}]\n", 2, "…"),
        (f"a = 1\na = '{SENTINEL}'", 2, None),
        ("a = '\x01'", 1, "…"),
        ("\ufeffa = 1", 1, None),
        (f"[secrets]\nA = '{SENTINEL}'\nB = 1979-13-27", 3, None),
        (f"A = '{SENTINEL}'\nB = {'7' * 5000}", 0, None),
        (f"A = '{SENTINEL}'\nB = {'[' * 5000}", 0, "it nests too deeply"),
    ],
)
def test_what_is_no_toml(text, line, words):
    error = refusal(text)
    assert isinstance(error, JcardError)
    place = f", line {line}" if line else ""
    assert str(error).startswith(f"jcard.toml{place}: no TOML: ")
    assert (error.line, error.key) == (line, "")
    if words:
        assert words in str(error)


@given(documents(), st.data())
def test_a_damaged_document_is_taken_or_refused(document, data):
    cut = data.draw(st.integers(0, len(document.text)))
    text = document.text[:cut] + data.draw(st.sampled_from(["", "]", '"', "'''", "=", "[secrets]\n", "\x00"]))
    text += document.text[cut:] if data.draw(st.booleans()) else ""
    table = None
    with suppress(ValueError):
        table = tomllib.loads(text, parse_float=str)
    try:
        plan = load_jcard(text, env=ENV)
    except JcardError:
        plan = None
    if plan is None:
        assert isinstance(refusal(text), JcardError)
    else:
        table.pop("secrets", None)
        assert tomllib.loads(plan.config, parse_float=str) == table


def test_tables_too_deep_to_compare_are_refused_or_kept():
    # Keys with dots are no nesting to tomllib. How deep Python compares depends on its version.
    rest = f"[{'.'.join('a' * 5000)}]\n"
    text = f"[secrets]\nA = '{SENTINEL}'\n\n{rest}"
    kept = None
    with suppress(JcardError):
        kept = load_jcard(text, env=ENV).config
    if kept is None:
        error = refusal(text)
        assert (error.line, error.key) == (1, "secrets")
        assert "write it as a table, [secrets]" in str(error)
    else:
        assert kept == f"\n{rest}"


def test_a_cut_that_leaves_no_toml_is_refused(monkeypatch):
    monkeypatch.setattr("stereos_proto._jcard.without_table", lambda text, _name: text.replace("[secrets]\n", "]"))
    assert "cannot be taken out" in str(refusal(f"[secrets]\nA = '{SENTINEL}'\n"))


def test_a_cut_that_changes_a_setting_is_refused(monkeypatch):
    monkeypatch.setattr("stereos_proto._jcard.without_table", lambda _text, _name: "b = 2")
    assert "cannot be taken out" in str(refusal(f"b = 1\n[secrets]\nA = '{SENTINEL}'\n"))


@pytest.mark.parametrize(
    "text",
    [
        f"a = '{SENTINEL}{'x' * 2**20}'",
        f"# {SENTINEL}\ud800",
        f"[secrets]\nA = '{SENTINEL}{'x' * 2**20}'",
        "[secrets]\nA = '${SURROGATE}'",
    ],
)
def test_what_could_never_be_sent_is_refused(text):
    error = refusal(text, env={"SURROGATE": f"{SENTINEL}\udc80"})
    assert isinstance(error, LocalProtocolError)


@pytest.mark.parametrize("text", [SENTINEL.encode(), None, datetime.date(2020, 1, 1)])
def test_the_text_must_be_text(text):
    with pytest.raises(TypeError, match="must be a str") as caught:
        load_jcard(text, env=ENV)
    assert SENTINEL not in everything(caught.value)


def test_keys_must_be_keys():
    with pytest.raises(TypeError, match="InjectSSHKey") as caught:
        load_jcard(f"a = '{SENTINEL}'", env=ENV, ssh_keys=["ssh-ed25519 AAAA"])
    assert SENTINEL not in everything(caught.value)


def test_a_name_that_is_not_bare_is_quoted_as_it_is_written():
    error = refusal('[secrets]\n"schlüssel 1" = 5\n')
    assert error.key == 'secrets."schlüssel 1"'
    assert (JcardError("text").line, JcardError("text").key) == (0, "")


def test_what_is_read_shows_no_secret():
    assert SENTINEL not in repr(_Jcard(secrets={"A": SENTINEL}, agents=[_Agent(env={"B": SENTINEL})]))
