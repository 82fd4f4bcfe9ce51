"""Changes that keep most of an input valid.

Coverage says nothing about JSON: the parser is C, and one wrong byte ends every deeper look. So lines are
changed as what they are, objects with members, and are written again; now and then a byte is changed, too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from . import oracle
from .secrecy import SENTINEL

Pairs = oracle.Pairs

TYPES: Final = [*oracle.PAYLOADS["host"], *oracle.PAYLOADS["guest"], "sync:n0nce", "sync:1", "unmount", "", "PING"]
MESSAGES: Final = {
    sender: [(type_, [*members.items()]) for type_, members in rows.items()] for sender, rows in oracle.PAYLOADS.items()
}
REPLIES: Final = [*TYPES[2:7], "", "sync:1"]
KINDS: Final = [*oracle.ZERO]
NAMES: Final = sorted(
    {name for sender in oracle.PAYLOADS.values() for members in sender.values() for name in members}
    | set(oracle.AGENT)
    | {"type", "payload", "Type", "x", "\ud800"}
)
STRINGS: Final = ["", SENTINEL, "a", "ready", "booting", "shutdown", "\x00", "\n", "é", "\u2028", "😀", '"\\', "x" * 70]
STRINGS += TYPES[:11]
#: Texts that are written as they are: values, and what is none.
RAW: Final = [
    *("null", "true", "false", "0", "-0", "1", "-1", "1.0", "1e2", "0.0", "4294967295", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "1e400"),
    *("00", "01", "1.", ".5", "+1", "NaN", "Infinity", "tru", "nul", "[]", "{}", "[null]", "[{}]", "[[[[]]]]"),
    *(r'"\ud800"', r'"\udc00\ud83d"', r'"\ud83d\ude00"', r'"\u0000"', r'"\x"', r'"\u12"', '"'),
]
SPACES: Final = ["", " ", "\t", "  ", "\r", "\u00a0", "\x0c", "\ufeff"]
BYTES: Final = [
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xe2\x82",
    b"\x00",
    b"\x7f",
    b"\\",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
]

TOML: Final = [
    'name = "box"',
    "[secrets]",
    f'TOKEN = "{SENTINEL}"',
    'OTHER = "${TOKEN}"',
    'EMPTY = "${EMPTY}"',
    'UNSET = "${NOT_SET}"',
    'BAD = "${"',
    f"'q.k' = '''\n{SENTINEL}'''",
    f'"]" = """{SENTINEL}\\\n"""',
    f'secrets.a = "{SENTINEL}"',
    f'secrets = {{ a = "{SENTINEL}", b = "]" }}',
    f"[secrets.{SENTINEL}]",
    "[[secrets]]",
    '["secrets"]',
    "[ 'secrets' ] # comment",
    f"# A = '{SENTINEL}'",
    "",
    "[[shared]]",
    'guest = "/workspace"',
    'guest = "workspace"',
    'host = "./"',
    "readonly = true",
    "readonly = 1",
    "[[agents]]",
    "[agent]",
    'type = "native"',
    'harness = "custom"',
    'harness = "opencode"',
    'Harness = ""',
    "[[Agents]]",
    "[Secrets]",
    "[agents.env]",
    'name = "box-1"',
    'prompt_file = "p.md"',
    'timeout = "90"',
    "api_key = 'x'",
    "env = { A = 'b' }",
    "replicas = 2",
    "prompt = 5",
    "[network]",
    'mode = "nat"',
    "forwards = [ { host = 1, guest = 2 }, # ]\n]",
    "x = nan",
    "x = 1e400",
    "a.b.c = 1979-05-27",
    "[a.b]",
    "[[a.b.c]]",
    "[x",
    '"""',
    "'",
    "= 1",
    "\r",
    "a = [[[[]]]]",
]
PREAMBLE: Final = [
    b"OK ",
    b"OK 1024\n",
    b"OK 1073741824\n",
    b"1024",
    b"\n",
    b"\r\n",
    b'{"type":"ack","payload":{"reply_to":"sync:n0nce","ok":false,"error":"unknown message type: sync:n0nce"}}\n',
    b'{"type":"ack","payload":{"reply_to":"sync:n0nce","ok":false}}\n',
    b'{"type":"ack","payload":{"reply_to":"sync:old","ok":false}}\n',
    b'{"type":"ack","payload":{"reply_to":"","ok":false,"error":"malformed JSON: x"}}\n',
    b'{"payload":{"ok":false,"reply_to":"\\u0073ync:n0nce"},"type":"ack"}\n',
    b'"type":"ack","payload":{"reply_to":"sync:n0nce","ok":false}}\n',
    b"x" * 30,
    b"x" * 127,
    b"{",
    b" ",
]


