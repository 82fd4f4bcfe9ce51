"""Cases of calls: given up at any moment, many at once, and a guest that reads slowly while it talks."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final

from stereos_proto import (
    MAX_PENDING,
    Ack,
    CustomRequest,
    GetHealth,
    Health,
    InjectSecret,
    Lifecycle,
    LineTooLong,
    Mount,
    Ping,
    Pong,
    ProvisionPlan,
    Request,
    RequestFailed,
    RequestTimeout,
    SetConfig,
    StereosError,
    UnknownMessage,
    encode,
)
from stereos_proto.dialogues import Send, SendMany

from ._client_bench import SOON, Bench, expect, result
from ._client_case import scripted
from ._client_guest import NOTICE, End, ScriptError, ack, answer
from ._client_wire import SECRET

#: Requests of 1 MiB that no pipe takes all of: the buffers of a TCP socket grow to about 10 MiB at most.
_TOO_MANY: Final = 12


def _config(number: int) -> SetConfig:
    """A config that fills a line of 1 MiB."""
    return SetConfig(f"{number:02}" + "x" * 1_048_400)


def _configs(guest: Any) -> list[int]:
    """The numbers of the configs that the guest got."""
    return [int(line[:60].partition(b'"content":"')[2][:2]) for line in guest.received if b"set_config" in line[:30]]


# ---------------------------------------------------------------------------------------------- given up


def silent_until_told(end: End) -> None:
    """Read nothing before the case says so, then answer all."""
    end.wait_for_go()
    end.answer_rest()


async def _fill_the_pipe(bench: Bench) -> list[BaseException]:
    """Give up one long request after the other, until nothing can be written any more."""
    return [await bench.gives_up(_config(number), 0.03) for number in range(_TOO_MANY)]


@scripted(silent_until_told)
async def a_line_is_finished_when_its_caller_gives_up(bench: Bench) -> None:
    await _fill_the_pipe(bench)
    bench.guest.go.set()
    expect("ping after requests that were given up", await bench.ask(Ping()), Pong())
    got = _configs(bench.guest)
    expect("the requests that were written, in order and whole", got, [*range(len(got))])
    expect("whether a request was written before it was given up", len(got) > 0, True)


@scripted(silent_until_told)
async def what_was_given_up_before_a_byte_was_out_is_not_sent(bench: Bench) -> None:
    await _fill_the_pipe(bench)
    await bench.gives_up(Mount("never", "/never", "9p"))
    bench.guest.go.set()
    expect("ping after requests that were given up", await bench.ask(Ping()), Pong())
    expect("whether the guest got a request that was given up before", "mount" in bench.guest.types(), False)
    expect("whether all of 12 MiB were written to a guest that did not read", len(_configs(bench.guest)) < 12, True)


def _ask(message: Request, seconds: float | None = None) -> Any:
    return (yield Send(message, seconds))


@scripted(silent_until_told, needs="run")
async def a_timeout_tells_whether_its_request_was_sent(bench: Bench) -> None:
    async def gives_up(message: Request) -> RequestTimeout:
        return await bench.fails(RequestTimeout, lambda: bench.client.run(_ask(message, 0.03)), exact=False)

    errors = [await gives_up(_config(number)) for number in range(_TOO_MANY)]
    bench.guest.go.set()
    expect("ping after requests that were given up", await bench.ask(Ping()), Pong())
    sent = [number for number, error in enumerate(errors) if error.sent]
    expect("`sent` of the RequestTimeouts is true for the requests that the guest got", sent, _configs(bench.guest))


def reads_and_is_silent(end: End) -> None:
    """Read what comes, and answer it when the case says so."""
    for line in end.lines_until_go():
        end.answer(line)
    end.answer_rest()


@scripted(reads_and_is_silent, needs="run")
async def a_flight_that_is_too_late_tells_what_was_sent(bench: Bench) -> None:
    messages = tuple(CustomRequest(f"c{number}") for number in range(2 * MAX_PENDING))

    def dialogue() -> Any:
        return (yield SendMany(messages, lambda _index, _outcome: None))

    outcomes = await result(bench.client.run(dialogue(), timeout=0.3))
    expect("what became of the requests", {type(outcome) for outcome in outcomes}, {RequestTimeout})
    bench.guest.go.set()
    expect("ping after a flight that was given up", await bench.ask(Ping()), Pong())
    sent = [message.type for message, outcome in zip(messages, outcomes, strict=True) if outcome.sent]
    got = [type_ for type_ in bench.guest.types() if type_ != "ping"]
    expect("`sent` of the RequestTimeouts is true for the requests that the guest got", sent, got)


def answers_after_last(end: End) -> None:
    """Answer nothing before a request of the type `last` has come, then all."""
    lines = []
    for line in end.rest():
        lines.append(line)
        if b'"last' in line:
            break
    for line in lines:
        end.answer(line)
    end.answer_rest()


@scripted(answers_after_last, needs="together")
async def a_caller_that_gives_up_among_others_keeps_its_place(bench: Bench) -> None:
    async def gives_up_first() -> None:
        await bench.gives_up(CustomRequest("given-up"))
        await bench.is_refused("last")

    outcomes = await bench.together(lambda: bench.is_refused("other"), gives_up_first)
    expect("what became of the others", outcomes, [None, None])
    await bench.is_refused("after")


@scripted(answers_after_last)
async def those_who_give_up_shift_no_reply(bench: Bench) -> None:
    for number in range(3):
        await bench.gives_up(CustomRequest(f"given-up{number}"), 0.05)
    await bench.is_refused("last")
    await bench.is_refused("after")


@scripted(answers_after_last, needs="run")
async def a_step_of_a_dialogue_that_gives_up_keeps_its_place(bench: Bench) -> None:
    def dialogue() -> Any:
        try:
            yield Send(Ping(), SOON)
        except RequestTimeout:
            return (yield Send(CustomRequest("last")))

    reply = await result(bench.client.run(dialogue()))
    expect("the reply to the second step", getattr(reply, "error", reply), "unknown message type: last")


# ------------------------------------------------------------------------------------------ several at once


def answers_ten_at_once(end: End) -> None:
    """Answer nothing before ten requests have come."""
    for line in end.lines(10):
        end.answer(line)
    end.answer_rest()


@scripted(answers_ten_at_once, needs="request_many")
async def a_flight_goes_out_without_waiting_for_replies(bench: Bench) -> None:
    replies = await result(bench.client.request_many([CustomRequest(f"c{number}") for number in range(10)]))
    expect("the replies", [reply.reply_to for reply in replies], [f"c{number}" for number in range(10)])


@scripted(answers_ten_at_once, needs="together")
async def callers_do_not_wait_for_one_another(bench: Bench) -> None:
    outcomes = await bench.together(*(lambda n=number: bench.is_refused(f"c{n}") for number in range(10)))
    expect("what became of ten callers", outcomes, [None] * 10)


#: Rounds of the following: in a single one, the last caller may not have begun to wait when the others leave.
_ROUNDS: Final = 8


def answers_the_last_of_ten_when_told(end: End) -> None:
    """Answer nine of ten requests, and the last one when the case says so; several times."""
    for _ in range(_ROUNDS):
        end.guest.go.clear()
        *lines, last = end.lines(10)
        for line in lines:
            end.answer(line)
        end.wait_for_go()
        end.answer(last)
    end.answer_rest()


@scripted(answers_the_last_of_ten_when_told, needs="together")
async def a_caller_that_is_left_alone_gets_its_reply(bench: Bench) -> None:
    async def call(name: str, left: list[str]) -> None:
        await bench.is_refused(name)
        left.append(name)
        # The caller that read for all may be among these: the one that is left has to read for itself.
        if len(left) == 9:
            bench.guest.go.set()

    for number in range(_ROUNDS):
        left: list[str] = []
        names = [f"round{number}-{each}" for each in range(10)]
        outcomes = await bench.together(*(partial(call, name, left) for name in names))
        expect("what became of ten callers", outcomes, [None] * 10)


# ---------------------------------------------------------------------------------------- slow, long, in pieces


def talks_before_it_reads(end: End) -> None:
    """Read the first request, then say 8 MiB before reading on."""
    end.line(1)
    end.send(encode(Health("ready" + "x" * 1_048_000)))
    notice = encode(Lifecycle("degraded", "x" * 1_000_000))
    for _ in range(7):
        end.send(notice)
    end.answer_rest()


@scripted(talks_before_it_reads, needs="request_many")
async def reading_goes_on_while_a_write_has_to_wait(bench: Bench) -> None:
    replies = await result(bench.client.request_many([GetHealth(), *map(_config, range(5))]))
    expect("the replies", [type(reply) for reply in replies], [Health] + [Ack] * 5)


@scripted(talks_before_it_reads, needs="together")
async def reading_goes_on_while_another_caller_has_to_wait(bench: Bench) -> None:
    async def writes(number: int) -> Any:
        await bench.until(lambda: bool(bench.guest.received))
        return await bench.ask(_config(number))

    outcomes = await bench.together(
        lambda: bench.ask(GetHealth()),
        *(lambda n=number: writes(n) for number in range(5)),
    )
    expect("what became of the callers", [type(outcome) for outcome in outcomes], [Health] + [Ack] * 5)


def reads_single_bytes(end: End) -> None:
    """Read the first lines a byte at a time."""
    for _ in range(20):
        end.answer(end.line(1))
    end.answer_rest()


@scripted(reads_single_bytes, needs="request_many")
async def a_guest_that_reads_single_bytes(bench: Bench) -> None:
    messages = [CustomRequest(f"c{number}") for number in range(20)] + [_config(0)]
    replies = await result(bench.client.request_many(messages))
    expect("the replies", [reply.reply_to for reply in replies], [message.type for message in messages])


def trickles(end: End) -> None:
    """Send every reply a byte at a time, with a notification before it."""
    for line in end.rest():
        end.trickle(NOTICE + answer(line))


@scripted(trickles, needs="request_many")
async def replies_in_single_bytes(bench: Bench) -> None:
    replies = await result(bench.client.request_many([CustomRequest("é\u2028"), Ping(), GetHealth()]))
    expect("the replies", [type(reply) for reply in replies], [Ack, Pong, Health])


def says_what_is_unknown(end: End) -> None:
    """Say what no host knows, and a notification, before every reply."""
    for line in end.rest():
        end.send(b'{"type":"from-the-future","payload":{"ok":true}}\n' + NOTICE + answer(line))


@scripted(says_what_is_unknown)
async def unknown_messages_are_no_replies(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    await bench.is_refused("custom")


@scripted(says_what_is_unknown, needs="notifications")
async def unknown_messages_are_told_as_notifications(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    async with bench.news() as news:
        expect("the first notification", await news(), UnknownMessage("from-the-future", {"ok": True}))
        expect("the class of the second notification", type(await news()), Lifecycle)


#: Notifications, more than a client keeps by default.
_NEWS: Final = 3000


def says_more_than_is_kept(end: End) -> None:
    """Say more than a client keeps, then answer."""
    line = end.line()
    end.send(b"".join(encode(Lifecycle("degraded", str(number))) for number in range(_NEWS)) + answer(line))
    end.answer_rest()


@scripted(says_more_than_is_kept, needs="notifications dropped_notifications")
async def dropped_notifications_are_counted(bench: Bench) -> None:
    expect("ping after many notifications", await bench.ask(Ping()), Pong())
    dropped = bench.client.dropped_notifications
    taken: list[int] = []
    async with bench.news() as news:
        for _ in range(_NEWS - dropped):
            taken.append(int((await news()).message))
            if taken[-1] == _NEWS - 1:
                break
    expect("how many notifications were taken or counted as dropped", len(taken) + dropped, _NEWS)
    expect("whether the oldest were dropped", taken == [*range(_NEWS - len(taken), _NEWS)], True)


def floods(end: End) -> None:
    """Send notifications for as long as the host reads, and answer nothing."""
    # More than any client works through before the next is there, so it always finds something to read.
    flood = NOTICE * 4000
    # A host that has given up need not read on. Whether it gave up in time is for the case to say.
    with suppress(ScriptError):
        while True:
            end.send(flood)


@scripted(floods)
async def a_deadline_holds_under_a_flood(bench: Bench) -> None:
    await bench.gives_up(Ping(), 0.3)


def too_long(end: End) -> None:
    """Answer with a line that is longer than any may be."""
    end.line()
    end.send(b"x" * (1024 * 1024 + 1))
    end.wait_for_end()


@scripted(too_long)
async def a_line_that_is_too_long_ends_it(bench: Bench) -> None:
    await bench.fails(LineTooLong, lambda: bench.client.request(Ping()))
    await bench.is_lost()


def says_pong_twice(end: End) -> None:
    """Answer the first request twice, and no other."""
    end.send(answer(end.line()) * 2)
    end.wait_for_end()


@scripted(says_pong_twice)
async def a_reply_that_was_not_asked_for_is_no_reply(bench: Bench) -> None:
    expect("ping", await bench.ask(Ping()), Pong())
    # It is an error of the guest's, or already the end of the connection.
    await bench.fails(StereosError, lambda: bench.client.request(GetHealth()), exact=False)
    await bench.is_lost()


def quotes_the_secret(end: End) -> None:
    """Refuse the first request with its secret in the text."""
    end.line()
    end.send(ack("inject_secret", f"cannot store {SECRET} at all"))
    end.answer_rest()


def quotes_the_secret_of_another(end: End) -> None:
    """Refuse mounts with the secret of a plan in the text."""
    for line in end.rest():
        end.send(ack("mount", f"{SECRET}: no such share") if b'"mount"' in line else answer(line))


@scripted(quotes_the_secret_of_another, needs="provision")
async def a_secret_that_the_guest_quotes_is_hidden_in_the_report(bench: Bench) -> None:
    plan = ProvisionPlan(mounts=(Mount("t", "/workspace", "9p"),), secrets=(InjectSecret("A", SECRET),))
    report = await result(bench.client.provision(plan))
    expect("the steps", [step.status.value for step in report.steps], ["refused", "done"])
    shown = f"{report} {report!r} {report.steps[0].error!r}"
    expect("whether the report shows the secret", SECRET in shown, False)


@scripted(quotes_the_secret, needs="inject_secret")
async def a_secret_that_the_guest_quotes_is_hidden(bench: Bench) -> None:
    await bench.fails(RequestFailed, lambda: bench.client.inject_secret("A", SECRET))
