"""JSON as the reference reads it."""

import json
import math
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stereos_proto import Role
from stereos_proto._codec import json as _json
from stereos_proto._codec.json import (
    TOO_DEEP,
    MalformedJSON,
    NegativeZero,
    clean_text,
    clean_value,
    has_odd_numbers,
    json_type,
    nests_deeper,
    parse,
)
from stereos_proto._constants import MAX_KEPT_NESTING, MAX_NESTING
from stereos_proto.testing import strategies as stereos

#: Line → fault and column, in the words of the reference.
FAULTS = {
    b"": ("unexpected end of JSON input", 1),
    b"   ": ("unexpected end of JSON input", 4),
    b"this": ("invalid character 'h' in literal true (expecting 'r')", 2),
    b"nul": ("unexpected end of JSON input", 4),
    b"falsy": ("invalid character 'y' in literal false (expecting 'e')", 5),
    b"truex": ("invalid character 'x' after top-level value", 5),
    b'{"type":': ("unexpected end of JSON input", 9),
    b'{"a"': ("unexpected end of JSON input", 5),
    b"{": ("unexpected end of JSON input", 2),
    b'{"a" 1}': ("invalid character '1' after object key", 6),
    b'{"a":1 "b"}': ("invalid character '\"' after object key:value pair", 8),
    b'{"a":1,}': ("invalid character '}' looking for beginning of object key string", 8),
    b"{1:2}": ("invalid character '1' looking for beginning of object key string", 2),
    b"{'a'}": (r"invalid character '\'' looking for beginning of object key string", 2),
    b"[1,]": ("invalid character ']' looking for beginning of value", 4),
    b"[1 2]": ("invalid character '2' after array element", 4),
    b"[}": ("invalid character '}' looking for beginning of value", 2),
    b"]": ("invalid character ']' looking for beginning of value", 1),
    b"{}{}": ("invalid character '{' after top-level value", 3),
    b"01": ("invalid character '1' after top-level value", 2),
    b"-": ("unexpected end of JSON input", 2),
    b"-x": ("invalid character 'x' in numeric literal", 2),
    b"1.": ("unexpected end of JSON input", 3),
    b"1.x": ("invalid character 'x' after decimal point in numeric literal", 3),
    b"1e+": ("unexpected end of JSON input", 4),
    b"1ex": ("invalid character 'x' in exponent of numeric literal", 3),
    b"1.5.5": ("invalid character '.' after top-level value", 4),
    b"[1.5.5]": ("invalid character '.' after array element", 5),
    b"1e5e5": ("invalid character 'e' after top-level value", 4),
    b"NaN": ("invalid character 'N' looking for beginning of value", 1),
    b"[Infinity]": ("invalid character 'I' looking for beginning of value", 2),
    b"-Infinity": ("invalid character 'I' in numeric literal", 2),
    b'"abc': ("unexpected end of JSON input", 5),
    b'"a\x01"': (r"invalid character '\x01' in string literal", 3),
    b'"a\tb"': (r"invalid character '\t' in string literal", 3),
    b'"\\x"': ("invalid character 'x' in string escape code", 3),
    b'"\\': ("unexpected end of JSON input", 3),
    b'"\\uG"': (r"invalid character 'G' in \u hexadecimal character escape", 4),
    b'"\\u1G"': (r"invalid character 'G' in \u hexadecimal character escape", 5),
    b'"\\u12G4"': (r"invalid character 'G' in \u hexadecimal character escape", 6),
    b'"\\u12': ("unexpected end of JSON input", 6),
    b'{"a\x00":1}': (r"invalid character '\x00' in string literal", 4),
    b"\xef\xbb\xbf{}": ("invalid character 'ï' looking for beginning of value", 1),
    b"\xff": ("invalid character 'ï' looking for beginning of value", 1),
    b"\x7f": (r"invalid character '\x7f' looking for beginning of value", 1),
    b"[1,\\]": (r"invalid character '\\' looking for beginning of value", 4),
    b"[" * 9_000: ("unexpected end of JSON input", 9_001),
    b"[" * 10_001: ("exceeded max depth", 0),
}


