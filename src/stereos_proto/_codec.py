"""Between one line and one message (`docs/protocol.md` §2 to §5). Stateless.

Both directions have two lanes. The *canonical* lane is msgspec: it fills the attrs classes straight from the
bytes, and writes what the classes hold after checking every value, all in C. It takes what the reference
writes, and refuses whatever it is not sure of. What it refuses goes to the *tolerant* lane (`_tolerant`),
which applies the reference's rules one by one, and says what is wrong and where. Whatever the canonical lane
accepts, the tolerant lane treats alike; property tests hold them together.

`reader` and `write` return faults instead of raising them. A line may hold a secret, and an exception carries
the locals of every frame that it passes; so it is made where a line is at hand, and raised where none is.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Annotated, Any, Final, get_args

import attrs
import msgspec

from ._constants import MAX_LINE_SIZE, MAX_NESTING, U32_MAX
from ._errors import LocalProtocolError, RemoteProtocolError
from ._messages import (
    OMIT_ZERO,
    U32,
    ZERO,
    Ack,
    CustomRequest,
    Message,
    Redacted,
    StateName,
    UnknownMessage,
    named,
    wire_fields,
)
from ._registry import BY_TYPE, REGISTRY, Role, Row
from ._tolerant import Unfit, read_tolerantly, written


def encode(message: Message) -> bytes:
    r"""Return the line for `message`, its "\\n" included (§5).

    Raises LocalProtocolError when a value is of the wrong type or out of its range, when it cannot be
    written faithfully (a lone surrogate, NaN, a set), or when the line would be longer than 1 MiB.
    """
    result = write(message)
    if isinstance(result, bytes):
        return result
    raise result


def decode(line: bytes, *, sender: Role) -> Message:
    """Return the message on `line`, which `sender` sent. A line ending is allowed, and not needed (§4).

    A type that is not in the registry, or that the other side sends, comes as `CustomRequest` from the host
    and as `UnknownMessage` from the guest.

    Raises MalformedLine when it is no JSON object with a textual type, InvalidMessage when its payload does
    not fit its type.
    """
    result = reader(sender)(line.removesuffix(b"\n").removesuffix(b"\r"))
    if isinstance(result, RemoteProtocolError):
        del line
        raise result
    return result


def write(message: Message, limit: int = MAX_LINE_SIZE) -> bytes | LocalProtocolError:
    """`encode`, with the fault as a value and a `limit` in bytes, line ending included."""
    writer = _WRITERS.get(type(message))
    if writer is None:
        return LocalProtocolError(f"{type(message).__name__} is not a message that can be sent")
    try:
        line = writer(message)
    except Unfit as exc:
        return LocalProtocolError(f"cannot send {named(message)}: {exc}")
    except UnicodeEncodeError:
        return LocalProtocolError(
            f"cannot send {named(message)}: a text in it holds a lone surrogate, which has no UTF-8"
        )
    except RemoteProtocolError as exc:
        # A custom request with the name of a class, whose payload that class does not take.
        return LocalProtocolError(f"cannot send {named(message)}: {exc}")
    if len(line) > limit:
        return LocalProtocolError(
            f"cannot send {named(message)}: the line would be {len(line)} bytes long, and the guest closes the "
            f"connection on lines over {limit} bytes"
        )
    return line


def reader(sender: Role) -> Callable[[bytes], Message | RemoteProtocolError]:
    """Return `decode` for the lines of `sender`, with the fault as a value."""
    same_each_time, canonical = _CANONICAL[sender]
    # Most other lines need not be hashed.
    sizes = frozenset(map(len, same_each_time))

    def read(line: bytes) -> Message | RemoteProtocolError:
        size = len(line)
        if size in sizes and (known := same_each_time.get(line)) is not None:
            return known
        # Looked for from both ends: counting the brackets of a health report would cost a tenth of reading it.
        one_list = _BRACKET not in line or line.find(b"[") == line.rfind(b"[")
        if size <= _SURELY_SHALLOW or _is_shallow(line, one_list):
            try:
                message: Message = canonical(line).payload
            except (ValueError, RecursionError):
                # Not handled here: what is raised below would carry this exception, and it holds the line.
                pass
            else:
                # The reference reads a list that stands twice over the first one (§4); msgspec takes the last.
                if one_list or type(message) not in _WITH_LISTS:
                    return message
        return read_tolerantly(line, sender)

    return read


#: A level of nesting takes two bytes at least, its brackets.
_SURELY_SHALLOW: Final = 2 * MAX_NESTING


#: The opening of a list. As a number: `in` takes three times as long to look for bytes.
_BRACKET: Final = ord("[")


def _is_shallow(line: bytes, one_list: bool) -> bool:
    """Whether `line`, in which at most `one_list` begins, cannot nest more than MAX_NESTING levels, if it is JSON.

    msgspec's own limit depends on the interpreter's stack, and ours must not. Only what may be too deep is
    counted: a level that is an object takes five bytes (`{"":` and `}`).
    """
    arrays = 1 if one_list else line.count(b"[")
    return arrays + len(line) // 5 < MAX_NESTING or arrays + line.count(b"{") <= MAX_NESTING


# ---------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------


def _plain(value: str | float) -> str | float:
    """What msgspec does not write by itself: a text or number of a derived class. All else was refused before."""
    if isinstance(value, Redacted):
        raise Unfit("its secret was taken out when it was pickled")
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)


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
    item = _item_class(type_)
    return tuple[_payload_struct(item), ...] if item else type_  # type: ignore[misc]


def _item_class(type_: Any) -> Any:
    """The class of a list's items, None for what is no list."""
    arguments = get_args(type_)
    return arguments[0] if arguments and attrs.has(arguments[0]) else None


