"""One line into one message: the lanes agree with each other and with the oracle, and what is read can be written."""

from __future__ import annotations

from stereos_proto import InjectSSHKey, InvalidMessage, LocalProtocolError, MalformedLine, Message, Role, decode, encode
from stereos_proto._codec import reader
from stereos_proto._codec.tolerant import read_tolerantly
from stereos_proto._messages import CustomRequest, UnknownMessage

from . import oracle
from .secrecy import check_silent
from .source import outcome, split

HEAD = 1
BODY = "line"
LONGEST = 240

READERS = {role: reader(role) for role in Role}


def check(data: bytes) -> None:
    """Raise AssertionError when an invariant of the codec does not hold for `data`."""
    head, line = split(data, HEAD)
    sender = Role.HOST if head[0] & 1 else Role.GUEST
    line = line.replace(b"\n", b" ").removesuffix(b"\r")
    result = READERS[sender](line)
    tolerant = read_tolerantly(line, sender)
    if isinstance(result, Message):
        assert result == tolerant
        assert type(result) is type(tolerant)
        check_stable(result, sender)
    else:
        assert type(result) in (MalformedLine, InvalidMessage)
        assert (type(result), str(result), vars(result)) == (type(tolerant), str(tolerant), vars(tolerant))
        check_silent(result, line)
    expected = oracle.read(line, sender.value)
    if expected is not None:
        assert as_read(result) == expected


def as_read(result: Message | Exception) -> oracle.Read:
    """What the library has read, in the oracle's words."""
    if isinstance(result, MalformedLine):
        return oracle.Read(oracle.MALFORMED)
    if isinstance(result, InvalidMessage):
        return oracle.Read(oracle.INVALID, result.type)
    assert isinstance(result, Message)
    if isinstance(result, (CustomRequest, UnknownMessage)):
        return oracle.Read(oracle.UNKNOWN, result.type, result.payload)
    # `attrs.asdict` would take more time than all the rest.
    payload = dict(vars(result))
    if "agents" in payload:
        payload["agents"] = [vars(agent) for agent in payload["agents"]]
    return oracle.Read(oracle.MESSAGE, result.type, payload)


def check_stable(message: Message, sender: Role) -> None:
    """What was read can be written, and is the same when it is read again; but for numbers, and keys that we refuse."""
    line = outcome(encode, message)
    if type(line) is not bytes:
        assert type(line) is LocalProtocolError
        if isinstance(message, InjectSSHKey):
            assert "newline inside" in str(line)
        else:
            assert isinstance(message, (CustomRequest, UnknownMessage))
            assert "number" in str(line) or "bytes long" in str(line)
        return
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    again = decode(line, sender=sender)
    assert again == message
    assert encode(again) == line
