"""The tolerant lane: the reference's rules for values, applied one by one (`docs/protocol.md` §4, §5).

It reads every line that the protocol allows, and says of every other what is wrong with it and where; so it also
words the refusals of the canonical lane, in both directions. Nothing is coerced: `"false"` is no boolean.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, get_args, get_origin

import attrs
import cattrs

from .._constants import I64_MAX, I64_MIN, MAX_KEPT_NESTING, U32_MAX
from .._errors import InvalidMessage, MalformedLine, RemoteProtocolError
from .._messages import (
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
    with_article,
)
from .._registry import BY_TYPE, Role, Row
from .json import MalformedJSON, Members, NegativeZero, clean_text, clean_value, json_type, parse


def read_tolerantly(line: bytes, sender: Role) -> Message | RemoteProtocolError:
    """The tolerant lane alone. It reads every line; the other lanes are only faster."""
    try:
        type_, payload, missing = _envelope(parse(line))
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
    row = BY_TYPE[sender].get(type_)
    try:
        if row is None:
            return _open_message(sender, type_, payload)
        return _payload(row, payload, missing=missing)
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
        missing=missing,
    )


def _envelope(value: Any) -> tuple[str, Any, bool]:
    """The type, the payload, and whether there is none. Of several payloads only the last one is looked at."""
    type_, payload, missing = "", None, True
    for name, member in _members(value):
        if name == "payload":
            payload, missing = member, False
        elif name == "type" and member is not None:
            try:
                type_ = _read_text(member)
            except Unfit as exc:
                raise exc.below("type") from None
    return type_, payload, missing


def _members(value: Any) -> Members:
    """The members of an object. Null has none."""
    if value is None:
        return ()
    if type(value) is not tuple:
        raise _mismatch("an object", value)
    return value


def _open_message(sender: Role, type_: str, payload: Any) -> Message:
    try:
        kept = clean_value(payload)
    except ValueError as exc:
        raise Unfit(str(exc)) from None
    return CustomRequest(type_, kept) if sender is Role.HOST else UnknownMessage(type_, kept)


def _payload(row: Row, payload: Any, *, missing: bool) -> Message:
    if row.needs_payload and missing:
        raise Unfit("is missing")
    cls: Any = row.cls  # to mypy, classes of attrs are not hashable
    read: Callable[[Any], Message] = _class_reader(cls)
    # `ping` and `get_health` have no members, and ignore whatever their payload is.
    return read(payload if attrs.fields(cls) else None)


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


def _read_text(value: Any) -> str:
    if type(value) is not str:
        raise _mismatch("a string", value)
    return clean_text(value)


def _read_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _mismatch("true or false", value)
    return value


def _read_u32(value: Any) -> int:
    if type(value) is not int:
        raise _mismatch("a whole number that is not negative", value)
    return _in_range(value, 0, U32_MAX)


def _read_i64(value: Any) -> int:
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


@functools.cache
def _class_reader(cls: type[Any]) -> Callable[..., Any]:
    """A function that reads the members of an object into a `cls`, by the rules of §4.

    Members that are absent are zero, unknown ones are ignored. A member that stands more than once is read over
    the value that is already there: null leaves a text, flag or number as it is, and empties a list. `before` is
    the object that this one is read over, where there is one.
    """
    fields = wire_fields(cls)
    lists = {field.name: _list_reader(get_args(field.type)[0]) for field in fields if _is_tuple(field.type)}
    readers: dict[str, Callable[..., Any]] = {
        field.name: lists[field.name] if field.name in lists else _SCALARS[field.type] for field in fields
    }
    zero = cls(**{field.name: ZERO.get(field.type, ()) for field in fields})

    def read_class(value: Any, before: Any = zero) -> Any:
        found: dict[str, Any] = {}
        memories: dict[str, list[Any]] = {}
        for name, member in _members(value):
            read = readers.get(name)
            if read is None:
                continue
            try:
                if name in lists:
                    found[name] = read(member, memories.setdefault(name, []))
                elif member is not None:
                    found[name] = read(member)
            except Unfit as exc:
                raise exc.below(name) from None
        # Objects without a known member are all the same one: a line may hold hundreds of thousands.
        return cls(**{**vars(before), **found}) if found else before

    return read_class


def _list_reader(item_type: Any) -> Callable[[Any, list[Any]], tuple[Any, ...]]:
    """A function that reads a list into `memory`, and returns its items.

    The reference keeps the memory of a list that stands more than once: each item is read over the one that was
    there, and a longer list brings back what a shorter one before it has hidden. Null and an empty list forget it.
    """
    read_item = _class_reader(item_type)

    def read_list(value: Any, memory: list[Any]) -> tuple[Any, ...]:
        if value is not None and type(value) is not list:
            raise _mismatch("an array", value)
        if not value:
            memory.clear()
            return ()
        if memory:
            known = iter(memory)
            items = _each(value, lambda item: read_item(item, *itertools.islice(known, 1)))
        else:
            items = _each(value, read_item)
        memory[: len(items)] = items
        return tuple(items)

    return read_list


def _class_writer(cls: Any) -> Callable[[Any], dict[str, Any]]:
    """A writer with the wire's order of keys, which leaves out what §2 leaves out."""
    steps = tuple((f.name, _converter.get_unstructure_hook(f.type), OMIT_ZERO in f.metadata) for f in wire_fields(cls))

    def write_class(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise Unfit(f"must be {with_article(cls)}, not {type(value).__name__}")
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
_SCALARS: Final[dict[Any, Callable[[Any], Any]]] = {
    str: _read_text,
    StateName: _read_text,  # the classes themselves turn it into a `LifecycleState`
    bool: _read_flag,
    U32: _read_u32,
    I64: _read_i64,
}
_converter.register_unstructure_hook(str, _write_text)
_converter.register_unstructure_hook(StateName, _write_text)
_converter.register_unstructure_hook(bool, _write_flag)
_converter.register_unstructure_hook_func(_is(U32), lambda value: _write_number(value, 0, U32_MAX))
_converter.register_unstructure_hook_func(_is(I64), lambda value: _write_number(value, I64_MIN, I64_MAX))
_converter.register_unstructure_hook_factory(_is_tuple, _list_writer)
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
            raise Unfit(f"holds {with_article(type(value))}, which is no JSON").below("payload")


#: Integers of up to this many bits have at most the 640 digits that CPython turns into text whatever its settings.
_MAX_BITS: Final = 2_126
