"""Between one line and one message (`docs/protocol.md` §2 to §5). Stateless.

Both directions have two lanes. The *canonical* lane (`canonical`) is msgspec: it takes what the reference writes, and
refuses whatever it is not sure of. What it refuses goes to the *tolerant* lane (`tolerant`), which applies the
reference's rules one by one, and says what is wrong and where. Whatever the canonical lane accepts, the tolerant lane
treats alike; property tests hold them together.

`reader` and `write` return faults instead of raising them. A line may hold a secret, and an exception carries
the locals of every frame that it passes; so it is made where a line is at hand, and raised where none is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .._constants import MAX_KEPT_NESTING, MAX_LINE_SIZE
from .._errors import InvalidMessage, LocalProtocolError, RemoteProtocolError
from .._frames import forget_locals
from .._messages import Ack, CustomRequest, Message, UnknownMessage, named, wire_fields
from .._registry import BY_TYPE, REGISTRY, Role, Row
from .canonical import LISTS, MAX_SKIPPED_NESTING, bare_line, decoder, may_repeat, read_open, write_tolerantly, writer
from .json import nests_deeper
from .tolerant import Unfit, read_tolerantly


def encode(message: Message) -> bytes:
    r"""Return the line for `message`, its "\\n" included (§5).

    Raises LocalProtocolError when a value is of the wrong type or out of its range, when it cannot be
    written faithfully (a lone surrogate, NaN, a set), or when the line would be longer than 1 MiB.
    """
    result: bytes | LocalProtocolError | None = None
    try:
        result = write(message)
        if isinstance(result, bytes):
            return result
    except BaseException as exc:
        result = None
        forget_locals(exc)
        raise
    raise result


def decode(line: bytes, *, sender: Role) -> Message:
    """Return the message on `line`, which `sender` sent. A line ending is allowed, and not needed (§4).

    A type that is not in the registry, or that the other side sends, comes as `CustomRequest` from the host
    and as `UnknownMessage` from the guest.

    Raises MalformedLine when it is no JSON object with a textual type, InvalidMessage when its payload does
    not fit its type.
    """
    result: Message | RemoteProtocolError | None = None
    try:
        result = reader(sender)(line.removesuffix(b"\n").removesuffix(b"\r"))
        if not isinstance(result, RemoteProtocolError):
            return result
    except BaseException as exc:
        line, result = b"", None
        forget_locals(exc)
        raise
    del line
    raise result


def write(message: Message, limit: int = MAX_LINE_SIZE) -> bytes | LocalProtocolError:
    """`encode`, with the fault as a value and a `limit` in bytes, line ending included."""
    line = _LINES.get(type(message))
    if line is None:
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
        except InvalidMessage as exc:
            # A custom request with the name of a class, whose payload that class does not take.
            return LocalProtocolError(f"cannot send {named(message)}: {exc.path} {exc.reason}")
    if len(line) > limit:
        return LocalProtocolError(
            f"cannot send {named(message)}: the line would be {len(line)} bytes long, and the guest closes the "
            f"connection on lines over {limit} bytes"
        )
    return line


#: The opening of a list. As a number: `in` takes three times as long to look for bytes.
_BRACKET: Final = ord("[")


def reader(sender: Role) -> Callable[[bytes], Message | RemoteProtocolError]:
    """Return `decode` for the lines of `sender`, with the fault as a value."""
    same_each_time, canonical, lists_of = _SAME_EACH_TIME[sender], _DECODERS[sender], LISTS.get
    # Look up only lines of these sizes, so that most others need not be hashed.
    sizes = frozenset(map(len, same_each_time))

    def read(line: bytes) -> Message | RemoteProtocolError:
        size = len(line)
        if size in sizes and (known := same_each_time.get(line)) is not None:
            return known
        # The comparison of sizes saves a call for most lines.
        if size <= MAX_SKIPPED_NESTING or not nests_deeper(line, MAX_SKIPPED_NESTING):
            try:
                message: Message = canonical(line).payload
            except (ValueError, RecursionError):
                # Continue after the `try`: an exception raised in here would have this one as its context, and that
                # holds the line.
                pass
            else:
                lists = lists_of(type(message))
                # The first two answer for most lines, and take no call.
                if lists is None or _BRACKET not in line or not may_repeat(line, lists):
                    return message
        if not nests_deeper(line, MAX_KEPT_NESTING) and (unknown := read_open(line, sender)) is not None:
            return unknown
        return read_tolerantly(line, sender)

    return read


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
    line = write_tolerantly(message)
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


#: The lines of the messages that have no fields.
_LINES: Final[dict[type[Message], bytes]] = {row.cls: bare_line(row) for row in REGISTRY if not wire_fields(row.cls)}
_WRITERS: Final[dict[type[Message], Callable[[Any], bytes]]] = {
    **{row.cls: _checked(row, writer(row)) for row in REGISTRY if row.cls not in _LINES},
    CustomRequest: _write_custom,
    UnknownMessage: write_tolerantly,
}


def _same_each_time(sender: Role) -> dict[bytes, Message]:
    """Lines that are the same each time, and their messages."""
    same = [row.cls() for row in BY_TYPE[sender].values() if not wire_fields(row.cls)]
    if sender is Role.GUEST:
        same += [Ack(row.type, True) for row in REGISTRY if row.reply is Ack]
    nothing: Message = CustomRequest("") if sender is Role.HOST else UnknownMessage("")
    # The shortest lines are the cheapest flood.
    return {b"{}": nothing, b"null": nothing, **{encode(message)[:-1]: message for message in same}}


_SAME_EACH_TIME: Final = {role: _same_each_time(role) for role in Role}
_DECODERS: Final = {role: decoder(role) for role in Role}
