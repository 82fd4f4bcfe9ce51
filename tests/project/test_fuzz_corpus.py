"""The fuzzers' kept inputs, replayed without atheris; and the fuzzers' own parts, which are code like any other."""

import ast
import itertools
import json
import os
import random
import sys
import threading
from collections import Counter

import pytest
from fuzz import (
    campaign,
    digests,
    harnesses,
    mutants,
    mutate,
    mutation,
    oracle,
    planted,
    planted_ends,
    seeds,
    survivors,
    unguided,
)
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


@pytest.mark.parametrize("body", ["line", "stream"])
@pytest.mark.parametrize("depth", [199, 201, 5000])
def test_what_nests_deeply_can_be_changed(body, depth):
    line = b"[" * depth + b"]" * depth
    for seed in range(40):
        mutate.mutate(line, 20_000, seed, head=0, body=body)


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


def test_what_is_mutated_and_asked_is_there():
    for room in mutation.ROOMS:
        assert all((mutation.SOURCE / f"{module}.py").exists() for module in room.modules)
        assert all((mutation.ROOT / "tests" / test.partition("::")[0]).exists() for test in room.tests)


def test_mutants_are_of_one_place_each():
    source = "def f(x):\n    if x < 1 and not x:\n        return 2\n    return x\n"
    made = list(mutants.mutants(source))
    assert {(each.first, each.name) for each in made} == {
        (2, "f, condition: if x < 1 and (not x):"),
        (2, "f, operator: x < 1 and (not x)"),
        (2, "f, comparison: x < 1"),
        (2, "f, number: 1"),
        (2, "f, not: not x"),
        (3, "f, result: return 2"),
        (3, "f, number: 2"),
        (4, "f, result: return x"),
    }
    assert len({each.source for each in made}) == len(made) == mutants.places(source)


def test_mutants_have_names_of_their_own():
    source = "X = 1\nclass C:\n    y = 1\n    def f(self):\n        return 1 + 1\n"
    names = [each.name for each in mutants.mutants(source)]
    assert {"module, number: 1", "C, number: 1", "C.f, number: 1", "C.f, number: 1 (2)"} < {*names}
    assert len(set(names)) == len(names)


def test_what_is_executed_on_import():
    function = "@d(2)\ndef f(a=3):\n    y = 4\n    def g(b=5): pass\n"
    source = f"X = 1\n{function}class C:\n    z = 6\n    def h(self, c=7): return 8\n"
    on_import = {each.name[-1] for each in mutants.mutants(source) if each.on_import and ", number: " in each.name}
    assert on_import == {*"12367"}


def test_reasons_of_survivors_are_kept_and_figures_of_other_code_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(survivors, "STATE", tmp_path / "survivors.json")
    monkeypatch.setattr(survivors, "LIBRARY", tmp_path)
    (tmp_path / "stereos_proto").mkdir()
    module, path = "stereos_proto/m", tmp_path / "stereos_proto" / "m.py"
    path.write_text("x = 1\n")
    assert survivors.of_this_code([module]) == {}
    survivors.record(module, survivors.digest(module), 10, ["a", "b"])
    assert [*mutation.wrongs(survivors.of_this_code([module]))] == [
        "no reason is given for stereos_proto/m: a",
        "no reason is given for stereos_proto/m: b",
        "80.0 % of the mutants of stereos_proto/ are killed, and 95 % have to be",
    ]
    stored = survivors.STATE.read_text()
    survivors.STATE.write_text(stored.replace('"a": ""', '"a": "slower only"'))
    path.write_text("# other words\nx = 1\n")
    assert survivors.of_this_code([module])[module].alive == {"a": "slower only", "b": ""}
    path.write_text("x = 2\n")
    assert survivors.of_this_code([module]) == {}
    assert [*mutation.wrongs(survivors.of_this_code([module]))] == []
    assert len([*survivors.table(survivors.of_this_code([module]))]) == 2
    row = survivors.record(module, survivors.digest(module), 1000, ["a"])
    assert row.alive == {"a": "slower only"}
    assert [*mutation.wrongs(survivors.of_this_code([module]))] == []
    assert [*survivors.table(survivors.of_this_code([module]))][2:] == [
        "| `stereos_proto/m` | 1,000 | 999 | 99.9 % |",
        "| all of `stereos_proto` | 1,000 | 999 | 99.9 % |",
    ]


