"""Cases of lines and messages: framing, replies, their order (§1 to §3)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final

from stereos_proto import MAX_LINE_SIZE

from ._guest_case import EMPTY_NAME, PING, PONG, ack, add, answers, compare, malformed, request, unknown
from ._guest_peer import Deviation, Line, Peer, Unsupported, check
from ._guest_text import ACK, AGENT, HEALTH, Members, short

# --------------------------------------------------------------------- first, what the other cases need


@add("§3", "A request of a made-up type is an echo that every guest answers.")
def _(peer: Peer) -> None:
    compare(peer.ask(), [], "a connection on which nothing else was asked")


#: How the refusal of a malformed line begins (§3).
_MALFORMED: Final = "malformed JSON: "
#: How many connections are open at once. No guest has a reason to allow fewer, and no host to have more.
_CONNECTIONS: Final = 10
#: A string on a line of JSON.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')

# ------------------------------------------------------------------------------------------ §1 framing


@add("§1", "An empty line is ignored.")
def _(peer: Peer) -> None:
    answers(peer, b"\n\r\n\n" + PING + b"\n\n\r", PONG)


@add("§1", "One trailing carriage return is stripped.")
def _(peer: Peer) -> None:
    answers(peer, PING + b"\r", PONG)


@add("§1", "A line of blanks only is malformed.")
def _(peer: Peer) -> None:
    malformed(peer, b"   ", b"\t", b" \r", b"\r\r")


@add("§1", "Only a newline separates lines.")
def _(peer: Peer) -> None:
    malformed(peer, PING + b"\r" + PING, PING + "\u2028".encode() + PING, PING + b"\v" + PING)


@add("§1", "A line may arrive in pieces of any size.")
def _(peer: Peer) -> None:
    for byte in PING + b"\n" + PING[:7]:
        peer.send(bytes([byte]))
    answers(peer, PING[7:], PONG, PONG)


@add("§1", "A line may have 1,048,575 bytes and its newline.")
def _(peer: Peer) -> None:
    for type_, ending in (("conformance-lf", b""), ("conformance-crlf", b"\r")):
        answers(peer, _padded(type_, MAX_LINE_SIZE - 1 - len(ending)) + ending, unknown(type_))


@add("§1", "A longer line closes the connection with no ack.", needs_connections=True)
def _(peer: Peer) -> None:
    _too_long(peer, _padded("conformance-long", MAX_LINE_SIZE) + b"\n")
    with peer.dial() as another:
        _too_long(another, _padded("conformance-long", MAX_LINE_SIZE - 1) + b"\r\n")


@add("§1", "Lines before one that is too long are answered.", needs_connections=True)
def _(peer: Peer) -> None:
    answers(peer, PING, PONG)
    try:
        peer.send(PING + b"\n" + b"x" * MAX_LINE_SIZE + b"\n")
    except OSError:
        return  # it closed while we were writing, which may have cost us the reply
    line = peer.line()
    compare([line] if line else [], [PONG], "a ping before a line that is too long")


@add("§1", "An unterminated last line is a line.", needs_connections=True, needs_half_close=True)
def _(peer: Peer) -> None:
    _end_with(peer, PING)
    compare(_rest(peer), [PONG], "a ping without a newline, before the end,")
    with peer.dial() as another:
        _end_with(another, PING[:9])
        replies = [*_rest(another)]
        error = str(replies[0].payload.get("error")) if replies else ""
        wanted = ack("", error) if error.startswith(_MALFORMED) else ack("", f"{_MALFORMED}…")
        compare(replies, [wanted], "a part of a line, before the end,")
    with peer.dial() as another:
        _end_with(another, _padded("conformance-end", MAX_LINE_SIZE - 1))
        compare(_rest(another), [unknown("conformance-end")], "a line of 1,048,575 bytes, before the end,")


@add("§1", "After a half-close the outstanding replies still arrive.", needs_connections=True, needs_half_close=True)
def _(peer: Peer) -> None:
    types = [f"conformance-{number}" for number in range(20)]
    peer.send(b"".join(request(type_) + b"\n" for type_ in types))
    peer.half_close()
    compare(_rest(peer), map(unknown, types), "a flight of requests before a half-close")


def _padded(type_: str, size: int) -> bytes:
    """A request of an unknown type whose line has `size` bytes, without its ending."""
    line = request(type_, {"padding": ""})
    return line.replace(b'""', b'"' + b"x" * (size - len(line)) + b'"')


def _end_with(peer: Peer, data: bytes) -> None:
    peer.send(data)
    peer.half_close()


def _too_long(peer: Peer, data: bytes) -> None:
    try:
        peer.send(data)
    except OSError:
        return  # it closed before it had read all, as it may
    if not peer.ends():
        raise Deviation(f"a line of {len(data)} bytes, its ending included, was answered")


def _rest(peer: Peer) -> Iterable[Line]:
    while (line := peer.line()) is not None:
        yield line


# ----------------------------------------------------------------------------------------- §2 messages


@add("§2", "`ping` is answered by `pong`, which has no payload.")
def _(peer: Peer) -> None:
    answers(peer, PING, PONG)


@add("§2", "`get_health` is answered by `health`.")
def _(peer: Peer) -> None:
    first, second = (_health(peer)["uptime_seconds"] for _ in range(2))
    if not 0 <= first <= second:
        raise Deviation(f"`uptime_seconds` was {short(first)}, then {short(second)}")


@add("§2", "An agent has a name, and says whether it runs.")
def _(peer: Peer) -> None:
    agents = _health(peer).get("agents", ())
    # An old guest's agents have no `restarts`.
    members = {name: member for name, member in AGENT.items() if name != "restarts" or not _is_old(peer)}
    for agent in agents:
        check(agent, members, "an agent")


@add("§2", "Keys are emitted in the order of the table.")
def _(peer: Peer) -> None:
    refused = peer.ask_one(request("conformance-order"))
    _in_order(refused, ACK)
    health = peer.ask_one(b'{"type":"get_health"}')
    _in_order(health, HEALTH)
    agents = health.payload.get("agents")
    for agent in agents if isinstance(agents, list) else ():
        _keys_in_order(agent, AGENT)


@add("§2", "Message types are case-sensitive.")
def _(peer: Peer) -> None:
    for type_ in ("PING", "Ping", "Get_Health"):
        answers(peer, request(type_), unknown(type_))


def _health(peer: Peer) -> dict[str, Any]:
    """Return the payload of a `health` whose own members are as in the table."""
    reply = peer.ask_one(b'{"type":"get_health"}')
    if reply.type != "health":
        raise Deviation(f"get_health was answered by {short(reply.value)}")
    check(reply.payload, HEALTH, "health")
    return reply.payload


def _is_old(peer: Peer) -> bool:
    """Whether the guest is an old one, which knows fewer types (§2): it does not know `inject_ssh_key`.

    The key has no user, so today's guest refuses it.
    """
    try:
        peer.ask(request("inject_ssh_key", {}))
    except Unsupported:
        return True
    return False


def _in_order(reply: Line, members: Members) -> None:
    if not isinstance(reply.value, dict):
        raise Deviation(f"it was answered by {short(reply.value)}, no object")
    _keys_in_order(reply.value, ("type", "payload"))
    _keys_in_order(reply.payload, members)


def _keys_in_order(value: Any, order: Iterable[str]) -> None:
    places = {key: place for place, key in enumerate(order)}
    keys = [key for key in value if key in places] if isinstance(value, dict) else []
    if keys != sorted(keys, key=places.__getitem__):
        raise Deviation(f"keys stand as {', '.join(keys)}")


@add("§5", "Lines are compact, and end with a newline alone.")
def _(peer: Peer) -> None:
    for reply in peer.ask(PING, request("conformance a: b"), b'{"type":"get_health"}'):
        if re.search(rb"\s", _STRING.sub(b"", reply.raw)):
            raise Deviation(f"a line has blanks between its parts, or before its end: {short(reply.raw.decode())}")


@add("§10", "Agents are sorted by name, and no two have one name.")
def _(peer: Peer) -> None:
    names = [agent.get("name") for agent in _health(peer).get("agents", ()) if isinstance(agent, dict)]
    texts = [name for name in names if isinstance(name, str)]
    if texts != sorted({*texts}, key=str.encode):
        raise Deviation(f"the agents are {short(names)}")


# -------------------------------------------------------------------------------- §3 order and matching


@add("§3", "Each line gets one reply, in order.")
def _(peer: Peer) -> None:
    types = [f"conformance-{number}" for number in range(100)]
    lines, wanted = [], []
    for type_ in types:
        lines += [request(type_), PING]
        wanted += [unknown(type_), PONG]
    compare(peer.ask(*lines), wanted, "a flight of 200 requests")


@add("§3", "Replies of every kind come in the order of the lines.")
def _(peer: Peer) -> None:
    flight: dict[bytes, Any] = {
        PING: PONG,
        b"nonsense": _MALFORMED,
        request("inject_secret", {"name": ""}): EMPTY_NAME,
        b"{}": unknown(""),
        request("mount"): ack("mount", "decode mount payload: envelope mount has no payload"),
        request("conformance-flight"): unknown("conformance-flight"),
    }
    replies = peer.ask(*[*flight] * 10)
    for reply in replies:
        # The guest's own words come after these.
        if reply.type == "ack" and str(reply.payload.get("error")).startswith(_MALFORMED):
            reply.payload["error"] = _MALFORMED
    wanted = [ack("", want) if want == _MALFORMED else want for want in flight.values()]
    compare(replies, wanted * 10, "a flight of requests of every kind")


@add("§3", "Connections run in parallel.", needs_connections=True)
def _(peer: Peer) -> None:
    peer.send(PING[:5])
    with peer.dial() as another:
        answers(another, PING, PONG)
    answers(peer, PING[5:], PONG)
    with ExitStack() as stack:
        peers = [peer, *(stack.enter_context(peer.dial()) for _ in range(_CONNECTIONS - 1))]
        types = [f"conformance-{number}" for number in range(_CONNECTIONS)]
        for each, type_ in zip(peers, types, strict=True):
            each.send(request(type_) + b"\n")
        for each, type_ in reversed([*zip(peers, types, strict=True)]):
            line = each.line()
            compare([line] if line else [], [unknown(type_)], f"one of {_CONNECTIONS} connections")


@add("§3", "An unknown type is refused by its name.")
def _(peer: Peer) -> None:
    for type_ in (f"conformance-{secrets.token_hex(4)}", "a<b>&c", "ping ", "é\u2028😀", 'q"\\'):
        answers(peer, request(type_), unknown(type_))


@add("§3", "Types that a guest sends are unknown to it.")
def _(peer: Peer) -> None:
    for type_, payload in (
        ("pong", None),
        ("ack", {"reply_to": "x", "ok": True}),
        ("health", None),
        ("lifecycle", {"state": "ready"}),
    ):
        answers(peer, request(type_, payload), unknown(type_))


@add("§3", 'A type that is missing, null or empty is the unknown type "".')
def _(peer: Peer) -> None:
    for line in (b"{}", b"null", b'{"type":null}', b'{"type":""}', b'{"payload":{}}'):
        answers(peer, line, unknown(""))


@add("§3", "A malformed line is refused, and the connection goes on.")
def _(peer: Peer) -> None:
    malformed(peer, b"nonsense", b"{", b'{"type":"ping"', b'{"type":"ping",}', b"{'type':'ping'}")


@add("§3", "Arrays, strings, numbers and booleans are malformed.")
def _(peer: Peer) -> None:
    malformed(peer, b"[]", b"[" + PING + b"]", b'"ping"', b"5", b"true", b"false")


@add("§3", "A type that is no string is malformed.")
def _(peer: Peer) -> None:
    malformed(peer, b'{"type":5}', b'{"type":true}', b'{"type":["ping"]}', b'{"type":{}}')
