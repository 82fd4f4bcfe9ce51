"""JSON as the reference reads it."""

import json
import math
import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stereos_proto import Role
from stereos_proto._constants import MAX_KEPT_NESTING, MAX_NESTING
from stereos_proto._json import (
    TOO_DEEP,
    MalformedJSON,
    Members,
    NegativeZero,
    clean_text,
    clean_value,
    json_type,
    parse,
)
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


def canonical(value):
    """A value without our own classes, and with numbers as `json` has them."""
    if isinstance(value, dict):
        return {name: canonical(member) for name, member in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, NegativeZero) else value


@given(stereos.lines(sender=Role.HOST))
@example(rb'{"\udd2d":1,"x":"\udd2d"}')
def test_the_same_lines_as_the_standard_library(line):
    """An independent reading of the rules: decode with U+FFFD, then `json`, which takes NaN and friends besides.

    Of strings, only the names are free of lone surrogates already.
    """
    text = line.decode("utf-8", "surrogateescape")
    text = "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in text)

    def refuse(name):
        raise ValueError(name)

    def cleaned(pairs):
        return {re.sub("[\ud800-\udfff]", "\ufffd", name): value for name, value in pairs}

    try:
        expected = json.loads(text, parse_constant=refuse, object_pairs_hook=cleaned)
    except ValueError:
        with pytest.raises(MalformedJSON):
            parse(line)
    else:
        assert canonical(parse(line)) == expected


@given(stereos.json_values(max_leaves=30))
def test_the_loop_reads_what_the_scanner_reads(value):
    line = json.dumps(value).encode()
    deep = b"[" * MAX_KEPT_NESTING + line + b"]" * MAX_KEPT_NESTING
    inner = parse(b'{"x":' + line + b',"deep":' + deep + b"}")
    if isinstance(value, (dict, list)):
        assert inner["deep"] is not TOO_DEEP
    assert canonical(inner["x"]) == value


def test_deep_values_are_checked_and_not_kept():
    kept = parse(b"[" * MAX_KEPT_NESTING + b"]" * MAX_KEPT_NESTING)
    assert clean_value(kept) == json.loads("[" * MAX_KEPT_NESTING + "]" * MAX_KEPT_NESTING)
    for depth in (MAX_KEPT_NESTING + 1, MAX_NESTING):
        deep = parse(b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"b":1}')
        assert deep["b"] == 1
        with pytest.raises(ValueError, match=f"^nests deeper than {MAX_KEPT_NESTING} levels$"):
            clean_value(deep)
    with pytest.raises(MalformedJSON, match=r"^exceeded max depth$"):
        parse(b'{"a":' * 10_001 + b"1" + b"}" * 10_001)


def test_brackets_in_strings_do_not_nest():
    text = r"[\"{" * 20_000
    assert parse(b'"' + text.encode() + b'"') == '["{' * 20_000
    assert parse(b'{"a":"' + b"]}" * 20_000 + b'"}') == {"a": "]}" * 20_000}


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
    members = parse(b'{"a":1,"b":2,"a":3,"a":4}')
    assert members == {"a": 4, "b": 2}
    assert members.shadowed == (("a", 1), ("a", 3))
    assert Members([("\ud800", 1), ("\ufffd", 2)]).shadowed == (("\ufffd", 1),)


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
        ({}, "object"),
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
