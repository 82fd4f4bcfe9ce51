"""Hypothesis strategies for messages, lines and conversations.

They are derived from the registry and from the fields of the classes: a new message appears here by itself.

What an example chooses among is made once, and kept: hypothesis looks at each new strategy, which takes longer than to
draw from it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_args

import attrs

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "stereos_proto.testing.strategies needs hypothesis: pip install 'stereos-proto[testing]'", name="hypothesis"
    ) from None

from .._codec import encode
from .._constants import I64_MAX, I64_MIN, U32_MAX
from .._messages import (
    I64,
    U32,
    Ack,
    CustomRequest,
    InjectSSHKey,
    LifecycleState,
    Message,
    Reply,
    Request,
    StateName,
    UnknownMessage,
    wire_fields,
)
from .._registry import BY_CLASS, BY_TYPE, Kind, Role

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "Exchange",
    "conversations",
    "cuts",
    "envelopes",
    "from_message_class",
    "is_sendable",
    "json_values",
    "lines",
    "malformed_lines",
    "message_classes",
    "messages",
    "nearly_valid_lines",
    "partitions",
    "replies_to",
    "states",
    "unsendable_messages",
]


_Maker = TypeVar("_Maker", bound=Callable[..., SearchStrategy[Any]])


def _once(make: _Maker) -> _Maker:
    # To mypy, classes of attrs are not hashable.
    return cast("_Maker", functools.lru_cache(make))


def states() -> SearchStrategy[str]:
    """Lifecycle states: those that are known, and others."""
    return st.sampled_from(LifecycleState) | st.text(max_size=12)


_LEAVES: Final[dict[Any, Callable[[], SearchStrategy[Any]]]] = {
    str: st.text,
    bool: st.booleans,
    U32: lambda: st.integers(0, U32_MAX),
    I64: lambda: st.integers(I64_MIN, I64_MAX),
    StateName: states,
}


def json_values(*, max_leaves: int = 8) -> SearchStrategy[Any]:
    """JSON values as Python data: what the payload of an open type may be."""
    return _json_values(max_leaves)


@_once
def _json_values(max_leaves: int) -> SearchStrategy[Any]:
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=12)
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=max_leaves,
    )


def from_message_class(cls: type[Any], **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Instances of a message class, or of a part like `AgentStatus`; `fields` replace strategies of single fields.

    Only those that can be sent. For others see `unsendable_messages`.
    """
    return _built(cls, **fields).filter(is_sendable)


