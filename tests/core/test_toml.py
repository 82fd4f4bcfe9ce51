"""Where the keys of a TOML text stand."""

import tomllib

import pytest
from hypothesis import given

from stereos_proto._toml import line_of_a_long_key, statements
from tomls import documents


def leads_to(table, path):
    for part in path:
        table = table[part]
    return table


@given(documents())
def test_every_statement_leads_to_a_value_and_knows_its_line(text):
    table = tomllib.loads(text)
    lines = text.split("\n")
    last = 0
    for statement in statements(text):
        leads_to(table, statement.path)
        assert statement.line > last
        last = statement.line
        # What stands above it is whole, and it begins on its line.
        tomllib.loads("".join(f"{line}\n" for line in lines[: last - 1]))
        assert lines[last - 1].strip()[:1] not in ("", "#")
    paths = {statement.path for statement in statements(text)}
    for leaf in leaves(table):
        assert any(leaf[:size] in paths for size in range(1, len(leaf) + 1))


def leaves(value, path=()):
    """The paths of all that is no table, as far as headers and keys can name them."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif path:
        yield path


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("", []),
        ("\n# a\n", []),
        ("a=1", [("a",)]),
        ("a.b . 'c.d'.\"\\u0065=\" = 1", [("a", "b", "c.d", "e=")]),
        ("[a]\nb=1\n[[c]]\n[[c]]\nd=1\n[c.e]", [("a",), ("a", "b"), ("c", 0), ("c", 1), ("c", 1, "d"), ("c", 1, "e")]),
        ("[[a]]\n[[a.b]]\n[[a.b]]", [("a", 0), ("a", 0, "b", 0), ("a", 0, "b", 1)]),
        ("[[a]]\n[[a.b]]\n[[a]]\n[[a.b]]", [("a", 0), ("a", 0, "b", 0), ("a", 1), ("a", 1, "b", 0)]),
        ("a = [\n[1,\n2], # ]\n]\nb = 1", [("a",), ("b",)]),
        ("a = {b = {c = 1}}\nd = {}\ne = 1", [("a",), ("d",), ("e",)]),
        ('a = """""]"""\nb = \'\'\'\'\'[\'\'\'\'\'\nc = 1', [("a",), ("b",), ("c",)]),
    ],
)  # fmt: skip
def test_paths_of_statements(text, paths):
    assert [statement.path for statement in statements(text)] == paths


class CountedText(str):
    """Counts the characters that are copied or searched, regular expressions apart."""

    __slots__ = ("cost",)

    def __new__(cls, text):
        self = super().__new__(cls, text)
        self.cost = 0
        return self

    def __getitem__(self, place):
        found = super().__getitem__(place)
        self.cost += len(found)
        return found

    def count(self, *args):
        self.cost += len(range(len(self))[slice(*args[1:])])
        return super().count(*args)


@pytest.mark.parametrize(
    "line", ["a{} = 1\n", "[a{}]\n", "[[a]]\n", "# {}\n", "\n", "[secrets.a{}]\n", 'a{} = """\n"""\n']
)
def test_the_cost_is_linear(line):
    costs = []
    for lines in (100, 200, 400):
        text = CountedText("".join(line.format(number + 1000) for number in range(lines)))
        statements(text)
        assert text.cost <= 3 * len(text)
        costs.append(text.cost)
    assert costs[2] <= 2 * costs[1] <= 4 * costs[0]


@pytest.mark.parametrize("form", ['"""{}"""', "'''{}'''", '"{}"', "'{}'"])
@pytest.mark.parametrize("piece", ["\\\\", "x", "''", "#["])
def test_long_strings_are_one_statement(form, piece):
    text = f"a = {form.format(piece * 50_000)}\nb = 1"
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert [statement.path for statement in statements(text)] == [("a",), ("b",)]


HUNDRED = "a." * 100


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{HUNDRED}a = 1", 1),
        (f"\n[{HUNDRED}a]", 2),
        (f"x = 1\n[[{'a . ' * 99}'b.c' . d]]", 2),
        ('x = """\n\n"""\n' + '"a" . b-c.' * 50 + "a = 1", 4),
        (f"x = {{ {HUNDRED}a = 1 }}", 1),
        (f"# '\n{HUNDRED}a", 2),
        (f"x = '{HUNDRED}a'", 0),
        (f'x = "{HUNDRED}a" # {HUNDRED}', 0),
        (f"{'a.' * 99}a = 1", 0),
        ("a = 1.5\n" * 200, 0),
        ("", 0),
    ],
)
def test_a_key_of_more_than_a_hundred_names_is_found(text, line):
    assert line_of_a_long_key(text) == line


@given(documents())
def test_documents_have_no_such_key(text):
    assert line_of_a_long_key(text + "\n# " + "." * 100) == 0


@pytest.mark.parametrize(
    "text", ['"' + '\\"' * 300_000, '"""x"\\' * 300_000, '"""\\', '"\\', "'''a''", "'a"], ids=lambda text: text[:8]
)
def test_a_string_without_an_end_reaches_to_the_end(text):
    """Each of its quotes was taken for the begin of a string: 140 KB took 46 s."""
    assert line_of_a_long_key(f"{HUNDRED}a = 1\n{text}") == 1
    assert line_of_a_long_key(f"a = {text}\n{'x.' * 99}") == 0
