"""Reading JSON, against the rules of §4 written a second time over the standard library's parser (fuzz/oracle.py)."""

import json
import os
import random
import sys

import pytest
from fuzz import mutate, oracle, seeds
from fuzz.fuzz_codec import as_read, check
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto import (
    Ack,
    AgentStatus,
    Health,
    InvalidMessage,
    MalformedLine,
    Message,
    Ping,
    Pong,
    Role,
    UnknownMessage,
    decode,
    encode,
)
from stereos_proto._codec import reader
from stereos_proto._codec.tolerant import read_tolerantly
from stereos_proto._constants import MAX_NESTING
from stereos_proto._registry import REGISTRY

LINES = [*seeds.lines()]
HEADS = st.sampled_from([b"\0", b"\1"])

blanks = st.sampled_from(["", "", "", " ", "\t", "\r", "\u00a0", "\x0b"])
scalars = st.sampled_from([*mutate.RAW, *(json.dumps(text) for text in mutate.STRINGS)]) | st.text(
    '"\\/bfnrtu0123456789abcdefABCDEF\ud800\udc00é😀\x00\x1f ', max_size=12
).map('"{}"'.format)
names = st.sampled_from(mutate.NAMES).map(json.dumps)


def arrays(inner):
    return st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")


def objects(inner):
    member = st.tuples(names, blanks, inner).map(lambda parts: f"{parts[0]}{parts[1]}:{parts[1]}{parts[2]}")
    return st.lists(member, max_size=5).map(lambda members: f"{{{','.join(members)}}}")


texts = st.recursive(scalars, lambda inner: arrays(inner) | objects(inner), max_leaves=12)
envelopes = st.tuples(st.sampled_from(mutate.TYPES), texts).map(
    lambda parts: f'{{"type":{json.dumps(parts[0])},"payload":{parts[1]}}}'
)


@given(head=HEADS, text=texts | envelopes)
def test_json_texts(head, text):
    check(head + text.encode("utf-8", "surrogatepass"))


@given(head=HEADS, text=envelopes, at=st.integers(0, 60), new=st.binary(max_size=2), gone=st.integers(0, 2))
def test_nearly_json(head, text, at, new, gone):
    line = text.encode("utf-8", "surrogatepass")
    check(head + line[:at] + new + line[at + gone :])


@given(head=HEADS, line=st.sampled_from(LINES), seed=st.integers(0, 2**32))
def test_changed_vectors(head, line, seed):
    check(mutate.mutate(head + line, 2000, seed, head=1, body="line"))


#: A hundredth of what `make oracle` asks for.
NUMBER = int(os.environ.get("STEREOS_ORACLE_LINES", "4600"))
#: Lines of one test, so that a failure names few.
SLICE = 4600


@pytest.mark.parametrize("first", range(0, NUMBER, SLICE))
def test_mutated_lines(first):
    """Each is one of the vectors, changed once to five times, or such a line changed again."""
    made = [head + line for line in LINES if len(line) < 600 for head in (b"\0", b"\1")]
    rng = random.Random(first)
    for seed in range(first, min(first + SLICE, NUMBER)):
        data = mutate.mutate(rng.choice(made), 1500, seed, head=1, body="line")
        made[rng.randrange(len(made))] = data
        try:
            check(data)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {data!r}") from exc


FIELDS = [
    *((type_, name) for types in oracle.PAYLOADS.values() for type_, fields in types.items() for name in fields),
    *(("health", f"agents.{name}") for name in oracle.AGENT),
]


@pytest.mark.parametrize(("type_", "field"), FIELDS)
def test_every_value_in_every_field(type_, field):
    """Alone, before a good one, and after one."""
    good = {"str": '"x"', "bool": "true", "u32": "5", "i64": "-5", "agents": '[{"name":"x","running":true}]'}
    name = field.removeprefix("agents.")
    kinds = oracle.AGENT if "." in field else {**oracle.PAYLOADS["host"], **oracle.PAYLOADS["guest"]}[type_]
    for value in [*mutate.RAW, *map(json.dumps, mutate.STRINGS), '"ready"', '{"name":1}', '[{"name":1}]', "[true]"]:
        for members in (
            [value],
            [value, good[kinds[name]]],
            [good[kinds[name]], value],
        ):
            payload = ",".join(f'"{name}":{member}' for member in members)
            payload = f'"agents":[{{{payload}}}]' if "." in field else payload
            line = f'{{"type":"{type_}","payload":{{{payload}}}}}'.encode()
            check(b"\0" + line)
            check(b"\1" + line)


@pytest.mark.parametrize("head", [b"\0", b"\1"])
def test_vectors(head):
    for line in LINES:
        check(head + line)


