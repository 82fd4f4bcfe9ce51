"""The tolerant lane: the reference's rules for values, applied one by one (`docs/protocol.md` §4, §5).

One cattrs _converter knows how each type of value goes to and from JSON. It reads every line that the protocol
allows, and says of every other what is wrong with it and where; so it also words the refusals of the canonical
lane, in both directions. It never coerces: stock cattrs reads `"false"` as True.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, get_args, get_origin

import attrs
import cattrs

from ._constants import I64_MAX, I64_MIN, MAX_KEPT_NESTING, U32_MAX
from ._errors import InvalidMessage, MalformedLine, RemoteProtocolError
from ._json import MalformedJSON, Members, NegativeZero, clean_text, clean_value, json_type, parse
from ._messages import (
    I64,
    OMIT_ZERO,
    U32,
    ZERO,
    CustomRequest,
    Message,
    StateName,
    UnknownMessage,
    shortened,
    wire_fields,
)
from ._registry import BY_TYPE, Role, Row


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
    except Unfit as exc:
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
    except Unfit as exc:
        fault = exc.below("payload")
    # A guest may name a type after a secret that it was sent.
    made_up = row is None and sender is Role.GUEST
    what = "a message" if made_up else shortened(type_)
    return InvalidMessage(
        f"the {sender.value} sent {what} with a payload that does not fit: {fault}",
        type="" if made_up else type_,
        path=fault.path,
        reason=fault.reason,
        missing="payload" not in members,
    )


def _open_message(sender: Role, type_: str, members: Members) -> Message:
    try:
        payload = clean_value(members.get("payload"))
    except ValueError as exc:
        raise Unfit(str(exc)) from None
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
        raise Unfit("is missing")
    payload = members.get("payload") if attrs.fields(row.cls) else None
    message: Message = _converter.get_structure_hook(row.cls)(payload, row.cls)
    return message


class Unfit(ValueError):
    """A value that does not fit its place. The text names the place and what is wrong, never the value."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.found = found
        self.path = ""

    def below(self, place: str) -> Unfit:
        self.path = f"{place}{'.' if self.path and self.path[0] != '[' else ''}{self.path}"
        return self

    def __str__(self) -> str:
        return f"{self.path} {self.reason}".lstrip()


def _mismatch(wanted: str, value: Any) -> Unfit:
    return Unfit(f"must be {wanted}, not {json_type(value)}", json_type(value))


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
        raise Unfit(f"must be a whole number from {low} to {high}", "number")
    return value


def _write_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit(f"must be a str, not {type(value).__name__}")
    return value


def _write_flag(value: Any) -> bool:
    if value is not True and value is not False:
        raise Unfit(f"must be a bool, not {type(value).__name__}")
    return value


def _write_number(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unfit(f"must be an int, not {type(value).__name__}")
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
            raise Unfit(f"must be a tuple, not {type(value).__name__}")
        return _each(value, write_item)

    return write_list


def _each(items: Iterable[Any], convert: Callable[[Any], Any]) -> list[Any]:
    done: list[Any] = []
    try:
        done.extend(convert(item) for item in items)
    except Unfit as exc:
        raise exc.below(f"[{len(done)}]") from None
    return done


def _class_reader(cls: Any) -> Callable[[Any, Any], Any]:
    """A reader that knows the rules of §4: absent or null is zero, unknown is ignored, the last one wins."""
    hooks = {f.name: (_converter.get_structure_hook(f.type), f.type) for f in wire_fields(cls)}
    zeros = {f.name: ZERO.get(f.type, ()) for f in wire_fields(cls)}
    known = {f.name: _item_names(f.type) for f in wire_fields(cls)}

    def read_member(name: str, value: Any) -> Any:
        if value is None:
            return zeros[name]
        hook, type_ = hooks[name]
        try:
            return hook(value, type_)
        except Unfit as exc:
            raise exc.below(name) from None

    def read_class(value: Any, _type: Any) -> Any:
        if value is None:
            return cls(**zeros)
        if not isinstance(value, Members):
            raise _mismatch("an object", value)
        twice: dict[str, list[Any]] = {}
        for name, shadowed in value.shadowed:
            if name in hooks:
                read_member(name, shadowed)
                twice.setdefault(name, []).append(shadowed)
        for name, earlier in twice.items():
            # Before what stands twice inside it is forgotten.
            read_member(name, value[name])
            value[name] = functools.reduce(functools.partial(_overlaid, known[name]), [*earlier, value[name]])
        return cls(**{name: read_member(name, value.get(name)) for name in hooks})

    return read_class


def _item_names(type_: Any) -> frozenset[str]:
    """The members of a list's items; none for what is no list."""
    items = get_args(type_) if _is_tuple(type_) else ()
    return frozenset(field.name for field in wire_fields(items[0])) if items else frozenset()


def _overlaid(known: frozenset[str], earlier: Any, last: Any) -> Any:
    """The last of two values of one member. The reference reads a list over the earlier one, item by item.

    Only the members that are `known` go on to the next value: a line may hold thousands of them.
    """
    if not isinstance(earlier, list) or not isinstance(last, list):
        return last
    return [
        Members([pair for item in (old, new) for pair in item.items() if pair[0] in known])
        if isinstance(old, Members) and isinstance(new, Members)
        else new
        for old, new in itertools.zip_longest(earlier[: len(last)], last)
    ]


def _class_writer(cls: Any) -> Callable[[Any], dict[str, Any]]:
    """A writer with the wire's order of keys, which leaves out what §2 leaves out."""
    steps = tuple((f.name, _converter.get_unstructure_hook(f.type), OMIT_ZERO in f.metadata) for f in wire_fields(cls))

    def write_class(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise Unfit(f"must be a {cls.__name__}, not {type(value).__name__}")
        data: dict[str, Any] = {}
        name = ""
        try:
            for name, convert, omit_zero in steps:
                member = convert(getattr(value, name))
                if member or not omit_zero:
                    data[name] = member
        except Unfit as exc:
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
    (StateName, _read_text, _write_text),
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


def written(message: Any) -> dict[str, Any]:
    """The envelope of a message as plain data, in the wire's order of keys.

    Raises Unfit, which names the member at fault and never its value.
    """
    type_ = message.type
    if not isinstance(message, (CustomRequest, UnknownMessage)):
        return {"type": type_, "payload": _converter.unstructure(message)}
    try:
        _write_text(type_)
    except Unfit as exc:
        raise exc.below("type") from None
    _check_json(message.payload)
    return {"type": type_} if message.payload is None else {"type": type_, "payload": message.payload}


def _check_json(payload: Any) -> None:
    """Refuse what msgspec would write as something else (sets, bytes, NaN, keys that are no text)."""
    waiting: list[tuple[Any, int]] = [(payload, 2)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list, tuple)):
            if depth > MAX_KEPT_NESTING:
                raise Unfit(f"nests deeper than {MAX_KEPT_NESTING} levels").below("payload")
            if isinstance(value, dict) and not all(isinstance(name, str) for name in value):
                raise Unfit("has a key that is not a str").below("payload")
            waiting += ((item, depth + 1) for item in (value.values() if isinstance(value, dict) else value))
        elif isinstance(value, float) and not math.isfinite(value):
            raise Unfit("holds a number that is not finite").below("payload")
        elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _MAX_BITS:
            raise Unfit("holds a number of more than 640 digits").below("payload")
        elif not (value is None or isinstance(value, (str, int, float))):
            raise Unfit(f"holds a {type(value).__name__}, which is no JSON").below("payload")


#: Integers of up to this many bits have at most the 640 digits that CPython turns into text whatever its settings.
_MAX_BITS: Final = 2_126
