"""How errors and warnings speak of the places of a jcard.toml."""

import copy

import pytest

import costs
from stereos_proto import JcardError, JcardFault, StereosError
from stereos_proto._jcard_fields import Findings
from stereos_proto._jcard_text import MAX_SHOWN_KEY, JcardText

SENTINEL = "s3nt1nel"


def judge(text, *findings, strict=True):
    noted = Findings()
    for severity, path, reason in findings:
        getattr(noted, severity)(path, reason)
    return JcardText("card", text).judge(noted.found, strict=strict)


def error(*args, **options):
    with pytest.raises(JcardError) as caught:
        judge(*args, **options)
    return caught.value


@pytest.mark.parametrize(
    ("text", "path", "line", "key"),
    [
        ("a = 1\nb = 2", ("b",), 2, "b"),
        ("[[Agents]]\n\nNAME = 1", ("agents", 0, "name"), 3, "agents[0].name"),
        # What is missing: its table.
        ("\n[[shared]]\nhost = ''", ("shared", 0, "guest"), 2, "shared[0].guest"),
        # What is written inside another value: that one.
        ("shared = [\n{guest = 1}]", ("shared", 0, "guest"), 1, "shared[0].guest"),
        # What has no statement of its own: the first inside it.
        ("a = 1\nsecrets.A.b = 1\nsecrets.A.c = 2", ("secrets", "A"), 2, "secrets.A"),
        ("a = 1\nSecrets.A.b = 1\nsecrets.A.c = 2", ("secrets", "A"), 2, "secrets.A"),
        ("a = 1\nResources.cpus = 1", ("Resources",), 2, "Resources"),
        ("a = 1\nresources.cpus = 1", ("resources",), 2, "resources"),
        # A known key that is spelt otherwise, after another one.
        ("[[Agents]]\nX = 1\nNAME = 1", ("agents", 0, "name"), 3, "agents[0].name"),
        ("a = 1\n[secrets]", ("secrets", "A"), 2, "secrets.A"),
        ("[secrets]\n'a b' = 1", ("secrets", "a b"), 2, 'secrets."a b"'),
        ('[secrets]\n"schlüssel\\n" = 1', ("secrets", "schlüssel\n"), 2, 'secrets."schlüssel\\n"'),
        ("[secrets]\na = 1\nA = 2", ("secrets", "A"), 3, "secrets.A"),
        ("a = 1", ("b",), 0, "b"),
        # Two spellings: each has its own line.
        ("Name = 1\nname = 2", ("name",), 2, "name"),
        ("name = 1\nName = 2", ("Name",), 2, "Name"),
    ],
)
def test_places(text, path, line, key):
    exc = error(text, ("fault", path, "is wrong"))
    place = f"card, line {line}" if line else "card"
    assert str(exc) == f"{place}: {key} is wrong"
    assert exc.faults == (JcardFault(line, key, f"{key} is wrong"),)
    assert (exc.line, exc.key) == (line, key)
    assert judge(text, ("warn", path, "is odd")) == (f"{place}: {key} is odd",)


def test_all_faults_in_the_order_of_their_lines():
    exc = error("a = 1\nb = 2\nc = 3", ("fault", ("c",), "is x"), ("warn", ("b",), "is y"), ("doubt", ("a",), "is z"))
    assert str(exc) == "card has 2 faults: line 1: a is z; line 3: c is x"
    assert [(fault.line, fault.key) for fault in exc.faults] == [(1, "a"), (3, "c")]
    assert (exc.line, exc.key) == (1, "a")


def test_doubts_are_warnings_unless_strict():
    doubt = ("doubt", ("a",), "is z")
    assert judge("a = 1\nb = 1", ("warn", ("b",), "is y"), doubt, strict=False) == (
        "card, line 1: a is z",
        "card, line 2: b is y",
    )
    assert "a is z" in str(error("a = 1", doubt))
    assert "b is x" in str(error("b = 1", ("fault", ("b",), "is x"), strict=False))
    assert judge("a = 1") == ()


@pytest.mark.parametrize("names", [("x" * 500_000,), ("x" * 90,) * 90], ids=["long", "deep"])
def test_faults_below_long_names_cost_little(names):
    """Each of them held all the names: 200 KB took 3 GB."""
    text = f"[{'.'.join(names)}]\n" + "".join(f"k{number} = 1\n" for number in range(1000))
    findings = [("warn", (*names, f"k{number}"), "is odd") for number in range(1000)]
    with costs.counted_bytes() as cost:
        said = judge(text, *findings)
    assert cost.peak < 10_000_000
    key = ".".join(name[:MAX_SHOWN_KEY] for name in names)
    assert said[0] == f"card, line 2: {key[:MAX_SHOWN_KEY]}… is odd"
    assert said[-1].startswith("card, line 1001: ")


