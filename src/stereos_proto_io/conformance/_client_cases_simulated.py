"""The cases whose guest is a simulator, with the faults that they are about."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import inf
from typing import Any, Final

from stereos_proto import (
    Ack,
    AgentStatus,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    InjectSSHKey,
    LocalProtocolError,
    Mount,
    NotReady,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionStep,
    RemoteProtocolError,
    Request,
    RequestFailed,
    SetConfig,
    UnexpectedReply,
)
from stereos_proto.dialogues import READY_STATES
from stereos_proto_io.guest.simulator import OLD_TYPES

from ._client_bench import Bench, expect, result
from ._client_case import simulated
from ._client_wire import SECRET

_MOUNT = Mount("t", "/workspace", "9p")
#: Seconds of a wait that is over at once.
_A_WHILE: Final = 5.0
#: Seconds that are more than any case has.
_LONG: Final = 60.0
_KEY: Final = "ssh-ed25519 AAAA x"
_CONFIG: Final = '[network]\nmode = "nat"\n'

#: A verb, its arguments, and the request that it has to send.
Called = tuple[str, tuple[Any, ...], Request]

#: The verbs that an ack answers.
_CHANGES: Final[tuple[Called, ...]] = (
    ("set_config", ("x = 1\n",), SetConfig("x = 1\n")),
    ("inject_secret", ("NAME", SECRET), InjectSecret("NAME", SECRET)),
    # What stands at the end of a key is the guest's to drop.
    ("inject_ssh_key", ("agent", f"{_KEY} \n"), InjectSSHKey("agent", f"{_KEY} \n")),
    ("mount", ("share0", "/workspace", "virtiofs"), Mount("share0", "/workspace", "virtiofs")),
)
#: The verbs of a single request, but for `shutdown`.
CALLS: Final[tuple[Called, ...]] = (("ping", (), Ping()), ("get_health", (), GetHealth()), *_CHANGES)
#: The same, for `needs`.
CALLED_VERBS: Final = " ".join(verb for verb, _, _ in CALLS)


def _of_type(guest: Any, message: Request) -> list[Request]:
    """The requests of the type of `message` that the guest got."""
    return [request for request in guest.requests if request.type == message.type]


@simulated(
    agents=[AgentStatus("a", True)],
    needs=f"{CALLED_VERBS} wait_ready",
)
async def verbs(bench: Bench) -> None:
    client, guest = bench.client, bench.guest
    expect("ping", await result(client.ping()), Pong())
    health = await result(client.get_health())
    # It becomes healthy when its guest has looked at its agents for the first time.
    expect("whether the guest is ready", health.state in READY_STATES, True)
    expect("the agents", health.agents, (AgentStatus("a", True),))
    for verb, arguments, _ in _CHANGES:
        expect(verb, await result(getattr(client, verb)(*arguments)), Ack(verb, True))
    # Neither is shown as a part of its request.
    expect("the guest's config", guest.config, "x = 1\n")
    expect("the guest's secrets", [secret.value for secret in guest.secrets.values()], [SECRET])
    for verb, _, message in _CHANGES:
        # Whole: a client that drops or changes an argument gets the same ack.
        expect(f"what {verb} sent", _of_type(guest, message), [message])
    ready = await result(client.wait_ready(agents=["a"]))
    expect("whether the guest is ready after wait_ready", ready.state in READY_STATES, True)
    expect("the guest's mount", guest.mounts[0].guest_path, "/workspace")


@simulated(needs="inject_secret.mode mount.read_only")
async def modes_and_read_only_mounts(bench: Bench) -> None:
    await result(bench.client.inject_secret("NAME", SECRET, 0o400))
    secret = InjectSecret("NAME", SECRET, 0o400)
    expect("what inject_secret with a mode sent", _of_type(bench.guest, secret), [secret])
    await result(bench.client.mount("share0", "/workspace", "virtiofs", True))
    mount = Mount("share0", "/workspace", "virtiofs", read_only=True)
    expect("what mount with read_only sent", _of_type(bench.guest, mount), [mount])


_AGENT: Final = AgentStatus("coder", False, session="main", restarts=3, error="exit status 1")


@simulated(agents=[_AGENT], uptime=7200.0, needs="get_health")
async def health_is_told_whole(bench: Bench) -> None:
    health = await result(bench.client.get_health())
    expect("the agents", health.agents, (_AGENT,))
    expect("whether the guest has been up for two hours", health.uptime_seconds >= 7200, True)


@simulated(needs="shutdown")
async def shutdown(bench: Bench) -> None:
    expect("shutdown", await result(bench.client.shutdown("done")), Ack("shutdown", True))
    expect("the reason that the guest was told", bench.guest.shutdown_reason, "done")


@simulated("deny:not now@shutdown", needs="shutdown")
async def shutdown_that_is_refused(bench: Bench) -> None:
    error = await bench.fails(RequestFailed, bench.client.shutdown)
    expect("the guest's words", error.error, "not now")
    expect("ping after a shutdown that was refused", await bench.ask(Ping()), Pong())


@simulated(needs="shutdown")
async def shutdown_after_the_end(bench: Bench) -> None:
    # Nothing was sent: None would mean that the guest most likely shuts down.
    await bench.close()
    await bench.fails(ConnectionLost, bench.client.shutdown)
    expect("the reason that the guest was told", bench.guest.shutdown_reason, None)


@simulated("drop@shutdown", "close@shutdown", ends=True, needs="shutdown")
async def shutdown_whose_ack_is_lost(bench: Bench) -> None:
    expect("shutdown, when the connection ends before its ack", await result(bench.client.shutdown()), None)


@simulated(needs="inject_secret")
async def refusal(bench: Bench) -> None:
    error = await bench.fails(RequestFailed, lambda: bench.client.inject_secret("a/b", SECRET))
    expect("whether the error has the guest's words", "must be a simple filename" in str(error), True)
    expect("ping after a refusal", await bench.ask(Ping()), Pong())


@simulated(*(f"deny:not now@{message.type}" for _, _, message in CALLS), needs=CALLED_VERBS)
async def each_verb_tells_its_refusal(bench: Bench) -> None:
    for verb, arguments, message in CALLS:
        error = await bench.fails(RequestFailed, partial(getattr(bench.client, verb), *arguments), what=verb)
        expect(f"the guest's words on {verb}", error.error, "not now")
        expect(f"`request` of the error of {verb}", error.request, message)


@simulated("deny:not now@ping")
async def a_refusal_says_which_guest_it_was(bench: Bench) -> None:
    error = await bench.fails(RequestFailed, lambda: bench.client.request(Ping()))
    expect("whether `guest` of the error is a label", bool(error.guest), True)


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


@simulated("push:degraded:first@ping#1", "push:degraded:second@ping#2", needs="notifications")
async def each_notification_goes_to_one_reader(bench: Bench) -> None:
    for _ in range(2):
        expect("ping", await bench.ask(Ping()), Pong())
    async with bench.news() as one, bench.news() as other:
        expect("what the first reader got", getattr(await one(), "message", None), "first")
        expect("what the second reader got", getattr(await other(), "message", None), "second")


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
        mounts=(Mount("share0", "/workspace", "virtiofs", read_only=True),),
        secrets=(InjectSecret("NAME", SECRET, 0o400),),
        # The guest has no such user. Nothing depends on a key, so the config is sent all the same.
        ssh_keys=(InjectSSHKey("nobody", _KEY),),
        config=_CONFIG,
    )
    seen: list[Any] = []
    report = await result(bench.client.provision(plan, on_step=seen.append))
    statuses = ["done", "done", "refused", "done"]
    expect("the steps of the report", _statuses(report.steps), statuses)
    # The first request on a stream without connections is the resynchronisation.
    got = [request for request in bench.guest.requests if not isinstance(request, CustomRequest)]
    expect("what the guest got", [type(request) for request in got], [type(request) for request in plan.requests])
    # Neither is shown as a part of its request.
    expect("the guest's config", bench.guest.config, _CONFIG)
    expect("the guest's secrets", [secret.value for secret in bench.guest.secrets.values()], [SECRET])
    for request, planned in zip(got, plan.requests, strict=True):
        expect(f"the {planned.type} that the guest got", request, planned)
    expect("the steps that were told", _statuses(seen), statuses)
    expect("the order in which steps were told", [step.request for step in seen], list(plan.requests))


def _statuses(steps: Iterable[ProvisionStep]) -> list[str]:
    return [step.status.value for step in steps]


#: A plan whose config has to wait for the mount.
_PLAN: Final = ProvisionPlan(mounts=(_MOUNT,), secrets=(InjectSecret("NAME", SECRET),), config=_CONFIG)


@simulated("deny:busy@mount", needs="provision")
async def a_plan_holds_the_config_back(bench: Bench) -> None:
    report = await result(bench.client.provision(_PLAN))
    expect("the steps after a mount that was refused", _statuses(report.steps), ["refused", "done", "not sent"])
    expect("the guest's words", getattr(report.steps[0].error, "error", None), "busy")
    expect("the guest's config", bench.guest.config, None)


@simulated("deny:busy@mount", needs="provision.on_refusal")
async def a_plan_goes_on_after_a_refusal_when_told(bench: Bench) -> None:
    report = await result(bench.client.provision(_PLAN, on_refusal="continue"))
    statuses = ["refused", "done", "done"]
    expect('the steps after a mount that was refused, with on_refusal="continue"', _statuses(report.steps), statuses)
    expect("the guest's config", bench.guest.config, _CONFIG)


@simulated("stall@mount", needs="provision.timeout")
async def a_plan_keeps_its_timeout(bench: Bench) -> None:
    report = await result(bench.client.provision(_PLAN, timeout=0.3))
    expect("the steps with a guest that fell silent", _statuses(report.steps), ["unknown", "unknown", "not sent"])


@simulated("drop@mount", "close@mount", ends=True, needs="provision")
async def a_plan_whose_guest_goes(bench: Bench) -> None:
    report = await result(bench.client.provision(ProvisionPlan(mounts=(_MOUNT,), config=_CONFIG)))
    expect("the steps when the guest goes", _statuses(report.steps), ["unknown", "not sent"])
    expect("the class of the first step's error", type(report.steps[0].error), OutcomeUnknown)
    expect("the guest's config", bench.guest.config, None)


class _Mistake(Exception):
    """What a callback of the caller's raises."""


