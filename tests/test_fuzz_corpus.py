"""The fuzzers' kept inputs, replayed without atheris; and the fuzzers' own parts, which are code like any other."""

import ast
import random

import pytest
from fuzz import harnesses, mutate, oracle, planted, seeds
from fuzz.source import Choices, cut
from hypothesis import given
from hypothesis import strategies as st

NAMES = harnesses.NAMES


@pytest.mark.parametrize("name", NAMES)
def test_kept_corpus(name):
    inputs = harnesses.kept(name)
    assert len(inputs) > 10
    for data in inputs:
        harnesses.load(name).check(data)


@pytest.mark.parametrize("name", NAMES)
def test_seeds(name):
    harness = harnesses.load(name)
    for data in seeds.seeds(harness.HEAD, harness.BODY):
        harness.check(data)


@pytest.mark.parametrize(("name", "data"), [pytest.param(n, d, id=f"{n}-{what}") for n, what, d in harnesses.crashes()])
def test_what_was_once_found(name, data):
    harnesses.load(name).check(data)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1), data=st.binary(max_size=60))
def test_a_few_new_inputs(name, seed, data):
    harness = harnesses.load(name)
    start = random.Random(seed).choice(list(seeds.seeds(harness.HEAD, harness.BODY))[:40])
    harness.check(mutate.mutate(start, 1500, seed, head=harness.HEAD, body=harness.BODY))
    harness.check(data)


# -------------------------------------------------------------------------------------------- the parts


@given(data=st.binary(max_size=200), seed=st.integers(0, 70_000))
def test_a_cut_stream_is_the_stream(data, seed):
    pieces = list(cut(data, seed))
    assert b"".join(pieces) == data
    assert all(pieces)


def test_choices_end_in_zeros():
    choices = Choices(b"\x05\xff")
    assert [choices.below(4), choices.below(256), choices.below(256)] == [1, 255, 0]
    assert not choices


@pytest.mark.parametrize("body", [*mutate.BODIES])
@given(data=st.binary(max_size=80), seed=st.integers(0, 2**32 - 1), head=st.integers(0, 4))
def test_a_changed_input_is_an_input(body, data, seed, head):
    changed = mutate.mutate(data, 100, seed, head=head, body=body)
    assert len(changed) <= 100
    assert changed == mutate.mutate(data, 100, seed, head=head, body=body)


def test_most_changed_lines_are_still_messages():
    """What the mutator is for: bytes changed at random are hardly ever JSON."""
    lines = [line for line in seeds.lines() if len(line) < 300]
    rng = random.Random(1)
    kinds = [
        oracle.read(mutate.mutate(rng.choice(lines), 1000, seed, head=0, body="line").rstrip(b"\r"), "guest")
        for seed in range(500)
    ]
    read = [kind for kind in kinds if kind and kind.kind != oracle.MALFORMED]
    assert len(read) > 250


def test_the_dictionary_is_in_the_notation_of_libfuzzer():
    entries = seeds.written_dictionary().splitlines()
    words = [ast.literal_eval(f"b{entry}") for entry in entries]
    assert b"inject_secret" in words
    assert b"" not in words


@pytest.mark.parametrize("name", [*planted.FAULTS])
def test_a_planted_fault_still_has_its_place(name):
    """The table in fuzz/README.md is about the source as it is."""
    fault = planted.FAULTS[name]
    source = (planted.ROOT / "src" / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1
    ast.parse(source.replace(fault.old, fault.new))
    assert fault.harness in NAMES


@pytest.mark.parametrize("name", [*planted.FAULTS])
def test_a_planted_fault_is_found_by_what_is_kept(name):
    """The kept corpus alone finds the faults, in a Python without atheris."""
    fault = planted.FAULTS[name]
    with planted.planted(name) as environment:
        code, output = planted.run(environment, "fuzz.replay", fault.harness)
    assert code == 1, output
    assert "Traceback" in output
