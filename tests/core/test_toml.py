"""Cutting a table out of a TOML text: everything else stays, byte for byte."""

import tomllib

import pytest
from hypothesis import given

from stereos_proto._toml import statements, without_table
from tomls import SENTINEL, documents


def leads_to(table, path):
    for part in path:
        table = table[part]
    return table


@given(documents())
def test_what_is_left_is_the_rest_byte_for_byte(document):
    left = without_table(document.text, "secrets")
    assert left == document.rest
    table = tomllib.loads(document.text, parse_float=str)
    table.pop("secrets", None)
    assert tomllib.loads(left, parse_float=str) == table
    assert SENTINEL not in left


@given(documents())
def test_every_statement_leads_to_a_value_and_knows_its_line(document):
    table = tomllib.loads(document.text)
    position = 0
    for statement in statements(document.text):
        leads_to(table, statement.path)
        assert document.text[: statement.start].count("\n") + 1 == statement.line
        assert position <= statement.start < statement.end
        position = statement.end
    paths = {statement.path for statement in statements(document.text)}
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
        ('a = """""]"""\nb = \'\'\'\'\'[\'\'\'\'\'\nc = 1', [("a",), ("b",), ("c",)]),
    ],
)  # fmt: skip
def test_paths_of_statements(text, paths):
    assert [statement.path for statement in statements(text)] == paths


@pytest.mark.parametrize(
    ("text", "left"),
    [
        # Right above the next table, after a blank line: that table's.
        ("[s]\na=1\n\n# of t\n[t]\n", "\n# of t\n[t]\n"),
        # The same with CRLF, and a "blank" line of blanks.
        ("[s]\r\na=1\r\n \t\r\n# of t\r\n[t]\r\n", " \t\r\n# of t\r\n[t]\r\n"),
        # No blank line: the setting's above.
        ("[s]\na=1\n# of a\n[t]\n", "[t]\n"),
        # A setting in it: rather a secret that was put aside.
        ("[s]\na=1\n\n# old:\n# b = 2\n[t]\n", "[t]\n"),
        # Further up, and at the end, where nothing follows: the table's.
        ("[s]\na=1\n\n# x\n\n[t]\n", "\n[t]\n"),
        ("[s]\na=1\n\n# x\n", ""),
        ("[s]\na=1\n\n# x", ""),
        # An end of line that is none to TOML.
        ("[s]\na=1\n\n# b = \u2028# c\n[t]\n", "[t]\n"),
        # What stands above the table is outside it.
        ("# of s\n\n[s]\na=1\n", "# of s\n\n"),
        ("[s]\na=1\n[t]\n[s.b]\nc=1\n[u]\n", "[t]\n[u]\n"),
        ("[t.s]\na=1\n[t2]\ns=1\n", "[t.s]\na=1\n[t2]\ns=1\n"),
        ("s={a=1}", ""),
        ("b=1", "b=1"),
    ],
)
def test_which_comments_stay(text, left):
    tomllib.loads(text)
    assert without_table(text, "s") == left


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
        without_table(text, "secrets")
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
