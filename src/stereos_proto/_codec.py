"""Between one line and one message (`docs/protocol.md` §2 to §5). Stateless.

Reading goes down one of two lanes. The *canonical* lane is msgspec filling the attrs classes straight from
the bytes; it takes what the reference writes, and refuses whatever it is not sure of. What it refuses goes to
the *tolerant* lane, which applies the reference's rules one by one. Whatever the canonical lane accepts, the
tolerant lane reads as the same message; a property test holds them together.

Writing has one lane: cattrs turns a message into plain data in the wire's order of keys, checking each value
on the way, and msgspec writes the bytes.

`reader` and `write` return faults instead of raising them. A line may hold a secret, and an exception carries
the locals of every frame that it passes; so it is made where a line is at hand, and raised where none is.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, cast, get_args, get_origin

import attrs
import cattrs
import msgspec

from ._constants import I64_MAX, I64_MIN, MAX_KEPT_NESTING, MAX_LINE_SIZE, MAX_NESTING, U32_MAX
from ._errors import InvalidMessage, LocalProtocolError, MalformedLine, RemoteProtocolError
from ._json import MalformedJSON, Members, NegativeZero, clean_text, clean_value, json_type, parse
from ._messages import I64, OMIT_ZERO, U32, Ack, AgentStatus, CustomRequest, Message, UnknownMessage
from ._registry import BY_TYPE, OPEN_ROWS, REGISTRY, Role, Row

_ZERO: Final[dict[Any, Any]] = {str: "", bool: False, U32: 0, I64: 0}
_PARTS: Final[tuple[type, ...]] = (AgentStatus, *(row.cls for row in (*REGISTRY, *OPEN_ROWS.values())))
for _part in _PARTS:
    attrs.resolve_types(_part, include_extras=True)


def encode(message: Message) -> bytes:
    r"""Return the line for `message`, its "\\n" included (§5).

    Raises LocalProtocolError when a value is of the wrong type or out of its range, when it cannot be
    written faithfully (a lone surrogate, NaN, a set), or when the line would be longer than 1 MiB.
    """
    result = write(message)
    if isinstance(result, LocalProtocolError):
        raise result
    return result


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
    line = _CONSTANT_LINES.get(type(message))
    if line is None:
        try:
            line = _ENCODER.encode(_WRITERS[type(message)](message)) + b"\n"
        except KeyError:
            return LocalProtocolError(f"{type(message).__name__} is not a message that can be sent")
        except _Unfit as exc:
            return LocalProtocolError(f"cannot send {message.type}: {exc}")
        except UnicodeEncodeError:
            return LocalProtocolError(
                f"cannot send {message.type}: a text in it holds a lone surrogate, which has no UTF-8"
            )
    if len(line) > limit:
        return LocalProtocolError(
            f"cannot send {message.type}: the line would be {len(line)} bytes long, and the guest closes the "
            f"connection on lines over {limit} bytes"
        )
    return line


def reader(sender: Role) -> Callable[[bytes], Message | RemoteProtocolError]:
    """Return `decode` for the lines of `sender`, with the fault as a value."""
    exact, canonical = _CANONICAL[sender]

    def read(line: bytes) -> Message | RemoteProtocolError:
        message = exact.get(line)
        if message is not None:
            return message
        # msgspec's own limit on nesting depends on the interpreter's stack; ours must not.
        if len(line) <= MAX_NESTING or line.count(b"[") + line.count(b"{") <= MAX_NESTING:
            try:
                message = cast("Message", canonical(line).payload)
            except (ValueError, RecursionError):
                pass
            else:
                return message
        return read_tolerantly(line, sender)

    return read


# ---------------------------------------------------------------------------------------------------------
# Both lanes: one converter knows how each type of value goes to and from JSON
# ---------------------------------------------------------------------------------------------------------


class _Unfit(ValueError):
    """A value that does not fit its place. The text names the place and what is wrong, never the value."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.found = found
        self.path = ""

    def below(self, place: str) -> _Unfit:
        self.path = f"{place}{'.' if self.path and self.path[0] != '[' else ''}{self.path}"
        return self

    def __str__(self) -> str:
        return f"{self.path} {self.reason}".lstrip()


