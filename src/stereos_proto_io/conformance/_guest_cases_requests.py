"""Cases of what a guest does with each request (§6)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from stereos_proto import StereosError
from stereos_proto_io._ssh_keys import KEY_TYPES

from ._guest_case import PING, PONG, Need, ack, add, answers, compare, refuses, request, same
from ._guest_peer import Deviation, Peer
from ._guest_text import short

# --------------------------------------------------------------------------------- §6 what the guest does

_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= conformance"
#: The folders over which nothing is mounted (§6).
_SYSTEM: Final = ("nix", "etc", "bin", "boot", "dev", "proc", "sys", "run")
#: Seconds between two looks at whether a guest has gone.
_PAUSE: Final = 0.05
_KEY_FORMAT: Final = "invalid SSH public key format: must start with a recognized key type (e.g., ssh-ed25519)"


def _table(peer: Peer, type_: str, fields: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """Raise Deviation unless each row - the fields, then the error - is refused by its very words."""
    rows = [*rows]
    lines = [request(type_, dict(zip(fields, row[:-1], strict=True))) for row in rows]
    compare(peer.ask(*lines), [ack(type_, row[-1]) for row in rows], f"a bad {type_}")


@add("§6", "A secret's name is a simple file name.")
def _(peer: Peer) -> None:
    names = {"a/b": '"a/b"', "/a": '"/a"', "a/": '"a/"', "..": '".."', "a..b": '"a..b"', "../a\n": '"../a\\n"'}
    # Each way of writing a character that is replaced (§6).
    names["/\a\b\t\v\f\r\x01\x7f\xa0é \U000e0001"] = r'"/\a\b\t\v\f\r\x01\x7f\u00a0é \U000e0001"'
    rows = [(name, f"invalid secret name: {quoted} (must be a simple filename)") for name, quoted in names.items()]
    _table(peer, "inject_secret", ("name",), [("", "secret name cannot be empty"), *rows])


@add("§6", "A name that no file can have is refused by what the file system says.")
def _(peer: Peer) -> None:
    long = "x" * 300
    rows = [
        (name, f"write secret {quoted}: open /run/stereos/secrets/{name}.tmp: {error}")
        for name, quoted, error in (
            ("conformance\0", '"conformance\\x00"', "invalid argument"),
            (long, f'"{long}"', "file name too long"),
        )
    ]
    _table(peer, "inject_secret", ("name",), rows)


@add("§6", "A key needs a user, a text and a known key type.")
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


@add("§6", "Keys are for users of the guest.")
def _(peer: Peer) -> None:
    users = {"conformance-nobody": '"conformance-nobody"', 'a"b\\': '"a\\"b\\\\"', "a\x00\u200b": '"a\\x00\\u200b"'}
    rows = [(user, _KEY, f"lookup user {quoted}: user: unknown user {user}") for user, quoted in users.items()]
    _table(peer, "inject_ssh_key", ("user", "public_key"), rows)


@add("§6", "Every type of key is recognized.")
def _(peer: Peer) -> None:
    user = "conformance-nobody"
    rows = [(user, f"{type_}AAAA", f'lookup user "{user}": user: unknown user {user}') for type_ in KEY_TYPES]
    _table(peer, "inject_ssh_key", ("user", "public_key"), rows)


@add("§6", "A mount is checked in the order of the table.")
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


@add("§6", "Nothing is mounted over a system directory.")
def _(peer: Peer) -> None:
    clean = {f"/{name}": f"/{name}" for name in _SYSTEM}
    clean |= {"/": "/", "/..": "/", "/etc/": "/etc", "//etc": "/etc", "/w/../etc/x": "/etc/x", "/./run//x": "/run/x"}
    rows = [("t", path, "9p", f'cannot mount over system directory: "{to}"') for path, to in clean.items()]
    _table(peer, "mount", ("tag", "guest_path", "fs_type"), rows)


@add("§6", "A path with a NUL is refused last.")
def _(peer: Peer) -> None:
    # So these show, without an effect, that both types are taken, and what is no system directory. Each path is right
    # below the root: of a deeper one, the folders above would be made.
    cleaned = {f"/{name}x\0": f"/{name}x\0" for name in _SYSTEM} | {"/etc\0": "/etc\0", "/w/..//x\0/": "/x\0"}
    rows = [
        ("t", path, fs_type, f'create mount point "{quoted}": mkdir {clean}: invalid argument')
        for fs_type in ("9p", "virtiofs")
        for path, clean in cleaned.items()
        for quoted in [clean.replace("\0", "\\x00")]
    ]
    _table(peer, "mount", ("tag", "guest_path", "fs_type"), rows)


@add("§6", "The names . and / cannot be stored.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    # The reference writes a file beside its folder of secrets before it is refused.
    error = "rename /run/stereos/secrets.tmp /run/stereos/secrets: file exists"
    rows = [(name, f'rename secret "{name}": {error}') for name in (".", "/")]
    _table(peer, "inject_secret", ("name",), rows)


@add("§6", "A secret is stored.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for payload in ({"value": "é\0\n" * 10_000}, {"value": ""}, {"mode": 384}, {"mode": 0}, {}):
        answers(peer, request("inject_secret", {"name": "conformance", "value": "x", **payload}), ack("inject_secret"))


@add("§6", "A key replaces the keys of a user.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for key in (f"{_KEY}\n{_KEY}", f"{_KEY}\n\n", "sk-ssh-ed25519@openssh.com AAAA x", _KEY):
        answers(peer, request("inject_ssh_key", {"user": "admin", "public_key": key}), ack("inject_ssh_key"))


@add("§6", "A config is stored without being read.", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for content in ("not [ toml", "# long\n" * 100_000, ""):
        answers(peer, request("set_config", {"content": content}), ack("set_config"))
    refuses(peer, request("set_config", {"content": 5}), "set_config", "decode config payload: ")


@add("§6", "A mount succeeds, or fails with the status of mount(8).", need=Need.EFFECTS)
def _(peer: Peer) -> None:
    for options in ({"fs_type": "9p"}, {"fs_type": "virtiofs"}, {"fs_type": "9p", "read_only": True}):
        payload = {"tag": "conformance", "guest_path": "/tmp//conformance/", **options}  # noqa: S108
        reply = peer.ask_one(request("mount", payload))
        if same(reply.value, ack("mount")):
            continue
        error = str(reply.payload.get("error"))
        start = "mount conformance at /tmp/conformance: exit status "
        if not same(reply.value, ack("mount", error)) or not error.startswith(start):
            raise Deviation(f"{short(payload)} was answered by {short(reply.value)}")


@add("§6", "A shutdown, even with a bad payload, is acked; then the guest goes.", need=Need.SHUTDOWN)
def _(peer: Peer) -> None:
    if not peer.address.has_connections:
        _shut_down(peer)
        return
    with peer.dial() as another:
        answers(another, PING, PONG)
        _shut_down(peer)
        if not another.ends("another connection"):
            raise Deviation("another connection was answered after the shutdown")
    _nobody_is_there(peer)


def _shut_down(peer: Peer) -> None:
    peer.send(b'{"type":"shutdown","payload":5}\n')
    line = peer.line()
    compare([line] if line else [], [ack("shutdown")], "a shutdown")
    if not peer.ends():
        raise Deviation("it went on talking after its shutdown")


def _nobody_is_there(peer: Peer) -> None:
    """Raise Deviation unless a new connection fails, or ends without a reply, in time.

    Until the power is off a guest may answer (§6), and a host may accept what its guest no longer can (§8).
    """
    until = time.monotonic() + peer.timeout
    while True:
        try:
            with peer.dial() as another:
                another.send(PING + b"\n")
                if another.ends("a new connection"):
                    return
        except (OSError, StereosError):
            return
        if time.monotonic() > until:
            raise Deviation(f"new connections were still answered {peer.timeout:g} s after the shutdown")
        time.sleep(_PAUSE)
