"""What any client of a guest has to get right, as cases that it is put through.

Each case has a simulated guest of its own, with the faults that the case is about.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

import attrs

from stereos_proto import (
    Ack,
    AgentStatus,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    Health,
    LocalProtocolError,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    RemoteProtocolError,
    Reply,
    Request,
    RequestFailed,
    SetConfig,
    UnexpectedReply,
)
from stereos_proto.dialogues import READY_STATES

from .addresses import TCP, Address
from .guest import GuestSimulator
from .guest.blocking import serve

MakeClient = Callable[[Address], Any]
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
Within = Callable[[Any, Request, float], Any]

_SECRET: Final = "s3cr3t-value"  # noqa: S105  (what to look for in errors)


@attrs.frozen
class ClientCase:
    """One case: its `name`, the guest's `faults` and other `options`, and whether it needs connections that end."""

    name: str
    check: Callable[[_Bench], Awaitable[None]]
    faults: tuple[str, ...] = ()
    options: dict[str, Any] = attrs.field(factory=dict)
    ends: bool = False


@attrs.frozen
class _Bench:
    """What a case works with."""

    client: Any
    guest: GuestSimulator
    within: Within

    async def ask(self, message: Request) -> Reply:
        reply: Reply = await _result(self.client.request(message))
        return reply

    async def fails(self, kind: type[BaseException], result: Callable[[], Any]) -> BaseException:
        """Check that an error of exactly this kind comes out, without the secret in it; return it."""
        try:
            await _result(result())
        except Exception as exc:  # noqa: BLE001  (whatever it is, it is compared)
            _expect(type(exc), kind)
            _expect(_SECRET in f"{exc!r} {exc}", False)
            return exc
        raise AssertionError(f"there was no {kind.__name__}")


_CASES: list[ClientCase] = []


def _case(*faults: str, ends: bool = False, **options: Any) -> Callable[[Callable[[_Bench], Awaitable[None]]], None]:
    def keep(check: Callable[[_Bench], Awaitable[None]]) -> None:
        name = getattr(check, "__name__", "").strip("_")
        _CASES.append(ClientCase(name, check, faults, options, ends))

    return keep


def check_client(
    make_client: MakeClient,
    *,
    run: Run | None = None,
    within: Within | None = None,
    address: Address | None = None,
    cases: Iterable[ClientCase] | None = None,
) -> None:
    """Put a client through `cases`, by default `client_cases()`. Raises AssertionError, which names the case.

    `make_client(address)` returns a client, or an awaitable or an (async) context manager of one: the drivers'
    `connect`. Its verbs are those of this library's clients. `run` runs a coroutine function, and is needed for an
    asynchronous client (`trio.run`; `lambda main: asyncio.run(main())`). `within(client, message, seconds)` asks
    with a deadline and raises TimeoutError; by default it is `client.request(message, timeout=seconds)`. The
    guest listens on `address`, by default on a free TCP port of this machine's loopback.
    """
    for case in client_cases() if cases is None else cases:
        simulator = GuestSimulator(faults=case.faults, **case.options)
        with serve(address or TCP("127.0.0.1", 0), simulator) as server:
            try:
                (run or _run)(lambda: _check(case, make_client(server.address), simulator, within or _within))  # noqa: B023
            except Exception as exc:
                raise AssertionError(f"{case.name}: {type(exc).__name__}: {exc}") from exc


def client_cases(*, ends: bool = True) -> tuple[ClientCase, ...]:
    """Return the cases. Without `ends`: those alone that a stream without connections can be put through (§9)."""
    return tuple(case for case in _CASES if ends or not case.ends)


