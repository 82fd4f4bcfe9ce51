"""Commands that ask guests: ping, health, agents; and shutdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import attrs

from stereos_proto import Ack, Health, RequestTimeout, StereosError

from ._console import say
from ._contact import Contact
from ._deadline import ASK_SECONDS, FOREVER, WAIT_SECONDS
from ._documents import agent_document, health_document
from ._errors import GuestError, Interrupted, SaidNo, UsageError, error_document
from ._formats import DEFAULT_OUT, Out
from ._jobs import Job, ask_health, perform
from ._options import DURATION, option, refuse_what_is_no_utf8, whole_number
from ._output import agents_summary, agents_table, health_line, print_result
from ._targets import DEFAULT_GUESTS, Guests, Target
from ._wait import until_gone


@attrs.frozen(eq=False, repr=False)
class _Pings:
    """The pings of one guest, and what ended them early."""

    #: Milliseconds that each took.
    times: tuple[float, ...] = ()
    error: StereosError | Interrupted | None = None
    #: The text of `error`, with the guest called as the user calls it.
    reason: str = ""
    #: What `error` tells of, where the user ended them.
    interruption: KeyboardInterrupt | None = None

    @classmethod
    def ended(cls, times: Sequence[float], exc: BaseException, contact: Contact) -> _Pings:
        """The pings that an error or an interruption has ended."""
        if isinstance(exc, StereosError):
            return cls(tuple(times), exc, contact.sentence(exc))
        interruption = exc if isinstance(exc, KeyboardInterrupt) else KeyboardInterrupt()
        error = Interrupted(contact.row.step, sent=contact.row.sent)
        return cls(tuple(times), error, "interrupted", interruption)

    @property
    def summary(self) -> tuple[float | None, float | None, float | None]:
        """Least, mean and most milliseconds, None where there was no reply."""
        if not self.times:
            return None, None, None
        return min(self.times), round(sum(self.times) / len(self.times), 3), max(self.times)

    def document(self, target: Target) -> dict[str, Any]:
        """The pings as JSON."""
        least, mean, most = self.summary
        return {
            "address": str(target.address),
            "replies": len(self.times),
            "times_ms": list(self.times),
            "min_ms": least,
            "avg_ms": mean,
            "max_ms": most,
            "error": self._error_document(target),
        }

    def _error_document(self, target: Target) -> dict[str, Any] | None:
        match self.error:
            case StereosError() as error:
                document = error_document(GuestError(target.sentence(error), error))
                # A ping changes nothing, so none can be lost.
                return document and {**document, "sent": document["sent"] and None}
            case Interrupted() if self.times:
                # Ctrl-C is the end of `ping -c 0`.
                return None
            case error:
                return error_document(error)

    def __str__(self) -> str:
        if len(self.times) == 1:
            return f"pong after {self.times[0]:.3f} ms"
        return "{} replies  min/avg/max {:.3f}/{:.3f}/{:.3f} ms".format(len(self.times), *self.summary)

    def said(self) -> str:
        """The pings in a few words, and why there were no more."""
        return f"{self}; {self.reason}" if self.reason else str(self)

    def check(self) -> None:
        """Raise what ended them early."""
        if self.interruption is not None:
            raise self.interruption
        if self.error is not None:
            raise self.error


def ping(
    guest: Guests = DEFAULT_GUESTS,
    *,
    count: Annotated[int, option("--count", "-c", takes="N", converter=whole_number)] = 1,
    interval: Annotated[float, option("--interval", "-i", **DURATION)] = 1.0,
    out: Out = DEFAULT_OUT,
) -> int:
    """See whether guests answer, and how fast.

    Each ping has 10 seconds. --timeout is for all pings of a guest together.

    For example:

        stereosctl ping tcp://127.0.0.1:1024 -c 5 -i 0.2

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        count: How many times; 0 is until Ctrl-C.
        interval: The time between two pings.
        out: How the result is written.
    """
    if count < 0:
        raise UsageError("--count cannot be negative; 0 is until Ctrl-C")
    if not interval >= 0:
        raise UsageError("--interval cannot be negative")
    shows = not guest.many and out.for_people
    # A document of a single guest has what there is, if only the error; a row of many has the error in its own place.
    keeps_error = not guest.many and out.is_json

    async def converse(contact: Contact) -> _Pings:
        times: list[float] = []
        try:
            await contact.dial(within=ASK_SECONDS)
            while not count or len(times) < count:
                if times:
                    await contact.sleep(interval)
                    if not contact.deadline.left:
                        raise _time_is_up(len(times), count)
                times.append(await contact.ping(within=ASK_SECONDS))
                if shows:
                    print_result(f"pong from {contact.target.name}  #{len(times)}  {times[-1]:.3f} ms")
        except (StereosError, contact.interrupts) as exc:
            if not (times or keeps_error):
                raise
            # The pings that were answered are the result, of however many guests.
            return _Pings.ended(times, exc, contact)
        return _Pings(tuple(times))

    def show(_target: Target, pings: _Pings) -> None:
        if len(pings.times) > 1:
            print_result(str(pings))

    job = Job(
        converse,
        lambda target, pings: pings.document(target),
        show,
        _Pings.said,
        check=_Pings.check,
        seconds=FOREVER,
        endless=not count,
    )
    return perform(guest, job, out)


def _time_is_up(replies: int, count: int) -> RequestTimeout:
    of = f" of {count}" if count else ""
    return RequestTimeout(f"the time was up after {replies}{of} pings; each of these was answered")


def health(guest: Guests = DEFAULT_GUESTS, *, out: Out = DEFAULT_OUT) -> int:
    """Show what guests say of themselves.

    For example:

        stereosctl health unix:///run/vm/stereos.sock --json
        stereosctl health --all -o template='{name} {state}'

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        out: How the result is written.
    """

    def show(target: Target, report: Health) -> None:
        print_result(health_line(report, target.name))
        if report.agents:
            print_result("", *agents_table(report.agents))

    job = Job(
        ask_health,
        lambda target, report: {"address": str(target.address), **health_document(report)},
        show,
        agents_summary,
    )
    return perform(guest, job, out)


def agents(guest: Guests = DEFAULT_GUESTS, *, out: Out = DEFAULT_OUT) -> int:
    """List the agents of guests.

    Exit code 1 when one of them does not run.

    For example:

        stereosctl agents --vm dev

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        out: How the result is written.
    """

    def show(target: Target, report: Health) -> None:
        if not report.agents:
            say(f"{target.name} has no agents")
        print_result(*more(report))

    def more(report: Health) -> Iterable[Any]:
        return agents_table(report.agents) if report.agents else ()

    def check(report: Health) -> None:
        if not all(agent.running for agent in report.agents):
            raise SaidNo

    def document(_target: Target, report: Health) -> dict[str, Any]:
        return {"agents": [agent_document(agent) for agent in report.agents]}

    return perform(guest, Job(ask_health, document, show, agents_summary, check, more), out)


def shutdown(
    guest: Guests = DEFAULT_GUESTS,
    *,
    reason: str = "stereosctl shutdown",
    wait: bool = False,
    out: Out = DEFAULT_OUT,
) -> int:
    """Power guests off.

    A guest acknowledges and goes at once, so its answer can be lost on the way;
    that counts as done. It has to answer a ping first.

    For example:

        stereosctl shutdown --vm dev --wait

    Args:
        guest: Which guests, until when, and whether to trace the wire.
        reason: What the guest writes in its log.
        wait: Wait until the guest does not answer any more.
        out: How the result is written.
    """
    refuse_what_is_no_utf8({"--reason": reason})

    async def converse(contact: Contact) -> Ack | None:
        await contact.dial()
        # QEMU's user network accepts also where no guest listens, and closes then: as a guest does that powers off.
        await contact.ping()
        ack = await contact.shutdown(reason)
        if wait:
            await until_gone(contact)
        return ack

    def said(ack: Ack | None) -> str:
        if wait:
            return "the guest is gone"
        return "the guest powers off" if ack else "the guest went before it answered: most likely it powers off"

    def document(target: Target, ack: Ack | None) -> dict[str, Any]:
        return {"address": str(target.address), "acknowledged": ack is not None, "gone": wait}

    def show(_target: Target, ack: Ack | None) -> None:
        print_result(said(ack))

    seconds = WAIT_SECONDS if wait else ASK_SECONDS
    return perform(guest, Job(converse, document, show, said, seconds=seconds, waits=wait), out)