@pytest.mark.parametrize("line", FAULTS, ids=lambda line: repr(line[:20]))
def test_faults(line):
    with pytest.raises(MalformedJSON) as caught:
        parse(line)
    assert (caught.value.reason, caught.value.column) == FAULTS[line]
    assert str(caught.value) == caught.value.reason


@pytest.mark.parametrize("depth", [0, MAX_KEPT_NESTING + 1])
@pytest.mark.parametrize("line", [line for line in FAULTS if line[:1] not in b"]" and len(line) < 100])
def test_faults_in_deep_lines_are_worded_alike(line, depth):
    """Deep lines go through the loop from the start; the words must not depend on it."""
    with pytest.raises(MalformedJSON) as caught:
        parse(b"[" * depth + line)
    reason, column = FAULTS[line]
    assert caught.value.column == column + depth or "top-level" in reason
    assert caught.value.reason == reason or "top-level" in reason


@given(stereos.json_values(max_leaves=30), st.booleans(), st.sampled_from([None, 2]))
def test_what_the_standard_library_writes(value, ascii_only, indent):
    line = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert clean_value(parse(line)) == value


def plainly(value):
    """What `parse` returns, with objects as dictionaries and numbers as `json` has them."""
    if isinstance(value, tuple):
        return {clean_text(name): plainly(member) for name, member in value}
    if isinstance(value, list):
        return [plainly(item) for item in value]
    return int(value) if isinstance(value, NegativeZero) else value


def replaced(line):
    """A line as text, each byte that is not UTF-8 as U+FFFD."""
    text = line.decode("utf-8", "surrogateescape")
    return "".join("\ufffd" if "\udc80" <= character <= "\udcff" else character for character in text)


@given(stereos.lines(sender=Role.HOST))
@example(rb'{"\udd2d":1,"x":"\udd2d"}')
def test_the_same_lines_as_the_standard_library(line):
    """An independent reading of the rules: decode with U+FFFD, then `json`, which takes NaN and friends besides.

    Of strings, only the names are free of lone surrogates already.
    """

    def refuse(name):
        raise ValueError(name)

    def cleaned(pairs):
        return {re.sub("[\ud800-\udfff]", "\ufffd", name): value for name, value in pairs}

    try:
        expected = json.loads(replaced(line), parse_constant=refuse, object_pairs_hook=cleaned)
    except ValueError:
        with pytest.raises(MalformedJSON):
            parse(line)
    else:
        assert plainly(parse(line)) == expected


# What is JSON, and where it stops being it, by a loop over tokens with a stack: slow, and nothing of ours.
TOKEN = re.compile(
    r'[ \t\n\r]*(?:([\[\]{},:])|("(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")'
    r"|(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![.eE])|true|false|null))"
)


def stops(text):
    """Where reading stops, and how many levels are open there; None where all of it is JSON."""
    opened, expect, position = [], "value", 0
    while True:
        match = TOKEN.match(text, position)
        if match is None:
            done = expect == "end" and not text[position:].strip(" \t\n\r")
            return None if done else (position, len(opened))
        mark, string, _scalar = match.groups()
        before, inside = expect, opened[-1] if opened else ""
        if expect in ("value", "value or ]") and mark and mark in "[{":
            opened.append(mark)
            expect = "value or ]" if mark == "[" else "name or }"
            if len(opened) > MAX_NESTING:
                return "too deep"
        elif (expect == "value or ]" and mark == "]") or (expect == "name or }" and mark == "}"):
            opened.pop()
            expect = "more" if opened else "end"
        elif expect in ("name", "name or }") and string:
            expect = ":"
        elif expect == ":" and mark == ":":
            expect = "value"
        elif expect == "more" and mark == ",":
            expect = "value" if inside == "[" else "name"
        elif expect == "more" and mark == {"[": "]", "{": "}"}[inside]:
            opened.pop()
            expect = "more" if opened else "end"
        elif expect in ("value", "value or ]") and not mark:
            expect = "more" if opened else "end"
        else:
            return position, len(opened)
        assert before != "end"
        position = match.end()


