"""Cases of ends: cuts, write failures, closing; and what is said of each request that was not answered."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from stereos_proto import (
    Ack,
    ConnectionLost,
    CustomRequest,
    GetHealth,
    InjectSecret,
    Lifecycle,
    Mount,
    OutcomeUnknown,
    Ping,
    Pong,
    ProvisionPlan,
    ProvisionReport,
    RequestTimeout,
    SetConfig,
    StereosError,
)
from stereos_proto.dialogues import SendMany

from ._client_bench import SOON, Bench, expect, result, takes
from ._client_case import scripted
from ._client_cases_simulated import CALLED_VERBS, CALLS
from ._client_guest import NOTICE, End, Script, ack, answer
from ._client_wire import SECRET

_MOUNT: Final = Mount("t", "/workspace", "9p")
_HUGE: Final = SetConfig("x" * 1_048_400)


def _outcomes(outcomes: list[Any]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def _flight(*messages: Any) -> Any:
    return (yield SendMany(messages, lambda _index, _outcome: None))


# ------------------------------------------------------------------------------------------------------- cuts


def _cut(size: int) -> Script:
    def script(end: End) -> None:
        end.send(answer(end.line())[:size])

    return script


async def _the_change_is_unknown(bench: Bench) -> None:
    error = await bench.fails(OutcomeUnknown, lambda: bench.client.request(_MOUNT))
    expect("`request` of the error", error.request, _MOUNT)
    await bench.is_lost()


async def _the_question_is_lost(bench: Bench) -> None:
    await bench.fails(ConnectionLost, lambda: bench.client.request(GetHealth()))
    await bench.is_lost()


for _size in (0, 1, 15, 40, len(ack("mount")) - 2):
    scripted(_cut(_size), name=f"an_ack_cut_after_{_size}_bytes")(_the_change_is_unknown)
for _size in (1, 30):
    scripted(_cut(_size), name=f"a_health_report_cut_after_{_size}_bytes")(_the_question_is_lost)


@scripted(_cut(-1))
async def a_reply_without_its_newline_counts_at_the_end(bench: Bench) -> None:
    expect("mount", await bench.ask(_MOUNT), Ack("mount", True))
    await bench.is_lost()


def answers_and_goes(end: End) -> None:
    """Answer the first request, and end the connection at once."""
    end.send(answer(end.line()) + NOTICE)


@scripted(answers_and_goes, needs="notifications")
async def what_comes_with_the_end_counts(bench: Bench) -> None:
    expect("ping, answered just before the end", await bench.ask(Ping()), Pong())
    async with bench.news() as news:
        expect("a notification just before the end", type(await news()), Lifecycle)
        await bench.fails(ConnectionLost, news)


# ------------------------------------------------------------------------------------- what became of requests


def goes_after_three(end: End) -> None:
    """End the connection when three requests have come."""
    end.lines(3)


@scripted(goes_after_three, needs="together")
async def a_lost_change_is_unknown_when_others_wait_too(bench: Bench) -> None:
    secret = InjectSecret("A", SECRET)
    outcomes = await bench.together(*(lambda m=message: bench.ask(m) for message in (_MOUNT, GetHealth(), secret)))
    expect("what became of mount, get_health and inject_secret", _outcomes(outcomes), _LOST)
    expect("`request` of the errors", [getattr(error, "request", None) for error in outcomes], [_MOUNT, None, secret])
    expect("how many are `unanswered`", [len(error.unanswered) for error in outcomes], [3, 3, 3])
    expect("whether an error shows the secret", any(SECRET in f"{error!r} {error}" for error in outcomes), False)


_LOST: Final = ["OutcomeUnknown", "ConnectionLost", "OutcomeUnknown"]


@scripted(goes_after_three, needs="request_many")
async def a_lost_flight_tells_its_first_loss(bench: Bench) -> None:
    secret = InjectSecret("A", SECRET)
    error = await bench.fails(OutcomeUnknown, lambda: bench.client.request_many([secret, GetHealth(), _MOUNT]))
    expect("`request` of the error", error.request, secret)


@scripted(goes_after_three, needs="run")
async def the_lost_of_one_flight_are_told_apart(bench: Bench) -> None:
    outcomes = await result(bench.client.run(_flight(_MOUNT, GetHealth(), _MOUNT)))
    expect("what became of mount, get_health and mount", _outcomes(outcomes), _LOST)


def goes_without_reading(end: End) -> None:
    """Read the beginning of the first request, and break off when the pipe is full."""
    end.take(100)
    end.wait_for_go()
    end.reset()


@scripted(goes_without_reading, needs="run together")
async def what_was_not_sent_is_told_apart_from_what_was(bench: Bench) -> None:
    messages = [_HUGE] * 12 + [_MOUNT]

    async def gives_up_last() -> None:
        # Those before it have waited for room for a while by then.
        await bench.gives_up(Ping(), 0.3)
        bench.guest.go.set()

    outcomes, _ = await bench.together(lambda: result(bench.client.run(_flight(*messages))), gives_up_last)
    found = _outcomes(outcomes)
    expect("what became of a request that was sent in part", found[0], "OutcomeUnknown")
    expect("what became of a request that was not sent", found[-1], "ConnectionLost")
    expect("what became of all, in order", found, sorted(found, reverse=True))


def stops_reading(end: End) -> None:
    """Answer the first request, end the host's direction, and go on talking."""
    line = end.line(1)
    end.stop_reading()
    end.send(answer(line) + NOTICE)
    end.drop_unread()
    end.guest.go.wait()