def _built(cls: type[Any], **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    if cls in _OPEN:
        fields = {"type": st.text(max_size=12).filter(lambda name: name not in BY_TYPE[_OPEN[cls]]), **fields}
    derived = {field.name: _of_type(field.type) for field in wire_fields(cls) if field.name not in fields}
    return st.builds(cls, **derived, **fields)


@_once
def _of_class(cls: type[Any]) -> SearchStrategy[Any]:
    return from_message_class(cls)


_OPEN: Final = {CustomRequest: Role.HOST, UnknownMessage: Role.GUEST}


def _of_type(type_: Any) -> SearchStrategy[Any]:
    if type_ is Any:
        return json_values()
    if type_ in _LEAVES:
        return _LEAVES[type_]()
    return st.lists(from_message_class(get_args(type_)[0]), max_size=4).map(tuple)


def message_classes(*, sender: Role | None = None, kind: Kind | None = None) -> tuple[type[Message], ...]:
    """The message classes, the open ones among them, that `sender` sends and that are of `kind`."""
    return tuple(row.cls for row in BY_CLASS.values() if sender in (None, row.sender) and kind in (None, row.kind))


def messages(*, sender: Role | None = None, kind: Kind | None = None) -> SearchStrategy[Any]:
    """Messages that can be sent, of `sender` and `kind` where they are given.

    Raises ValueError when no message is of both, such as a request of the guest's.
    """
    return _one_of(message_classes(sender=sender, kind=kind), sender, kind).flatmap(_of_class)


def _one_of(classes: Sequence[type[Message]], sender: Role | None, kind: Kind | None) -> SearchStrategy[type[Message]]:
    if not classes:
        raise ValueError(f"no message fits sender={sender!r} and kind={kind!r}: give a Role and a Kind, or None")
    return st.sampled_from(classes)


def is_sendable(message: Any) -> bool:
    """Whether `message`, whose values have the right types, is sent: a key that the guest would store as two is not."""
    row = BY_CLASS.get(type(message))
    return row is None or row.fault is None or not row.fault(message)


def unsendable_messages(*, sender: Role | None = None, kind: Kind | None = None) -> SearchStrategy[Any]:
    """Messages that `encode` and `Connection.send` refuse, of `sender` and `kind` where they are given.

    One value of each is of a wrong type, out of range or not JSON, or what the message says is refused. Raises
    ValueError when no message of both has a value.
    """
    classes = [cls for cls in message_classes(sender=sender, kind=kind) if wire_fields(cls)]
    return _one_of(classes, sender, kind).flatmap(_unsendable_of_class)


@_once
def _unsendable_of_class(cls: type[Any]) -> SearchStrategy[Any]:
    spoilt = st.sampled_from(wire_fields(cls)).flatmap(
        lambda field: _built(cls, **{field.name: st.sampled_from(_UNFIT.get(field.type, _UNFIT[tuple]))})
    )
    return spoilt | _REFUSED[cls]() if cls in _REFUSED else spoilt


#: Type of a field → values that cannot be sent in it; `tuple` stands for lists.
_UNFIT: Final[dict[Any, tuple[Any, ...]]] = {
    **dict.fromkeys((str, StateName), (None, 5, b"text", ["text"], "\ud800", "a\udcff")),
    bool: (None, 0, 1, "true"),
    U32: (None, -1, U32_MAX + 1, 10**30, 1.0, True, "1"),
    I64: (None, I64_MIN - 1, I64_MAX + 1, 1.0, False, "1"),
    tuple: ((None,), ("text",), ({"name": "a", "running": True},)),
    Any: (b"bytes", {1}, float("nan"), [float("inf")], {1: 2}, {"a": [object()]}, "\ud800", 10**700),
}
#: Class → messages of it whose values have the right types, and which are refused for what they say.
_REFUSED: Final[dict[type[Message], Callable[[], SearchStrategy[Any]]]] = {
    InjectSSHKey: lambda: st.builds(
        InjectSSHKey, st.text(), st.tuples(st.text(), st.text(min_size=1).filter(str.strip)).map("\n".join)
    )
}


def replies_to(request: Request) -> SearchStrategy[Reply]:
    """Replies that answer `request`: the class that it expects, or a refusal."""
    return _replies(type(request), request.type)


@_once
def _replies(cls: type[Request], type_: str) -> SearchStrategy[Reply]:
    refusals = from_message_class(Ack, reply_to=st.sampled_from((type_, "")), ok=st.just(value=False))
    expected = BY_CLASS[cls].reply
    if expected is None or expected is Ack:
        return refusals | from_message_class(Ack, reply_to=st.just(type_), ok=st.just(value=True))
    return refusals | _of_class(expected)


# Lines, without their ending


def envelopes(*, sender: Role) -> SearchStrategy[bytes]:
    """Lines that are messages of `sender`, written in any way that JSON allows."""
    return st.builds(_rewritten, messages(sender=sender), st.randoms(use_true_random=False), st.booleans())


def _rewritten(message: Message, chance: Random, ascii_only: bool) -> bytes:
    value = _shuffled(json.loads(encode(message)), chance, depth=2)
    separators = chance.choice([(",", ":"), (", ", ": "), (" ,\t", " :\r")])
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()


def _shuffled(value: Any, chance: Random, *, depth: int) -> Any:
    if not isinstance(value, dict) or depth == 0:
        return value
    members = [(name, _shuffled(member, chance, depth=depth - 1)) for name, member in value.items()]
    members.append(("unknown member", chance.choice([None, 1, [[]], {"type": "x"}])))
    chance.shuffle(members)
    return dict(members)


def nearly_valid_lines(*, sender: Role) -> SearchStrategy[bytes]:
    """Lines that have one thing wrong with them, or nothing: a byte changed, a value of another type, a cut."""
    return st.builds(_byte_changed, envelopes(sender=sender), st.randoms(use_true_random=False)) | st.builds(
        _value_changed, messages(sender=sender), json_values(), st.randoms(use_true_random=False)
    )


def _byte_changed(line: bytes, chance: Random) -> bytes:
    start = chance.randrange(len(line))
    end = chance.choice([start, start + 1, start + 1, len(line)])
    # A newline would make two lines of it.
    put = bytes([chance.choice(b'"\\{}[],:0-.eEtfn \x00\x1f\x7f\x80\xc0\xed\xff')]) * chance.randrange(3)
    return line[:start] + put + line[end:]


def _value_changed(message: Message, value: Any, chance: Random) -> bytes:
    envelope = json.loads(encode(message))
    payload = envelope.get("payload")
    place = chance.choice([envelope, payload]) if isinstance(payload, dict) and payload else envelope
    place[chance.choice(list(place))] = value
    return json.dumps(envelope).encode()


def malformed_lines() -> SearchStrategy[bytes]:
    """Lines that are no message of anybody: no JSON, or JSON that is no envelope."""
    return st.binary(min_size=1, max_size=40).map(_on_one_line).filter(_is_no_json) | st.sampled_from(
        [
            b"[]",
            b"5",
            b'"ping"',
            b"true",
            b'{"type":5}',
            b'{"type":{}}',
            b"\xef\xbb\xbf{}",
            b'{"type":"ping"}{}',
            b"NaN",
        ]
    )


def _on_one_line(line: bytes) -> bytes:
    return line.replace(b"\n", b"?").replace(b"\r", b"?")


def _is_no_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return True
    return False


def lines(*, sender: Role) -> SearchStrategy[bytes]:
    """Lines of every sort: messages of either end, nearly valid ones, malformed ones."""
    return st.one_of(
        envelopes(sender=sender),
        envelopes(sender=sender.peer),
        nearly_valid_lines(sender=sender),
        malformed_lines(),
    )


# Streams


@attrs.frozen
class Exchange:
    """One step of a conversation: what the guest says unasked, a request, its reply."""

    before: tuple[Message, ...]
    request: Request
    reply: Reply


@st.composite
def _exchanges(draw: st.DrawFn) -> Exchange:
    told = draw(st.lists(messages(kind=Kind.NOTIFICATION), max_size=2))
    request = draw(messages(kind=Kind.REQUEST))
    return Exchange(tuple(told), request, draw(replies_to(request)))


def conversations(*, max_size: int = 8) -> SearchStrategy[list[Exchange]]:
    """Conversations as both ends may lead them, notifications in between."""
    return st.lists(_exchanges(), max_size=max_size)


def cuts(data: bytes) -> SearchStrategy[list[int]]:
    """Positions at which `data` may be cut, in order."""
    return st.lists(st.integers(0, len(data)), max_size=12).map(sorted)


def partitions(data: bytes) -> SearchStrategy[list[bytes]]:
    """`data` in pieces, some of them empty."""
    return cuts(data).map(
        lambda positions: [data[i:j] for i, j in zip([0, *positions], [*positions, len(data)], strict=True)]
    )