def test_survivors_are_few_and_have_reasons():
    """Of the modules that were asked as they are now."""
    rows = survivors.of_this_code(module for room in mutation.ROOMS for module in room.modules)
    assert [*mutation.wrongs(rows)] == []


@pytest.mark.parametrize("name", [*planted.FAULTS])
def test_a_planted_fault_still_has_its_place(name):
    """The table in fuzz/README.md is about the source as it is."""
    fault = planted.FAULTS[name]
    source = (planted.ROOT / "src" / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1
    ast.parse(source.replace(fault.old, fault.new))
    assert fault.harness in (*NAMES, "")


@pytest.mark.parametrize("name", [name for name, fault in planted.FAULTS.items() if fault.harness])
def test_a_planted_fault_is_found_by_what_is_kept(name):
    """The kept corpus alone finds the faults, in a Python without atheris."""
    fault = planted.FAULTS[name]
    with planted.planted(name) as environment:
        code, output = planted.run(environment, "fuzz.replay", fault.harness)
    assert code == 1, output
    assert "Traceback" in output


FOUND_BY = json.loads(planted.FOUND_BY.read_text())


def test_every_planted_fault_has_a_test_that_finds_it():
    assert [*FOUND_BY] == [*planted.FAULTS]
    for test in FOUND_BY.values():
        path, _, function = test.partition("::")
        source = (planted.ROOT / path).read_text(encoding="utf-8")
        assert f"def {function.rpartition('::')[2]}(" in source or "::runTest" in test


def test_the_planted_faults_are_about_all_that_can_be_wrong():
    assert len(planted.FAULTS) >= 60
    assert len(planted_ends.FAULTS) >= 25


@pytest.mark.skipif(not os.environ.get("STEREOS_SLOW"), reason="it takes minutes: STEREOS_SLOW=1 runs it")
@pytest.mark.parametrize("name", [*FOUND_BY])
def test_a_planted_fault_is_found_by_its_test(name):
    with planted.planted(name) as environment:
        code, output = planted.run(environment, *planted.PYTEST, FOUND_BY[name])
    assert code == 1, output


# ------------------------------------------------------------------------------- runs without atheris, and the tally


@pytest.mark.parametrize("name", NAMES)
def test_inputs_made_without_coverage(name):
    """The same for the same seed, mostly of the size that the harness asks for, and harmless."""
    harness = harnesses.load(name)
    first, second = (unguided.inputs(name, harness, 7) for _ in range(2))
    made = [next(first) for _ in range(200)]
    assert made == [next(second) for _ in range(200)]
    assert sum(len(data) <= harness.LONGEST for data in made) > 150
    assert len({*made}) > 150
    assert unguided.run(name, seconds=60, runs=20, seed=1) == (20, None)


def test_what_breaks_an_invariant_ends_the_run(monkeypatch, capsys):
    def check(data):
        assert b"ping" not in data

    monkeypatch.setattr(harnesses.load("codec"), "check", check)
    executions, data = unguided.run("codec", seconds=60, runs=100_000, seed=1)
    assert 0 < executions < 100_000
    assert b"ping" in data
    assert 'assert b"ping" not in data' in capsys.readouterr().err


def test_a_run_ends_with_its_time():
    assert unguided.run("framing", seconds=0, runs=100, seed=1) == (0, None)


@pytest.mark.parametrize("name", NAMES)
def test_the_modules_that_a_harness_executes(name):
    """So that the figures in fuzz/README.md are about the code that they name."""
    source = harnesses.FOLDER.parent / "src"
    executed = set()

    def enter(frame, _event, _argument):
        executed.add(frame.f_code.co_filename)

    check = harnesses.load(name).check
    before = sys.gettrace()
    sys.settrace(enter)
    try:
        for data in harnesses.kept(name):
            check(data)
    finally:
        sys.settrace(before)
    named = {str(path) for path in harnesses.sources(name)}
    assert {path for path in executed if path.startswith(str(source))} <= named
    # These are data, whose functions others need.
    data = {str(source / "stereos_proto" / f"{module}.py") for module in ("_constants", "_messages", "_registry")}
    assert named - executed <= data


def test_each_property_test_gets_its_share_of_the_inputs():
    """Four fifths of them once went to the first test: most inputs are made from the empty one."""
    harness = harnesses.load(harnesses.PROPERTIES)
    made = itertools.islice(unguided.inputs(harnesses.PROPERTIES, harness, seed=1), 4000)
    tests = Counter(data[0] % len(harness.PROPERTIES) for data in made if data)
    assert len(tests) == len(harness.PROPERTIES)
    assert max(tests.values()) < 4 * min(tests.values())


def test_the_property_tests_execute_what_all_harnesses_do():
    every = {path for name in NAMES for path in harnesses.sources(name) if "stereos_proto_io" not in path.parts}
    assert every <= {*harnesses.sources(harnesses.PROPERTIES)}


@pytest.mark.parametrize(
    "words",
    [
        "def f(a):\n    return a + 1\n",
        "# A comment.\ndef f(a):\n    'What it does.'\n    return (\n        a + 1  # why\n    )\n",
        "'What this is.'\n\n\ndef f(a):\n    return a + 1\n",
    ],
)
def test_words_are_no_code(tmp_path, words):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text(words)
    other.write_text("def f(a):\n    return a + 1\n")
    assert digests.code(one) == digests.code(other)
    other.write_text("def f(a):\n    return a + 2\n")
    assert digests.code(one) != digests.code(other)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["codec"], [("codec", "fuzz.run"), ("codec", "fuzz.unguided")]),
        (["codec", "jcard"], [("codec", "fuzz.run"), ("jcard", "fuzz.run")]),
    ],
)
def test_a_campaign_has_so_many_slices_under_way(names, first, tmp_path, monkeypatch):
    together = threading.Barrier(2)
    ran = []

    def run(name, seconds, *arguments, module="fuzz.run"):
        ran.append((name, module))
        if len(ran) <= 2:
            together.wait(20)
        return campaign.Ran(True, 100, 5, 6, 7, "")

    monkeypatch.setattr(campaign, "STATE", tmp_path / "executions.json")
    monkeypatch.setattr(campaign, "run", run)
    assert campaign.campaign(names, 200, 2)
    assert sorted(ran[:2]) == first
    assert all(campaign.read()[name]["executions"] >= 200 for name in names)