def _struct(name: str, members: list[Any], **options: Any) -> type[msgspec.Struct]:
    # A struct shows all that it holds, in tracebacks too; a secret may be among it.
    namespace = {"__repr__": object.__repr__, **options.pop("namespace", {})}
    return msgspec.defstruct(name, members, namespace=namespace, frozen=True, **options)


def _writer(row: Row) -> Callable[[Any], bytes]:
    fields = wire_fields(row.cls)
    if not fields:
        line = _ENCODER.encode({"type": row.type}) + b"\n"
        return lambda _message: line
    payload: Any = _payload_struct(row.cls)
    # msgspec looks at a struct when it is first used, lets other threads run meanwhile, and a thread that then
    # uses the struct crashes the process. A decoder of it looks at it now, under the lock of the import.
    msgspec.json.Decoder(payload)
    frame = b'{"type":"%b","payload":%%b}\n' % row.type.encode()
    lists = tuple((operator.attrgetter(field.name), {item}) for field in fields if (item := _item_class(field.type)))
    convert, encode_json = msgspec.convert, _ENCODER.encode

    def write_line(message: Any) -> bytes:
        try:
            checked = convert(message, payload, from_attributes=True)
        except msgspec.ValidationError:
            return _write_tolerantly(message)
        # Most messages have none, and are spared the making of an iterator.
        if lists:
            # msgspec takes anything with the right attributes for an item.
            for items_of, wanted in lists:
                if (items := items_of(message)) and not wanted.issuperset(map(type, items)):
                    return _write_tolerantly(message)
        return frame % encode_json(checked)

    return write_line


def _write_tolerantly(message: Any) -> bytes:
    return _ENCODER.encode(written(message)) + b"\n"


def _checked(row: Row, write_line: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """`write_line`, with what the row says of messages that fit their types and still may not be sent."""
    fault = row.fault
    if fault is None:
        return write_line

    def write_checked(message: Any) -> bytes:
        line = write_line(message)
        if why := fault(message):
            del line
            raise Unfit(why)
        return line

    return write_checked


def _write_custom(message: CustomRequest) -> bytes:
    """The line of a custom request. With the name of a class it must be a line of that class (§2)."""
    line = _write_tolerantly(message)
    row = BY_TYPE[Role.HOST].get(message.type)
    if row is not None and not row.ignores_bad_payload:
        twin = read_tolerantly(line[:-1], Role.HOST)
        if isinstance(twin, RemoteProtocolError):
            del line
            raise twin
        if row.fault is not None and (why := row.fault(twin)):
            del line, twin
            raise Unfit(why)
    return line


_WRITERS: Final[dict[type[Message], Callable[[Any], bytes]]] = {
    **{row.cls: _checked(row, _writer(row)) for row in REGISTRY},
    CustomRequest: _write_custom,
    UnknownMessage: _write_tolerantly,
}


# ---------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------


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


def _canonical(sender: Role) -> tuple[dict[bytes, Message], Callable[[bytes], Any]]:
    """The messages of lines that are the same each time, and the decoder for the rest."""
    rows = BY_TYPE[sender].values()
    same = [row.cls() for row in rows if not wire_fields(row.cls)]
    if sender is Role.GUEST:
        same += [Ack(row.type, True) for row in REGISTRY if row.reply is Ack]
    union: Any = functools.reduce(operator.or_, map(_envelope, rows))
    return {encode(message)[:-1]: message for message in same}, msgspec.json.Decoder(union).decode


_WITH_LISTS: Final = frozenset(
    row.cls for row in REGISTRY if any(_item_class(field.type) for field in wire_fields(row.cls))
)
_CANONICAL: Final = {role: _canonical(role) for role in Role}