def test_the_oracle_has_an_opinion_of_nearly_all_vectors():
    opinions = [oracle.read(line, "guest") for line in LINES]
    # It leaves nesting to a test of its own.
    assert sum(opinion is None for opinion in opinions) <= 20
    assert {opinion.kind for opinion in opinions if opinion} == {"malformed", "invalid", "message", "unknown"}


# ------------------------------------------------------------------------------- what the oracle does not reach


@pytest.mark.parametrize("opening", ["[", '{"":', '[{"":', '{"x":['])
@pytest.mark.parametrize("name", ["x", "payload"])
@pytest.mark.parametrize("type_", ["pong", "ack", "new"])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 5000])
def test_nesting(opening, name, type_, beyond):
    """10,000 levels are read where they are ignored, and one more is no JSON, whatever the interpreter's stack."""
    per_step = opening.count("[") + opening.count("{")
    steps, odd = divmod(MAX_NESTING + beyond - 1, per_step)
    deep = "[" * odd + opening * steps + "0"
    deep += "".join({"[": "]", "{": "}"}[mark] for mark in reversed(deep) if mark in "[{")
    line = f'{{"type":"{type_}","{name}":{deep}}}'.encode()
    assert deep.count("[") + deep.count("{") + 1 == MAX_NESTING + beyond
    limit = sys.getrecursionlimit()
    outcomes = {kind(reader(Role.GUEST)(line)), kind(read_tolerantly(line, Role.GUEST))}
    assert sys.getrecursionlimit() == limit
    if beyond > 0:
        assert outcomes == {MalformedLine}
    elif name == "payload" and (type_ == "new" or (type_ == "ack" and deep.startswith("["))):
        # What is looked at has to fit, and what is kept may not nest so deeply.
        assert outcomes == {InvalidMessage}
    else:
        assert outcomes == {{"pong": Pong, "ack": Ack, "new": UnknownMessage}[type_]}


def kind(result):
    return type(result)


@pytest.mark.parametrize("type_", ["pong", "new"])
def test_nesting_where_the_interpreter_would_allow_more(type_):
    """The limit is ours, not that of the interpreter's stack."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(60_000)
    try:
        for levels, outcome in ((MAX_NESTING - 1, Message), (MAX_NESTING, MalformedLine)):
            line = b'{"type":"%b","x":%b%b}' % (type_.encode(), b"[" * levels, b"]" * levels)
            assert isinstance(reader(Role.GUEST)(line), outcome)
    finally:
        sys.setrecursionlimit(limit)


def test_lines_that_are_the_same_each_time_mean_something_else_from_the_other_side():
    for row in REGISTRY:
        for message in (Ack(row.type, True), Pong(), Ping()):
            check(b"\0" + encode(message)[:-1])
            check(b"\1" + encode(message)[:-1])


# ------------------------------------------------------------------------------------------------- findings


AGENT = '{"name":"a","running":true%s}'


def health(*lists):
    members = "".join(f',"{name}":[{",".join(items)}]' for name, items in lists)
    return f'{{"type":"health","payload":{{"state":"ready"{members},"uptime_seconds":0}}}}'.encode()


@pytest.mark.parametrize("first", ["agents", r"\u0061gents", r"ag\u0065\u006Ets"])
@pytest.mark.parametrize("second", ["agents", r"agent\u0073"])
def test_both_lanes_read_a_second_list_of_agents_over_the_first(first, second):
    line = health((first, [AGENT % ',"restarts":3,"error":"x"']), (second, [AGENT % ""]))
    expected = Health("ready", (AgentStatus("a", True, restarts=3, error="x"),))
    assert decode(line, sender=Role.GUEST) == read_tolerantly(line, Role.GUEST) == expected
    check(b"\0" + line)


def test_of_three_lists_of_agents_the_later_one_wins():
    line = health(*(("agents", [AGENT % error]) for error in (',"error":"1"', ',"error":"2"', "")))
    message = decode(line, sender=Role.GUEST)
    assert message.agents == (AgentStatus("a", True, error="2"),)
    check(b"\0" + line)


def test_an_agent_that_stands_over_another_is_read_whole():
    """Also what stands twice inside it, and was of the wrong type the first time."""
    line = health(("agents", [AGENT % ""]), ("agents", ['{"name":1,"name":"a"}']))
    with pytest.raises(InvalidMessage) as caught:
        decode(line, sender=Role.GUEST)
    assert caught.value.path == "payload.agents[0].name"
    check(b"\0" + line)


def test_the_wordings_of_both_readers_are_comparable():
    assert as_read(decode(b'{"type":"x","payload":-0}', sender=Role.GUEST)) == ("unknown", "x", 0)
