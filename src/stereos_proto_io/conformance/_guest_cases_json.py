"""Cases of how a guest reads JSON (§4)."""

from __future__ import annotations

from typing import Any, Final

from ._guest_case import (
    EMPTY_NAME,
    NOUNS,
    PING,
    PONG,
    U32_MAX,
    ack,
    add,
    answers,
    malformed,
    refuses,
    request,
    unknown,
)
from ._guest_peer import Deviation, Peer
from ._guest_text import short

_EMPTY_TAG: Final = ack("mount", "mount tag cannot be empty")

# --------------------------------------------------------------------------------------- §4 reading JSON


@add("§4", "Unknown members are ignored.")
def _(peer: Peer) -> None:
    answers(peer, b'{"id":7,"type":"ping","then":{"type":"x"}}', PONG)
    answers(peer, request("inject_secret", {"name": "", "more": [1]}), EMPTY_NAME)


@add("§4", "The last duplicate member wins.")
def _(peer: Peer) -> None:
    answers(peer, b'{"type":"x","type":"ping"}', PONG)
    answers(peer, _members(b'"name":"a/b","name":""'), EMPTY_NAME)


@add("§4", "A later null leaves what stands before it.")
def _(peer: Peer) -> None:
    answers(peer, b'{"type":"ping","type":null}', PONG)
    invalid = ack("inject_secret", 'invalid secret name: "a/b" (must be a simple filename)')
    answers(peer, _members(b'"name":"a/b","name":null'), invalid)
    answers(peer, _members(rb'"name":"a/b","n\u0061me":null'), invalid)


@add("§4", "A wrong type is refused, also when a good value follows.")
def _(peer: Peer) -> None:
    malformed(peer, b'{"type":5,"type":"ping"}')
    for members in (b'"name":0,"name":""', b'"name":"","mode":"x","mode":1', b'"name":"","mode":4294967296,"mode":1'):
        refuses(peer, _members(members), "inject_secret", "decode secret payload: ")


@add("§4", "Of several payloads only the last one is looked at.")
def _(peer: Peer) -> None:
    answers(peer, b'{"type":"inject_secret","payload":{"name":"a/b"},"payload":{}}', EMPTY_NAME)
    answers(peer, b'{"type":"inject_secret","payload":5,"payload":null}', EMPTY_NAME)
    line = b'{"type":"inject_secret","payload":{"name":""},"payload":[]}'
    refuses(peer, line, "inject_secret", "decode secret payload: ")


def _members(members: bytes) -> bytes:
    """Return a request whose payload has these members. None may be one that stores a secret."""
    return b'{"type":"inject_secret","payload":{%b}}' % members


@add("§4", "A missing member is the zero value.")
def _(peer: Peer) -> None:
    answers(peer, request("inject_secret", {}), EMPTY_NAME)


@add("§4", "A member that is null is the zero value.")
def _(peer: Peer) -> None:
    answers(peer, request("inject_secret", {"name": None, "value": None, "mode": None}), EMPTY_NAME)
    answers(peer, request("mount", {"tag": None, "read_only": None}), _EMPTY_TAG)


@add("§4", "A payload that is null is all zero values.")
def _(peer: Peer) -> None:
    answers(peer, b'{"type":"inject_secret","payload":null}', EMPTY_NAME)
    answers(peer, b'{"type":"mount","payload":null}', _EMPTY_TAG)


@add("§4", "An absent payload is an error where one is needed.")
def _(peer: Peer) -> None:
    for type_, noun in NOUNS.items():
        answers(peer, request(type_), ack(type_, f"decode {noun} payload: envelope {type_} has no payload"))


@add("§4", "A value of the wrong type is refused, not coerced.")
def _(peer: Peer) -> None:
    # Each would be refused for another reason, were it coerced: nothing here can have an effect.
    modes: tuple[Any, ...] = ("384", True, 384.5, [384], {})
    names: tuple[Any, ...] = (0, False, [], {})
    wrong: list[tuple[str, Any]] = [("inject_secret", {"name": "", "mode": mode}) for mode in modes]
    wrong += [("inject_secret", {"name": name}) for name in names]
    wrong += [("mount", {"tag": "", "read_only": value}) for value in ("true", 1, 0)]
    wrong += [("mount", {"tag": "", name: 5}) for name in ("guest_path", "fs_type")]
    for type_, payload in wrong:
        refuses(peer, request(type_, payload), type_, f"decode {NOUNS[type_]} payload: ")
    not_objects: tuple[Any, ...] = ([], "x", 5, True)
    for payload in not_objects:
        refuses(peer, request("inject_secret", payload), "inject_secret", "decode secret payload: ")


@add("§4", "A number that is no integer in range is refused.")
def _(peer: Peer) -> None:
    for number in ("-1", "-0", "3.0", "1e2", str(U32_MAX + 1), "1" + "0" * 40):
        refuses(peer, _members(b'"name":"","mode":%b' % number.encode()), "inject_secret", "decode secret payload: ")
    for number in ("0", "1", str(U32_MAX)):
        answers(peer, _members(b'"name":"","mode":%b' % number.encode()), EMPTY_NAME)


@add("§4", "An invalid byte, and a lone surrogate, is U+FFFD.")
def _(peer: Peer) -> None:
    for inside in (b"\xff", b"\\ud800"):
        answers(peer, b'{"type":"conformance-' + inside + b'"}', unknown("conformance-\ufffd"))
    answers(peer, b'{"type":"conformance-\xe2\x82"}', unknown("conformance-\ufffd\ufffd"))


@add("§4", "Arrays and objects may nest 10,000 levels.")
def _(peer: Peer) -> None:
    # The object around it is the first level.
    answers(peer, b'{"type":"ping","x":' + b"[" * 9_999 + b"]" * 9_999 + b"}", PONG)


@add("§4", "Deeper nesting is malformed.")
def _(peer: Peer) -> None:
    malformed(peer, b'{"type":"ping","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}")


@add("§4", "What is not quite JSON is malformed.")
def _(peer: Peer) -> None:
    malformed(
        peer,
        b"\xef\xbb\xbf" + PING,
        PING + b"x",
        PING + PING,
        b'{"type":"ping","x":NaN}',
        b'{"type":"ping","x":Infinity}',
        b'{"type":"ping","x":01}',
        b'{"type":"pi\tng"}',
        b'{"type":"ping"} //',
        PING.decode().encode("utf-16"),
    )


@add("§4", "A user or a key of the wrong type is refused.")
def _(peer: Peer) -> None:
    for payload in ({"user": 5}, {"user": "", "public_key": 5}):
        refuses(peer, request("inject_ssh_key", payload), "inject_ssh_key", "decode ssh key payload: ")


@add("§4", "`ping` and `get_health` ignore their payload.")
def _(peer: Peer) -> None:
    payloads: tuple[Any, ...] = (5, [], {"x": 1}, "x")
    for payload in payloads:
        answers(peer, request("ping", payload), PONG)
    for payload in payloads:
        reply = peer.ask_one(request("get_health", payload))
        if reply.type != "health":
            raise Deviation(f"get_health with a payload was answered by {short(reply.value)}")
