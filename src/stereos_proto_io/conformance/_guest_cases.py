"""The cases. Each is a sentence of `docs/protocol.md`, its section, and a check that raises Deviation."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

import attrs

from stereos_proto import MAX_LINE_SIZE

from ._guest_peer import Deviation, Line, Peer

#: The largest numbers of the wire (§2).
I64_MAX: Final = 2**63 - 1
U32_MAX: Final = 2**32 - 1


class Need(Enum):
    """What a case needs leave for."""

    NOTHING = "nothing"
    EFFECTS = "effects"
    SHUTDOWN = "shutdown"


@attrs.frozen
class Case:
    """A sentence of the protocol (`name`, `section`), and the check of it."""

    name: str
    section: str
    check: Callable[[Peer], None]
    need: Need = Need.NOTHING
    needs_connections: bool = False
    needs_half_close: bool = False


_cases: list[Case] = []


def _case(section: str, name: str, **needs: Any) -> Callable[[Callable[[Peer], None]], Callable[[Peer], None]]:
    def add(check: Callable[[Peer], None]) -> Callable[[Peer], None]:
        _cases.append(Case(name, section, check, **needs))
        return check

    return add


# ------------------------------------------------------------------------------------------- the tools

_PING: Final = b'{"type":"ping"}'
_PONG: Final = {"type": "pong"}


def _request(type_: str, payload: Any = None) -> bytes:
    message = {"type": type_} if payload is None else {"type": type_, "payload": payload}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _ack(type_: str, error: str = "") -> dict[str, Any]:
    return {"type": "ack", "payload": {"reply_to": type_, "ok": not error, **({"error": error} if error else {})}}


def _unknown(type_: str) -> dict[str, Any]:
    return _ack(type_, f"unknown message type: {type_}")


def _compare(got: Iterable[Line], expected: Iterable[Any], about: str = "it") -> None:
    """Raise Deviation unless those replies came, in that order."""
    values, wanted = [line.value for line in got], [*expected]
    if len(values) != len(wanted):
        raise Deviation(f"{about} was answered by {len(values)} replies, not {len(wanted)}")
    for value, want in zip(values, wanted, strict=True):
        if value != want:
            raise Deviation(f"{about} was answered by {_short(value)}, not {_short(want)}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _answers(peer: Peer, line: bytes, *expected: Any) -> None:
    _compare(peer.ask(line), expected, _short(line[:60].decode(errors="replace")))


def _refuses(peer: Peer, line: bytes, reply_to: str, start: str) -> None:
    """Raise Deviation unless `line` gets one refusal, whose text begins with `start`."""
    reply = peer.ask_one(line)
    error = reply.payload.get("error")
    refused = reply.type == "ack" and reply.payload.get("ok") is False and reply.payload.get("reply_to") == reply_to
    if not refused or not isinstance(error, str) or not error.startswith(start):
        about = _short(line[:60].decode(errors="replace"))
        raise Deviation(f"{about} was answered by {_short(reply.value)}, not by a refusal that begins with {start!r}")


def _malformed(peer: Peer, *lines: bytes) -> None:
    for line in lines:
        _refuses(peer, line, "", "malformed JSON: ")
    _answers(peer, _PING, _PONG)


# ------------------------------------------------------------------------------------------ §1 framing


@_case("§1", "An empty line is ignored.")
def _(peer: Peer) -> None:
    _answers(peer, b"\n\r\n\n" + _PING + b"\n\n\r", _PONG)


@_case("§1", "One trailing carriage return is stripped.")
def _(peer: Peer) -> None:
    _answers(peer, _PING + b"\r", _PONG)


@_case("§1", "A line of blanks only is malformed.")
def _(peer: Peer) -> None:
    _malformed(peer, b"   ", b"\t", b" \r")


@_case("§1", "Only a newline separates lines.")
def _(peer: Peer) -> None:
    _malformed(peer, _PING + b"\r" + _PING, _PING + "\u2028".encode() + _PING, _PING + b"\v" + _PING)


@_case("§1", "A line may arrive in pieces of any size.")
def _(peer: Peer) -> None:
    for byte in _PING + b"\n" + _PING[:7]:
        peer.send(bytes([byte]))
    _answers(peer, _PING[7:], _PONG, _PONG)


@_case("§1", "A line may have 1,048,575 bytes and its newline.")
def _(peer: Peer) -> None:
    for type_, ending in (("conformance-lf", b""), ("conformance-crlf", b"\r")):
        _answers(peer, _padded(type_, MAX_LINE_SIZE - 1 - len(ending)) + ending, _unknown(type_))


@_case("§1", "A longer line closes the connection with no ack.", needs_connections=True)
def _(peer: Peer) -> None:
    _too_long(peer, _padded("conformance-long", MAX_LINE_SIZE) + b"\n")
    with peer.dial() as another:
        _too_long(another, _padded("conformance-long", MAX_LINE_SIZE - 1) + b"\r\n")


@_case("§1", "Lines before one that is too long are answered.", needs_connections=True)
def _(peer: Peer) -> None:
    _answers(peer, _PING, _PONG)
    try:
        peer.send(_PING + b"\n" + b"x" * MAX_LINE_SIZE + b"\n")
    except OSError:
        return  # it closed while we were writing, which may have cost us the reply
    line = peer.line()
    _compare([line] if line else [], [_PONG], "a ping before a line that is too long")


@_case("§1", "An unterminated last line is a line.", needs_connections=True, needs_half_close=True)
def _(peer: Peer) -> None:
    peer.send(_PING)
    peer.half_close()
    _compare(_rest(peer), [_PONG], "a ping without a newline, before the end,")


@_case("§1", "After a half-close the outstanding replies still arrive.", needs_connections=True, needs_half_close=True)
def _(peer: Peer) -> None:
    types = [f"conformance-{number}" for number in range(20)]
    peer.send(b"".join(_request(type_) + b"\n" for type_ in types))
    peer.half_close()
    _compare(_rest(peer), map(_unknown, types), "a flight of requests before a half-close")


def _padded(type_: str, size: int) -> bytes:
    """A request of an unknown type whose line has `size` bytes, without its ending."""
    line = _request(type_, {"padding": ""})
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


@_case("§2", "`ping` is answered by `pong`, which has no payload.")
def _(peer: Peer) -> None:
    _answers(peer, _PING, _PONG)


@_case("§2", "`get_health` is answered by `health`.")
def _(peer: Peer) -> None:
    payload = _health(peer)
    if not isinstance(payload.get("state"), str):
        raise Deviation("health has no `state` that is a string")
    uptime = payload.get("uptime_seconds")
    if type(uptime) is not int or not 0 <= uptime <= I64_MAX:
        raise Deviation("health has no `uptime_seconds` that is a whole number")


@_case("§2", "An agent has a name, and says whether it runs.")
def _(peer: Peer) -> None:
    payload = _health(peer)
    agents = payload.get("agents", [{"name": "", "running": False}])
    if not isinstance(agents, list) or not agents:
        raise Deviation("`agents` is no list, or an empty one that should be left out")
    for agent in agents:
        types = {"name": str, "running": bool, "session": str, "restarts": int, "error": str}
        wrong = [name for name, type_ in types.items() if name in agent and type(agent[name]) is not type_]
        if wrong or not {"name", "running"} <= agent.keys():
            raise Deviation(f"an agent has {'a wrong ' + wrong[0] if wrong else 'no name, or no running'}")


@_case("§2", "Keys are emitted in the order of the table.")
def _(peer: Peer) -> None:
    orders = (
        (["type", "payload"], ["reply_to", "ok", "error"], _request("conformance-order")),
        (["type", "payload"], ["state", "agents", "uptime_seconds"], b'{"type":"get_health"}'),
    )
    for outer, inner, line in orders:
        reply = peer.ask_one(line)
        for got, order in ((reply.value, outer), (reply.payload, inner)):
            keys = [key for key in got if key in order]
            if keys != sorted(keys, key=order.index):
                raise Deviation(f"keys stand as {', '.join(keys)}")


@_case("§2", "Message types are case-sensitive.")
def _(peer: Peer) -> None:
    for type_ in ("PING", "Ping", "Get_Health"):
        _answers(peer, _request(type_), _unknown(type_))


def _health(peer: Peer) -> dict[str, Any]:
    reply = peer.ask_one(b'{"type":"get_health"}')
    if reply.type != "health":
        raise Deviation(f"get_health was answered by {_short(reply.value)}")
    return reply.payload


# -------------------------------------------------------------------------------- §3 order and matching


@_case("§3", "Each line gets one reply, in order.")
def _(peer: Peer) -> None:
    types = [f"conformance-{number}" for number in range(100)]
    lines, wanted = [], []
    for type_ in types:
        lines += [_request(type_), _PING]
        wanted += [_unknown(type_), _PONG]
    _compare(peer.ask(*lines), wanted, "a flight of 200 requests")


@_case("§3", "Connections run in parallel.", needs_connections=True)
def _(peer: Peer) -> None:
    peer.send(_PING[:5])
    with peer.dial() as another:
        _answers(another, _PING, _PONG)
    _answers(peer, _PING[5:], _PONG)


@_case("§3", "An unknown type is refused by its name.")
def _(peer: Peer) -> None:
    for type_ in (f"conformance-{secrets.token_hex(4)}", "a<b>&c", "ping ", "é\u2028😀", 'q"\\'):
        _answers(peer, _request(type_), _unknown(type_))


@_case("§3", "Types that a guest sends are unknown to it.")
def _(peer: Peer) -> None:
    for type_, payload in (
        ("pong", None),
        ("ack", {"reply_to": "x", "ok": True}),
        ("health", None),
        ("lifecycle", {"state": "ready"}),
    ):
        _answers(peer, _request(type_, payload), _unknown(type_))


@_case("§3", 'A type that is missing, null or empty is the unknown type "".')
def _(peer: Peer) -> None:
    for line in (b"{}", b"null", b'{"type":null}', b'{"type":""}', b'{"payload":{}}'):
        _answers(peer, line, _unknown(""))


@_case("§3", "A malformed line is refused, and the connection goes on.")
def _(peer: Peer) -> None:
    _malformed(peer, b"nonsense", b"{", b'{"type":"ping"', b'{"type":"ping",}', b"{'type':'ping'}")


@_case("§3", "Arrays, strings, numbers and booleans are malformed.")
def _(peer: Peer) -> None:
    _malformed(peer, b"[]", b"[" + _PING + b"]", b'"ping"', b"5", b"true", b"false")


@_case("§3", "A type that is no string is malformed.")
def _(peer: Peer) -> None:
    _malformed(peer, b'{"type":5}', b'{"type":true}', b'{"type":["ping"]}', b'{"type":{}}')


# --------------------------------------------------------------------------------------- §4 reading JSON


@_case("§4", "Unknown members are ignored.")
def _(peer: Peer) -> None:
    _answers(peer, b'{"id":7,"type":"ping","then":{"type":"x"}}', _PONG)
    _answers(peer, _request("inject_secret", {"name": "", "more": [1]}), _EMPTY_NAME)


@_case("§4", "The last duplicate member wins.")
def _(peer: Peer) -> None:
    _answers(peer, b'{"type":"x","type":"ping"}', _PONG)


@_case("§4", "A missing member is the zero value.")
def _(peer: Peer) -> None:
    _answers(peer, _request("inject_secret", {}), _EMPTY_NAME)


@_case("§4", "A member that is null is the zero value.")
def _(peer: Peer) -> None:
    _answers(peer, _request("inject_secret", {"name": None, "value": None, "mode": None}), _EMPTY_NAME)


@_case("§4", "A payload that is null is all zero values.")
def _(peer: Peer) -> None:
    _answers(peer, b'{"type":"inject_secret","payload":null}', _EMPTY_NAME)


@_case("§4", "An absent payload is an error where one is needed.")
def _(peer: Peer) -> None:
    for type_, noun in _NOUNS.items():
        _answers(peer, _request(type_), _ack(type_, f"decode {noun} payload: envelope {type_} has no payload"))


@_case("§4", "A value of the wrong type is refused, not coerced.")
def _(peer: Peer) -> None:
    # Each would be refused for another reason, were it coerced: nothing here can have an effect.
    modes: tuple[Any, ...] = ("384", True, 384.5, [384], {})
    names: tuple[Any, ...] = (0, False, [], {})
    wrong: list[tuple[str, Any]] = [("inject_secret", {"name": "", "mode": mode}) for mode in modes]
    wrong += [("inject_secret", {"name": name}) for name in names]
    wrong += [("mount", {"tag": "", "read_only": value}) for value in ("true", 1, 0)]
    for type_, payload in wrong:
        _refuses(peer, _request(type_, payload), type_, f"decode {_NOUNS[type_]} payload: ")
    not_objects: tuple[Any, ...] = ([], "x", 5, True)
    for payload in not_objects:
        _refuses(peer, _request("inject_secret", payload), "inject_secret", "decode secret payload: ")


@_case("§4", "A number that is no integer in range is refused.")
def _(peer: Peer) -> None:
    for number in ("-1", "-0", "3.0", "1e2", str(U32_MAX + 1), "1" + "0" * 40):
        line = b'{"type":"inject_secret","payload":{"name":"","mode":%b}}' % number.encode()
        _refuses(peer, line, "inject_secret", "decode secret payload: ")


@_case("§4", "An invalid byte, and a lone surrogate, is U+FFFD.")
def _(peer: Peer) -> None:
    for inside in (b"\xff", b"\\ud800"):
        _answers(peer, b'{"type":"conformance-' + inside + b'"}', _unknown("conformance-\ufffd"))
    _answers(peer, b'{"type":"conformance-\xe2\x82"}', _unknown("conformance-\ufffd\ufffd"))


@_case("§4", "Arrays and objects may nest 10,000 levels.")
def _(peer: Peer) -> None:
    # The object around it is the first level.
    _answers(peer, b'{"type":"ping","x":' + b"[" * 9_999 + b"]" * 9_999 + b"}", _PONG)


@_case("§4", "Deeper nesting is malformed.")
def _(peer: Peer) -> None:
    _malformed(peer, b'{"type":"ping","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}")


@_case("§4", "What is not quite JSON is malformed.")
def _(peer: Peer) -> None:
    _malformed(
        peer,
        b"\xef\xbb\xbf" + _PING,
        _PING + b"x",
        _PING + _PING,
        b'{"type":"ping","x":NaN}',
        b'{"type":"ping","x":Infinity}',
        b'{"type":"ping","x":01}',
        b'{"type":"pi\tng"}',
        b'{"type":"ping"} //',
        _PING.decode().encode("utf-16"),
    )


@_case("§4", "`ping` and `get_health` ignore their payload.")
def _(peer: Peer) -> None:
    payloads: tuple[Any, ...] = (5, [], {"x": 1}, "x")
    for payload in payloads:
        _answers(peer, _request("ping", payload), _PONG)
        reply = peer.ask_one(_request("get_health", payload))
        if reply.type != "health":
            raise Deviation(f"get_health with a payload was answered by {_short(reply.value)}")


# --------------------------------------------------------------------------------- §6 what the guest does

_EMPTY_NAME: Final = _ack("inject_secret", "secret name cannot be empty")
_NOUNS: Final = {"set_config": "config", "inject_secret": "secret", "inject_ssh_key": "ssh key", "mount": "mount"}
_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= conformance"
_KEY_FORMAT: Final = "invalid SSH public key format: must start with a recognized key type (e.g., ssh-ed25519)"


def _table(peer: Peer, type_: str, fields: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """Raise Deviation unless each row - the fields, then the error - is refused by its very words."""
    rows = [*rows]
    lines = [_request(type_, dict(zip(fields, row[:-1], strict=True))) for row in rows]
    _compare(peer.ask(*lines), [_ack(type_, row[-1]) for row in rows], f"a bad {type_}")


@_case("§6", "A secret's name is a simple file name.")
def _(peer: Peer) -> None:
    names = {"a/b": '"a/b"', "/a": '"/a"', "a/": '"a/"', "..": '".."', "a..b": '"a..b"', "../a\n": '"../a\\n"'}
    rows = [(name, f"invalid secret name: {quoted} (must be a simple filename)") for name, quoted in names.items()]
    _table(peer, "inject_secret", ("name",), [("", "secret name cannot be empty"), *rows])


@_case("§6", "A key needs a user, a text and a known key type.")
def _(peer: Peer) -> None:
    keys = ("x", "ssh-ed25519", "ssh-dss AAAA", f" {_KEY}", "ssh-ed25519\tAAAA", f"restrict {_KEY}")
    _table(
        peer,
        "inject_ssh_key",
        ("user", "public_key"),
        [
            ("", "", "user cannot be empty"),
            ("conformance-nobody", "", "public_key cannot be empty"),
            *(("conformance-nobody", key, _KEY_FORMAT) for key in keys),
        ],
    )


@_case("§6", "Keys are for users of the guest.")
def _(peer: Peer) -> None:
    users = {"conformance-nobody": '"conformance-nobody"', 'a"b\\': '"a\\"b\\\\"', "a\x00\u200b": '"a\\x00\\u200b"'}
    rows = [(user, _KEY, f"lookup user {quoted}: user: unknown user {user}") for user, quoted in users.items()]
    _table(peer, "inject_ssh_key", ("user", "public_key"), rows)


@_case("§6", "A mount is checked in the order of the table.")
def _(peer: Peer) -> None:
    _table(
        peer,
        "mount",
        ("tag", "guest_path", "fs_type"),
        [
            ("", "", "", "mount tag cannot be empty"),
            ("t", "", "", "mount guest_path cannot be empty"),
            ("t", "x", "", "mount fs_type cannot be empty"),
            ("t", "x", "ext4", 'unsupported filesystem type: "ext4" (must be virtiofs or 9p)'),
            ("t", "x", "9P", 'unsupported filesystem type: "9P" (must be virtiofs or 9p)'),
            ("t", "x", "9p", 'guest_path must be absolute: "x"'),
            ("t", "./x", "virtiofs", 'guest_path must be absolute: "./x"'),
        ],
    )


@_case("§6", "Nothing is mounted over a system directory.")
def _(peer: Peer) -> None:
    clean = {f"/{name}": f"/{name}" for name in ("nix", "etc", "bin", "boot", "dev", "proc", "sys", "run")}
    clean |= {"/": "/", "/..": "/", "/etc/": "/etc", "//etc": "/etc", "/w/../etc/x": "/etc/x", "/./run//x": "/run/x"}
    rows = [("t", path, "9p", f'cannot mount over system directory: "{to}"') for path, to in clean.items()]
    _table(peer, "mount", ("tag", "guest_path", "fs_type"), rows)


@_case("§6", "A secret is stored.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for payload in ({"mode": 384}, {"mode": 0}, {}):
        _answers(
            peer, _request("inject_secret", {"name": "conformance", "value": "x", **payload}), _ack("inject_secret")
        )


@_case("§6", "A key replaces the keys of a user.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for key in (_KEY, f"{_KEY}\n\n", "sk-ssh-ed25519@openssh.com AAAA x"):
        _answers(peer, _request("inject_ssh_key", {"user": "admin", "public_key": key}), _ack("inject_ssh_key"))


@_case("§6", "A config is stored without being read.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for content in ("not [ toml", ""):
        _answers(peer, _request("set_config", {"content": content}), _ack("set_config"))


@_case("§6", "A mount succeeds, or fails with the status of mount(8).", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    reply = peer.ask_one(
        _request("mount", {"tag": "conformance", "guest_path": "/tmp//conformance/", "fs_type": "9p"})  # noqa: S108
    )
    if reply.value != _ack("mount"):
        error = str(reply.payload.get("error"))
        start = "mount conformance at /tmp/conformance: exit status "
        if reply.value != _ack("mount", error) or not error.startswith(start):
            raise Deviation(f"it was answered by {_short(reply.value)}")


@_case("§6", "A shutdown, even with a bad payload, is acked; then the guest goes.", need=Need.SHUTDOWN)
def _(peer: Peer) -> None:
    peer.send(b'{"type":"shutdown","payload":5}\n')
    line = peer.line()
    _compare([line] if line else [], [_ack("shutdown")], "a shutdown")
    if not peer.ends():
        raise Deviation("it went on talking after its shutdown")


#: Every case, in the order in which they run.
CASES: Final = tuple(_cases)