def _mismatch(wanted: str, value: Any) -> _Unfit:
    return _Unfit(f"must be {wanted}, not {json_type(value)}", json_type(value))


def _read_text(value: Any, _type: Any) -> str:
    if not isinstance(value, str):
        raise _mismatch("a string", value)
    return clean_text(value)


def _read_flag(value: Any, _type: Any) -> bool:
    if not isinstance(value, bool):
        raise _mismatch("true or false", value)
    return value


def _read_u32(value: Any, _type: Any) -> int:
    if type(value) is not int:
        raise _mismatch("a whole number that is not negative", value)
    return _in_range(value, 0, U32_MAX)


def _read_i64(value: Any, _type: Any) -> int:
    if type(value) not in (int, NegativeZero):
        raise _mismatch("a whole number", value)
    return _in_range(int(value), I64_MIN, I64_MAX)


def _in_range(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise _Unfit(f"must be a whole number from {low} to {high}", "number")
    return value


def _write_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit(f"must be a str, not {type(value).__name__}")
    return value


def _write_flag(value: Any) -> bool:
    if value is not True and value is not False:
        raise _Unfit(f"must be a bool, not {type(value).__name__}")
    return value


def _write_number(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Unfit(f"must be an int, not {type(value).__name__}")
    return _in_range(int(value), low, high)


def _list_reader(type_: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    item_type = get_args(type_)[0]
    read_item = _converter.get_structure_hook(item_type)

    def read_list(value: Any, _type: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _mismatch("an array", value)
        return tuple(_each(value, lambda item: read_item(item, item_type)))

    return read_list


def _list_writer(type_: Any) -> Callable[[Any], list[Any]]:
    write_item = _converter.get_unstructure_hook(get_args(type_)[0])

    def write_list(value: Any) -> list[Any]:
        if not isinstance(value, (tuple, list)):
            raise _Unfit(f"must be a tuple, not {type(value).__name__}")
        return _each(value, write_item)

    return write_list


def _each(items: Iterable[Any], convert: Callable[[Any], Any]) -> list[Any]:
    done: list[Any] = []
    try:
        done.extend(convert(item) for item in items)
    except _Unfit as exc:
        raise exc.below(f"[{len(done)}]") from None
    return done


def _class_reader(cls: Any) -> Callable[[Any, Any], Any]:
    """A reader that knows the rules of §4: absent or null is zero, unknown is ignored, the last one wins."""
    hooks = {f.name: (_converter.get_structure_hook(f.type), f.type) for f in attrs.fields(cls)}
    zeros = {f.name: _ZERO.get(f.type, ()) for f in attrs.fields(cls)}

    def read_member(name: str, value: Any) -> Any:
        if value is None:
            return zeros[name]
        hook, type_ = hooks[name]
        try:
            return hook(value, type_)
        except _Unfit as exc:
            raise exc.below(name) from None

    def read_class(value: Any, _type: Any) -> Any:
        if value is None:
            return cls(**zeros)
        if not isinstance(value, Members):
            raise _mismatch("an object", value)
        for name, shadowed in value.shadowed:
            if name in hooks:
                read_member(name, shadowed)
                value[name] = _overlaid(shadowed, value[name])
        return cls(**{name: read_member(name, value.get(name)) for name in hooks})

    return read_class


def _overlaid(earlier: Any, last: Any) -> Any:
    """The last of two values of one member. The reference reads a list over the earlier one, item by item."""
    if not isinstance(earlier, list) or not isinstance(last, list):
        return last
    return [
        Members([*old.items(), *new.items()]) if isinstance(old, Members) and isinstance(new, Members) else new
        for old, new in itertools.zip_longest(earlier[: len(last)], last)
    ]


def _class_writer(cls: Any) -> Callable[[Any], dict[str, Any]]:
    """A writer with the wire's order of keys, which leaves out what §2 leaves out."""
    steps = tuple((f.name, _converter.get_unstructure_hook(f.type), OMIT_ZERO in f.metadata) for f in attrs.fields(cls))

    def write_class(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise _Unfit(f"must be a {cls.__name__}, not {type(value).__name__}")
        data: dict[str, Any] = {}
        name = ""
        try:
            for name, convert, omit_zero in steps:
                member = convert(getattr(value, name))
                if member or not omit_zero:
                    data[name] = member
        except _Unfit as exc:
            raise exc.below(name) from None
        return data

    return write_class


def _is(wanted: Any) -> Callable[[Any], bool]:
    return lambda type_: type_ == wanted


def _is_tuple(type_: Any) -> bool:
    origin: Any = get_origin(type_)
    return origin is tuple


_converter: Final = cattrs.Converter(detailed_validation=False)
_LEAVES: Final[tuple[tuple[Any, Callable[[Any, Any], Any], Callable[[Any], Any]], ...]] = (
    (str, _read_text, _write_text),
    (bool, _read_flag, _write_flag),
    (U32, _read_u32, lambda value: _write_number(value, 0, U32_MAX)),
    (I64, _read_i64, lambda value: _write_number(value, I64_MIN, I64_MAX)),
)
for _type, _reader, _writer in _LEAVES:
    if isinstance(_type, type):
        _converter.register_structure_hook(_type, _reader)
        _converter.register_unstructure_hook(_type, _writer)
    else:
        _converter.register_structure_hook_func(_is(_type), _reader)
        _converter.register_unstructure_hook_func(_is(_type), _writer)
_converter.register_structure_hook_factory(_is_tuple, _list_reader)
_converter.register_unstructure_hook_factory(_is_tuple, _list_writer)
_converter.register_structure_hook_factory(attrs.has, _class_reader)
_converter.register_unstructure_hook_factory(attrs.has, _class_writer)


# ---------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------


def _write_open(message: Any) -> dict[str, Any]:
    _write_type(message.type)
    _check_json(message.payload)
    if message.payload is None:
        return {"type": message.type}
    return {"type": message.type, "payload": message.payload}


def _write_type(value: Any) -> None:
    try:
        _write_text(value)
    except _Unfit as exc:
        raise exc.below("type") from None


def _check_json(payload: Any) -> None:
    """Refuse what msgspec would write as something else (sets, bytes, NaN, keys that are no text)."""
    waiting: list[tuple[Any, int]] = [(payload, 2)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list, tuple)):
            if depth > MAX_KEPT_NESTING:
                raise _Unfit(f"nests deeper than {MAX_KEPT_NESTING} levels").below("payload")
            if isinstance(value, dict) and not all(isinstance(name, str) for name in value):
                raise _Unfit("has a key that is not a str").below("payload")
            waiting += ((item, depth + 1) for item in (value.values() if isinstance(value, dict) else value))
        elif isinstance(value, float) and not math.isfinite(value):
            raise _Unfit("holds a number that is not finite").below("payload")
        elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _MAX_BITS:
            raise _Unfit("holds a number of more than 4300 digits").below("payload")
        elif not (value is None or isinstance(value, (str, int, float))):
            raise _Unfit(f"holds a {type(value).__name__}, which is no JSON").below("payload")


#: Integers of up to this many bits have at most the 4300 digits that CPython turns into text by default.
_MAX_BITS: Final = 14_281

_ENCODER: Final = msgspec.json.Encoder()


def _enveloped(row: Row) -> Callable[[Any], dict[str, Any]]:
    write_payload = _converter.get_unstructure_hook(row.cls)
    type_ = row.type
    return lambda message: {"type": type_, "payload": write_payload(message)}


_WRITERS: Final[dict[type[Message], Callable[[Any], dict[str, Any]]]] = {
    row.cls: _enveloped(row) for row in REGISTRY
} | {CustomRequest: _write_open, UnknownMessage: _write_open}

_CONSTANT_LINES: Final[dict[type[Message], bytes]] = {
    row.cls: _ENCODER.encode({"type": row.type}) + b"\n" for row in REGISTRY if not attrs.fields(row.cls)
}


# ---------------------------------------------------------------------------------------------------------
# Reading: the canonical lane
# ---------------------------------------------------------------------------------------------------------


def _envelope(row: Row) -> type[msgspec.Struct]:
    """A struct that msgspec picks by `type`, and whose `payload` is the message."""
    fields = attrs.fields(row.cls)
    if not fields:
        members: list[Any] = []
        namespace: dict[str, Any] = {"payload": row.cls()}
    elif all(f.default in (attrs.NOTHING, _ZERO.get(f.type, ())) for f in fields):
        members, namespace = [("payload", row.cls)], {}
    else:
        # A default that is not the zero value: msgspec would fill an absent member with it, and absent means
        # zero. The payload is read as a struct whose defaults are zero, and the message made from that.
        twin: Any = msgspec.defstruct(f"{row.cls.__name__}Payload", [_twin(f) for f in fields], frozen=True)
        members = [("twin", twin, msgspec.field(name="payload"))]
        names = twin.__struct_fields__
        namespace = {"payload": property(lambda self: row.cls(**{name: getattr(self.twin, name) for name in names}))}
    return msgspec.defstruct(
        f"{row.cls.__name__}Line", members, namespace=namespace, tag_field="type", tag=row.type, frozen=True
    )


def _twin(field: attrs.Attribute[Any]) -> Any:
    if field.default is attrs.NOTHING:
        return (field.name, field.type)
    # Zero is never written where it is left out, and the reference refuses the zero "-0" that msgspec takes.
    type_: Any = field.type if field.type != U32 else _POSITIVE_U32
    return (field.name, type_, _ZERO.get(field.type, ()))


_POSITIVE_U32: Final = Annotated[int, msgspec.Meta(ge=1, le=U32_MAX)]


def _canonical(sender: Role) -> tuple[dict[bytes, Message], Callable[[bytes], Any]]:
    """What needs no reading at all (lines that are the same each time), and the decoder for the rest."""
    rows = BY_TYPE[sender].values()
    same = [row.cls() for row in rows if not attrs.fields(row.cls)]
    if sender is Role.GUEST:
        same += [Ack(row.type, True) for row in REGISTRY if row.reply is Ack]
    exact = {bytes(line[:-1]): message for message in same if isinstance(line := write(message), bytes)}
    union: Any = functools.reduce(operator.or_, map(_envelope, rows))
    return exact, msgspec.json.Decoder(union).decode


_CANONICAL: Final = {role: _canonical(role) for role in Role}


# ---------------------------------------------------------------------------------------------------------
# Reading: the tolerant lane
# ---------------------------------------------------------------------------------------------------------


def read_tolerantly(line: bytes, sender: Role) -> Message | RemoteProtocolError:
    """The tolerant lane alone. It reads every line; the canonical lane is only faster."""
    try:
        members = _members(parse(line))
    except MalformedJSON as exc:
        return MalformedLine(
            f"the {sender.value} sent a line that is not JSON: {exc.reason}",
            reason=exc.reason,
            column=exc.column,
        )
    except _Unfit as exc:
        return MalformedLine(
            f"the {sender.value} sent a line that is no message: {exc}",
            reason=str(exc),
            path=exc.path,
            found=exc.found,
        )
    type_ = clean_text(members.get("type") or "")
    row = BY_TYPE[sender].get(type_)
    try:
        if row is None:
            return _open_message(sender, type_, members)
        return _payload(row, members)
    except _Unfit as exc:
        fault = exc.below("payload")
    return InvalidMessage(
        f"the {sender.value} sent {type_!r} with a payload that does not fit: {fault}",
        type=type_,
        path=fault.path,
        reason=fault.reason,
        missing="payload" not in members,
    )


def _open_message(sender: Role, type_: str, members: Members) -> Message:
    try:
        payload = clean_value(members.get("payload"))
    except ValueError as exc:
        raise _Unfit(str(exc)) from None
    return CustomRequest(type_, payload) if sender is Role.HOST else UnknownMessage(type_, payload)


def _members(value: Any) -> Members:
    if value is None:
        return Members([])
    if not isinstance(value, Members):
        raise _mismatch("an object", value)
    types = [value.get("type"), *(shadowed for name, shadowed in value.shadowed if name == "type")]
    for type_ in types:
        if type_ is not None and not isinstance(type_, str):
            raise _mismatch("a string", type_).below("type")
    return value


def _payload(row: Row, members: Members) -> Message:
    if row.needs_payload and "payload" not in members:
        raise _Unfit("is missing")
    payload = members.get("payload") if attrs.fields(row.cls) else None
    message: Message = _converter.get_structure_hook(row.cls)(payload, row.cls)
    return message
