"""Cases of dialogues: deadlines, errors that are thrown in, sleeps that end early, dialling until a guest is ready."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from stereos_proto import (
    ConnectionLost,
    GetHealth,
    Health,
    Lifecycle,
    LifecycleState,
    Mount,
    NotReady,
    Ping,
    Pong,
    ProvisionPlan,
    RemoteProtocolError,
    encode,
)
from stereos_proto.dialogues import READY_STATES, Backoff, Send, Sleep

from ._client_bench import Bench, expect, result
from ._client_case import scripted
from ._client_cases_ends import never_answers
from ._client_guest import NOTICE, End, answer

_MOUNT: Final = Mount("t", "/workspace", "9p")

#: Seconds that are more than any case has.
_LONG: Final = 60.0


def answers_all(end: End) -> None:
    """Answer everything."""
    end.answer_rest()


@scripted(answers_all, needs="run")
async def without_time_nothing_is_sent(bench: Bench) -> None:
    def dialogue() -> Any:
        return (yield Send(_MOUNT))

    await bench.fails(TimeoutError, lambda: bench.client.run(dialogue(), timeout=0), exact=False)
    expect("ping", await bench.ask(Ping()), Pong())
    expect("what the guest got", bench.guest.types(), ["ping"])


@scripted(answers_all, needs="provision.timeout wait_ready")
async def plans_and_waits_without_time_send_nothing(bench: Bench) -> None:
    report = await result(bench.client.provision(ProvisionPlan(mounts=(_MOUNT,)), timeout=0))
    expect("the step of a plan without time", [step.status.value for step in report.steps], ["not sent"])
    await bench.fails(NotReady, lambda: bench.client.wait_ready(timeout=0), what="wait_ready")
    expect("ping", await bench.ask(Ping()), Pong())
    expect("what the guest got", bench.guest.types(), ["ping"])


@scripted(never_answers, needs="run")
async def a_dialogue_is_closed_when_its_time_is_up(bench: Bench) -> None:
    closed: list[bool] = []

    def dialogue() -> Any:
        try:
            yield Send(Ping())
        finally:
            closed.append(True)

    await bench.fails(TimeoutError, lambda: bench.client.run(dialogue(), timeout=0.1), exact=False)
    expect("whether the generator was closed", closed, [True])


@scripted(never_answers, needs="run")
async def the_time_of_a_dialogue_bounds_its_sleep(bench: Bench) -> None:
    def dialogue() -> Any:
        yield Sleep(_LONG)
        yield Send(Ping())

    await bench.fails(TimeoutError, lambda: bench.client.run(dialogue(), timeout=0.1), exact=False)


@scripted(never_answers, needs="wait_ready")
async def a_wait_for_a_silent_guest_keeps_its_timeout(bench: Bench) -> None:
    try:
        health = await result(bench.client.wait_ready(timeout=0.2))
    except (NotReady, TimeoutError):
        return
    raise AssertionError(f"wait_ready: expected NotReady or RequestTimeout, found {health!r}")


def boots_for_three_looks(end: End) -> None:
    """Say "booting" to the first three who look, and "ready" to the next."""
    looks = 0
    for line in end.rest():
        looked = b"get_health" in line
        looks += looked
        if looked and looks <= 3:
            end.send(encode(Health(LifecycleState.BOOTING)))
        else:
            end.answer(line)


@scripted(boots_for_three_looks, needs="wait_ready")
async def a_wait_goes_on_until_the_guest_is_ready(bench: Bench) -> None:
    health = await result(bench.client.wait_ready(timeout=_LONG))
    expect("whether the guest is ready", health.state in READY_STATES, True)


@scripted(boots_for_three_looks, needs="wait_ready.on_progress")
async def a_wait_tells_its_progress(bench: Bench) -> None:
    seen: list[Any] = []
    await result(bench.client.wait_ready(timeout=_LONG, on_progress=seen.append))
    found = [(progress.tries, progress.state) for progress in seen]
    looks = [(1, "booting"), (2, "booting"), (3, "booting"), (4, "ready")]
    expect("the tries and states that on_progress was told", found, looks)


@scripted(boots_for_three_looks, needs="wait_ready.backoff")
async def a_wait_keeps_to_its_backoff(bench: Bench) -> None:
    delays: list[float] = []

    def note(delay: float) -> float:
        delays.append(delay)
        return delay

    backoff = Backoff(first=0.004, factor=3.0, jitter=note)
    await result(bench.client.wait_ready(timeout=_LONG, backoff=backoff))
    expect("the first delay that the jitter of the backoff was given", delays[:1], [0.004])


def shuts_down(end: End) -> None:
    """Say that the guest shuts down to all who look."""
    for line in end.rest():
        end.send(encode(Health(LifecycleState.SHUTDOWN)) if b"get_health" in line else answer(line))


@scripted(shuts_down, needs="wait_ready")
async def a_wait_ends_when_the_guest_shuts_down(bench: Bench) -> None:
    error = await bench.fails(NotReady, lambda: bench.client.wait_ready(timeout=_LONG))
    expect("the last state", error.last_state, "shutdown")


def goes_after_the_first(end: End) -> None:
    """End the connection when the first request has come."""
    end.line()


@scripted(goes_after_the_first, needs="run")
async def errors_are_thrown_into_a_dialogue(bench: Bench) -> None:
    def dialogue() -> Any:
        try:
            yield Send(GetHealth())
        except ConnectionLost:
            return "caught"

    expect("what the dialogue returned", await result(bench.client.run(dialogue())), "caught")


@scripted(goes_after_the_first, needs="wait_ready")
async def a_wait_ends_with_the_connection(bench: Bench) -> None:
    await bench.fails(ConnectionLost, lambda: bench.client.wait_ready(timeout=_LONG))


def speaks_up_later(end: End) -> None:
    """Answer the first request, and push a notification when the case says so."""
    end.answer(end.line())
    end.wait_for_go()
    end.send(NOTICE)
    end.answer_rest()


@scripted(speaks_up_later, needs="run notifications")
async def a_notification_ends_a_sleep(bench: Bench) -> None:
    def dialogue() -> Any:
        yield Send(Ping())
        bench.guest.go.set()
        yield Sleep(_LONG)
        return (yield Send(Ping()))

    expect("the reply after the sleep", await result(bench.client.run(dialogue())), Pong())
    async with bench.news() as news:
        expect("the notification that ended the sleep, afterwards", type(await news()), Lifecycle)


def speaks_up_with_its_reply(end: End) -> None:
    """Push a notification right after the first reply."""
    end.send(answer(end.line()) + NOTICE)
    end.answer_rest()


@scripted(speaks_up_with_its_reply, needs="run")
async def a_notification_just_before_a_sleep_ends_it(bench: Bench) -> None:
    def dialogue() -> Any:
        yield Send(Ping())
        yield Sleep(_LONG)
        return "awake"

    expect("what the dialogue returned", await result(bench.client.run(dialogue())), "awake")


# ------------------------------------------------------------------------------------- dialling until it is ready


def is_there_the_third_time(end: End) -> None:
    """End the first connection at once, be silent on the second, and answer on the third."""
    if end.number == 0:
        return
    if end.number == 1:
        end.wait_for_end()
    end.answer_rest()


@scripted(is_there_the_third_time, needs="when_ready")
async def a_guest_is_dialled_again_until_it_is_there(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    expect("what the guest was asked", bench.guest.types(), ["get_health", "get_health", "ping"])


def boots_for_ever_the_second_time(end: End) -> None:
    """Answer on the first connection, and be booting on all others."""
    for line in end.rest():
        end.send(encode(Health(LifecycleState.BOOTING)) if end.number else answer(line))


@scripted(boots_for_ever_the_second_time, needs="when_ready")
async def dialling_keeps_its_timeout(bench: Bench) -> None:
    await bench.fails(NotReady, partial(bench.dial_again, 0.5))


def is_no_guest_the_second_time(end: End) -> None:
    """Answer on the first connection, and with what is no JSON on all others."""
    for line in end.rest():
        end.send(b"220 mail.example ESMTP\n" if end.number else answer(line))


@scripted(is_no_guest_the_second_time, needs="when_ready")
async def dialling_what_is_no_guest_ends(bench: Bench) -> None:
    await bench.fails(RemoteProtocolError, partial(bench.dial_again, _LONG), exact=False)


def shakes_hands_late(end: End) -> None:
    """Answer CONNECT after 1.3 seconds, which is longer than the first try lasts."""
    if not end.guest.go.wait(1.3):
        end.shake_hands()
        end.answer_rest()


shakes_hands_late.shakes_hands = True  # type: ignore[attr-defined]


@scripted(shakes_hands_late, needs="when_ready hybrid")
async def a_slow_handshake_gets_more_time_with_each_try(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