class Raw(str):
    """Text that is written as it is."""

    __slots__ = ()


class Dice(random.Random):
    """Choices that are a little uneven, and take a third of the time of even ones."""

    def below(self, number: int) -> int:
        """A number from 0 to `number` - 1."""
        return int(self.random() * number)

    def choice(self, seq: Sequence[Any]) -> Any:
        """One of `seq`."""
        return seq[int(self.random() * len(seq))]


def mutate(data: bytes, size: int, seed: int, *, head: int, body: str) -> bytes:
    """Change `data`, an input of a harness whose head has `head` bytes, into another of at most `size` bytes."""
    rng = Dice(seed)
    start, rest = bytearray(data[:head].ljust(head, b"\0")), data[head:]
    if head and rng.random() < 0.3:
        start[rng.below(head)] = rng.choice((0, 1, rng.below(256)))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rest = BODIES[body](rng, rest)
    return (bytes(start) + rest)[:size]


# ------------------------------------------------------------------------------------------------- lines


def message(rng: Dice) -> Pairs:
    """A good message, or almost."""
    sender = rng.choice(("host", "guest", "guest"))
    type_, members = rng.choice(MESSAGES[sender])
    payload = Pairs([(name, value(rng, kind)) for name, kind in members])
    if type_ == "ack" and rng.random() < 0.9:
        payload[0] = ("reply_to", rng.choice(REPLIES))
    result = Pairs([("type", type_)])
    if payload or rng.random() < 0.2:
        result.append(("payload", payload))
    return result


def value(rng: Dice, kind: str) -> Any:
    """A value of a kind of the oracle's."""
    if kind == oracle.BOOL:
        return rng.random() < 0.5
    if kind in oracle.LOW:
        return Raw(rng.choice(RAW[3:17]) if rng.random() < 0.3 else rng.choice(("0", "1", "384")))
    if kind == oracle.AGENTS:
        return [Pairs((name, value(rng, kind)) for name, kind in oracle.AGENT.items()) for _ in range(rng.below(3))]
    return rng.choice(STRINGS)


def dumps(rng: Dice, node: Any, quoted: Callable[[str], str]) -> str:
    """Write a tree as JSON, with a blank or an escape where none is needed now and then."""
    kind = type(node)
    if kind is str:
        if node and rng.random() < 0.05:
            return f'"\\u{min(ord(node[0]), 0xFFFF):04x}' + quoted(node[1:])[1:]
        return quoted(node)
    if kind is Raw:
        return str(node)
    if kind is Pairs:
        space = rng.choice(SPACES) if rng.random() < 0.03 else ""
        members = [f"{dumps(rng, name, quoted)}{space}:{dumps(rng, member, quoted)}" for name, member in node]
        return f"{{{space}{','.join(members)}}}"
    if kind is list:
        space = rng.choice(SPACES) if rng.random() < 0.03 else ""
        return f"[{','.join([dumps(rng, item, quoted) for item in node])}{space}]"
    return WORDS[node]


#: Levels up to which lines are changed as trees.
DEEPEST: Final = 200
WORDS: Final = {True: "true", False: "false", None: "null"}
DECODER: Final = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=Raw, parse_float=Raw, parse_constant=Raw)


def parsed(line: bytes) -> Any:
    """A line as a tree; what is no JSON, as itself."""
    text = line.decode("utf-8", "surrogateescape")
    if text.count("[") + text.count("{") > DEEPEST:
        return Raw(text)
    try:
        return DECODER.decode(text)
    except ValueError:
        return Raw(text)


def containers(node: Any) -> list[Any]:
    """Every container that holds something."""
    found: list[Any] = []
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list) and current:
            found.append(current)
            waiting += [member for _, member in current] if type(current) is Pairs else current
    return found


def change_tree(rng: Dice, node: Any) -> Any:
    """One change somewhere in a tree."""
    found = containers(node)
    if not found:
        return message(rng)
    # Each place as likely as each other.
    index = rng.below(sum(map(len, found)))
    container = found.pop()
    while index >= len(container):
        index -= len(container)
        container = found.pop()
    named = isinstance(container, Pairs)
    old = container[index][1] if named else container[index]
    action = rng.below(8)
    if action == 0:
        del container[index]
    elif action == 1:
        container.insert(rng.below(len(container) + 1), container[index])
    elif action == 2:
        rng.shuffle(container)
    elif action == 3 and named:
        container[index] = (rng.choice(NAMES), old)
    elif action == 4 and named:
        container.append((rng.choice(NAMES), fresh(rng)))
    elif action == 5:
        new = Pairs([(rng.choice(NAMES), old)]) if rng.random() < 0.5 else [old] * rng.choice((1, 1, 2, 3))
        container[index] = (container[index][0], new) if named else new
    elif action == 6 and isinstance(old, str) and not isinstance(old, Raw):
        new_text = old + rng.choice(STRINGS)
        container[index] = (container[index][0], new_text) if named else new_text
    else:
        container[index] = (container[index][0], fresh(rng)) if named else fresh(rng)
    return node


