"""TOML documents of every shape, with `secrets` in them in every form."""

import tomllib

from hypothesis import strategies as st

#: Stands in every secret value, and nowhere else.
SENTINEL = "s3nt1nel"


def valid(value):
    try:
        tomllib.loads(f"x = [{value}]")  # the brackets show what ends in a comment, unless it closes them
        tomllib.loads(f"x = {value}")
    except ValueError:
        return False
    return True


def quoted(text):
    return '"' + "".join(f"\\u{ord(c):04x}" if c < " " or c in '"\\\x7f' else c for c in text) + '"'


characters = st.characters(exclude_categories=["Cs"])
fragments = st.lists(
    st.sampled_from(
        [
            "[secrets]",
            "\n",
            "#",
            "]",
            "[",
            "}",
            "{",
            "=",
            '\\"',
            '"',
            '""',
            "'",
            "''",
            "\\\\",
            "A = 1\n",
            "\\\n  ",
            "é\u2028",
        ]
    ),
    max_size=8,
).map("".join)
strings = (
    st.text(characters, max_size=8).map(quoted)
    | fragments.map(quoted)
    | fragments.map(lambda t: f'"{t}"').filter(valid)
    | fragments.map(lambda t: f"'{t}'").filter(valid)
    | fragments.map(lambda t: f'"""{t}"""').filter(valid)
    | fragments.map(lambda t: f"'''{t}'''").filter(valid)
)
scalars = strings | st.sampled_from(
    ["1", "-0.0", "nan", "-inf", "true", "1e3", "0x1F", "1979-05-27T07:32:00Z", "07:32:00"]
)
spaces = st.sampled_from(["", " ", "\n", " # ] [secrets] }\n", "\n\n  "])
comments = st.sampled_from(["", " # c", "\t# [secrets]", '# "', "# '''"])


def array(items):
    return st.builds(
        lambda pieces, end: "[" + ",".join(f"{before}{item}{after}" for before, item, after in pieces) + end + "]",
        st.lists(st.tuples(spaces, items, spaces), max_size=3),
        spaces,
    )


def inline(items):
    return st.lists(items, max_size=3).map(
        lambda values: "{" + ", ".join(f'"k{index}=" = {value}' for index, value in enumerate(values)) + "}"
    )


values = st.recursive(scalars, lambda inner: array(inner) | inline(inner), max_leaves=6)
#: A part of a key. In a dotted key or a header, what is around the dots is free.
parts = st.sampled_from(
    ["a", "b-c", '"d e"', "'f.g'", '"]"', "'='", '"#"', '"\\u005b"', '""', "secrets", "é".join('""')]
)
dots = st.sampled_from([".", " . ", ".\t"])


@st.composite
def keys(draw, first):
    """A key that is dotted now and then; `first` makes it unique."""
    key = first
    for part in draw(st.lists(parts, max_size=2)):
        key += draw(dots) + part
    return key


@st.composite
def settings(draw, prefix, most=3):
    """Lines of settings, comments and blanks."""
    text = ""
    for index in range(draw(st.integers(0, most))):
        text += draw(st.sampled_from(["", "\n", "# [secrets]\n", "  # a = 'b'\n"]))
        name = draw(st.sampled_from([f"{prefix}{index}", f'"{prefix}{index}"', f" '{prefix}{index}'"]))
        text += f"{draw(keys(name))} = {draw(values)}{draw(comments)}\n"
    return text


@st.composite
def tables(draw, index):
    """A table, or an element of an array of tables."""
    name = draw(keys(draw(st.sampled_from([f"t{index}", f'"t{index}"', f"\t't{index}'"]))))
    if draw(st.booleans()):
        count = draw(st.integers(1, 2))
        return "".join(f"[[{name} ]]{draw(comments)}\n{draw(settings('e'))}" for _ in range(count))
    return f"{draw(st.sampled_from(['', ' ']))}[ {name} ]{draw(comments)}\n{draw(settings('v'))}"


secret_names = st.sampled_from(["A", '"B"', "'C'", '"["', "'='", '"é"', '"#"'])
secret_values = st.sampled_from([SENTINEL, f"{SENTINEL}${{X}}", f"[a]{SENTINEL}"]).map(quoted) | st.sampled_from(
    [f"'''\n{SENTINEL}\n[t0]\n# '''", f'"""{SENTINEL}\\"""""']
)
assignments = st.dictionaries(secret_names, secret_values, max_size=3).map(dict.items)
headers = st.sampled_from(["[secrets]", '["secrets"]', " [ 'secrets' ] # keep out", '["\\u0073ecrets"]'])


@st.composite
def secret_tables(draw):
    text = f"{draw(headers)}\n"
    hidden = st.sampled_from(["", "\n", f"# {SENTINEL}\n", f"# OLD = '{SENTINEL}'\n", f"\n#\u2028{SENTINEL}\n\n"])
    for name, value in draw(assignments):
        text += f"{draw(hidden)}{name} = {value}{draw(comments)}\n"
    return text + draw(hidden)


@st.composite
def root_secrets(draw):
    """Secrets among the settings at the top."""
    name = draw(st.sampled_from(["secrets", '"secrets"', "'secrets'"]))
    if draw(st.booleans()):
        inner = ", ".join(f"{key} = {value}" for key, value in draw(assignments))
        return f"{name} = {{{inner}}}{draw(comments)}\n"
    text = ""
    for index, (key, value) in enumerate(draw(assignments)):
        text += f"{name}{draw(dots)}{key} = {value}\n{draw(settings(f'r{index}_', 1))}"
    return text


@st.composite
def documents(draw):
    """A text with its secrets first, in the middle, last, inline, dotted, or nowhere."""
    form = draw(st.sampled_from(["none", "root", "table"]))
    text = draw(settings("k")) + (draw(root_secrets()) if form == "root" else "")
    blocks = [draw(tables(index)) for index in range(draw(st.integers(0, 3)))]
    if form == "table":
        blocks.insert(draw(st.integers(0, len(blocks))), draw(secret_tables()))
    text += "".join(blocks)
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text