def _within(client: Any, message: Request, seconds: float) -> Any:
    return client.request(message, timeout=seconds)


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine that awaits nothing."""
    try:
        main().send(None)
    except StopIteration:
        return
    raise TypeError("an asynchronous client needs `run`")


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _check(case: ClientCase, made: Any, simulator: GuestSimulator, within: Within) -> None:
    if hasattr(made, "__aenter__"):
        async with made as client:
            await case.check(_Bench(client, simulator, within))
    else:
        with await _result(made) as client:
            await case.check(_Bench(client, simulator, within))


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"expected {expected!r}, found {found!r}")


async def _next(iterator: Any) -> Any:
    """The next notification; None at the end."""
    return await anext(iterator, None) if hasattr(iterator, "__anext__") else next(iterator, None)


# ------------------------------------------------------------------------------------------------- the cases


@_case(agents=[AgentStatus("a", True)])
async def _verbs(bench: _Bench) -> None:
    client = bench.client
    _expect(await _result(client.ping()), Pong())
    health = await _result(client.get_health())
    # It becomes healthy when its guest has looked at its agents for the first time.
    _expect((health.state in READY_STATES, health.agents), (True, (AgentStatus("a", True),)))
    _expect(await _result(client.set_config("x = 1\n")), Ack("set_config", True))
    _expect(await _result(client.inject_secret("NAME", _SECRET)), Ack("inject_secret", True))
    _expect(await _result(client.inject_ssh_key("admin", "ssh-ed25519 AAAA x")), Ack("inject_ssh_key", True))
    _expect(await _result(client.mount("share0", "/workspace", "9p")), Ack("mount", True))
    _expect((await _result(client.wait_ready(agents=["a"]))).state in READY_STATES, True)
    _expect(bench.guest.config, "x = 1\n")
    _expect(bench.guest.secrets["NAME"].value, _SECRET)
    _expect(bench.guest.mounts[0].guest_path, "/workspace")


@_case()
async def _shutdown(bench: _Bench) -> None:
    _expect(await _result(bench.client.shutdown("done")), Ack("shutdown", True))
    _expect(bench.guest.shutdown_reason, "done")


@_case("drop@shutdown", "close@shutdown", ends=True)
async def _shutdown_whose_ack_is_lost(bench: _Bench) -> None:
    _expect(await _result(bench.client.shutdown()), None)


@_case()
async def _refusal(bench: _Bench) -> None:
    error = await bench.fails(RequestFailed, lambda: bench.client.inject_secret("a/b", _SECRET))
    _expect("must be a simple filename" in str(error), True)
    _expect(await bench.ask(Ping()), Pong())


@_case()
async def _pipeline_beyond_the_bound(bench: _Bench) -> None:
    requests = [CustomRequest(f"echo{number}") for number in range(300)]
    replies = await _result(bench.client.request_many(requests))
    _expect([reply.reply_to for reply in replies], [request.type for request in requests])
    _expect({reply.ok for reply in replies}, {False})


@_case()
async def _empty_pipeline(bench: _Bench) -> None:
    _expect(await _result(bench.client.request_many([])), [])


@_case("push:ready@mount", "push:degraded:slow@ping")
async def _notifications_do_not_shift_replies(bench: _Bench) -> None:
    client = bench.client
    await bench.fails(RequestFailed, lambda: client.mount("t", "/etc", "9p"))
    _expect(await _result(client.inject_secret("A", _SECRET)), Ack("inject_secret", True))
    _expect(await bench.ask(Ping()), Pong())
    news = client.notifications()
    _expect((await _next(news)).state, "ready")
    _expect((await _next(news)).message, "slow")


@_case("blank")
async def _empty_lines(bench: _Bench) -> None:
    replies = await _result(bench.client.request_many([Ping(), GetHealth(), Ping()]))
    # How long the guest has been up is not ours to say.
    _expect([type(reply) for reply in replies], [Pong, Health, Pong])


@_case("garbage#2", ends=True)
async def _garbage(bench: _Bench) -> None:
    _expect(await bench.ask(Ping()), Pong())
    try:
        await bench.ask(Ping())
    except RemoteProtocolError:
        await bench.fails(ConnectionLost, bench.client.ping)
    else:
        raise AssertionError("garbage was taken for a reply")


@_case("wrong-type", ends=True)
async def _wrong_reply(bench: _Bench) -> None:
    await bench.fails(UnexpectedReply, lambda: bench.client.inject_secret("A", _SECRET))
    await bench.fails(ConnectionLost, lambda: bench.client.inject_secret("B", _SECRET))
    _expect("B" in bench.guest.secrets, False)


@_case("late:0.3s@custom0")
async def _late_reply_is_swallowed(bench: _Bench) -> None:
    try:
        await _result(bench.within(bench.client, CustomRequest("custom0"), 0.01))
    except TimeoutError:
        pass
    else:
        raise AssertionError("the deadline had no effect")
    for number in range(1, 4):
        error = await bench.fails(RequestFailed, lambda: bench.client.request(CustomRequest(f"custom{number}")))  # noqa: B023
        _expect(str(error).endswith(f"unknown message type: custom{number}"), True)


@_case("drop@get_health", "close@get_health", ends=True)
async def _guest_goes_while_a_question_is_open(bench: _Bench) -> None:
    error = await bench.fails(ConnectionLost, bench.client.get_health)
    _expect(getattr(error, "unanswered", None), (GetHealth(),))


@_case("drop@mount", "close@mount", ends=True)
async def _guest_goes_while_a_change_is_open(bench: _Bench) -> None:
    error = await bench.fails(OutcomeUnknown, lambda: bench.client.mount("t", "/workspace", "9p"))
    _expect(getattr(error, "request", None), Mount("t", "/workspace", "9p"))
    # Not sent again: a second mount lies over the first.
    _expect(bench.guest.requests.count(Mount("t", "/workspace", "9p")), 1)


@_case("close@ping", ends=True)
async def _nothing_is_sent_after_the_end(bench: _Bench) -> None:
    _expect(await bench.ask(Ping()), Pong())
    try:
        await bench.ask(SetConfig("x"))
    except ConnectionLost:
        # Whether it was on its way before the end was seen is a matter of luck; carried out it was not.
        _expect(bench.guest.config, None)
    else:
        raise AssertionError("there was a reply after the end")
    await bench.fails(ConnectionLost, bench.client.ping)


@_case()
async def _what_cannot_be_sent(bench: _Bench) -> None:
    for bad in (SetConfig("x" * (1 << 20)), SetConfig("\ud800")):
        await bench.fails(LocalProtocolError, lambda: bench.client.request_many([SetConfig("y"), bad]))  # noqa: B023
        await bench.fails(LocalProtocolError, lambda: bench.client.request(bad))  # noqa: B023
    _expect(await bench.ask(Ping()), Pong())
    _expect(bench.guest.config, None)


@_case(agents=[AgentStatus("a" * 8000, True)])
async def _both_directions_full(bench: _Bench) -> None:
    requests: list[Request] = []
    for _ in range(40):
        requests += [SetConfig("x" * 100_000), GetHealth(), GetHealth()]
    replies = await _result(bench.client.request_many(requests))
    _expect([type(reply) for reply in replies], [Ack, Health, Health] * 40)


@_case(agents=[AgentStatus("a" * 1_000_000, True)])
async def _longest_lines_both_ways(bench: _Bench) -> None:
    replies = await _result(bench.client.request_many([SetConfig("x" * 1_048_500), GetHealth()] * 4))
    _expect([type(reply) for reply in replies], [Ack, Health] * 4)


@_case()
async def _provisioning(bench: _Bench) -> None:
    plan = ProvisionPlan(
        mounts=(Mount("share0", "/workspace", "9p"), Mount("share1", "/etc", "9p")), config='[network]\nmode = "nat"\n'
    )
    seen: list[Any] = []
    report = await _result(bench.client.provision(plan, on_step=seen.append))
    # The second mount lies over a folder of the system. Without it the agents must not start: the config stays here.
    statuses = ["done", "refused", "not sent"]
    _expect([step.status.value for step in report.steps], statuses)
    _expect([step.status.value for step in seen], statuses)
    _expect([step.request for step in seen], list(plan.requests))
    # The first request on a stream without connections is the resynchronisation.
    got = [type(request) for request in bench.guest.requests if not isinstance(request, CustomRequest)]
    _expect(got, [Mount, Mount])


@_case()
async def _own_end(bench: _Bench) -> None:
    client = bench.client
    news = client.notifications()
    await _result(client.aclose() if hasattr(client, "aclose") else client.close())
    _expect(await _next(news), None)
    await bench.fails(ConnectionLost, client.ping)


@_case("close@ping", ends=True)
async def _notifications_end_with_the_guest(bench: _Bench) -> None:
    _expect(await bench.ask(Ping()), Pong())
    await bench.fails(ConnectionLost, lambda: _next(bench.client.notifications()))