@simulated(needs="provision.on_step")
async def what_on_step_raises_comes_out(bench: Bench) -> None:
    def raises(_step: ProvisionStep) -> None:
        raise _Mistake

    await bench.fails(_Mistake, lambda: bench.client.provision(_PLAN, on_step=raises), what="provision")
    expect("ping afterwards", await bench.ask(Ping()), Pong())


@simulated(needs="provision")
async def a_plan_after_the_end(bench: Bench) -> None:
    # Nothing was sent, so there is nothing to report on.
    await bench.close()
    await bench.fails(ConnectionLost, lambda: bench.client.provision(_PLAN))


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


@simulated(boot_time=inf, needs="wait_ready.states")
async def a_wait_is_for_the_states_that_were_named(bench: Bench) -> None:
    health = await result(bench.client.wait_ready(states=["booting"], timeout=_A_WHILE))
    expect("the state that was waited for", health.state, "booting")


@simulated(needs="wait_ready.states")
async def a_wait_is_for_no_other_state(bench: Bench) -> None:
    # Without agents, the guest stays ready and never becomes healthy.
    def wait() -> Any:
        return bench.client.wait_ready(states=["healthy"], timeout=0.3)

    await bench.fails(NotReady, wait, what='wait_ready(states=["healthy"]) on a guest that stays ready')