SHAPES = [
    '"a"',
    '"[,"',
    r'"\""',
    "-0",
    "1.5.5",
    "01",
    "true",
    "nul",
    "[]",
    "{}",
    '{"a":',
    '"b":',
    '["c",',
    "],",
    "},",
    "[[",
]
TOKENS = st.sampled_from([*'[]{},: "1x', *SHAPES])


@given(st.lists(TOKENS, max_size=25).map("".join), st.integers(0, 3))
@example('[1,"a":2]', 0)
@example('{"a":1,2}', 0)
@example('{"a":1,["b"]}', 0)
@example('[{"a":[1,{"b":2]}]', 1)
def test_where_reading_stops(text, depth):
    """Shallow lines, and the same ones below more levels than are kept."""
    text = "[" * (depth * (MAX_KEPT_NESTING // 2)) + text
    stop = stops(text)
    if stop is None:
        parse(text.encode())
        return
    with pytest.raises(MalformedJSON) as caught:
        parse(text.encode())
    # A fault inside a token is at or after its first character, behind blanks.
    at = len(text) - len(text[stop[0] :].lstrip(" \t\n\r"))
    assert at < caught.value.column <= len(text) + 1
    if text[at : at + 1] not in tuple('"-0123456789tfn'):
        assert caught.value.column == at + 1


@given(stereos.json_values(max_leaves=30))
def test_what_stands_beside_deep_values_is_read_alike(value):
    line = json.dumps(value).encode()
    deep = b"[" * MAX_KEPT_NESTING + line + b"]" * MAX_KEPT_NESTING
    members = dict(parse(b'{"x":' + line + b',"deep":' + deep + b',"y":' + line + b"}"))
    assert plainly(members["x"]) == plainly(members["y"]) == value
    with pytest.raises(ValueError, match=r"^nests deeper"):
        clean_value(members["deep"])


def test_deep_values_are_checked_and_not_kept():
    kept = parse(b"[" * MAX_KEPT_NESTING + b"]" * MAX_KEPT_NESTING)
    assert clean_value(kept) == json.loads("[" * MAX_KEPT_NESTING + "]" * MAX_KEPT_NESTING)
    for depth in (MAX_KEPT_NESTING + 1, MAX_NESTING):
        deep = parse(b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"b":1}')
        assert dict(deep)["b"] == 1
        with pytest.raises(ValueError, match=f"^nests deeper than {MAX_KEPT_NESTING} levels$"):
            clean_value(deep)
    with pytest.raises(MalformedJSON, match=r"^exceeded max depth$"):
        parse(b'{"a":' * 10_001 + b"1" + b"}" * 10_001)


def test_brackets_in_strings_do_not_nest():
    text = r"[\"{" * 20_000
    assert parse(b'"' + text.encode() + b'"') == '["{' * 20_000
    assert parse(b'{"a":"' + b"]}" * 20_000 + b'"}') == (("a", "]}" * 20_000),)


def test_the_interpreters_limit_does_not_matter():
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(100_000)
        with pytest.raises(MalformedJSON, match=r"^exceeded max depth$"):
            parse(b"[" * 1_000_000)
        assert parse(b"[" * MAX_NESTING + b"]" * MAX_NESTING)
    finally:
        sys.setrecursionlimit(limit)


def test_members_that_stand_twice():
    assert parse(b'{"a":1,"b":2,"a":3,"a":4}') == (("a", 1), ("b", 2), ("a", 3), ("a", 4))
    assert clean_value(parse(b'{"a":1,"b":2,"a":3}')) == {"a": 3, "b": 2}
    assert clean_value(parse(rb'{"\ud800":1,"\ufffd":2}')) == {"\ufffd": 2}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'"\xff\xfe"', "\ufffd\ufffd"),
        (rb'"\ud800"', "\ufffd"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\ud800\ud800x"', "\ufffd\ufffdx"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'"\xf0\x9f\x98\x80"', "\U0001f600"),
    ],
)
def test_what_is_no_text_becomes_the_replacement_character(line, text):
    assert clean_text(parse(line)) == text
    assert clean_value(parse(b"[" + line + b"]")) == [text]


