"""The cases whose guest is a simulator, with the faults that they are about."""

from __future__ import annotations

from math import inf
from typing import Any

from stereos_proto import (
    Ack,
    AgentStatus,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    InjectSSHKey,
    LocalProtocolError,
    Mount,
    NotReady,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    RemoteProtocolError,
    Request,
    RequestFailed,
    SetConfig,
    UnexpectedReply,
)
from stereos_proto.dialogues import READY_STATES

from ._client_bench import Bench, expect, result
from ._client_case import simulated
from ._client_wire import SECRET

_MOUNT = Mount("t", "/workspace", "9p")


@simulated(
    agents=[AgentStatus("a", True)],
    needs="ping get_health set_config inject_secret inject_ssh_key mount wait_ready",
)
async def verbs(bench: Bench) -> None:
    client, guest = bench.client, bench.guest
    expect("ping", await result(client.ping()), Pong())
    health = await result(client.get_health())
    # It becomes healthy when its guest has looked at its agents for the first time.
    expect("whether the guest is ready", health.state in READY_STATES, True)
    expect("the agents", health.agents, (AgentStatus("a", True),))
    expect("set_config", await result(client.set_config("x = 1\n")), Ack("set_config", True))
    expect("inject_secret", await result(client.inject_secret("NAME", SECRET)), Ack("inject_secret", True))
    expect("inject_ssh_key", await result(client.inject_ssh_key("admin", _KEY)), Ack("inject_ssh_key", True))
    expect("mount", await result(client.mount("share0", "/workspace", "9p")), Ack("mount", True))
    ready = await result(client.wait_ready(agents=["a"]))
    expect("whether the guest is ready after wait_ready", ready.state in READY_STATES, True)
    expect("the guest's config", guest.config, "x = 1\n")
    expect("the guest's secret", guest.secrets["NAME"].value, SECRET)
    expect("the guest's mount", guest.mounts[0].guest_path, "/workspace")


_KEY = "ssh-ed25519 AAAA x"


@simulated(needs="shutdown")
async def shutdown(bench: Bench) -> None:
    expect("shutdown", await result(bench.client.shutdown("done")), Ack("shutdown", True))
    expect("the reason that the guest was told", bench.guest.shutdown_reason, "done")


@simulated("drop@shutdown", "close@shutdown", ends=True, needs="shutdown")
async def shutdown_whose_ack_is_lost(bench: Bench) -> None:
    expect("shutdown, when the connection ends before its ack", await result(bench.client.shutdown()), None)


@simulated(needs="inject_secret")
async def refusal(bench: Bench) -> None:
    error = await bench.fails(RequestFailed, lambda: bench.client.inject_secret("a/b", SECRET))
    expect("whether the error has the guest's words", "must be a simple filename" in str(error), True)
    expect("ping after a refusal", await bench.ask(Ping()), Pong())


@simulated(needs="request_many")
async def pipeline_beyond_the_bound(bench: Bench) -> None:
    requests = [CustomRequest(f"echo{number}") for number in range(300)]
    replies = await result(bench.client.request_many(requests))
    expect("the replies to 300 requests", [reply.reply_to for reply in replies], [request.type for request in requests])
    expect("a refusal in a flight", {reply.ok for reply in replies}, {False})


@simulated(needs="request_many")
async def empty_pipeline(bench: Bench) -> None:
    expect("the replies to no requests", await result(bench.client.request_many([])), [])


@simulated("push:ready@mount", "push:degraded:slow@ping", needs="mount inject_secret notifications")
async def notifications_do_not_shift_replies(bench: Bench) -> None:
    client = bench.client
    await bench.fails(RequestFailed, lambda: client.mount("t", "/etc", "9p"))
    expect("inject_secret", await result(client.inject_secret("A", SECRET)), Ack("inject_secret", True))
    expect("ping", await bench.ask(Ping()), Pong())
    async with bench.news() as news:
        expect("the first notification", getattr(await news(), "state", None), "ready")
        expect("the second notification", getattr(await news(), "message", None), "slow")


@simulated("blank", needs="request_many")
async def empty_lines(bench: Bench) -> None:
    replies = await result(bench.client.request_many([Ping(), GetHealth(), Ping()]))
    # How long the guest has been up is not for the case to say.
    expect("the replies between empty lines", [type(reply) for reply in replies], [Pong, Health, Pong])