@simulated(agents=[AgentStatus("a", True), AgentStatus("b", False)], needs="wait_ready.agents")
async def a_wait_is_for_all_agents_that_were_named(bench: Bench) -> None:
    for agents in (["missing"], ["a", "b"]):
        wait = partial(bench.client.wait_ready, agents=agents, timeout=0.3)
        error = await bench.fails(NotReady, wait, what=f"wait_ready(agents={agents})")
        expect("`agents_wanted` of the error", error.agents_wanted, tuple(agents))
    health = await result(bench.client.wait_ready(agents=["a"], timeout=_A_WHILE))
    expect("the agents after wait_ready", len(health.agents), 2)


@simulated(types=OLD_TYPES, needs="wait_ready")
async def a_wait_for_a_guest_without_health_ends(bench: Bench) -> None:
    await bench.fails(NotReady, partial(bench.client.wait_ready, timeout=_LONG))


@simulated("deny:busy@get_health#1", needs="wait_ready")
async def a_wait_goes_on_after_a_refusal(bench: Bench) -> None:
    health = await result(bench.client.wait_ready(timeout=_A_WHILE))
    expect("whether the guest is ready", health.state in READY_STATES, True)


@simulated("garbage", ends=True, needs="wait_ready")
async def a_wait_for_what_is_no_guest_ends(bench: Bench) -> None:
    wait = partial(bench.client.wait_ready, timeout=_A_WHILE)
    await bench.fails(RemoteProtocolError, wait, exact=False, what="wait_ready")