@pytest.mark.parametrize(("size", "shown"), [(512, "x" * 512), (513, "x" * 512 + "…")])
def test_how_much_of_a_long_name_is_shown(size, shown):
    name = "x" * size
    assert str(error(f"{name} = 1", ("fault", (name,), "is odd"))) == f"card, line 1: {shown} is odd"


def test_deep_keys_cost_little():
    path = ("a",) * 900  # later Pythons read no more than 1000
    assert error(f"{'.'.join(path)} = 1", ("fault", path, "is deep")).line == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = ", 1, "Invalid value (at end of document)"),
        ("a = 1\nb = [\n\n", 4, None),
        ("a = 1\nb\n", 2, "Expected '=' after a key"),
        (f"a = 1\nb = '{SENTINEL}", 2, None),
        (f"[secrets]\nA = '''{SENTINEL}", 2, None),
        (f"[secrets]\nA = '{SENTINEL}' '{SENTINEL}'", 2, None),
        ("[[a]", 1, "Expected ']]' at the end of an array"),
        ("[a", 1, "Expected ']' at the end of a table"),
        (f'A = "{SENTINEL}\n', 1, "Illegal character '\\n'"),
        (f"A = '{SENTINEL}", 1, 'Expected "\'"'),
        (f"A = '''{SENTINEL}", 1, "Expected \"'''\""),
        (f'A = "{SENTINEL}\\ "', 1, "Unescaped '\\' in a string"),
        (f"[secrets]\nA = {SENTINEL}", 2, None),
        (f"a = {{{SENTINEL} = 1, {SENTINEL} = 2}}", 1, "…"),
        (f'a = {{"{SENTINEL}\'" = 1, "{SENTINEL}\'" = 2}}', 1, "…"),
        (f'a = {{"{SENTINEL}\'\\"" = 1, "{SENTINEL}\'\\"" = 2}}', 1, "…"),
        (f"[{SENTINEL}]\n[{SENTINEL}]\n", 2, "…"),
        (f"a = 1\na = '{SENTINEL}'", 2, None),
        ("a = '\x01'", 1, "…"),
        ("a\ufeff = 1", 1, None),
        (f"[secrets]\nA = '{SENTINEL}'\nB = 1979-13-27", 3, None),
        (f"A = '{SENTINEL}'\nB = {'7' * 5000}", 0, None),
        (f"A = '{SENTINEL}'\nB = {'[' * 5000}", 0, "it nests too deeply"),
    ],
)
def test_what_is_no_toml(text, line, words):
    with pytest.raises(JcardError) as caught:
        JcardText("card", text).parse()
    exc = caught.value
    place = f", line {line}" if line else ""
    assert str(exc).startswith(f"card{place}: invalid TOML: ")
    assert SENTINEL not in str(exc)
    assert (exc.line, exc.key, len(exc.faults)) == (line, "", 1)
    if words:
        assert words in str(exc)


def test_a_key_of_too_many_names_is_refused_before_it_is_read():
    with pytest.raises(JcardError) as caught:
        JcardText("card", f"A = '{SENTINEL}'\n{'a.' * 100}a = 1").parse()
    assert str(caught.value) == "card, line 2: a key has more than 100 names"
    assert caught.value.line == 2


def test_a_byte_order_mark_is_skipped():
    assert JcardText("card", "\ufeffa = 1").parse() == {"a": 1}


def test_the_file_as_a_whole():
    assert str(JcardText("card", "").error("is odd")) == "card: is odd"


@pytest.mark.parametrize("text", [b"a = 1", None, 7])
def test_the_text_must_be_text(text):
    with pytest.raises(TypeError, match="must be a str"):
        JcardText("card", text)


def test_the_error_is_one_of_ours_and_can_be_copied():
    exc = JcardError("text")
    assert (exc.line, exc.key, exc.faults) == (0, "", ())
    assert isinstance(exc, StereosError)
    assert isinstance(exc, ValueError)
    exc = error("a = 1\nb = 1", ("fault", ("a",), "is x"), ("fault", ("b",), "is y"))
    twin = copy.copy(exc)
    assert (str(twin), twin.line, twin.key, twin.faults) == (str(exc), exc.line, exc.key, exc.faults)
