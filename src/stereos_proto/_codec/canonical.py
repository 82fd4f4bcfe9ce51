"""The canonical lane: msgspec, for what a reference writes and for types that we do not know (`docs/protocol.md` §2).

It fills the attrs classes straight from the bytes, and writes what the classes hold after checking every value, all
in C. It refuses whatever it is not sure of; that goes to the tolerant lane.

msgspec reads by recursion: 33 bytes of stack for each level that it skips, 400 for each that it keeps (CPython 3.11
and 3.13), and its own limit depends on the interpreter. So its callers look at the depth of a line first. Half of a
thread's stack of 256 KiB is the most that a line may take.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Annotated, Any, Final, get_args

import attrs
import msgspec

from .._constants import U32_MAX
from .._messages import (
    OMIT_ZERO,
    U32,
    ZERO,
    CustomRequest,
    Message,
    Redacted,
    StateName,
    UnknownMessage,
    wire_fields,
)
from .._registry import BY_TYPE, REGISTRY, Role, Row
from .json import has_odd_numbers
from .tolerant import Unfit, written

#: Levels that a line may nest in members that are skipped.
MAX_SKIPPED_NESTING: Final = 4_000


def _plain(value: str | float) -> str | float:
    """What msgspec does not write by itself: a text or number of a derived class. All else was refused before."""
    if isinstance(value, Redacted):
        raise Unfit("its secret was taken out when it was pickled")
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)


# ---------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------


def write_tolerantly(message: Message) -> bytes:
    """Return the line for any message. Raises Unfit, which says what is wrong with it."""
    return _ENCODER.encode(written(message)) + b"\n"


def bare_line(row: Row) -> bytes:
    """Return the line of the messages of `row`, which has no fields."""
    return _ENCODER.encode({"type": row.type}) + b"\n"


def writer(row: Row) -> Callable[[Any], bytes]:
    """Return the function that writes the messages of `row`, which has fields. It raises as `write_tolerantly` does."""
    fields = wire_fields(row.cls)
    payload: Any = _payload_struct(row.cls)
    # msgspec looks at a struct when it is first used, lets other threads run meanwhile, and a thread that then
    # uses the struct crashes the process. A decoder of it looks at it now, under the lock of the import.
    msgspec.json.Decoder(payload)
    frame = b'{"type":"%b","payload":%%b}\n' % row.type.encode()
    lists = tuple((operator.attrgetter(field.name), {item}) for field in fields if (item := item_class(field.type)))
    # The items of a list are converted from their attributes.
    options: dict[str, Any] = {"from_attributes": True} if lists else {}
    convert, encode_json = msgspec.convert, _ENCODER.encode

    def write_line(message: Any) -> bytes:
        try:
            # Convert from `__dict__`: from the attributes of the object it takes twice as long.
            checked = convert(message.__dict__, payload, **options)
        except msgspec.ValidationError:
            return write_tolerantly(message)
        # Most messages have no lists: do not create an iterator for them.
        if lists:
            # msgspec takes anything with the right attributes for an item.
            for items_of, wanted in lists:
                if (items := items_of(message)) and not wanted.issuperset(map(type, items)):
                    return write_tolerantly(message)
        return frame % encode_json(checked)

    return write_line


def _zero(field: attrs.Attribute[Any]) -> Any:
    return ZERO.get(field.type, ())


def _payload_struct(cls: Any) -> type[msgspec.Struct]:
    """The payload of `cls` as msgspec checks and writes it: in order, without the zeros that §2 leaves out."""
    members = [
        (field.name, _written_type(field.type), _zero(field))
        if OMIT_ZERO in field.metadata
        else (field.name, _written_type(field.type), msgspec.field())
        for field in wire_fields(cls)
    ]
    return _struct(f"{cls.__name__}Payload", members, omit_defaults=True, kw_only=True)


def _written_type(type_: Any) -> Any:
    if type_ is StateName:
        return str  # what is a known state does not matter here
    item = item_class(type_)
    return tuple[_payload_struct(item), ...] if item else type_  # type: ignore[misc]


def item_class(type_: Any) -> Any:
    """The class of a list's items, None for what is no list."""
    arguments = get_args(type_)
    return arguments[0] if arguments and attrs.has(arguments[0]) else None