@simulated("garbage#2", ends=True)
async def garbage(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    await bench.fails(RemoteProtocolError, lambda: bench.client.request(Ping()), exact=False)
    await bench.is_lost()


@simulated("wrong-type", ends=True, needs="inject_secret")
async def wrong_reply(bench: Bench) -> None:
    await bench.fails(UnexpectedReply, lambda: bench.client.inject_secret("A", SECRET))
    await bench.fails(ConnectionLost, lambda: bench.client.inject_secret("B", SECRET))
    expect("whether the guest got a secret after the end", "B" in bench.guest.secrets, False)


@simulated("late:0.3s@custom0")
async def late_reply_is_swallowed(bench: Bench) -> None:
    await bench.gives_up(CustomRequest("custom0"), 0.01)
    for number in range(1, 4):
        await bench.is_refused(f"custom{number}")


@simulated("drop@get_health", "close@get_health", ends=True)
async def guest_goes_while_a_question_is_open(bench: Bench) -> None:
    error = await bench.fails(ConnectionLost, lambda: bench.client.request(GetHealth()))
    expect("`unanswered` of the error", error.unanswered, (GetHealth(),))


@simulated("drop@mount", "close@mount", ends=True, needs="mount")
async def guest_goes_while_a_change_is_open(bench: Bench) -> None:
    error = await bench.fails(OutcomeUnknown, lambda: bench.client.mount("t", "/workspace", "9p"))
    expect("`request` of the error", error.request, _MOUNT)
    # Not sent again: a second mount lies over the first.
    expect("how often the guest was asked to mount", bench.guest.requests.count(_MOUNT), 1)


@simulated("close@ping", ends=True)
async def nothing_is_sent_after_the_end(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    # Whether it was on its way before the end was seen depends on timing; it was not carried out.
    await bench.fails(ConnectionLost, lambda: bench.client.request(SetConfig("x")), exact=False)
    expect("the guest's config", bench.guest.config, None)
    await bench.is_lost()


@simulated(needs="request_many")
async def what_cannot_be_sent(bench: Bench) -> None:
    for bad in (SetConfig("x" * (1 << 20)), SetConfig("\ud800")):
        await bench.fails(LocalProtocolError, lambda: bench.client.request_many([SetConfig("y"), bad]))  # noqa: B023
        await bench.fails(LocalProtocolError, lambda: bench.client.request(bad))  # noqa: B023
    expect("ping after what cannot be sent", await bench.ask(Ping()), Pong())
    expect("the guest's config", bench.guest.config, None)


@simulated(needs="inject_ssh_key")
async def a_refused_key_harms_nothing(bench: Bench) -> None:
    await bench.fails(LocalProtocolError, lambda: bench.client.inject_ssh_key("admin", f"{_KEY}\n{_KEY}"))
    key = await result(bench.client.inject_ssh_key("admin", _KEY))
    expect("a good key after one that cannot be sent", key, Ack("inject_ssh_key", True))


@simulated(agents=[AgentStatus("a" * 8000, True)], needs="request_many")
async def both_directions_full(bench: Bench) -> None:
    requests: list[Request] = []
    for _ in range(40):
        requests += [SetConfig("x" * 100_000), GetHealth(), GetHealth()]
    replies = await result(bench.client.request_many(requests))
    expect("the replies", [type(reply) for reply in replies], [Ack, Health, Health] * 40)


@simulated(agents=[AgentStatus("a" * 1_000_000, True)], needs="request_many")
async def longest_lines_both_ways(bench: Bench) -> None:
    replies = await result(bench.client.request_many([SetConfig("x" * 1_048_500), GetHealth()] * 4))
    expect("the replies", [type(reply) for reply in replies], [Ack, Health] * 4)


@simulated(needs="provision")
async def provisioning(bench: Bench) -> None:
    plan = ProvisionPlan(
        mounts=(Mount("share0", "/workspace", "9p"),),
        # The guest has no such user. Nothing depends on a key, so the config is sent all the same.
        ssh_keys=(InjectSSHKey("nobody", _KEY),),
        config='[network]\nmode = "nat"\n',
    )
    seen: list[Any] = []
    report = await result(bench.client.provision(plan, on_step=seen.append))
    statuses = ["done", "refused", "done"]
    expect("the steps of the report", [step.status.value for step in report.steps], statuses)
    expect("the steps that were told", [step.status.value for step in seen], statuses)
    expect("the order in which steps were told", [step.request for step in seen], list(plan.requests))
    # The first request on a stream without connections is the resynchronisation.
    got = [type(request) for request in bench.guest.requests if not isinstance(request, CustomRequest)]
    expect("what the guest got", got, [Mount, InjectSSHKey, SetConfig])


@simulated(needs="notifications")
async def own_end(bench: Bench) -> None:
    async with bench.news() as news:
        await bench.close()
        expect("what comes after the last notification", await news(), None)
    await bench.is_lost()
    await bench.close()


@simulated("close@ping", ends=True, needs="notifications")
async def notifications_end_with_the_guest(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    async with bench.news() as news:
        await bench.fails(ConnectionLost, news)


# A guest that takes a moment: without that, hardly any of them wait together.
@simulated("delay:0.001s", needs="together")
async def many_callers(bench: Bench) -> None:
    async def call(name: str) -> None:
        for number in range(5):
            await bench.is_refused(f"{name}-{number}")

    outcomes = await bench.together(*(lambda n=number: call(f"caller{n}") for number in range(20)))
    expect("what became of 20 callers", outcomes, [None] * 20)


@simulated(boot_time=inf, needs="wait_ready")
async def a_wait_keeps_its_timeout(bench: Bench) -> None:
    error = await bench.fails(NotReady, lambda: bench.client.wait_ready(timeout=0.3))
    expect("the last state", error.last_state, "booting")
    expect("ping after the wait", await bench.ask(Ping()), Pong())