def test_numbers():
    assert type(parse(b"-0")) is NegativeZero
    assert type(clean_value(parse(b"-0"))) is int
    assert parse(b"9" * 640) == int("9" * 640)
    assert parse(b"9" * 641) == math.inf
    assert parse(b"9" * 5000) == math.inf
    assert parse(b"-" + b"9" * 5000) == -math.inf
    assert parse(b"1e400") == math.inf


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "bool"),
        ("", "string"),
        ((), "object"),
        ((("a", 1),), "object"),
        ([], "array"),
        (TOO_DEEP, "array"),
        (1, "number"),
        (1.5, "number"),
    ],
)
def test_types(value, name):
    assert json_type(value) == name


@pytest.mark.parametrize("sibling", [b"[]", b"{}", b'"["'])
def test_siblings_do_not_nest(sibling):
    assert len(parse(b"[" + b",".join([sibling] * (MAX_NESTING + 1)) + b"]")) == MAX_NESTING + 1


@pytest.mark.parametrize("sibling", [b"[]", b"[[]]", b"{}"])
def test_what_was_closed_makes_nothing_less_deep(sibling):
    levels = b"[" + sibling + b","
    with pytest.raises(MalformedJSON, match=r"^exceeded max depth$"):
        parse(levels * MAX_NESTING + b"[]" + b"]" * MAX_NESTING)
    # Deeper than Python's own recursion goes, and not too deep for the reference.
    assert len(parse(levels * 5000 + b"1" + b"]" * 5000)) == 2


# ------------------------------------------------------------------------------------------- before it is read