@scripted(stops_reading, needs="run unix")
async def a_write_that_fails_is_noticed(bench: Bench) -> None:
    outcomes = await result(bench.client.run(_flight(_MOUNT, _HUGE, Mount("u", "/u", "9p")), timeout=0.5))
    found = _outcomes(outcomes)
    expect("what became of a request that was answered", found[0], "Ack")
    # Half a request may be waited for until its deadline: the guest can still talk.
    expect("whether half a request may have an effect", found[1] == "OutcomeUnknown" or outcomes[1].sent, True)
    expect("what became of a request that was not sent", found[2], "ConnectionLost")


@scripted(stops_reading, needs="unix")
async def nothing_is_sent_after_a_write_that_failed(bench: Bench) -> None:
    expect("mount", await bench.ask(_MOUNT), Ack("mount", True))
    # The first may still be taken by the system, or be refused by it at once.
    await bench.fails(ConnectionLost, lambda: bench.client.request(_HUGE), exact=False)
    await bench.is_lost()


# -------------------------------------------------------------------------------------------------- our own end


def never_answers(end: End) -> None:
    """Read, and answer nothing."""
    end.wait_for_end()


@scripted(never_answers, needs=f"{CALLED_VERBS} request_many shutdown notifications")
async def each_verb_keeps_its_timeout(bench: Bench) -> None:
    await bench.gives_up(Ping())
    if bench.asynchronous:
        # Its verbs take no timeout: a runtime cancels them, as it has just done.
        return
    calls: list[tuple[str, tuple[Any, ...]]] = [(verb, arguments) for verb, arguments, _ in CALLS]
    for verb, arguments in [*calls, ("request_many", ([Ping(), GetHealth()],)), ("shutdown", ())]:
        method = getattr(bench.client, verb)
        if takes(method, "timeout"):
            call = partial(method, *arguments, timeout=SOON)
            error = await bench.fails(RequestTimeout, call, exact=False, what=f"{verb} with a timeout")
            expect(f"`sent` of the error of {verb}", error.sent, True)
    if takes(bench.client.notifications, "timeout"):
        news = iter(bench.client.notifications(timeout=SOON))
        await bench.fails(RequestTimeout, partial(next, news), exact=False, what="notifications with a timeout")


@scripted(never_answers, needs="together")
async def closing_wakes_a_caller_that_waits(bench: Bench) -> None:
    async def close() -> None:
        await bench.until(lambda: len(bench.guest.received) == 2)
        await bench.close()

    asked = (Ping(), _MOUNT)
    outcomes = await bench.together(*(lambda m=message: bench.ask(m) for message in asked), close)
    expect("what became of ping and mount", _outcomes(outcomes), ["ConnectionLost", "OutcomeUnknown", "NoneType"])


@scripted(never_answers, needs="together provision")
async def closing_ends_a_plan_with_its_report(bench: Bench) -> None:
    plan = ProvisionPlan(mounts=(_MOUNT, _MOUNT), config="")

    async def close() -> None:
        await bench.until(lambda: len(bench.guest.received) == 2)
        await bench.close()

    report, _ = await bench.together(lambda: result(bench.client.provision(plan)), close)
    found = [step.status.value for step in report.steps] if isinstance(report, ProvisionReport) else report
    expect("the steps when the client is closed", found, ["unknown", "unknown", "not sent"])


@scripted(never_answers, needs="together shutdown")
async def closing_makes_a_shutdown_unknown(bench: Bench) -> None:
    async def close() -> None:
        await bench.until(lambda: len(bench.guest.received) == 1)
        await bench.close()

    outcomes = await bench.together(lambda: result(bench.client.shutdown()), close)
    expect("what became of shutdown", _outcomes(outcomes), ["OutcomeUnknown", "NoneType"])


@scripted(never_answers, needs="together notifications")
async def closing_wakes_a_reader_of_notifications(bench: Bench) -> None:
    async def read() -> Any:
        async with bench.news() as news:
            return await news()

    async def close() -> None:
        # So that the reader is likely to wait by then; the outcome is the same if it does not.
        await bench.gives_up(CustomRequest("some-time"), 0.05)
        await bench.close()

    outcomes = await bench.together(read, close)
    expect("what the reader of notifications was told", outcomes, [None, None])


@scripted(never_answers)
async def closing_reaches_the_guest(bench: Bench) -> None:
    await bench.gives_up(Ping(), 0.05)
    await bench.close()
    await bench.close()
    await bench.fails(StereosError, lambda: bench.client.request(Ping()), exact=False)