def _struct(name: str, members: list[Any], **options: Any) -> type[msgspec.Struct]:
    # A struct shows all that it holds, in tracebacks too; a secret may be among it.
    namespace = {"__repr__": object.__repr__, **options.pop("namespace", {})}
    return msgspec.defstruct(name, members, namespace=namespace, frozen=True, **options)


# ---------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------


def decoder(sender: Role) -> Callable[[bytes], Any]:
    """Return the decoder of lines of known types: what it makes of a line has the message as its `payload`.

    Of members that stand more than once it takes the last, as the reference does while none is null, which it refuses,
    or a list, for which there are `LISTS` and `may_repeat`. It raises ValueError or RecursionError.
    """
    union: Any = functools.reduce(operator.or_, map(_envelope, BY_TYPE[sender].values()))
    return msgspec.json.Decoder(union).decode


def read_open(line: bytes, sender: Role) -> Message | None:
    """Read a line of a type that we do not know. None: it may be another line. It must not nest deep.

    msgspec keeps the last of several members of one name. In a payload the reference does, too; in the line itself
    it does not where the last one is null.
    """
    if line.count(b'"type"') > 1 or line.count(b'"payload"') > 1 or b"\\u" in line or has_odd_numbers(line):
        return None
    try:
        read: Any = _OPEN(line)
    except (ValueError, RecursionError):
        return None
    if read.type in BY_TYPE[sender]:
        return None
    return CustomRequest(read.type, read.payload) if sender is Role.HOST else UnknownMessage(read.type, read.payload)


def may_repeat(line: bytes, lists: tuple[bytes, ...]) -> bool:
    """Whether one of `lists`, names in quotes, may stand more than once on `line`."""
    # Looked for from both ends: counting takes far longer.
    if line.find(b"[") == line.rfind(b"["):
        return False
    # No letter has an escape but "\\u…".
    return b"\\u" in line or any(line.count(name) > 1 for name in lists)


def _envelope(row: Row) -> type[msgspec.Struct]:
    """A struct that msgspec picks by `type`, and whose `payload` is the message."""
    fields = wire_fields(row.cls)
    if not fields:
        members: list[Any] = []
        namespace: dict[str, Any] = {"payload": row.cls()}
    elif all(field.default in (attrs.NOTHING, _zero(field)) for field in fields):
        members, namespace = [("payload", row.cls)], {}
    else:
        # A default that is not the zero value: msgspec would fill an absent member with it, and absent means
        # zero. The payload is read as a struct whose defaults are zero, and the message made from that.
        twin: Any = _struct(f"{row.cls.__name__}Twin", [_twin(field) for field in fields])
        members = [("twin", twin, msgspec.field(name="payload"))]
        namespace = {"payload": property(_filler(row.cls))}
    return _struct(f"{row.cls.__name__}Line", members, namespace=namespace, tag_field="type", tag=row.type)


def _filler(cls: type[Any]) -> Callable[[Any], Any]:
    new, members = object.__new__, msgspec.structs.asdict

    def payload(line: Any) -> Any:
        message = new(cls)
        message.__dict__.update(members(line.twin))
        return message

    return payload


def _twin(field: attrs.Attribute[Any]) -> Any:
    if field.default is attrs.NOTHING:
        return (field.name, field.type)
    # Zero is never written where it is left out, and the reference refuses the zero "-0" that msgspec takes.
    type_: Any = field.type if field.type != U32 else _POSITIVE_U32
    return (field.name, type_, _zero(field))


_POSITIVE_U32: Final = Annotated[int, msgspec.Meta(ge=1, le=U32_MAX)]


_OPEN: Final = msgspec.json.Decoder(_struct("OpenLine", [("type", str, ""), ("payload", Any, None)])).decode
#: Class → the names of its lists, as they stand on the line. The reference reads a second list over the first (§4).
LISTS: Final[dict[type[Message], tuple[bytes, ...]]] = {
    row.cls: names
    for row in REGISTRY
    if (names := tuple(f'"{f.name}"'.encode() for f in wire_fields(row.cls) if item_class(f.type)))
}
