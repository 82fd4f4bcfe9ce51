"""Cases of lines and messages: framing, replies, their order (§1 to §3)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from stereos_proto import MAX_LINE_SIZE

from ._guest_case import I64_MAX, PING, PONG, add, answers, compare, malformed, request, short, unknown
from ._guest_peer import Deviation, Line, Peer

# ------------------------------------------------------------------------------------------ §1 framing


@add("§1", "An empty line is ignored.")
def _(peer: Peer) -> None:
    answers(peer, b"\n\r\n\n" + PING + b"\n\n\r", PONG)


@add("§1", "One trailing carriage return is stripped.")
def _(peer: Peer) -> None:
    answers(peer, PING + b"\r", PONG)


@add("§1", "A line of blanks only is malformed.")
def _(peer: Peer) -> None:
    malformed(peer, b"   ", b"\t", b" \r")


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
    peer.send(PING)
    peer.half_close()
    compare(_rest(peer), [PONG], "a ping without a newline, before the end,")


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
    payload = _health(peer)
    if not isinstance(payload.get("state"), str):
        raise Deviation("health has no `state` that is a string")
    uptime = payload.get("uptime_seconds")
    if type(uptime) is not int or not 0 <= uptime <= I64_MAX:
        raise Deviation("health has no `uptime_seconds` that is a whole number")


@add("§2", "An agent has a name, and says whether it runs.")
def _(peer: Peer) -> None:
    payload = _health(peer)
    agents = payload.get("agents", [{"name": "", "running": False}])
    if not isinstance(agents, list) or not agents:
        raise Deviation("`agents` is no list, or an empty one that should be left out")
    for agent in agents:
        if not isinstance(agent, dict):
            raise Deviation(f"an agent is {short(agent)}, no object")
        types = {"name": str, "running": bool, "session": str, "restarts": int, "error": str}
        wrong = [name for name, type_ in types.items() if name in agent and type(agent[name]) is not type_]
        if wrong or not {"name", "running"} <= agent.keys():
            raise Deviation(f"an agent has {'a wrong ' + wrong[0] if wrong else 'no name, or no running'}")


@add("§2", "Keys are emitted in the order of the table.")
def _(peer: Peer) -> None:
    orders = (
        (["type", "payload"], ["reply_to", "ok", "error"], request("conformance-order")),
        (["type", "payload"], ["state", "agents", "uptime_seconds"], b'{"type":"get_health"}'),
    )
    for outer, inner, line in orders:
        reply = peer.ask_one(line)
        if not isinstance(reply.value, dict):
            raise Deviation(f"{short(line.decode())} was answered by {short(reply.value)}, no object")
        for got, order in ((reply.value, outer), (reply.payload, inner)):
            keys = [key for key in got if key in order]
            if keys != sorted(keys, key=order.index):
                raise Deviation(f"keys stand as {', '.join(keys)}")


@add("§2", "Message types are case-sensitive.")
def _(peer: Peer) -> None:
    for type_ in ("PING", "Ping", "Get_Health"):
        answers(peer, request(type_), unknown(type_))


def _health(peer: Peer) -> dict[str, Any]:
    reply = peer.ask_one(b'{"type":"get_health"}')
    if reply.type != "health":
        raise Deviation(f"get_health was answered by {short(reply.value)}")
    return reply.payload


# -------------------------------------------------------------------------------- §3 order and matching


@add("§3", "Each line gets one reply, in order.")
def _(peer: Peer) -> None:
    types = [f"conformance-{number}" for number in range(100)]
    lines, wanted = [], []
    for type_ in types:
        lines += [request(type_), PING]
        wanted += [unknown(type_), PONG]
    compare(peer.ask(*lines), wanted, "a flight of 200 requests")


@add("§3", "Connections run in parallel.", needs_connections=True)
def _(peer: Peer) -> None:
    peer.send(PING[:5])
    with peer.dial() as another:
        answers(another, PING, PONG)
    answers(peer, PING[5:], PONG)


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
