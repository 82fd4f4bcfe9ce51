"""What every client does with every guest that is up: the same cases over each transport, with each client.

It runs where the client runs: beside the tests, or in a guest, where pytest is not.
"""

from __future__ import annotations

import traceback

from stereos_proto import (
    MAX_LINE_SIZE,
    Ack,
    CustomRequest,
    GetHealth,
    InjectSecret,
    InjectSSHKey,
    Mount,
    Ping,
    Pong,
    ProvisionPlan,
    SetConfig,
)
from stereos_proto_io.addresses import parse_address

#: Seconds for each step: an emulated processor on a busy machine is slow.
PATIENCE = 30
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g suite"


def run(name, address, cases=None):
    """Run the cases with the client `name`; return what failed, by case, "" for what did not."""
    try:
        from vm.guest.hosts import HOSTS
    except ModuleNotFoundError:
        from hosts import HOSTS
    results = {}
    for case in CASES:
        if cases is None or case.__name__ in cases:
            try:
                HOSTS[name]().run(_with_client, case, parse_address(address))
                results[case.__name__] = ""
            except Exception:  # noqa: BLE001  (whoever called reads it)
                results[case.__name__] = traceback.format_exc()
    return results


async def _with_client(host, case, address):
    client = await host.within(PATIENCE, host.dial, address)
    await case(host, client)
    await host.close(client)


async def _expect(host, expected, step, *args):
    seen = await host.see(PATIENCE, step, *args)
    assert (seen.error is None and seen.result == expected) or seen.kind == expected, seen
    return seen


async def ping(host, client):
    await _expect(host, Pong(), client.ping)


async def health(host, client):
    seen = await _expect(host, "Health", client.get_health)
    assert seen.result.state == "ready", seen


async def ready(host, client):
    await _expect(host, "Health", client.wait_ready)


async def config(host, client):
    await _expect(host, Ack("set_config", True), client.set_config, 'name = "größe \u2028 </>"\n')


async def secret(host, client):
    await _expect(host, Ack("inject_secret", True), client.inject_secret, "SUITE", "a\0b\n\N{SNOWMAN}", 0o440)


async def ssh_key(host, client):
    await _expect(host, Ack("inject_ssh_key", True), client.inject_ssh_key, "agent", KEY)


async def refusals(host, client):
    """What the guest refuses is an error with its words, and the connection goes on."""
    seen = await _expect(host, "RequestFailed", client.inject_secret, "../up", "x")
    assert seen.error.error == 'invalid secret name: "../up" (must be a simple filename)', seen
    seen = await _expect(host, "RequestFailed", client.mount, "nothing", "/etc/x", "9p")
    assert seen.error.error == 'cannot mount over system directory: "/etc/x"', seen
    await ping(host, client)


async def unknown_type(host, client):
    seen = await _expect(host, "RequestFailed", client.request, CustomRequest("made:up", {"a": [1, None]}))
    assert seen.error.error == "unknown message type: made:up", seen


async def not_sent(host, client):
    """What cannot be sent is refused before a byte is written, and the connection goes on."""
    await _expect(host, "LocalProtocolError", client.set_config, "x" * MAX_LINE_SIZE)
    await _expect(host, "LocalProtocolError", client.inject_ssh_key, "agent", f"{KEY}\n{KEY}")
    await ping(host, client)


async def pipeline(host, client):
    """Requests in one flight are answered each by its own reply, in order."""
    requests = [Ping(), GetHealth(), CustomRequest("odd")] * 60
    seen = await host.see(PATIENCE, client.request_many, requests)
    replies = [type(reply).__name__ for reply in seen.result]
    assert replies == ["Pong", "Health", "Ack"] * 60, seen


async def named_replies(host, client):
    """No reply goes astray: each names the request that it is for."""
    types = [f"made:{number}" for number in range(200)]
    seen = await host.see(PATIENCE, client.request_many, [CustomRequest(type_) for type_ in types])
    assert [reply.reply_to for reply in seen.result] == types, seen


async def plan(host, client):
    """A plan is carried out in one flight; a step that is refused does not stop the others."""
    steps = ProvisionPlan(
        mounts=[Mount("t", "/proc/x", "9p")],
        secrets=[InjectSecret("ONE", "1"), InjectSecret("TWO", "2")],
        ssh_keys=[InjectSSHKey("admin", KEY)],
        config='name = "plan"\n',
    )
    seen = await _expect(host, "ProvisionReport", client.provision, steps)
    steps_ok = [step.error is None for step in seen.result.steps]
    assert steps_ok == [False, True, True, True, True], seen


async def longest_request(host, client):
    """A line of 1 MiB less one byte arrives, and is answered."""
    room = MAX_LINE_SIZE - len('{"type":"set_config","payload":{"content":""}}\n')
    await _expect(host, Ack("set_config", True), client.set_config, "#" * room)
    await ping(host, client)


async def long_reply(host, client):
    """A reply of nearly 1 MiB arrives: a refusal that names an unknown type twice."""
    type_ = "t" * 524_000
    seen = await _expect(host, "RequestFailed", client.request, CustomRequest(type_))
    assert seen.error.error == f"unknown message type: {type_}"


async def full_both_ways(host, client):
    """With more under way in both directions than all buffers hold, nobody waits for ever."""
    requests = [CustomRequest("t" * 100_000, {"filler": "f" * 100_000})] * 20
    seen = await host.see(PATIENCE * 2, client.request_many, [SetConfig("last"), *requests, Ping()])
    assert seen.error is None, seen
    assert [type(reply) for reply in seen.result] == [Ack] * 21 + [Pong], seen


async def closed(host, client):
    """After closing, nothing is sent any more, and said so."""
    await host.close(client)
    await _expect(host, "ConnectionLost", client.ping)


CASES = (
    *(ping, health, ready, config, secret, ssh_key, refusals, unknown_type, not_sent, pipeline, named_replies, plan),
    *(longest_request, long_reply, full_both_ways, closed),
)