def test_what_a_slice_finds_ends_the_campaign(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign, "STATE", tmp_path / "executions.json")
    monkeypatch.setattr(campaign, "run", lambda *_arguments, **_options: campaign.Ran(False, 1, 0, 0, 0, "a crash"))
    assert not campaign.campaign(["codec", "jcard"], 200, 1)
    assert capsys.readouterr().out == "FOUND  codec\na crash\n"
    assert campaign.read() == {}


def test_a_campaign_goes_on_where_it_was(tmp_path, monkeypatch):
    ran = []

    def run(name, seconds, *arguments, module="fuzz.run"):
        ran.append((name, module, "--short" in arguments))
        return campaign.Ran(True, 100, 5, 6, 7, "")

    monkeypatch.setattr(campaign, "STATE", tmp_path / "executions.json")
    monkeypatch.setattr(campaign, "run", run)
    assert campaign.campaign(["codec"], 300, 1)
    assert campaign.campaign(["codec"], 900, 1)
    guided, free = ("codec", "fuzz.run"), ("codec", "fuzz.unguided", False)
    assert ran == [(*guided, True), free, free, free, (*guided, False), free, free, free, (*guided, True)]
    row = campaign.read()["codec"]
    assert row["executions"] == 900
    assert row["guided"] == 300
    assert (row["edges"], row["features"], row["corpus"]) == (5, 6, 7)
    assert "| codec |" in "\n".join(campaign.table())
    # Other code has been executed by nobody.
    monkeypatch.setattr(campaign, "digest", lambda _name: "another")
    assert len([*campaign.table()]) == 2
    assert campaign.campaign(["codec"], 100, 1)
    assert campaign.read()["codec"]["executions"] == 100


def test_a_campaign_ends_with_what_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign, "STATE", tmp_path / "executions.json")
    monkeypatch.setattr(campaign, "run", lambda *_args, **_kwargs: campaign.Ran(False, 3, 0, 0, 0, "AssertionError"))
    assert not campaign.campaign(["codec"], 300, 1)
    assert "FOUND  codec" in capsys.readouterr().out
    assert campaign.read() == {}
