"""Reading and writing one message, beside bare JSON libraries.

"Reading" is all of it: bytes into the connection, out comes an event with a typed message that is matched to
its request. The others only turn bytes into dictionaries (or, msgspec with a Struct, into one class).
"""

from __future__ import annotations

import json

import msgspec

from stereos_proto import (
    Ack,
    AgentStatus,
    Connection,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    Lifecycle,
    Message,
    Mount,
    Ping,
    Pong,
    Request,
    Role,
    SetConfig,
    Shutdown,
    encode,
)
from stereos_proto._codec.canonical import decoder

from .harness import Report, compare

try:
    import orjson
except ImportError:  # pragma: no cover
    orjson = None  # type: ignore[assignment]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= mb@host"
CONFIG = '[[agents]]\nname = "coder"\nprompt = "make it so"\n\n'


def health(agents: int) -> Health:
    """A report as a busy guest sends it."""
    return Health(
        "healthy",
        [AgentStatus(f"agent-{n:03}", n % 3 > 0, f"agent-{n:03}-main" if n % 3 else "", n) for n in range(agents)],
        42,
    )


#: What a host reads, and the request that it answers; None for a notification.
REPLIES: dict[str, tuple[Message, Request | None]] = {
    "pong": (Pong(), Ping()),
    "ack": (Ack("mount", True), Mount("t", "/w", "9p")),
    "ack, refused": (
        Ack("mount", False, 'cannot mount over system directory: "/etc"'),
        Mount("t", "/etc", "9p"),
    ),
    "lifecycle": (Lifecycle("ready", "all subsystems started"), None),
    "health, no agents": (health(0), GetHealth()),
    "health, 4 agents": (health(4), GetHealth()),
    "health, 64 agents": (health(64), GetHealth()),
    "health, 512 agents": (health(512), GetHealth()),
}
#: What a guest reads.
REQUESTS: dict[str, Message] = {
    "ping": Ping(),
    "get_health": GetHealth(),
    "mount": Mount("share0", "/workspace", "9p"),
    "inject_secret": InjectSecret("ANTHROPIC_API_KEY", "sk-ant-api03-0123456789abcdef"),
    "inject_ssh_key": InjectSSHKey("admin", KEY),
    "shutdown": Shutdown("mb down"),
    "set_config, 1 KiB": SetConfig(CONFIG * 20),
    "set_config, 64 KiB": SetConfig(CONFIG * 1260),
}


def host_reader(line: bytes, request: Request | None) -> object:
    """A function that reads `line` once, as a host whose `request` waits for it."""
    connection = Connection(Role.HOST)
    receive, next_event = connection.receive_data, connection.next_event
    # Asking is not reading: the request is put where `send` would put it.
    pending = connection._conversation.pending
    if request is None:

        def read() -> object:
            receive(line)
            return next_event()
    else:

        def read() -> object:
            pending.append(request)
            receive(line)
            return next_event()

    return read


def guest_reader(line: bytes) -> object:
    """A function that reads `line` once, as a guest."""
    connection = Connection(Role.GUEST)
    receive, next_event = connection.receive_data, connection.next_event
    pending = connection._conversation.pending

    def read() -> object:
        receive(line)
        event = next_event()
        pending.clear()
        return event

    return read


def run(report: Report) -> None:
    """Measure reading and writing of every kind of message."""
    untyped = msgspec.json.Decoder().decode
    for title, (message, request) in REPLIES.items():
        line = encode(message)
        _read(report, title, line, host_reader(line, request), untyped, Role.GUEST)
    for title, message in REQUESTS.items():
        line = encode(message)
        _read(report, title, line, guest_reader(line), untyped, Role.HOST)
    for title, message in {**{name: reply for name, (reply, _) in REPLIES.items()}, **REQUESTS}.items():
        ready = json.loads(encode(message))
        contenders = {"json.dumps": lambda ready=ready: json.dumps(ready)}
        if orjson is not None:
            contenders["orjson"] = lambda ready=ready: orjson.dumps(ready)
        contenders["msgspec"] = lambda ready=ready: msgspec.json.encode(ready)
        contenders["encode"] = lambda message=message: encode(message)
        report.add("writing: message to bytes", compare(title, contenders, target=0.5))


def _read(report: Report, title: str, line: bytes, reader: object, untyped: object, sender: Role) -> None:
    contenders: dict[str, object] = {"json.loads": lambda: json.loads(line)}
    if orjson is not None:
        contenders["orjson"] = lambda: orjson.loads(line)
    contenders["msgspec"] = lambda: untyped(line)  # type: ignore[operator]
    # The floor: what msgspec takes to fill our classes, with no line cut out, and nothing matched.
    fill, content = decoder(sender), line[:-1]
    contenders["msgspec, our classes"] = lambda: fill(content).payload
    contenders["Connection"] = reader
    report.add("reading: bytes to matched, typed event", compare(title, contenders, target=0.9))  # type: ignore[arg-type]