def fresh(rng: Dice) -> Any:
    """Any value."""
    return rng.choice((Raw(rng.choice(RAW)), rng.choice(STRINGS), value(rng, rng.choice(KINDS))))


def change_line(rng: Dice, line: bytes) -> bytes:
    """Change a line: mostly as a tree, sometimes as bytes."""
    action = rng.random()
    if action < 0.15:
        return written(rng, message(rng))
    if action < 0.75:
        return written(rng, change_tree(rng, parsed(line)))
    if action < 0.8:
        depth = rng.choice((1, 5, 60, 127, 128, 129, 200))
        node: Any = Raw("[" * depth + "]" * depth if rng.random() < 0.5 else '{"":' * depth + "0" + "}" * depth)
        return written(rng, Pairs([("type", rng.choice(TYPES)), (rng.choice(("payload", "x")), node)]))
    if action < 0.88:
        # To one of the limits of the harnesses, give or take one.
        return line.ljust(
            rng.choice((3, 16, 64, 128, 256, 300, 1024)) - rng.choice((0, 1, 2)), rng.choice((b" ", b"x"))
        )
    return change_bytes(rng, line)


def written(rng: Dice, node: Any) -> bytes:
    """A tree as a line."""
    quoted = json.encoder.encode_basestring_ascii if rng.random() < 0.5 else json.encoder.encode_basestring
    line = dumps(rng, node, quoted).encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")
    return line.replace(b"\n", b" ")


def change_stream(rng: Dice, stream: bytes) -> bytes:
    """Change a line, or the order of the lines."""
    lines = stream.split(b"\n")
    index = rng.below(len(lines))
    action = rng.below(10)
    if action < 4:
        lines[index] = change_line(rng, lines[index])
    elif action < 6:
        lines.insert(index, written(rng, message(rng)))
    elif action == 6:
        lines.insert(index, rng.choice((lines[index], b"", b"\r", b" ")))
    elif action == 7:
        del lines[index]
    elif action == 8:
        lines[index] += b"\r"
    else:
        other = rng.below(len(lines))
        lines[index], lines[other] = lines[other], lines[index]
    return b"\n".join(lines)


# ------------------------------------------------------------------------------------- the other bodies


def change_bytes(rng: Dice, data: bytes) -> bytes:
    """Insert, delete or replace a few bytes."""
    at = rng.below(len(data) + 1)
    until = at + rng.choice((0, 0, 1, 1, 2, 8))
    new = rng.choice((b"", rng.choice(BYTES), bytes([rng.below(256)]), data[at:until] * 2))
    return data[:at] + new + data[until:]


def change_pieces(rng: Dice, data: bytes, pieces: Sequence[bytes]) -> bytes:
    """Insert one of `pieces`, or change bytes."""
    if rng.random() < 0.4:
        return change_bytes(rng, data)
    at = rng.choice((0, len(data), rng.below(len(data) + 1)))
    return data[:at] + rng.choice(pieces) + data[at:]


def change_toml(rng: Dice, text: bytes) -> bytes:
    """Change the lines of a TOML text."""
    lines = text.split(b"\n")
    index = rng.below(len(lines))
    action = rng.below(8)
    if action < 4:
        lines.insert(index, rng.choice(TOML).encode())
    elif action == 4:
        del lines[index]
    elif action == 5:
        lines[index] = change_bytes(rng, lines[index])
    elif action == 6:
        lines[index] += rng.choice((b" ", b"\r", b"\t", b" # ]", b" #'", b'"""'))
    else:
        other = rng.below(len(lines))
        lines[index], lines[other] = lines[other], lines[index]
    return b"\n".join(lines)


def change_operations(rng: Dice, data: bytes) -> bytes:
    """Change a list of small numbers."""
    at = rng.below(len(data) + 1)
    new = bytes(rng.below(18) for _ in range(rng.choice((1, 1, 2, 4))))
    if rng.random() < 0.2:
        new += bytes([rng.below(256)])
    return data[:at] + new + data[at + rng.choice((0, 0, 1, 2, len(new))) :]


BODIES: Final[dict[str, Callable[[Dice, bytes], bytes]]] = {
    "stream": change_stream,
    "line": change_line,
    "toml": change_toml,
    "preamble": lambda rng, data: change_pieces(rng, data, PREAMBLE),
    "operations": change_operations,
    "bytes": change_bytes,
}