def deepest(line):
    """How deep a reader that recurses goes into `line` before it ends or stops. Brackets inside strings are none.

    It stops at a bracket that closes and that none has opened, and in an object where no name begins.
    """
    depth = deepest = 0
    bare = re.sub(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', b'""', line, flags=re.DOTALL)
    for place in re.finditer(rb"[\[\]{}]", bare):
        bracket, rest = place[0], bare[place.end() :].lstrip(b" \t\r\n")
        depth += (bracket in b"[{") - (bracket in b"]}")
        deepest = max(deepest, depth)
        if depth < 0 or (bracket == b"{" and not rest.startswith((b'"', b"}"))):
            break
    return deepest


PIECES = st.sampled_from(
    [
        b"[",
        b"]",
        b"{",
        b"}",
        b'{"":',
        b'"[{"',
        b'"',
        b"\\",
        b",",
        b"},{",
        b"],[",
        b'"},{"',
        b"1",
        b'"\\"["',
        b"[{}]",
        b" ",
    ]
)


@example(b"{{{{{", 3)
@given(st.lists(PIECES, max_size=60).map(b"".join), st.integers(1, 12))
def test_a_line_that_is_deep_is_never_called_shallow(line, levels):
    assert nests_deeper(line, levels) or deepest(line) <= levels


@pytest.mark.parametrize("levels", [4, 127, 128, 129, 4000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"":', "}"), ('[{"":', "}]"), ('[{}, {"a":1},', "]")])
@pytest.mark.parametrize("noise", ["", ',"[[[[{{"', ",{}" * 5000, ", {}, []" * 5000, "," + '"[{"' * 5000])
def test_depth_is_counted_exactly(opening, closing, noise, levels):
    """Where the cheap answers do not do: with brackets in strings, and with siblings."""
    line = f"[{opening * levels}0{closing * levels}{noise}]".encode()
    depth = deepest(line)
    assert not nests_deeper(line, depth)
    assert nests_deeper(line, depth - 1)


class Searched(bytes):
    """A line that keeps what is counted in it."""

    def __new__(cls, line):
        self = super().__new__(cls, line)
        self.searches = []
        return self

    def find(self, what):
        self.searches.append(what)
        return super().find(what)

    def count(self, what):
        self.searches.append(what)
        return super().count(what)


@pytest.mark.parametrize(
    ("line", "is_deeper", "looked_for"),
    [
        # Ten bytes do not nest deeper than ten levels.
        (b"[" * 10, False, "nothing"),
        # 35 bytes with one bracket hold an array, eight objects and an innermost value; with two it is 31 bytes.
        (b"[" + b" " * 34, False, "arrays"),
        (b"[" + b" " * 35, False, "objects"),
        (b"[[" + b" " * 29, False, "arrays"),
        (b"[[" + b" " * 30, False, "objects"),
        # Ten brackets are few enough. Of more, those do not count that open after a neighbour.
        (b"[" + b"{" * 9 + b" " * 30, False, "objects"),
        (b"[" + b"{},{" * 6 + b" " * 30, False, "neighbours"),
        (b"[" + b"[],[" * 6 + b" " * 30, False, "neighbours"),
        # In strings they do not count either.
        (b'["' + b"[" * 20 + b'"' + b" " * 30, False, "strings"),
        (b"[" * 11, True, "strings"),
    ],
)
def test_no_more_of_a_line_is_looked_at_than_needed(line, is_deeper, looked_for, monkeypatch):
    """A health report is looked at on every poll, and costs what counting its brackets costs."""
    strings = []

    class Strings:
        def sub(self, new, text):
            strings.append(text)
            return re.sub(rb'"[^"]*"', new, bytes(text))

    monkeypatch.setattr(_json, "_SKIPPED_STRINGS", Strings())
    searched = Searched(line)
    assert nests_deeper(searched, 10) is is_deeper
    found = {
        "strings": bool(strings),
        "neighbours": b"},{" in searched.searches,
        "objects": b"{" in searched.searches,
        "arrays": b"[" in searched.searches,
        "nothing": True,
    }
    assert next(what for what, is_so in found.items() if is_so) == looked_for


def test_integers_of_up_to_640_digits_are_exact():
    """Also on a line with a number that other readers take for something else."""
    digits = "7" * 640
    assert parse(f"[-0,{digits},-{digits}]".encode()) == [0, int(digits), -int(digits)]
    assert parse(f"[-0,{digits}7]".encode()) == [0, math.inf]


@pytest.mark.parametrize(
    ("line", "odd"),
    [
        (b"-0", True),
        (b"[1,-0.5]", True),
        (b"9" * 640, False),
        (b"9" * 641, True),
        (b"[" + b"9" * 640 + b",1]", False),
        (b'["' + b"9" * 640 + b"x" + b"9" * 640 + b'"]', False),
        (b"10", False),
    ],
)
def test_numbers_that_need_a_look(line, odd):
    assert has_odd_numbers(line) is odd


#: The stack that reading must fit into: that threads of some systems have, or less.
STACK_KIB = 256
#: Reads the deepest lines that there may be in a thread with that stack, the interpreter's own guard out of the way.
_IN_A_SMALL_THREAD = """
import sys, threading
from stereos_proto import Role, StereosError
from stereos_proto._codec import reader
sys.setrecursionlimit(1_000_000)
read, lines, seen = reader(Role.GUEST), [], []
for opening, closing in (("[", "]"), ('{"":', "}"), ('[{"":', "}]"), ('{"x":[1,', "]}")):
    for levels in (127, 128, 129, 3_999, 4_001, 9_998, 9_999, 10_001, 20_000):
        steps = levels // len(closing)
        for closed in (closing * steps, ""):
            for head in ('{"type":"pong","x":', '{"type":"new","payload":', '{"x":', ""):
                lines.append(f"{head}{opening * steps}0{closed}{'}' if head else ''}".encode())
                lines.append(f"{head}{opening * steps}0{closed},{{}}".encode())
def run():
    for line in lines:
        seen.append(type(read(line)).__name__)
threading.stack_size(int(sys.argv[1]) * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(len(lines) == len(seen), sorted({*seen}))
"""


def test_no_line_overflows_the_stack_of_a_small_thread():
    """It would kill the process: so it is one of its own."""
    command = (sys.executable, "-c", _IN_A_SMALL_THREAD, str(STACK_KIB))
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    expected = "True ['InvalidMessage', 'MalformedLine', 'Pong', 'UnknownMessage']\n"
    assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")
